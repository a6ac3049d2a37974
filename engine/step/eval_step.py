# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluation during training: `eval_fn` over the first batches of the validation split."""

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import flax.core
import jax

from parti.engine.input import datasets
from parti.engine.step import train_state
from parti.models import base

Metrics = Mapping[str, Any]


def empty(name: str = "") -> str:
    """Returns what to do about a data set, with its name if it is one of several, without data."""
    return (
        f"the validation split{f' of {name}' if name else ''} is empty; give it data (of `parti "
        "clean`, a larger --validation_fraction), or set EVAL_PERIOD = 0"
    )


def eval_step(model: Any, constants: Any, state: train_state.TrainState, batch: Any) -> Metrics:
    """Returns the metrics of one batch; the state is not changed."""
    model = model.with_constants(constants)
    mutables = (flax.core.freeze(state.mutables),) if state.mutables else ()
    _, metrics = model.eval_fn(state.params, batch, *mutables)
    return dict(metrics)


def summarize(
    model: Any, constants: Any, state: train_state.TrainState, batch: Any
) -> base.Summaries:
    """Returns what a model shows of itself on a batch; jit it."""
    mutables = (state.mutables,) if state.mutables else ()
    return model.with_constants(constants).summaries(state.params, batch, *mutables)


def evaluate(
    step_fn: Callable[[train_state.TrainState, Any], Metrics],
    state: train_state.TrainState,
    sets: Mapping[str, Iterable[datasets.Batch]],
    num_batches: int,
    place: Callable[[datasets.Batch], Any],
    after_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Returns the metrics over the first batches of each data set, or all if it has fewer.

    `step_fn` is the jitted `eval_step` of a model; `sets` are {name: batches}; `place` puts a batch
    on the devices; `after_batch` is called when a batch is done, and the next one is at work.

    Returns:
      {metric: value} over the batches of all sets and, of each of several, {set/metric: value}.

    Raises:
      ValueError: a set has no batch.
    """
    results: dict[str, list[Metrics]] = {name: [] for name in sets}
    for name, batches in sets.items():
        for batch in itertools.islice(batches, num_batches):
            results[name].append(step_fn(state, place(batch)))
            jax.block_until_ready(results[name][-2:-1])
            after_batch()
        if not results[name]:
            raise ValueError(empty(name))
    gathered = jax.device_get(results)
    values = merge([row for rows in gathered.values() for row in rows])
    for name, rows in gathered.items() if len(gathered) > 1 else ():
        values |= {f"{name}/{metric}": value for metric, value in merge(rows).items()}
    return values


def merge(results: Sequence[Metrics]) -> dict[str, float]:
    """Returns the values of metrics gathered over several batches, already on the host."""
    return {
        name: float(functools.reduce(lambda a, b: a.merge(b), (m[name] for m in results)).compute())
        for name in results[0]
    }


def check_metric(name: str, program: Any, sets: Collection[str] = ()) -> None:
    """Raises ValueError if evaluations of a `train_step.Program` will not have BEST_METRIC.

    `sets` are the names of several data sets.
    """
    arguments = program.abstract, dict(program.element_spec)
    names = {*jax.eval_shape(program.eval, *arguments)}
    names |= {f"{of}/{metric}" for of in sets for metric in names}
    names |= {*jax.eval_shape(program.summarize, *arguments).scalars}
    check_best_metric(name, names)


def check_best_metric(name: str | None, names: Collection[str]) -> None:
    """Raises ValueError if BEST_METRIC is set and not among the metrics of an evaluation."""
    if name and name not in names:
        raise ValueError(
            f"BEST_METRIC {name!r} is no validation metric of this model; there are "
            f"{', '.join(sorted(names))}"
        )
