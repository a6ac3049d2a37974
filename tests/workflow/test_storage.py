# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The whole demonstration with its data in an emulated bucket, killed again and again."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import threading

import emulated_bucket
import psutil
import pytest

from parti.stages import files
from parti.workflow import config_files

ROOT = pathlib.Path(__file__).resolve().parents[2]
PUBLISHED = (
    *("raw", "pairs", "vocabulary", "tokens"),
    *("bundle", "prompts", "generations", "evaluation"),
)
OUTPUTS = (*PUBLISHED, *config_files.PARTS)
# What tells how long it took, and what is compared by itself.
UNLIKE = ("manifest.json", "run.json", "report.html")
CLOCKED = (
    *("data_wait_share", "examples_per_second", "goodput", "model_tflops_per_second"),
    *("productive_seconds", "step_seconds"),
)
SECONDS = 1200.0  # for a stage, on a busy machine


def command(workdir: pathlib.Path, *changes: str) -> list[str]:
    """Returns the demonstration with a handful of steps."""
    numbers = {"TRAIN_STEPS": 20, "CHECKPOINT_PERIOD": 5, "BATCH_SIZE": 8, "EVAL_STEPS": 1}
    numbers["optimizers.warmup_cosine.warmup_steps"] = 2
    settings = [
        *("scenes.num=300", "choose_prompts.num=4", "generate.num_samples=2", *changes),
        *(f"train_{p}.gin.{k}={v}" for p in config_files.PARTS for k, v in numbers.items()),
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    return [sys.executable, "-m", "parti", "demo", "--workdir", str(workdir), *words]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


def run(*arguments: str) -> str:
    """Runs the demonstration to its end; returns what it prints."""
    ended = subprocess.run(
        arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=3600
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


class Killer:
    """Kills a run and all that it started, each time that another stage is writing its output.

    Of a stage that publishes, that is while the files are copied into their place, of a training
    while the checkpoint of step 10 is saved.
    """

    def __init__(self, bucket: emulated_bucket.Bucket) -> None:
        self.killed: list[str] = []
        self._bucket, self._lock = bucket, threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, words: list[str]) -> int:
        """Runs a command until it is killed, or ends; returns its exit code."""
        self._bucket.watch = self._watch
        try:
            with self._lock:
                self._process = subprocess.Popen(words, cwd=ROOT, env=environment())
            return self._process.wait(SECONDS)
        finally:
            self._bucket.watch = lambda method, path: None

    def _watch(self, method: str, path: str) -> None:
        with self._lock:
            output = self._written(method, path)
            if output and output not in self.killed and self._process.poll() is None:
                self.killed.append(output)
                family = psutil.Process(self._process.pid)
                for process in [family, *family.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()

    def _written(self, method: str, path: str) -> str:
        """Returns the output to which a request belongs, if it is one to be killed at; else ''."""
        copied = re.search(r"demo%2F(\w+)\.unfinished%2F(?!\.)[^/]+/copyTo/", path)
        saved = re.search(r"demo%2F(\w+)%2Fcheckpoint_10", path)
        if copied and method == "POST":
            return copied[1]
        return saved[1] if saved and method in ("POST", "PUT") else ""


def content(root: str, output: str) -> dict[str, bytes]:
    """Returns the bytes of the files of an output, with `@` for the address of all of them."""
    start = len(f"{root}/{output}/")
    found = {entry.path[start:]: entry.path for entry in files.walk(f"{root}/{output}")}
    read = {name: files.read_bytes(path) for name, path in found.items() if name not in UNLIKE}
    return {name: content.replace(root.encode(), b"@") for name, content in read.items()}


def manifest(folder: str) -> dict:
    """Returns a manifest without the addresses of what was read, and how long it took."""
    found = json.loads(files.read_bytes(f"{folder}/manifest.json")) | {"inputs": None}
    metrics = found.get("metrics", {}).items()
    return found | {"metrics": {k: v for k, v in metrics if k.split("/")[-1] not in CLOCKED}}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_demonstration_in_a_bucket_is_the_same_as_on_disk_also_after_kills(
    bucket: emulated_bucket.Bucket, tmp_path: pathlib.Path
) -> None:
    storage, local = f"{bucket.address}/demo", tmp_path / "local"
    run(*command(local))
    words = command(tmp_path / "work", f"storage={storage}")
    killer = Killer(bucket)
    while killer.run(words) != 0:
        assert len(killer.killed) == len(set(killer.killed))
    assert set(killer.killed) == set(OUTPUTS)
    assert not any((tmp_path / "work" / output).exists() for output in OUTPUTS)
    for output in OUTPUTS:
        assert manifest(f"{storage}/{output}") == manifest(f"{local}/{output}"), output
        if output in PUBLISHED:
            assert content(storage, output) == content(str(local), output), output
    assert not [entry for entry in files.walk(storage) if ".unfinished/" in entry.path]

    before = {entry.path: files.status(entry.path) for entry in files.walk(storage)}
    said = run(*words)
    assert "nothing to do" in said and f"{storage}/generations/gallery.html" in said
    assert before == {entry.path: files.status(entry.path) for entry in files.walk(storage)}

    # One output is lost, another is somebody else's; both are made again, and nothing else.
    files.remove(f"{storage}/prompts/prompts.jsonl")
    other = files.read_bytes(f"{storage}/evaluation/manifest.json").replace(b"0", b"1")
    files.write_bytes(f"{storage}/evaluation/manifest.json", other)
    said = run(*words)
    assert "choose_prompts: done" in said and "evaluate: done" in said
    assert "generate: unchanged" in said and "3 stages to run" in said
    for output in ("prompts", "evaluation"):
        assert manifest(f"{storage}/{output}") == manifest(f"{local}/{output}")
