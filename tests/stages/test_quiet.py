# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Known start-up messages are dropped; everything else on stderr gets through."""

import os
import pathlib
import subprocess
import sys

import pytest

from parti.stages import quiet

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_known_lines_are_dropped_and_the_rest_passed_on(capfd: pytest.CaptureFixture) -> None:
    with quiet.held_back():
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are ...\n")
        os.write(2, b"I0000 00:00:17.69 438 port.cc:153] oneDNN custom operations are on.\n")
        print("a message", file=sys.stderr, flush=True)
        os.write(2, b"E0000 00:00:17.70 438 cuda_dnn.cc:1] Unable to register cuDNN factory: ...\n")
        os.write(2, b"W0000 00:00:17.71 438 gpu.cc:1] Cannot dlopen some GPU libraries.\n")
        os.write(2, b"a fault\n")
    os.write(2, b"afterwards\n")
    lines = capfd.readouterr().err.splitlines()
    assert lines[-2:] == ["a fault", "afterwards"]
    assert [line for line in lines if "port.cc" in line or "cuDNN" in line] == []
    assert "a message" in lines and any("Cannot dlopen" in line for line in lines)


def test_an_import_that_fails_still_speaks(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(RuntimeError), quiet.held_back():
        os.write(2, b"missing library\n")
        raise RuntimeError
    assert capfd.readouterr().err == "missing library\n"


def test_verbose_leaves_everything_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    finders = list(sys.meta_path)
    monkeypatch.setenv(quiet.VARIABLE, "1")
    quiet.install()
    assert sys.meta_path == finders


def test_warnings_of_others_are_shown() -> None:
    code = """
import logging, warnings
from parti.stages import quiet
quiet.install()
logging.warning("apitools not found, and bigquery client libraries are not available")
logging.warning("the disk is full")
logging.getLogger("third.party").warning("%d items", "many")
logging.getLogger("library").warning("slow")
warnings.warn_explicit("odd shape", UserWarning, "x.py", 1, module="library")
warnings.warn_explicit("Truncated File Read", UserWarning, "t.py", 1, module="PIL.TiffImagePlugin")
warnings.warn_explicit("old name", DeprecationWarning, "y.py", 1, module="library")
warnings.warn_explicit("our old name", DeprecationWarning, "z.py", 1, module="parti.data")
"""
    environment = {
        k: v for k, v in os.environ.items() if k not in (quiet.VARIABLE, "PYTHONWARNINGS")
    }
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0
    for shown in ("the disk is full", "slow", "UserWarning: odd shape", "our old name"):
        assert shown in ended.stderr
    for dropped in ("apitools", "Truncated", "y.py"):
        assert dropped not in ended.stderr


def test_only_loud_libraries_are_wrapped() -> None:
    finder = quiet._Finder()
    assert finder.find_spec("json") is None
    spec = finder.find_spec("tensorflow")
    assert spec is not None and spec.submodule_search_locations
    assert spec.loader is not None and hasattr(spec.loader.exec_module, "__wrapped__")
