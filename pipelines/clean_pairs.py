# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti clean`: raw pairs to decoded, filtered, deduplicated, square pairs in two splits.

`clean.job` says how. A run that was killed goes on: sources that it had filtered are not filtered
again. A pair goes to the split that its metadata name, else to one by the hash of its key; one of a
test split is dropped.
"""

import argparse
import contextlib
import dataclasses
import functools
import math
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apache_beam.options import pipeline_options

from parti.data.decontamination import decontamination, evaluation_files
from parti.data.images import crops
from parti.pipelines import readers
from parti.pipelines.beam import disk_group_by_key, options, runners, sharded_writers
from parti.pipelines.clean import (
    filter_sources,
    incremental,
    intermediate,
    last_lines,
    statistics,
)
from parti.pipelines.clean import job as clean_job
from parti.pipelines.clean import report as clean_report
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.clean import summary as clean_summary
from parti.pipelines.readers import reading
from parti.pipelines.readers.http import fetching, originals
from parti.pipelines.rules import presets
from parti.stages import files, flag_parser, machine, progress_line, publishing

_FETCH = fetching.FetchSettings()
_SHUFFLE = "shuffle"
_TEXT_FLAGS = ("separator", "encoding")  # of the manifest only if they are given


def make_parser() -> flag_parser.Parser:
    """Returns the command's flags."""
    parser = options.make_parser(
        "parti clean",
        "Filters, deduplicates, crops and splits image-text pairs.",
        "parti clean --input 'raw/*.tar' --output pairs --image_size=256\n"
        "  parti clean --input urls.parquet --output pairs --preset=laion400m --min_side=256\n"
        "  parti clean --input 'raw/*.tar' --extend pairs --output pairs2 (only what is new)",
    )
    default = clean_settings.CleanSettings(presets.load_preset("default"))
    add = parser.add_argument
    several: dict[str, Any] = {"nargs": "+", "default": []}
    add("--input", nargs="+", required=True, metavar="PATTERN", help="files, globs or folders")
    add("--output", required=True, metavar="DIR", help="the folder to write")
    add("--input_format", default="auto", help=f"auto, {', '.join(readers.FORMATS)}")
    columns = "columns of a table: image, url, text, key"
    add("--columns", **several, metavar="ROLE=NAME", help=columns)
    separator = "of the cells of csv and tsv, a character or tab (default: found out)"
    add("--separator", default="", metavar="CHARACTER", help=separator)
    encoding = "of tables of text, e.g. cp1252 (default: UTF-8, or as the table's mark says)"
    add("--encoding", default="", metavar="NAME", help=encoding)
    broken = "fail if more files cannot be read to their end (default: any number)"
    add("--max_broken_files", type=int, metavar="N", help=broken)
    image_root = "where the pictures are that tables name by path (default: beside the table)"
    add("--image_root", default="", metavar="DIR", help=image_root)
    add("--image_size", type=int, default=default.image_size, help="side in pixels")
    add("--image_format", default=default.image_format, help="png or jpeg")
    add("--jpeg_quality", type=int, default=default.jpeg_quality, help="1 to 100")
    add("--crop", default=default.crop, help=f"{' or '.join(crops.POLICIES)}")
    add("--validation_fraction", type=float, default=default.validation_fraction, help="in [0, 1)")
    add("--num_shards", default="auto", help="train files; auto goes by the size of the input")
    evaluation = "evaluation sets: prompt files, pairs, pictures; what is in them is dropped"
    add("--decontaminate", **several, metavar="PATTERN", help=evaluation)
    add("--extend", metavar="DIR", help="pairs of an earlier run to add to; not read again")
    retry = "with --extend: read rows again that were rejected for it, e.g. fetch_timeout"
    add("--retry_rejected", **several, metavar="REASON", help=retry)
    add("--fetch_threads", type=int, default=_FETCH.threads, help="requests at a time of a worker")
    add("--fetch_per_host", type=int, default=_FETCH.per_host, help="of these to one host")
    add("--fetch_retries", type=int, default=_FETCH.retries, help="further tries, for URLs")
    add("--fetch_timeout", type=float, default=_FETCH.total_timeout, help="seconds, for URLs")
    private = "fetch also from this machine and from private networks"
    add("--fetch_private", action="store_true", help=private)
    add("--user_agent", default=_FETCH.user_agent, help="says who asks, for URLs")
    keep = "keep there what URLs give; what is there is not asked for again, whatever the rules"
    add("--keep_originals", default="", metavar="DIR", help=keep)
    presets.add_flags(parser)
    return parser


