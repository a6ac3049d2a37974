# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a training needs before it may touch its directory: all that can be refused of it is here.

Made once, however often the training goes back to a checkpoint.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from parti.engine.distributed import multihost
from parti.engine.experiment import experiments, warm_start
from parti.engine.input import datasets
from parti.engine.loop import sample_grids, seqio_metrics
from parti.engine.monitoring import telemetry, watchdog
from parti.engine.step import eval_step, train_step


@dataclasses.dataclass(frozen=True)
class Training:
    """A training that was checked.

    Attributes:
      experiment: its settings.
      program: what runs on the devices.
      batches: the training data, opened.
      open_split: opens a split by its name.
      sampler: what draws SAMPLES, if there are to be any.
      task_metrics: what computes the metrics of seqio tasks, if they have any.
    """

    experiment: experiments.Experiment
    program: train_step.Program
    batches: datasets.Batches
    open_split: Callable[[str], datasets.Batches]
    sampler: sample_grids.Sampler | None
    task_metrics: seqio_metrics.TaskMetrics | None

    @functools.cached_property
    def step_flops(self) -> int | None:
        """Model FLOPs of a step; None, with a line in the log, where they are not known."""
        return telemetry.model_flops(self.experiment.model, self.program.element_spec)


def prepare(
    experiment: experiments.Experiment,
    devices: Sequence[jax.Device] | None = None,
    dog: watchdog.Watchdog | None = None,
) -> Training:
    """Opens the data, builds the program, and checks settings, devices, SAMPLES and BEST_METRIC.

    Args:
      experiment: what to train.
      devices: the devices to use; all by default.
      dog: is told what goes on.

    Raises:
      ValueError, OSError: something does not fit or is not there; nothing was written.
    """
    dog = dog or watchdog.Watchdog(0)
    open_split = functools.partial(
        experiment.data_source.open,
        batch_size=experiment.batch_size,
        seed=experiment.data_seed,
        model=experiment.model,
    )
    with dog.stage(watchdog.OPENING):
        batches = open_split(datasets.TRAIN)
        if experiment.eval_period:
            open_split(datasets.VALIDATION)
    with dog.stage(watchdog.PREPARING):
        program = train_step.prepare(experiment, batches.element_spec, devices)
        sampler = None
        if drawn := experiment.samples:
            sampler = sample_grids.Sampler(drawn, experiment.model, experiment.config, program.mesh)
        measures = _task_metrics(experiment, program)
        if experiment.best_metric and not measures:
            with program.context():
                eval_step.check_metric(experiment.best_metric, program)
    return Training(experiment, program, batches, open_split, sampler, measures)


def _task_metrics(
    experiment: experiments.Experiment, program: train_step.Program
) -> seqio_metrics.TaskMetrics | None:
    source = experiment.data_source
    if not experiment.eval_period or not seqio_metrics.have_metrics(source):
        return None
    num_examples = experiment.eval_steps * experiment.batch_size
    return seqio_metrics.TaskMetrics(
        source, experiment.model, program, experiment.batch_size, num_examples
    )


def initial_values(
    experiment: experiments.Experiment, program: train_step.Program
) -> dict[str, Any]:
    """Returns what INITIAL gives the first step, on the host; says so in the log.

    Raises:
      ValueError: it does not fit, or leaves a frozen branch at its random start.
      FileNotFoundError: there is no such training, or it has not finished.
    """
    wanted = {"params": program.abstract.params, **program.abstract.mutables}
    given = experiment.initial.load(wanted) if experiment.initial else {}
    warm_start.check_frozen(experiment.model.frozen, wanted, given)
    for line in experiment.initial.describe(given) if experiment.initial else ():
        multihost.log(f"[train] {line}")
    return given
