# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Progress of long work: a line on stderr with rate and ETA, and a JSON copy for other programs.

The line reads `[train] 300/1000 steps  85.2 examples/s  ETA 0:12  loss=3.21`. Each report replaces
the file that PARTI_PROGRESS_FILE names, in one step, with `{"stage", "done", "total", "unit",
"rate", "rate_unit", "eta_seconds", "fields", "state"}`.
"""

import collections
import json
import os
import sys
import threading
import time
from typing import Any, TextIO

from parti.stages import files

FILE_VARIABLE = "PARTI_PROGRESS_FILE"
# Reports that the rate is measured over: recent enough to forget compilation.
_WINDOW = 12


class Progress:
    """Counts finished units of one stage and reports them at most once per interval, threadsafe."""

    def __init__(
        self,
        stage: str,
        total: int = 0,
        unit: str = "items",
        *,
        rate_unit: str = "",
        rate_scale: float = 1.0,
        interval: float = 2.0,
        stream: TextIO | None = None,
        silent: bool = False,
    ) -> None:
        """Starts the clock, for `total` units (0: unknown, without an ETA).

        The rate is in `rate_unit`, a plural, of which a unit has `rate_scale`: examples per step.
        """
        self.stage, self.total, self.unit = stage, total, unit
        self.rate_unit, self.rate_scale = rate_unit or unit, rate_scale
        self.count = 0
        self._interval, self._stream, self._silent = interval, stream, silent
        self._fields: dict[str, Any] = {}
        self._samples: collections.deque[tuple[float, int]] = collections.deque(maxlen=_WINDOW)
        self._started = self._last_report = time.monotonic()
        self._reported = False
        self._lock = threading.RLock()

    def update(self, done: int, **fields: Any) -> None:
        """Sets the number of finished units; `fields` (numbers or text) are shown at the end."""
        with self._lock:
            self.count = done
            self._fields.update(fields)
            self._report_when_due()

    def restart_clock(self) -> None:
        """Forgets the rate so far, such as that of a first step that was compiled."""
        with self._lock:
            self._samples.clear()
            self._samples.append((time.monotonic(), self.count))

    def done(self, summary: str = "") -> None:
        """Reports the end; `summary` says what was made."""
        self._finish("done", summary)

    def failed(self, summary: str = "") -> None:
        """Reports the end of work that stopped early."""
        self._finish("failed", summary)

    def stopped(self, summary: str = "") -> None:
        """Reports that work was stopped, and can be resumed."""
        self._finish("stopped", summary)

    def rate(self) -> float:
        """Returns units per second over the recent reports (0 before there are two)."""
        with self._lock:
            if not self._samples:
                return 0.0
            (start, first), now = self._samples[0], time.monotonic()
            return max(self.count - first, 0) / (now - start) if now > start else 0.0

    def _report_when_due(self) -> None:
        now = time.monotonic()
        if not self._samples:
            self._samples.append((now, self.count))
        if self._reported and now - self._last_report < self._interval:
            return
        self._write(self._line(), "running")
        self._samples.append((now, self.count))
        self._last_report, self._reported = now, True

    def _finish(self, state: str, summary: str) -> None:
        with self._lock:
            seconds = clock(time.monotonic() - self._started)
            text = f"{self.count} {self.unit} in {seconds}"
            self._write(f"[{self.stage}] {state}: {text}{'  ' + summary if summary else ''}", state)

    def _eta_seconds(self) -> float | None:
        rate = self.rate()
        return max(self.total - self.count, 0) / rate if self.total and rate else None

    def _line(self) -> str:
        counted = f"{self.count}/{self.total}" if self.total else str(self.count)
        parts = [f"[{self.stage}] {counted} {self.unit}"]
        if rate := self.rate() * self.rate_scale:
            parts.append(f"{rate:.4g} {self.rate_unit}/s")
        if (eta := self._eta_seconds()) is not None:
            parts.append(f"ETA {clock(eta)}")
        for name, value in self._fields.items():
            parts.append(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}")
        return "  ".join(parts)

    def _write(self, line: str, state: str) -> None:
        if self._silent:
            return
        print(line, file=self._stream or sys.stderr, flush=True)
        if path := os.environ.get(FILE_VARIABLE):
            record = {
                "stage": self.stage,
                "done": self.count,
                "total": self.total,
                "unit": self.unit,
                "rate": self.rate() * self.rate_scale,
                "rate_unit": self.rate_unit,
                "eta_seconds": 0.0 if state == "done" else self._eta_seconds(),
                "fields": dict(self._fields),
                "state": state,
            }
            files.write_bytes(path, json.dumps(record, default=str).encode())


def clock(seconds: float) -> str:
    """Returns seconds as `m:ss` or `h:mm:ss`: 75 -> '1:15'."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
