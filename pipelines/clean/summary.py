# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the job of `parti clean` counted and sampled, as the content of its report."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from parti.data.storage import records
from parti.pipelines.clean import histograms as clean_histograms
from parti.pipelines.clean import reasons as clean_reasons
from parti.pipelines.clean import report_schema, statistics
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.readers.base import left_out
from parti.pipelines.rules import table
from parti.stages import files

_PICTURE = clean_reasons.PICTURE
_MAX_SPLITS = 4  # names of unknown splits that are shown
_EVALUATION_REASONS = ("contaminated_caption", "contaminated_image")

Samples = Mapping[statistics.SampleName, Sequence[Mapping[str, Any]]]


def make_report(
    collected: statistics.Collected,
    settings: clean_settings.CleanSettings,
    inputs: Sequence[str],
    evaluation: Mapping[str, Any] | None = None,
    extends: report_schema.Extends | None = None,
) -> dict[str, Any]:
    """Returns the content of the report, `report_schema.Report`.

    `evaluation` is {name, num_captions, num_pictures} of the evaluation set.

    Raises:
      RuntimeError: rows were lost or counted twice.
    """
    counts = collected.counts
    samples = {name: [_sample(row) for row in rows] for name, rows in collected.samples.items()}
    splits = {
        split: sum(f["count"] for f in collected.files if f["name"].startswith(f"{split}-"))
        for split in records.SPLITS
    }
    kept, rejected = sum(splits.values()), _of_kind(counts, "rejected")
    read = counts.get(statistics.Count("read"), 0)
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
        "inputs": list(map(files.text, inputs)),
        "rules": _rules(read, rejected, counts, samples, settings),
        "not_applied": [dataclasses.asdict(row) for row in settings.rules.not_applied],
        "kept_samples": samples.get(statistics.SampleName("kept"), []),
        "histograms": _histograms(counts, settings),
        "captions": {**collected.captions, "repairs": _repairs(counts, samples)},
        "copies": _copies(collected.groups, samples),
    }
    if found := _left_out(counts, samples):
        report["left_out"] = found
    if notes := _notes(counts, samples):
        report["notes"] = notes
    if broken := _of_kind(counts, "broken"):
        report["broken_files"] = dict(sorted(broken.items()))
    if columns := _of_kind(counts, "left_out_column"):
        report["left_out_columns"] = dict(
            sorted(columns.items(), key=lambda item: (-item[1], item[0]))
        )
    if extends:
        report["extends"] = extends
    if evaluation:
        report["evaluation"] = _evaluation(evaluation, rejected, samples)
    return report


def _of_kind(counts: Mapping[statistics.Count, int], kind: str) -> dict[str, int]:
    return {count.name: number for count, number in counts.items() if count.kind == kind}


def _left_out(counts: Mapping[statistics.Count, int], samples: Samples) -> list[dict[str, Any]]:
    """Returns the files that are no part of a pair: reason, words, how many, names of some."""
    found = _of_kind(counts, "left_out")
    rows = []
    for reason, (title, explanation) in left_out.REASONS.items():
        if count := found.get(reason, 0):
            names = [
                row["key"] for row in samples.get(statistics.SampleName("left_out", reason), [])
            ]
            rows.append(
                {
                    "name": reason,
                    "title": title,
                    "explanation": explanation,
                    "count": count,
                    "files": sorted(names),
                }
            )
    return rows


def _notes(counts: Mapping[statistics.Count, int], samples: Samples) -> list[str]:
    """Returns what is to be said of the splits that the metadata name, and of keys."""
    notes = []
    if renamed := counts.get(statistics.Count("new_key"), 0):
        notes.append(f"{renamed:,} keys are of several files: the file's name is before them")
    if dropped := counts.get(statistics.Count("rejected", "split_test"), 0):
        notes.append(
            f"{dropped:,} of a test split kept out of training "
            "(--drop_test_split=false puts them into validation)"
        )
    if unknown := counts.get(statistics.Count("unknown_split"), 0):
        names = sorted(
            {row["measure"] for row in samples.get(statistics.SampleName("unknown_split"), [])}
        )
        shown = ", ".join([*names[:_MAX_SPLITS], *(["..."] if names[_MAX_SPLITS:] else [])])
        notes.append(
            f"{unknown:,} name a split that is not known ({shown}): split by their keys instead"
        )
    return notes


