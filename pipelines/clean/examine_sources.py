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

from parti.data.storage import records, tfrecords
from parti.pipelines import readers
from parti.pipelines.beam import options, sharded_writers
from parti.pipelines.clean import intermediate
from parti.pipelines.clean import report as clean_report
from parti.pipelines.deduplicate import fingerprints
from parti.pipelines.readers.base import rows
from parti.pipelines.readers.base.source_files import FOLDER
from parti.pipelines.readers.http import fetching
from parti.stages import files

TAGS = ("stretches", "rejected", "facts", "samples")
_TICK_EVERY = 16
_MAX_CAPTION = 400  # characters in a sample
SAMPLE_SIZE = 24
READ = "read"  # a fact: pairs and broken rows that came in
REJECTED = "rejected"  # a fact, with the reason
BROKEN = "broken"  # a fact, with the file, or with the folder and a slash: rows that say so
NEAR = "near:"  # begins the name of the sample of pairs that a rule nearly dropped
CHANGED = "changed:"  # of captions that were changed

Fact = tuple[str, Any]  # name, value: what is counted


class Source(NamedTuple):
    """A source and the name of its spill.

    Attributes:
      name: of the spill.
      source: what to read.
      hashes: of pairs that an earlier run cleaned, the file with their rows; they are not judged.
      in_part: whether to take only rows that `intermediate.read_wanted` names.
    """

    name: str
    source: readers.Source
    hashes: str = ""
    in_part: bool = False


class Passed(NamedTuple):
    """A pair that no rule rejected.

    Attributes:
      pair: the record to write.
      candidate: its light row; the id is given later.
    """

    pair: records.ImageTextPair
    candidate: fingerprints.Candidate


class Examined(NamedTuple):
    """What is known of a pair when all rules have seen it alone.

    Attributes:
      result: the pair, or why it is rejected.
      facts: what is to be counted, whether it passed or not.
      near: rule -> how near a pair that passed came to being dropped by it (0 is nearest), and what
        the rule measured.
      changes: of a caption that was changed, how it was; the result has it as it is now.
    """

    result: Passed | readers.Rejected
    facts: Sequence[Fact] = ()
    near: Mapping[str, tuple[float, str]] = {}
    changes: Mapping[str, str] = {}


Examiner = Callable[[records.ImageTextPair], Examined]


class Sampler:
    """Says which rows may be in the sample of their reason: those with the smallest hashes.

    Each worker has its own; the smallest hashes of all rows are among the smallest of each worker,
    so the sample that is chosen in the end does not depend on how rows fall to workers.
    """

    def __init__(self, size: int = SAMPLE_SIZE) -> None:
        self._size = size
        self._largest: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)

    def offer(
        self,
        name: str,
        key: str,
        text: str,
        measure: str,
        image: bytes,
        rank: float = 0.0,
        reason: str = "",
    ) -> list[tuple[str, list[Any]]]:
        """Returns [(name, row)] if a pair may be in a sample of the report, else [].

        Args:
          name: of the sample.
          key: of the pair.
          text: its caption.
          measure: what a rule has to say.
          image: the encoded picture, or b"".
          rank: the smallest are taken; of equal ones those whose keys have the smallest hash.
          reason: why the pair was dropped, where `name` does not say it.

        Returns:
          A row is [rank, hash, key, text, measure, thumbnail, reason].
        """
        # Two pairs may have one key.
        place = (rank, sharded_writers.hash_fraction(f"{key}\0{text}\0{measure}", name))
        heap = self._largest[name]  # turned round: the worst row is first
        worst = (-place[0], -place[1])
        if len(heap) < self._size:
            heapq.heappush(heap, worst)
        elif worst < heap[0]:
            return []
        else:
            heapq.heapreplace(heap, worst)
        short = text[:_MAX_CAPTION]
        return [(name, [*place, key, short, measure, clean_report.thumbnail(image), reason])]


class ExamineSources(beam.PTransform):
    """Takes `Source`s; gives Candidates, and tagged `TAGS`.

    `stretches` are (shard, intermediate.Stretch), `rejected` readers.Rejected, `facts` ((name,
    value), count), and `samples` (reason, row of the report's sample).
    """

    def __init__(
        self,
        examiner: Callable[[], Examiner],
        spill_dir: files.Path,
        num_shards: Mapping[str, int],
        fetch: fetching.FetchSettings | None = None,
    ) -> None:
        """Sets how.

        Args:
          examiner: makes the function that judges a pair, once in each worker.
          spill_dir: an existing folder for spills; every worker must reach it.
          num_shards: split -> files that it will have.
          fetch: how pictures of URLs are fetched.
        """
        super().__init__("Examine sources")
        fetch = fetch or fetching.FetchSettings()
        self._work = _ExamineSource(examiner, str(spill_dir), dict(num_shards), fetch)

    def expand(self, sources: beam.PCollection) -> Any:
        """Returns the tagged outputs; the main one is `fingerprints`."""
        return sources | "Examine" >> beam.ParDo(self._work).with_outputs(*TAGS, main="candidates")


