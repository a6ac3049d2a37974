# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures of reconstructions and of a codebook's use, against small cases worked by hand."""

import itertools
import math

import numpy as np
import pytest

from parti.pipelines.evaluation import reconstruction_metrics


def test_the_use_in_a_batch_is_the_mean_over_all_batches() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 12, (7, 4)) // rng.integers(1, 4, (7, 4))
    counts = reconstruction_metrics.CodeCounts(13)
    counts.add(tokens[:5])
    counts.add(tokens[5:])
    for size in (1, 3, 7):
        shares = [
            len(np.unique(tokens[list(batch)])) / 13
            for batch in itertools.combinations(range(7), size)
        ]
        assert reconstruction_metrics.batch_usage(counts, size) == pytest.approx(np.mean(shares))
    for size in (0, 8):
        with pytest.raises(ValueError, match="give 1 to the number of pictures, 7"):
            reconstruction_metrics.batch_usage(counts, size)


def test_codebook_metrics_by_hand() -> None:
    # Codes 0 and 1 in 300 pictures each, 2 in half of them; 3 never.
    tokens = np.array([[0, 0, 1, 1], [0, 0, 1, 2]] * 150)
    counts = reconstruction_metrics.CodeCounts(4)
    counts.add(tokens)
    found = reconstruction_metrics.codebook_metrics(counts)
    shares = np.array([4, 3, 1]) / 8
    assert found["perplexity"] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert (found["usage"], found["dead_codes"], found["size"]) == (0.75, 1, 4)
    # Code 2 is in 150 of 300 pictures, so each batch of 256 has it.
    assert (found["batch_usage"], found["batch_size"]) == (0.75, 256)


def test_measures_of_a_picture_by_hand() -> None:
    original = np.full((12, 12, 3), 100, np.uint8)
    other = original.copy()
    other[:6] += 10
    again, tokens = np.array([1, 2, 9, 4]), np.array([1, 2, 3, 4])
    row = reconstruction_metrics.image_row("k", original, other, tokens, again)
    assert row["psnr"] == pytest.approx(10 * math.log10(255**2 / 50), abs=1e-5)
    assert row["l1"] == 5.0 and row["token_agreement"] == 0.75
    same = reconstruction_metrics.image_row("k", original, original, tokens, tokens)
    assert (same["psnr"], same["ssim"], same["l1"], same["token_agreement"]) == (100, 1, 0, 1)
