# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of formats: what a row must be, and that a row is all a format needs."""

import pathlib

import pytest

from parti.pipelines import readers
from parti.pipelines.readers import formats
from parti.pipelines.readers.base import rows

DOCS = pathlib.Path(__file__).resolve().parents[3] / "docs" / "cleaning.md"


@pytest.mark.parametrize("row", formats.FORMATS.values(), ids=formats.FORMATS)
def test_a_row_is_complete_and_documented(row):
    assert row.suffixes and all(end == end.lower() and end[0] == "." for end in row.suffixes)
    assert row.description and callable(row.read) and callable(row.split)
    assert row.name in DOCS.read_text(encoding="utf-8")
    assert formats.detect("x", [f"a/B{row.suffixes[-1].upper()}"]) == row.name
    formats.check(row.name)


def test_no_ending_belongs_to_two_formats():
    endings = [end for row in formats.FORMATS.values() for end in row.suffixes]
    assert len(endings) == len(set(endings))


def read_lines(file, name):
    """Reads a format of `key|caption|image` lines."""
    for index, line in enumerate(file):
        parts = line.rstrip(b"\n").split(b"|")
        if len(parts) != 3:
            yield rows.reject(f"{name}#{index}", "broken_row", source=name)
        else:
            yield rows.make_pair(parts[0].decode(), parts[2], parts[1], name, {})


def test_a_row_of_the_table_is_all_that_a_format_needs(tmp_path, monkeypatch):
    row = formats.Format("lines", "lines with bars", (".bars",), formats._stream(read_lines))
    monkeypatch.setitem(formats.FORMATS, "lines", row)
    (tmp_path / "a.bars").write_bytes(b"k|a caption|bytes\nbroken\n")
    assert readers.detect_format(str(tmp_path)) == "lines"
    (source,) = readers.find_sources([str(tmp_path)])
    pair, bad = readers.read_source(source)
    assert (pair.key, pair.text, pair.image, pair.source) == ("k", "a caption", b"bytes", "a.bars")
    assert (bad.key, bad.reason) == ("a.bars#1", "broken_row")
    (tmp_path / "a.bars").unlink()
    assert [row.reason for row in readers.read_source(source)] == ["broken_file"]
