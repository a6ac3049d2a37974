# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti clean`: raw pairs to decoded, filtered, deduplicated, square pairs in two splits.

A pair passes the rules in this order, and the first that fails it is its reason: it can be read and
decoded; the picture's rules; the caption's rules; no other pair has the same pixels (of equal
pictures the one with the smallest key stays). What is left is cropped to the middle square, resized
by area, and split: by `split` in its metadata if that says train or validation, else by the hash of
its key.
"""

import argparse
import collections
import dataclasses
import heapq
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from parti.data import records
from parti.engine import flags as flags_lib
from parti.engine import progress as progress_lib
from parti.pipelines import clean_report, clean_rules, options, readers, staging, writers

_FILES, _FACTS, _SAMPLES = ".files.json", ".facts.json", ".samples.json"
_COUNTERS = "parti.clean"  # for the displays of remote runners; the report counts the output


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


class _Rows(beam.DoFn):
    """Base of the steps: emits rejected rows with a counter, and samples for the report."""

    def setup(self) -> None:
        self._sampler = Sampler(clean_report.NUM_SAMPLES)

    def _sample(
        self, reason: str, key: str, text: str, measure: str, image: bytes
    ) -> Iterator[beam.pvalue.TaggedOutput]:
        rank = self._sampler.rank(reason, key)
        if rank is not None:
            row = (rank, key, text, measure, clean_report.thumbnail(image))
            yield beam.pvalue.TaggedOutput("samples", (reason, row))

    def _reject(
        self, row: readers.Rejected, image: bytes = b"", shown: str = ""
    ) -> Iterator[beam.pvalue.TaggedOutput]:
        """Emits a rejected row; the report shows `shown` in place of its measure."""
        beam.metrics.Metrics.counter(_COUNTERS, row.reason).inc()
        yield beam.pvalue.TaggedOutput("rejected", row)
        yield from self._sample(row.reason, row.key, row.text, shown or row.measure, image)


class _CleanPairs(_Rows):
    def __init__(self, settings: clean_rules.CleanSettings) -> None:
        self._settings = settings

    def process(self, pair: records.ImageTextPair) -> Iterator[Any]:
        row = clean_rules.clean_pair(pair, self._settings)
        if isinstance(row, readers.Rejected):
            yield from self._reject(row, pair.image)
        else:
            # Without deduplication every pair is a group of its own.
            unique = self._settings.drop_duplicates
            yield row.pixels if unique else repr(row.order), row


class _Unreadable(_Rows):
    def process(self, row: readers.Rejected) -> Iterator[Any]:
        yield from self._reject(row)


class _Deduplicate(_Rows):
    def __init__(self, drop_duplicates: bool) -> None:
        self._drop_duplicates = drop_duplicates

    def process(self, group: tuple[str, Iterable[clean_rules.CleanPair]]) -> Iterator[Any]:
        _, rows = group
        kept = min(rows, key=lambda row: row.order)
        seen = False
        for row in rows:
            is_kept = not seen and row.order == kept.order
            seen = seen or is_kept
            if is_kept or not self._drop_duplicates:
                beam.metrics.Metrics.counter(_COUNTERS, "kept").inc()
                yield from self._sample("kept", row.pair.key, row.pair.text, "", row.pair.image)
                yield row
                continue
            same_text = row.pair.text.casefold() == kept.pair.text.casefold()
            reason = "duplicate_pair" if same_text else "duplicate_image"
            rejected = readers.Rejected(
                row.pair.key, reason, f"as {kept.pair.key}", row.pair.text, row.pair.source
            )
            shown = "" if same_text else f"kept as: {kept.pair.text}"
            yield from self._reject(rejected, row.pair.image, shown)


def _facts(row: clean_rules.CleanPair) -> Iterator[tuple[str, Any]]:
    """Yields what is counted about a kept pair."""
    width, height = row.pair.metadata[clean_rules.ORIGINAL_SIZE]
    yield "split", row.split
    yield "words", len(row.pair.text.split())
    yield "side", min(width, height)


def build(
    root: beam.Pipeline,
    settings: clean_rules.CleanSettings,
    sources: Sequence[readers.Source],
    directory: pathlib.Path,
) -> beam.PCollection:
    """Adds the job to a pipeline: reads `sources`, writes all but reports into `directory`.

    Returns:
      The kept pairs (clean_rules.CleanPair).
    """
    read = root | "Read" >> readers.ReadPairs(sources)
    unreadable = read.rejected | "Unreadable" >> beam.ParDo(_Unreadable()).with_outputs(
        "rejected", "samples"
    )
    cleaned = read.pairs | "Clean" >> beam.ParDo(_CleanPairs(settings)).with_outputs(
        "rejected", "samples", main="kept"
    )
    unique = (
        cleaned.kept
        | "Group equal pictures" >> beam.GroupByKey()
        | "Deduplicate"
        >> beam.ParDo(_Deduplicate(settings.drop_duplicates)).with_outputs(
            "rejected", "samples", main="kept"
        )
    )
    files, twins = _write_splits(unique.kept, settings, directory)
    rejected = (unreadable.rejected, cleaned.rejected, unique.rejected, twins) | beam.Flatten()
    rejected_files = (
        rejected
        | "Line" >> beam.Map(lambda row: (row.key, row.to_json().encode("utf-8", "replace")))
        | writers.WriteShards(
            directory, "rejected", settings.num_rejected_shards, ".jsonl", unique=False
        )
    )
    (
        (*files, rejected_files.files)
        | "Files" >> beam.Flatten()
        | writers.CollectJson(directory / _FILES)
    )
    facts = (
        unique.kept | "Facts" >> beam.FlatMap(_facts),
        rejected | "Reason" >> beam.Map(lambda row: ("rejected", row.reason)),
    )
    (
        facts
        | "All facts" >> beam.Flatten()
        | beam.combiners.Count.PerElement()
        | "Fact" >> beam.Map(lambda item: [*item[0], item[1]])
        | writers.CollectJson(directory / _FACTS)
    )
    (
        (unreadable.samples, cleaned.samples, unique.samples)
        | "All samples" >> beam.Flatten()
        | beam.combiners.Top.SmallestPerKey(clean_report.NUM_SAMPLES)
        | "Sample" >> beam.Map(lambda item: [item[0], item[1]])
        | writers.CollectJson(directory / _SAMPLES)
    )
    return unique.kept


def _write_splits(
    kept: beam.PCollection, settings: clean_rules.CleanSettings, directory: pathlib.Path
) -> tuple[list[beam.PCollection], beam.PCollection]:
    """Writes both splits; returns their files, and rejected rows for keys that came twice."""
    shards = {"train": settings.num_shards, "validation": settings.num_validation_shards}
    files, twins = [], []
    for split in records.SPLITS:
        written = (
            kept
            | f"Is {split}" >> beam.Filter(lambda row, split: row.split == split, split)
            | f"Serialize {split}" >> beam.Map(lambda row: (row.pair.key, row.pair.to_example()))
            | writers.WriteShards(directory, split, shards[split])
        )
        files.append(written.files)
        twins.append(written.duplicates | f"Twins {split}" >> beam.Map(_twin))
    return files, twins | "Twins" >> beam.Flatten()


def _twin(item: tuple[str, bytes]) -> readers.Rejected:
    """Returns the rejected row for a pair whose key another pair has."""
    beam.metrics.Metrics.counter(_COUNTERS, "duplicate_key").inc()
    pair = records.ImageTextPair.from_example(item[1])
    return readers.Rejected(pair.key, "duplicate_key", pair.sha256, pair.text, pair.source)


def make_parser() -> flags_lib.Parser:
    """Returns the command's flags."""
    parser = options.make_parser(
        "parti clean",
        "Filters, deduplicates, crops and splits image-text pairs.",
        "parti clean --input 'raw/*.tar' --output pairs --image_size=256",
    )
    default = clean_rules.CleanSettings()
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="PATTERN", help="files, globs or folders")
    add("--output", required=True, metavar="DIR", help="the folder to write")
    add("--input_format", default="auto", help=f"auto, {', '.join(readers.FORMATS)}")
    add("--preset", default="default", help=f"rules to apply: {', '.join(clean_rules.PRESETS)}")
    add("--image_size", type=int, default=default.image_size, help="side in pixels")
    add("--image_format", default=default.image_format, help="png or jpeg")
    add("--min_side", type=int, help=f"shortest side allowed (default: {default.min_side})")
    add(
        "--max_aspect_ratio",
        type=float,
        help=f"long side over short side; 0: no limit (default: {default.max_aspect_ratio})",
    )
    add("--allow_upscale", action="store_true", help="keep pictures smaller than --image_size")
    add("--validation_fraction", type=float, default=default.validation_fraction, help="in [0, 1)")
    add("--num_shards", default="auto", help="train files; auto goes by the size of the input")
    return parser


