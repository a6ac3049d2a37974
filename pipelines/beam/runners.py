# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which machinery runs a pipeline, and what must hold before it starts.

The default is Beam's FnApiRunner: in this process, or in worker processes of this machine
(`use_all_cores`, or --direct_num_workers=N --direct_running_mode=multi_processing). Beam's own
default, `DirectRunner`, tries first to fetch the Prism binary from the network; here that name
means the FnApiRunner too. `--runner=PortableRunner`, `FlinkRunner`, `DataflowRunner`, ... are
passed on; docs/dataflow.md tells how their workers get this package.
"""

import contextlib
import os
import re
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import psutil
from apache_beam.options import pipeline_options
from apache_beam.runners import runner as beam_runner

from parti.stages import files

LOCAL_RUNNERS = ("", "directrunner", "fnapirunner", "switchingdirectrunner")
# A worker process takes seconds to start; with less input than this for each it is not worth it.
BYTES_PER_PROCESS = 8 * 2**20
_WORKER_MODULE = "apache_beam.runners.worker.sdk_worker_main"
_WORKER_THREAD = "run_worker"  # of Beam, one for each process
_WORKER_ENDED = re.compile(r"Worker subprocess exited with return code (-?\d+)")


# Set by `parti COMMAND --verbose`, which takes the flag out of what it passes on.
VERBOSE_VARIABLE = "PARTI_VERBOSE"


class WorkerDied(RuntimeError):
    """A worker process ended by itself; the message is one line."""


def name(options: pipeline_options.PipelineOptions) -> str:
    """Returns the runner that the options name, in lower case; "" for none."""
    return (options.view_as(pipeline_options.StandardOptions).runner or "").lower()


def is_local(options: pipeline_options.PipelineOptions) -> bool:
    """Returns whether the workers are this process or processes that it starts."""
    return name(options) in LOCAL_RUNNERS


def make(options: pipeline_options.PipelineOptions) -> beam_runner.PipelineRunner:
    """Returns the runner that the options name.

    Raises:
      ValueError: Beam has no such runner, or lacks what it needs.
    """
    if not is_local(options):
        given = options.view_as(pipeline_options.StandardOptions).runner
        try:
            return beam_runner.create_runner(given)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"--runner={given}: {error}") from error
    from apache_beam.portability import python_urns
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability import portable_runner
    from apache_beam.runners.portability.fn_api_runner import fn_runner

    class Runner(fn_runner.FnApiRunner):
        def run_via_runner_api(self, pipeline_proto: Any, options: Any) -> Any:
            for environment in pipeline_proto.components.environments.values():
                if environment.urn == python_urns.SUBPROCESS_SDK:
                    environment.payload = _worker_command().encode()
            return super().run_via_runner_api(pipeline_proto, options)

    # Workers in other processes read the options from here, as under Beam's DirectRunner.
    encoded = portable_runner.JobServiceHandle.encode_pipeline_options(options.get_all_options())
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return Runner(provision_info=fn_runner.ExtendedProvisionInfo(info))


def _worker_command() -> str:
    """Returns what starts a worker process, for the shell.

    Ctrl-C reaches a worker too, but this process ends it; what a worker logs comes here anyhow, and
    its stderr holds only greetings and the tracebacks of its end.
    """
    command = f"trap '' INT; exec {shlex.quote(sys.executable)} -m {_WORKER_MODULE}"
    return command if os.environ.get(VERBOSE_VARIABLE) else f"{command} 2>/dev/null"


def use_all_cores(options: pipeline_options.PipelineOptions, num_bytes: int) -> int:
    """Lets a local run use worker processes, unless the user said how it should run.

    Args:
      options: changed in place.
      num_bytes: size of the input; small ones are quicker in this process.

    Returns:
      The number of processes that will work; 1 is this one.
    """
    direct = options.view_as(pipeline_options.DirectOptions)
    if not is_local(options):
        return 1
    if not any(
        flag.startswith("--direct_") for flag in options._flags or ()
    ):  # defaults count as given
        count = min(len(os.sched_getaffinity(0)), num_bytes // BYTES_PER_PROCESS)
        if count > 1:
            direct.direct_num_workers, direct.direct_running_mode = count, "multi_processing"
    return max(1, direct.direct_num_workers or 1)


def check(options: pipeline_options.PipelineOptions, places: Sequence[files.Path]) -> None:
    """Refuses a run on Google's machines that cannot work, before anything is read or uploaded.

    Args:
      options: of the pipeline.
      places: inputs and outputs.

    Raises:
      ValueError: a place that only this machine has, workers without this package, or a template.
    """
    if name(options) not in ("dataflowrunner", "dataflow"):
        return
    if options.view_as(pipeline_options.GoogleCloudOptions).template_location:
        raise ValueError(
            "--template_location: a template cannot publish the output, which the command does "
            "when the job has ended; leave the flag out"
        )
    for place in places:
        if not files.is_remote(place):
            raise ValueError(
                f"{os.fspath(place)}: workers of Dataflow do not see the files of this machine; "
                "give an address such as gs://bucket/folder"
            )
    setup = options.view_as(pipeline_options.SetupOptions)
    image = options.view_as(pipeline_options.WorkerOptions).sdk_container_image
    if not (image or setup.setup_file or setup.extra_packages):
        raise ValueError(
            "--runner=DataflowRunner: the workers need this package; pass --sdk_container_image "
            "or --setup_file (docs/dataflow.md)"
        )


def call(function: Callable[[], Any], options: pipeline_options.PipelineOptions) -> Any:
    """Calls what runs a pipeline, and returns its result; a dead worker process ends the wait.

    Beam waits forever for a worker that was killed, for instance by a system without memory.

    Raises:
      WorkerDied: a worker process ended by itself.
      BaseException: what the function raised.
    """
    direct = options.view_as(pipeline_options.DirectOptions)
    if not is_local(options) or direct.direct_running_mode != "multi_processing":
        return function()
    outcome: list[Any] = []
    done = threading.Event()

    def work() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:  # noqa: BLE001 - raised again below
            outcome.append((None, error))
        done.set()

    def died(code: int) -> None:
        outcome.append((None, _death(code)))
        done.set()

    with _watch_workers(died):
        threading.Thread(target=work, daemon=True, name="parti-pipeline").start()
        try:
            done.wait()
        finally:
            if not outcome or isinstance(outcome[0][1], WorkerDied):
                _end_workers()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def _death(code: int) -> WorkerDied:
    why = "it was killed; is there enough memory?" if code in (-9, 137) else f"exit code {code}"
    return WorkerDied(f"a worker process died: {why} (fewer --direct_num_workers need less)")


@contextlib.contextmanager
def _watch_workers(died: Callable[[int], Any]) -> Iterator[None]:
    """Calls `died` with the exit code of a worker process that fails; a thread's error says so."""
    before, deaths = threading.excepthook, []

    def hook(arguments: Any) -> None:
        ended = _WORKER_ENDED.search(str(arguments.exc_value))
        if ended:
            deaths.append(int(ended.group(1)))
            died(deaths[-1])
        elif not isinstance(arguments.exc_value, grpc.RpcError):  # the line to a dead worker
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        if not deaths:  # else the threads that served the worker are still to end with an error
            threading.excepthook = before


def _end_workers() -> None:
    """Ends the worker processes that this process started, and the threads that wait for them."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if _WORKER_MODULE in " ".join(child.cmdline()):
                child.kill()
    for thread in threading.enumerate():
        if thread.name == _WORKER_THREAD:
            thread.join(timeout=5)
