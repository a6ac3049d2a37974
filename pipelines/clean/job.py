# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The job of `parti clean`, in three steps.

1. *Examine* (`examine_sources`, `filter_pair`): a worker reads a source, judges each pair alone,
   and writes those that pass to the source's spill. Only a light row of each goes through the
   runner.
2. *Decide*: of pairs with one key one stays; then duplicates and counts over pairs
   (`connected_groups`).
3. *Merge* (`merge_shards`): each shard gathers its pairs from all spills, without those dropped.

The bytes of what is written depend on input and settings alone, not on workers or runner.
"""

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.runners import runner as beam_runner

from parti.pipelines import readers
from parti.pipelines.beam import disk_group_by_key, sharded_writers
from parti.pipelines.clean import examine_sources, filter_pair, incremental, merge_shards
from parti.pipelines.clean import report as clean_report
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.clean import summary as clean_summary
from parti.pipelines.deduplicate import connected_groups, fingerprints, lsh
from parti.pipelines.readers.http import fetching
from parti.stages import files

SPILLS, EVALUATION = "spills", "evaluation.zip"
_FILES, _FACTS, _SAMPLES = "files.json", "facts.json", "samples.json"
_CAPTIONS, _GROUPS = "captions.json", "groups.json"
_DESCRIBED = ("rejected", merge_shards.COUNTS, "samples", "captions")


class _OnePerKey(beam.DoFn):
    """Of candidates with one key passes the best; a decision for each of the others."""

    def process(self, group: tuple[bytes, Iterable[bytes]]) -> Iterator[Any]:
        _, packed = group
        best: fingerprints.Candidate | None = None
        for row in map(fingerprints.unpack, packed):
            worse = None if best is None else max(row, best, key=lambda r: r.order)
            best = row if best is None else min(row, best, key=lambda r: r.order)
            if worse is not None:
                decision = fingerprints.Decision(worse.id, "duplicate_key", "", worse.key)
                yield beam.pvalue.TaggedOutput("decisions", decision)
        assert best is not None, "a group has a row"
        yield best


class _Describe:
    """Says of each merged pair what the report and the rejected rows need."""

    def __init__(self, settings: clean_settings.CleanSettings) -> None:
        self._settings = settings
        self._sampler = examine_sources.Sampler()

    def __call__(
        self, merged: merge_shards.Merged, shown: Mapping[str, int]
    ) -> Iterator[beam.pvalue.TaggedOutput]:
        pair, row, _ = merged
        is_kept = merged.decision is None
        decision = merged.decision or fingerprints.Decision(row.id, "kept", "", row.key)
        reason, measure, group = decision.reason, decision.measure, decision.group
        beam.metrics.Metrics.counter(fingerprints.COUNTERS, reason).inc()
        samples = self._sampler.offer(reason, pair.key, pair.text, measure, pair.image)
        if group in shown:
            name = clean_summary.group_sample(group, is_kept)
            samples += self._sampler.offer(
                name, pair.key, pair.text, measure, pair.image, reason=reason
            )
        for name, sample in samples:
            yield beam.pvalue.TaggedOutput("samples", (name, tuple(sample)))
        if is_kept:
            yield beam.pvalue.TaggedOutput("captions", pair.text)
            width, height = pair.metadata[filter_pair.ORIGINAL_SIZE]
            facts = filter_pair.caption_facts(
                pair.text, pair.metadata, self._settings, filter_pair.KEPT
            )
            facts += filter_pair.picture_facts(width, height, row.num_bytes, filter_pair.KEPT)
            if row.known:  # they were not judged in this run
                before = (name.replace(filter_pair.KEPT, filter_pair.BEFORE) for name, _ in facts)
                facts += [(name, bin) for name, (_, bin) in zip(before, facts, strict=True)]
            yield from (beam.pvalue.TaggedOutput(merge_shards.COUNTS, (fact, 1)) for fact in facts)
        else:
            rejected = readers.Rejected(pair.key, reason, measure, pair.text, pair.source, group)
            yield beam.pvalue.TaggedOutput("rejected", rejected)
            yield beam.pvalue.TaggedOutput(
                merge_shards.COUNTS, ((examine_sources.REJECTED, reason), 1)
            )


def build(
    root: beam.Pipeline,
    settings: clean_settings.CleanSettings,
    sources: Sequence[examine_sources.Source],
    directory: files.Path,
    scratch: files.Path,
    fetch: fetching.FetchSettings,
    old_rejected: Sequence[incremental.OldRejected] = (),
    folder: str = "",
    input_root: str = "",
) -> beam.PCollection:
    """Adds the job to a pipeline.

    Args:
      root: the pipeline.
      settings: the rules and the form of the output.
      sources: what to read, each with a name of its own.
      directory: an existing folder; pairs, hashes and rejected rows are written there.
      scratch: a folder for counts, with `SPILLS` in it, and `EVALUATION` if the settings name an
        evaluation set; every worker must reach both.
      fetch: how pictures of URLs are fetched.
      old_rejected: files of rejected rows to take over.
      folder: see `disk_group_by_key.GroupByKey`.
      input_root: beginning of addresses that is left out where rejected rows are written.

    Returns:
      What is known of each written file: {name, count, num_bytes, sha256}.
    """
    spill_dir = files.join(scratch, SPILLS)
    evaluation = files.join(scratch, EVALUATION) if settings.evaluation else ""
    judge = functools.partial(filter_pair.Judge, settings, evaluation)
    examined = (
        root
        | "Sources" >> beam.Create(list(sources))
        | beam.Reshuffle()  # so that workers share them
        | examine_sources.ExamineSources(judge, spill_dir, settings.shards, fetch)
    )
    unique = (
        examined.candidates
        | "By key" >> beam.Map(lambda row: (row.key.encode(), fingerprints.pack(row)))
        | "Group keys" >> disk_group_by_key.GroupByKey(folder)
        | "One per key" >> beam.ParDo(_OnePerKey()).with_outputs("decisions", main="rows")
    )
    copies = unique.rows | connected_groups.FindDuplicates(settings.duplicates, folder)
    groups = copies | _Groups(folder)
    decisions = (unique.decisions, copies) | "Decisions" >> beam.Flatten()
    merged = {
        "stretches": examined.stretches,
        "decisions": decisions,
        "shown": groups | "Shown groups" >> beam.Map(lambda found: found["sizes"]),
    } | merge_shards.MergeSpills(
        spill_dir, directory, settings.shards, _Describe(settings), _DESCRIBED, folder
    )
    old = (
        root
        | "Old files" >> beam.Create(list(old_rejected))
        | "Old rejected" >> beam.FlatMap(_old_rejected).with_outputs("rejected", "facts", "samples")
    )
    rejected = (examined.rejected, merged.rejected, old.rejected)
    rejected_files = tuple(
        rows | f"Lines {place}" >> beam.Map(_line, input_root)
        for place, rows in enumerate(rejected)
    ) | sharded_writers.WriteLines(directory, "rejected", settings.num_rejected_shards, folder)
    written = (merged.files, rejected_files) | "Files" >> beam.Flatten()
    written | sharded_writers.CollectJson(files.join(scratch, _FILES))
    groups | sharded_writers.CollectJson(files.join(scratch, _GROUPS))
    merged.captions | _TopCaptions(files.join(scratch, _CAPTIONS), folder)
    _collect_facts(files.join(scratch, _FACTS), examined.facts, merged.facts, old.facts)
    samples = (examined.samples, merged.samples, old.samples)
    _collect_samples(files.join(scratch, _SAMPLES), *samples)
    return written


def _collect_facts(path: str, *facts: beam.PCollection) -> None:
    """Adds up ((name, value), count) in a file of [name, value, count]."""
    (
        facts
        | "All facts" >> beam.Flatten()
        | "Count" >> beam.CombinePerKey(sum)
        | "Fact" >> beam.Map(lambda item: [*item[0], item[1]])
        | sharded_writers.CollectJson(path)
    )


def _collect_samples(path: str, *samples: beam.PCollection) -> None:
    """Takes (name, row of the report's sample), and writes [name, its first rows] to a file."""
    # Each for itself first: what is flattened is all held by a local runner.
    size = examine_sources.SAMPLE_SIZE
    parts = tuple(
        some | f"First samples {place}" >> beam.combiners.Top.SmallestPerKey(size)
        for place, some in enumerate(samples)
    )
    (
        parts
        | "All samples" >> beam.Flatten()
        | "Rows of samples" >> beam.FlatMapTuple(lambda name, rows: [(name, row) for row in rows])
        | "First of all samples" >> beam.combiners.Top.SmallestPerKey(size)
        | "Sample" >> beam.Map(lambda item: [item[0], item[1]])
        | sharded_writers.CollectJson(path)
    )


def _line(row: readers.Rejected, input_root: str) -> tuple[str, bytes]:
    address = row.address.removeprefix(input_root)
    line = dataclasses.replace(row, address=address).to_json()
    return row.key, line.encode("utf-8", "replace")


def _old_rejected(old: incremental.OldRejected) -> Iterator[beam.pvalue.TaggedOutput]:
    """Yields the rows of a file as they go into this run's, and what the report needs of them."""
    counts: collections.Counter[examine_sources.Fact] = collections.Counter()
    sampler = examine_sources.Sampler()
    with files.open(old.path) as lines:
        for row in (readers.Rejected(**json.loads(line)) for line in lines):
            if row.reason not in old.without:
                if row.address:
                    row = dataclasses.replace(row, address=old.root + row.address)
                counts[examine_sources.READ, ""] += 1
                counts[examine_sources.REJECTED, row.reason] += 1
                yield beam.pvalue.TaggedOutput("rejected", row)
                for name, sample in sampler.offer(row.reason, row.key, row.text, row.measure, b""):
                    yield beam.pvalue.TaggedOutput("samples", (name, tuple(sample)))
    yield from (beam.pvalue.TaggedOutput("facts", count) for count in counts.items())


class _Largest(beam.CombineFn):
    """Of (name, number): how many there are, the sum of the numbers, and the first `size` names."""

    def __init__(self, size: int, order: Callable[[str, int], Any]) -> None:
        self._size, self._order = size, order

    def create_accumulator(self) -> tuple[int, int, list[tuple[str, int]]]:
        return 0, 0, []

    def add_input(self, accumulator: Any, item: tuple[str, int]) -> Any:
        count, total, first = accumulator
        first.append(item)
        return count + 1, total + item[1], self._cut(first) if len(first) > 999 else first

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        parts = list(accumulators)
        first = [item for _, _, items in parts for item in items]
        return sum(p[0] for p in parts), sum(p[1] for p in parts), self._cut(first)

    def extract_output(self, accumulator: Any) -> tuple[int, int, list[tuple[str, int]]]:
        count, total, first = accumulator
        return count, total, self._cut(first)

    def _cut(self, items: list[tuple[str, int]]) -> list[tuple[str, int]]:
        return sorted(items, key=lambda item: self._order(*item))[: self._size]


class _CountEach(beam.PTransform):
    """Texts to (text, how many)."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def expand(self, texts: beam.PCollection) -> beam.PCollection:
        return (
            texts
            | "Alone" >> beam.Map(lambda text: (text, None))
            | "Same" >> disk_group_by_key.GroupObjects(self._folder)
            | "Count" >> beam.MapTuple(lambda text, found: (text, sum(1 for _ in found)))
        )


class _Groups(beam.PTransform):
    """Decisions to {num_groups, num_dropped, sizes: {key of the copy that stays: pairs}}."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def expand(self, decisions: beam.PCollection) -> beam.PCollection:
        order = _order_by_hash
        return (
            decisions
            | "In groups" >> beam.Filter(lambda decision: decision.group)
            | "Group" >> beam.Map(lambda decision: decision.group)
            | "Sizes" >> _CountEach(self._folder)
            | "Some groups" >> beam.CombineGlobally(_Largest(clean_report.NUM_GROUPS, order))
            | "As groups"
            >> beam.Map(
                lambda found: {
                    "num_groups": found[0],
                    "num_dropped": found[1],
                    "sizes": {key: count + 1 for key, count in found[2]},
                }
            )
        )


def _order_by_hash(name: str, count: int) -> Any:
    del count
    return sharded_writers.hash_fraction(name, "group"), name


def _order_by_count(name: str, count: int) -> Any:
    return -count, name


class _TopCaptions(beam.PTransform):
    """Captions to a file with {distinct, top: [[caption, pairs], ...]}."""

    def __init__(self, path: str, folder: str) -> None:
        super().__init__()
        self._path, self._folder = path, folder

    def expand(self, captions: beam.PCollection) -> beam.PCollection:
        most = _Largest(clean_report.NUM_TOP_CAPTIONS, _order_by_count)
        return (
            captions
            | "Count captions" >> _CountEach(self._folder)
            | "Most frequent" >> beam.CombineGlobally(most)
            | "As captions" >> beam.Map(lambda found: {"distinct": found[0], "top": found[2]})
            | sharded_writers.CollectJson(self._path)
        )


def collected(scratch: files.Path, result: beam_runner.PipelineResult) -> clean_summary.Collected:
    """Returns what the finished job counted; removes its files."""
    names = (_FILES, _FACTS, _SAMPLES, _CAPTIONS, _GROUPS)
    found, facts, samples, captions, groups = (
        sharded_writers.read_collected(files.join(scratch, name)) for name in names
    )
    wanted = beam.metrics.MetricsFilter().with_name(lsh.NOT_COMPARED)
    counters = result.metrics().query(wanted)["counters"]
    skipped = sum(counter.result for counter in counters)
    shown = {**groups[0], "skipped": skipped}
    return clean_summary.Collected(found, facts, samples, captions[0], shown)
