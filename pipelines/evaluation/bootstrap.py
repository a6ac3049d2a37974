# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Means with bootstrap confidence intervals, and rank correlation; numpy alone."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

_NUM_RESAMPLES = 2000
_SEED = 0
# Indices held in memory at a time while resampling.
_CHUNK = 4_000_000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval.

    Attributes:
      mean: of the values.
      low: 2.5th percentile of the means of resampled values.
      high: 97.5th percentile.
      count: number of values.
    """

    mean: float
    low: float
    high: float
    count: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, rounded to six digits after the point."""
        values = dataclasses.asdict(self)
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}


def bootstrap(values: Sequence[float] | np.ndarray, seed: int = _SEED) -> Estimate:
    """Estimates a mean; the interval is the percentile bootstrap over the values.

    Resample whatever is independent: one value for each prompt, not one for each of its samples.

    Args:
      values: at least one, finite.
      seed: of the resampling; the same values and seed give the same interval.

    Raises:
      ValueError: there are no values, or one is not finite.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(
            f"{array.size} values of shape {array.shape}: give finite values, 1 or more"
        )
    rng = np.random.default_rng(seed)
    per_chunk = max(_CHUNK // array.size, 1)
    means: list[np.ndarray] = []
    for start in range(0, _NUM_RESAMPLES, per_chunk):
        rows = min(per_chunk, _NUM_RESAMPLES - start)
        means.append(array[rng.integers(0, array.size, (rows, array.size))].mean(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Estimate(float(array.mean()), float(low), float(high), int(array.size))


def derangements(size: int, count: int, seed: int = _SEED) -> np.ndarray:
    """Returns [count, size] permutations of range(size) without a fixed point.

    Raises:
      ValueError: `size` is under 2: there is no such permutation.
    """
    if size < 2:
        raise ValueError(f"size={size}: at least 2 things can be exchanged")
    rng = np.random.default_rng(seed)
    rows = np.empty((count, size), np.int64)
    for row in rows:
        # A cycle through a random order moves everything.
        order = rng.permutation(size)
        row[order] = np.roll(order, -1)
    return rows


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Returns Spearman's rank correlation in [-1, 1]; None if either has only one value.

    Equal values share the mean of their ranks.
    """
    first, second = _ranks(a), _ranks(b)
    if first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
