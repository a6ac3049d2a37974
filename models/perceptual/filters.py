# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A perceptual distance without trained weights: oriented filters at several scales.

It stands in for LPIPS where no VGG16 file is given. It is this project's own; each part answers a
known trait of human vision:

1. Colour: luminance (R + G + B) / 3, red against green (R - G) / 2, and yellow against blue
   (R + G) / 4 - B / 2.
2. Filters, on 3 x 3 pixels of each colour channel: the first and the second derivative (edges and
   lines) across and along, and the mixed one (diagonals and corners). A derivative in one direction
   is smoothed in the other. All have mean 0: a shift of brightness or of colour over a wide area is
   no difference here (the L2 loss sees it).
3. Scales: the same at 1, 1/2, 1/4 and 1/8 of the size, as long as a side has 8 pixels.
4. Contrast: the responses at a pixel are scaled to unit norm over the filters, as LPIPS scales its
   features, above a floor: what counts is the pattern, not its strength, but noise below the floor
   is not made strong.
5. Local tolerance: besides the responses, the energy in each direction, sqrt(first^2 + second^2) or
   |mixed|, averaged over 2 x 2 pixels: a texture that has moved by a pixel has nearly the same
   energies, while a blurred one has lost those of the fine scales.

The distance is the squared difference of 4 and that of 5, half and half, averaged over pixels and
scales. It is in [0, 3]: like one tap of LPIPS with all weights 1 for the responses, and half of
that for the energies, which are not negative.

Variables: {'kernel': [3, 3, 3, 15]} float32, from RGB to the responses; always the same values.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parti.models.perceptual import network

Variables = Mapping[str, Any]

NAME = "oriented filters (in-house, no trained weights)"
MIN_SIZE = 8  # of an image, and of the smallest scale, in pixels
MAX_SCALES = 4
FLOOR = 0.2  # of the norm of the responses at a pixel; a full-range edge has about 2
_OPPONENTS = ((1 / 3, 1 / 3, 1 / 3), (1 / 2, -1 / 2, 0.0), (1 / 4, 1 / 4, -1 / 2))  # of R, G, B
_SMOOTH, _FIRST, _SECOND = (1.0, 2.0, 1.0), (-1.0, 0.0, 1.0), (1.0, -2.0, 1.0)
# Taps down and taps across: the first and second derivative across, both down, the mixed one.
_FILTERS = (
    (_SMOOTH, _FIRST),
    (_SMOOTH, _SECOND),
    (_FIRST, _SMOOTH),
    (_SECOND, _SMOOTH),
    (_FIRST, _FIRST),
)


def make_variables() -> dict[str, np.ndarray]:
    """Returns the filters, each of norm 1 in space; see the module."""
    kernels = [
        np.einsum("h,w,c->hwc", down, across, colour)
        / (np.linalg.norm(down) * np.linalg.norm(across))
        for colour in _OPPONENTS
        for down, across in _FILTERS
    ]
    return {"kernel": np.stack(kernels, axis=-1).astype(np.float32)}


def distance(variables: Variables, images: jax.Array, others: jax.Array) -> jax.Array:
    """Computes the distance of each pair of images; see the module.

    The images are [batch, height, width, 3] in [-1, 1], both sides at least 8 px. A distance is
    >= 0 and, except for rounding, 0 for equal images; its gradient is finite everywhere, and none
    reaches the variables.
    """
    network.check_pairs(images, others, MIN_SIZE)
    kernel = jax.lax.stop_gradient(variables["kernel"])
    total, count = jnp.zeros(images.shape[0], jnp.float32), 0
    for one, other in zip(_features(kernel, images), _features(kernel, others)):
        pixels = one.shape[1] * one.shape[2]
        total += jnp.sum(jnp.square(one - other), axis=(1, 2, 3)) / pixels
        count += 1
    return total / count  # each scale gives responses and energies: the mean is half and half


def num_scales(height: int, width: int) -> int:
    """Returns at how many scales images are compared: 3 at 32 px, 4 from 64 px."""
    side = min(height, width)
    return 1 + sum(side >> halvings >= MIN_SIZE for halvings in range(1, MAX_SCALES))


def _features(kernel: jax.Array, images: jax.Array) -> Iterator[jax.Array]:
    """Yields unit responses [batch, h, w, 15] and energies [batch, h / 2, w / 2, 9] by scale."""
    x = images.astype(jnp.float32)
    for scale in range(num_scales(*images.shape[1:3])):
        if scale:
            x = _halve(x)
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        responses = jax.lax.conv_general_dilated(
            padded, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        yield _unit_norm(responses)
        yield _unit_norm(_halve(_energies(responses)))


def _energies(responses: jax.Array) -> jax.Array:
    """Returns how strong each colour is across, down and diagonally: [..., 15] to [..., 9]."""
    squares = jnp.square(responses.reshape(*responses.shape[:-1], len(_OPPONENTS), len(_FILTERS)))
    across, down = squares[..., 0] + squares[..., 1], squares[..., 2] + squares[..., 3]
    energies = jnp.concatenate([across, down, squares[..., 4]], axis=-1)
    return jnp.sqrt(energies + FLOOR**2) - FLOOR  # the floor makes the gradient finite at 0


def _unit_norm(x: jax.Array) -> jax.Array:
    """Returns x / sqrt(||x||^2 + FLOOR^2), over the last axis."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + FLOOR**2)


def _halve(x: jax.Array) -> jax.Array:
    """Averages 2 x 2 pixels; an odd last row or column is left out."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return jnp.mean(x, axis=(2, 4))
