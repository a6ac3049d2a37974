# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""kill -9 in the middle of a stage, then the same command: the same bytes as without the kill."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest
import tiny_models

from parti.engine import bundles

pytestmark = pytest.mark.slow

TIMEOUT = 600.0
# What a clock or a folder's name has a part in.
CLOCKED = ("examples_per_second", "step_seconds", "data_wait_share")


def parti(arguments: Sequence[str], progress: pathlib.Path) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["PARTI_PROGRESS_FILE"] = str(progress)
    return subprocess.Popen([sys.executable, "-m", "parti", *arguments], env=environment)


def run(arguments: Sequence[str], progress: pathlib.Path) -> None:
    assert parti(arguments, progress).wait(TIMEOUT) == 0


def kill_in_the_middle(arguments: Sequence[str], progress: pathlib.Path, after: int) -> None:
    """Starts a command and kills it once it has reported `after` units of work."""
    process = parti(arguments, progress)
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        assert process.poll() is None, "the stage ended before it was killed"
        if progress.is_file():
            report = json.loads(progress.read_text(encoding="utf-8"))
            if report["state"] == "running" and report["done"] >= after:
                break
        time.sleep(0.01)
    process.kill()
    assert process.wait(TIMEOUT) == -9


def digests(folder: pathlib.Path) -> dict[str, str]:
    """Returns the sha256 of each file of a finished stage, but of those that tell its time."""
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
        ["tokenize", "--input={pairs}", "--model={bundle}", "--output={output}", "--batch_size=16"],
        500,
    ),
    "generate": (
        [
            *("generate", "--prompts={raw}/prompts-validation.jsonl", "--model={bundle}"),
            *("--output={output}", "--num_prompts=60", "--num_samples=4", "--prompts_per_batch=2"),
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


def test_a_killed_training_ends_with_the_same_parameters(
    made: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    def command(folder: pathlib.Path) -> list[str]:
        numbers = {"TRAIN_STEPS": 120, "WARMUP_STEPS": 10, "CHECKPOINT_PERIOD": 25}
        numbers |= {"LOG_PERIOD": 5, "EVAL_PERIOD": 60, "EVAL_STEPS": 1}
        return [
            *("train", "--gin_file=t5x_configs/experiments/tokenizer_tiny.gin"),
            *(f"--gin.MODEL_DIR='{folder}'", f"--gin.PAIRS_DIR='{made['pairs']}'"),
            *(f"--gin.{name}={value}" for name, value in numbers.items()),
        ]

    def losses(folder: pathlib.Path) -> list[dict]:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [{k: v for k, v in json.loads(line).items() if k not in CLOCKED} for line in lines]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(command(whole), tmp_path / "whole.progress")
    kill_in_the_middle(command(killed), tmp_path / "killed.progress", 65)
    run(command(killed), tmp_path / "again.progress")
    fingerprints = [
        json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["fingerprint"]
        for folder in (whole, killed)
    ]
    assert fingerprints[0] == fingerprints[1]
    assert losses(whole) == losses(killed)
