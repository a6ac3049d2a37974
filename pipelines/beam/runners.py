# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which runner runs a pipeline, and what must hold before it starts.

The default, also called `DirectRunner`, is Beam's FnApiRunner in this process or in worker
processes of this machine; others are passed on (docs/dataflow.md: how workers get this package).
"""

import argparse
import contextlib
import os
import pathlib
import queue
import re
import shlex
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import grpc
import psutil
from apache_beam.options import pipeline_options
from apache_beam.runners import runner as beam_runner

from parti.pipelines.beam import beam_internals
from parti.stages import files, machine, quiet

LOCAL_RUNNERS = ("", "directrunner", "fnapirunner", "switchingdirectrunner")
# A worker process takes seconds to start; with less input than this for each it is not worth it.
BYTES_PER_PROCESS = 8 * 2**20
# Of a longer log of worker processes the last half of this is kept; it is looked at every second.
LOG_BYTES = 2**20
_LOG_SECONDS = 1.0
_PER_CORE = "use_multiple_sdk_containers"  # Dataflow's experiment: a process for each core
# Addresses of job servers and clusters on this machine; none at all is one that Beam starts here.
_HERE = re.compile(r"$|embed$|\[(local|auto)\]$|local(\[|$)|(\w+://)?(localhost|127\.|\[::1\])")


class PlaceOptions(pipeline_options.PipelineOptions):
    """What workers on other machines see."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--shared_folders",
            action="store_true",
            help="workers on other machines see local paths, of a mount, as this machine does",
        )


class WorkerDied(RuntimeError):
    """A worker process ended by itself; the message is one line."""


def name(options: pipeline_options.PipelineOptions) -> str:
    """Returns the runner that the options name, in lower case; "" for none."""
    return (options.view_as(pipeline_options.StandardOptions).runner or "").lower()


def is_local(options: pipeline_options.PipelineOptions) -> bool:
    """Returns whether the workers are this process or processes that it starts."""
    return name(options) in LOCAL_RUNNERS


def make(options: pipeline_options.PipelineOptions) -> beam_runner.PipelineRunner:
    """Returns the runner that the options name; ValueError: Beam lacks it, or what it needs."""
    if is_local(options):
        return beam_internals.make_local_runner(options)
    given = options.view_as(pipeline_options.StandardOptions).runner
    try:
        return beam_runner.create_runner(given)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--runner={given}: {error}") from error


