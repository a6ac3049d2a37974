# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""NAN_POLICY: the choices, and what a step does with a loss or gradient that is not finite.

`engine/loop/nan_recovery.py` is the host's part.
"""

from typing import TypeVar

import clu.metrics
import jax
import jax.numpy as jnp

STOP, SKIP, ROLL_BACK = "stop", "skip", "rollback"
POLICIES = (STOP, SKIP, ROLL_BACK)
# Metrics: steps skipped since the last log; rollbacks of the run so far.
SKIPPED, ROLLBACKS = "skipped_steps", "rollbacks"

Tree = TypeVar("Tree")


def is_finite(loss: jax.Array, grad_norm: jax.Array, update_norm: jax.Array) -> jax.Array:
    """Returns whether a step can be taken: a norm is finite only if everything in it is."""
    return jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(update_norm)


def keep_if(condition: jax.Array, new: Tree, old: Tree) -> Tree:
    """Returns `new` if a scalar condition holds, else `old`, bitwise."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def skipped(finite: jax.Array) -> clu.metrics.Metric:
    """Returns the metric SKIPPED of one step."""
    return clu.metrics.Average.from_model_output(1.0 - finite)
