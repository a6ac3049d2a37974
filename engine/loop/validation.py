# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Validation while a model trains: metrics on the validation split, summaries, samples.

It changes neither the state nor the random numbers of the training.
"""

import itertools
from collections.abc import Callable, Mapping

import jax
import numpy as np

from parti.engine.distributed import multihost
from parti.engine.input import datasets
from parti.engine.loop import sample_grids, setup
from parti.engine.monitoring import metrics_log, watchdog
from parti.engine.step import eval_step, train_state
from parti.models import base


def measure(
    training: setup.Training,
    state: train_state.TrainState,
    heartbeat: Callable[[], None] = lambda: None,
) -> tuple[dict[str, float], base.Summaries]:
    """Returns the metrics of the validation split, and what the model shows of its first batch.

    `heartbeat` is called after each batch.
    """
    experiment, program = training.experiment, training.program
    sets = {name: iter(opened) for name, opened in training.open_validation().items()}
    name, batches = next(iter(sets.items()))
    head = list(itertools.islice(batches, 1))
    sets[name] = itertools.chain(head, batches)
    steps, place = experiment.eval_steps, program.place
    values = eval_step.evaluate(program.eval, state, sets, steps, place, heartbeat)
    # As many rows as training holds gradients of at a time.
    size = experiment.batch_size // experiment.num_microbatches
    if size < experiment.batch_size:
        head = list(itertools.islice(training.open_validation(size)[name], 1))
    summaries = jax.device_get(program.summarize(state, place(head[0], size)))
    values |= {name: float(value) for name, value in summaries.scalars.items()}
    if training.task_metrics:
        values |= training.task_metrics.evaluate(state, heartbeat)
    return values, summaries


class Validation:
    """Evaluates a training and draws its samples."""

    def __init__(
        self, training: setup.Training, log: metrics_log.MetricsLog, monitor: watchdog.Watchdog
    ) -> None:
        self._training, self._log, self._monitor = training, log, monitor
        self._last: tuple[int, dict[str, float]] = (0, {})

    def is_due(self, step: int) -> bool:
        """Returns whether there is an evaluation after a step."""
        return self._at(step, self._training.experiment.eval_period)

    def draws_at(self, step: int) -> bool:
        """Returns whether samples are drawn after a step."""
        experiment = self._training.experiment
        if experiment.samples is None:
            return False
        return self._at(step, experiment.samples.period or experiment.eval_period)

    def left_out(self, step: int) -> tuple[bool, bool]:
        """Returns whether a signal left out the evaluation, and the samples, due after a step."""
        shown, split = sample_grids.NAME, datasets.VALIDATION
        evaluation = step > 0 and self.is_due(step) and not self._log.has(step, split)
        return evaluation, step > 0 and self.draws_at(step) and not self._log.has_shown(step, shown)

    def metrics_at(self, step: int) -> Mapping[str, float] | None:
        """Returns the validation metrics of a step, None if it was not evaluated."""
        evaluated, values = self._last
        return values if evaluated == step else None

    def evaluate(self, step: int, state: train_state.TrainState) -> Mapping[str, float]:
        """Returns and logs the metrics; writes the model's summaries of the first batch."""
        best_metric = self._training.experiment.best_metric
        with self._monitor.stage(watchdog.EVALUATING):
            values, summaries = measure(self._training, state, self._monitor.heartbeat)
            eval_step.check_best_metric(best_metric, values)
            self._log.write(step, datasets.VALIDATION, values)
            if multihost.is_first():
                source = self._training.experiment.data_source
                texts = {
                    name: {
                        who: datasets.texts(source, np.asarray(ids)) for who, ids in columns.items()
                    }
                    for name, columns in summaries.texts.items()
                }
                self._log.writer.show(step, datasets.VALIDATION, summaries, texts)
        self._last = (step, values)
        return values

    def draw(self, step: int, state: train_state.TrainState) -> None:
        """Draws the samples."""
        if sampler := self._training.sampler:
            with self._monitor.stage(watchdog.SAMPLING):
                sampler.show(step, state.params, self._log.writer, self._monitor.heartbeat)

    def _at(self, step: int, period: int) -> bool:
        last = step == self._training.experiment.train_steps
        return period > 0 and (last or step % period == 0)
