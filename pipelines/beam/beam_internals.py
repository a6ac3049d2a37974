# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The private parts of Beam that Parti relies on: in this file and in no other.

`tests/pipelines/beam/test_beam_internals.py` names each, and says what it must do.
"""

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

from apache_beam.options import pipeline_options
from apache_beam.runners import runner as beam_runner

WORKER_MODULE = "apache_beam.runners.worker.sdk_worker_main"  # what a worker process runs
WORKER_THREAD = "run_worker"  # waits for a worker process; one for each
_WORKER_ENDED = re.compile(r"Worker subprocess exited with return code (-?\d+)")


def make_flag_parser(error: Callable[[str], NoReturn]) -> argparse.ArgumentParser:
    """Returns a parser that knows every flag of every PipelineOptions class.

    `error` takes what is wrong with the value of a flag, and ends the process.
    """
    parser = pipeline_options._BeamArgumentParser(allow_abbrev=False, add_help=False)
    classes = {str(cls): cls for cls in pipeline_options.PipelineOptions.__subclasses__()}
    for cls in classes.values():
        cls._add_argparse_args(parser)
    parser.error = error  # type: ignore[method-assign]
    return parser


def given_flags(options: pipeline_options.PipelineOptions) -> list[str]:
    """Returns the flags as the user gave them; the values of options do not tell defaults apart."""
    return list(options._flags or ())


def make_local_runner(options: pipeline_options.PipelineOptions) -> beam_runner.PipelineRunner:
    """Returns Beam's FnApiRunner.

    Its attribute `worker_command` is the shell command that starts a worker process; empty for
    Beam's own. Beam's DirectRunner would first try to fetch the Prism binary from the network.
    """
    from apache_beam.portability import python_urns
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability import portable_runner
    from apache_beam.runners.portability.fn_api_runner import fn_runner

    class LocalRunner(fn_runner.FnApiRunner):
        worker_command = ""

        def run_via_runner_api(self, pipeline_proto: Any, options: Any) -> Any:
            for environment in pipeline_proto.components.environments.values():
                if self.worker_command and environment.urn == python_urns.SUBPROCESS_SDK:
                    environment.payload = self.worker_command.encode()
            return super().run_via_runner_api(pipeline_proto, options)

    # Workers in other processes read the options from here, as under Beam's DirectRunner.
    encoded = portable_runner.JobServiceHandle.encode_pipeline_options(options.get_all_options())
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return LocalRunner(provision_info=fn_runner.ExtendedProvisionInfo(info))


def worker_exit_code(error: BaseException | None) -> int | None:
    """Returns the exit code of the worker process whose end an error reports; None: another."""
    ended = _WORKER_ENDED.search(str(error))
    return int(ended.group(1)) if ended else None
