# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest

from parti.models.layers import masks
from parti.models.text_to_image import decode_order

ORDERS = [  # grid, window, stagger, images
    ((5, 4), 1, 4, 1),
    ((5, 4), 3, 4, 1),
    ((5, 4), 5, 4, 1),
    ((5, 4), 0, 4, 1),
    ((5, 4), 3, 1, 1),
    ((5, 4), 3, 1, 3),
    ((6, 6), 5, 2, 2),
    ((6, 7), 5, 2, 1),
    ((6, 7), 7, 3, 2),
    ((3, 8), 3, 2, 4),  # a stagger of more than the reach
    ((4, 4), 9, 4, 2),
]


def order_of(grid, stagger, num_images):
    return decode_order.DecodeOrder(grid, stagger, num_images)


def test_a_wavefront_by_hand():
    order = order_of((3, 4), 1, 1)
    steps = order.steps
    when = np.full((3, 4), -1)
    for step, lane in np.argwhere(steps.is_active):
        when[steps.row[step, lane], steps.column[step, lane]] = step
    assert when.tolist() == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]
    assert (order.num_steps, order.num_lanes) == (6, 4)


def test_steps_of_the_paper_s_grid():
    assert order_of((32, 32), 32, 1).num_steps == 1024
    assert order_of((32, 32), 5, 1).num_steps == 187
    assert order_of((32, 32), 5, 16).num_steps == 32 + 511 * 5  # 162 an image


@pytest.mark.parametrize("grid, window, stagger, num_images", ORDERS)
def test_each_position_is_drawn_once_after_all_that_it_depends_on(
    grid, window, stagger, num_images
):
    """An input is the token to its left; in raster order any earlier one would do."""
    order, reach = order_of(grid, stagger, num_images), masks.window_reach(window, grid)
    steps, found = order.steps, {}
    for step, lane in np.argwhere(steps.is_active):
        place = int(steps.row[step, lane]), int(steps.column[step, lane])
        assert place not in found
        assert lane == place[0] % order.num_lanes
        found[place] = int(step)
    assert len(found) == num_images * grid[0] * grid[1]
    for (row, column), step in found.items():
        for back in range(min(reach, row % grid[0]) + 1):
            last = min(column + (reach if back else 0), grid[1] - 1)
            if last:
                assert found[row - back, last - 1] < step


@pytest.mark.parametrize("grid, window, stagger, num_images", ORDERS)
def test_a_step_sees_in_the_cache_what_the_mask_of_training_shows(
    grid, window, stagger, num_images
):
    """The cache is played back: each slot knows which position wrote it last."""
    order = order_of(grid, stagger, num_images)
    full = masks.conv_local_mask(grid, window)[0, 0].reshape(*grid, *grid)
    num_slots = order.cache_slots(window)
    assert num_slots <= num_images * grid[0] * grid[1] + (order.num_lanes > 1)
    slots, visible = jax.jit(
        jax.vmap(lambda step: (order.slots(step, window), order.mask(step, window)))
    )(order.steps)
    held = {}
    for row, column, is_active, slot, seen in zip(*order.steps, slots, np.asarray(visible)):
        assert seen.shape == (order.num_lanes, num_slots)
        for lane in range(order.num_lanes):  # all write before any reads
            written = (row[lane], column[lane]) if is_active[lane] else None
            held[int(slot[lane])] = written
        for lane in np.flatnonzero(is_active):
            first = row[lane] // grid[0] * grid[0]
            want = {(r + first, c) for r, c in np.argwhere(full[row[lane] - first, column[lane]])}
            assert {held[int(i)] for i in np.flatnonzero(seen[lane])} == want
