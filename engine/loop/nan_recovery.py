# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""NAN_POLICY: how a training recovers from a loss or gradient that is not a finite number.

'stop' ends the training; the checkpoints before that step are good. 'skip' leaves everything but
the step's number as it was, and ends the training only after more than MAX_SKIPPED_STEPS skipped
steps in a row: the device decides (`nan_policies`) without the host in between. 'rollback' goes
back to a checkpoint at least ROLLBACK_STEPS before the step, and past all data that were read
since, so that the bad batch is not seen again; at most MAX_ROLLBACKS times.

The host (`NanRecovery`) applies the policy when it logs, and keeps a `Record` in the run directory:
a training that is killed and started again does the same as one that is not.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parti.engine.checkpoints import checkpoint_manager, checkpoints
from parti.engine.distributed import multihost
from parti.engine.experiment import nan_policies
from parti.stages import files

RECORD = "not_finite.jsonl"


class NotFiniteError(RuntimeError):
    """The loss or its gradient is not finite, and NAN_POLICY allows no more of it."""


class RollBack(Exception):  # noqa: N818 (it is no failure)
    """The training is to go on from an earlier checkpoint: `step` was bad, `checkpoint` is good."""

    def __init__(self, step: int, checkpoint: int) -> None:
        super().__init__(f"from step {step} to checkpoint {checkpoint}")
        self.step, self.checkpoint = step, checkpoint


class Record:
    """The bad steps of a run, `<model_dir>/not_finite.jsonl`, a JSON object per line.

    `{"step": 7, "action": "skip"}`, or `{"step": 7, "action": "rollback", "checkpoint": 4,
    "batches": 3}`: from checkpoint 4 the run went on 3 batches after the data position saved there.
    All processes read the file, the first one writes it.
    """

    def __init__(self, directory: files.Path, step: int) -> None:
        """Reads the record as it was at the checkpoint of a step; what came later is dropped.

        A rollback to that very checkpoint is kept: its data are to be left out from the start.
        """
        self._path = files.join(directory, RECORD)
        is_there = files.exists(self._path)
        text = files.read_bytes(self._path).decode("utf-8") if is_there else ""
        # The last line may be half one: the process was killed while it wrote.
        entries = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        while entries and entries[-1].get("checkpoint", entries[-1]["step"]) > step:
            entries.pop()
        self._entries = [
            e for e in entries if e["action"] == nan_policies.ROLL_BACK or e["step"] <= step
        ]
        multihost.wait_for_all("steps that were not finite are read")
        if text and multihost.is_first():
            self._rewrite()

    @property
    def num_skipped(self) -> int:
        """How many steps the optimizer has not taken."""
        return sum(entry["action"] == nan_policies.SKIP for entry in self._entries)

    @property
    def num_rollbacks(self) -> int:
        """How often the run went back."""
        return sum(entry["action"] == nan_policies.ROLL_BACK for entry in self._entries)

    def skipped_in_a_row(self, step: int) -> int:
        """Returns how many steps up to this one were skipped without one taken between them."""
        steps = {entry["step"] for entry in self._entries if entry["action"] == nan_policies.SKIP}
        first = step
        while first in steps:
            first -= 1
        return step - first

    def batches_past(self, checkpoint: int) -> int:
        """Returns how many batches a run leaves out that goes on from a checkpoint."""
        return self._batches_past().get(checkpoint, 0)

    def add_skip(self, step: int) -> None:
        """Notes that a step was skipped."""
        self._add({"step": step, "action": nan_policies.SKIP})

    def add_rollback(self, step: int, checkpoint: int) -> None:
        """Notes that the run goes back to a checkpoint; later ones must be gone by now."""
        # What was left out between the two is to be left out again.
        past = sum(n for other, n in self._batches_past().items() if other >= checkpoint)
        entry = {"step": step, "action": nan_policies.ROLL_BACK, "checkpoint": checkpoint}
        self._add({**entry, "batches": step - checkpoint + past})
        multihost.wait_for_all("rollback is noted")

    def _batches_past(self) -> dict[int, int]:
        """Returns {checkpoint: batches left out after it} of the run as it went in the end."""
        past: dict[int, int] = {}
        for entry in self._entries:
            if entry["action"] == nan_policies.ROLL_BACK:
                past = {k: n for k, n in past.items() if k < entry["checkpoint"]}
                past[entry["checkpoint"]] = entry["batches"]
        return past

    def _add(self, entry: dict[str, Any]) -> None:
        self._entries.append(entry)
        if not multihost.is_first():
            return
        if files.is_remote(self._path):  # An object store cannot append; there are few lines.
            self._rewrite()
            return
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(_line(entry))

    def _rewrite(self) -> None:
        files.write_bytes(self._path, "".join(map(_line, self._entries)).encode("utf-8"))


