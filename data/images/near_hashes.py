# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which 64-bit hashes are near: in how many bits they may differ, and a search among many.

Hashes of an image with little detail have few set bits; they may differ in fewer.
"""

import functools

import numpy as np

from parti.data.images import image_hashes

MAX_DISTANCE = 8  # bits
_BITS_PER_ERROR = 3  # set bits
_FAR = image_hashes.NUM_BITS + 1
_NUM_BLOCKS, _BLOCK_BITS = 4, 16
_MIN_COMPARISONS = 16_000  # from which on a table is faster

Nearest = tuple[np.ndarray, np.ndarray, np.ndarray]


def near_limits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns in how many bits hashes (uint64, broadcast) may differ."""
    bits = np.minimum(np.bitwise_count(a), np.bitwise_count(b))
    return np.clip(bits // _BITS_PER_ERROR, 1, MAX_DISTANCE)


def is_near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns whether hashes (uint64, broadcast) differ in no more bits than `near_limits`."""
    return _distances(a, b) <= MAX_DISTANCE


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns in how many bits hashes differ; more than any limit for those that are not near."""
    bits = np.bitwise_count(a ^ b)
    found = np.full(bits.shape, _FAR, np.uint8)
    at = np.nonzero(bits <= MAX_DISTANCE)  # a few
    near = bits[at] <= near_limits(*(np.broadcast_to(x, bits.shape)[at] for x in (a, b)))
    found[at] = np.where(near, bits[at], _FAR)
    return found


class Rows:
    """Rows of hashes, [n, views] uint64, each of which is compared."""

    def __init__(self, hashes: np.ndarray) -> None:
        self._hashes = hashes

    def nearest(self, probes: np.ndarray, views: range) -> Nearest:
        """Searches for rows with a hash, in some columns, that is near one of the probes.

        Returns the rows that have one; and for each which probe and which column are nearest, the
        first of equals. `probes` is [k] uint64, `views` the columns.
        """
        targets = self._hashes[:, views.start : views.stop]
        near = _distances(probes[:, None], targets[:, None]).reshape(
            len(targets), len(probes) * len(views)
        )
        rows = np.flatnonzero(near.min(axis=1, initial=_FAR) <= MAX_DISTANCE)
        probe, view = np.divmod(near[rows].argmin(axis=1), len(views))
        return rows, probe, view + views.start


class TabledRows(Rows):
    """Rows that are searched by tables where that is faster; the result is the same.

    A hash is cut into 4 blocks of 16 bits. Of two hashes that differ in at most 4 r + b bits, one
    of the first b + 1 blocks differs in at most r, or one of the others in r - 1. So a probe looks
    up the rows that have one of its blocks with up to r bits flipped: 188 look-ups for 8 bits.

    Source: Norouzi, Punjani, Fleet, "Fast Exact Search in Hamming Space with Multi-Index Hashing",
    2014, section 3.
    """

    def __init__(self, hashes: np.ndarray) -> None:
        super().__init__(hashes)
        self._tables: dict[range, tuple[np.ndarray, np.ndarray]] = {}

    def nearest(self, probes: np.ndarray, views: range) -> Nearest:
        """Returns what `Rows.nearest` does."""
        if len(probes) * len(views) * len(self._hashes) < _MIN_COMPARISONS:
            return super().nearest(probes, views)
        if views not in self._tables:
            self._tables[views] = _table(self._hashes[:, views.start : views.stop])
        starts, order = self._tables[views]
        probe, buckets = _buckets(probes)
        begin, num = starts[buckets], starts[buckets + 1] - starts[buckets]
        total = int(num.sum())
        entries = order[np.repeat(begin - np.cumsum(num) + num, num) + np.arange(total)]
        probe, (row, view) = np.repeat(probe, num), np.divmod(entries, len(views))
        view += views.start
        bits = np.bitwise_count(probes[probe] ^ self._hashes[row, view])
        few = np.flatnonzero(bits <= MAX_DISTANCE)
        row, probe, view, bits = row[few], probe[few], view[few], bits[few]
        few = bits <= near_limits(probes[probe], self._hashes[row, view])
        row, probe, view, bits = row[few], probe[few], view[few], bits[few]
        best = np.lexsort((view, probe, bits, row))
        best = best[np.diff(row[best], prepend=-1) > 0]
        return row[best], probe[best], view[best]


def _table(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where each bucket begins among the indices of hashes, and these by bucket."""
    blocks = _blocks(np.ascontiguousarray(hashes).reshape(-1))
    order = np.argsort(blocks, axis=0, kind="stable").T
    counts = [np.bincount(column, minlength=1 << _BLOCK_BITS) for column in blocks.T]
    return np.cumsum(np.concatenate([[0], *counts])), order.astype(np.uint32).reshape(-1)


def _buckets(probes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the buckets in which all hashes are that may be near: which probe, which bucket."""
    flips, ends = _flips()
    radius = near_limits(probes, probes)[:, None].astype(int) - np.arange(_NUM_BLOCKS)
    radius //= _NUM_BLOCKS
    blocks = _blocks(probes)
    found = []
    for number, end in enumerate(ends):
        probe, block = np.nonzero(radius == number)
        buckets = (blocks[probe, block, None] ^ flips[:end]) + (block[:, None] << _BLOCK_BITS)
        found.append((np.repeat(probe, end), buckets.reshape(-1)))
    first, second = zip(*found)
    return np.concatenate(first), np.concatenate(second)


def _blocks(hashes: np.ndarray) -> np.ndarray:
    """Returns the blocks of hashes, [n, 4] uint16; each has every fourth bit."""
    octets = hashes.astype("<u8").view(np.uint8).reshape(-1, 8)
    blocks = np.zeros(len(octets), "<u8")
    for number in range(8):
        blocks |= _spread()[octets[:, number]] << np.uint64(2 * number)
    return blocks.view("<u2").reshape(-1, _NUM_BLOCKS)


@functools.cache
def _spread() -> np.ndarray:
    """Returns the blocks of which a byte is the lowest two bits each, as one number."""
    octets, bits = np.arange(256, dtype=np.uint64)[:, None], np.arange(8, dtype=np.uint64)
    to = _BLOCK_BITS * (bits % _NUM_BLOCKS) + bits // _NUM_BLOCKS
    return ((octets >> bits & 1) << to).sum(axis=1, dtype=np.uint64)


@functools.cache
def _flips() -> tuple[np.ndarray, tuple[int, ...]]:
    """Returns the blocks of at most two set bits, few first; where those of 0, 1 and 2 end."""
    blocks = np.arange(1 << _BLOCK_BITS)
    bits = np.bitwise_count(blocks)
    ends = tuple(np.cumsum(np.bincount(bits)[:3]).tolist())
    return blocks[np.argsort(bits, kind="stable")][: ends[-1]], ends
