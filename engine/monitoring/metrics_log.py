# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""metrics.jsonl: the log of a run's metrics; and the alarms among them."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from parti.engine.distributed import multihost
from parti.engine.monitoring import summary_writer
from parti.stages import files

METRICS = "metrics.jsonl"


class MetricsLog:
    """metrics.jsonl: a JSON object per line, `step` and `split` first.

    Attributes:
      last: {'split/name': value} of the last line that has it.
    """

    def __init__(self, directory: str | pathlib.Path, step: int) -> None:
        """Opens the log; lines of steps after `step`, of a run that was cut off, are dropped."""
        self._path = pathlib.Path(directory) / METRICS
        self.last: dict[str, float] = {}
        self._written: set[tuple[int, str]] = set()
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        kept = [line for line in text.splitlines() if _step_of(line) <= step]
        for line in kept:
            self._note(**json.loads(line))
        whole = "".join(f"{line}\n" for line in kept)
        if whole != text:
            files.write_bytes(self._path, whole.encode("utf-8"), sync=True)

    def has(self, step: int, split: str) -> bool:
        """Returns whether there is a line of a step."""
        return (step, split) in self._written

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends a line."""
        self._note(step, split, **values)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")

    def _note(self, step: int, split: str, **values: float) -> None:
        self._written.add((step, split))
        self.last |= {f"{split}/{name}": value for name, value in values.items()}


class RunLog:
    """All logs of a run, written by the first process: metrics.jsonl, TensorBoard, grids of images.

    Attributes:
      writer: of TensorBoard and grids.
    """

    def __init__(self, experiment: Any, step: int) -> None:
        """Opens the logs of an `experiments.Experiment` that goes on from a step."""
        directory = experiment.model_dir
        self._log = MetricsLog(directory, step) if multihost.is_first() else None
        self.writer = summary_writer.Writer(directory, experiment.tensorboard, step)

    @property
    def last(self) -> dict[str, float]:
        """{'split/name': value} of the last line that has it; empty but in the first process."""
        return self._log.last if self._log else {}

    def has(self, step: int, split: str) -> bool:
        """Returns, in all processes alike, whether a step of a split is logged."""
        return multihost.all_agree(self._log is None or self._log.has(step, split))

    def has_shown(self, step: int, name: str) -> bool:
        """Returns, in all processes alike, whether a step's grid is there."""
        return multihost.all_agree(self._log is None or self.writer.has_shown(step, name))

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes the metrics of a step."""
        if self._log:
            self._log.write(step, split, values)
            self.writer.write(step, split, values)

    def close(self) -> None:
        """Waits until all is written."""
        self.writer.close()


def warn(directory: str, step: int, values: Mapping[str, float]) -> None:
    """Reports the model's alarms, metrics called `..._alarm`, that rang since the last log."""
    for name, share in values.items():
        if name.endswith("_alarm") and share > 0:
            multihost.log(
                f"[train] {name} at {share:.0%} of the steps up to {step}: see the metrics in "
                f"{directory}"
            )


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # Half a line: the process was killed while it wrote.
