# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""LPIPS: the distance between two images in the features of a frozen VGG16.

Source: Zhang et al. (arXiv 1801.03924) section 3.1 and equation 1, in the version 0.1 of the
authors, which scales its input; VGG16 is configuration D of Simonyan and Zisserman (arXiv
1409.1556), table 1.

Variables, all float32:

    {'conv1_1': {'kernel': [3, 3, in, out], 'bias': [out]}, ... 'conv5_3': ...,
     'head1': {'weight': [64]}, ... 'head5': {'weight': [512]}}
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from parti.models import base

Variables = Mapping[str, Any]

# Output channels and convolutions of each block; the last ReLU of a block is a tap.
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# The fifth tap comes after four halvings.
MIN_SIZE = 2 ** (len(BLOCKS) - 1)
# What the authors take from, and divide by, pixels in [-1, 1]: ImageNet's mean and deviation.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_LEAST_SQUARE = 1e-20  # of the norm of a feature vector


def shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns the shape of each variable, convolutions in the order in which they are computed."""
    result: dict[str, dict[str, tuple[int, ...]]] = {}
    channels = 3
    for i, (width, count) in enumerate(BLOCKS, 1):
        for j in range(1, count + 1):
            kernel = (3, 3, channels, width)
            result[f"conv{i}_{j}"] = {"kernel": kernel, "bias": (width,)}
            channels = width
    for i, (width, _) in enumerate(BLOCKS, 1):
        result[f"head{i}"] = {"weight": (width,)}
    return result


def distance(variables: Variables, images: jax.Array, others: jax.Array) -> jax.Array:
    """Computes the LPIPS distance of each pair of images.

    At each tap both images' features are scaled to unit norm over the channels; the squared
    differences are weighted by the tap's head and summed over channels, averaged over space, and
    summed over the five taps. With all weights 1 a tap gives 2 - 2 cosine, the mean over space.

    The images are [batch, height, width, 3] in [-1, 1], both sides at least 16 px. Each of the two
    gets a gradient, computed only where it is asked for; the variables get none. A distance is
    >= 0 and, except for rounding, 0 for equal images.
    """
    check_pairs(images, others, MIN_SIZE)
    variables = jax.lax.stop_gradient(variables)
    pairs = zip(features(variables, images), features(variables, others))
    total = jnp.zeros(images.shape[0], jnp.float32)
    for i, (one, other) in enumerate(pairs, 1):
        squares = jnp.square(unit_norm(one) - unit_norm(other))
        total += jnp.mean(squares @ variables[f"head{i}"]["weight"], axis=(1, 2))
    return total


def features(variables: Variables, images: jax.Array) -> Iterator[jax.Array]:
    """Yields VGG16's relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 of images in [-1, 1].

    Each is [batch, height / 2^i, width / 2^i, channels], sides rounded down, i from 0 to 4.
    """
    x = (images.astype(jnp.float32) - jnp.asarray(_SHIFT)) / jnp.asarray(_SCALE)
    for i, (_, count) in enumerate(BLOCKS, 1):
        if i > 1:
            x = _halve(x)
        for j in range(1, count + 1):
            layer = variables[f"conv{i}_{j}"]
            x = jax.lax.conv_general_dilated(
                x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + layer["bias"])
        yield x


def unit_norm(x: jax.Array) -> jax.Array:
    """Scales to unit norm over the last axis; zeros stay zeros and give a gradient of zero."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return jnp.where(square > 0, x * jax.lax.rsqrt(jnp.maximum(square, _LEAST_SQUARE)), 0.0)


def check_pairs(images: jax.Array, others: jax.Array, min_size: int) -> None:
    """Raises ValueError unless two batches are images of one shape, `min_size` pixels or more."""
    base.check_images(images)
    base.check_images(others, name="others")
    if images.shape != others.shape:
        raise ValueError(
            f"images have shape {tuple(images.shape)} and others {tuple(others.shape)}; "
            "give pairs of one shape"
        )
    if min(images.shape[1:3]) < min_size:
        raise ValueError(
            f"images are {images.shape[1]} x {images.shape[2]} px; this perceptual distance takes "
            f"sides of at least {min_size} px: enlarge them, or leave the perceptual loss out"
        )


def _halve(x: jax.Array) -> jax.Array:
    """Takes the greatest of each 2 x 2 pixels; an odd last row or column is left out."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
