# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the job of `parti clean` counted and sampled, as the content of its report."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from parti.data.storage import records
from parti.pipelines.clean import examine_sources, filter_pair, report_schema
from parti.pipelines.clean import histograms as clean_histograms
from parti.pipelines.clean import reasons as clean_reasons
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.rules import evaluate, table

_SHOWN_KEPT = "kept"
_PICTURE = clean_reasons.PICTURE
_EVALUATION_REASONS = ("contaminated_caption", "contaminated_image")
# The histogram that shows a rule's threshold.
_LIMITS = {
    "side": ("min_side",),
    "aspect": ("max_aspect_ratio",),
    "words": ("min_words", "max_words"),
    "characters": ("min_characters", "max_characters"),
    "similarity": ("min_similarity",),
    "nsfw": ("max_nsfw",),
    "watermark": ("max_watermark",),
    "aesthetic": ("min_aesthetic",),
}


@dataclasses.dataclass(frozen=True)
class Collected:
    """What the job wrote beside the pairs.

    Attributes:
      files: {name, count, num_bytes, sha256} of each file.
      facts: [name, value, count].
      samples: [name, rows], a row being [rank, hash, key, text, measure, thumbnail, reason].
      captions: {distinct, top: [[text, count], ...]} of the kept pairs.
      groups: {num_groups, num_dropped, sizes: {key of the copy that stays: pairs}, skipped:
        comparisons that were left out in crowded buckets}.
    """

    files: Sequence[Mapping[str, Any]]
    facts: Sequence[Sequence[Any]]
    samples: Sequence[Sequence[Any]]
    captions: Mapping[str, Any]
    groups: Mapping[str, Any]


def make_report(
    collected: Collected,
    settings: clean_settings.CleanSettings,
    inputs: Sequence[str],
    evaluation: Mapping[str, Any] | None = None,
    extends: report_schema.Extends | None = None,
) -> dict[str, Any]:
    """Returns the content of `clean_report.Report`.

    Args:
      collected: what the job wrote.
      settings: of the run.
      inputs: as the user named them.
      evaluation: of the evaluation set, {name, num_captions, num_pictures}; None if there is none.
      extends: the earlier output that was added to; None if there is none.

    Raises:
      RuntimeError: rows were lost or counted twice.
    """
    counts: dict[str, dict[Any, int]] = collections.defaultdict(dict)
    for name, value, count in collected.facts:
        counts[name][value] = count
    samples = {name: [_sample(row) for row in rows] for name, rows in collected.samples}
    splits = {
        split: sum(f["count"] for f in collected.files if f["name"].startswith(f"{split}-"))
        for split in records.SPLITS
    }
    kept, rejected = sum(splits.values()), counts[examine_sources.REJECTED]
    read = counts[examine_sources.READ].get("", 0)
    if read != kept + sum(rejected.values()):
        raise RuntimeError(
            f"{read} rows were read, but {kept} kept and {sum(rejected.values())} dropped; please "
            "report this, and clean again into another folder"
        )
    data = (f for f in collected.files if f["name"].endswith(".tfrecord"))
    report = {
        "read": read,
        "kept": kept,
        "splits": splits,
        "num_bytes": sum(file["num_bytes"] for file in data),
        "settings": settings.to_dict(),
        "inputs": list(inputs),
        "rules": _rules(read, rejected, counts, samples, settings),
        "not_applied": [dataclasses.asdict(row) for row in settings.rules.not_applied],
        "kept_samples": samples.get(_SHOWN_KEPT, []),
        "histograms": _histograms(counts, settings),
        "captions": {**collected.captions, "repairs": _repairs(counts, samples)},
        "copies": _copies(collected.groups, samples),
    }
    if counts[examine_sources.BROKEN]:
        report["broken_files"] = dict(sorted(counts[examine_sources.BROKEN].items()))
    if extends:
        report["extends"] = extends
    if evaluation:
        report["evaluation"] = _evaluation(evaluation, rejected, samples)
    return report


