# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The order of the examples of a training, a function of the seed and of the place in it alone.

So each process of a training reads the rows that its devices hold, and no others, and all rows
together are the same on any number of processes, also after a training has gone on with another.

- **Place.** Row r of batch b, of B rows, has the place p = b B + r. The position in the data, which
  a checkpoint saves, is the number of batches taken: nothing else is needed to go on.
- **Mixture.** Of several data sets, `members` says to which one a place belongs and how many
  examples of that set came before. The sets take turns in proportion to their rates, spread evenly:
  of any first p places a set has its share of those that the sets before it left, rounded down.
- **Epoch.** The n-th example of a set of N is in epoch n // N, at index `shuffled(n % N)`: a
  permutation that seed and epoch choose, by a Feistel network rather than a table of N numbers.
  Each epoch has each example once, in an order of its own.
- **Record.** `engine/input/row_source` maps the index to a shard and to the bytes of the record
  (`record_offsets`), reads them, and hands them to the preprocessors of the task.
- **Chance.** What a preprocessor draws for an example (a caption, a crop) comes from `seeds`, a
  function of seed, set and n, so a row's content depends on its place alone, and differs by epoch.

This holds for tasks that make one example of each record (pairs, tokens, reconstructions, GLUE).
Packed texts have as many sequences as their lengths give, so which records a row is made of is not
known before all are read; they, and tasks of others, are read as whole batches in every process.
"""

from collections.abc import Sequence

import numpy as np

_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15
# Shifts and factors of `mix`.
MIXING = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_SHARE_BITS = np.uint64(32)
_LOW = np.uint64(2**32 - 1)


def mix(values: np.ndarray | int) -> np.ndarray:
    """Returns uint64 values whose bits all depend on all bits of the given ones, one to one.

    Source: the finalizer of SplitMix64 (Steele et al., "Fast splittable pseudorandom number
    generators", 2014).
    """
    x = np.atleast_1d(np.asarray(values, np.uint64)) + np.uint64(_GOLDEN)
    for shift, factor in MIXING:
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def _key(*numbers: int) -> np.ndarray:
    """Returns one uint64, [1], of several numbers."""
    key = np.zeros(1, np.uint64)
    for number in numbers:
        key = mix(key ^ np.array([number % 2**64], np.uint64))
    return key


def seeds(seed: int, data_set: int, numbers: np.ndarray) -> np.ndarray:
    """Returns the seeds [k] int64 of the n-th examples of a data set; `numbers` are [k] n."""
    return mix(_key(seed, data_set, 1) + numbers.astype(np.uint64)).view(np.int64)


def indices(seed: int, data_set: int, numbers: np.ndarray, size: int) -> np.ndarray:
    """Returns the indices [k] int64, in [0, size), of the n-th examples of a shuffled data set."""
    epochs, places = np.divmod(numbers.astype(np.uint64), np.uint64(size))
    return shuffled(places, size, mix(_key(seed, data_set, 2) + epochs)).astype(np.int64)


def shuffled(places: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Returns where places [k] uint64 in [0, size) go in the permutations that keys [k] choose.

    A Feistel network permutes the numbers of an even number of bits; what falls outside is
    permuted again until it is inside (cycle walking).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    found = _feistel(places, half, keys)
    while len(outside := np.flatnonzero(found >= size)):
        found[outside] = _feistel(found[outside], half, keys[outside])
    return found


def _feistel(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for number in range(_ROUNDS):
        drawn = mix(mix(keys + np.uint64(number)) ^ right) & mask
        left, right = right, left ^ drawn
    return (left << half) | right


def members(places: np.ndarray, rates: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns to which data set [k] int64 places [k] belong, and which of its examples [k] int64.

    With rates (3, 1) places 0 to 7 are of the sets 1 0 0 0 1 0 0 0 in some rotation, and the
    examples of each count from 0.
    """
    left = places.astype(np.uint64)
    which = np.full(left.shape, len(rates) - 1, np.int64)
    numbers = np.zeros(left.shape, np.int64)
    undecided = np.ones(left.shape, bool)
    for data_set, rate in enumerate(rates[:-1]):
        share = np.uint64(round(rate / sum(rates[data_set:]) * 2**32))
        before = _part(left, share)
        is_here = undecided & (_part(left + np.uint64(1), share) > before)
        which[is_here], numbers[is_here] = data_set, before[is_here]
        undecided &= ~is_here
        left = left - before
    numbers[undecided] = left[undecided]
    return which, numbers


def _part(places: np.ndarray, share: np.uint64) -> np.ndarray:
    """Returns floor(places share / 2^32), exact up to 2^63."""
    return (places >> _SHARE_BITS) * share + ((places & _LOW) * share >> _SHARE_BITS)
