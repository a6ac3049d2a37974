# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The histograms of `parti clean`: fixed bins, so that counting needs no memory and no second pass.

A worker counts `MEASURES[name].bin(value)`; `histogram` turns the sums into what the report shows.
"""

import bisect
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np


class Histogram(TypedDict):
    """A histogram of the report, and the name, title and unit (perhaps "") of its measure.

    Bin i holds edges[i] <= value < edges[i + 1]; None at an end means without limit.
    """

    name: str
    title: str
    unit: str
    edges: list[float | None]
    before: list[int]  # pairs in each bin whose value is known, dropped ones included
    kept: list[int]  # pairs in each bin that were kept
    limits: list[float]  # thresholds of the rules, to be drawn
    ticks: list[float]  # values to write below the drawing


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number of a pair."""

    title: str  # what it is, for a reader
    unit: str  # "" if it has none
    edges: tuple[float, ...]  # increasing; the first and the last bin are open outwards
    ticks: tuple[float, ...]  # to write below the drawing; some are left out where they are many

    def bin(self, value: float) -> int:
        """Returns the bin of a finite value, from 0 to the number of edges."""
        return bisect.bisect_right(self.edges, value)


def _steps(low: float, high: float, step: float) -> tuple[float, ...]:
    return tuple(round(low + i * step, 6) for i in range(round((high - low) / step) + 1))


def _powers(low: int, high: int, per_doubling: int = 1) -> tuple[float, ...]:
    """Returns whole numbers from `low` to `high`, evenly on a logarithmic scale, each once."""
    steps = range(round(per_doubling * math.log2(high / low)) + 1)
    return tuple(dict.fromkeys(float(round(low * 2 ** (i / per_doubling))) for i in steps))


MEASURES = {
    "side": Measure("Shorter side of the picture", "px", _powers(16, 4096, 2), _powers(16, 4096)),
    "aspect": Measure("Long side over short side", "", _steps(1, 4, 0.1), _steps(1, 4, 0.5)),
    "kilobytes": Measure("Size of the picture's file", "kB", _powers(1, 16384), _powers(1, 16384)),
    "words": Measure("Words in the caption", "", _powers(1, 512, 2), _powers(1, 512)),
    "characters": Measure("Characters in the caption", "", _powers(1, 4096, 2), _powers(1, 4096)),
    "similarity": Measure(
        "Agreement of picture and caption", "", _steps(-0.5, 1, 0.02), _steps(-0.5, 1, 0.1)
    ),
    "nsfw": Measure("Unsafe for work", "", _steps(0, 1, 0.05), _steps(0, 1, 0.2)),
    "watermark": Measure("Watermark", "", _steps(0, 1, 0.05), _steps(0, 1, 0.2)),
    "aesthetic": Measure("Aesthetic score", "", _steps(0, 10, 0.25), _steps(0, 10, 1)),
}


def histogram(
    name: str, before: Mapping[int, int], kept: Mapping[int, int], limits: Sequence[float] = ()
) -> Histogram:
    """Returns the histogram of one of `MEASURES`, cut to the bins that hold something.

    `before`, with dropped ones, and `kept` are bin -> pairs; `limits` are thresholds of the rules.
    """
    measure = MEASURES[name]
    used = [index for index, count in before.items() if count] or [0]
    low, high = min(used), max(used)
    edges: list[float | None] = [None, *measure.edges, None]
    return Histogram(
        name=name,
        title=measure.title,
        unit=measure.unit,
        edges=edges[low : high + 2],
        before=[before.get(index, 0) for index in range(low, high + 1)],
        kept=[kept.get(index, 0) for index in range(low, high + 1)],
        limits=[limit for limit in limits if math.isfinite(limit)],
        ticks=list(measure.ticks),
    )


def label(low: float | None, high: float | None, unit: str) -> str:
    """Returns a bin as text: "under 16 px", "64 to 96 px", "3", "4096 px or more"."""
    after = f" {unit}" if unit else ""
    if low is None:
        return "any" if high is None else f"under {high:g}{after}"
    if high is None:
        return f"{low:g}{after} or more"
    is_one = high - low == 1 and low == int(low)
    return f"{low:g}{after}" if is_one else f"{low:g} to {high:g}{after}"


def median_bin(counts: Sequence[int]) -> int:
    """Returns the index of the bin that holds the lower median; the counts are not all 0."""
    return int(np.searchsorted(np.cumsum(counts), (sum(counts) + 1) // 2))


def position(value: float, edges: Sequence[float | None]) -> float | None:
    """Returns where a value is on an axis of equally wide bins, in [0, 1]; None if outside."""
    known = {index: edge for index, edge in enumerate(edges) if edge is not None}
    values = list(known.values())
    if not values or not values[0] <= value <= values[-1]:
        return None
    return float(np.interp(value, values, list(known))) / (len(edges) - 1)
