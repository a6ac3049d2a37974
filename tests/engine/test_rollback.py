# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""NAN_POLICY 'rollback': as if the bad batches had never been in the data, whatever interrupts."""

import dataclasses
import json
import pathlib
import signal
from collections.abc import Collection
from typing import Any

import fake_training
import numpy as np
import pytest
from toy_training import assert_same, log, make, run

from parti.engine.checkpoints import checkpoints
from parti.engine.input import datasets
from parti.engine.loop import nan_recovery
from parti.engine.monitoring import telemetry

ROWS = 240  # 30 batches of 8 in an epoch, so no batch comes twice.


class Crash(Exception):
    """Stands for whatever ends a process."""


class _Batches(datasets.ArrayDataset):
    """Leaves batches out; at a certain one sends this process SIGTERM, or crashes."""

    left_out: Collection[int] = ()
    crash_at: int | None = None
    signal_at: int | None = None

    def __next__(self) -> datasets.Batch:
        while self._taken in self.left_out:
            super().__next__()
        if self._taken == self.crash_at:
            raise Crash
        if self._taken == self.signal_at:
            signal.raise_signal(signal.SIGTERM)
        return super().__next__()


@dataclasses.dataclass
class Source:
    """Rows of which those of `bad` batches have one that is not a number."""

    bad: Collection[int] = ()
    left_out: Collection[int] = ()
    crash_at: int | None = None
    signal_at: int | None = None

    def open(self, split: str, batch_size: int, seed: int, model: Any) -> datasets.Batches:
        plain = fake_training.source(num_train=ROWS)
        if split != datasets.TRAIN:
            return plain.open(split, batch_size, seed, model)
        order = np.random.default_rng((0, 0)).permutation(ROWS)
        for batch in self.bad:
            plain.train["y"][order[batch * 8]] = np.nan
        batches = _Batches(plain.train, batch_size, seed)
        batches.left_out, batches.crash_at = self.left_out, self.crash_at
        batches.signal_at = self.signal_at
        return batches


def rolling(directory: pathlib.Path, source: Source, **changes: Any) -> Any:
    settings = {"nan_policy": "rollback", "eval_period": 0, "train_steps": 14, "log_period": 3}
    return make(directory, data_source=source, **{**settings, **changes})


def record(directory: pathlib.Path) -> list[dict[str, Any]]:
    lines = (directory / nan_recovery.RECORD).read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(directory: pathlib.Path) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in log(directory)]


