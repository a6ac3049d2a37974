# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The first half of `parti clean`: each source is read, its pairs judged one by one, and spilled.

A source whose spill is finished is not read again, so a run that was killed goes on.
"""

import collections
import dataclasses
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam

from parti.data import files, records
from parti.pipelines import candidates, clean_report, options, readers, spills, writers

COUNTERS = "parti.clean"  # for the displays of remote runners; the report counts the output
TAGS = ("stretches", "rejected", "facts", "samples")
_TICK_EVERY = 16
_MAX_CAPTION = 400  # characters in a sample

Fact = tuple[str, Any]  # name, value: what is counted


class Source(NamedTuple):
    """A source and the name of its spill."""

    name: str
    source: readers.Source


class Passed(NamedTuple):
    """A pair that no rule rejected.

    Attributes:
      pair: the record to write.
      candidate: its light row; the id is given later.
    """

    pair: records.ImageTextPair
    candidate: candidates.Candidate


class Examined(NamedTuple):
    """What is known of a pair when all rules have seen it alone.

    Attributes:
      result: the pair, or why it is rejected.
      facts: what is to be counted, whether it passed or not.
    """

    result: Passed | readers.Rejected
    facts: Sequence[Fact] = ()


Examiner = Callable[[records.ImageTextPair], Examined]


class Sampler:
    """Says which rows may be in the sample of their reason: those with the smallest hashes.

    Each worker has its own; the smallest hashes of all rows are among the smallest of each worker,
    so the sample that is chosen in the end does not depend on how rows fall to workers.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._largest: dict[str, list[float]] = collections.defaultdict(list)

    def rank(self, reason: str, key: str) -> float | None:
        """Returns the hash of a row, or None if it cannot be in the sample."""
        rank = writers.hash_fraction(key, reason)
        heap = self._largest[reason]
        if len(heap) < self._size:
            heapq.heappush(heap, -rank)
        elif rank > -heap[0]:
            return None
        else:
            heapq.heapreplace(heap, -rank)
        return rank

    def row(self, reason: str, key: str, text: str, measure: str, image: bytes) -> list[Any] | None:
        """Returns a row of the report's sample, with a thumbnail; None if it cannot be in it."""
        rank = self.rank(reason, key)
        if rank is None:
            return None
        return [rank, key, text[: _MAX_CAPTION], measure, clean_report.thumbnail(image)]


class ExamineSources(beam.PTransform):
    """Takes `Source`s; gives Candidates, and tagged `TAGS`.

    `stretches` are (shard, spills.Stretch), `rejected` readers.Rejected, `facts` ((name, value),
    count), and `samples` (reason, row of the report's sample).
    """

    def __init__(
        self,
        examiner: Callable[[], Examiner],
        spill_dir: files.Path,
        num_shards: Mapping[str, int],
    ) -> None:
        """Sets how.

        Args:
          examiner: makes the function that judges a pair, once in each worker.
          spill_dir: an existing folder for spills; every worker must reach it.
          num_shards: split -> files that it will have.
        """
        super().__init__("Examine sources")
        self._work = _ExamineSource(examiner, str(spill_dir), dict(num_shards))

    def expand(self, sources: beam.PCollection) -> Any:
        """Returns the tagged outputs; the main one is `candidates`."""
        return sources | "Examine" >> beam.ParDo(self._work).with_outputs(*TAGS, main="candidates")


class _ExamineSource(beam.DoFn):
    def __init__(
        self, examiner: Callable[[], Examiner], spill_dir: str, num_shards: dict[str, int]
    ) -> None:
        self._make_examiner, self._spill_dir = examiner, spill_dir
        self._num_shards = num_shards

    def setup(self) -> None:
        self._examine = self._make_examiner()
        self._sampler = Sampler(clean_report.NUM_SAMPLES)

    def process(self, item: Source) -> Iterator[Any]:
        spill = spills.Spill.open(self._spill_dir, item.name)
        if spill is None:
            spill = self._spill(item)
        else:
            options.tick(spill.notes["read"], item.source.num_bytes)
        yield from spill.candidates()
        for stretch in spill.stretches():
            yield beam.pvalue.TaggedOutput("stretches", stretch)
        for row in spill.notes["rejected"]:
            rejected = readers.Rejected(**row)
            beam.metrics.Metrics.counter(COUNTERS, rejected.reason).inc()
            yield beam.pvalue.TaggedOutput("rejected", rejected)
        for name, value, count in spill.notes["facts"]:
            yield beam.pvalue.TaggedOutput("facts", ((name, value), count))
        for reason, sample in spill.notes["samples"]:
            yield beam.pvalue.TaggedOutput("samples", (reason, tuple(sample)))

    def _spill(self, item: Source) -> spills.Spill:
        """Reads a source and writes its spill."""
        writer = spills.SpillWriter(self._spill_dir, item.name, self._num_shards)
        rejected: list[dict[str, Any]] = []
        samples: list[tuple[str, list[Any]]] = []
        facts: collections.Counter[Fact] = collections.Counter()
        ticks = _Ticks(item.source.num_bytes)
        for row in readers.read_source(item.source):
            image = b"" if isinstance(row, readers.Rejected) else row.image
            examined = Examined(row) if isinstance(row, readers.Rejected) else self._examine(row)
            facts.update(examined.facts)
            result = examined.result
            if isinstance(result, Passed):
                writer.add(*result)
            else:
                rejected.append(dataclasses.asdict(result))
                sample = self._sampler.row(
                    result.reason, result.key, result.text, result.measure, image
                )
                samples += [(result.reason, sample)] if sample else []
            ticks.count(len(image))
        ticks.end()
        return writer.finish(
            {
                "read": ticks.total,
                "rejected": rejected,
                "facts": sorted([name, value, count] for (name, value), count in facts.items()),
                "samples": samples,
            }
        )


class _Ticks:
    """Counts pairs for the progress line, some at a time; `total` of the source's bytes go by."""

    def __init__(self, num_bytes: int) -> None:
        self.total = 0
        self._rest, self._weight = num_bytes, 0

    def count(self, num_bytes: int) -> None:
        self.total += 1
        self._weight += min(num_bytes, self._rest)
        self._rest -= min(num_bytes, self._rest)
        if self.total % _TICK_EVERY == 0:
            options.tick(_TICK_EVERY, self._weight)
            self._weight = 0

    def end(self) -> None:
        options.tick(self.total % _TICK_EVERY, self._weight + self._rest)
