# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The job of `parti clean`, in three steps.

1. *Filter* (`filter_sources`, `filter_pair`): a worker reads a source, filters each pair alone, and
   writes those that pass to the source's intermediate shard. Only a fingerprint row of each goes
   through the runner.
2. *Deduplicate*: every key is one pair's; then duplicates and counts over pairs
   (`duplicate_rules`).
3. *Merge* (`merge_shards`): each shard gathers its pairs from all intermediate shards, without
   those that were dropped. Pairs with a new key go to the split and shard of that.

The bytes of what is written depend on input and settings alone, not on workers or runner.
"""

import collections
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence

import apache_beam as beam

from parti.data.storage import records
from parti.pipelines import readers
from parti.pipelines.beam import sharded_writers
from parti.pipelines.clean import (
    filter_pair,
    filter_sources,
    incremental,
    merge_shards,
    statistics,
)
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.deduplicate import duplicate_rules, fingerprints
from parti.pipelines.readers import origins
from parti.pipelines.readers.http import fetching, originals
from parti.stages import files

_DESCRIBED = ("rejected", merge_shards.COUNTS, "samples", "captions")


@dataclasses.dataclass(frozen=True)
class CleanJob:
    """What a job reads and writes, and how; every worker must reach both folders."""

    settings: clean_settings.CleanSettings
    sources: Sequence[filter_sources.Work]  # each with a name of its own
    fetch: fetching.FetchSettings
    directory: files.Path  # exists; pairs, hashes and rejected rows are written there
    scratch: files.Path  # exists; for intermediate shards and counts
    kept: originals.Kept | None = None  # what earlier runs fetched
    old_rejected: Sequence[incremental.OldRejected] = ()  # to take over
    old_paths: Sequence[str] = ()  # of the files that an earlier run has read
    input_root: str = ""  # beginning of addresses that rejected rows leave out

    @property
    def intermediate_dir(self) -> str:
        """The folder of the intermediate shards; to be made before the job runs."""
        return files.join(self.scratch, "intermediate")

    @property
    def evaluation_file(self) -> str:
        """The file of the evaluation set; to be written before the job runs."""
        return files.join(self.scratch, "evaluation.zip")


def build(root: beam.Pipeline, job: CleanJob) -> None:
    """Adds the job to a pipeline; `statistics.read_collected` reads what it counted."""
    settings = job.settings
    evaluation = job.evaluation_file if settings.evaluation else ""
    make_filter = functools.partial(filter_pair.load_filter, settings, evaluation)
    filtered = (
        root
        | "Sources" >> beam.Create(list(job.sources))
        | beam.Reshuffle()  # so that workers share them
        | "Filter sources"
        >> beam.ParDo(
            filter_sources.FilterSource(
                make_filter,
                job.intermediate_dir,
                settings.shards,
                job.fetch,
                functools.partial(filter_pair.check_caption, rules=settings.rules),
                job.kept,
            )
        ).with_outputs(*filter_sources.TAGS, main="fingerprints")
    )
    new = {work.name: work.source for work in job.sources if not work.hashes}
    labelled = origins.of_sources(new, job.old_paths)
    origin_of = {name: fingerprints.Origin(*found) for name, found in labelled.items()}
    unique, same_key = duplicate_rules.one_per_key(filtered.fingerprints, origin_of)
    duplicates = unique | duplicate_rules.FindDuplicates(settings.duplicates)
    groups = duplicates | statistics.CountGroups()
    merged = {
        "ranges": filtered.ranges,
        "decisions": (same_key, duplicates) | "Decisions" >> beam.Flatten(),
        "shown": groups | "Shown groups" >> beam.Map(lambda found: found["sizes"]),
    } | merge_shards.MergeShards(
        job.intermediate_dir,
        job.directory,
        settings.shards,
        _Describe(settings),
        _DESCRIBED,
        functools.partial(filter_pair.split_of, settings=settings),
    )
    old = (
        root
        | "Old files" >> beam.Create(list(job.old_rejected))
        | "Old rejected"
        >> beam.FlatMap(_old_rejected).with_outputs("rejected", "counts", "samples")
    )
    rejected_files = tuple(
        rows | f"Lines {number}" >> beam.Map(_line, job.input_root)
        for number, rows in enumerate((filtered.rejected, merged.rejected, old.rejected))
    ) | sharded_writers.WriteLines(job.directory, "rejected", settings.num_rejected_shards)
    statistics.collect(
        job.scratch,
        written=(merged.files, rejected_files),
        counts=(filtered.counts, merged.counts, old.counts),
        samples=(filtered.samples, merged.samples, old.samples),
        captions=merged.captions,
        groups=groups,
    )


class _Describe:
    """Yields of each merged pair what the report and the rejected rows need."""

    def __init__(self, settings: clean_settings.CleanSettings) -> None:
        self._settings = settings
        self._sampler = statistics.Sampler()

    def __call__(
        self, merged: merge_shards.Merged, shown: Mapping[str, int]
    ) -> Iterator[beam.pvalue.TaggedOutput]:
        pair, row, decision, is_new_key = merged
        if is_new_key:
            yield beam.pvalue.TaggedOutput(merge_shards.COUNTS, (statistics.Count("new_key"), 1))
        if decision is None:
            yield beam.pvalue.TaggedOutput("captions", pair.text)
            counts, reason, measure, group = self._bins(pair, row), "kept", "", row.key
            name = statistics.SampleName("kept")
            of_group = statistics.SampleName("group:kept", group)
        else:
            _, reason, measure, group = dataclasses.astuple(decision)
            rejected = readers.Rejected(pair.key, reason, measure, pair.text, pair.source, group)
            yield beam.pvalue.TaggedOutput("rejected", rejected)
            counts = [statistics.Count("rejected", reason)]
            name = statistics.SampleName("dropped", reason)
            of_group = statistics.SampleName("group:dropped", group)
        beam.metrics.Metrics.counter(fingerprints.COUNTERS, reason).inc()
        yield from (beam.pvalue.TaggedOutput(merge_shards.COUNTS, (n, 1)) for n in counts)
        shown_as = pair.key, pair.text, measure, pair.image
        samples = self._sampler.offer(name, *shown_as)
        if group in shown:
            samples += self._sampler.offer(of_group, *shown_as, reason=reason)
        yield from (beam.pvalue.TaggedOutput("samples", sample) for sample in samples)

    def _bins(
        self, pair: records.ImageTextPair, row: fingerprints.Fingerprint
    ) -> list[statistics.Count]:
        """Returns the bins of a kept pair; if it was not filtered in this run, those before too."""
        width, height = pair.metadata[filter_pair.ORIGINAL_SIZE]
        found = statistics.caption_counts("kept", pair.text, pair.metadata, self._settings)
        found += statistics.image_counts("kept", width, height, row.num_bytes)
        return found + [count._replace(kind="before") for count in found if row.known]


def _line(row: readers.Rejected, input_root: str) -> tuple[str, bytes]:
    address = row.address.removeprefix(input_root)
    line = dataclasses.replace(row, address=address).to_json()
    return row.key, line.encode("utf-8", "replace")


def _old_rejected(old: incremental.OldRejected) -> Iterator[beam.pvalue.TaggedOutput]:
    """Yields the rows of a file as they go into this run's, and what the report needs of them."""
    counts: collections.Counter[statistics.Count] = collections.Counter()
    sampler = statistics.Sampler()
    with files.open(old.path) as lines:
        for row in (readers.Rejected(**json.loads(line)) for line in lines):
            if row.reason not in old.without:
                if row.address:
                    row = dataclasses.replace(row, address=old.root + row.address)
                counts[statistics.Count("read")] += 1
                counts[statistics.Count("rejected", row.reason)] += 1
                yield beam.pvalue.TaggedOutput("rejected", row)
                name = statistics.SampleName("dropped", row.reason)
                for sample in sampler.offer(name, row.key, row.text, row.measure, b""):
                    yield beam.pvalue.TaggedOutput("samples", sample)
    yield from (beam.pvalue.TaggedOutput("counts", item) for item in counts.items())
