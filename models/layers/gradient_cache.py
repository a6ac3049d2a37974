# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parts of a batch one after another, under a loss that compares all of its examples.

Only what the parts give, such as embeddings, is kept; the backward pass computes each part again.
The loss and its gradient are those of the whole batch, and the activations in memory a part's.

Source: GradCache (arXiv 2101.06983); here `jax.checkpoint` in a scan.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

Array = jax.Array
PyTree = Any


def map_parts(
    function: Callable[[PyTree, Array | None], tuple[PyTree, PyTree]],
    batch: PyTree,
    num_parts: int,
    rng: Array | None = None,
) -> tuple[PyTree, PyTree]:
    """Returns `function(batch, rng)`, computed in `num_parts` equal parts.

    Args:
      function: maps a part, arrays [batch / num_parts, ...], and its random key to rows, arrays
        with one row for each example, and sums over the examples, which are added up.
      batch: arrays [batch, ...].
      rng: each part folds its number into it, so that another number of parts is another draw.
        With 1 part the function gets it as it is; None stays None.

    Part i takes rows i, i + num_parts, ...: of rows that are divided over devices each device then
    has as many in each part, and none moves.

    Raises:
      ValueError: the batch does not divide into so many parts.
    """
    if num_parts == 1:
        return function(batch, rng)
    size = len(jax.tree.leaves(batch)[0])
    if size % num_parts:
        raise ValueError(f"a batch of {size} examples does not divide into {num_parts} equal parts")

    def divided(x: Array) -> Array:
        return x.reshape(size // num_parts, num_parts, *x.shape[1:]).swapaxes(0, 1)

    def joined(x: Array) -> Array:
        return x.swapaxes(0, 1).reshape(size, *x.shape[2:])

    @jax.checkpoint
    def compute(part: PyTree, number: Array) -> tuple[PyTree, PyTree]:
        part = jax.tree.map(
            lambda x: nn.with_logical_constraint(x, ("batch",) + (None,) * (x.ndim - 1)), part
        )
        return function(part, None if rng is None else jax.random.fold_in(rng, number))

    def body(carry: None, given: tuple[PyTree, Array]) -> tuple[None, tuple[PyTree, PyTree]]:
        return carry, compute(*given)

    parts = jax.tree.map(divided, batch)
    _, (rows, sums) = jax.lax.scan(body, None, (parts, jax.numpy.arange(num_parts)))
    return jax.tree.map(joined, rows), jax.tree.map(lambda x: x.sum(axis=0), sums)
