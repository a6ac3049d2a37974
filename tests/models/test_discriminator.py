# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The discriminator: sizes, filter, groups, and the whole network against plain numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from quick_jit import once

from parti.models.adversarial import discriminator
from parti.models.layers import convolutions

TINY = discriminator.DiscriminatorConfig(channel_multiplier=1 / 256, max_channels=12)


def draw_params(model: discriminator.Discriminator, images: jax.Array, seed: int = 0):
    """Returns N(0, 1) for kernels and biases; compiling the initialisers would take far longer."""
    rng = np.random.default_rng(seed)
    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.PRNGKey(0), images))["params"]
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)


def random_images(num: int, size: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (num, size, size, 3)), "float32")


# Plain numpy: [batch, height, width, channels], loops over the taps of a filter.


def np_conv(x, kernel, stride, pad):
    x = np.pad(x, ((0, 0), pad, pad, (0, 0)))
    size = kernel.shape[0]
    rows, columns = ((side - size) // stride + 1 for side in x.shape[1:3])
    y = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
    for i in range(size):
        for j in range(size):
            taps = x[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
            y += taps[:, :rows, :columns] @ kernel[i, j]
    return y


def np_blur(x, pad, stride=1):
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    kernel = taps[:, :, None, None] * np.eye(x.shape[-1])
    return np_conv(x, kernel, stride, pad)


def np_layer(params, x, stride=1, pad=(0, 0)):
    kernel = np.asarray(params["kernel"], np.float64)
    y = np_conv(x, kernel / math.sqrt(kernel[..., 0].size), stride, pad)
    return y + np.asarray(params.get("bias", 0.0))


def np_activate(x):
    return math.sqrt(2) * np.where(x > 0, x, 0.2 * x)


def np_discriminator(params, x, group):
    x = np_activate(np_layer(params["stem"], x))
    for i in range(sum(name.startswith("block_") for name in params)):
        block = params[f"block_{i}"]
        y = np_activate(np_layer(block["conv_0"], x, pad=(1, 1)))
        y = np_activate(np_layer(block["conv_1"], np_blur(y, (2, 2)), stride=2))
        skip = np_layer(block["skip"], np_blur(x, (1, 1)), stride=2)
        x = (y + skip) / math.sqrt(2)
    levels = [np.sqrt(g.var(0) + 1e-8).mean() for g in np.split(x, len(x) // group)]
    channel = np.repeat(levels, group)[:, None, None, None] * np.ones((len(x), 4, 4, 1))
    x = np_activate(np_layer(params["last_conv"], np.concatenate([x, channel], -1), pad=(1, 1)))
    hidden = np.asarray(params["hidden"]["kernel"], np.float64)
    hidden = (
        x.reshape(len(x), -1) @ hidden.reshape(-1, hidden.shape[-1]) / hidden[..., 0].size ** 0.5
    )
    hidden = np_activate(hidden + params["hidden"]["bias"])
    last = np.asarray(params["logits"]["kernel"], np.float64)[0, 0]
    return (hidden @ last / len(last) ** 0.5 + params["logits"]["bias"])[:, 0]


def test_the_network_equals_numpy():
    model = discriminator.Discriminator(TINY)
    images = random_images(8, 16)
    params = draw_params(model, images)
    logits = once(model.apply)({"params": params}, images)
    assert logits.shape == (8,)
    assert logits.dtype == jnp.float32
    expected = np_discriminator(params, np.asarray(images, np.float64), group=4)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pad", "stride"), [((2, 2), 1), ((1, 1), 2), ((1, 1), 1), ((2, 1), 1)])
def test_blur_equals_numpy(pad, stride):
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    got = convolutions.blur(jnp.asarray(x, jnp.float32), pad, stride)
    np.testing.assert_allclose(got, np_blur(x, pad, stride), rtol=1e-5, atol=1e-6)


def test_blur_by_hand():
    """What upfirdn2d gives: an impulse becomes the filter, and a flat picture stays flat."""
    impulse = jnp.zeros((1, 7, 7, 1)).at[0, 3, 3, 0].set(64.0)
    spread = convolutions.blur(impulse, (2, 1))[0, :, :, 0]
    expected = np.zeros((7, 7))
    expected[2:6, 2:6] = np.outer([1, 3, 3, 1], [1, 3, 3, 1])
    np.testing.assert_allclose(spread, expected, rtol=1e-6)
    flat = convolutions.blur(jnp.ones((1, 8, 8, 1)), (1, 1), stride=2)
    assert flat.shape == (1, 4, 4, 1)
    np.testing.assert_allclose(flat[0, 1:-1, 1:-1], 1.0, rtol=1e-6)


def test_both_ways_of_a_block_are_centred_on_the_same_pixels():
    """On a ramp each way gives a ramp: the mean of the 2 x 2 pixels that an output stands for."""
    ramp = jnp.broadcast_to(jnp.arange(16.0)[None, :, None, None], (1, 16, 16, 1))
    skip = convolutions.blur(ramp, (1, 1), stride=2)
    middle = jnp.zeros((3, 3, 1, 1)).at[1, 1, 0, 0].set(1.0)
    main = np_conv(np.asarray(convolutions.blur(ramp, (2, 2))), np.asarray(middle), 2, (0, 0))
    centres = np.arange(8) * 2 + 0.5
    np.testing.assert_allclose(skip[0, 1:-1, 4, 0], centres[1:-1], rtol=1e-5)
    np.testing.assert_allclose(main[0, 1:-1, 4, 0], centres[1:-1], rtol=1e-5)


def test_equalised_learning_rate():
    """Kernels are N(0, 1); outputs of N(0, 1) inputs have unit variance."""
    layer = convolutions.EqualizedConv(64, 3, padding="VALID")
    x = jax.random.normal(jax.random.PRNGKey(1), (4, 16, 16, 32))
    params = nn.meta.unbox(layer.init(jax.random.PRNGKey(0), x))
    assert float(params["params"]["kernel"].std()) == pytest.approx(1.0, abs=0.02)
    assert float(layer.apply(params, x).std()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("batch", "wanted", "expected"),
    [(1, 4, 1), (2, 4, 2), (6, 4, 3), (8, 4, 4), (10, 4, 2), (5, 4, 5), (35, 4, 5), (8, 1, 1)],
)
def test_group_size(batch, wanted, expected):
    assert discriminator.group_size(batch, wanted) == expected


def test_minibatch_deviation_by_hand():
    x = jnp.asarray([0.0, 2.0, 5.0, 5.0])[:, None, None, None] * jnp.ones((4, 2, 2, 3))
    out = discriminator.minibatch_deviation(x, 2)
    assert out.shape == (4, 2, 2, 4)
    np.testing.assert_array_equal(out[..., :3], x)
    np.testing.assert_allclose(out[:2, :, :, 3], 1.0, rtol=1e-5)  # of 0 and 2
    np.testing.assert_allclose(out[2:, :, :, 3], 1e-4, rtol=1e-3)  # equal images
    alone = discriminator.minibatch_deviation(x[:1], 4)
    gradient = jax.grad(lambda x: discriminator.minibatch_deviation(x, 4).sum())(x[2:])
    assert np.isfinite(alone).all()
    assert np.isfinite(gradient).all()


def test_channels_of_stylegan2():
    config = discriminator.DiscriminatorConfig()
    assert config.block_channels(256) == (128, 256, 512, 512, 512, 512, 512)
    assert TINY.block_channels(32) == (2, 4, 8, 12)


def test_parameter_count_at_256_pixels():
    model = discriminator.Discriminator(discriminator.DiscriminatorConfig())
    images = jax.ShapeDtypeStruct((4, 256, 256, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), images)["params"]

    def block(inputs, outputs):  # 3x3 with bias, 3x3 with bias, 1x1 without
        return 9 * inputs**2 + inputs + 9 * inputs * outputs + outputs + inputs * outputs

    expected = 3 * 128 + 128 + block(128, 256) + block(256, 512) + 4 * block(512, 512)
    expected += 9 * 513 * 512 + 512  # 3x3 over the channels and the deviation
    expected += 16 * 512 * 512 + 512 + 512 + 1  # two linear layers
    assert expected == 28_864_129
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def test_parameters_have_axes():
    model = discriminator.Discriminator(TINY)
    boxed = jax.eval_shape(model.init, jax.random.PRNGKey(0), random_images(2, 8))
    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    leaves = jax.tree.leaves(boxed["params"], is_leaf=is_box)
    assert {box.names for box in leaves} == {(None, None, None, "channels"), ("channels",)}


@pytest.mark.parametrize("batch", [8, 16, 24])
def test_eight_devices_agree_with_one(batch):
    """Groups lie across devices: one, two and three images on each."""
    model = discriminator.Discriminator(TINY)
    images = random_images(batch, 8)
    params = draw_params(model, images)

    def logits_and_grads(params, images):
        def loss(params):
            logits = model.apply({"params": params}, images)
            return jnp.mean(jnp.square(logits)), logits

        grads, logits = jax.grad(loss, has_aux=True)(params)
        return logits, grads

    alone = once(logits_and_grads)(params, images)
    mesh = Mesh(jax.devices()[:8], ("data",))
    together = once(logits_and_grads)(
        jax.device_put(params, NamedSharding(mesh, PartitionSpec())),
        jax.device_put(images, NamedSharding(mesh, PartitionSpec("data"))),
    )
    assert not together[0].sharding.is_fully_replicated
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # noqa: E731
    jax.tree.map(compare, alone, together)


def test_mistakes_are_named():
    for size in (4, 48):
        with pytest.raises(ValueError, match=f"image_size is {size}, give a power of two"):
            TINY.block_channels(size)
    with pytest.raises(ValueError, match="max_channels is 0"):
        discriminator.DiscriminatorConfig(max_channels=0)
