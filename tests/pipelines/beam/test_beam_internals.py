# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The private names of Beam that Parti relies on are there, and do what they must."""

import argparse
import inspect
import threading

import apache_beam as beam
import pytest
from apache_beam.options import pipeline_options
from apache_beam.portability import python_urns
from apache_beam.runners.portability import local_job_service, portable_runner
from apache_beam.runners.portability.fn_api_runner import fn_runner, worker_handlers
from apache_beam.runners.worker import sdk_worker_main

from parti.pipelines.beam import beam_internals
from parti.stages import flag_parser


def refuse(message):
    raise SystemExit(message)


def test_the_parser_of_flags():
    assert issubclass(pipeline_options._BeamArgumentParser, argparse.ArgumentParser)
    assert callable(pipeline_options.PipelineOptions._add_argparse_args)
    parser = beam_internals.make_flag_parser(refuse)
    flags = {"--runner", "--direct_num_workers", "--temp_location", "--sdk_container_image"}
    assert flags <= set(flag_parser.names(parser))
    with pytest.raises(SystemExit, match="invalid int value: 'many'"):
        parser.parse_known_args(["--direct_num_workers=many"])


def test_the_flags_as_they_were_given():
    options = pipeline_options.PipelineOptions(["--direct_num_workers=1"])
    assert options._flags == beam_internals.given_flags(options) == ["--direct_num_workers=1"]
    assert beam_internals.given_flags(pipeline_options.PipelineOptions([])) == []


def test_the_local_runner():
    assert callable(portable_runner.JobServiceHandle.encode_pipeline_options)
    assert "provision_info" in inspect.signature(fn_runner.FnApiRunner).parameters
    assert callable(fn_runner.ExtendedProvisionInfo)
    options = pipeline_options.PipelineOptions([])
    made = beam_internals.make_local_runner(options)
    assert isinstance(made, fn_runner.FnApiRunner)
    with beam.Pipeline(runner=made, options=options) as root:
        _ = root | beam.Create([1])


def test_the_command_of_workers_is_replaced(tmp_path):
    flags = ["--direct_num_workers=1", "--direct_running_mode=multi_processing"]
    options = pipeline_options.PipelineOptions(flags)
    made = beam_internals.make_local_runner(options)
    seen = []

    def keep(pipeline_proto, options):
        environments = pipeline_proto.components.environments.values()
        seen.extend(e.payload for e in environments if e.urn == python_urns.SUBPROCESS_SDK)
        raise SystemExit

    made.worker_command = "a command"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(fn_runner.FnApiRunner, "run_via_runner_api", lambda self, *args: keep(*args))
        pipeline = beam.Pipeline(runner=made, options=options)
        _ = pipeline | beam.Create([1])
        pipeline.run()
    assert seen == [b"a command"]


def test_the_end_of_a_worker_process(monkeypatch):
    assert sdk_worker_main.__name__ == beam_internals.WORKER_MODULE
    source = inspect.getsource(worker_handlers.SubprocessSdkWorkerHandler.start_worker)
    assert f"name='{beam_internals.WORKER_THREAD}'" in source
    info = fn_runner.FnApiRunner()._provision_info
    worker = local_job_service.SubprocessSdkWorker(b"exit 7", "localhost:1", info)
    errors = []
    monkeypatch.setattr(threading, "excepthook", lambda given: errors.append(given.exc_value))
    thread = threading.Thread(target=worker.run)
    thread.start()
    thread.join()
    assert [beam_internals.worker_exit_code(error) for error in errors] == [7]
    assert beam_internals.worker_exit_code(ValueError("no")) is None
    assert beam_internals.worker_exit_code(None) is None
