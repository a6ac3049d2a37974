# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders with rates: their names, and what is refused."""

import pathlib

import pytest

from parti.data.storage import data_sets


def test_one_folder_has_no_name() -> None:
    one = data_sets.DataSet("runs/tokens", 1.0)
    for folders in ("runs/tokens", pathlib.Path("runs/tokens"), {"runs/tokens": 7}):
        assert data_sets.named(folders, "TOKENS_DIR") == {"": one}


def test_names_tell_folders_apart() -> None:
    def names(*folders: str) -> list[str]:
        return list(data_sets.named(dict.fromkeys(folders, 1), "TOKENS_DIR"))

    assert names("/b/laion", "/a/own/") == names("/a/own", "/b/laion") == ["laion", "own"]
    assert names("/data/laion/tokens", "/data/own/tokens") == ["laion_tokens", "own_tokens"]
    assert names("gs://one/tokens", "gs://two/tokens") == ["one_tokens", "two_tokens"]
    assert names("/a/é", "/b/x") == ["a", "b_x"], "a name of nothing is none"
    assert names("/a/my set-1", "/a/v1.2") == ["my_set_1", "v1.2"]
    found = data_sets.named({"/b": 2, "/a": 0.5}, "TOKENS_DIR")
    assert list(found.items()) == [
        ("a", data_sets.DataSet("/a", 0.5)),
        ("b", data_sets.DataSet("/b", 2.0)),
    ]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, "TOKENS_DIR is {}; give a folder, or several with their rates: --gin.TOKENS_DIR="),
        ({"a": 0, "b": 1}, "TOKENS_DIR has the rate 0 for 'a'; it must be a number above 0"),
        ({"a": "0.5", "b": 1}, "the rate '0.5' for 'a'"),
        ({"a": True, "b": 1}, "the rate True for 'a'"),
        ({"a": float("nan"), "b": 1}, "the rate nan for 'a'"),
        ({"a": float("inf")}, "the rate inf for 'a'"),
        ({"a": 1, "./a/": 1}, "names the folder '.*/a' twice"),
        ({"/x/a-b": 1, "/x/a b": 1}, "'/x/a-b', '/x/a b' differ in characters alone"),
    ],
)
def test_what_is_refused(folders: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data_sets.named(folders, "TOKENS_DIR")
