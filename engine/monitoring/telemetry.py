# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Telemetry of a training: throughput, utilisation, memory and goodput, logged with the metrics.

Nothing here waits for a device: times are those between two logs, when the loop fetches the metrics
anyway. They leave out a process's first step, which compiles, evaluations and saving.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

from parti.engine.distributed import multihost
from parti.engine.hardware import accelerators, flops
from parti.stages import files

STARTED = "started.json"
PRODUCTIVE = "productive_seconds"


def model_flops(model: Any, element_spec: Mapping[str, jax.ShapeDtypeStruct]) -> int | None:
    """Returns the model FLOPs of a step; None, with a line in the log, where they are not known."""
    try:
        return flops.train_step(model, element_spec)
    except ValueError as error:
        multihost.log(f"[train] no model FLOPs: {error}")
        return None


class Telemetry:
    """Times the steps of a process.

    `values` gives, per log:
      examples_per_second, step_seconds; data_wait_share: of the time, waiting for batches.
      model_tflops_per_second: of the model's own operations (`flops.train_step`), by device;
        model_flops_utilization: the share of the device's peak, where that is known (Palm, arXiv
        2204.02311, appendix B).
      peak_memory_gib: most memory ever in use on a device of the process, where jax tells.
      productive_seconds: time in steps that count, in the whole run; goodput: its share of the time
        since the run's first start. Neither starting, compiling, waiting for data, evaluating and
        saving counts, nor steps that were skipped, or lost when the run was killed or went back.
    """

    def __init__(
        self,
        directory: files.Path,
        batch_size: int,
        step_flops: int | None,
        devices: Any,
        dtype: str,
        productive_seconds: float = 0.0,
    ) -> None:
        """Starts the clock.

        `devices` is the array of the mesh; `productive_seconds` are the run's before this start.
        """
        self._batch_size, self._productive = batch_size, productive_seconds
        self._device_flops = step_flops / devices.size if step_flops else None
        self._peak = accelerators.peak_flops(devices.flat[0].device_kind, dtype)
        self._local = [d for d in devices.flat if d.process_index == jax.process_index()]
        self._started = _first_start(directory)
        self.restart()

    def restart(self) -> None:
        """Forgets the steps since the last log and restarts the clock."""
        self._steps, self._waited, self._clock = 0, 0.0, time.perf_counter()

    def step(self) -> None:
        """Counts a step."""
        self._steps += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as spent waiting for a batch."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - began

    def values(self, share_taken: float = 1.0) -> dict[str, float]:
        """Returns the figures since the last log, of which a share of the steps counts."""
        seconds = max(time.perf_counter() - self._clock, 1e-9)
        steps, waited = self._steps, min(self._waited, seconds)
        self.restart()
        if not steps:
            return {}
        self._productive += (seconds - waited) * share_taken
        values = {
            "examples_per_second": steps * self._batch_size / seconds,
            "step_seconds": seconds / steps,
            "data_wait_share": waited / seconds,
            PRODUCTIVE: self._productive,
            "goodput": self._productive / max(time.time() - self._started, self._productive),
        }
        if self._device_flops:
            rate = self._device_flops * steps / seconds
            values["model_tflops_per_second"] = rate / 1e12
            if self._peak:
                values["model_flops_utilization"] = rate / self._peak
        stats = [device.memory_stats() or {} for device in self._local]
        if peaks := [entry["peak_bytes_in_use"] for entry in stats if "peak_bytes_in_use" in entry]:
            values["peak_memory_gib"] = max(peaks) / 2**30
        return values


def _first_start(directory: files.Path) -> float:
    """Returns when the run was first started, in seconds since 1970; notes it the first time."""
    path = files.join(directory, STARTED)
    now = time.time()
    if files.exists(path):
        return min(json.loads(files.read_bytes(path))["unix_seconds"], now)
    if multihost.is_first():
        files.write_bytes(path, json.dumps({"unix_seconds": now}).encode() + b"\n")
    return now
