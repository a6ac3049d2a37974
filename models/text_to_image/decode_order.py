# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The order in which an image's tokens are drawn: raster, or its rows as a wavefront.

With a local window of reach r in every layer, and inputs that are shifted within each row, the
token at (row, column) needs the row above only up to column + r: of the input there, the token at
column + r - 1. So a row can be drawn r columns behind the row above, and several rows in one step,
at different columns. The steps of an image fall from rows * columns to columns + (rows - 1) * r.

With reach 1 on a grid of 3 rows and 4 columns the tokens are drawn in these steps:

    0 1 2 3
    1 2 3 4
    2 3 4 5

The rows that are drawn in one step take **lanes**: row i is in lane i % lanes. Images can stand in
a queue, one below the other as one tall grid whose rows see none of another image: then the lanes
that the end of an image leaves idle begin the next. Raster order is the same with a stagger of a
whole row, and one lane.

Source: the schedule of local convolutional compression models (arXiv 2201.05213). Exact here, where
ZipAR (arXiv 2412.04062) uses it on full attention as an approximation.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parti.models.layers import masks

Array = jax.Array

RASTER, WAVEFRONT = "raster", "wavefront"
ORDERS = (RASTER, WAVEFRONT)


class Step(NamedTuple):
    """Where each lane is in one step: row of the queue and column, [lanes] int32.

    A lane that is not active [lanes] bool has no row yet, or none any more.
    """

    row: Array
    column: Array
    is_active: Array


@dataclasses.dataclass(frozen=True)
class DecodeOrder:
    """Each row begins `stagger` steps after the one above; hashable.

    `num_images` of one grid are in the queue.
    """

    grid: masks.Grid
    stagger: int
    num_images: int = 1

    @property
    def num_lanes(self) -> int:
        """Rows that are drawn at once, at most."""
        return -(-self.grid[1] // self.stagger)

    @property
    def num_steps(self) -> int:
        """Steps that draw the whole queue."""
        return (self.num_images * self.grid[0] - 1) * self.stagger + self.grid[1]

    @property
    def steps(self) -> Step:
        """All steps, numpy arrays [steps, lanes]; a lane that is not active stands at (0, 0)."""
        step, lane = np.arange(self.num_steps)[:, None], np.arange(self.num_lanes)
        begun = step // self.stagger  # the newest row
        row = begun - (begun - lane) % self.num_lanes
        column = step - row * self.stagger
        is_active = (row >= 0) & (row < self.num_images * self.grid[0]) & (column < self.grid[1])
        row, column = (np.where(is_active, x, 0).astype(np.int32) for x in (row, column))
        return Step(row, column, is_active)  # type: ignore[arg-type]

    def cache_rows(self, window: int) -> int:
        """Returns how many rows of keys a cache must hold: those in reach and the lanes'."""
        reach = masks.window_reach(window, self.grid)
        return min(self.num_images * self.grid[0], self.num_lanes + reach)

    def cache_slots(self, window: int) -> int:
        """Returns how many keys that is, with one that idle lanes write to and nobody sees."""
        return self.cache_rows(window) * self.grid[1] + (self.num_lanes > 1)

    def slots(self, step: Step, window: int) -> Array:
        """Returns the slots [lanes] of a step's positions in a cache.

        It is a ring of rows: the slots of row i are at i % rows.
        """
        num_rows = self.cache_rows(window)
        slots = step.row % num_rows * self.grid[1] + step.column
        return jnp.where(step.is_active, slots, num_rows * self.grid[1])

    def mask(self, step: Step, window: int) -> Array:
        """Returns which slots [lanes, slots] bool the positions of a step may see.

        Ring row i holds the newest row r of the queue with r % rows == i; of a row below a
        position's own, or of one that is too old, the slots come out as more than the reach above.
        """
        reach, num_rows = masks.window_reach(window, self.grid), self.cache_rows(window)
        row, column = step.row[:, None], step.column[:, None]
        rows_back = (row - jnp.arange(num_rows)) % num_rows
        columns_back = column - jnp.arange(self.grid[1])
        in_reach_rows = (rows_back <= row % self.grid[0]) & (rows_back <= reach)
        in_reach_columns = jnp.abs(columns_back) <= reach
        earlier = (rows_back[:, :, None] > 0) | (columns_back[:, None] >= 0)
        seen = in_reach_rows[:, :, None] & in_reach_columns[:, None] & earlier
        seen = seen.reshape(len(seen), -1)
        return jnp.pad(seen, ((0, 0), (0, self.cache_slots(window) - seen.shape[1])))
