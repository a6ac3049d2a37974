# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import json
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from parti.stages import json_text


@pytest.mark.parametrize(
    ("given", "mended"),
    [
        ("half \ud83d", "half \ufffd"),
        ("\udce9", "\ufffd"),  # of a byte that is not UTF-8
        ("😀 \t\n\r\u2028\u200d", "😀 \t\n\r\u2028\u200d"),
        ("a\0b\x1bc\x7fd\x85", "a b c d "),
        (float("nan"), None),
        (-float("inf"), None),
        (10**400, 10**400),
        ({"\ud83d": [1.5, True, None, [float("inf")]]}, {"\ufffd": [1.5, True, None, [None]]}),
    ],
)
def test_mend(given: Any, mended: Any) -> None:
    assert json_text.mend(given) == mended
    assert json_text.mend(mended) == mended


def test_metadata_keep_what_can_be_written() -> None:
    assert json_text.utf8("half \ud83d\t\1\x85é😀") == "half \ufffd\t\1\x85é😀"
    assert [json_text.finite(n) for n in (1.5, float("nan"), -float("inf"))] == [1.5, None, None]


def test_what_cannot_be_mended() -> None:
    deep: Any = 1
    for _ in range(json_text.MAX_DEPTH):
        deep = [deep]
    assert json_text.mend(deep) == deep
    with pytest.raises(ValueError, match="nested over 64 deep"):
        json_text.mend([deep])
    with pytest.raises(ValueError, match="two names differ only in"):
        json_text.mend({"a\0": 1, "a\x1b": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON: Expecting property name .* at character 2"),
        ("[" * 100_000, "not JSON: nested too deep"),
        ("9" * 5000, "not JSON: Exceeds the limit"),
    ],
)
def test_what_is_not_json(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        json_text.parse(text)


VALUES = strategies.recursive(
    strategies.none() | strategies.floats() | strategies.text(strategies.characters(), max_size=9),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.text(strategies.characters(), max_size=4), inner)
    ),
    max_leaves=8,
)


@hypothesis.settings(max_examples=200)
@hypothesis.given(VALUES)
def test_any_value_can_be_written_and_comes_back(value: Any) -> None:
    try:
        mended = json_text.mend(value)
    except ValueError as error:
        assert "two names" in str(error)
        return
    data = json.dumps(mended, ensure_ascii=False, allow_nan=False).encode()
    assert json_text.parse(data) == mended == json_text.mend(mended)