class NanRecovery:
    """Applies NAN_POLICY to the metrics of finished steps."""

    def __init__(
        self, experiment: Any, manager: checkpoint_manager.CheckpointManager, record: Record
    ) -> None:
        """Takes an `experiments.Experiment` for its settings."""
        self._experiment, self._manager, self._record = experiment, manager, record

    def apply(self, first: int, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns the metrics of the steps that count, without `nan_policies.SKIPPED`.

        `results` are those of each step from `first` on, on the host.

        Raises:
          NotFiniteError: a step is not finite and NAN_POLICY allows no more of them.
          RollBack: a step is not finite, and the policy is to go back.
        """
        kept = []
        for step, metrics in enumerate(results, start=first):
            others = dict(metrics)
            skipped = others.pop(nan_policies.SKIPPED, None)
            if skipped is not None and float(skipped.compute()):
                self._skip(step, others)
            elif np.isfinite(list(_values(others).values())).all():
                kept.append(others)
            elif self._experiment.nan_policy == nan_policies.ROLL_BACK:
                self._roll_back(step, others)
            else:
                raise NotFiniteError(
                    f"{_describe(step, others)}; {self._last_good()}. Set NAN_POLICY = 'skip' or "
                    "'rollback' to get past these data, or lower LEARNING_RATE, then run again: it "
                    "goes on from there"
                )
        return kept

    def _skip(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._record.add_skip(step)
        multihost.log(f"[train] {_describe(step, metrics)}: skipped")
        in_a_row, most = self._record.skipped_in_a_row(step), self._experiment.max_skipped_steps
        if in_a_row > most:
            raise NotFiniteError(
                f"{in_a_row} steps in a row were not finite and skipped, up to step {step} "
                f"(MAX_SKIPPED_STEPS is {most}); {self._last_good()}. Look at the data of these "
                "steps, or lower LEARNING_RATE, then run again"
            )

    def _roll_back(self, step: int, metrics: Mapping[str, Any]) -> None:
        most = self._experiment.max_rollbacks
        if self._record.num_rollbacks >= most:
            raise NotFiniteError(
                f"{_describe(step, metrics)} after {most} rollbacks (MAX_ROLLBACKS); "
                f"{self._last_good()}. Lower LEARNING_RATE or look at the data, then run again"
            )
        self._manager.wait()
        latest = step - self._experiment.rollback_steps
        good = [c for c in checkpoints.steps(self._manager.directory) if c <= latest]
        if not good:
            raise NotFiniteError(
                f"{_describe(step, metrics)}, and there is no checkpoint of step {latest} or "
                "before to go back to; lower ROLLBACK_STEPS, or raise CHECKPOINTS_TO_KEEP"
            )
        # One that a signal made is not there in a run that none interrupted.
        regular = [c for c in good if c % self._experiment.checkpoint_period == 0]
        checkpoint = (regular or good)[-1]
        multihost.log(
            f"[train] {_describe(step, metrics)}: back to checkpoint_{checkpoint}, past the data "
            f"up to here (rollback {self._record.num_rollbacks + 1}, MAX_ROLLBACKS {most})"
        )
        # In this order: killed in between, the run comes to this step again and decides the same.
        self._manager.delete_after(checkpoint)
        self._record.add_rollback(step, checkpoint)
        raise RollBack(step, checkpoint)

    def _last_good(self) -> str:
        self._manager.wait()
        good = checkpoints.steps(self._manager.directory)
        where = f"checkpoint_{good[-1]} is the last good one" if good else "no checkpoint yet"
        return f"{where} in {self._manager.directory}"


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def _values(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(metrics[name].compute()) for name in ("loss", "grad_norm", "update_norm")}


def _describe(step: int, metrics: Mapping[str, Any]) -> str:
    text = ", ".join(f"{name} {value}" for name, value in _values(metrics).items())
    return f"step {step} is not finite ({text})"
