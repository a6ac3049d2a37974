# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest

from parti.stages import brace_patterns


# What bash and the package braceexpand make of each.
@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("a", ["a"]),
        ("s-{0000..0002}.tar", ["s-0000.tar", "s-0001.tar", "s-0002.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{8..011}", ["008", "009", "010", "011"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{0..6..3}", ["0", "3", "6"]),
        ("{-1..1}", ["-1", "0", "1"]),
        ("{-01..1}", ["-01", "000", "001"]),
        ("{a..c}{x,y}", ["ax", "ay", "bx", "by", "cx", "cy"]),
        ("{train,val{1,2}}.tar", ["train.tar", "val1.tar", "val2.tar"]),
        ("x{,.gz}", ["x", "x.gz"]),
        ("{one}", ["{one}"]),
        ("{}", ["{}"]),
        ("{a,b", ["{a,b"]),
        ("a,b}", ["a,b}"]),
        ("{{0..1}", ["{0", "{1"]),
        ("{x{0..1}}", ["{x0}", "{x1}"]),
        ("a\\{0..1}", ["a\\0", "a\\1"]),
    ],
)
def test_expand(pattern, wanted):
    assert list(brace_patterns.expand(pattern)) == wanted


def test_a_pattern_of_very_many_is_read_as_it_goes():
    first = itertools.islice(brace_patterns.expand("{0..999999999}{0..999999999}"), 2)
    assert list(first) == ["00", "01"]


def test_split():
    assert brace_patterns.split("a{1,2}.tar, b,,{c") == ["a{1,2}.tar", "b", "{c"]
    assert brace_patterns.split(" , ") == []
