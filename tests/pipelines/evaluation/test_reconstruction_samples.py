# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which images a report of reconstructions shows, and how it shows their difference."""

import numpy as np

from parti.pipelines.evaluation import reconstruction_samples


def test_a_few_pictures_are_chosen_of_many() -> None:
    values = np.random.default_rng(0).permutation(1000)
    every = [("shard", {"key": f"{value:04d}", "psnr": float(value)}) for value in values]
    chosen = reconstruction_samples.choose(every, 1000)
    assert [row["psnr"] for _, row in chosen["worst"]] == list(range(12))
    assert [row["psnr"] for _, row in chosen["best"]] == list(range(999, 987, -1))
    assert len({row["key"] for _, row in chosen["random"]}) == 12
    spread = [row["psnr"] for _, row in chosen["random"]]
    assert max(spread) > 600 and min(spread) < 400
    one = reconstruction_samples.choose(every[:1], 1)
    assert [len(group) for group in one.values()] == [1, 1, 1]


def test_the_difference_is_amplified_and_clipped() -> None:
    first, second = np.full((2, 2, 3), 10, np.uint8), np.full((2, 2, 3), 13, np.uint8)
    second[0, 0] = 250
    shown = reconstruction_samples.Shown({}, "", first, second)
    assert shown.difference.dtype == np.uint8
    assert (
        shown.difference[0, 0].tolist() == [255] * 3 and shown.difference[1, 1].tolist() == [12] * 3
    )
