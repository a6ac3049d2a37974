# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention masks: bool, True where a query may see a key, broadcast to [batch, heads, q, k].

Those in blocks, for `attention.blocked_attention`, are [batch, heads, blocks, size, before + size].
"""

from collections.abc import Sequence

import jax
import numpy as np

Array = jax.Array
Grid = tuple[int, int]  # rows, columns

# Queries of a block, at least: fewer make products too small, more see keys out of reach.
_BLOCK = 64


def padding_mask(key_tokens: Array, pad_id: int = 0) -> Array:
    """Returns [batch, 1, 1, length]: True for keys that are not padding."""
    return (key_tokens != pad_id)[:, None, None, :]


def segment_mask(segment_ids: Array) -> Array:
    """Returns [batch, 1, length, length]: True for keys of the query's segment.

    The ids [batch, length] int32 are 1, 2, ... for the texts packed in a sequence, 0 for padding,
    which nobody sees.
    """
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return (same & (segment_ids != 0)[:, None, :])[:, None]


def causal_mask(length: int) -> np.ndarray:
    """Returns [1, 1, length, length]: True for keys at or before the query."""
    return np.tril(np.ones((length, length), bool))[None, None]


def window_reach(window: int, grid: Grid) -> int:
    """Returns how many rows and columns away a key may be in a window; the whole grid for 0.

    Raises:
      ValueError: The window is negative or even.
    """
    if window < 0 or (window and window % 2 == 0):
        raise ValueError(
            f"local_window is {window}; it must be 0 (dense attention) or an odd number >= 1"
        )
    return window // 2 if window else max(grid)


def conv_local_mask(grid: Grid, window: int) -> np.ndarray:
    """Returns the convolution-shaped causal mask over image positions in raster order.

    Query (row, column) sees itself and the earlier positions of the window x window square around
    it. The square is cut at the grid's edges (no wraparound). Positions are those of the decoder's
    inputs: input position t predicts token t, and carries the embedding of token t - 1.

    A 3x3 window on a grid of 3 columns: the keys (x) that query q at row 1, column 1 sees:

        x x x
        x q .
        . . .

    The window is an odd width in tokens; 0 is the dense causal mask. The mask is [1, 1, length,
    length], length = rows * columns.

    Source: Parti section 2.2 names the mask; the 11 x 11 kernel is DALL-E's (arXiv 2102.12092,
    appendix B.1).
    """
    reach = window_reach(window, grid)
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    near = np.abs(rows[:, None] - rows[None, :]) <= reach
    near &= np.abs(columns[:, None] - columns[None, :]) <= reach
    return near[None, None] & causal_mask(grid[0] * grid[1])


def local_blocks(grid: Grid, windows: Sequence[int]) -> tuple[int, int] | None:
    """Returns (size, before): how `in_blocks` cuts masks of these windows, in positions.

    Blocks are whole rows of the grid. It is None where they would hold more than half of the mask,
    which saves too little.
    """
    rows, columns = grid
    in_block = next((n for n in range(1, rows + 1) if not rows % n and n * columns >= _BLOCK), rows)
    reach = max(window_reach(window, grid) for window in windows)
    if 2 * (in_block + reach) > rows:
        return None
    return in_block * columns, reach * columns


def in_blocks(mask: np.ndarray, size: int, before: int) -> np.ndarray:
    """Cuts a mask [..., length, length] to what blocks of queries see, [..., blocks, size, width].

    The width is `before` + `size`: the positions of a block and those right before it, which must
    be all that its queries see. Before the first position there is nothing to see.
    """
    length = mask.shape[-1]
    padded = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(before, 0)])
    starts = range(0, length, size)
    cut = [padded[..., i : i + size, i : i + before + size] for i in starts]
    assert sum(block.sum() for block in cut) == mask.sum(), "a query sees what is not in its block"
    return np.stack(cut, axis=-3)
