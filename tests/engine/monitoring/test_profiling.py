# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Traces of the steps that are asked for, and a training that goes on as if there were none."""

import os
import pathlib
import signal
from typing import Any

import fake_training
import jax
import pytest
from toy_training import log, make, run

from parti.engine.distributed import preemption
from parti.engine.monitoring import profiling


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What becomes of jax's profiler, which writes no trace here."""
    calls: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


def test_the_steps_of_the_setting_are_traced(tmp_path: pathlib.Path, capsys: Any) -> None:
    settings = {"train_steps": 6, "eval_period": 0, "checkpoint_period": 6}
    assert run(make(tmp_path / "run", profile_steps=(3, 4), **settings)) == 0
    traces = list((tmp_path / "run").glob("profile/plugins/profile/*/*.xplane.pb"))
    assert len(traces) == 1 and traces[0].stat().st_size > 0
    assert "[train] profile of steps 3 to 4 in " in capsys.readouterr().err
    assert run(make(tmp_path / "plain", **settings)) == 0
    losses = [[r["loss"] for r in log(tmp_path / name)] for name in ("run", "plain")]
    assert losses[0] == losses[1]
    assert run(make(tmp_path / "run", **settings), overwrite=True) == 0
    assert not (tmp_path / "run" / "profile").exists()


def test_a_signal_traces_the_next_steps(
    tmp_path: pathlib.Path, capsys: Any, traced: list[str]
) -> None:
    source = fake_training.signalling_source(signal.SIGUSR1, at=3)
    settings = {"train_steps": 16, "eval_period": 0, "data_source": source}
    assert run(make(tmp_path / "run", **settings)) == 0
    assert traced == ["start", "stop"]
    assert "[train] profile of steps " in capsys.readouterr().err
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_which_steps(traced: list[str], tmp_path: pathlib.Path) -> None:
    profiler = profiling.Profiler(tmp_path, (2, 3))
    seen = []
    with profiler.listening():
        for step in range(1, 20):
            if step == 9:
                signal.raise_signal(signal.SIGUSR1)
            profiler.before(step, 0)
            seen.append(traced.count("start") - traced.count("stop"))
            profiler.after(step, 0)
    assert [step for step, running in enumerate(seen, start=1) if running] == [2, 3, *range(9, 14)]


def test_a_run_that_ends_early_closes_its_trace(traced: list[str], tmp_path: pathlib.Path) -> None:
    profiler = profiling.Profiler(tmp_path, (2, 30))
    with pytest.raises(RuntimeError), profiler.listening():
        profiler.before(2, 0)
        raise RuntimeError
    assert traced == ["start", "stop"]


@pytest.mark.parametrize("steps", [(0, 3), (4, 3), (3,), (1.0, 2), 5])
def test_other_values_are_refused(tmp_path: pathlib.Path, steps: Any) -> None:
    with pytest.raises(ValueError, match="PROFILE_STEPS must be None or"):
        make(tmp_path, profile_steps=steps)


def test_the_signal_does_nothing_before_the_loop_listens(traced: list[str], tmp_path) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with preemption.handled(signal.SIGUSR1, signal.SIG_IGN):
        os.kill(os.getpid(), signal.SIGUSR1)
        with profiling.Profiler(tmp_path).listening():
            assert signal.getsignal(signal.SIGUSR1) != signal.SIG_IGN
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGUSR1) == before and not traced
