# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Upsampling of large images in windows, without seams: memory depends on the window only.

An output pixel depends on the low-resolution pixels within the network's receptive radius and on no
other. So of what the network makes of a window, the part that is that far from the window's edges
is what it makes of the whole image; the rest, the halo, is thrown away. At the image's own edges
there is no halo: windows never reach over them, so the network's zero padding is where it is for
the whole image, and no pixel is made up. All windows have one size, hence one compiled program.

    upsample = functools.partial(jax.jit(model.upsample), variables)
    large = tiling.upsample(upsample, images, model.config, window_size=256)
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from parti.models.super_resolution import network


class Span(NamedTuple):
    """A window along one axis, in low-resolution pixels."""

    start: int
    keep_from: int  # the first pixel that is taken from the window
    keep_to: int  # the first pixel behind those that are taken

    def kept(self, scale: int, origin: int = 0) -> slice:
        """Returns the slice of the kept pixels in an enlarged image that begins at `origin`."""
        return slice((self.keep_from - origin) * scale, (self.keep_to - origin) * scale)


def receptive_radius(config: network.SuperResolutionConfig) -> int:
    """Returns how far, in low-resolution pixels, an output pixel sees.

    A stage sees as far as its longest way: 3x3 head, two 3x3 convolutions a block, 3x3 tail; the
    5x5 skip sees 2. What a later stage sees, it sees in pixels that are `scale` times smaller.
    """
    of_a_stage = 2 + 2 * config.num_blocks
    radius = 0
    for _ in range(config.num_stages):  # from the last stage to the first
        radius = of_a_stage + -(-radius // config.scale)
    return radius


def check_window(config: network.SuperResolutionConfig, window_size: int, side: int) -> None:
    """Checks that windows are large enough for images whose longer side is `side`.

    Raises:
      ValueError: nothing would be left of a window; names the least size that works.
    """
    halo = receptive_radius(config)
    least = min(2 * halo + 1, side)
    if window_size < least:
        raise ValueError(
            f"windows of {window_size} pixels are too small: this upsampler sees {halo} pixels far "
            f"beyond each edge; give at least {least} for images of {side} pixels"
        )


def spans(length: int, window_size: int, halo: int) -> list[Span]:
    """Cuts an axis into windows, of whose kept parts each pixel is in one.

    A window has a size above 2 * halo, pixels that are not kept at its edges, unless an edge is one
    of the image; an axis that is no longer than a window is one span.
    """
    found, kept = [], 0
    while kept < length:
        start = max(min(kept - halo, length - window_size), 0)
        end = start + window_size
        keep_to = length if end >= length else end - halo
        found.append(Span(start, kept, keep_to))
        kept = keep_to
    return found


def upsample(
    upsample_fn: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    config: network.SuperResolutionConfig,
    window_size: int,
) -> np.ndarray:
    """Enlarges images window by window.

    The result equals that of the whole images up to float rounding.

    Args:
      upsample_fn: the network: [batch, height, width, 3] to [batch, scale height, scale width, 3],
        as `SuperResolutionModel.upsample` with its variables; called with one shape.
      images: [batch, height, width, 3] in [-1, 1], on the host, as is the result.
      config: of the network.
      window_size: side of a window, in low-resolution pixels; an axis of the images that is no
        longer is not cut.

    Raises:
      ValueError: the window is too small for what the network sees.
    """
    scale, halo = config.total_scale, receptive_radius(config)
    batch, height, width, channels = images.shape
    check_window(config, window_size, max(height, width))
    cuts = (spans(length, window_size, halo) for length in (height, width))
    large = np.empty((batch, height * scale, width * scale, channels), np.float32)
    for row, column in itertools.product(*cuts):
        top, left = row.start, column.start
        window = images[:, top : top + window_size, left : left + window_size]
        made = np.asarray(upsample_fn(window))
        inside = made[:, row.kept(scale, top), column.kept(scale, left)]
        large[:, row.kept(scale), column.kept(scale)] = inside
    return large