@pytest.mark.parametrize(
    ("bad", "left_out", "steps"),
    [
        ([5], [4, 5], [(6, 4, 2)]),
        ([0], [0], [(1, 0, 1)]),
        # After batches 4 and 5 step 6 is batch 7: again back to checkpoint 4, past all of them.
        ([5, 7], [4, 5, 6, 7], [(6, 4, 2), (6, 4, 4)]),
        ([5, 12], [4, 5, 10, 11, 12], [(6, 4, 2), (11, 8, 3)]),
    ],
)
def test_it_is_as_if_the_batches_had_not_been_there(
    tmp_path: pathlib.Path, capsys: Any, bad: Any, left_out: Any, steps: Any
) -> None:
    assert run(rolling(tmp_path / "rolled", Source(bad))) == 0
    text = capsys.readouterr().err
    assert run(rolling(tmp_path / "without", Source(left_out=left_out), nan_policy="stop")) == 0
    assert_same(tmp_path / "rolled", tmp_path / "without")
    assert losses(tmp_path / "rolled") == losses(tmp_path / "without")
    found = [(e["step"], e["checkpoint"], e["batches"]) for e in record(tmp_path / "rolled")]
    assert found == steps
    assert [r["rollbacks"] for r in log(tmp_path / "rolled")][-1] == len(steps)
    for number, (step, checkpoint, _) in enumerate(steps, start=1):
        assert f"step {step} is not finite (loss nan, grad_norm nan, update_norm nan): back" in text
        assert f"checkpoint_{checkpoint}, past the data up to here (rollback {number}, " in text


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Bad steps 6, 6 again, and 11: see above."""
    directory = tmp_path_factory.mktemp("rollback") / "run"
    assert run(rolling(directory, Source([5, 7, 14]))) == 0
    assert [e["batches"] for e in record(directory)] == [2, 4, 3]
    return directory


@pytest.mark.parametrize("crash_at", [3, 8, 10, 16])
def test_a_crash_anywhere_changes_nothing(
    uninterrupted: pathlib.Path, tmp_path: pathlib.Path, crash_at: int
) -> None:
    with pytest.raises(Crash):
        run(rolling(tmp_path / "run", Source([5, 7, 14], crash_at=crash_at)))
    assert run(rolling(tmp_path / "run", Source([5, 7, 14]))) == 0
    assert_same(tmp_path / "run", uninterrupted)
    assert losses(tmp_path / "run") == losses(uninterrupted)
    assert record(tmp_path / "run") == record(uninterrupted)


def test_a_checkpoint_that_a_signal_made_is_not_gone_back_to(tmp_path: pathlib.Path) -> None:
    settings = {"checkpoint_period": 8, "train_steps": 16}
    assert run(rolling(tmp_path / "straight", Source([13]), **settings)) == 0
    stopped = rolling(tmp_path / "run", Source([13], signal_at=9), **settings)
    assert run(stopped) == 128 + signal.SIGTERM
    assert 8 < checkpoints.steps(tmp_path / "run")[-1] < 14
    assert run(rolling(tmp_path / "run", Source([13]), **settings)) == 0
    assert_same(tmp_path / "run", tmp_path / "straight")
    assert record(tmp_path / "run") == record(tmp_path / "straight")
    assert record(tmp_path / "run")[0]["checkpoint"] == 8


def test_a_signal_just_before_a_rollback_stops_there(
    uninterrupted: pathlib.Path, tmp_path: pathlib.Path, capsys: Any
) -> None:
    directory = tmp_path / "run"
    assert run(rolling(directory, Source([5, 7, 14], signal_at=5))) == 128 + signal.SIGTERM
    assert "stopped: 6 steps" in capsys.readouterr().err
    assert checkpoints.steps(directory)[-1] == 4
    assert not (directory / "manifest.json").exists()
    assert run(rolling(directory, Source([5, 7, 14]))) == 0
    assert_same(directory, uninterrupted)
    assert losses(directory) == losses(uninterrupted)
    assert record(directory) == record(uninterrupted)


def test_nothing_is_prepared_again(tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    counted = []
    plain = telemetry.model_flops
    monkeypatch.setattr(telemetry, "model_flops", lambda *a: counted.append(1) or plain(*a))
    assert run(rolling(tmp_path / "run", Source([5, 7]))) == 0
    assert len(record(tmp_path / "run")) == 2 and len(counted) == 1


def test_farther_back(tmp_path: pathlib.Path) -> None:
    settings = {"checkpoint_period": 2, "rollback_steps": 3, "checkpoints_to_keep": 4}
    assert run(rolling(tmp_path / "run", Source([6]), **settings)) == 0
    assert record(tmp_path / "run") == [
        {"step": 7, "action": "rollback", "checkpoint": 4, "batches": 3}
    ]
    without = Source(left_out=[4, 5, 6])
    assert run(rolling(tmp_path / "without", without, **settings, nan_policy="stop")) == 0
    assert_same(tmp_path / "run", tmp_path / "without")


def test_too_many_stop(tmp_path: pathlib.Path) -> None:
    with pytest.raises(nan_recovery.NotFiniteError) as caught:
        run(rolling(tmp_path / "run", Source([5, 7]), max_rollbacks=1))
    assert "step 6 is not finite" in str(caught.value)
    assert "after 1 rollbacks (MAX_ROLLBACKS); checkpoint_4 is the last good" in str(caught.value)
    assert run(rolling(tmp_path / "run", Source([5, 7]), max_rollbacks=2)) == 0
    assert run(rolling(tmp_path / "straight", Source([5, 7]))) == 0
    assert_same(tmp_path / "run", tmp_path / "straight")


def test_record_by_hand(tmp_path: pathlib.Path) -> None:
    kept = nan_recovery.Record(tmp_path, 0)
    kept.add_rollback(12, 10)  # 2 batches after 10
    kept.add_rollback(11, 10)  # and 1 more
    assert (kept.num_rollbacks, kept.batches_past(10), kept.batches_past(9)) == (2, 3, 0)
    kept.add_rollback(11, 8)  # 2 before 10, those 3, and 1 more
    assert (kept.batches_past(8), kept.batches_past(10)) == (6, 0)
    kept.add_skip(9)
    path = tmp_path / nan_recovery.RECORD
    path.write_text(path.read_text() + '{"step": 1')  # It was killed while it wrote.
    again = nan_recovery.Record(tmp_path, 8)
    assert (again.num_rollbacks, again.num_skipped, again.batches_past(8)) == (3, 0, 6)
    assert nan_recovery.Record(tmp_path, 8)._entries == again._entries == record(tmp_path)
    assert nan_recovery.Record(tmp_path, 7).num_rollbacks == 0, "all of it is to come again"
    assert path.read_text() == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollback_steps": 0}, "ROLLBACK_STEPS must be a whole number of at least 1"),
        ({"max_rollbacks": 0}, "MAX_ROLLBACKS must be a whole number of at least 1"),
        ({"checkpoints_to_keep": 1}, "needs CHECKPOINTS_TO_KEEP of at least 2 .* got 1"),
        ({"rollback_steps": 2}, "needs CHECKPOINTS_TO_KEEP of at least 3 .* got 2"),
        ({"rollback_steps": 6}, "needs CHECKPOINTS_TO_KEEP of at least 4 .* got 2"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tmp_path: pathlib.Path, changes: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rolling(tmp_path, Source(), **changes)
