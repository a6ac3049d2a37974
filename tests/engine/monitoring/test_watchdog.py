# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A stall is reported once, with its place; a first time may take long."""

import pathlib
import subprocess
import sys
import time
from typing import Any

import fake_training
import pytest
from toy_training import make, run

from parti.engine import train
from parti.engine.input import datasets
from parti.engine.loop import run_directory
from parti.engine.monitoring import watchdog


def hang(seconds: float) -> None:
    time.sleep(seconds)


def test_each_stall_is_reported_once_with_its_place(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(watchdog, "FIRST_TIME_SECONDS", 0.0)
    monitor = watchdog.Watchdog(0.2)
    for step in (7, 8):
        with monitor.stage(watchdog.READING):
            hang(0.7)
        monitor.finished(step)
    monitor.close()
    text = capsys.readouterr().err
    assert text.count("no progress for 0 s after step 0, while reading data") == 1
    assert text.count("no progress for 0 s after step 7, while reading data") == 1
    assert text.count("watchdog: process 0 of 1: no progress") == 2
    assert "Thread MainThread:" in text and "in hang" in text
    assert text.count("goes on at step") == 2


def test_progress_is_no_stall_and_a_first_time_may_take_long(capsys: Any) -> None:
    monitor = watchdog.Watchdog(0.2)
    with monitor.stage(watchdog.EVALUATING):
        hang(0.5)  # It compiles.
    for step in range(10):
        hang(0.05)
        monitor.finished(step)
    assert capsys.readouterr().err == ""
    with monitor.stage(watchdog.EVALUATING):
        hang(0.5)
    monitor.close()
    assert capsys.readouterr().err.count("while evaluating") == 1


def test_nothing_is_watched_with_0(capsys: Any) -> None:
    monitor = watchdog.Watchdog(0)
    monitor.finished(1)
    with monitor.stage(watchdog.SAVING):
        hang(0.3)
    monitor.close()
    assert capsys.readouterr().err == ""


def test_abort_ends_the_process() -> None:
    code = (
        "import time\n"
        "from parti.engine.monitoring import watchdog\n"
        "monitor = watchdog.Watchdog(0.2, abort=True)\n"
        "monitor.finished(3)\n"
        "time.sleep(60)\n"
    )
    root = pathlib.Path(__file__).parents[3]
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=50
    )
    assert ended.returncode == 75
    assert "after step 3, while running steps (WATCHDOG_SECONDS is 0.2)" in ended.stderr
    assert "WATCHDOG_ABORT: ending with code 75; run again" in ended.stderr


def test_a_training_that_waits_for_its_data_says_so(
    tmp_path: pathlib.Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(watchdog, "FIRST_TIME_SECONDS", 60.0)

    class Slow(datasets.ArrayDataset):
        def __next__(self) -> datasets.Batch:
            if self._taken == 6:
                hang(2.0)
            return super().__next__()

    class Source:
        def open(self, split: str, batch_size: int, seed: int, model: Any) -> datasets.Batches:
            return Slow(fake_training.source().train, batch_size, seed)

    settings = {"data_source": Source(), "train_steps": 8, "eval_period": 0}
    assert run(make(tmp_path / "run", watchdog_seconds=0.7, **settings)) == 0
    text = capsys.readouterr().err
    assert "after step 6, while reading data (WATCHDOG_SECONDS is 0.7)" in text
    assert "Thread prefetch:" in text and "in hang" in text


class _SlowValidation(datasets.ArrayDataset):
    def __next__(self) -> datasets.Batch:
        hang(0.4)
        return super().__next__()


class SlowSource:
    """Opens the training data, and reads each validation batch, after a while."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def open(self, split: str, batch_size: int, seed: int, model: Any) -> datasets.Batches:
        plain = fake_training.source()
        if split == datasets.TRAIN:
            hang(self._seconds)
            return plain.open(split, batch_size, seed, model)
        return _SlowValidation(plain.validation, batch_size, seed, shuffle=False)


def test_a_long_evaluation_that_goes_on_is_no_stall(
    tmp_path: pathlib.Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(watchdog, "FIRST_TIME_SECONDS", 60.0)
    settings = {"data_source": SlowSource(), "train_steps": 4, "eval_period": 2, "eval_steps": 5}
    assert run(make(tmp_path / "run", watchdog_seconds=1.5, **settings)) == 0
    assert "no progress" not in capsys.readouterr().err


@pytest.mark.parametrize("stage", [watchdog.OPENING, watchdog.RESTORING, watchdog.FINISHING])
def test_what_lies_before_and_after_the_steps_is_watched(
    stage: str, tmp_path: pathlib.Path, capsys: Any, monkeypatch: Any
) -> None:
    def slow(function: Any) -> Any:
        def slowed(*args: Any) -> Any:
            hang(1.5)
            return function(*args)

        return slowed

    if stage == watchdog.RESTORING:
        monkeypatch.setattr(train, "restore_or_init", slow(train.restore_or_init))
    if stage == watchdog.FINISHING:
        monkeypatch.setattr(run_directory, "finish", slow(run_directory.finish))
    monkeypatch.setattr(watchdog, "FIRST_TIME_SECONDS", 0.0)
    source = SlowSource(1.5 if stage == watchdog.OPENING else 0.0)
    settings = {"data_source": source, "train_steps": 1, "eval_period": 0}
    assert run(make(tmp_path / "run", watchdog_seconds=0.7, **settings)) == 0
    assert f"while {stage} (WATCHDOG_SECONDS is 0.7)" in capsys.readouterr().err


def test_a_negative_time_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="WATCHDOG_SECONDS must be 0 or more, got -1"):
        make(tmp_path, watchdog_seconds=-1)
