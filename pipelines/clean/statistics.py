# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What `parti clean` counts and samples for its report, and the transforms that add it up."""

import collections
import dataclasses
import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import apache_beam as beam
from apache_beam.runners import runner as beam_runner
from apache_beam.transforms import combiners

from parti.pipelines.beam import disk_group_by_key, sharded_writers
from parti.pipelines.clean import histograms as clean_histograms
from parti.pipelines.clean import report as clean_report
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.deduplicate import near_duplicates
from parti.pipelines.rules import rule, table
from parti.stages import files

SAMPLE_SIZE = 24
# What became of a URL: read from what was kept, fetched, or not needed, for the row fell before.
URLS = ("kept", "fetched", "not_needed")
_SCORE_RULES = [row for row in table.RULES.values() if row.kind == table.SCORE]
_MAX_CAPTION = 400  # characters in a sample
_COLLECTED = ("files", "counts", "samples", "captions", "groups")


class Count(NamedTuple):
    """What is counted.

    "read" counts pairs and broken rows that came in; "rejected" those with a reason; "broken" those
    of a file, or of a folder and a slash; "left_out" files that are no pair's, with a reason
    (`left_out.REASONS`); "unknown_split" pairs of a split of another name; "new_key" those whose
    key was another file's too; "changed" captions that a repair changed; "no_value" pairs without a
    value for a rule; "left_out_column" pairs that passed without a column of their metadata;
    "before" and "kept" the pairs in a bin of a histogram, before all rules and after; "url" the
    pairs with an image by URL that was one of `URLS`.
    """

    kind: Literal[
        "read",
        "rejected",
        "broken",
        "left_out",
        "unknown_split",
        "new_key",
        "changed",
        "no_value",
        "left_out_column",
        "before",
        "kept",
        "url",
    ]
    # Of the reason, file, repair, rule or histogram; column and why; or one of `URLS`
    name: str = ""
    bin: int = 0


class SampleName(NamedTuple):
    """What a sample is of: a reason, all that is kept, a rule, a repair, or a group of copies."""

    kind: Literal[
        "dropped",
        "kept",
        "near",
        "changed",
        "left_out",
        "unknown_split",
        "group:kept",
        "group:dropped",
    ]
    name: str = ""  # of the reason, rule or repair; of a group, the key of the copy that stays

    @property
    def salt(self) -> str:
        """What the hashes that choose the sample are salted with."""
        return self.name if self.kind == "dropped" else ":".join(filter(None, self))


# Its name, and the row (rank, hash, key, text, measure, thumbnail, reason).
Sample = tuple[SampleName, tuple[Any, ...]]


class Sampler:
    """Chooses the rows that may be in a sample: those with the smallest hashes.

    The smallest of all are among the smallest of each worker, so in the end the sample does not
    depend on how rows fall to workers.
    """

    def __init__(self, size: int = SAMPLE_SIZE) -> None:
        self._size = size
        self._largest: dict[SampleName, list[tuple[float, float]]] = collections.defaultdict(list)

    def offer(
        self,
        name: SampleName,
        key: str,
        text: str,
        measure: str,
        image: bytes,
        rank: float = 0.0,
        reason: str = "",
    ) -> list[Sample]:
        """Returns [(name, row)] if a pair may be in a sample of the report, else [].

        The smallest ranks are taken, and of equal ones the smallest hashes. `image` is encoded, or
        b""; `reason` says why the pair was dropped, where `name` does not.
        """
        # Two pairs may have one key.
        order = (rank, sharded_writers.hash_fraction(f"{key}\0{text}\0{measure}", name.salt))
        heap = self._largest[name]  # negative: the worst row is first
        worst = (-order[0], -order[1])
        if len(heap) < self._size:
            heapq.heappush(heap, worst)
        elif worst < heap[0]:
            return []
        else:
            heapq.heapreplace(heap, worst)
        short = text[:_MAX_CAPTION]
        return [(name, (*order, key, short, measure, clean_report.thumbnail(image), reason))]


def caption_counts(
    kind: Literal["before", "kept"],
    text: str,
    metadata: Mapping[str, Any],
    settings: clean_settings.CleanSettings,
) -> list[Count]:
    """Returns the bins of a caption and of the scores that the metadata have."""
    values = {"words": float(len(text.split())), "characters": float(len(text))}
    caption = rule.Caption(text, metadata)
    for row in _SCORE_RULES:
        scores = caption.scores(settings.rules.values[row.reads[0].name])
        values |= {row.histogram: scores[0]} if scores else {}
    return _in_bins(kind, values)


def image_counts(
    kind: Literal["before", "kept"], width: int, height: int, num_bytes: int
) -> list[Count]:
    """Returns the bins of an image: its sides in pixels, its encoded bytes."""
    short = min(width, height)
    values = {"side": short, "aspect": max(width, height) / short, "kilobytes": num_bytes / 1000}
    return _in_bins(kind, values)


def _in_bins(kind: Literal["before", "kept"], values: Mapping[str, float]) -> list[Count]:
    measures = clean_histograms.MEASURES
    return [Count(kind, name, measures[name].bin(value)) for name, value in values.items()]


