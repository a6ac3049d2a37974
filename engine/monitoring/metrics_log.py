# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The logs of a run: metrics.jsonl; with TensorBoard and grids of images.

On a disk a line is appended when it is written. An object store cannot append: there the whole file
is written anew at each flush, one a minute at most and one before each checkpoint. A training that
is killed goes on from a checkpoint and drops the lines after it, so none that counts is lost, and
the file stays one that any tool reads; of a million steps it has some megabytes.
"""

import json
import time
from collections.abc import Mapping

from parti.engine.distributed import multihost
from parti.engine.monitoring import summary_writer
from parti.stages import files

METRICS = "metrics.jsonl"
_FLUSH_SECONDS = 60.0  # from one flush on an object store to the next, at least


class MetricsLog:
    """metrics.jsonl, of the first process: a JSON object per line, `step` and `split` first.

    Attributes:
      last: {'split/name': value} of the last line that has it; empty except in the first process.
      writer: of TensorBoard and of grids of images.
    """

    def __init__(self, directory: files.Path, step: int, tensorboard: bool = False) -> None:
        """Opens the logs; what is of steps after `step`, of a run that was cut off, is dropped."""
        self.writer = summary_writer.Writer(directory, tensorboard, step)
        self._path = files.join(directory, METRICS)
        self.last: dict[str, float] = {}
        self._written: set[tuple[int, str]] = set()
        is_there = multihost.is_first() and files.exists(self._path)
        text = files.read_bytes(self._path).decode("utf-8") if is_there else ""
        kept = [line for line in text.splitlines() if _step_of(line) <= step]
        for line in kept:
            self._note(**json.loads(line))
        whole = "".join(f"{line}\n" for line in kept)
        if whole != text:
            files.write_bytes(self._path, whole.encode("utf-8"), sync=True)
        self._is_appended = not files.is_remote(self._path)
        self._text, self._unwritten, self._flushed = whole, 0, time.monotonic()

    def has(self, step: int, split: str) -> bool:
        """Returns, in all processes alike, whether there is a line of a step."""
        return multihost.all_agree(not multihost.is_first() or (step, split) in self._written)

    def has_shown(self, step: int, name: str) -> bool:
        """Returns, in all processes alike, whether a step's grid is there."""
        return multihost.all_agree(
            not multihost.is_first() or files.exists(self.writer.path(step, name))
        )

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes the metrics of a step."""
        if multihost.is_first():
            self._note(step, split, **values)
            line = json.dumps({"step": step, "split": split, **values}) + "\n"
            if self._is_appended:
                with open(self._path, "a", encoding="utf-8") as file:
                    file.write(line)
            else:
                self._text, self._unwritten = self._text + line, self._unwritten + 1
            self.writer.write(step, split, values)

    def is_due(self) -> bool:
        """Returns whether there are lines for a flush, and the last one is a while ago."""
        return self._unwritten > 0 and time.monotonic() - self._flushed >= _FLUSH_SECONDS

    def flush(self) -> None:
        """Writes what an object store does not have yet; nothing on a disk."""
        if self._unwritten:
            files.write_bytes(self._path, self._text.encode("utf-8"))
            self._unwritten = 0
        self.writer.flush()
        self._flushed = time.monotonic()

    def _note(self, step: int, split: str, **values: float) -> None:
        self._written.add((step, split))
        self.last |= {f"{split}/{name}": value for name, value in values.items()}


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # Half a line: the process was killed while it wrote.