def check_flags(flags: argparse.Namespace, num_bytes: int = 0) -> clean_rules.CleanSettings:
    """Returns the settings: the preset, and over it the flags that were given.

    Args:
      flags: of `make_parser`.
      num_bytes: of the input, for the number of shards.

    Raises:
      ValueError: an unknown preset, or a value out of range.
    """
    readers.check_format(flags.input_format)
    if flags.preset not in clean_rules.PRESETS:
        raise ValueError(f"--preset={flags.preset}: choose from {', '.join(clean_rules.PRESETS)}")
    rules = dict(clean_rules.PRESETS[flags.preset])
    for name in ("min_side", "max_aspect_ratio"):
        if getattr(flags, name) is not None:
            rules[name] = getattr(flags, name)
    if flags.allow_upscale:
        rules["allow_upscale"] = True
    return clean_rules.CleanSettings(
        image_size=flags.image_size,
        image_format=flags.image_format,
        preset=flags.preset,
        validation_fraction=flags.validation_fraction,
        num_shards=writers.parse_num_shards(flags.num_shards, num_bytes),
        **rules,
    )


def run(argv: Sequence[str]) -> int:
    """Runs `parti clean`; returns the exit code."""
    flags, beam_options = options.parse(make_parser(), argv)
    check_flags(flags)  # a bad flag is reported before a missing input
    sources = readers.find_sources(flags.input, flags.input_format)
    num_bytes = sum(source.num_bytes for source in sources)
    settings = check_flags(flags, num_bytes)
    with staging.Staging(
        flags.output,
        "pairs",
        settings=dataclasses.asdict(settings),
        inputs={"input": list(flags.input), "input_format": flags.input_format},
        overwrite=flags.overwrite,
    ) as stage:
        progress = progress_lib.Progress("clean", unit="pairs")
        options.run_pipeline(
            lambda root: build(root, settings, sources, stage.path),
            beam_options,
            progress,
            total_weight=num_bytes,
        )
        files = writers.read_collected(stage.path / _FILES)
        samples = writers.read_collected(stage.path / _SAMPLES)
        report = make_report(writers.read_collected(stage.path / _FACTS), files)
        _check_report(report, flags.input)
        for file in files:
            if file["name"].startswith("validation") and not report["splits"]["validation"]:
                (stage.path / file["name"]).unlink()
        _write_report(stage.path, report, samples, settings)
        counts = {"read": report["read"], "rejected": report["read"] - report["kept"]}
        stage.publish(counts={**report["splits"], **counts})
        progress.done()
    print(_summary(report, flags.output))
    return 0


