# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses and measures of the image tokenizer. Pixels are in [-1, 1]."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Factors of the losses, each named as its metric without `_loss`.

    Source: ViT-VQGAN (arXiv 2110.04627) sections 3.2 and 3.3.
    """

    l2: float = 1.0
    codebook: float = 1.0
    commitment: float = 0.25

    def total(self, terms: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the sum over terms of weight * term; `terms` maps `l2_loss` etc. to scalars."""
        return sum(getattr(self, name.removesuffix("_loss")) * x for name, x in terms.items())


def squared_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns ||x - y||^2, summed over the last axis and averaged over the others, as a scalar."""
    return jnp.mean(jnp.sum(jnp.square(x - y), axis=-1))


def l2_loss(reconstructions: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the mean squared error of pixels in [-1, 1], as a scalar.

    Source: ViT-VQGAN (arXiv 2110.04627) section 3.3, weight 1.0.
    """
    return jnp.mean(jnp.square(reconstructions.astype(jnp.float32) - images))
