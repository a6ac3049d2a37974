# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Many processes, other machines: the same result, and no run that waits forever."""

import os
import sys
import tempfile
import time

import apache_beam as beam
import psutil
import pytest
from apache_beam.options import pipeline_options

from parti.pipelines.beam import options, runners

PROCESSES = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]


def parsed(*flags):
    _, beam_options = options.parse(options.make_parser("parti x", "", ""), list(flags))
    return beam_options


def workers():
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "sdk_worker_main" in " ".join(child.cmdline())]


def killing():
    class Work(beam.DoFn):  # local, so that workers get it by value: they cannot import this file
        def process(self, element):
            if element == 5:
                os.kill(os.getpid(), 9)  # as a system without memory does
            yield element

    return beam.ParDo(Work())


def test_a_killed_worker_ends_the_run_with_one_line(capfd):
    before = time.monotonic()
    with pytest.raises(options.PipelineError) as failure:
        options.run_pipeline(
            lambda root: root | beam.Create(range(9)) | beam.Reshuffle() | killing(),
            parsed(*PROCESSES),
        )
    assert str(failure.value).startswith("a worker process died: it was killed; is there enough")
    assert time.monotonic() - before < 60
    assert not workers()
    assert "Traceback" not in capfd.readouterr().err


def crashing(act):
    class Work(beam.DoFn):
        def process(self, element):
            if element == 5:
                act()
            yield element

    return beam.ParDo(Work())


def end_with_last_words():
    print("something first\n\nthe disk is on fire", file=sys.stderr, flush=True)
    os._exit(3)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (end_with_last_words, "exit code 3: the disk is on fire"),
        (os.abort, "exit code -6: Fatal Python error: Aborted"),
    ],
    ids=["exit", "crash"],
)
def test_the_last_words_of_a_worker_are_kept(act, words, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(options.PipelineError) as failure:
        options.run_pipeline(
            lambda root: root | beam.Create(range(9)) | beam.Reshuffle() | crashing(act),
            parsed(*PROCESSES),
        )
    message = str(failure.value)
    (log,) = tmp_path.glob("parti-workers-*.log")
    assert message == f"a worker process died: {words}; its stderr is in {log}"
    assert words.partition(": ")[2] in log.read_text()


def test_the_log_of_workers_that_end_well_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    options.run_pipeline(
        lambda root: root | beam.Create(range(3)) | beam.Reshuffle() | crashing(os.abort),
        parsed(*PROCESSES),
    )
    assert not list(tmp_path.glob("parti-workers-*"))


def test_of_what_workers_write_only_the_end_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(runners, "LOG_BYTES", 4096)

    def warn(_):
        print(*(f"warning {number}" for number in range(10_000)), sep="\n", file=sys.stderr)
        (log,) = tmp_path.glob("parti-workers-*.log")
        end = time.monotonic() + 30
        while log.stat().st_size > 4096 and time.monotonic() < end:
            time.sleep(0.1)
        print(f"{log.stat().st_size} bytes", file=sys.stderr)
        end_with_last_words()

    with pytest.raises(options.PipelineError, match="exit code 3: the disk is on fire"):
        options.run_pipeline(
            lambda root: root | beam.Create([5]) | beam.Reshuffle() | beam.Map(warn),
            parsed(*PROCESSES),
        )
    (log,) = tmp_path.glob("parti-workers-*.log")
    lines = log.read_text().splitlines()
    assert log.stat().st_size < 4096
    assert int(lines[-4].removesuffix(" bytes")) < 4096
    assert lines[-5] == "warning 9999" and lines.count("warning 9999") == 1


def test_worker_processes_write_nothing_and_leave_an_interrupt_to_us(capfd):
    def interrupt(element):
        os.kill(os.getpid(), 2)  # Ctrl-C goes to all processes of a terminal
        return element

    options.run_pipeline(
        lambda root: root | beam.Create(range(3)) | beam.Reshuffle() | beam.Map(interrupt),
        parsed(*PROCESSES),
    )
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("flags", "cores", "num_bytes", "expected"),
    [
        ([], 8, 10**12, 8),
        ([], 8, 2 * runners.BYTES_PER_PROCESS, 2),
        ([], 8, 10**6, 1),
        ([], 1, 10**12, 1),
        (["--runner=DirectRunner"], 4, 10**12, 4),
        (["--direct_num_workers=3"], 8, 10**12, 3),
        (["--direct_num_workers=1"], 8, 10**12, 1),
        (["--direct_running_mode=in_memory"], 8, 10**12, 1),
        (["--runner=PortableRunner"], 8, 10**12, 1),
    ],
)
def test_all_cores_unless_the_user_says_otherwise(monkeypatch, flags, cores, num_bytes, expected):
    for linux_only in ("sched_getaffinity", "process_cpu_count"):
        monkeypatch.delattr(os, linux_only, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    beam_options = parsed(*flags)
    mode = beam_options.view_as(pipeline_options.DirectOptions).direct_running_mode
    assert runners.use_all_cores(beam_options, num_bytes) == expected
    now = beam_options.view_as(pipeline_options.DirectOptions)
    decided = not any("direct" in flag for flag in flags) and expected > 1
    assert now.direct_running_mode == ("multi_processing" if decided else mode)


DATAFLOW = ["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/tmp"]


@pytest.mark.parametrize(
    ("flags", "places", "message"),
    [
        (DATAFLOW, ["gs://b/in", "/data/out"], "/data/out: workers of Dataflow do not see"),
        (DATAFLOW, ["gs://b/in"], "the workers need this package; pass --sdk_container_image"),
        (DATAFLOW[:1], ["gs://b/in"], "needs --project and --region and --temp_location too"),
        ([*DATAFLOW[:2], DATAFLOW[3]], ["gs://b/in"], "DataflowRunner needs --region too"),
        ([*DATAFLOW, "--temp_location=/tmp/x"], ["gs://b/in"], "--temp_location=/tmp/x: Dataflow"),
        (
            [*DATAFLOW[:3], "--staging_location=gs://b/s", "--sdk_container_image=x"],
            ["gs://b/in"],
            None,
        ),
        ([*DATAFLOW, "--template_location=gs://b/t"], ["gs://b/in"], "leave the flag out"),
        ([*DATAFLOW, "--sdk_container_image=x"], ["gs://b/in"], None),
        ([*DATAFLOW, "--setup_file=./setup.py"], ["gs://b/in"], None),
        ([], ["/data/out"], None),
        (["--runner=FlinkRunner"], ["/data/out"], None),
    ],
)
def test_dataflow_is_checked_before_it_is_asked(flags, places, message):
    if message is None:
        runners.check(parsed(*flags), places)
    else:
        with pytest.raises(ValueError, match=message):
            runners.check(parsed(*flags), places)
