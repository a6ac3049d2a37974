# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Finetuning, evaluation and inference from a checkpoint, with their run files."""

import json
import pathlib

import jax
import numpy as np
import pytest
import token_sets
import toy_training

from parti.data.storage import records, tfrecords
from parti.engine import eval as evaluation
from parti.engine import infer as inference
from parti.engine.checkpoints import checkpoints
from parti.engine.experiment import checkpoint_use, experiments
from parti.engine.input import datasets
from parti.models import base
from parti.models.text_to_image import model
from parti.pipelines import detokenize
from parti.stages import manifests

pytestmark = pytest.mark.usefixtures("compiled_quickly")

FINETUNE = "t5x_configs/runs/embedded/finetune.gin"


def use(
    sets: pathlib.Path, run_file: str, checkpoint: pathlib.Path, output: pathlib.Path, *more: str
) -> experiments.Experiment:
    macro = "EVAL_OUTPUT_DIR" if "eval" in run_file else "INFER_OUTPUT_DIR"
    given = [f"CHECKPOINT_PATH = '{checkpoint}'", f"{macro} = '{output}'"]
    given = [*token_sets.bindings(sets), *given, *more]
    return experiments.load_experiment([str(sets / "x.gin")], given, run_file)


def evaluate(*arguments: object, **options: bool) -> dict[str, float]:
    experiment = use(arguments[0], checkpoint_use.EVAL_RUN_FILE, *arguments[1:])
    return evaluation.evaluate(experiment, devices=toy_training.ONE_DEVICE, **options)


def infer(*arguments: object, **options: bool) -> None:
    experiment = use(arguments[0], checkpoint_use.INFER_RUN_FILE, *arguments[1:])
    inference.infer(experiment, devices=toy_training.ONE_DEVICE, **options)


def test_eval_measures_what_the_training_did(
    sets: pathlib.Path, mixed_run: pathlib.Path, tmp_path: pathlib.Path, capsys
) -> None:
    found = evaluate(sets, mixed_run, tmp_path, "NUM_EXAMPLES = 16")
    (row,) = toy_training.log(mixed_run, "validation")
    assert found == pytest.approx({name: row[name] for name in found}, rel=1e-5)
    assert {"loss", "few/loss", "many/accuracy"} <= found.keys()
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["metrics"] == found and record["split"] == "validation"
    assert record["checkpoint"] == str(mixed_run)
    trained = json.loads((mixed_run / "manifest.json").read_text())
    assert record["checkpoint_fingerprint"] == trained["fingerprint"]
    assert record["data"]["tokens/many_fingerprint"] == "many" * 8
    assert ["many/loss", f"{found['many/loss']:.6g}"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    with pytest.raises(ValueError, match="metrics.json is there already; --overwrite"):
        evaluate(sets, mixed_run, tmp_path)
    # A checkpoint instead of a training, and the whole split.
    found = evaluate(sets, mixed_run / "checkpoint_4", tmp_path, overwrite=True)
    assert found["few/loss"] == pytest.approx(row["few/loss"], rel=1e-5)
    # Of few one batch, of many four.
    assert found["loss"] == pytest.approx((found["few/loss"] + 4 * found["many/loss"]) / 5)


def lines(folder: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "inferences.jsonl").read_text().splitlines()]


