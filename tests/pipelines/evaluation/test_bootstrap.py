# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Intervals, rank correlation and derangements, against what is known of them."""

import numpy as np
import pytest

from parti.pipelines.evaluation import bootstrap


def test_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    found = bootstrap.estimate_mean(values)
    error = 1.96 * values.std() / 20
    assert found["mean"] == pytest.approx(values.mean()) and found["count"] == 400
    assert found["low"] == pytest.approx(values.mean() - error, abs=0.03)
    assert found["high"] == pytest.approx(values.mean() + error, abs=0.03)
    assert found == bootstrap.estimate_mean(values) != bootstrap.estimate_mean(values, seed=1)
    constant = bootstrap.estimate_mean([2.0, 2.0])
    assert constant == {"mean": 2.0, "low": 2.0, "high": 2.0, "count": 2}
    assert bootstrap.estimate_mean([7.0]) == {"mean": 7.0, "low": 7.0, "high": 7.0, "count": 1}
    for bad in ([], [1.0, float("nan")], [[1.0]]):
        with pytest.raises(ValueError, match="give finite values"):
            bootstrap.estimate_mean(bad)  # type: ignore[arg-type]


def test_derangements_move_everything() -> None:
    rows = bootstrap.derangements(5, 50)
    assert (np.sort(rows, axis=1) == np.arange(5)).all() and (rows != np.arange(5)).all()
    assert len({tuple(row) for row in rows}) > 10
    assert bootstrap.derangements(2, 1).tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap.derangements(1, 1)


def test_rank_correlation_by_hand() -> None:
    assert bootstrap.rank_correlation([1, 2, 3], [10, 20, 90]) == pytest.approx(1.0)
    assert bootstrap.rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
    found = bootstrap.rank_correlation([0, 5, 5, 9], [1, 2, 3, 4])
    assert found == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert bootstrap.rank_correlation([1, 1, 1], [1, 2, 3]) is None
