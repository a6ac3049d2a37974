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

EMPTY = (
    "the validation split is empty; give it data (of `parti clean`, a larger "
    "--validation_fraction), or set EVAL_PERIOD = 0"
)

Metrics = Mapping[str, Any]


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
    batches: Iterable[datasets.Batch],
    num_batches: int,
    place: Callable[[datasets.Batch], Any],
    after_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Returns the metrics over the first batches of a split, or all if it has fewer.

    `step_fn` is the jitted `eval_step` of a model; `place` puts a batch on the devices;
    `after_batch` is called when a batch is done, and the next one is at work.

    Raises:
      ValueError: the split has no batch.
    """
    results: list[Metrics] = []
    for batch in itertools.islice(batches, num_batches):
        results.append(step_fn(state, place(batch)))
        jax.block_until_ready(results[-2:-1])
        after_batch()
    if not results:
        raise ValueError(EMPTY)
    return merge(jax.device_get(results))


def merge(results: Sequence[Metrics]) -> dict[str, float]:
    """Returns the values of metrics gathered over several batches, already on the host."""
    return {
        name: float(functools.reduce(lambda a, b: a.merge(b), (m[name] for m in results)).compute())
        for name in results[0]
    }


def check_metric(name: str, program: Any) -> None:
    """Raises ValueError if evaluations of a `train_step.Program` will not have BEST_METRIC."""
    arguments = program.abstract, dict(program.element_spec)
    names = {*jax.eval_shape(program.eval, *arguments)}
    names |= {*jax.eval_shape(program.summarize, *arguments).scalars}
    check_best_metric(name, names)


def check_best_metric(name: str | None, names: Collection[str]) -> None:
    """Raises ValueError if BEST_METRIC is set and not among the metrics of an evaluation."""
    if name and name not in names:
        raise ValueError(
            f"BEST_METRIC {name!r} is no validation metric of this model; there are "
            f"{', '.join(sorted(names))}"
        )