def test_scores_of_each_example_once(
    sets: pathlib.Path, mixed_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    infer(sets, mixed_run, tmp_path / "scores")
    found = lines(tmp_path / "scores")
    assert [(row["set"], row["index"], row["key"], row["text"]) for row in found] == [
        (name, i, f"{i}", "red") for name, count in token_sets.COUNTS.items() for i in range(count)
    ]
    experiment = token_sets.load(sets, tmp_path, {"many": 1})
    batch = next(experiment.data_source.open(datasets.VALIDATION, 25, 0, experiment.model))
    params, _, _ = checkpoints.load_params(mixed_run)
    want = jax.jit(experiment.model.score_batch)(params, batch)
    np.testing.assert_allclose([row["score"] for row in found[5:]], want, rtol=1e-5)
    assert manifests.read(tmp_path / "scores", "scores")["counts"] == {"validation": 30}
    with pytest.raises(ValueError, match="already finished; pass --overwrite"):
        infer(sets, mixed_run, tmp_path / "scores")
    infer(sets, mixed_run, tmp_path / "scores", "NUM_EXAMPLES = 3", overwrite=True)
    assert [row["index"] for row in lines(tmp_path / "scores")] == [0, 1, 2, 0, 1, 2]


def test_predicted_tokens_are_token_shards(
    sets: pathlib.Path, mixed_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "tokens"
    infer(sets, mixed_run, folder, "INFER_MODE = 'predict'", "NUM_EXAMPLES = 9")
    found = lines(folder)
    manifest = manifests.read(folder, "tokens")
    assert manifest["tokenizer_fingerprint"] == token_sets.TOKENIZER
    shards = detokenize._find_shards(str(folder), "tokens", "validation", None)
    rows = [records.TokenizedPair.from_example(r) for s in shards for r in tfrecords.read(s.path)]
    assert [(row.key, row.text, row.image_tokens.tolist()) for row in rows] == [
        (line["key"], line["text"], line["prediction"]) for line in found
    ]
    assert len(rows) == 5 + 9
    draws = {tuple(row.image_tokens) for row in rows}
    assert len(draws) == len(rows), "each row of each batch has its own random numbers"
    infer(sets, mixed_run, tmp_path / "again", "INFER_MODE = 'predict'", "NUM_EXAMPLES = 9")
    assert lines(tmp_path / "again") == found


def test_finetuning_starts_from_all_of_it_with_a_schedule_of_its_own(
    sets: pathlib.Path, mixed_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def experiment(*more: str) -> experiments.Experiment:
        given = [f"INITIAL_CHECKPOINT_PATH = '{mixed_run}'", f"MODEL_DIR = '{tmp_path / 'run'}'"]
        short = ["TRAIN_STEPS = 3", "EVAL_PERIOD = 0", "LEARNING_RATE_PEAK = 0.0"]
        given += [*token_sets.bindings(sets, {"many": 1}), *short, "WARMUP_STEPS = 2", *more]
        return experiments.load_experiment([str(sets / "x.gin"), FINETUNE], given)

    assert toy_training.run(experiment()) == 0
    before, after = (checkpoints.load_params(f)[0] for f in (mixed_run, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    tuned = experiment("LEARNING_RATE_PEAK = 1e-3")
    rates = [float(tuned.learning_rate(step)) for step in range(4)]
    np.testing.assert_allclose(rates, [0, 5e-4, 1e-3, 1e-3], rtol=1e-6)
    whole = experiments.load_experiment(
        [str(sets / "x.gin"), FINETUNE],
        [
            *token_sets.bindings(sets, {"many": 1}),
            f"INITIAL_CHECKPOINT_PATH = '{mixed_run}'",
            "MODEL_DIR = 'none'",
        ],
    )
    assert whole.train_steps == 10_000
    np.testing.assert_allclose(float(whole.learning_rate(10_000)), 1e-5, rtol=1e-6)


def test_a_checkpoint_of_another_model_is_refused(
    sets: pathlib.Path, mixed_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match="CHECKPOINT_PATH .*/run is of another model: .* 48. here"):
        evaluate(sets, mixed_run, tmp_path, "network.TextToImageConfig.mlp_dim = 48")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("CHECKPOINT_PATH = %gin.REQUIRED", "CHECKPOINT_PATH is not set"),
        ("CHECKPOINT_PATH = 3", "CHECKPOINT_PATH must be a path in quotes, got 3"),
        ("INFER_MODE = 'sample'", "INFER_MODE must be 'score' or 'predict', got 'sample'"),
        ("NUM_EXAMPLES = 0", "NUM_EXAMPLES must be a whole number of at least 1, got 0"),
        ("SPLIT = 'train'", "SPLIT is 'train', whose captions are drawn and dropped"),
        ("SPLIT = 'test'", "no test split in few, many of few, many"),
        ("CHECKPOINT_PATH = 'nowhere'", "nowhere"),
    ],
)
def test_mistakes(
    more: str, message: str, sets: pathlib.Path, mixed_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        infer(sets, mixed_run, tmp_path / "x", more)
    assert not (tmp_path / "x").exists()


def test_a_mode_that_a_model_has_not_is_refused(
    sets: pathlib.Path,
    mixed_run: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model.TextToImageModel, "score_batch", base.Model.score_batch)
    with pytest.raises(ValueError, match="INFER_MODE is 'score': TextToImageModel has no scores"):
        infer(sets, mixed_run, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_data_of_another_tokenizer_are_refused(
    sets: pathlib.Path, mixed_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for name in token_sets.RATES:
        token_sets.write_manifest(sets / name, tokenizer_fingerprint="other")
    try:
        with pytest.raises(ValueError, match="the tokenizer t*, and the data .* other"):
            evaluate(sets, mixed_run, tmp_path)
    finally:
        for name in token_sets.RATES:
            token_sets.write_manifest(sets / name)


def test_command_lines(sets: pathlib.Path, mixed_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    given = [f"--gin.{line.replace(' = ', '=', 1)}" for line in token_sets.bindings(sets)]
    given += [f"--gin_file={sets / 'x.gin'}", f"--gin.CHECKPOINT_PATH='{mixed_run}'"]
    output = f"--gin.EVAL_OUTPUT_DIR='{tmp_path}'"
    assert evaluation.main([*given, output, "--gin.NUM_EXAMPLES=8"]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["num_examples"] == 8
    for main in (evaluation.main, inference.main):
        assert main(["--help"]) == 0 and main([]) == 2
        with pytest.raises(ValueError, match="unknown argument '--dry_run'"):
            main([*given, "--dry_run"])
