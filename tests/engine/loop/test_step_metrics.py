# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of steps: skipped ones count neither in the averages nor in the learning rate."""

import pathlib
import types
from typing import Any

import clu.metrics
import jax.numpy as jnp
import pytest
from toy_training import ONE_DEVICE, log, make

from parti.engine.distributed import partitioning
from parti.engine.experiment import nan_policies
from parti.engine.loop import nan_recovery, step_metrics
from parti.engine.monitoring import metrics_log, watchdog


def of_a_step(loss: float) -> dict[str, Any]:
    """Returns what a train step with NAN_POLICY 'skip' gives."""
    value = jnp.asarray(loss)
    names = ("loss", "grad_norm", "update_norm")
    average = clu.metrics.Average.from_model_output
    finite = nan_policies.is_finite(value, value, value)
    return {name: average(value) for name in names} | {
        nan_policies.SKIPPED: nan_policies.skipped(finite)
    }


def test_steps_since_the_last_log_are_one_line(tmp_path: pathlib.Path) -> None:
    experiment = make(
        tmp_path, nan_policy=nan_policies.SKIP, learning_rate=lambda count: 0.1 * count
    )
    program = types.SimpleNamespace(mesh=partitioning.make_mesh(devices=ONE_DEVICE))
    training: Any = types.SimpleNamespace(experiment=experiment, program=program, step_flops=None)
    manager: Any = types.SimpleNamespace(check=lambda: None)
    metrics = step_metrics.StepMetrics(
        training,
        manager,
        nan_recovery.Record(tmp_path, 0),
        metrics_log.MetricsLog(experiment.model_dir, 0, experiment.tensorboard),
        watchdog.Watchdog(0),
    )
    metrics.write(0)
    assert not (tmp_path / "metrics.jsonl").exists(), "there is nothing to log"
    for step, loss in enumerate((1.0, float("nan"), 3.0), start=1):
        with metrics.waiting():
            metrics.add(step, of_a_step(loss))
    metrics.write(3)
    metrics.write(3)
    (row,) = log(tmp_path)
    assert row["step"] == 3 and row["loss"] == 2.0
    assert row[nan_policies.SKIPPED] == 1.0
    # The optimizer has taken steps 1 and 3: its own second.
    assert row["learning_rate"] == pytest.approx(0.1)