def _sample(row: Sequence[Any]) -> dict[str, Any]:
    _, _, key, text, measure, picture, reason = row
    sample = {"key": key, "text": text, "measure": measure, "picture": picture}
    return sample | ({"reason": reason} if reason else {})


def _rules(
    read: int,
    rejected: Mapping[str, int],
    counts: Mapping[statistics.Count, int],
    samples: Samples,
    settings: clean_settings.CleanSettings,
) -> list[dict[str, Any]]:
    """Returns a row for each reason, in the order in which they are checked."""
    described = {row["name"]: row for row in settings.rules.describe()}
    stages = {name: row["stage"] for name, row in described.items()}
    known = [name for name in described if stages[name] not in (_PICTURE, clean_reasons.COPIES)]
    known += ["image_undecodable", *(n for n in described if stages[n] == _PICTURE)]
    known += [*(_EVALUATION_REASONS if settings.evaluation else ()), "duplicate_key"]
    known += [name for name in described if stages[name] == clean_reasons.COPIES]
    order = {name: rank for rank, name in enumerate(clean_reasons.REASONS)}
    early = sorted({*rejected} - {*known}, key=lambda name: (order.get(name, len(order)), name))
    rows, seen = [], read
    for name in [*early, *known]:
        dropped = rejected.get(name, 0)
        rows.append(
            {
                **described.get(name, {"name": name}),
                "seen": seen,
                "dropped": dropped,
                "without_value": counts.get(statistics.Count("no_value", name), 0),
                "dropped_samples": samples.get(statistics.SampleName("dropped", name), []),
                "near_samples": samples.get(statistics.SampleName("near", name), []),
            }
        )
        seen -= dropped
    return rows


def _histograms(
    counts: Mapping[statistics.Count, int], settings: clean_settings.CleanSettings
) -> list[clean_histograms.Histogram]:
    histograms = []
    for name in clean_histograms.MEASURES:
        before, kept = (
            {count.bin: number for count, number in counts.items() if count[:2] == (kind, name)}
            for kind in ("before", "kept")
        )
        if not before:
            continue
        shown = (rule.setting.name for rule in table.RULES.values() if rule.histogram == name)
        values = (settings.rules.values[setting] for setting in shown)
        limits = sorted(value for value in values if value is not None)
        histograms.append(clean_histograms.histogram(name, before, kept, limits))
    return histograms


def _repairs(counts: Mapping[statistics.Count, int], samples: Samples) -> list[dict[str, Any]]:
    """Returns what was changed in captions, with examples of before and after."""
    rows = []
    for repair in table.REPAIRS:
        if count := counts.get(statistics.Count("changed", repair.name)):
            found = samples.get(statistics.SampleName("changed", repair.name), [])
            examples = [[sample["text"], sample["measure"]] for sample in found]
            rows.append({"title": repair.title, "count": count, "examples": examples})
    return rows


def _copies(groups: Mapping[str, Any], samples: Samples) -> dict[str, Any]:
    shown = [
        {
            "size": size,
            "kept": kept[0],
            "dropped": samples.get(statistics.SampleName("group:dropped", key), []),
        }
        for key, size in sorted(groups["sizes"].items())
        if (kept := samples.get(statistics.SampleName("group:kept", key)))
    ]
    numbers = {name: groups[name] for name in ("num_groups", "num_dropped", "skipped")}
    return {**numbers, "groups": shown}


def _evaluation(
    evaluation: Mapping[str, Any], rejected: Mapping[str, int], samples: Samples
) -> dict[str, Any]:
    hits = [
        {"pair": sample, "set": evaluation["name"], "matched": sample["measure"]}
        for reason in _EVALUATION_REASONS
        for sample in samples.get(statistics.SampleName("dropped", reason), [])
    ]
    num_hits = sum(rejected.get(reason, 0) for reason in _EVALUATION_REASONS)
    return {"sets": [{**evaluation, "num_hits": num_hits}], "hits": hits}
