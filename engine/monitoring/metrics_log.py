# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The logs of a run: metrics.jsonl; with TensorBoard and grids of images."""

import json
import pathlib
from collections.abc import Mapping

from parti.engine.distributed import multihost
from parti.engine.monitoring import summary_writer
from parti.stages import files

METRICS = "metrics.jsonl"


class MetricsLog:
    """metrics.jsonl, of the first process: a JSON object per line, `step` and `split` first.

    Attributes:
      last: {'split/name': value} of the last line that has it; empty except in the first process.
      writer: of TensorBoard and of grids of images.
    """

    def __init__(self, directory: str | pathlib.Path, step: int, tensorboard: bool = False) -> None:
        """Opens the logs; what is of steps after `step`, of a run that was cut off, is dropped."""
        self.writer = summary_writer.Writer(str(directory), tensorboard, step)
        self._path = pathlib.Path(directory) / METRICS
        self.last: dict[str, float] = {}
        self._written: set[tuple[int, str]] = set()
        is_there = multihost.is_first() and self._path.exists()
        text = self._path.read_text(encoding="utf-8") if is_there else ""
        kept = [line for line in text.splitlines() if _step_of(line) <= step]
        for line in kept:
            self._note(**json.loads(line))
        whole = "".join(f"{line}\n" for line in kept)
        if whole != text:
            files.write_bytes(self._path, whole.encode("utf-8"), sync=True)

    def has(self, step: int, split: str) -> bool:
        """Returns, in all processes alike, whether there is a line of a step."""
        return multihost.all_agree(not multihost.is_first() or (step, split) in self._written)

    def has_shown(self, step: int, name: str) -> bool:
        """Returns, in all processes alike, whether a step's grid is there."""
        return multihost.all_agree(
            not multihost.is_first() or self.writer.path(step, name).is_file()
        )

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes the metrics of a step."""
        if multihost.is_first():
            self._note(step, split, **values)
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
            self.writer.write(step, split, values)

    def _note(self, step: int, split: str, **values: float) -> None:
        self._written.add((step, split))
        self.last |= {f"{split}/{name}": value for name, value in values.items()}


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # Half a line: the process was killed while it wrote.
