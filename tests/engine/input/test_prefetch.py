# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Behind a prefetching thread positions are exact, and ends and errors arrive."""

import itertools
import time

import numpy as np
import pytest

from parti.engine.input import datasets, prefetch

ARRAYS = {"x": np.arange(10, dtype=np.int32)}


def take(batches, count: int) -> list[list[int]]:
    return [b["x"].tolist() for b in itertools.islice(batches, count)]


def reading(start: int = 0, stop: int = 10, at=lambda step: False) -> prefetch.Prefetcher:
    batches = datasets.ArrayDataset(ARRAYS, 2, seed=0)
    return prefetch.Prefetcher(batches, lambda b: b, start, stop, at)


def position(prefetcher: prefetch.Prefetcher, step: int) -> list[list[int]]:
    batches = datasets.ArrayDataset(ARRAYS, 2, seed=0)
    batches.restore(prefetcher.position(step))
    return take(batches, 3)


def test_prefetch_gives_every_batch_and_exact_positions() -> None:
    rows = take(datasets.ArrayDataset(ARRAYS, 2, seed=0), 13)
    prefetcher = reading(at=lambda step: step == 4)
    assert take(prefetcher, 4) == rows[:4]
    assert position(prefetcher, 4) == rows[4:7]
    assert take(prefetcher, 99) == rows[4:10]
    assert position(prefetcher, 10) == rows[10:13]
    assert take(prefetcher, 1) == [], "the end stays the end"
    prefetcher.close()


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_prefetch_ends_early_at_the_same_step_however_much_was_read(seconds: float) -> None:
    rows = take(datasets.ArrayDataset(ARRAYS, 2, seed=0), 20)
    prefetcher = reading(stop=1000)
    first = take(prefetcher, 3)
    time.sleep(seconds)
    prefetcher.finish_after(3)
    prefetcher.finish_after(4)
    rest = take(prefetcher, 99)
    assert len(rest) == 3
    step = 3 + len(rest)
    assert first + rest == rows[:step]
    assert position(prefetcher, step) == rows[step : step + 3]
    prefetcher.close()


class Short(datasets.ArrayDataset):
    """Ends after its two batches."""

    def __next__(self) -> datasets.Batch:
        if self._taken == 2:
            raise StopIteration
        return super().__next__()


def test_prefetch_hands_errors_on_and_can_be_left() -> None:
    def place(batch: datasets.Batch) -> datasets.Batch:
        raise OSError("disk")

    batches = datasets.ArrayDataset(ARRAYS, 2)
    prefetcher = prefetch.Prefetcher(batches, place, 0, 5, lambda step: False)
    with pytest.raises(OSError, match="disk"):
        next(prefetcher)
    prefetcher.close()
    prefetcher = prefetch.Prefetcher(Short(ARRAYS, 5), lambda b: b, 0, 5, lambda step: False)
    with pytest.raises(ValueError, match="ended after 2 batches"):
        take(prefetcher, 5)
    prefetcher.close()
    reading(stop=1000).close()
