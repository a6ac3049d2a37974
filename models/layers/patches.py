# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Images to sequences of patches and back."""

import jax

Array = jax.Array


def grid_size(image_size: int, patch_size: int) -> int:
    """Returns the patches along one side of a square image; both sizes are in pixels.

    Raises:
      ValueError: A size is under 1, or the image's is not a multiple of the patch's.
    """
    if patch_size < 1 or image_size < 1 or image_size % patch_size:
        raise ValueError(
            f"image_size {image_size} does not divide into patches of patch_size {patch_size}; "
            "make image_size a multiple of patch_size"
        )
    return image_size // patch_size


def patchify(images: Array, patch_size: int) -> Array:
    """Cuts images into square patches in raster order.

    Maps [batch, height, width, channels] to [batch, rows * columns, patch_size ** 2 * channels].

    Raises:
      ValueError: The sides are not multiples of the patch size.
    """
    batch, height, width, channels = images.shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"image of {height}x{width} pixels does not divide into patches of {patch_size} "
            "pixels; resize it or change patch_size"
        )
    rows, columns = height // patch_size, width // patch_size
    x = images.reshape(batch, rows, patch_size, columns, patch_size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * columns, patch_size * patch_size * channels)


def unpatchify(patches: Array, grid: tuple[int, int], patch_size: int) -> Array:
    """Puts patches of a grid (rows, columns) back together; the inverse of `patchify`."""
    batch, rows, columns = patches.shape[0], *grid
    x = patches.reshape(batch, rows, columns, patch_size, patch_size, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * patch_size, columns * patch_size, -1)
