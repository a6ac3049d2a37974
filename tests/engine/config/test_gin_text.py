# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""gin text read without importing what it names."""

import pathlib
import shlex

import pytest

from parti.engine.config import gin_text

TEXT = """\
from __gin__ import dynamic_registration
import optax
import not.here as gone
from nowhere import network
from nowhere import tasks

# A comment with a %MACRO.
MODEL = @network.Model()
LENGTHS = {'inputs': %LENGTH, 'targets': [3, (%WIDTH,)]}
LONG = \\
    ('a', 'long '
     'text')
LENGTH = %gin.REQUIRED
network.Model:
  size = 2e-3
train/optax.adamw.b1 = 0.9
LENGTH = 4
"""


def test_bindings_are_values_and_references() -> None:
    bindings = gin_text.bindings(TEXT)
    assert bindings.keys() == {
        *("MODEL", "LENGTHS", "LONG", "LENGTH", "network.Model.size", "train/optax.adamw.b1")
    }
    assert bindings["MODEL"] == gin_text.Reference("@network.Model()")
    assert repr(bindings["LENGTHS"]) == "{'inputs': %LENGTH, 'targets': [3, (%WIDTH,)]}"
    assert bindings["LONG"] == ("a", "long text")
    assert bindings["LENGTH"] == 4, "the later one"
    assert bindings["network.Model.size"] == 0.002
    assert gin_text.macros(TEXT).keys() == {"MODEL", "LENGTHS", "LONG", "LENGTH"}
    assert gin_text.macros("A = %gin.REQUIRED") == {"A": gin_text.UNSET}


def test_names_in_a_text() -> None:
    assert gin_text.used_macros(TEXT) == {"LENGTH", "WIDTH"}, "not in comments"
    assert gin_text.readers(TEXT) == {"LENGTH": "LENGTHS", "WIDTH": "LENGTHS"}
    assert gin_text.functions(TEXT) == {"network.Model", "optax.adamw"}


def test_unused_imports_go() -> None:
    kept = gin_text.without_unused_imports(TEXT)
    dropped = ["import not.here as gone", "from nowhere import tasks"]
    assert kept.splitlines() == [line for line in TEXT.splitlines() if line not in dropped]


@pytest.mark.parametrize("text", ["a", "A =", "A = 3 4", "A = (1,", "A = b", "\0"])
def test_other_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="^not gin text: ") as caught:
        gin_text.bindings(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["runs/a", "John's", 'q"', "a\\new", "$HOME", "a b", "!x`"])
def test_a_flag_sets_its_text(text: str) -> None:
    word = gin_text.flag("MODEL_DIR", text)
    (read,) = shlex.split(word)
    value = read.removeprefix("--gin.MODEL_DIR=")
    assert gin_text.bindings(f"MODEL_DIR = {value}") == {"MODEL_DIR": text}
    gin_text.check_text("MODEL_DIR", value)


@pytest.mark.parametrize("value", ["'John's'", r"'runs\new'", "'a\nb'"])
def test_a_text_that_gin_would_read_otherwise_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="needs a backslash before it: '--gin.MODEL_DIR="):
        gin_text.check_text("MODEL_DIR", value)


def test_a_path_that_exists_with_a_backslash(tmp_path: pathlib.Path) -> None:
    (tmp_path / r"a\x41").mkdir()
    with pytest.raises(ValueError, match="needs a backslash"):
        gin_text.check_text("PAIRS_DIR", rf"'{tmp_path}/a\x41'")
    gin_text.check_text("PAIRS_DIR", repr(rf"{tmp_path}/a\x41"))
