# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Means with bootstrap intervals, rank correlation, and the permutations of a shuffled baseline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

_NUM_RESAMPLES = 2000
_SEED = 0
_MAX_HELD = 4_000_000  # resampled values in memory at a time


def estimate_mean(values: Sequence[float] | np.ndarray, seed: int = _SEED) -> dict[str, Any]:
    """Returns the "mean", the ends "low" and "high" of its 95% interval, and the "count" of values.

    The interval is the percentile bootstrap over the values. Resample whatever is independent: one
    value for each prompt, not one for each of its samples. Six digits after the point are kept.

    Raises:
      ValueError: there are no values, or one is not finite.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(
            f"{array.size} values of shape {array.shape}: give finite values, 1 or more"
        )
    low = high = array.mean()
    if array.size > 1:  # scipy refuses one, of which there is nothing to resample
        low, high = scipy.stats.bootstrap(
            (array,),
            np.mean,
            n_resamples=_NUM_RESAMPLES,
            batch=max(_MAX_HELD // array.size, 1),
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    estimate = {"mean": array.mean(), "low": low, "high": high}
    return {k: round(float(v), 6) for k, v in estimate.items()} | {"count": array.size}


def derangements(size: int, count: int, seed: int = _SEED) -> np.ndarray:
    """Returns [count, size] permutations without a fixed point; ValueError: `size` is under 2."""
    if size < 2:
        raise ValueError(f"size={size}: at least 2 things can be exchanged")
    rng = np.random.default_rng(seed)
    rows = np.empty((count, size), np.int64)
    for row in rows:
        order = rng.permutation(size)
        row[order] = np.roll(order, -1)  # a cycle moves everything
    return rows


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Returns Spearman's rank correlation in [-1, 1]; None if either has only one value.

    Equal values share the mean of their ranks.
    """
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(scipy.stats.spearmanr(a, b).statistic)
