# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""WDSR-A: a residual network of weight-normalised convolutions with wide activations.

Source: WDSR (arXiv 1808.08718) section 3; sizes from Parti (arXiv 2206.10789) section 2.1, which
states 12 blocks of 128 channels and 15M parameters for x2, 30M for x4. Four-fold widening gives
14.2M, and x4 is two x2 networks in a row.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

Axes = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class SuperResolutionConfig:
    """Sizes of the upsampler."""

    # Height and width of the low-resolution image, in pixels; fixes no parameter
    image_size: int = 256
    scale: int = 2  # factor of one stage
    num_stages: int = 1  # networks in a row; the whole factor is `scale ** num_stages`
    num_channels: int = 128  # width of the residual stream
    num_blocks: int = 12  # residual blocks of a stage
    widening: int = 4  # width before each ReLU, as a multiple of `num_channels`
    dtype: str = "float32"  # of activations; weights and their norms are float32

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{field.name} is {value!r}; give a whole number of at least 1.")

    @property
    def total_scale(self) -> int:
        """The factor between the sides of the output and the input."""
        return self.scale**self.num_stages


class WeightNormConv(nn.Module):
    """A convolution (SAME, stride 1) whose kernel is gain * direction / ||direction||.

    The norm is over all axes except the output channels. Source: arXiv 1602.07868, equation 2.
    """

    num_channels: int
    kernel_size: int  # side of the square kernel
    axes: Axes  # logical names of the kernel's input and output channels
    gain: float = 1.0  # at the start; of unit-variance input it is the output's standard deviation
    direction_init: nn.initializers.Initializer = nn.initializers.normal(1.0)
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in] to [batch, height, width, num_channels]."""
        partitioned = nn.with_logical_partitioning
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.num_channels)
        direction = self.param(
            "direction", partitioned(self.direction_init, (None, None, *self.axes)), shape
        )
        gain = self.param(
            "gain", partitioned(nn.initializers.constant(self.gain), self.axes[-1:]), shape[-1:]
        )
        bias = self.param("bias", partitioned(nn.initializers.zeros, self.axes[-1:]), shape[-1:])
        norm = jnp.sqrt(jnp.sum(jnp.square(direction), axis=(0, 1, 2)))
        kernel = direction * (gain / jnp.maximum(norm, 1e-6))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + bias.astype(self.dtype)


def pixel_shuffle(x: jax.Array, scale: int) -> jax.Array:
    """Maps [batch, height, width, s * s * channels] to [batch, s * height, s * width, channels].

    Output pixel (s i + a, s j + b) is channel group s a + b of input pixel (i, j).
    """
    batch, height, width, depth = x.shape
    channels = depth // scale**2
    x = x.reshape(batch, height, width, scale, scale, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * scale, width * scale, channels)


def nearest_direction(
    rng: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """Initialises a convolution so that it and a pixel shuffle are nearest-neighbour upsampling."""
    del rng
    height, width, channels, depth = shape
    kernel = jnp.zeros(shape, dtype)
    identity = jnp.tile(jnp.eye(channels, dtype=dtype), (1, depth // channels))
    return kernel.at[height // 2, width // 2].set(identity)


class Wdsr(nn.Module):
    """One stage: [batch, height, width, 3] to [batch, s height, s width, 3].

    The global skip starts as nearest-neighbour upsampling and the tail's gain at 0, so an untrained
    network is exactly nearest-neighbour and training only has to improve on it.
    """

    config: SuperResolutionConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Upsamples images in [-1, 1]; the output is not clipped."""
        config = self.config
        depth = 3 * config.scale**2

        def conv(name: str, channels: int, size: int, axes: Axes, **kwargs: object) -> nn.Module:
            return WeightNormConv(channels, size, axes, dtype=config.dtype, name=name, **kwargs)

        x = conv("head", config.num_channels, 3, (None, "channels"))(images)
        for i in range(config.num_blocks):
            wide = config.num_channels * config.widening
            y = conv(f"expand_{i}", wide, 3, ("channels", "mlp"))(x)
            y = nn.with_logical_constraint(nn.relu(y), ("batch", None, None, "mlp"))
            axes, gain = ("mlp", "channels"), config.num_blocks**-0.5
            x = x + conv(f"reduce_{i}", config.num_channels, 3, axes, gain=gain)(y)
            x = nn.with_logical_constraint(x, ("batch", None, None, "channels"))
        tail = conv("tail", depth, 3, ("channels", None), gain=0.0)(x)
        skip = conv("skip", depth, 5, (None, None), direction_init=nearest_direction)(images)
        return pixel_shuffle((tail + skip).astype(jnp.float32), config.scale)


class SuperResolution(nn.Module):
    """`num_stages` WDSR networks in a row."""

    config: SuperResolutionConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Upsamples [batch, height, width, 3] in [-1, 1] by `config.total_scale`, not clipped."""
        for i in range(self.config.num_stages):
            images = Wdsr(self.config, name=f"stage_{i}")(images)
        return images
