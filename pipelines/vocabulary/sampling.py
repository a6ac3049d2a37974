# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A bounded sample of captions, the same for any workers: equal captions become one, with a weight.

A caption that n pairs have counts w = min(n, cap) ** power, so that the boilerplate of the web does
not fill the vocabulary. The sample is by threshold: with u in (0, 1] from the hash of the text, it
takes the texts with w / u of at least t, the least t that takes no more than `max_rows`. A text is
then taken with probability p = min(1, w / t); w / p and n / p are unbiased estimates.

`beam.combiners.Sample` and SentencePiece's `input_sentence_size` neither weigh nor bound memory.

Source: N. Duffield, C. Lund, M. Thorup, "Priority sampling for estimation of arbitrary subset
sums" (JACM 2007), with a threshold on a fixed scale: it needs a histogram, no sorting.
"""

import json
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam

from parti.data.storage import records
from parti.data.text import captions
from parti.pipelines.beam import sharded_writers

MAX_CHARACTERS = 2_000  # of a caption; the rest is cut off
_BINS_PER_DOUBLING = 512  # steps of the threshold, each of 0.14%
_TIMES_UNIT = 16  # what the smallest weight is rounded to, so that roots of counts differ


class Row(NamedTuple):
    """A distinct caption of the sample."""

    text: str  # in normal form
    times: int  # how often it counts in learning, relative to the others; at least 1
    occurrences: float  # how many captions of the data it stands for
    language: str = ""  # its code, or "" if that is not clear

    def random_key(self) -> str:
        """Returns a key that puts rows into a random order, the same in every run."""
        return f"{sharded_writers.hash_fraction(self.text, 'order'):.15f}"

    def to_json(self) -> bytes:
        """Returns one line, without its end."""
        return json.dumps(self).encode()

    @classmethod
    def from_json(cls, line: str) -> "Row":
        """Returns what `to_json` wrote."""
        return cls(*json.loads(line))


def pair_captions(pair: records.ImageTextPair) -> Iterator[str]:
    """Yields the distinct non-empty captions of a pair in normal form, cut to a bounded length."""
    more = pair.metadata.get(records.CAPTIONS, [])
    texts = [pair.text, *(more if isinstance(more, list) else [])]
    whole = (text for text in texts if isinstance(text, str))
    normal = (captions.normalize_caption(text)[:MAX_CHARACTERS].strip() for text in whole)
    yield from dict.fromkeys(filter(None, normal))


def weight(occurrences: int, power: float, cap: int) -> float:
    """Returns min(occurrences, cap) ** power; a cap of 0 is none."""
    return (min(occurrences, cap) if cap else occurrences) ** power


class SampleCaptions(beam.PTransform):
    """Captions (str) to at most `max_rows` rows of distinct ones, weighted by their chance."""

    def __init__(self, max_rows: int, power: float, cap: int = 0) -> None:
        super().__init__()
        self.max_rows, self._power, self._cap = max_rows, power, cap

    def expand(self, pcoll: beam.PCollection) -> beam.PCollection:
        """Returns the rows, without their language."""
        max_rows, power, cap = self.max_rows, self._power, self._cap
        counted = pcoll | "Count equal" >> beam.combiners.Count.PerElement()
        threshold = (
            counted
            | "Bin" >> beam.Map(lambda item: _bin(item[0], weight(item[1], power, cap)))
            | "Histogram" >> beam.combiners.Count.PerElement()
            | beam.combiners.ToList()  # bounded by the number of bins, some ten thousand
            | "Threshold" >> beam.Map(lambda bins: threshold_bin(bins, max_rows))
        )

        def choose(item: tuple[str, int], least: int) -> Iterator[Row]:
            text, occurrences = item
            value = weight(occurrences, power, cap)
            if _bin(text, value) >= least:
                limit = 2 ** (least / _BINS_PER_DOUBLING)
                times = round(_TIMES_UNIT * max(value, limit) / limit)
                yield Row(text, times, round(occurrences / min(1.0, value / limit), 3))

        return counted | "Choose" >> beam.FlatMap(choose, beam.pvalue.AsSingleton(threshold))


def threshold_bin(bins: Sequence[tuple[int, int]], max_rows: int) -> int:
    """Returns the lowest bin from which on the (bin, texts) hold at most `max_rows`; 0 for all."""
    taken, least = 0, None
    for index, count in sorted(bins, reverse=True):
        taken += count
        if taken > max_rows:
            return index + 1 if least is None else least
        least = index
    return 0


def _bin(text: str, value: float) -> int:
    """Returns the bin of w / u on a logarithmic scale; at least 0, since w is at least 1."""
    chance = 1 - sharded_writers.hash_fraction(text, "vocabulary")
    return math.floor(math.log2(value / chance) * _BINS_PER_DOUBLING)