def make_report(facts: list[list[Any]], files: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the content of report.json from the counted facts and the written files."""
    counted: dict[str, dict[Any, int]] = collections.defaultdict(dict)
    for name, value, count in facts:
        counted[name][value] = count
    # The files say what was kept: keys that came twice were dropped while writing.
    splits = {
        split: sum(file["count"] for file in files if file["name"].startswith(f"{split}-"))
        for split in records.SPLITS
    }
    kept, rejected = sum(splits.values()), counted["rejected"]
    return {
        "read": kept + sum(rejected.values()),
        "kept": kept,
        "splits": splits,
        "num_bytes": sum(f["num_bytes"] for f in files if f["name"].endswith(".tfrecord")),
        "rejected": dict(sorted(rejected.items(), key=lambda item: (-item[1], item[0]))),
        "words": sorted(counted["words"].items()),
        "sides": sorted(counted["side"].items()),
    }


def _check_report(report: dict[str, Any], patterns: Sequence[str]) -> None:
    """Raises ValueError if there is nothing to publish."""
    where = " ".join(patterns)
    reasons = ", ".join(f"{count} {name}" for name, count in list(report["rejected"].items())[:4])
    if not report["read"]:
        raise ValueError(
            f"no pairs in {where}; a tar holds key.jpg (or png, webp) and key.txt for each pair"
        )
    if not report["kept"]:
        raise ValueError(
            f"no pair of {report['read']} in {where} was kept: {reasons}; "
            "check the files, or loosen the rules (see --help)"
        )
    if not report["splits"]["train"]:
        raise ValueError(
            f"all {report['kept']} kept pairs of {where} fell to validation; "
            "lower --validation_fraction or give more pairs"
        )


def _write_report(
    directory: pathlib.Path,
    report: dict[str, Any],
    samples: list[Any],
    settings: clean_rules.CleanSettings,
) -> None:
    """Writes report.json and report.html."""
    content = {**report, "settings": dataclasses.asdict(settings)}
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    (directory / "report.json").write_text(text + "\n", encoding="utf-8")
    page = clean_report.render(report, dict(samples), dataclasses.asdict(settings))
    (directory / "report.html").write_text(page, encoding="utf-8")


def _summary(report: dict[str, Any], output: str) -> str:
    kept, read, splits = report["kept"], report["read"], report["splits"]
    lines = [
        f"kept {kept:,} of {read:,} pairs ({kept / read:.1%}): "
        f"{splits['train']:,} train, {splits['validation']:,} validation"
    ]
    if report["rejected"]:
        reasons = ", ".join(f"{count:,} {name}" for name, count in report["rejected"].items())
        lines.append(f"dropped {read - kept:,}: {reasons}")
    lines.append(
        f"wrote {clean_report.megabytes(report['num_bytes'])} to {output}; see report.html there"
    )
    return "\n".join(lines)
