# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run writes down of its metrics, and what it says of alarms among them."""

import json
import pathlib
from collections.abc import Mapping

from parti.engine import processes

METRICS = "metrics.jsonl"


class MetricsLog:
    """metrics.jsonl: a JSON object per line, `step` and `split` first."""

    def __init__(self, directory: str | pathlib.Path, step: int) -> None:
        """Opens the log; lines of steps after `step`, of a run that was cut off, are dropped."""
        self._path = pathlib.Path(directory) / METRICS
        kept = []
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
        self._last = {k: v for line in kept for k, v in json.loads(line).items()}
        self._path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def last(self, name: str) -> float:
        """Returns the last value that the lines kept have of a metric, 0 if they have none."""
        return self._last.get(name, 0.0)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends a line."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")


def warn(directory: str, step: int, values: Mapping[str, float]) -> None:
    """Says which alarms of the model, metrics called `..._alarm`, rang since the last log."""
    for name, share in values.items():
        if name.endswith("_alarm") and share > 0:
            processes.log(
                f"[train] {name} at {share:.0%} of the steps up to {step}: see the metrics in "
                f"{directory}"
            )


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # Half a line: the process was killed while it wrote.