def _sample(row: Sequence[Any]) -> dict[str, Any]:
    _, _, key, text, measure, picture, reason = row
    sample = {"key": key, "text": text, "measure": measure, "picture": picture}
    return sample | ({"reason": reason} if reason else {})


def _rules(
    read: int,
    rejected: Mapping[str, int],
    counts: Mapping[str, Mapping[Any, int]],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    settings: clean_settings.CleanSettings,
) -> list[dict[str, Any]]:
    """Returns a row for each reason, in the order in which they are looked for."""
    described = {row["name"]: row for row in settings.rules.describe()}
    stages = {name: row["stage"] for name, row in described.items()}
    known = [name for name in described if stages[name] not in (_PICTURE, clean_reasons.COPIES)]
    known += ["image_undecodable", *(n for n in described if stages[n] == _PICTURE)]
    known += [*(_EVALUATION_REASONS if settings.evaluation else ()), "duplicate_key"]
    known += [name for name in described if stages[name] == clean_reasons.COPIES]
    order = {name: place for place, name in enumerate(clean_reasons.REASONS)}
    early = [name for name in rejected if name not in known]
    early.sort(key=lambda name: (order.get(name, len(order)), name))
    rows, seen = [], read
    for name in [*early, *known]:
        dropped = rejected.get(name, 0)
        row = {
            **described.get(name, {"name": name}),
            "seen": seen,
            "dropped": dropped,
            "without_value": sum(counts[evaluate.NO_VALUE + name].values()),
            "dropped_samples": samples.get(name, []),
            "near_samples": samples.get(examine_sources.NEAR + name, []),
        }
        rows.append(row)
        seen -= dropped
    return rows


def _histograms(
    counts: Mapping[str, Mapping[Any, int]], settings: clean_settings.CleanSettings
) -> list[clean_histograms.Histogram]:
    histograms = []
    for name in clean_histograms.MEASURES:
        before = counts[filter_pair.BEFORE + name]
        if not before:
            continue
        values = [settings.rules.values.get(limit) for limit in _LIMITS.get(name, ())]
        limits = [value for value in values if value is not None]
        kept = counts[filter_pair.KEPT + name]
        histograms.append(clean_histograms.histogram(name, before, kept, limits))
    return histograms


def _repairs(
    counts: Mapping[str, Mapping[Any, int]],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    """Returns what was changed in captions, with examples of before and after."""
    rows = []
    for repair in table.REPAIRS:
        if count := sum(counts[examine_sources.CHANGED + repair.name].values()):
            found = samples.get(examine_sources.CHANGED + repair.name, [])
            examples = [[sample["text"], sample["measure"]] for sample in found]
            rows.append({"title": repair.title, "count": count, "examples": examples})
    return rows


def group_sample(key: str, is_kept: bool) -> str:
    """Returns the name of the sample of a shown group's copies."""
    return f"group:{'kept' if is_kept else 'dropped'}:{key}"


def _copies(
    groups: Mapping[str, Any], samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    shown = []
    for key, size in sorted(groups["sizes"].items()):
        kept = samples.get(group_sample(key, True), [])
        if kept:
            dropped = samples.get(group_sample(key, False), [])
            shown.append({"size": size, "kept": kept[0], "dropped": dropped})
    return {
        "num_groups": groups["num_groups"],
        "num_dropped": groups["num_dropped"],
        "groups": shown,
        "skipped": groups["skipped"],
    }


def _evaluation(
    evaluation: Mapping[str, Any],
    rejected: Mapping[str, int],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    hits = [
        {"pair": sample, "set": evaluation["name"], "matched": sample["measure"]}
        for reason in _EVALUATION_REASONS
        for sample in samples.get(reason, [])
    ]
    num_hits = sum(rejected.get(reason, 0) for reason in _EVALUATION_REASONS)
    return {"sets": [{**evaluation, "num_hits": num_hits}], "hits": hits}
