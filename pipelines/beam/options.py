# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The edge between a command line and Beam: flags, runner, progress, failures.

Flags that the parser does not know go to Beam; one that Beam does not know either is an error.
"""

import argparse
import contextlib
import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io import filesystems
from apache_beam.options import pipeline_options
from apache_beam.runners import runner as beam_runner

from parti.pipelines.beam import beam_internals, runners
from parti.stages import files, flag_parser, progress_line, publishing, quiet

_QUIET_LOGGERS = ("apache_beam", "root", "absl", "tensorflow", "grpc")
_TICKS_VARIABLE = "PARTI_PIPELINE_TICKS"
# Of the whole weight, before a total is estimated; and how wrong the one that is shown may be.
_LEAST_SHARE, _TOLERANCE = 0.02, 0.1
_TICK = np.dtype([("done", "<i8"), ("weight", "<i8")])


def make_parser(command: str, description: str, example: str) -> flag_parser.Parser:
    """Returns a parser with the flags that every Beam command has: --overwrite and --verbose."""
    parser = flag_parser.Parser(
        command,
        description,
        f"example:\n  {example}\n\nOther flags go to Beam: --runner, --direct_num_workers, "
        "--direct_running_mode,\n--temp_location, --project, ...",
        formatter=_Formatter,
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a finished output of the same kind"
    )
    parser.add_argument("--verbose", action="store_true", help="show the logs of Beam")
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps line breaks of the example, and shows defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, "", []) or action.required:
            return action.help
        return super()._get_help_string(action)


def parse(
    parser: flag_parser.Parser, argv: Sequence[str]
) -> tuple[argparse.Namespace, pipeline_options.PipelineOptions]:
    """Splits the arguments between the command and Beam.

    Raises:
      SystemExit: after --help, or (2) a line about a flag that is unknown or has a bad value.
    """
    beam_parser = beam_internals.make_flag_parser(parser.error)
    flags, rest = parser.split(list(argv), others=flag_parser.names(beam_parser))
    _, unknown = beam_parser.parse_known_args(rest)
    if unknown:
        parser.error(parser.unknown(unknown[0]))
    beam_options = pipeline_options.PipelineOptions(rest)
    filesystems.FileSystems.set_options(beam_options)  # --hdfs_host and such, for stages.files
    if not (flags.verbose or os.environ.get(quiet.VARIABLE)):
        silence(beam_options)
    return flags, beam_options


def check_places(
    options: pipeline_options.PipelineOptions,
    inputs: Sequence[files.Path],
    outputs: Sequence[files.Path],
) -> None:
    """Refuses what the workers of a runner do not reach, before anything is read or submitted.

    Raises:
      ValueError: as `runners.check` and `publishing.check_places`.
    """
    runners.check(options, [*inputs, *outputs])
    publishing.check_places(inputs, outputs)


def silence(beam_options: pipeline_options.PipelineOptions) -> None:
    """Silences the loggers of a pipeline, here and in workers; `stages.quiet` does the rest."""
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    worker = beam_options.view_as(pipeline_options.WorkerOptions)
    worker.default_sdk_harness_log_level = worker.default_sdk_harness_log_level or "CRITICAL"


def tick(done: int = 1, weight: int = 0) -> None:
    """Counts finished units of the running pipeline; call it in a DoFn.

    Works in any process on this machine; on remote workers it does nothing (the runner has its own
    display). `weight` is their part of `total_weight` (see `run_pipeline`), e.g. bytes of input.
    """
    if path := os.environ.get(_TICKS_VARIABLE):
        with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:
            file.write(np.array((done, weight), _TICK).tobytes())


@contextlib.contextmanager
def _ticks(progress: progress_line.Progress | None, total_weight: int) -> Iterator[None]:
    """Adds up the ticks of all worker processes into `progress` while the pipeline runs."""
    if progress is None:
        yield
        return
    with tempfile.NamedTemporaryFile(prefix="parti-ticks-") as file:
        stop = threading.Event()

        def collect() -> None:
            position, is_last = 0, False
            done = weight = 0
            while not is_last:
                is_last = stop.wait(0.5)
                ticks = np.fromfile(file.name, _TICK, offset=position)  # whole ones alone
                position += ticks.nbytes
                done, weight = done + int(ticks["done"].sum()), weight + int(ticks["weight"].sum())
                progress.total = _estimate(progress.total, done, weight, total_weight)
                if len(ticks):
                    progress.update(done)

        os.environ[_TICKS_VARIABLE] = file.name
        thread = threading.Thread(target=collect, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            del os.environ[_TICKS_VARIABLE]


def _estimate(shown: int, done: int, weight: int, total_weight: int) -> int:
    """Returns the number of units that there will be; 0 as long as too little is known.

    It stays as shown while it is about right, so that it does not jump with each file.
    """
    if not total_weight or weight < _LEAST_SHARE * total_weight:
        return shown
    total = max(round(done * total_weight / weight), done)
    is_right = done <= shown and abs(total - shown) <= _TOLERANCE * shown
    return shown if is_right and weight < total_weight else total


class PipelineError(RuntimeError):
    """A pipeline failed while running; the message is one line with its cause."""


def run_pipeline(
    build: Callable[[beam.Pipeline], Any],
    options: pipeline_options.PipelineOptions,
    progress: progress_line.Progress | None = None,
    total_weight: int = 0,
) -> beam_runner.PipelineResult:
    """Builds a pipeline, runs it and waits for its end; passes on what `build` raises.

    `progress` counts what DoFns report with `tick`; the caller calls its `done`. If the number of
    units is not known, its total is estimated from `total_weight`, the sum of their weights.

    Raises:
      PipelineError: a DoFn raised, or the runner stopped; one line.
    """
    pipeline = beam.Pipeline(runner=runners.make(options), options=options)
    build(pipeline)
    with _ticks(progress, total_weight):
        try:
            result = runners.run(pipeline, options)
            state = result.wait_until_finish() or result.state
        except Exception as error:
            if progress is not None:
                progress.failed()
            raise PipelineError(_cause(error)) from error
    if options.view_as(pipeline_options.TestOptions).dry_run:
        raise PipelineError("--dry_run: the job was built and checked, and not run")
    if state != beam_runner.PipelineState.DONE:
        raise PipelineError(f"the pipeline ended in state {state}; see the runner's log")
    return result


def _cause(error: BaseException) -> str:
    """Returns one line: the exception that a DoFn raised, and the step it was in."""
    text = str(error)
    if isinstance(error, runners.WorkerDied):
        return text
    step = re.search(r"\[while running '([^']*)'\]", text)
    # A worker in another process sends its traceback as text; the exception is on its last line
    # that reads `Name: message`.
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"^[A-Za-z_][\w.]*(Error|Exception): ", line)]
    if raised and "Traceback" in text:
        message = raised[-1]
    else:
        message = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    message = re.sub(r"\s*\[while running '[^']*'\]", "", message)
    message = re.sub(r"^RuntimeError: (?=\w+(Error|Exception): )", "", message)  # Beam's wrapping
    return f"{message} (in step {step.group(1)})" if step else message
