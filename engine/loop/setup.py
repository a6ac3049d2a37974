# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Opens and checks a training: all that can be refused of it is refused here.

Done once, before the run directory is touched, however often the training rolls back.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from parti.engine.config import provenance
from parti.engine.distributed import multihost
from parti.engine.experiment import experiments, warm_start
from parti.engine.input import datasets
from parti.engine.loop import sample_grids, seqio_metrics
from parti.engine.monitoring import summary_writer, telemetry, watchdog
from parti.engine.step import eval_step, train_state, train_step


@dataclasses.dataclass(frozen=True)
class Training:
    """A checked training."""

    experiment: experiments.Experiment
    program: train_step.Program
    batches: datasets.Batches  # the training data, opened: this process's rows
    # Opens the validation data, of batches of BATCH_SIZE or fewer, by data set; '' is a single one.
    open_validation: Callable[..., dict[str, datasets.Batches]]
    sampler: sample_grids.Sampler | None  # draws SAMPLES, if there are to be any
    task_metrics: seqio_metrics.TaskMetrics | None  # if seqio's tasks have any

    @functools.cached_property
    def step_flops(self) -> int | None:
        """Model FLOPs of a step; None, with a line in the log, where they are not known."""
        return telemetry.model_flops(self.experiment.model, self.program.element_spec)


def open_training(
    experiment: experiments.Experiment,
    devices: Sequence[jax.Device] | None = None,
    monitor: watchdog.Watchdog | None = None,
) -> Training:
    """Opens the data, builds the program, and checks settings, devices, SAMPLES and BEST_METRIC.

    By default it uses all devices. Raises ValueError or OSError if something does not fit or is not
    there; nothing was written.
    """
    summary_writer.check_installed(experiment.tensorboard)
    monitor, evaluates = monitor or watchdog.Watchdog(0), bool(experiment.eval_period)
    with monitor.stage(watchdog.OPENING):
        batches = _open(experiment, experiment.data_source, datasets.TRAIN)
        sets = _open_validation(experiment, lambda size: np.arange(1)) if evaluates else {}
        if evaluates and not sets:
            raise ValueError(eval_step.empty())
        for name, opened in sets.items():
            if not any(True for _ in opened):
                raise ValueError(eval_step.empty(name))
    with monitor.stage(watchdog.PREPARING):
        program = train_step.make_program(experiment, batches.element_spec, devices)
        batches.keep_rows(program.rows())
        open_validation = functools.partial(_open_validation, experiment, program.rows)
        sampler = None
        if drawn := experiment.samples:
            sampler = sample_grids.Sampler(drawn, experiment.model, experiment.config, program.mesh)
        task_metrics = None
        source = experiment.data_source
        if evaluates and seqio_metrics.have_metrics(source):
            num_examples = experiment.eval_steps * experiment.batch_size
            task_metrics = seqio_metrics.TaskMetrics(
                source, experiment.model, program, num_examples
            )
        if experiment.best_metric and not task_metrics:
            with program.context():
                several = sets if len(sets) > 1 else ()
                eval_step.check_metric(experiment.best_metric, program, several)
    return Training(experiment, program, batches, open_validation, sampler, task_metrics)


def _open(
    experiment: experiments.Experiment,
    source: datasets.Source,
    split: str,
    batch_size: int | None = None,
) -> datasets.Batches:
    size, seed = batch_size or experiment.batch_size, experiment.data_seed
    return source.open(split, batch_size=size, seed=seed, model=experiment.model)


def _open_validation(
    experiment: experiments.Experiment,
    rows: Callable[[int], np.ndarray],
    batch_size: int | None = None,
) -> dict[str, datasets.Batches]:
    """Returns {name: batches of the validation split} of the data sets that have one.

    `rows` says which rows of a batch of a size are to be read.
    """
    sources = datasets.validation_sources(experiment.data_source)
    sets = {
        name: _open(experiment, source, datasets.VALIDATION, batch_size)
        for name, source in sources.items()
    }
    for opened in sets.values():
        opened.keep_rows(rows(batch_size or experiment.batch_size))
    return sets


def open_checkpoint(
    experiment: experiments.Experiment,
    path: str,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[Training, train_state.TrainState]:
    """Opens what `open_without_optimizer` does, and a state with the variables of a checkpoint.

    `path` is all that `warm_start.WarmStart` takes. Raises also what `load_checkpoint` does.
    """
    training = open_without_optimizer(experiment, devices)
    program = training.program
    wanted = {"params": program.abstract.params, **program.abstract.mutables}
    given = load_checkpoint(path, wanted)
    init_rng, _ = train_step.initial_rngs(experiment.random_seed)
    with program.context():
        return training, program.init(init_rng, program.place_variables(given))


def open_without_optimizer(
    experiment: experiments.Experiment, devices: Sequence[jax.Device] | None = None
) -> Training:
    """Opens data and program of a model that is used but not trained; see `open_training`."""
    unused: dict[str, Any] = {"samples": None, "best_metric": "", "num_microbatches": 1}
    unused |= {"optimizer": optax.identity(), "ema_decay": 0.0}
    return open_training(dataclasses.replace(experiment, **unused), devices)


def load_checkpoint(path: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all variables of a checkpoint, on the host; see `warm_start.WarmStart.load`.

    Raises:
      ValueError: they are not those of the model.
      FileNotFoundError: there is no such checkpoint.
    """
    initial = warm_start.WarmStart(path, warm_start.ALL)
    try:
        return warm_start.load(initial, (), wanted, _log)
    except warm_start.MisfitError as error:
        raise ValueError(
            f"CHECKPOINT_PATH {path} is of another model: {error.details}. Give the experiment it "
            "was trained with, and the same sizes"
        ) from error


def load_initial(experiment: experiments.Experiment, program: train_step.Program) -> dict[str, Any]:
    """Returns the variables that INITIAL gives the first step; see `warm_start.load`."""
    wanted = {"params": program.abstract.params, **program.abstract.mutables}
    trained_on = provenance.data_fingerprints(experiment.config)
    return warm_start.load(experiment.initial, experiment.model.frozen, wanted, _log, trained_on)


def _log(line: str) -> None:
    multihost.log(f"[train] {line}")
