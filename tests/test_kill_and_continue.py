# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""kill -9 in the middle of a stage, then the same command: the same bytes as without the kill."""

import hashlib
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest
import tiny_models

from parti.engine.checkpoints import checkpoints
from parti.engine.inference import bundles

pytestmark = pytest.mark.slow

TIMEOUT = 600.0
# What depends on the clock or on the folder's name.
CLOCKED = (
    *("examples_per_second", "step_seconds", "data_wait_share"),
    *("model_tflops_per_second", "productive_seconds", "goodput"),
)


def parti(arguments: Sequence[str], progress: pathlib.Path) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["PARTI_PROGRESS_FILE"] = str(progress)
    return subprocess.Popen([sys.executable, "-m", "parti", *arguments], env=environment)


def run(arguments: Sequence[str], progress: pathlib.Path) -> None:
    assert parti(arguments, progress).wait(TIMEOUT) == 0


def kill_in_the_middle(
    arguments: Sequence[str], progress: pathlib.Path, after: int, seconds: float = 0.0
) -> None:
    """Starts a command; kills it `seconds` after it has reported `after` units of work."""
    process = parti(arguments, progress)
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        assert process.poll() is None, "the stage ended before it was killed"
        if progress.is_file():
            report = json.loads(progress.read_text(encoding="utf-8"))
            if report["state"] == "running" and report["done"] >= after:
                break
        time.sleep(0.01)
    time.sleep(seconds)
    assert process.poll() is None, "the stage ended before it was killed"
    process.kill()
    assert process.wait(TIMEOUT) == -9


