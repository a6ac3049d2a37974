# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The image tokenizer's losses against plain numpy, and as what they claim to be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parti.models import losses as shared_losses
from parti.models.image_tokenizer import losses


def test_weighted_sum_and_l2_by_hand():
    x, y = jnp.asarray([[[1.0, 2.0], [0.0, 0.0]]]), jnp.asarray([[[0.0, 0.0], [0.0, 2.0]]])
    assert float(shared_losses.l2_loss(x, y)) == pytest.approx((1 + 4 + 4) / 4)
    terms = {"l2_loss": 2.0, "codebook_loss": 3.0, "commitment_loss": 4.0}
    assert losses.LossWeights().weigh(terms) == {**terms, "commitment_loss": 0.25 * 4.0}


def test_pixels_are_mapped_as_in_dall_e():
    pixels = jnp.asarray([-1.0, 0.0, 1.0])
    np.testing.assert_allclose(losses.map_pixels(pixels), [0.1, 0.5, 0.9], rtol=1e-6)
    np.testing.assert_allclose(losses.unmap_pixels(losses.map_pixels(pixels)), pixels, atol=1e-6)
    np.testing.assert_allclose(losses.unmap_pixels(jnp.asarray([0.0, 1.0])), [-1.25, 1.25])


def test_logit_laplace_loss_equals_numpy():
    rng = np.random.default_rng(0)
    shape = (2, 4, 4, 3)
    mean, log_scale = rng.normal(size=shape), rng.normal(size=shape)
    images = rng.uniform(-1, 1, shape)
    x, b = 0.8 * (images + 1) / 2 + 0.1, np.exp(log_scale)
    density = np.exp(-np.abs(np.log(x / (1 - x)) - mean) / b) / (2 * b * x * (1 - x))
    arrays = [jnp.asarray(a, jnp.float32) for a in (mean, log_scale, images)]
    loss = losses.logit_laplace_loss(losses.LogitLaplace(*arrays[:2]), arrays[2])
    assert float(loss) == pytest.approx(-np.log(density).mean(), rel=1e-5)


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, 0.0), (1.5, -1.0), (-0.5, -2.0)])
def test_logit_laplace_is_a_density(mean, log_scale):
    """exp(-loss) integrates to 1 over (0, 1), of which pixels take up [0.1, 0.9]."""
    x = jax.nn.sigmoid(jnp.linspace(-12.0, 12.0, 40_001))
    distribution = losses.LogitLaplace(mean, log_scale)
    loss_of_one = jax.vmap(functools.partial(losses.logit_laplace_loss, distribution))
    density = jnp.exp(-loss_of_one(losses.unmap_pixels(x)))
    assert np.trapezoid(density, x) == pytest.approx(1.0, abs=1e-3)
