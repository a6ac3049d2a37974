# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""NAN_POLICY: what becomes of a step whose loss or gradient is not a finite number.

'stop' ends the training; the checkpoints before that step are good. 'skip' leaves everything but
the step's number as it was, and ends the training only after more than MAX_SKIPPED_STEPS skipped
steps in a row. The device decides (`is_finite`, `keep_if`) without
the host in between; the host (`Watch`) reads the decision when it logs.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import clu.metrics
import jax
import jax.numpy as jnp
import numpy as np

from parti.engine import checkpoints

STOP, SKIP = "stop", "skip"
POLICIES = (STOP, SKIP)
SKIPPED = "skipped_steps"

Tree = TypeVar("Tree")


class NotFiniteError(RuntimeError):
    """The loss or its gradient is not a finite number, and NAN_POLICY allows no more of it."""


def is_finite(loss: jax.Array, grad_norm: jax.Array) -> jax.Array:
    """Returns whether a step can be taken: the norm is finite only if every gradient is."""
    return jnp.isfinite(loss) & jnp.isfinite(grad_norm)


def keep_if(condition: jax.Array, new: Tree, old: Tree) -> Tree:
    """Returns `new` if a scalar condition holds, else `old`, bitwise."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def skipped(finite: jax.Array) -> clu.metrics.Metric:
    """Returns the metric SKIPPED of one step."""
    return clu.metrics.Average.from_model_output(1.0 - finite)


class Watch:
    """Reads the metrics of finished steps: counts those skipped, ends what cannot go on."""

    def __init__(self, max_skipped_steps: int, store: checkpoints.Store) -> None:
        """Takes MAX_SKIPPED_STEPS; a training that goes on after an interruption counts anew."""
        self._max_skipped_steps, self._store = max_skipped_steps, store
        self._in_a_row = 0

    def taken(self, first: int, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns the metrics of the steps that were taken, without the metric SKIPPED.

        Args:
          first: the number of the first step.
          results: the metrics of each step, on the host.

        Raises:
          NotFiniteError: a step that was not skipped is not finite, or too many were skipped.
        """
        kept = []
        for step, metrics in enumerate(results, start=first):
            others = {name: metric for name, metric in metrics.items() if name != SKIPPED}
            if SKIPPED in metrics and float(metrics[SKIPPED].compute()):
                self._skip(step, others)
                continue
            self._in_a_row = 0
            if not _all_finite(others):
                raise NotFiniteError(
                    f"{_describe(step, others)}; {self._last_good()}. Lower LEARNING_RATE, change "
                    "DATA_SEED or set NAN_POLICY = 'skip', then run again: it goes on from there"
                )
            kept.append(others)
        return kept

    def _skip(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._in_a_row += 1
        print(f"[train] {_describe(step, metrics)}: skipped", file=sys.stderr)
        if self._in_a_row > self._max_skipped_steps:
            raise NotFiniteError(
                f"{self._in_a_row} steps in a row were not finite and skipped, up to step {step} "
                f"(MAX_SKIPPED_STEPS is {self._max_skipped_steps}); {self._last_good()}. Look "
                "at the data of these steps, or lower LEARNING_RATE, then run again"
            )

    def _last_good(self) -> str:
        self._store.wait()
        good = checkpoints.steps(self._store.directory)
        where = f"checkpoint_{good[-1]} is the last good one" if good else "no checkpoint yet"
        return f"{where} in {self._store.directory}"


def _values(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(metrics[name].compute()) for name in ("loss", "grad_norm", "update_norm")}


def _all_finite(metrics: Mapping[str, Any]) -> bool:
    return bool(np.isfinite(list(_values(metrics).values())).all())


def _describe(step: int, metrics: Mapping[str, Any]) -> str:
    text = ", ".join(f"{name} {value}" for name, value in _values(metrics).items())
    return f"step {step} is not finite ({text})"
