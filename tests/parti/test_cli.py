# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The command table: help without imports, exit codes, one-line errors."""

import importlib.util
import io
import os
import pathlib
import subprocess
import sys
import types

import pytest

import parti
from parti import cli
from parti.stages import commands, quiet

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch):
    """Puts a function in the place of `parti clean`."""

    def put(function) -> None:
        module = types.ModuleType("fake_clean")
        module.run = function
        monkeypatch.setitem(sys.modules, "fake_clean", module)
        monkeypatch.setitem(commands.COMMANDS, "clean", ("fake_clean", "run", ""))

    return put


def test_help_is_quick_and_lists_the_stages_in_order() -> None:
    code = "import sys; from parti import cli; cli.main(['--help']); print(len(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    lines = [line.split()[0] for line in output.stdout.splitlines() if line.startswith("  ")]
    assert lines == list(commands.COMMANDS)
    imported = {line.rsplit("|", 1)[-1].strip() for line in output.stderr.splitlines()}
    assert "parti.cli" in imported
    heavy = {"jax", "numpy", "tensorflow", "apache_beam", "gin", "rich", "snakemake", "yaml"}
    assert not imported & heavy


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_every_command_exists(command: str) -> None:
    module, function, help_line = commands.COMMANDS[command]
    assert help_line
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"{module} is missing"
    assert f"def {function}(" in pathlib.Path(spec.origin).read_text(encoding="utf-8")


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"parti {parti.__version__}\n"


def test_no_command_is_bad_usage(capsys: pytest.CaptureFixture) -> None:
    assert cli.main([]) == 2
    assert "usage: parti COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "hint"), [("genrate", "did you mean `parti generate`"), ("zzz", "commands: scenes")]
)
def test_unknown_command(command: str, hint: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main([command]) == 2
    assert hint in capsys.readouterr().err


def test_arguments_reach_the_command(stage, monkeypatch: pytest.MonkeyPatch) -> None:
    got = []
    monkeypatch.setenv(quiet.VARIABLE, "")
    stage(lambda arguments: got.extend(arguments) or 3)
    assert cli.main(["clean", "--input", "x", "--verbose"]) == 3
    assert got == ["--input", "x"]
    assert os.environ[quiet.VARIABLE] == "1", "for pipelines, and for the stages of a workflow"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("--size is 3;\n  use 4"), 2, "parti clean: --size is 3; use 4\n"),
        (FileNotFoundError(2, "No such file", "a.tar"), 2, "parti clean: a.tar: No such file\n"),
        (FileNotFoundError("no files match 'x'"), 2, "parti clean: no files match 'x'\n"),
        (RuntimeError("worker lost"), 1, "RuntimeError: worker lost (--verbose shows where)\n"),
        (KeyboardInterrupt(), 130, "parti clean: interrupted\n"),
        (KeyboardInterrupt("it goes on"), 130, "parti clean: interrupted; it goes on\n"),
    ],
)
def test_errors_are_one_line(
    stage, error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture
) -> None:
    def fail(arguments: list[str]) -> int:
        raise error

    stage(fail)
    assert cli.main(["clean"]) == code
    message = capsys.readouterr().err
    assert message.endswith(line) and message.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_any_name_is_printed_in_any_locale(
    stage, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])

    def fail(arguments: list[str]) -> int:
        print("caf\udce9.tar")
        raise ValueError("caf\udce9.tar: not found")

    stage(fail)
    assert cli.main(["clean"]) == 2
    for stream, said in zip(streams, (b"caf\\udce9.tar\n", b"caf\\udce9.tar: not found\n")):
        stream.flush()
        assert stream.buffer.getvalue().endswith(said)


def test_verbose_shows_the_traceback(
    stage, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(quiet.VARIABLE, "")

    def fail(arguments: list[str]) -> int:
        raise RuntimeError("worker lost")

    stage(fail)
    assert cli.main(["clean", "--verbose"]) == 1
    message = capsys.readouterr().err
    assert "Traceback" in message and message.endswith("parti clean: RuntimeError: worker lost\n")


def test_usage_errors_of_a_command_pass_through(stage) -> None:
    def fail(arguments: list[str]) -> int:
        raise SystemExit(2)

    stage(fail)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["clean"])


def test_demo_help_has_an_example(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["workflow", "--help"])
    assert "parti workflow pairs" in capsys.readouterr().out
