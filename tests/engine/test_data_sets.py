# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A training on several data sets: metrics of each, the place it goes on from, what is refused."""

import json
import pathlib
from collections.abc import Mapping

import numpy as np
import pytest
import tiny_models
import toy_training

from parti.data.storage import records, shard_names, tfrecords
from parti.engine.config import provenance
from parti.engine.experiment import experiments
from parti.engine.input import datasets

GIN = f"""
from __gin__ import dynamic_registration
from parti.models.text_to_image import network
from parti.engine.step import optimizers
include 't5x_configs/models/parti.gin'
include 't5x_configs/tasks/text_to_image.gin'
include 't5x_configs/optimizers/adamw.gin'
TEXT_VOCAB_SIZE = {tiny_models.TEXT_VOCAB_SIZE}
TEXT_LENGTH = {tiny_models.TEXT_LENGTH}
CODEBOOK_SIZE = {tiny_models.CODEBOOK_SIZE}
GRID_SIZE = {tiny_models.GRID_SIZE}
LOCAL_WINDOW = 3
DROPOUT_RATE = 0.0
DTYPE = 'float32'
REMAT = 'none'
network.TextToImageConfig:
  emb_dim = 16
  num_heads = 2
  head_dim = 8
  mlp_dim = 32
  num_encoder_layers = 1
  num_decoder_layers = 1
LEARNING_RATE = 0.01
TRAIN_STEPS = 4
BATCH_SIZE = 8
CHECKPOINT_PERIOD = 2
EVAL_PERIOD = 4
EVAL_STEPS = 2
LOG_PERIOD = 1
TENSORBOARD = False
"""
NUM_TOKENS = tiny_models.GRID_SIZE**2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A vocabulary, an experiment, and two sets of tokens: one picture each."""
    root = tmp_path_factory.mktemp("sets")
    tiny_models.write_vocabulary(root / "v.model")
    (root / "x.gin").write_text(GIN)
    for number, name in enumerate(("few", "many")):
        folder = root / name
        folder.mkdir()
        for split in records.SPLITS:
            rows = (
                records.TokenizedPair(f"{i}", "red", np.full(NUM_TOKENS, number)).to_example()
                for i in range(5 + 20 * number)
            )
            tfrecords.write(folder / shard_names.shard_name(split, 0, 1), rows)
        write_manifest(folder)
    return root


def write_manifest(folder: pathlib.Path, **changes: str) -> None:
    manifest = {"fingerprint": folder.name * 8, "tokenizer_fingerprint": "t" * 12} | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))


def load(
    root: pathlib.Path, run: pathlib.Path, rates: Mapping[str, float], *changes: str
) -> experiments.Experiment:
    folders = {str(root / name): rate for name, rate in rates.items()}
    given = [f"TOKENS_DIR = {folders!r}", f"VOCABULARY = '{root}/v.model'", f"MODEL_DIR = '{run}'"]
    return experiments.load_experiment([str(root / "x.gin")], [*given, *changes])


RATES = {"few": 3, "many": 1}


@pytest.fixture(scope="module")
def straight(root: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Four steps."""
    run = tmp_path_factory.mktemp("straight") / "run"
    assert toy_training.run(load(root, run, RATES)) == 0
    return run


def test_each_set_has_its_metrics(straight: pathlib.Path) -> None:
    (row,) = toy_training.log(straight, "validation")
    assert {"loss", "few/loss", "many/loss"} <= row.keys()
    assert row["few/loss"] < row["many/loss"], "three quarters of the examples were of few"
    # Of few there is one batch, filled up; of many EVAL_STEPS, which is two.
    both = (row["few/loss"] + 2 * row["many/loss"]) / 3
    assert row["loss"] == pytest.approx(both, rel=1e-5)


def test_it_goes_on_with_the_same_examples(
    root: pathlib.Path, straight: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    assert toy_training.run(load(root, run, RATES, "TRAIN_STEPS = 2", "EVAL_PERIOD = 0")) == 0
    assert toy_training.run(load(root, run, RATES)) == 0
    toy_training.assert_same(straight, run)


def test_what_it_was_trained_on(root: pathlib.Path, straight: pathlib.Path) -> None:
    found = provenance.trained_on(straight)
    assert found.pop("vocabulary_fingerprint")
    assert found == {
        "tokens/few_fingerprint": "few" * 8,
        "tokens/many_fingerprint": "many" * 8,
        "tokenizer_fingerprint": "t" * 12,
    }
    files = provenance.data_files((straight / "config.gin").read_text())
    assert set(files) == {"TOKENS_DIR/few", "TOKENS_DIR/many"}
    assert ("train-00000-of-00001.tfrecord" in dict(files["TOKENS_DIR/few"])) is True


def test_other_data_are_refused(
    root: pathlib.Path, straight: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    longer = "TRAIN_STEPS = 6"
    write_manifest(root / "many", fingerprint="else")
    try:
        with pytest.raises(ValueError, match="tokens/many was manymanymany, now it is else; --ov"):
            toy_training.run(load(root, straight, RATES, longer))
        write_manifest(root / "many", tokenizer_fingerprint="other")
        with pytest.raises(ValueError, match="of 2 tokenizers .*few' by t*, .*many' by other"):
            load(root, tmp_path, RATES)
    finally:
        write_manifest(root / "many")
    with pytest.raises(ValueError, match="TOKENS_DIR was ..'few', 3.0., .*set it back"):
        toy_training.run(load(root, straight, {"few": 3, "many": 2}, longer))
    with pytest.raises(ValueError, match="the tokens/few was fewfewfewfew, now it is unknown"):
        toy_training.run(load(root, straight, {"few": 1}, longer))


def test_a_metric_of_one_set_can_be_the_best(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    experiment = load(root, tmp_path, RATES, "BEST_METRIC = 'many/los'", "CHECKPOINT_PERIOD = 4")
    with pytest.raises(ValueError, match="'many/los' is no .*; there are .*few/loss.* many/loss"):
        toy_training.run(experiment)


def test_a_set_without_validation_is_named(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "train-00000-of-00001.tfrecord").write_bytes(
        (root / "few" / "train-00000-of-00001.tfrecord").read_bytes()
    )
    experiment = load(root, tmp_path / "run", {"few": 1, str(other): 1})
    with pytest.raises(ValueError, match="other of few, other: no validation split .*EVAL_PERIOD"):
        toy_training.run(experiment)
    experiment = load(root, tmp_path / "run", {"few": 1, str(other): 1}, "EVAL_PERIOD = 0")
    assert experiment.data_source.open(datasets.TRAIN, 8, 0, experiment.model)
