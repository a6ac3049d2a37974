# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables of hashes find what comparing each one finds."""

import numpy as np
import pytest

from parti.data.images import near_hashes


def random_hashes(rng: np.random.Generator, num: int, share: float) -> np.ndarray:
    bits = rng.random((num, 64)) < share
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def flipped(rng: np.random.Generator, phash: np.uint64, num: int) -> np.uint64:
    for bit in rng.permutation(64)[:num]:
        phash ^= np.uint64(1) << np.uint64(bit)
    return phash


def sets(seed: int) -> np.ndarray:
    """Returns [n, 5] hashes: few or many set bits, and near ones of the first in all columns."""
    rng = np.random.default_rng(seed)
    shares = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    rows = np.concatenate([random_hashes(rng, 500, share) for share in shares]).reshape(-1, 5)
    for number, row in enumerate(range(0, len(rows), 3)):
        source = rows[rng.integers(len(rows)), 0]
        rows[row, rng.integers(5)] = flipped(rng, source, number % 11)
    return rows


def expected(probes: np.ndarray, rows: np.ndarray, views: range) -> list[tuple[int, int, int]]:
    found = []
    for row, hashes in enumerate(rows):
        best = (65, 0, 0)
        for probe, view in np.ndindex(len(probes), len(views)):
            one, other = int(probes[probe]), int(hashes[views[view]])
            limit = min(8, max(1, min(one.bit_count(), other.bit_count()) // 3))
            if (one ^ other).bit_count() <= limit:
                best = min(best, ((one ^ other).bit_count(), probe, views[view]))
        if best[0] < 65:
            found.append((row, *best[1:]))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_nearest_is_that_of_brute_force(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sets(seed)
    linear, tabled = near_hashes.Rows(rows), near_hashes.TabledRows(rows)
    monkeypatch.setattr(near_hashes, "_MIN_COMPARISONS", 0)  # tables even for so few
    num_found = 0
    for row in range(0, len(rows), 7):
        for probes, views in (
            (rows[row, :1], range(1)),
            (rows[row, :1], range(1, 5)),
            (rows[row, 2:], range(1)),
            (rows[row], range(5)),
        ):
            found = np.stack(tabled.nearest(probes, views), axis=1)
            np.testing.assert_array_equal(found, np.stack(linear.nearest(probes, views), axis=1))
            num_found += len(found)
            if row % 70 == 0:
                assert list(map(tuple, found)) == expected(probes, rows, views)
    assert num_found > 1000


def test_every_distance_up_to_the_limit_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_hashes, "_MIN_COMPARISONS", 0)
    rng = np.random.default_rng(0)
    for share in (0.05, 0.2, 0.5):
        probe = random_hashes(rng, 1, share)
        others = [flipped(rng, probe[0], bits) for bits in range(12) for _ in range(100)]
        rows = np.array(others, np.uint64)[:, None]
        found, _, _ = near_hashes.TabledRows(rows).nearest(probe, range(1))
        near = np.flatnonzero(near_hashes.is_near(probe, rows[:, 0]))
        np.testing.assert_array_equal(found, near)


def test_nothing_is_near_in_an_empty_set() -> None:
    probes = np.zeros(1, np.uint64)
    for kind in (near_hashes.Rows, near_hashes.TabledRows):
        rows, _, _ = kind(np.zeros((0, 2), np.uint64)).nearest(probes, range(2))
        assert len(rows) == 0


def test_few_set_bits_may_differ_in_fewer() -> None:
    limits = [
        int(near_hashes.near_limits(*[np.array([2**n - 1], np.uint64)] * 2)[0]) for n in range(40)
    ]
    assert limits == [min(8, max(1, n // 3)) for n in range(40)]
