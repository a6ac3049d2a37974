# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Profiler traces of a few steps of a training: PROFILE_STEPS, or SIGUSR1 while it runs.

A trace is in `<model_dir>/profile/plugins/profile/<time>/`: `tensorboard --logdir
<model_dir>/profile` (with its profile plugin) and xprof read it. Each process writes its own; for
an object store on its machine first.
"""

import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from parti.engine.distributed import multihost, preemption
from parti.stages import files

FOLDER = "profile"
# How many steps SIGUSR1 traces.
ON_DEMAND_STEPS = 5


class Profiler:
    """Traces the steps that are asked for; the others pay two comparisons."""

    def __init__(self, directory: files.Path, steps: Sequence[int] | None = None) -> None:
        """Takes the run's directory and PROFILE_STEPS, (first, last) or None."""
        self._folder = files.join(directory, FOLDER)
        self._first, self._last = steps or (0, -1)
        self._asked = self._running = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Traces the next steps at SIGUSR1, as long as the block runs."""

        def ask(*_: Any) -> None:
            self._asked = True

        with preemption.handled(signal.SIGUSR1, ask):
            try:
                yield
            finally:
                self._stop()

    def before(self, step: int, state: Any) -> None:
        """Call it before a step is dispatched; waits for the ones before if a trace begins."""
        if self._asked and not self._running:
            self._asked, self._first, self._last = False, step, step + ON_DEMAND_STEPS - 1
        if self._first <= step <= self._last and not self._running:
            jax.block_until_ready(state)
            self._local = self._folder
            if files.is_remote(self._folder):
                self._local = tempfile.mkdtemp(prefix="parti-profile-")
            jax.profiler.start_trace(self._local)
            self._running = True

    def after(self, step: int, state: Any) -> None:
        """Call it after a step is dispatched; waits for it if the trace ends there."""
        if self._running and step >= self._last:
            jax.block_until_ready(state)
            self._stop()
            multihost.log(f"[train] profile of steps {self._first} to {step} in {self._folder}")

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            if self._local != self._folder:
                files.copy_tree(self._local, self._folder)
                files.remove_tree(self._local)
