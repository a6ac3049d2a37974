# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Convolutions with an equalised learning rate, and the low-pass filter before downsampling.

Source: Progressive GAN (arXiv 1710.10196) section 4.1 for the equalised learning rate; StyleGAN2
(arXiv 1912.04958) for the filter, after arXiv 1904.11486.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = jax.Array

BLUR_FILTER = (1.0, 3.0, 3.0, 1.0)


class EqualizedConv(nn.Module):
    """A convolution whose kernel starts as N(0, 1) and is divided by sqrt(fan_in) when it is used.

    An optimizer that normalises gradients, such as Adam, then changes all layers at one speed
    relative to their size, whatever their fan-in. The computation is in the input's dtype.
    """

    num_channels: int
    kernel_size: int  # side of the square kernel
    stride: int = 1
    padding: str = "SAME"  # with zeros, or 'VALID'
    use_bias: bool = True  # which starts at 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [batch, height, width, in] to [batch, height, width, num_channels]."""
        partitioned = nn.with_logical_partitioning
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.num_channels)
        init = partitioned(nn.initializers.normal(1.0), (None, None, None, "channels"))
        kernel = self.param("kernel", init, shape) / math.sqrt(math.prod(shape[:3]))
        y = jax.lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if not self.use_bias:
            return y
        init = partitioned(nn.initializers.zeros, ("channels",))
        return y + self.param("bias", init, shape[-1:]).astype(x.dtype)


def blur(x: Array, padding: tuple[int, int], stride: int = 1) -> Array:
    """Low-passes each channel with [1, 3, 3, 1] / 8, then keeps every `stride`-th pixel.

    The filter has an even length: output i is centred half a pixel after the input's pixel
    stride * i - before + 1. Four shifted copies are added along each side, which XLA does
    far faster on a CPU than a depthwise convolution.

    Maps [batch, height, width, channels], with `padding` (before, after) rows and columns of zeros,
    to [batch, (height + before + after - 4) // stride + 1, the same of width, channels].
    """
    for axis in (1, 2):
        pads = [padding if axis == other else (0, 0) for other in range(x.ndim)]
        padded = jnp.pad(x, pads)
        span = (padded.shape[axis] - len(BLUR_FILTER)) // stride * stride + 1
        shifted = (
            weight / sum(BLUR_FILTER) * jax.lax.slice_in_dim(padded, k, k + span, stride, axis)
            for k, weight in enumerate(BLUR_FILTER)
        )
        x = functools.reduce(jnp.add, shifted)
    return x