def digests(folder: pathlib.Path) -> dict[str, str]:
    """Returns the sha256 of each file of a finished stage, except those that tell its time."""
    assert (folder / "manifest.json").is_file()
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.json", "report.html")
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Scenes, clean pairs and a bundle with random parameters."""
    root = tmp_path_factory.mktemp("made")
    paths = {name: root / name for name in ("raw", "pairs", "bundle", "vocabulary.model")}
    run(["scenes", f"--output={paths['raw']}", "--num=4000", "--size=32"], root / "progress")
    clean = ["clean", f"--input={paths['raw']}", f"--output={paths['pairs']}", "--image_size=32"]
    run(clean, root / "progress")
    vocabulary = tiny_models.write_vocabulary(paths["vocabulary.model"])
    bundles.write_bundle(paths["bundle"], tiny_models.parts(), vocabulary)
    return paths


STAGES = {
    "clean": (["clean", "--input={raw}", "--output={output}", "--image_size=32"], 500),
    "tokenize": (
        [
            *("tokenize", "--input={pairs}", "--model={bundle}", "--output={output}"),
            *("--batch_size=16", "--augment=8"),
        ],
        500,
    ),
    "generate": (
        [
            *("generate", "--prompts={raw}/prompts-validation.jsonl", "--model={bundle}"),
            *("--output={output}", "--num_prompts=60", "--num_samples=16", "--prompts_per_batch=2"),
        ],
        40,
    ),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_ends_with_the_same_bytes(
    stage: str, made: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    words, after = STAGES[stage]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run([word.format(output=whole, **made) for word in words], tmp_path / "whole.progress")
    command = [word.format(output=killed, **made) for word in words]
    kill_in_the_middle(command, tmp_path / "killed.progress", after)
    assert not killed.exists()
    run(command, tmp_path / "again.progress")
    assert digests(killed) == digests(whole)


TOKENIZER, TEXT_ENCODER = "tokenizer_tiny", "text_encoder_tiny"


def training(
    folder: pathlib.Path, made: dict[str, pathlib.Path], name: str = TOKENIZER, **macros: float
) -> list[str]:
    """Returns the command of a small training, by default of the image tokenizer."""
    macros = {"WARMUP_STEPS": 10, "LOG_PERIOD": 5, "EVAL_STEPS": 1, **macros}
    inputs = {"MODEL_DIR": folder, "PAIRS_DIR": made["pairs"]}
    if name != TOKENIZER:
        inputs["VOCABULARY"] = made["vocabulary.model"]
        macros = {"BATCH_SIZE": 16, **macros}
    return [
        *("train", f"--gin_file=t5x_configs/experiments/{name}.gin"),
        *(f"--gin.{macro}='{path}'" for macro, path in inputs.items()),
        *(f"--gin.{macro}={value}" for macro, value in macros.items()),
    ]


def assert_same_training(whole: pathlib.Path, killed: pathlib.Path) -> None:
    """Compares the parameters, and all that was logged except times."""

    def lines(folder: pathlib.Path) -> list[dict]:
        rows = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        return [{k: v for k, v in row.items() if k not in CLOCKED} for row in rows]

    fingerprints = [
        json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["fingerprint"]
        for folder in (whole, killed)
    ]
    assert fingerprints[0] == fingerprints[1]
    assert lines(whole) == lines(killed)


@pytest.mark.ci
@pytest.mark.parametrize("name", [TOKENIZER, TEXT_ENCODER])
def test_a_killed_training_ends_with_the_same_parameters(
    name: str, made: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    numbers = {"TRAIN_STEPS": 120, "CHECKPOINT_PERIOD": 25, "EVAL_PERIOD": 60}
    run(training(whole, made, name, **numbers), tmp_path / "whole.progress")
    command = training(killed, made, name, **numbers)
    kill_in_the_middle(command, tmp_path / "killed.progress", 65)
    run(command, tmp_path / "again.progress")
    assert_same_training(whole, killed)


def test_a_killed_training_of_a_reranker_ends_with_the_same_parameters(
    made: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """With dropout, in parts, and with captions at each evaluation."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    macros = {
        "TRAIN_STEPS": 40,
        "CHECKPOINT_PERIOD": 10,
        "EVAL_PERIOD": 20,
        "BATCH_SIZE": 32,
        "DROPOUT_RATE": 0.1,
        "CONTRASTIVE_MICROBATCHES": 2,
        "NUM_MULTIMODAL_LAYERS": 1,
    }
    run(training(whole, made, "coca_tiny", **macros), tmp_path / "whole.progress")
    command = training(killed, made, "coca_tiny", **macros)
    kill_in_the_middle(command, tmp_path / "killed.progress", 25)
    run(command, tmp_path / "again.progress")
    assert_same_training(whole, killed)
    shown = [(folder / "pictures/captions-00000040.txt").read_text() for folder in (whole, killed)]
    assert shown[0] == shown[1] and shown[0].count("model: ") == 8


@pytest.mark.timeout(2400)
def test_a_training_killed_twenty_times_ends_with_the_same_parameters(
    made: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """At random moments: while it starts, restores, compiles, steps, evaluates or saves."""
    rng = random.Random(0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    numbers = {"TRAIN_STEPS": 800, "CHECKPOINT_PERIOD": 4, "EVAL_PERIOD": 40}
    run(training(whole, made, **numbers), tmp_path / "whole.progress")
    command = training(killed, made, **numbers)
    seconds_to_step, began_at = math.inf, []
    for life in range(20):
        progress = tmp_path / f"life-{life}.progress"
        began_at.append(max(checkpoints.steps(killed), default=0))
        if life % 4 == 3:
            process = parti(command, progress)
            time.sleep(rng.uniform(0.0, seconds_to_step))
            process.kill()
            assert process.wait(TIMEOUT) == -9
            continue
        begin = time.monotonic()
        steps = rng.randint(1, 30)
        kill_in_the_middle(command, progress, began_at[-1] + steps, rng.uniform(0.0, 0.5))
        seconds_to_step = min(seconds_to_step, time.monotonic() - begin)
    assert len(set(began_at)) >= 10, f"too few lives saved a checkpoint: {began_at}"
    assert any(a == b for a, b in zip(began_at, began_at[1:])), "none died before it saved"
    run(command, tmp_path / "last.progress")
    assert_same_training(whole, killed)