def check_flags(flags: argparse.Namespace) -> clean_settings.CleanSettings:
    """Returns the settings: the preset, and over it the flags that were given.

    With --num_shards=auto their number of shards is that of an empty input.
    """
    readers.check_format(flags.input_format)
    readers.check_columns(_columns(flags))
    readers.check_text(flags.separator, flags.encoding)
    _fetch_settings(flags)
    if flags.max_broken_files is not None and flags.max_broken_files < 0:
        raise ValueError(f"--max_broken_files={flags.max_broken_files}: give 0 or more")
    if flags.retry_rejected and not flags.extend:
        raise ValueError("--retry_rejected goes with --extend: name the pairs of the earlier run")
    return clean_settings.CleanSettings(
        rules=presets.load_preset(flags.preset, presets.flag_changes(flags), flags.image_size),
        image_size=flags.image_size,
        image_format=flags.image_format,
        jpeg_quality=flags.jpeg_quality,
        crop=flags.crop,
        validation_fraction=flags.validation_fraction,
        num_shards=sharded_writers.parse_num_shards(flags.num_shards, 0),
    )


def check_input(flags: argparse.Namespace) -> None:
    """Raises what `run` would of the names of files, and of the columns of tables.

    Remote files are left to the run.
    """
    if flags.input and not any(map(files.is_remote, flags.input)):
        _find_sources(flags, quick=True)
    for address in flags.decontaminate:
        evaluation_files.find(address)
    if flags.extend:
        incremental.Extension(flags.extend, flags.retry_rejected)


def places(
    flags: argparse.Namespace, settings: clean_settings.CleanSettings
) -> tuple[list[str], list[str]]:
    """Returns every file and folder that workers read, and every one that they write."""
    more = (flags.image_root, flags.extend, *settings.rules.named_files().values())
    written = (flags.output, flags.keep_originals)
    return [*flags.input, *filter(None, more)], [*filter(None, written)]


def _find_sources(flags: argparse.Namespace, quick: bool = False) -> list[readers.Source]:
    given = (flags.input_format, _columns(flags), flags.image_root, flags.separator, flags.encoding)
    return readers.find_sources(flags.input, *given, quick)


def _columns(flags: argparse.Namespace) -> dict[str, str]:
    pairs = [item.partition("=") for item in flags.columns]
    if wrong := [role for role, equals, name in pairs if not (role and equals and name)]:
        raise ValueError(f"--columns {wrong[0]}: write ROLE=NAME, e.g. text=caption url=link")
    return {role: name for role, _, name in pairs}


def _fetch_settings(flags: argparse.Namespace) -> fetching.FetchSettings:
    for name, least in {"threads": 1, "per_host": 1, "retries": 0, "timeout": 0.1}.items():
        value = getattr(flags, f"fetch_{name}")
        if not least <= value < math.inf:
            raise ValueError(f"--fetch_{name}={value}: give {least} or more")
    return fetching.FetchSettings(
        threads=flags.fetch_threads,
        per_host=flags.fetch_per_host,
        allow_private=flags.fetch_private,
        retries=flags.fetch_retries,
        total_timeout=flags.fetch_timeout,
        user_agent=flags.user_agent,
    )


