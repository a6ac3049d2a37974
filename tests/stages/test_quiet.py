# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Start-up talk is dropped; everything else on stderr gets through."""

import os
import sys

import pytest

from parti.stages import quiet


def test_talk_is_dropped_and_the_rest_passed_on(capfd: pytest.CaptureFixture) -> None:
    with quiet.held_back():
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are ...\n")
        os.write(2, b"I0000 00:00:17.69 438 port.cc:153] oneDNN custom operations are on.\n")
        print("a message", file=sys.stderr, flush=True)
        os.write(2, b"a fault\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err.split("\n")[-3:-1] == ["a fault", "afterwards"]


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


def test_only_loud_libraries_are_wrapped() -> None:
    finder = quiet._Finder()
    assert finder.find_spec("json") is None
    spec = finder.find_spec("tensorflow")
    assert spec is not None and spec.submodule_search_locations
    assert isinstance(spec.loader, quiet._Loader)
