# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A manifest that is absent, foreign or damaged is told apart, each in one line."""

import json

import fake_remote
import pytest

from parti.stages import files, manifests

DAMAGES = {
    "empty": b"",
    "cut off": b'{"kind": "pairs"',
    "not UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "nested": b"[" * 10**6,
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest.json: damaged \(.+\); remove it$") as error:
        manifests.read_json(path, "remove it")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="damaged .* make the output again with `parti clean`"):
        manifests.read(tmp_path, "pairs")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(ValueError, match=r"cannot be read \(Is a directory\); remove it"):
        manifests.read_json(tmp_path / "manifest.json", "remove it")


@pytest.mark.parametrize("scheme", ["", "store", "tree"])
def test_an_absent_file_is_empty(tmp_path, monkeypatch, scheme):
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    root = f"{scheme}://bucket" if scheme else str(tmp_path)
    assert manifests.read_json(files.join(root, "none", "manifest.json"), "") == {}
    files.make_dirs(root)
    files.write_bytes(files.join(root, "file"), b"")
    assert manifests.read_json(files.join(root, "file", "manifest.json"), "") == {}


def test_what_was_written_is_read(tmp_path):
    made = manifests.write(tmp_path, "pairs", counts={"ä": 1}, settings={}, content={})
    assert manifests.read(tmp_path, "pairs") == made
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(ValueError, match="holds something else, not pairs"):
        manifests.read(tmp_path, "pairs")
