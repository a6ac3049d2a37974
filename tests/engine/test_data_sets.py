# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A training on several data sets: metrics of each, the place it goes on from, what is refused."""

import pathlib

import pytest
import token_sets
import toy_training
from token_sets import RATES, load, write_manifest

from parti.engine.config import provenance
from parti.engine.input import datasets

# Trainings are compared with `mixed_run`, which is compiled so, bit for bit.
pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_each_set_has_its_metrics(mixed_run: pathlib.Path) -> None:
    (row,) = toy_training.log(mixed_run, "validation")
    assert {"loss", "few/loss", "many/loss"} <= row.keys()
    assert row["few/loss"] < row["many/loss"], "three quarters of the examples were of few"
    # Of few there is one batch, filled up; of many EVAL_STEPS, which is two.
    both = (row["few/loss"] + 2 * row["many/loss"]) / 3
    assert row["loss"] == pytest.approx(both, rel=1e-5)


def test_it_goes_on_with_the_same_examples(
    sets: pathlib.Path, mixed_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    assert toy_training.run(load(sets, run, RATES, "TRAIN_STEPS = 2", "EVAL_PERIOD = 0")) == 0
    assert toy_training.run(load(sets, run, RATES)) == 0
    toy_training.assert_same(mixed_run, run)


def test_what_it_was_trained_on(sets: pathlib.Path, mixed_run: pathlib.Path) -> None:
    found = provenance.trained_on(mixed_run)
    assert found.pop("vocabulary_fingerprint")
    assert found == {
        "tokens/few_fingerprint": "few" * 8,
        "tokens/many_fingerprint": "many" * 8,
        "tokenizer_fingerprint": token_sets.TOKENIZER,
    }
    files = provenance.data_files((mixed_run / "config.gin").read_text())
    assert set(files) == {"TOKENS_DIR/few", "TOKENS_DIR/many"}
    assert ("train-00000-of-00001.tfrecord" in dict(files["TOKENS_DIR/few"])) is True


def test_other_data_are_refused(
    sets: pathlib.Path, mixed_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    longer = "TRAIN_STEPS = 6"
    write_manifest(sets / "many", fingerprint="else")
    try:
        with pytest.raises(ValueError, match="tokens/many was manymanymany, now it is else; --ov"):
            toy_training.run(load(sets, mixed_run, RATES, longer))
        write_manifest(sets / "many", tokenizer_fingerprint="other")
        with pytest.raises(ValueError, match="of 2 tokenizers .*few' by t*, .*many' by other"):
            load(sets, tmp_path, RATES)
    finally:
        write_manifest(sets / "many")
    with pytest.raises(ValueError, match="TOKENS_DIR was ..'few', 3.0., .*set it back"):
        toy_training.run(load(sets, mixed_run, {"few": 3, "many": 2}, longer))
    with pytest.raises(ValueError, match="the tokens/few was fewfewfewfew, now it is unknown"):
        toy_training.run(load(sets, mixed_run, {"few": 1}, longer))


def test_a_metric_of_one_set_can_be_the_best(sets: pathlib.Path, tmp_path: pathlib.Path) -> None:
    experiment = load(sets, tmp_path, RATES, "BEST_METRIC = 'many/los'", "CHECKPOINT_PERIOD = 4")
    with pytest.raises(ValueError, match="'many/los' is no .*; there are .*few/loss.* many/loss"):
        toy_training.run(experiment)


def test_a_set_without_validation_is_named(sets: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "train-00000-of-00001.tfrecord").write_bytes(
        (sets / "few" / "train-00000-of-00001.tfrecord").read_bytes()
    )
    experiment = load(sets, tmp_path / "run", {"few": 1, str(other): 1})
    with pytest.raises(ValueError, match="no validation split in other of few, other; make"):
        toy_training.run(experiment)
    with pytest.raises(ValueError, match="no validation split; make one"):
        toy_training.run(load(sets, tmp_path / "run", {str(other): 1}))
    experiment = load(sets, tmp_path / "run", {"few": 1, str(other): 1}, "EVAL_PERIOD = 0")
    assert experiment.data_source.open(datasets.TRAIN, 8, 0, experiment.model)