@dataclasses.dataclass(frozen=True)
class Collected:
    """What a finished job counted and sampled."""

    files: Sequence[Mapping[str, Any]]  # {name, count, num_bytes, sha256} of each
    counts: Mapping[Count, int]
    samples: Mapping[SampleName, Sequence[Sequence[Any]]]  # rows as in `Sample`
    captions: Mapping[str, Any]  # {distinct, top: [[text, count], ...]} of the kept pairs
    # Of `CountGroups`, and skipped: comparisons that were left out in crowded buckets.
    groups: Mapping[str, Any]


def collect(
    scratch: files.Path,
    written: tuple[beam.PCollection, ...],
    counts: tuple[beam.PCollection, ...],
    samples: tuple[beam.PCollection, ...],
    captions: beam.PCollection,
    groups: beam.PCollection,
) -> None:
    """Collects in `scratch`, which every worker reaches, what `read_collected` reads.

    `written` is {name, count, num_bytes, sha256} of files, `counts` (Count, number), `samples`
    `Sample`s, `captions` those of kept pairs, `groups` of `CountGroups`.
    """
    added = (
        counts
        | "All counts" >> beam.Flatten()
        | "Add counts" >> beam.CombinePerKey(sum)
        | "Count rows" >> beam.Map(lambda item: [*item[0], item[1]])
    )
    top = _first(clean_report.MOST["top"], lambda row: (-row[1], row[0]))
    most_frequent = (
        captions
        | "Count captions" >> CountEach()
        | "Most frequent" >> beam.CombineGlobally(top)
        | "As captions" >> beam.Map(lambda found: {"distinct": found[0], "top": found[2]})
    )
    every_file = written | "Files" >> beam.Flatten()
    found = (every_file, added, _first_samples(samples), most_frequent, groups)
    for name, rows in zip(_COLLECTED, found, strict=True):
        rows | sharded_writers.CollectJson(files.join(scratch, f"{name}.json"))


def _first_samples(samples: tuple[beam.PCollection, ...]) -> beam.PCollection:
    """Takes collections of `Sample`s; returns [name, its first rows] for each name."""
    # Each for itself first: a local runner holds in memory all that is flattened.
    parts = tuple(
        some | f"First samples {number}" >> combiners.Top.SmallestPerKey(SAMPLE_SIZE)
        for number, some in enumerate(samples)
    )
    return (
        parts
        | "All samples" >> beam.Flatten()
        | "Rows of samples" >> beam.FlatMapTuple(lambda name, rows: [(name, row) for row in rows])
        | "First of all samples" >> combiners.Top.SmallestPerKey(SAMPLE_SIZE)
        | "Sample" >> beam.Map(list)
    )


def read_collected(scratch: files.Path, result: beam_runner.PipelineResult) -> Collected:
    """Returns what `collect` wrote in a finished job, and removes the files."""
    written, counts, samples, captions, groups = (
        sharded_writers.read_collected(files.join(scratch, f"{name}.json")) for name in _COLLECTED
    )
    wanted = beam.metrics.MetricsFilter().with_name(near_duplicates.NOT_COMPARED)
    counters = result.metrics().query(wanted)["counters"]
    return Collected(
        written,
        {Count(*key): number for *key, number in counts},
        {SampleName(*name): rows for name, rows in samples},
        captions[0],
        {**groups[0], "skipped": sum(counter.result for counter in counters)},
    )


class CountGroups(beam.PTransform):
    """Decisions to {num_groups, num_dropped, sizes: {key of the copy that stays: pairs}}.

    `sizes` has the groups that the report shows.
    """

    def expand(self, decisions: beam.PCollection) -> beam.PCollection:
        """Returns a collection of one element."""
        by_hash = lambda row: (sharded_writers.hash_fraction(row[0], "group"), row[0])  # noqa: E731
        return (
            decisions
            | "Group" >> beam.Map(lambda decision: decision.group)
            | "In groups" >> beam.Filter(bool)
            | "Sizes" >> CountEach()
            | "Some groups" >> beam.CombineGlobally(_first(clean_report.MOST["groups"], by_hash))
            | "As groups"
            >> beam.Map(
                lambda found: {
                    "num_groups": found[0],
                    "num_dropped": found[1][1],
                    "sizes": {key: count + 1 for key, count in found[2]},
                }
            )
        )


class CountEach(beam.PTransform):
    """Texts to (text, how many)."""

    def expand(self, texts: beam.PCollection) -> beam.PCollection:
        """Returns a row for each different text."""
        return (
            texts
            | "Alone" >> beam.Map(lambda text: (text, None))
            | "Same" >> disk_group_by_key.GroupObjects()
            | "Count" >> beam.MapTuple(lambda text, found: (text, sum(1 for _ in found)))
        )


def _first(size: int, order: Callable[[tuple[str, int]], Any]) -> beam.CombineFn:
    """Of (name, number): how many there are, ("", sum of the numbers), and the first `size`."""
    return combiners.SingleInputTupleCombineFn(
        combiners.CountCombineFn(),
        lambda rows: ("", sum(number for _, number in rows)),
        combiners.TopCombineFn(size, key=order, reverse=True),
    )
