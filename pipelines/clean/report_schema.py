# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The content of the report of `parti clean`: what `clean_report.write` takes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict

from parti.pipelines.clean import histograms as clean_histograms


class Sample(TypedDict, total=False):
    """An example of a pair: its key and caption, what a rule measured, its thumbnail."""

    key: Required[str]
    text: Required[str]
    measure: str
    picture: str
    reason: str  # of a copy or a hit: why it was dropped


class Rule(TypedDict, total=False):
    """A rule of the run; `clean_reasons` may have its title, explanation and stage."""

    name: Required[str]  # the reason of the pairs it drops
    seen: Required[int]  # pairs that reached this rule
    dropped: Required[int]
    without_value: int  # of those seen, pairs that have no such score: the rule let them pass
    title: str
    explanation: str
    stage: str  # of the funnel, whose stages are in the order of the rules
    threshold: float | str | Sequence[str] | None  # None: has none
    unit: str
    source: str  # the paper or practice that the rule comes from; "ours" if none
    dropped_samples: Sequence[Sample]
    near_samples: Sequence[Sample]  # kept, and nearest to the threshold
    show: Literal["pictures", "captions"]  # what the samples show; the default depends on the name


class NotApplied(TypedDict):
    """A rule of the preset that was not applied to any pair, and why not."""

    title: str
    why: str


class Repair(TypedDict):
    """A change that was made to captions: how many, and some [before, after]."""

    title: str
    count: int
    examples: Sequence[Sequence[str]]


class Captions(TypedDict, total=False):
    """Captions of the kept pairs: how many distinct ones, [caption, pairs] of the most frequent."""

    distinct: int
    top: Required[Sequence[tuple[str, int]]]
    repairs: Sequence[Repair]


class Group(TypedDict):
    """Pairs of which one stays; `size` counts them all, `dropped` shows some."""

    size: int
    kept: Sample
    dropped: Sequence[Sample]


class Copies(TypedDict, total=False):
    """Duplicates: groups with more than one pair, pairs that were dropped, some groups."""

    num_groups: Required[int]
    num_dropped: Required[int]
    groups: Required[Sequence[Group]]
    skipped: int  # comparisons that were left out in crowded buckets


class EvaluationSet(TypedDict):
    """What the pairs were compared with: a name, its captions, its pictures, pairs dropped."""

    name: str
    num_captions: int
    num_pictures: int
    num_hits: int


class Hit(TypedDict, total=False):
    """A dropped pair and what of an evaluation set it is like, if that has a text."""

    pair: Required[Sample]
    set: Required[str]
    matched: str


class Evaluation(TypedDict):
    """The evaluation sets and some hits."""

    sets: Sequence[EvaluationSet]
    hits: Sequence[Hit]


class Extends(TypedDict):
    """The earlier output whose pairs were taken over."""

    directory: str
    kept: int


class LeftOut(TypedDict):
    """Files of the input that are no part of a pair, for one reason, and some of their names."""

    name: str
    title: str
    explanation: str
    count: int
    files: Sequence[str]


class Report(TypedDict, total=False):
    """Everything about the pairs. What a run does not have (evaluation sets, say) is left out."""

    read: Required[int]  # pairs and broken rows
    kept: Required[int]
    splits: Required[Mapping[str, int]]
    num_bytes: Required[int]  # of the written pairs
    settings: Required[Mapping[str, Any]]  # needs image_size, image_format, preset
    inputs: Sequence[str]
    # Address -> how many of its rows are broken; of a folder, which ends in /, how many files.
    broken_files: Mapping[str, int]
    left_out: Sequence[LeftOut]
    notes: Sequence[str]  # what is to be said of splits and keys
    # A column and why it is not in the metadata -> pairs that passed all rules for one pair.
    left_out_columns: Mapping[str, int]
    extends: Extends
    rules: Required[Sequence[Rule]]  # in the order in which they are applied
    not_applied: Sequence[NotApplied]
    kept_samples: Sequence[Sample]
    histograms: Sequence[clean_histograms.Histogram]
    captions: Captions
    copies: Copies
    evaluation: Evaluation
