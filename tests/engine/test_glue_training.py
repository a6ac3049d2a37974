# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti train` of GLUE experiments: random encoders, and those of a generator."""

import json
import math
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
import tiny_glue
import tiny_models

from parti.engine import infer, train
from parti.engine.checkpoints import checkpoints
from parti.engine.experiment import experiments
from parti.engine.input import datasets

# The sizes of the text encoder of `tiny_models`' generator.
SIZES = f"""
from __gin__ import dynamic_registration
from parti.models.text_encoder import network
TEXT_VOCAB_SIZE = {tiny_models.TEXT_VOCAB_SIZE}
TEXT_LENGTH = {tiny_models.TEXT_LENGTH}
DTYPE = 'float32'
REMAT = 'none'
network.TextEncoderConfig:
  emb_dim = 16
  num_heads = 2
  head_dim = 8
  mlp_dim = 32
  num_encoder_layers = 1
"""
STEPS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("glue")
    for task in ("cola", "mrpc"):
        tiny_glue.write(folder / "tfds", task)
    tiny_models.write_vocabulary(folder / "vocabulary.model")
    (folder / "sizes.gin").write_text(SIZES)
    tiny_models.write_train_dir(folder / "generator", tiny_models.part("generator"))
    return folder


def flags(folder: pathlib.Path, task: str, model_dir: pathlib.Path, **changes: Any) -> list[str]:
    macros = {
        "MODEL_DIR": repr(str(model_dir)),
        "GLUE_DIR": repr(str(folder / "tfds")),
        "VOCABULARY": repr(str(folder / "vocabulary.model")),
        "TRAIN_STEPS": STEPS,
        "WARMUP_STEPS": 6,
        "CHECKPOINT_PERIOD": STEPS,
        "EVAL_PERIOD": STEPS // 2,
        "LEARNING_RATE_PEAK": 1e-2,
        "LOG_PERIOD": 10,
        "TENSORBOARD": False,
    } | changes
    return [
        f"--gin_file=t5x_configs/experiments/glue_{task}.gin",
        f"--gin_file={folder / 'sizes.gin'}",
        *(f"--gin.{name}={value}" for name, value in macros.items()),
    ]


def validations(model_dir: pathlib.Path) -> list[dict[str, float]]:
    lines = (model_dir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == datasets.VALIDATION]


def test_a_random_encoder_learns_word_order(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert train.main(flags(folder, "cola", tmp_path / "run")) == 0
    first, last = validations(tmp_path / "run")
    assert (first["step"], last["step"]) == (STEPS // 2, STEPS)
    assert last["matthews_correlation"] > 0.9
    # Of the whole split once, which is no whole number of batches.
    experiment = experiments.load_experiment(*given(flags(folder, "cola", tmp_path / "run")))
    params, _, _ = checkpoints.load_params(tmp_path / "run")
    source = experiment.data_source.open(datasets.VALIDATION, 21, 0, experiment.model)
    batch = next(source)
    labels, found = batch["labels"][:, 0], jax.jit(experiment.model.predict_batch)(params, batch)
    assert last["matthews_correlation"] == pytest.approx(np.corrcoef(labels, found)[0, 1])
    assert tiny_glue.COUNTS["validation"] == 21
    # The same by `parti infer`; its lines have no key: GLUE's are no records of ours.
    for mode, name in (("predict", "prediction"), ("score", "score")):
        use = {"CHECKPOINT_PATH": tmp_path / "run", "INFER_OUTPUT_DIR": tmp_path / mode}
        macros = {k: repr(str(v)) for k, v in use.items()} | {"INFER_MODE": repr(mode)}
        assert infer.main(flags(folder, "cola", tmp_path / "run", **macros)) == 0
        lines = (tmp_path / mode / infer.LINES).read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [list(row) for row in rows] == [["index", name]] * 21
        if mode == "predict":
            np.testing.assert_array_equal([row[name] for row in rows], found)


def given(argv: list[str]) -> tuple[list[str], list[str]]:
    files = [flag.removeprefix("--gin_file=") for flag in argv if flag.startswith("--gin_file=")]
    return files, [flag.removeprefix("--gin.") for flag in argv if flag.startswith("--gin.")]


def test_the_encoder_of_a_generator_is_fine_tuned(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    initial = {
        "TEXT_ENCODER": repr(str(folder / "generator")),
        "TRAIN_STEPS": 1,
        "WARMUP_STEPS": 0,
        "EVAL_PERIOD": 1,
        "LEARNING_RATE_PEAK": 1e-12,
        "WEIGHT_DECAY": 0.0,
    }
    assert train.main(flags(folder, "mrpc", tmp_path / "run", **initial)) == 0
    assert "initial: encoder <- encoder" in capsys.readouterr().err
    (found,) = validations(tmp_path / "run")
    assert {"f1", "accuracy", "loss"} <= found.keys() and math.isfinite(found["loss"])
    params, _, _ = checkpoints.load_params(tmp_path / "run")
    theirs = jax.device_get(tiny_models.part("generator").variables["params"]["encoder"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params["encoder"], theirs
    )


def test_mistakes_are_refused_before_the_first_step(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def refused(message: str, task: str = "cola", **changes: Any) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train.main(flags(folder, task, tmp_path / "run", **changes))
        assert not (tmp_path / "run").exists()

    nowhere = repr(str(tmp_path / "nowhere"))
    refused("tfds build glue/cola:2.0.0 --data_dir .*nowhere", GLUE_DIR=nowhere)
    refused("tfds build glue/rte:2.0.0", task="rte")
    generator = {"TEXT_ENCODER": repr(str(folder / "generator"))}
    refused("encoder/positions/embedding is .*9, 16.* here and .*8, 16", TEXT_LENGTH=9, **generator)
    branches = {"warm_start.if_given.branches": "{'encoder': 'decoder'}"}
    refused("INITIAL cannot start from", **generator, **branches)