class _ExamineSource(beam.DoFn):
    def __init__(
        self,
        examiner: Callable[[], Examiner],
        spill_dir: str,
        num_shards: dict[str, int],
        fetch: fetching.FetchSettings,
    ) -> None:
        self._make_examiner, self._spill_dir = examiner, spill_dir
        self._num_shards, self._fetch = num_shards, fetch

    def setup(self) -> None:
        self._examine = self._make_examiner()
        self._sampler = Sampler()
        self._fetcher = fetching.shared(self._fetch)  # so that limits for a host hold

    def process(self, item: Source) -> Iterator[Any]:
        spill = intermediate.Spill.open(self._spill_dir, item.name)
        if spill is None:
            spill = self._take_over(item) if item.hashes else self._spill(item)
        else:
            options.tick(spill.notes["read"], item.source.num_bytes)
        yield from spill.candidates()
        for stretch in spill.stretches():
            yield beam.pvalue.TaggedOutput("stretches", stretch)
        reasons: collections.Counter[str] = collections.Counter()
        for row in spill.notes["rejected"]:
            rejected = readers.Rejected(**row)
            reasons[rejected.reason] += 1
            yield beam.pvalue.TaggedOutput("rejected", rejected)
        for reason, count in reasons.items():
            beam.metrics.Metrics.counter(fingerprints.COUNTERS, reason).inc(count)
            yield beam.pvalue.TaggedOutput("facts", ((REJECTED, reason), count))
        if count := reasons["broken_file"]:
            many = len(item.source.paths) > 1
            place = f"{item.source.root}/" if many else item.source.paths[0]
            yield beam.pvalue.TaggedOutput("facts", ((BROKEN, place), count))
        yield beam.pvalue.TaggedOutput("facts", ((READ, ""), spill.notes["read"]))
        for name, value, count in spill.notes["facts"]:
            yield beam.pvalue.TaggedOutput("facts", ((name, value), count))
        for reason, sample in spill.notes["samples"]:
            yield beam.pvalue.TaggedOutput("samples", (reason, tuple(sample)))

    def _spill(self, item: Source) -> intermediate.Spill:
        """Reads a source and writes its spill.

        Raises:
          ValueError: a row that is wanted is not there.
        """
        writer = intermediate.SpillWriter(self._spill_dir, item.name, self._num_shards)
        rejected: list[dict[str, Any]] = []
        samples: list[tuple[str, list[Any]]] = []
        facts: collections.Counter[Fact] = collections.Counter()
        ticks = _Ticks(item.source.num_bytes)
        for number, row in self._rows(item):
            image = b"" if isinstance(row, readers.Rejected) else row.image
            examined = Examined(row) if isinstance(row, readers.Rejected) else self._examine(row)
            facts.update(examined.facts)
            result = examined.result
            for name, before in examined.changes.items():
                text = result.pair.text if isinstance(result, Passed) else result.text
                samples += self._sampler.offer(CHANGED + name, before, before, text, b"")
            if isinstance(result, Passed):
                writer.add(*result)
                key, text = result.pair.key, result.pair.text
                for rule, (distance, measure) in examined.near.items():
                    samples += self._sampler.offer(NEAR + rule, key, text, measure, image, distance)
            else:
                address, place = place_of(item.source, number)
                result = dataclasses.replace(result, address=address, row=place)
                rejected.append(dataclasses.asdict(result))
                samples += self._sampler.offer(
                    result.reason, result.key, result.text, result.measure, image
                )
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

    def _rows(self, item: Source) -> Iterator[tuple[int, rows.Row]]:
        """Yields (number, row) of what is to be read of a source."""
        found = enumerate(readers.read_source(item.source, self._fetcher), item.source.start)
        if not item.in_part:
            yield from found
            return
        wanted = intermediate.read_wanted(self._spill_dir, item.name)
        for number, row in found:
            if number in wanted:
                key = wanted[number]
                if not _same_key(row.key, key):
                    break
                del wanted[number]
                yield number, dataclasses.replace(row, key=key)
        if wanted:
            number, key = next(iter(wanted.items()))
            address, place = place_of(item.source, number)
            raise ValueError(
                f"{address}: row {place}, {key}, is to be read again and is not there now; run the "
                "same command again if the file could not be read, else name no --retry_rejected"
            )

    def _take_over(self, item: Source) -> intermediate.Spill:
        """Makes a spill of pairs that an earlier run has cleaned."""
        writer = intermediate.SpillWriter(self._spill_dir, item.name, self._num_shards)
        ticks = _Ticks(item.source.num_bytes)
        with files.open(item.hashes) as lines:
            pairs = tfrecords.read(item.source.paths[0])
            for line, serialized in zip(lines, pairs, strict=True):
                row = fingerprints.Candidate.from_json(line.decode(), id="", known=True)
                writer.add(records.ImageTextPair.from_example(serialized), row)
                ticks.count(len(serialized))
        ticks.end()
        return writer.finish({"read": ticks.total, "rejected": [], "facts": [], "samples": []})


def place_of(source: readers.Source, number: int) -> tuple[str, int]:
    """Returns the absolute address of the file that a row is from, and its place in the file.

    Args:
      source: what was read.
      number: of the row in it, counted from `source.start`.
    """
    if source.format == FOLDER:
        return files.absolute(source.paths[number]), 0
    return files.absolute(source.paths[0]), number


def _same_key(now: str, before: str) -> bool:
    """Returns whether it may be one row: keys in a folder depend on where its pattern begins."""
    return now == before or now.endswith(f"/{before}") or before.endswith(f"/{now}")


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
