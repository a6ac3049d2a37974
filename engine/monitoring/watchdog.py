# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A watchdog: reports which process of a training stalls, and where.

It watches a training from its start to its end. On a pod one host that waits for its data or its
disk holds up all others: the log of each says what it was doing, so the culprit is the one that
does not wait for a device. `faulthandler.dump_traceback_later` knows neither steps nor stages.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from parti.engine.distributed import multihost

# What a training does between two heartbeats.
STARTING, OPENING, PREPARING = "starting", "opening the data", "preparing the program"
INITIAL, RESTORING, READING = "reading INITIAL", "restoring a checkpoint", "reading data"
RUNNING, DEVICE, EVALUATING = "running steps", "waiting for the device", "evaluating"
SAMPLING, SAVING, FINISHING = "drawing samples", "saving a checkpoint", "finishing"
# A stage compiles its program the first time.
FIRST_TIME_SECONDS = 3600.0
# "Try again" (sysexits.h): the same command goes on from the last checkpoint.
EXIT_CODE = 75


class Watchdog:
    """A thread that reports each stall once."""

    def __init__(self, seconds: float, abort: bool = False) -> None:
        """Starts the thread; `seconds` and `abort` are WATCHDOG_SECONDS and WATCHDOG_ABORT.

        A stage may take `seconds` (0: any time), its first time at least an hour.
        """
        self._seconds, self._abort = float(seconds), abort
        self._stage, self._step, self._since = STARTING, 0, time.monotonic()
        self._seen: set[str] = set()
        self._reported = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if seconds:
            self._thread.start()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Names what the caller does inside."""
        before = self._stage
        self._enter(name)
        try:
            yield
        finally:
            self._seen.add(name)
            self._enter(before)

    def finished(self, step: int) -> None:
        """Notes that a step is done."""
        self._step, self._stage = step, RUNNING
        self.heartbeat()

    def heartbeat(self) -> None:
        """Notes that a part of the stage is done."""
        self._seen.add(self._stage)
        self._enter(self._stage)

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _enter(self, name: str) -> None:
        self._stage, self._since = name, time.monotonic()
        if self._reported:
            self._reported = False
            print(f"[train] {_where()}: goes on at step {self._step}", file=sys.stderr, flush=True)

    def _watch(self) -> None:
        while not self._closed.wait(min(self._seconds / 10, 5.0)):
            waited = time.monotonic() - self._since
            least = 0.0 if self._stage in self._seen else FIRST_TIME_SECONDS
            if waited > max(self._seconds, least) and not self._reported:
                self._reported = True
                self._report(waited)

    def _report(self, waited: float) -> None:
        lines = [
            f"[train] {_where()}: no progress for {waited:.0f} s after step {self._step}, while "
            f"{self._stage} (WATCHDOG_SECONDS is {self._seconds:g}). What its threads do:",
            *_stacks(),
        ]
        if self._abort:
            lines.append(f"[train] WATCHDOG_ABORT: ending with code {EXIT_CODE}; run again")
        print("\n".join(lines), file=sys.stderr, flush=True)
        if self._abort:
            sys.stdout.flush()
            os._exit(EXIT_CODE)  # The main thread hangs: it cannot end by itself.


def _stacks() -> list[str]:
    """Returns the Python stack of each thread except this one, innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return [
        f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame)).rstrip()}"
        for ident, frame in sys._current_frames().items()
        if ident != threading.get_ident()
    ]


def _where() -> str:
    return f"watchdog: process {jax.process_index()} of {multihost.count()}"
