# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The metrics of train steps: kept on the devices, then fetched, checked and logged together."""

from typing import Any

import jax

from parti.engine.checkpoints import checkpoint_manager
from parti.engine.distributed import multihost
from parti.engine.experiment import nan_policies
from parti.engine.input import datasets
from parti.engine.loop import nan_recovery, setup
from parti.engine.monitoring import metrics_log, telemetry, watchdog
from parti.engine.step import eval_step
from parti.stages import progress_line


class StepMetrics:
    """Paces the steps of a run and logs their metrics.

    `report` is the progress line; `waiting` and `restart_clock` are those of `telemetry.Telemetry`.
    """

    def __init__(
        self,
        training: setup.Training,
        manager: checkpoint_manager.CheckpointManager,
        record: nan_recovery.Record,
        log: metrics_log.MetricsLog,
        monitor: watchdog.Watchdog,
    ) -> None:
        """Starts the clocks; productive seconds go on where the log stands."""
        experiment = self._experiment = training.experiment
        self._manager, self._record, self._log, self._monitor = manager, record, log, monitor
        self._nan_recovery = nan_recovery.NanRecovery(experiment, manager, record)
        self._pending: list[dict[str, Any]] = []
        self._compiled = False
        with monitor.stage(watchdog.PREPARING):
            step_flops = training.step_flops
        devices, dtype = training.program.mesh.devices, experiment.model.dtype
        productive = log.last.get(f"{datasets.TRAIN}/{telemetry.PRODUCTIVE}", 0.0)
        self._telemetry = telemetry.Telemetry(
            experiment.model_dir, experiment.batch_size, step_flops, devices, dtype, productive
        )
        self.waiting, self.restart_clock = self._telemetry.waiting, self._telemetry.restart
        self.report = progress_line.Progress(
            "train",
            experiment.train_steps,
            "steps",
            rate_unit="examples",
            rate_scale=experiment.batch_size,
            silent=not multihost.is_first(),
        )

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes the metrics of a dispatched step; waits until at most two steps are in flight.

        The first step, which compiles, is waited for and left out of the timing.
        """
        self._pending.append(metrics)
        if not self._compiled:
            self._compiled = True
            self._wait_for(metrics["loss"])
            self.report.count += 1
            self.report.restart_clock()
            self.restart_clock()
        else:
            self._telemetry.step()
            if len(self._pending) > 2:
                self._wait_for(self._pending[-3]["loss"])
        self.report.update(step)

    def write(self, step: int) -> None:
        """Fetches and logs the metrics since the last log, or raises as NAN_POLICY says."""
        if not self._pending:
            return
        self._manager.check()  # A full disk ends the run now, not at the next checkpoint.
        with self._monitor.stage(watchdog.DEVICE):
            results = jax.device_get(self._pending)
        self._pending = []
        taken = self._nan_recovery.apply(step - len(results) + 1, results)
        values = eval_step.merge(taken) if taken else {}
        if self._experiment.nan_policy == nan_policies.SKIP:
            values[nan_policies.SKIPPED] = float(len(results) - len(taken))
        if self._experiment.nan_policy == nan_policies.ROLL_BACK:
            values[nan_policies.ROLLBACKS] = float(self._record.num_rollbacks)
        values |= self._learning_rate(step) | self._telemetry.values(len(taken) / len(results))
        self._log.write(step, datasets.TRAIN, values)
        for name, share in values.items():
            if name.endswith("_alarm") and share > 0:
                multihost.log(
                    f"[train] {name} at {share:.0%} of the steps up to {step}: see the metrics in "
                    f"{self._experiment.model_dir}"
                )
        if taken:
            self.report.update(step, loss=values["loss"])

    def _learning_rate(self, step: int) -> dict[str, float]:
        """Returns the rate of the last step that the optimizer took: it counts no other."""
        rate = self._experiment.learning_rate
        if rate is None:
            return {}
        count = max(step - 1 - self._record.num_skipped, 0)
        return {"learning_rate": float(rate(count) if callable(rate) else rate)}

    def _wait_for(self, value: jax.Array) -> None:
        with self._monitor.stage(watchdog.DEVICE):
            jax.block_until_ready(value)
