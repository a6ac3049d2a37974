# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The order of a training: permutations, mixtures and seeds by place."""

import numpy as np
import pytest

from parti.data.storage import row_order


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 4097])
def test_each_epoch_has_each_index_once(size: int) -> None:
    order = row_order.indices(3, 0, np.arange(4 * size), size).reshape(4, size)
    for epoch in order:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
    if size > 4:
        assert len({tuple(epoch) for epoch in order}) == 4
        assert (order[0] != np.arange(size)).any()


def test_the_order_is_that_of_the_seed_and_the_set() -> None:
    def order(seed: int, data_set: int) -> list[int]:
        return row_order.indices(seed, data_set, np.arange(100), 100).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(*of)) for of in ((1, 0), (2, 0), (1, 1), (-1, 0))}) == 4


def test_places_are_shuffled_well() -> None:
    """Where an index goes says nothing about its neighbours, or about the next epoch."""
    order = row_order.indices(0, 0, np.arange(20_000), 10_000).astype(float)
    first, second = order[:10_000], order[10_000:]
    pairs = [(first[:-1], first[1:]), (first, np.arange(10_000)), (first, second)]
    for one, other in pairs:
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.05  # 5 standard deviations


def test_any_part_of_the_places_can_be_asked_for() -> None:
    places = np.arange(1000)
    which, numbers = row_order.members(places, (3, 1, 2))
    part = np.array([977, 3, 500])
    got = row_order.members(part, (3, 1, 2))
    np.testing.assert_array_equal(got, (which[part], numbers[part]))
    whole = row_order.indices(5, 1, places, 77)
    np.testing.assert_array_equal(row_order.indices(5, 1, part, 77), whole[part])
    seeds = row_order.seeds(5, 1, places)
    np.testing.assert_array_equal(row_order.seeds(5, 1, part), seeds[part])
    assert len(set(seeds.tolist())) == 1000


@pytest.mark.parametrize("rates", [(1.0,), (3, 1), (0.4, 0.4, 0.2), (1, 1e-3, 7, 0.1)])
@pytest.mark.parametrize("first", [0, 2**40 + 17])
def test_sets_take_turns_by_rate(rates: tuple[float, ...], first: int) -> None:
    which, numbers = row_order.members(first + np.arange(20_000), rates)
    for data_set, rate in enumerate(rates):
        own = numbers[which == data_set]
        np.testing.assert_array_equal(np.diff(own), 1)
        assert abs(len(own) - 20_000 * rate / sum(rates)) <= len(rates)
        if not first:
            assert own[0] == 0
