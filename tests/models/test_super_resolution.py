# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The upsampler: sizes, weight norm and pixel shuffle by hand, and that it beats interpolation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from parti.models.super_resolution import model as super_resolution
from parti.models.super_resolution import network

TINY = network.SuperResolutionConfig(image_size=8, num_channels=8, num_blocks=2, widening=2)


def new_batch(scale: int = 2, num: int = 4) -> dict[str, jax.Array]:
    """Returns random smooth images and their nearest-neighbour reduction."""
    coarse = jax.random.uniform(jax.random.key(5), (num, 4, 4, 3), minval=-1.0, maxval=1.0)
    images = jax.image.resize(coarse, (num, 8 * scale, 8 * scale, 3), "bicubic").clip(-1, 1)
    return {"images": images, "low_resolution_images": images[:, ::scale, ::scale]}


def start(model: super_resolution.SuperResolutionModel, batch: dict) -> dict:
    shapes = {name: value.shape for name, value in batch.items()}
    return model.get_initial_variables(jax.random.PRNGKey(0), shapes)


@pytest.mark.parametrize(("num_stages", "millions"), [(1, 14.2), (2, 28.4)])
def test_parameter_counts_of_the_paper(num_stages, millions):
    config = network.SuperResolutionConfig(num_stages=num_stages)
    model = super_resolution.SuperResolutionModel(config)
    side = 8 * config.total_scale
    shapes = {"images": (1, side, side, 3), "low_resolution_images": (1, 8, 8, 3)}
    assert config.total_scale == 2**num_stages
    assert round(model.num_params(shapes) / 1e6, 1) == millions


def test_pixel_shuffle_by_hand():
    x = jnp.arange(8.0).reshape(1, 1, 2, 4)
    expected = [[0, 1, 4, 5], [2, 3, 6, 7]]
    np.testing.assert_array_equal(network.pixel_shuffle(x, 2)[0, :, :, 0], expected)


def test_weight_norm_equals_plain_numpy():
    conv = network.WeightNormConv(num_channels=5, kernel_size=1, axes=(None, None), gain=2.0)
    x = jax.random.normal(jax.random.key(1), (2, 3, 3, 4))
    variables = jax.tree.map(lambda x: x, conv.init(jax.random.key(0), x))
    direction = np.asarray(variables["params"]["direction"].unbox()[0, 0])
    kernel = 2.0 * direction / np.linalg.norm(direction, axis=0)
    np.testing.assert_allclose(conv.apply(variables, x), np.asarray(x) @ kernel, rtol=1e-4)


@pytest.mark.parametrize("num_stages", [1, 2])
def test_untrained_it_is_nearest_neighbour(num_stages):
    config = network.SuperResolutionConfig(num_channels=4, num_blocks=1, num_stages=num_stages)
    model = super_resolution.SuperResolutionModel(config)
    batch = new_batch(config.total_scale, num=2)
    upsampled = model.upsample(start(model, batch), batch["low_resolution_images"])
    nearest = jax.image.resize(batch["low_resolution_images"], upsampled.shape, "nearest")
    np.testing.assert_allclose(upsampled, nearest, atol=1e-5)


@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_training_beats_interpolation(loss):
    model = super_resolution.SuperResolutionModel(TINY, reconstruction_loss=loss)
    batch = new_batch()
    params = start(model, batch)["params"]
    optimizer = optax.adam(3e-3)

    @jax.jit
    def train_step(params, state):
        grads, metrics = jax.grad(model.loss_fn, has_aux=True)(params, batch, None)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, metrics

    state = optimizer.init(params)
    for _ in range(200):
        params, state, metrics = train_step(params, state)
    values = {name: float(metric.compute()) for name, metric in metrics.items()}
    assert values["psnr"] > max(values["psnr_nearest"], values["psnr_bicubic"]) + 1.0
    upsampled = model.upsample({"params": params}, batch["low_resolution_images"])
    assert upsampled.shape == batch["images"].shape
    assert np.abs(upsampled).max() <= 1.0
    scores = model.score_batch(params, batch)
    np.testing.assert_allclose(np.mean(scores), model.eval_fn(params, batch)[1]["psnr"].compute())


def test_mistakes_are_named():
    model = super_resolution.SuperResolutionModel(TINY)
    batch = new_batch()
    variables = start(model, batch)
    with pytest.raises(ValueError, match="factor of 2"):
        model.loss_fn(variables["params"], {**batch, "images": batch["images"][:, :8]}, None)
    with pytest.raises(ValueError, match="uint8"):
        model.upsample(variables, jnp.zeros((1, 8, 8, 3), jnp.uint8))
    with pytest.raises(ValueError, match="height, width, 3"):
        model.upsample(variables, jnp.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="l2, l1"):
        super_resolution.SuperResolutionModel(TINY, reconstruction_loss="l3")
    with pytest.raises(ValueError, match="num_blocks is 0"):
        network.SuperResolutionConfig(num_blocks=0)