def run(argv: Sequence[str]) -> int:
    """Runs `parti clean`; returns the exit code."""
    began = time.monotonic()
    flags, beam_options = options.parse(make_parser(), argv)
    settings = check_flags(flags)  # a bad flag is reported before a missing input
    options.check_places(beam_options, *places(flags, settings))
    _check_output(flags)
    plan = _plan(flags, settings)
    num_workers = runners.use_all_cores(beam_options, plan.num_bytes)
    with _stage(flags, plan) as stage:
        collected, progress = _run_job(stage, plan, beam_options)
        report = _make_report(flags, plan, collected)
        urls = last_lines.urls_line(collected.counts, flags.keep_originals)
        if report["read"]:
            progress.done()
            seconds, memory = time.monotonic() - began, machine.peak_memory()
            facts = {"seconds": seconds, "num_workers": num_workers, "peak_memory": memory}
            clean_report.write(stage.address, report, facts | ({"urls": urls} if urls else {}))
        else:
            files.remove_tree(stage.address)  # nothing to go on with
        last_lines.check_kept(report, flags.input, files.join(stage.address, "report.html"))
        last_lines.check_broken(report, flags.max_broken_files)
        counts = {"read": report["read"], "rejected": report["read"] - report["kept"]}
        hashes = {file["name"]: file["sha256"] for file in collected.files}
        stage.publish(counts={**report["splits"], **counts}, content=hashes)
    print(last_lines.summary(report, flags.output, urls))
    return 0


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a run reads, and how."""

    settings: clean_settings.CleanSettings  # with the number of shards, and the evaluation set
    fetch: fetching.FetchSettings
    statuses: Mapping[str, files.Status]  # of the files of the input, by absolute path
    sources: Sequence[filter_sources.Work]  # of the input and of an earlier run, with weights
    evaluation: decontamination.EvaluationSet | None
    extension: incremental.Extension | None  # the earlier run that is added to
    originals_dir: str  # where what is fetched is kept; empty: nowhere

    @property
    def num_bytes(self) -> int:
        """The size of what is read."""
        return sum(work.source.num_bytes for work in self.sources)


def _plan(flags: argparse.Namespace, settings: clean_settings.CleanSettings) -> _Plan:
    """Finds the input, and opens the evaluation sets and the earlier run."""
    found = _find_sources(flags)
    statuses = incremental.read_statuses(found)
    evaluation = None
    if flags.decontaminate:
        evaluation = decontamination.EvaluationSet.load(flags.decontaminate)
        settings = dataclasses.replace(settings, evaluation=evaluation.fingerprint)
    extension = None
    if flags.extend:
        extension = incremental.Extension(flags.extend, flags.retry_rejected)
        extension.check_settings(settings)
        sources = [*extension.known(), *extension.wanted(found, statuses)]
    else:
        sources = [filter_sources.Work(f"{i:06d}", source) for i, source in enumerate(found)]
    sources = _weighted(sources)
    num_bytes = _output_bytes([work.source for work in sources], settings)
    num_shards = sharded_writers.parse_num_shards(flags.num_shards, num_bytes)
    settings = dataclasses.replace(settings, num_shards=num_shards)
    fetch, keep = _fetch_settings(flags), flags.keep_originals
    return _Plan(settings, fetch, statuses, sources, evaluation, extension, keep)


def _weighted(sources: Sequence[filter_sources.Work]) -> list[filter_sources.Work]:
    """Returns sources with their weights: rows, if the number of each is known, else bytes."""
    num_rows = [reading.num_rows(work.source) for work in sources]
    weights = num_rows if all(num_rows) else [work.source.num_bytes for work in sources]
    return [work._replace(weight=weight) for work, weight in zip(sources, weights)]


def _stage(flags: argparse.Namespace, plan: _Plan) -> publishing.OutputDirectory:
    """Returns the output, which goes on with an interrupted run of the same input and settings."""
    sources = incremental.source_files(plan.statuses, plan.extension)
    inputs = {
        "input": list(flags.input),
        "input_format": flags.input_format,
        "columns": _columns(flags),
        "image_root": flags.image_root,
        **{name: value for name in _TEXT_FLAGS if (value := getattr(flags, name))},
        "decontaminate": list(flags.decontaminate),
        "extend": [flags.extend, *flags.retry_rejected] if flags.extend else [],
        incremental.ROOT: incremental.input_root(sources),
        incremental.SOURCES: sources,
        incremental.WORD_FILES: plan.settings.rules.hash_files(),
    }
    old = plan.extension.manifest["fingerprint"] if plan.extension else ""
    return publishing.OutputDirectory(
        flags.output,
        "pairs",
        settings=plan.settings.to_dict(),
        inputs=inputs,
        overwrite=flags.overwrite,
        resume=True,
        state=[sorted(plan.statuses.items()), plan.fetch.outcome(), old, intermediate.LAYOUT],
    )


def _run_job(
    stage: publishing.OutputDirectory, plan: _Plan, beam_options: pipeline_options.PipelineOptions
) -> tuple[statistics.Collected, progress_line.Progress]:
    """Runs the job; returns what it counted, and its progress line, which is not yet done."""
    job = clean_job.CleanJob(
        settings=plan.settings,
        sources=plan.sources,
        fetch=plan.fetch,
        directory=stage.address,
        scratch=stage.scratch,
        kept=_find_kept(plan, stage.scratch),
        old_rejected=plan.extension.old_rejected() if plan.extension else (),
        old_paths=sorted(plan.extension.sources) if plan.extension else (),
        input_root=stage.inputs[incremental.ROOT],
    )
    files.make_dirs(job.intermediate_dir)
    if plan.extension:
        plan.extension.write_wanted(job.intermediate_dir)
    if plan.evaluation:
        plan.evaluation.save(job.evaluation_file)
    progress = progress_line.Progress("clean", unit="pairs")
    build = functools.partial(clean_job.build, job=job)
    with _shuffle_dir(stage.scratch, beam_options):
        total = sum(work.weight for work in plan.sources)
        result = options.run_pipeline(build, beam_options, progress, total_weight=total)
    return statistics.read_collected(stage.scratch, result), progress


def _find_kept(plan: _Plan, scratch: str) -> originals.Kept | None:
    """Returns what earlier runs have fetched, if it is kept."""
    if not plan.originals_dir:
        return None
    files.make_dirs(scratch)
    index = files.join(scratch, "originals.npy")
    kept = originals.Kept.find(plan.originals_dir, plan.fetch, index)
    if kept.has_others():
        print(
            f"--keep_originals={plan.originals_dir}: what is there came with another --user_agent "
            "or --fetch_private, and is not read",
            file=sys.stderr,
        )
    return kept


@contextlib.contextmanager
def _shuffle_dir(scratch: str, beam_options: pipeline_options.PipelineOptions) -> Iterator[None]:
    """Lets workers of this machine group rows through files: below --shuffle_dir, or `scratch`."""
    shuffle = beam_options.view_as(disk_group_by_key.ShuffleOptions)
    given = shuffle.shuffle_dir or None
    if given and not pathlib.Path(given).is_dir():
        raise ValueError(f"--shuffle_dir={given}: no such folder; make one that all workers reach")
    if not given and not runners.is_local(beam_options):
        yield
    elif given or files.is_remote(scratch) or not files.is_utf8(scratch):  # as options must be
        with tempfile.TemporaryDirectory(prefix="parti-shuffle-", dir=given) as folder:
            shuffle.shuffle_dir = folder
            yield
    else:
        shuffle.shuffle_dir = files.join(scratch, _SHUFFLE)
        files.remove_tree(shuffle.shuffle_dir)  # of a run that was killed
        files.make_dirs(shuffle.shuffle_dir)
        yield


def _make_report(
    flags: argparse.Namespace, plan: _Plan, collected: statistics.Collected
) -> dict[str, Any]:
    evaluation = None
    if plan.evaluation:
        evaluation = {
            "name": ", ".join(files.text(files.name(name)) for name in flags.decontaminate),
            "num_captions": plan.evaluation.num_captions,
            "num_pictures": plan.evaluation.num_images,
        }
    extends = plan.extension.facts() if plan.extension else None
    return clean_summary.make_report(collected, plan.settings, flags.input, evaluation, extends)


def _check_output(flags: argparse.Namespace) -> None:
    """Raises ValueError if what is written would be read as input by the next run, or be lost."""
    written = {"output": flags.output, "keep_originals": flags.keep_originals}
    written = {name: path for name, path in written.items() if path}
    for folder in (name for name in flags.input if name and files.is_dir(name)):
        for name, path in written.items():
            inner = _below(folder, path)
            if inner and not any(part.startswith((".", "_")) for part in inner.split("/")):
                raise ValueError(
                    f"--{name}={path}: is inside --input {folder}, and the next run would "
                    "read it; choose a folder beside it"
                )
    if (keep := flags.keep_originals) and flags.output:
        if _below(flags.output, keep) or files.absolute(keep) == files.absolute(flags.output):
            raise ValueError(
                f"--keep_originals={keep}: is in --output {flags.output}, which is for pairs; "
                "choose a folder beside it"
            )
        if files.exists(keep) and not files.is_dir(keep):
            raise ValueError(f"--keep_originals={keep}: is a file; name a folder")


def _below(folder: str, path: str) -> str:
    """Returns the part of a path that is below a folder; empty if it is not in it."""
    root, whole = files.absolute(folder).rstrip("/") + "/", files.absolute(path)
    return whole.removeprefix(root) if whole.startswith(root) else ""


def _output_bytes(found: Sequence[readers.Source], settings: clean_settings.CleanSettings) -> int:
    """Returns about how many bytes will be written at most, for the number of shards."""
    # The rows of a table say little of the size of the pictures that they name.
    of_pair = settings.image_size**2 * (1.5 if settings.image_format == "png" else 0.5)
    return sum(max(source.num_bytes, round(source.num_rows * of_pair)) for source in found)
