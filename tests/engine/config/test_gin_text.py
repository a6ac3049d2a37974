# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""gin text read without importing what it names."""

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
