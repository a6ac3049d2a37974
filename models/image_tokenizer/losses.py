# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses and measures of the image tokenizer. Pixels are in [-1, 1]."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from parti.models import losses as shared_losses

# The logit-laplace density is on (0, 1); pixels are kept this far from its ends.
LOGIT_LAPLACE_EPSILON = 0.1


@dataclasses.dataclass(frozen=True)
class LossWeights(shared_losses.Weights):
    """Factors of the losses.

    The paper's are these with 0.1 for `logit_laplace`, which needs a decoder with that output, for
    `perceptual`, and for `adversarial`, the factor of `generator_loss`, which brings a
    discriminator with it.

    Source: ViT-VQGAN (arXiv 2110.04627) sections 3.2 and 3.3.
    """

    l2: float = 1.0
    codebook: float = 1.0
    commitment: float = 0.25
    logit_laplace: float = 0.0
    perceptual: float = 0.0
    adversarial: float = 0.0


def squared_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns ||x - y||^2, summed over the last axis and averaged over the others, as a scalar."""
    return jnp.mean(jnp.sum(jnp.square(x - y), axis=-1))


def map_pixels(images: jax.Array) -> jax.Array:
    """Maps pixels from [-1, 1] to [0.1, 0.9], inside the support of the logit-laplace density.

    Source: DALL-E (arXiv 2102.12092) appendix A.3, which starts from [0, 1].
    """
    return (1.0 - 2.0 * LOGIT_LAPLACE_EPSILON) * (0.5 * images + 0.5) + LOGIT_LAPLACE_EPSILON


def unmap_pixels(values: jax.Array) -> jax.Array:
    """Maps values back to pixels: the inverse of `map_pixels`; (0, 1) gives (-1.25, 1.25)."""
    return 2.0 * (values - LOGIT_LAPLACE_EPSILON) / (1.0 - 2.0 * LOGIT_LAPLACE_EPSILON) - 1.0


class LogitLaplace(NamedTuple):
    """The distribution of each value of a pixel: mu and ln b, real numbers of one shape."""

    mean: jax.Array
    log_scale: jax.Array


def logit_laplace_loss(distribution: LogitLaplace, images: jax.Array) -> jax.Array:
    """Computes the mean negative log density of pixels under the logit-laplace distribution.

    With x in (0, 1) a mapped pixel, f(x | mu, b) = exp(-|logit(x) - mu| / b) / (2 b x (1 - x)): a
    Laplace distribution of logit(x), in the measure of x. It is a true density, so the loss, a mean
    over all values, is in nats and can be negative. Images are in [-1, 1].

    Source: DALL-E (arXiv 2102.12092) appendix A.3; weight 0.1 in ViT-VQGAN section 3.3.
    """
    mean, log_scale = distribution
    x = map_pixels(images.astype(jnp.float32))
    log_x, log_rest = jnp.log(x), jnp.log1p(-x)
    distance = jnp.abs(log_x - log_rest - mean) * jnp.exp(-log_scale)
    return jnp.mean(distance + log_scale + math.log(2.0) + log_x + log_rest)
