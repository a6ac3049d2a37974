# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parts of a batch: their rows, their sums, their keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parti.models.layers import gradient_cache


def test_rows_stay_in_order_and_sums_add_up() -> None:
    batch = {"x": jnp.arange(12.0).reshape(6, 2)}
    seen = []

    def double(part: dict, rng: None) -> tuple:
        assert rng is None
        seen.append(part["x"].shape)
        return {"y": 2 * part["x"]}, (part["x"].sum(), jnp.ones(()))

    rows, (total, parts) = gradient_cache.map_parts(double, batch, 3)
    np.testing.assert_array_equal(rows["y"], 2 * batch["x"])
    assert float(total) == 66 and float(parts) == 3 and set(seen) == {(2, 2)}
    rows, (total, parts) = gradient_cache.map_parts(double, batch, 1)
    np.testing.assert_array_equal(rows["y"], 2 * batch["x"])
    assert float(total) == 66 and float(parts) == 1 and seen[-1] == (6, 2)


def test_part_i_has_rows_i_and_key_i() -> None:
    def draw(part: jax.Array, rng: jax.Array) -> tuple:
        return (part, jax.random.uniform(rng, (2,))), jnp.zeros(())

    key = jax.random.PRNGKey(3)
    (rows, drawn), _ = gradient_cache.map_parts(draw, jnp.arange(6), 3, key)
    np.testing.assert_array_equal(rows, np.arange(6))
    for part in range(3):  # rows i and i + 3
        expected = jax.random.uniform(jax.random.fold_in(key, part), (2,))
        np.testing.assert_array_equal(drawn[part::3], expected)


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(
        ValueError, match="a batch of 5 examples does not divide into 2 equal parts"
    ):
        gradient_cache.map_parts(lambda part, rng: (part, ()), jnp.zeros(5), 2)
