# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The first half of `parti clean`: a source is read, its pairs filtered one by one, and written.

A source with a finished intermediate shard is not read again, so a killed run goes on.
"""

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam

from parti.data.storage import records, tfrecords
from parti.pipelines import readers
from parti.pipelines.beam import options
from parti.pipelines.clean import filter_pair, intermediate, statistics
from parti.pipelines.deduplicate import fingerprints
from parti.pipelines.readers import reading
from parti.pipelines.readers.base import left_out, rows
from parti.pipelines.readers.base.source_files import FOLDER
from parti.pipelines.readers.http import fetching, originals
from parti.stages import files

TAGS = ("ranges", "rejected", "counts", "samples")  # the main output is "fingerprints"
_TICK_EVERY = 16
_MAX_COLUMNS, _MAX_COLUMN = 100, 200  # left out and counted in a source; characters of one
_FETCH = fetching.FetchSettings()

PairFilter = Callable[..., filter_pair.Filtered]  # takes the pair, and `checked` if it is known
CheckCaption = Callable[[records.ImageTextPair], filter_pair.Checked]


class Work(NamedTuple):
    """A source and the name of its intermediate shard."""

    name: str
    source: readers.Source
    hashes: str = ""  # of pairs that an earlier run cleaned, the file with their rows
    in_part: bool = False  # whether to take only rows that `intermediate.read_wanted` names
    weight: int = 0  # of all its rows in the progress line


class FilterSource(beam.DoFn):
    """Takes `Work`; yields Fingerprints, and tagged `TAGS`.

    `ranges` are (shard, intermediate.Range), `rejected` readers.Rejected, `counts`
    (statistics.Count, number), and `samples` statistics.Sample.
    """

    def __init__(
        self,
        make_filter: Callable[[], PairFilter],
        directory: files.Path,
        num_shards: Mapping[str, int],
        fetch: fetching.FetchSettings = _FETCH,
        check_caption: CheckCaption | None = None,
        kept: originals.Kept | None = None,
    ) -> None:
        """Sets an existing folder that every worker reaches, and split -> final shards.

        `make_filter` is called once in each worker. An image by URL is not fetched if
        `check_caption` rejects the pair without it, or if it is `kept`.
        """
        self._make_filter, self._directory = make_filter, str(directory)
        self._num_shards, self._fetch = dict(num_shards), fetch
        self._check_caption, self._kept = check_caption, kept

    def setup(self) -> None:
        """Makes what a worker keeps."""
        self._filter = self._make_filter()
        self._sampler = statistics.Sampler()
        self._fetcher = fetching.shared(self._fetch)  # so that limits for a host hold
        self._originals = originals.Originals(self._kept) if self._kept else None

    def process(self, work: Work) -> Iterator[Any]:
        """Yields what a source gives, read now or by a run that was killed."""
        finished = intermediate.Intermediate.open(self._directory, work.name)
        found = finished or self.write(work)
        tally = Tally.from_json(found.notes)
        if finished:
            options.tick(tally.counts[statistics.Count("read")], work.weight)
        yield from found.fingerprints()
        for shard_and_range in found.ranges():
            yield beam.pvalue.TaggedOutput("ranges", shard_and_range)
        yield from _outputs(tally, work.source)

    def write(self, work: Work) -> intermediate.Intermediate:
        """Reads a source and writes its shard; ValueError: a row that is wanted is not there."""
        tally, rest = Tally(), work.weight
        fill = self._add_known if work.hashes else self._add_filtered
        with intermediate.Writer(self._directory, work.name, self._num_shards) as writer:
            filled = fill(work, writer, tally)
            while sizes := list(itertools.islice(filled, _TICK_EVERY)):
                weight = min(reading.share(work.source, sizes, work.weight), rest)
                rest -= weight
                options.tick(len(sizes), weight)
                tally.counts[statistics.Count("read")] += len(sizes)
            options.tick(0, rest)
            return writer.finish(tally.to_json())

    def _add_filtered(
        self, work: Work, writer: intermediate.Writer, tally: "Tally"
    ) -> Iterator[int]:
        """Filters the rows of a source; yields about the size of each in its file, in bytes."""
        files_left_out = left_out.LeftOut()
        checked: dict[int, dict[str, filter_pair.Checked]] = {}  # of rows that wait for an image
        for number, row in self._rows(work, tally, files_left_out, checked):
            known = checked.pop(number, {})
            if isinstance(row, readers.Rejected):
                filtered, image = filter_pair.Filtered(row), b""
            else:
                filtered, image = self._filter(row, **known), row.image
            if isinstance(filtered.result, filter_pair.Passed):
                pair, fingerprint = filtered.result
                writer.add(pair.to_example(), fingerprint)
            else:
                address, index = _position(work.source, number)
                result = dataclasses.replace(filtered.result, address=address, row=index)
                filtered = filtered._replace(result=result)
            tally.add(filtered, image, self._sampler)
            yield reading.size(row)
        if not work.in_part:  # else the earlier run has told of them
            tally.add_left_out(files_left_out, work.source.name, self._sampler)

    def _rows(
        self,
        work: Work,
        tally: "Tally",
        files_left_out: left_out.LeftOut,
        checked: dict[int, dict[str, filter_pair.Checked]],
    ) -> Iterator[tuple[int, rows.Row]]:
        """Yields the rows of a source with their numbers; counts what became of their URLs.

        `checked` gets what the rules for captions say of rows with a URL, by their numbers.
        """
        wanted = intermediate.read_wanted(self._directory, work.name) if work.in_part else None
        numbers = None if wanted is None else frozenset(wanted)
        urls = dict.fromkeys(statistics.URLS, 0)

        def wants(number: int, pair: records.ImageTextPair) -> bool:
            if numbers is not None and number not in numbers:
                return False
            is_needed = True
            if self._check_caption:
                found = self._check_caption(pair)
                checked[number], is_needed = {"checked": found}, found.rejection is None
            urls["fetched" if is_needed else "not_needed"] += 1
            return is_needed

        with contextlib.ExitStack() as stack:
            part = None
            if self._originals:
                part = stack.enter_context(originals.Part(self._originals, work.name))
            read = readers.read_source(work.source, self._fetcher, files_left_out, wants, part)
            found = enumerate(read, work.source.start)
            yield from found if wanted is None else _select(found, wanted, work.source)
            urls["kept"] = part.num_read if part else 0
        urls["fetched"] -= urls["kept"]
        tally.counts.update(
            {statistics.Count("url", n): count for n, count in urls.items() if count}
        )

    def _add_known(self, work: Work, writer: intermediate.Writer, tally: "Tally") -> Iterator[int]:
        """Takes over the pairs that an earlier run has cleaned; yields their sizes, in bytes."""
        with files.open(work.hashes) as lines:
            pairs = tfrecords.read(work.source.paths[0])
            for line, serialized in zip(lines, pairs, strict=True):
                row = fingerprints.Fingerprint.from_json(line.decode(), id="", known=True)
                writer.add(serialized, row)
                yield len(serialized)


@dataclasses.dataclass
class Tally:
    """What is kept of a source apart from the pairs that passed; counts are of all pairs."""

    rejected: list[readers.Rejected] = dataclasses.field(default_factory=list)
    counts: collections.Counter[statistics.Count] = dataclasses.field(
        default_factory=collections.Counter
    )
    samples: list[statistics.Sample] = dataclasses.field(default_factory=list)
    _num_columns: int = 0  # that are counted as left out

    def add(
        self, filtered: filter_pair.Filtered, image: bytes, sampler: statistics.Sampler
    ) -> None:
        """Adds a pair; `image` is the encoded one that was read."""
        self.counts.update(filtered.counts)
        result = filtered.result
        text = result.pair.text if isinstance(result, filter_pair.Passed) else result.text
        if filtered.unknown_split:
            name = statistics.SampleName("unknown_split")
            key = result.pair.key if isinstance(result, filter_pair.Passed) else result.key
            self.samples += sampler.offer(name, key, text, filtered.unknown_split, b"")
        for repair, before in filtered.changes.items():
            name = statistics.SampleName("changed", repair)
            self.samples += sampler.offer(name, before, before, text, b"")
        if isinstance(result, filter_pair.Passed):
            for column, why in rows.left_out(result.pair.metadata).items():
                self._count_column(f"{column} ({why})"[:_MAX_COLUMN])
            for rule, (distance, measure) in filtered.near.items():
                name = statistics.SampleName("near", rule)
                self.samples += sampler.offer(name, result.pair.key, text, measure, image, distance)
        else:
            self.rejected.append(result)
            self.counts[statistics.Count("rejected", result.reason)] += 1
            name = statistics.SampleName("dropped", result.reason)
            self.samples += sampler.offer(name, result.key, text, result.measure, image)

    def add_left_out(
        self, found: left_out.LeftOut, source: str, sampler: statistics.Sampler
    ) -> None:
        """Adds the files of a source that are no part of a pair."""
        for reason, number in found.counts.items():
            self.counts[statistics.Count("left_out", reason)] += number
            name = statistics.SampleName("left_out", reason)
            for file in found.names[reason]:
                self.samples += sampler.offer(name, file, "", source, b"")

    def _count_column(self, name: str) -> None:
        count = statistics.Count("left_out_column", name)
        if count not in self.counts and self._num_columns >= _MAX_COLUMNS:
            count = statistics.Count("left_out_column", "other columns")
        self._num_columns += count not in self.counts
        self.counts[count] += 1

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` reads."""
        return {
            "rejected": [dataclasses.asdict(row) for row in self.rejected],
            "counts": sorted([*key, number] for key, number in self.counts.items()),
            "samples": self.samples,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Tally":
        """Returns the tally of which `to_json` returned this."""
        return cls(
            [readers.Rejected(**row) for row in content["rejected"]],
            collections.Counter({statistics.Count(*key): n for *key, n in content["counts"]}),
            [(statistics.SampleName(*name), tuple(row)) for name, row in content["samples"]],
        )


def _outputs(tally: Tally, source: readers.Source) -> Iterator[beam.pvalue.TaggedOutput]:
    for row in tally.rejected:
        yield beam.pvalue.TaggedOutput("rejected", row)
    for item in tally.counts.items():
        yield beam.pvalue.TaggedOutput("counts", item)
        if item[0].kind == "rejected":
            beam.metrics.Metrics.counter(fingerprints.COUNTERS, item[0].name).inc(item[1])
    if number := tally.counts[statistics.Count("rejected", "broken_file")]:
        path = files.text(f"{source.root}/" if len(source.paths) > 1 else source.paths[0])
        yield beam.pvalue.TaggedOutput("counts", (statistics.Count("broken", path), number))
    for sample in tally.samples:
        yield beam.pvalue.TaggedOutput("samples", sample)


def _select(
    found: Iterator[tuple[int, rows.Row]], wanted: intermediate.Wanted, source: readers.Source
) -> Iterator[tuple[int, rows.Row]]:
    """Yields the wanted rows, with the keys that they had before; ValueError: one is not there."""
    for number, row in found:
        if number in wanted:
            now, before = row.key, wanted[number]
            # Keys in a folder depend on where its pattern begins.
            if now != before and not (now.endswith(f"/{before}") or before.endswith(f"/{now}")):
                break
            yield number, dataclasses.replace(row, key=wanted.pop(number))
    if wanted:
        number, key = next(iter(wanted.items()))
        address, index = _position(source, number)
        raise ValueError(
            f"{address}: row {index}, {key}, is to be read again and is not there now; run the "
            "same command again if the file could not be read, else name no --retry_rejected"
        )


def _position(source: readers.Source, number: int) -> tuple[str, int]:
    """Returns the absolute address of the file that a row is from, and its index there."""
    if source.format == FOLDER:
        return files.absolute(source.paths[number]), 0
    return files.absolute(source.paths[0]), number
