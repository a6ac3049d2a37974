# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Flags are split between the command and Beam; a failing step is one line."""

import apache_beam as beam
import pytest

from parti.pipelines.beam import options
from parti.stages import progress_line, quiet


def parser():
    made = options.make_parser("parti clean", "Cleans pairs.", "parti clean --input 'x/*.tar'")
    made.add_argument("--input", nargs="+", required=True)
    made.add_argument("--image_size", type=int, default=256)
    return made


def work():
    class Work(beam.DoFn):  # local, so that workers get it by value: they cannot import this file
        def process(self, element):
            options.tick()
            if element == "bad":
                raise KeyError("no such\nthing")
            yield element

    return beam.ParDo(Work())


def test_flags_are_split_between_the_command_and_beam():
    flags, beam_options = options.parse(
        parser(), ["--input", "a", "b", "--temp_location", "tmp", "--direct_num_workers=2"]
    )
    assert flags.input == ["a", "b"] and flags.image_size == 256
    assert beam_options.get_all_options()["temp_location"] == "tmp"
    assert beam_options.get_all_options()["direct_num_workers"] == 2


def test_logs_of_workers_are_off_unless_asked_for(monkeypatch):
    def level():
        _, beam_options = options.parse(parser(), ["--input", "a"])
        return beam_options.get_all_options()["default_sdk_harness_log_level"]

    monkeypatch.setenv(quiet.VARIABLE, "")
    assert level() == "CRITICAL"
    monkeypatch.setenv(quiet.VARIABLE, "1")
    assert level() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image_sise=3"], "unknown flag --image_sise; did you mean --image_size?"),
        (["--temp_locatoin=x"], "unknown flag --temp_locatoin; did you mean --temp_location?"),
        (["--zzz"], "unknown flag --zzz; see --help"),
        (["--direct_num_workers=many"], "invalid int value: 'many'"),
        (["--image_size=big"], "invalid int value: 'big'"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        options.parse(parser(), ["--input", "a", *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_misspelt_flag_is_named_before_a_missing_one(capsys):
    with pytest.raises(SystemExit):
        options.parse(parser(), ["--imput", "a", "--runner=DirectRunner"])
    assert "unknown flag --imput; did you mean --input?" in capsys.readouterr().err


def test_help_shows_the_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        options.parse(parser(), ["--help"])
    assert stopped.value.code == 0
    assert "parti clean --input 'x/*.tar'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--runner=DirectRunner"],
        ["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
    ],
    ids=["default", "direct", "processes"],
)
def test_a_pipeline_runs_and_counts(arguments):
    _, beam_options = options.parse(parser(), ["--input", "a", *arguments])
    progress = progress_line.Progress("test", total=6)
    options.run_pipeline(lambda root: root | beam.Create(range(6)) | work(), beam_options, progress)
    assert progress.count == 6


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_a_failing_step_is_one_line(mode):
    _, beam_options = options.parse(parser(), ["--input", "a", f"--direct_running_mode={mode}"])
    with pytest.raises(options.PipelineError) as failure:
        options.run_pipeline(
            lambda root: root | beam.Create(["bad"]) | "Work" >> work(), beam_options
        )
    message = str(failure.value)
    assert message.startswith("KeyError: ") and "no such" in message and "Work" in message
    assert "\n" not in message


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_an_error_of_the_system_is_named_once(mode):
    class Full(beam.DoFn):
        def process(self, element):
            raise OSError(28, "No space left on device")

    _, beam_options = options.parse(parser(), ["--input", "a", f"--direct_running_mode={mode}"])
    with pytest.raises(options.PipelineError) as failure:
        options.run_pipeline(
            lambda root: root | beam.Create([1]) | beam.ParDo(Full()), beam_options
        )
    assert str(failure.value).startswith("OSError: [Errno 28] No space left on device (in step ")


def test_an_unknown_runner_is_the_users_mistake():
    _, beam_options = options.parse(parser(), ["--input", "a", "--runner=NoRunner"])
    with pytest.raises(ValueError, match="NoRunner"):
        options.run_pipeline(lambda root: None, beam_options)


def test_an_estimated_total_does_not_jump():
    estimate = options._estimate
    assert estimate(0, 1, 10, 0) == 0  # nothing to estimate by
    assert estimate(0, 1, 10, 10_000) == 0  # too little is known
    assert estimate(0, 5, 500, 10_000) == 100
    assert estimate(100, 10, 950, 10_000) == 100  # 105, which is about right
    assert estimate(100, 10, 500, 10_000) == 200
    assert estimate(100, 101, 9_800, 10_000) == 103  # as there are more
    assert estimate(95, 90, 10_000, 10_000) == 90  # at the end it is known
