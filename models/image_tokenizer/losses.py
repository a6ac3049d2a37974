# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses and measures of the image tokenizer. Pixels are in [-1, 1]."""

import jax
import jax.numpy as jnp


def squared_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns ||x - y||^2, summed over the last axis and averaged over the others, as a scalar."""
    return jnp.mean(jnp.sum(jnp.square(x - y), axis=-1))


def l2_loss(reconstructions: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the mean squared error of pixels in [-1, 1], as a scalar.

    Source: ViT-VQGAN (arXiv 2110.04627) section 3.3, weight 1.0.
    """
    return jnp.mean(jnp.square(reconstructions.astype(jnp.float32) - images))


def psnr(images: jax.Array, references: jax.Array) -> jax.Array:
    """Returns the peak signal-to-noise ratio of each image, in dB.

    Args:
      images: [batch, height, width, channels]; clipped to [-1, 1] here.
      references: the same shape, in [-1, 1].

    Returns:
      [batch] in dB, at most 100: 10 log10(peak^2 / mean squared error), the peak being 2.
    """
    error = jnp.square(jnp.clip(images.astype(jnp.float32), -1.0, 1.0) - references)
    mse = jnp.mean(error, axis=tuple(range(1, error.ndim)))
    return 10.0 * jnp.log10(4.0 / jnp.maximum(mse, 4e-10))
