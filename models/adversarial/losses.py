# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The losses of the two sides, and the R1 penalty."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def generator_loss(fake_logits: jax.Array) -> jax.Array:
    """Returns the mean of softplus(-D(fake)) over logits [batch]: -log of the share held for real.

    Source: the non-saturating loss of Goodfellow et al. (arXiv 1406.2661) section 3.
    """
    return jnp.mean(jax.nn.softplus(-fake_logits))


def discriminator_loss(fake_logits: jax.Array, real_logits: jax.Array) -> jax.Array:
    """Returns half the mean of softplus(D(fake)) + softplus(-D(real)), logits [batch] each.

    That is the cross-entropy, in nats, of telling the two apart; ln 2 by guessing. StyleGAN2 does
    not halve it; public re-implementations of ViT-VQGAN do.
    """
    fake, real = jax.nn.softplus(fake_logits), jax.nn.softplus(-real_logits)
    return 0.5 * (jnp.mean(fake) + jnp.mean(real))


def r1_penalty(discriminate: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
    """Computes the squared norm of the logit's gradient at real images [batch, height, width, 3].

    It is the sum over each image's values of the squared gradient, averaged over the batch;
    `discriminate` maps images to logits [batch].

    Source: Mescheder et al. (arXiv 1801.04406) equation 9.
    """
    gradients = jax.grad(lambda x: jnp.sum(discriminate(x)))(images)
    return jnp.mean(jnp.sum(jnp.square(gradients), axis=(1, 2, 3)))
