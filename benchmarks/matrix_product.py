# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The rate of a large matrix product: what other benchmarks hold a program's FLOP/s against."""

import time

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 2048


def rate(dtype: str) -> float:
    """Returns the FLOP/s of a product of two square matrices, the best of five."""
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(SIDE, SIDE)), dtype)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(matrix, matrix))

    def seconds() -> float:
        began = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        return time.perf_counter() - began

    return 2 * SIDE**3 / min(seconds() for _ in range(5))