def use_all_cores(options: pipeline_options.PipelineOptions, num_bytes: int) -> int:
    """Lets a local run use worker processes, unless the user said how it should run.

    Small inputs are quicker in this process. Changes `options`, and returns the number of processes
    that will work: 1 is this one.
    """
    direct = options.view_as(pipeline_options.DirectOptions)
    if not is_local(options):
        return 1
    given = beam_internals.given_flags(options)  # defaults count too
    if not any(flag.startswith("--direct_") for flag in given):
        count = min(machine.num_cores(), num_bytes // BYTES_PER_PROCESS)
        if count > 1:
            direct.direct_num_workers, direct.direct_running_mode = count, "multi_processing"
    return max(1, direct.direct_num_workers or 1)


def sees_local_files(options: pipeline_options.PipelineOptions) -> bool:
    """Returns whether workers see local paths: they are on this machine, or it is a mount."""
    if is_local(options):
        return True
    if is_dataflow(options):
        return False
    given = options.get_all_options()
    if given["shared_folders"] or (given["environment_type"] or "").upper() == "LOOPBACK":
        return True
    # Of each runner the address of its machines.
    addresses = {"flinkrunner": given["flink_master"], "sparkrunner": given["spark_master_url"]}
    address = given["job_endpoint"] or addresses.get(name(options)) or ""
    return bool(_HERE.match(address))


def is_dataflow(options: pipeline_options.PipelineOptions) -> bool:
    """Returns whether the workers are Google's machines."""
    return name(options) in ("dataflowrunner", "dataflow")


def check(options: pipeline_options.PipelineOptions, addresses: Sequence[files.Path]) -> None:
    """Refuses a run on other machines that cannot work, before anything is read or uploaded.

    Raises:
      ValueError: an address of this machine alone, workers without this package, a template, or
        processes that would share an accelerator.
    """
    local = [os.fspath(path) for path in addresses if not files.is_remote(path)]
    if local and not is_dataflow(options) and not sees_local_files(options):
        given = options.view_as(pipeline_options.StandardOptions).runner
        raise ValueError(
            f"{local[0]}: workers of --runner={given} are on other machines; give an address such "
            "as gs://bucket/folder, or --shared_folders if it is a mount that they have too"
        )
    if not is_dataflow(options):
        return
    if options.view_as(pipeline_options.GoogleCloudOptions).template_location:
        raise ValueError(
            "--template_location: a template cannot publish the output, which the command does "
            "when the job has ended; leave the flag out"
        )
    if local:
        raise ValueError(
            f"{local[0]}: workers of Dataflow do not see the files of this machine; "
            "give an address such as gs://bucket/folder"
        )
    setup = options.view_as(pipeline_options.SetupOptions)
    image = options.view_as(pipeline_options.WorkerOptions).sdk_container_image
    if not (image or setup.setup_file or setup.extra_packages):
        raise ValueError(
            "--runner=DataflowRunner: the workers need this package; pass --sdk_container_image "
            "or --setup_file (docs/dataflow.md)"
        )
    services = options.view_as(pipeline_options.GoogleCloudOptions).dataflow_service_options or []
    experiments = options.view_as(pipeline_options.DebugOptions).experiments or []
    has_accelerator = any(o.startswith("worker_accelerator=") for o in [*services, *experiments])
    if has_accelerator and not {_PER_CORE, f"no_{_PER_CORE}"}.intersection(experiments):
        raise ValueError(
            "worker_accelerator: Dataflow starts a process for each core of a worker, and the "
            f"first takes the accelerator's memory; pass --experiments=no_{_PER_CORE}"
        )


def run(
    pipeline: beam.Pipeline, options: pipeline_options.PipelineOptions
) -> beam_runner.PipelineResult:
    """Runs a pipeline and returns its result; a dead worker process of this machine is an error.

    Beam waits forever for a worker that was killed, for instance by a system without memory.

    Raises:
      WorkerDied: a worker process ended by itself.
    """
    direct = options.view_as(pipeline_options.DirectOptions)
    if not is_local(options) or direct.direct_running_mode != "multi_processing":
        return pipeline.run()
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()  # (result, error); the first one counts

    def work() -> None:
        try:
            outcome.put((pipeline.run(), None))
        except BaseException as error:  # noqa: BLE001 - raised again below
            outcome.put((None, error))

    with _worker_log() as log:
        runner: Any = pipeline.runner
        runner.worker_command = _worker_command(log)
        with _watch_workers(lambda code: outcome.put((None, _death(code, log)))):
            threading.Thread(target=work, daemon=True, name="parti-pipeline").start()
            error: BaseException | None = WorkerDied()  # until the pipeline ends by itself
            try:
                result, error = outcome.get()
            finally:
                if isinstance(error, WorkerDied):
                    _end_workers()
        if error is not None:
            raise error
    return result


@contextlib.contextmanager
def _worker_log() -> Iterator[pathlib.Path]:
    """Yields a file for what worker processes write to stderr; it stays if one of them died."""
    descriptor, name = tempfile.mkstemp(prefix="parti-workers-", suffix=".log")
    os.close(descriptor)
    log, is_kept, ended = pathlib.Path(name), False, threading.Event()
    thread = threading.Thread(target=_keep_short, args=(log, ended), daemon=True)
    thread.start()
    try:
        yield log
    except WorkerDied:
        is_kept = bool(log.stat().st_size)
        raise
    finally:
        ended.set()
        thread.join()
        if not is_kept:
            log.unlink()


def _keep_short(log: pathlib.Path, ended: threading.Event) -> None:
    is_last = False
    while not is_last:
        is_last = ended.wait(_LOG_SECONDS)
        # To append, as the workers do at the same time.
        with contextlib.suppress(OSError), open(log, "a+b") as file:
            if file.tell() > LOG_BYTES:
                file.seek(-LOG_BYTES // 2, os.SEEK_END)
                end = file.read()
                file.truncate(0)
                file.write(end)


def _worker_command(log: pathlib.Path) -> str:
    """Returns what starts a worker process, for the shell.

    Ctrl-C reaches a worker too, but this process ends it. What a worker logs comes here anyhow;
    its stderr holds greetings, and the traceback or the crash report of its end.
    """
    command = f"{shlex.quote(sys.executable)} -X faulthandler -m {beam_internals.WORKER_MODULE}"
    to_log = "" if os.environ.get(quiet.VARIABLE) else f" 2>>{shlex.quote(str(log))}"
    return f"trap '' INT; exec {command}{to_log}"


def _death(code: int, log: pathlib.Path) -> WorkerDied:
    lines: list[str] = []
    with contextlib.suppress(OSError):  # a worker that ends late finds the log removed
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    if code in (-9, 137):
        why = "it was killed; is there enough memory? (fewer --direct_num_workers need less)"
    else:
        fatal = [line for line in lines if line.startswith("Fatal Python error")]
        why = ": ".join([f"exit code {code}", *(fatal or lines)[-1:]])
    return WorkerDied(f"a worker process died: {why}" + (f"; its stderr is in {log}" * bool(lines)))


@contextlib.contextmanager
def _watch_workers(died: Callable[[int], Any]) -> Iterator[None]:
    """Calls `died` with the exit code of a worker process that fails; a thread's error says so."""
    before, deaths = threading.excepthook, []

    def hook(arguments: Any) -> None:
        code = beam_internals.worker_exit_code(arguments.exc_value)
        if code is not None:
            deaths.append(code)
            died(code)
        elif not isinstance(arguments.exc_value, grpc.RpcError):  # the line to a dead worker
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        if not deaths:  # else the threads that served the worker are still to end with an error
            threading.excepthook = before


def _end_workers() -> None:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if beam_internals.WORKER_MODULE in " ".join(child.cmdline()):
                child.kill()
    for thread in threading.enumerate():
        if thread.name == beam_internals.WORKER_THREAD:
            thread.join(timeout=5)
