# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Normalisation without parameters."""

import jax
import jax.numpy as jnp


def unit_norm(x: jax.Array) -> jax.Array:
    """Scales the last axis of [..., dim] to unit length, in float32; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))
