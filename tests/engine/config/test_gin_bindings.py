# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bindings of the command line find what the gin files name, whatever was parsed before."""

import tokenize

import pytest

from parti.engine.config import gin_bindings

HEAD = "from __gin__ import dynamic_registration\n"
TEXT = (
    HEAD
    + """
import deep.inside
import far.away as near
from one.family import network
OPTIMIZER = @deep.inside.adamw()
train/near.Clock.period = 3
network.Config:
  size = 3
"""
)
OTHER = HEAD + "from other.family import network\nnetwork.Config.size = @gin.singleton()\n"
KNOWN = set(gin_bindings.configurables(TEXT))


def test_what_a_text_names() -> None:
    assert {(c.path, c.written) for c in KNOWN} == {
        ("deep.inside.adamw", "deep.inside.adamw"),
        ("far.away.Clock", "near.Clock"),
        ("one.family.network.Config", "network.Config"),
    }


@pytest.mark.parametrize(
    ("name", "value", "want"),
    [
        ("OPTIMIZER", "3e-1  # as it is", "OPTIMIZER = 3e-1  # as it is"),
        ("OPTIMIZER", "'@adamw'", "OPTIMIZER = '@adamw'"),
        ("A", "%B", "A = %B"),
        ("A", "@gin.singleton()", "A = @gin.singleton()"),
        *(
            (
                f"{given}.size",
                "1e999",
                "import one.family.network\none.family.network.Config.size = 1e999",
            )
            for given in ("Config", "network.Config", "one.family.network.Config")
        ),
        ("a/b/near.Clock.x", "[%A]", "import far.away as near\na/b/near.Clock.x = [%A]"),
        ("away.Clock.x", "3", "import far.away as near\nnear.Clock.x = 3"),
        (
            "Config.x",
            "{'a': (@s/adamw(), @Clock), 'b': '@adamw'}",
            "import deep.inside\nimport far.away as near\nimport one.family.network\n"
            "one.family.network.Config.x = "
            "{'a': (@s/deep.inside.adamw(), @near.Clock), 'b': '@adamw'}",
        ),
    ],
)
def test_a_binding_brings_its_imports(name: str, value: str, want: str) -> None:
    if "\n" in want:
        want = f"{HEAD}{want}\n"
    assert gin_bindings.self_contained(name, value, KNOWN) == want


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("work.Config.size", "3", "No configurable matching 'work.Config'"),
        ("network.Other.size", "3", "No configurable matching 'network.Other'"),
        ("A", "@Config", "'Config' may be one.family.network.Config or other.family.network.Conf"),
        ("A", "1\nB = 2", "not one binding"),
    ],
)
def test_mistakes(name: str, value: str, message: str) -> None:
    known = KNOWN | set(gin_bindings.configurables(OTHER))
    with pytest.raises((ValueError, SyntaxError), match=message):
        gin_bindings.self_contained(name, value, known)
    found = gin_bindings.self_contained("other.family.network.Config.size", "3", known)
    assert "\nother.family.network.Config.size = 3\n" in found


def test_other_values_are_not_gin_text() -> None:
    with pytest.raises((SyntaxError, tokenize.TokenError)):
        gin_bindings.self_contained("network.Config.size", "(", KNOWN)
