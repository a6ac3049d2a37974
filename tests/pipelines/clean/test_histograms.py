# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Histograms of the clean report: every value has one bin, and empty ends are cut."""

import pytest

from parti.pipelines.clean import histograms as clean_histograms

MEASURES = clean_histograms.MEASURES


@pytest.mark.parametrize("name", MEASURES)
def test_edges_increase_and_each_value_is_in_its_bin(name: str) -> None:
    measure = MEASURES[name]
    assert list(measure.edges) == sorted(set(measure.edges))
    assert len(measure.edges) < 80
    assert (measure.bin(-1e9), measure.bin(1e9)) == (0, len(measure.edges))
    for index, edge in enumerate(measure.edges):
        assert measure.bin(edge) == index + 1  # an edge is the first value of its bin
        assert measure.bin(edge - 1e-9) == index
    assert all(measure.edges[0] <= tick <= measure.edges[-1] for tick in measure.ticks)


def test_a_histogram_is_cut_to_what_was_counted() -> None:
    words = MEASURES["words"]  # edges 1, 2, 3, 4, 6, 8, 11, ...
    before = {words.bin(1): 5, words.bin(2): 7, words.bin(5): 3}
    found = clean_histograms.histogram("words", before, {words.bin(5): 3}, [2, float("inf")])
    assert found["edges"] == [1, 2, 3, 4, 6]
    assert found["before"] == [5, 7, 0, 3]
    assert found["kept"] == [0, 0, 0, 3]
    assert found["limits"] == [2]


def test_open_ends_and_nothing_at_all() -> None:
    found = clean_histograms.histogram("aspect", {MEASURES["aspect"].bin(99): 1}, {})
    assert found["edges"] == [4, None] and found["before"] == [1]
    assert clean_histograms.histogram("words", {}, {})["before"] == [0]
    with pytest.raises(KeyError):
        clean_histograms.histogram("height", {}, {})


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (None, 16, "under 16 px"),
        (64, 96, "64 to 96 px"),
        (3, 4, "3 px"),
        (0.5, 1.5, "0.5 to 1.5 px"),
        (4096, None, "4096 px or more"),
        (None, None, "any"),
    ],
)
def test_labels(low: float | None, high: float | None, text: str) -> None:
    assert clean_histograms.label(low, high, "px") == text


def test_median_and_place() -> None:
    assert clean_histograms.median_bin([1, 0, 2, 1]) == 2
    assert clean_histograms.median_bin([2, 0, 2]) == 0
    edges = [None, 16, 32, 64, None]
    assert clean_histograms.position(16, edges) == 0.25
    assert clean_histograms.position(48, edges) == 0.625
    assert clean_histograms.position(64, edges) == 0.75
    assert clean_histograms.position(8, edges) is None
    assert clean_histograms.position(4, [1, 2, 4]) == 1.0
