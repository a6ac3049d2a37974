# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The discriminator: StyleGAN2's residual network from images to one logit each.

All of it computes in float32, whatever the tokenizer's dtype: the R1 penalty is the square of a
gradient that is differentiated once more, and the minibatch deviation is a small difference of
activations; bfloat16 keeps three digits of neither.

Source: StyleGAN2 (arXiv 1912.04958) section 4.2 and appendix B; channels per resolution from its
published configuration F. ViT-VQGAN (arXiv 2110.04627) section 3.3 says only that its
discriminator is of this kind.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from parti.models.layers import convolutions

# Channels times resolution, before `channel_multiplier` and `max_channels`.
_CHANNELS_AT_ONE_PIXEL = 16384
_LAST_RESOLUTION = 4


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of the discriminator; the defaults are StyleGAN2's."""

    # A map of r x r pixels has 16384 * channel_multiplier / r channels: with 2, 128 at 256 pixels.
    channel_multiplier: float = 2.0
    max_channels: int = 512  # of any map
    # Images among which the standard deviation is taken, if the batch divides (see `group_size`)
    minibatch_group_size: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; give more than 0")

    def block_channels(self, image_size: int) -> tuple[int, ...]:
        """Returns the channels at image_size, image_size / 2, ..., 4 pixels.

        ValueError: the size is not a power of two of at least 8.
        """
        if image_size < 2 * _LAST_RESOLUTION or image_size & (image_size - 1):
            raise ValueError(
                f"the discriminator halves images down to {_LAST_RESOLUTION} pixels; image_size is "
                f"{image_size}, give a power of two of at least {2 * _LAST_RESOLUTION}"
            )
        num_maps = (image_size // _LAST_RESOLUTION).bit_length()
        wanted = _CHANNELS_AT_ONE_PIXEL * self.channel_multiplier
        widths = (int(wanted / (image_size >> halvings)) for halvings in range(num_maps))
        return tuple(max(1, min(self.max_channels, width)) for width in widths)


def group_size(batch_size: int, wanted: int) -> int:
    """Returns how many images of a batch are compared: a divisor of the batch's size.

    The largest divisor up to `wanted`, unless that is 1: then the smallest one above 1, so that
    images are still compared with others (5 images are one group of 5, 35 are seven groups of 5).
    """
    divisors = [size for size in range(1, batch_size + 1) if batch_size % size == 0]
    largest = max(size for size in divisors if size <= wanted)
    return largest if largest > 1 or wanted == 1 else divisors[min(1, len(divisors) - 1)]


def minibatch_deviation(x: jax.Array, wanted_group_size: int) -> jax.Array:
    """Appends a channel that says how much the images of a group differ.

    Groups are of successive images (see `group_size`). The standard deviation over a group,
    averaged over pixels and channels, is one number, given to all pixels of the group's images.
    Groups are of the global batch, so the result does not depend on how the batch is divided over
    devices; where each device holds whole groups, none waits for another. Maps [batch, height,
    width, channels] to [batch, height, width, channels + 1].

    Source: Progressive GAN (arXiv 1710.10196) section 3, with StyleGAN2's groups.
    """
    batch, height, width, _ = x.shape
    size = group_size(batch, wanted_group_size)
    groups = x.reshape(batch // size, size, *x.shape[1:])
    deviation = jnp.sqrt(jnp.var(groups, axis=1) + 1e-8)
    level = jnp.repeat(jnp.mean(deviation, axis=(1, 2, 3)), size)
    channel = jnp.broadcast_to(level[:, None, None, None], (batch, height, width, 1))
    return jnp.concatenate([x, channel], axis=-1)


def activate(x: jax.Array) -> jax.Array:
    """Returns sqrt(2) * leaky ReLU(x) of slope 0.2: about the variance of the input."""
    return math.sqrt(2.0) * nn.leaky_relu(x, 0.2)


class ResidualBlock(nn.Module):
    """Halves the resolution: two 3x3 convolutions plus a 1x1 one, divided by sqrt(2).

    Both ways blur before they drop every other pixel, and are padded so that an output is centred
    on the 2 x 2 pixels that it stands for.
    """

    num_channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in] to [batch, height / 2, width / 2, num_channels]."""
        conv = convolutions.EqualizedConv
        y = activate(conv(x.shape[-1], 3, name="conv_0")(x))
        y = convolutions.blur(y, (2, 2))
        y = activate(conv(self.num_channels, 3, stride=2, padding="VALID", name="conv_1")(y))
        skip = convolutions.blur(x, (1, 1), stride=2)
        skip = conv(self.num_channels, 1, use_bias=False, name="skip")(skip)
        return (y + skip) / math.sqrt(2.0)


class Discriminator(nn.Module):
    """1x1 stem, residual blocks down to 4 x 4 pixels, minibatch deviation, 3x3, two linear layers.

    A logit above 0 says that the image is real.
    """

    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images [batch, size, size, 3] in [-1, 1] to logits [batch]."""
        first, *others = self.config.block_channels(images.shape[1])
        conv = convolutions.EqualizedConv
        x = activate(conv(first, 1, name="stem")(images.astype(jnp.float32)))
        for i, channels in enumerate(others):
            x = ResidualBlock(channels, name=f"block_{i}")(x)
            x = nn.with_logical_constraint(x, ("batch", None, None, "channels"))
        x = minibatch_deviation(x, self.config.minibatch_group_size)
        channels = others[-1]
        x = activate(conv(channels, 3, name="last_conv")(x))
        # A convolution of the size of the map is a linear layer on all its values.
        x = activate(conv(channels, _LAST_RESOLUTION, padding="VALID", name="hidden")(x))
        return conv(1, 1, name="logits")(x)[:, 0, 0, 0]
