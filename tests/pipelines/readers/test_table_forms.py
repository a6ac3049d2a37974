# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables as programs write them: each row is a pair, or is rejected with what to do about it."""

import base64
import codecs
import csv
import datetime
import gzip
import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import hypothesis
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from parti.data.storage import records
from parti.pipelines import readers
from parti.pipelines.readers.base import source_files
from parti.pipelines.readers.tables import delimited
from tests.pipelines.readers.tables import test_arrow_cells

PICTURE = b"\x89PNG\r\n\x1a\n picture of over sixty letters, so that its base64 is no path"
FUZZ = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def read(path: pathlib.Path, **options: Any) -> list[readers.Rejected | records.ImageTextPair]:
    """Returns the rows of a table, each of which can be written."""
    sources = readers.find_sources([str(path)], **options)
    found = [row for source in sources for row in readers.read_source(source)]
    for row in found:
        if isinstance(row, readers.Rejected):
            assert row.reason in readers.REASONS
            row.to_json().encode()
        else:
            assert records.ImageTextPair.from_example(row.to_example()) == row
    return found


def outcome(path: pathlib.Path, **options: Any) -> list[Any]:
    """Returns the captions of pairs, and (reason, measure) of what is rejected."""
    return [
        (row.reason, row.measure) if isinstance(row, readers.Rejected) else row.text
        for row in read(path, **options)
    ]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with two pictures."""
    for name in ("0.png", "1.png"):
        (tmp_path / name).write_bytes(PICTURE)
    return tmp_path


CAPTIONS = ['a café, with "two" tables', "a red bus; a tram | a car"]
ROWS = [("image", "caption"), *zip(("0.png", "1.png"), CAPTIONS)]


def spreadsheet(separator: str, line_end: str = "\r\n") -> str:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator, lineterminator=line_end).writerows(ROWS)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", spreadsheet(",").encode("utf-8-sig")),
        ("t.CSV", spreadsheet(";").encode("utf-8-sig")),
        ("t.csv", b"sep=;\r\n" + spreadsheet(";").encode()),
        ("t.csv", codecs.BOM_UTF8 + b"SEP=~\n" + spreadsheet("~").encode()),
        ("t.csv", spreadsheet("|").encode()),
        ("t.csv", spreadsheet("\t").encode()),
        ("t.tsv", spreadsheet(";").encode()),
        ("t.csv", spreadsheet("\t").encode("utf-16")),
        ("t.tsv", spreadsheet("\t").encode("utf-16")),
        ("t.csv", spreadsheet(",").encode("utf-16-le")),
        ("t.csv", spreadsheet(",").encode("utf-16-be")),
        ("t.csv", spreadsheet(",").encode("utf-32")),
        ("t.csv.gz", gzip.compress(spreadsheet(";").encode("utf-16"), mtime=0)),
        ("t.csv", spreadsheet(",", "\r").encode()),
        ("t.TSV", spreadsheet("\t", "\r").encode("utf-16")),
        ("captions.txt", spreadsheet(",").encode()),
        ("unicode text.txt", spreadsheet("\t").encode("utf-16")),
        ("t.csv", "".join(f"{n},{line}" for n, line in zip(",01", spreadsheet(",").splitlines(1)))),
    ],
    ids=str,
)
def test_what_spreadsheets_write(folder: pathlib.Path, name: str, data: bytes | str) -> None:
    (folder / name).write_bytes(data if isinstance(data, bytes) else data[1:].encode())
    found = read(folder / name)
    assert [row.text for row in found] == CAPTIONS
    assert [row.key for row in found] == [f"{name.split('.')[0]}#{n}" for n in range(2)]


@pytest.mark.parametrize("data", ["utf-16", "utf-16-le", "cp1252", "\r"])
def test_pieces_of_other_encodings(
    folder: pathlib.Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_files, "ROWS_PER_SOURCE", 3)
    line_end, encoding = ("\r", "utf-8") if data == "\r" else ("\n", data)
    captions = [f"a café number {n} €" for n in range(10)]
    text = "".join(
        f"{line}{line_end}" for line in ["image,text", *(f"0.png,{c}" for c in captions)]
    )
    (folder / "t.csv").write_bytes(text.encode(encoding))
    encoding = "cp1252" if encoding == "cp1252" else ""
    sources = readers.find_sources([str(folder / "t.csv")], encoding=encoding)
    assert [source.start for source in sources] == [0, 3, 6, 9]
    assert outcome(folder / "t.csv", encoding=encoding) == captions


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ('"image", "caption"\n"0.png", "a bus, red"\n 1.png, a cat\n', ["a bus, red", "a cat"]),
        ('image, caption\n0.png, "a, b"\n1.png, "a ""c"""\n', ["a, b", 'a "c"']),
        ('image,caption\r0.png,"a red\nbus"\r1.png,a cat\r', ["a red\nbus", "a cat"]),
        (
            "image,caption\n0.png,a bus\n\ufeffimage,caption\n\ufeff1.png,a cat\n",
            ["a bus", "a cat"],
        ),
        ("image,caption\r\r\n0.png,a bus\r\r\n1.png,a cat\r\r\n", ["a bus", "a cat"]),
    ],
    ids=[
        "space before a quote",
        "there in a row",
        "mac lines with a feed in a cell",
        "joined files",
        "two returns",
    ],
)
def test_what_other_programs_write(folder: pathlib.Path, text: str, captions: list[str]) -> None:
    (folder / "t.csv").write_text(text, newline="")
    assert [row for row in outcome(folder / "t.csv") if isinstance(row, str)] == captions


def test_cells_with_line_ends_in_a_tsv(folder: pathlib.Path) -> None:
    captions = ['a red\nbus "x"', "cat", 'say "hi"'] * 2000
    rows = [["image", "caption"], *(["0.png", caption] for caption in captions)]
    with open(folder / "t.tsv", "w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    assert (folder / "t.tsv").stat().st_size > 2**16
    assert outcome(folder / "t.tsv") == captions
    # Quotes that are no quoting stay what they are.
    (folder / "u.tsv").write_text('image\tcaption\n0.png\t"a red\n1.png\tcat\n0.png\tb"\n')
    assert outcome(folder / "u.tsv") == ['"a red', "cat", 'b"']


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_known_by_its_first_line(
    folder: pathlib.Path, encoding: str
) -> None:
    text = "image,caption\n0.png,一只红色的猫坐在垫子上看着窗外的鸟\n"
    (folder / "t.csv").write_bytes(text.encode(encoding))
    assert outcome(folder / "t.csv") == ["一只红色的猫坐在垫子上看着窗外的鸟"]


def test_a_quote_that_is_open_at_the_end_is_said(folder: pathlib.Path) -> None:
    (folder / "t.csv").write_text('image,caption\n1.png,a cat\n0.png,"a bus\n1.png,a dog\n')
    assert outcome(folder / "t.csv") == ["a cat", ("broken_row", "line 3: a quote is not closed")]


def test_paths_of_windows_and_addresses_of_files(folder: pathlib.Path) -> None:
    (folder / "in").mkdir()
    for name in ("in/a.png", "in\\b.png"):
        (folder / name).write_bytes(PICTURE)
    names = (".\\in\\a.png", "in\\b.png", f"file://{folder}/0.png", "..\\a.png", "in\\c.png")
    (folder / "t.csv").write_text("image,text\n" + "".join(f"{n},of {n[-5:]}\n" for n in names))
    captions, rejected = outcome(folder / "t.csv")[:3], outcome(folder / "t.csv")[3:]
    assert captions == [
        "of a.png",
        "of b.png",
        "of 0.png",
    ]  # \\ is in the name of b, if it is there
    assert [reason for reason, _ in rejected] == ["unsafe_name", "missing_image"]


def test_captions_in_lists_of_structs(folder: pathlib.Path) -> None:
    values = (
        '[{"text": "one", "lang": "en"}, {"text": "zwei", "lang": "de"}]',
        '{"id": "7", "caption": "three"}',
        '["", null, "four", " "]',
        '[{"a": "x", "b": "y"}]',
        "[]",
    )
    rows = "".join(f'{{"image": "0.png", "text": {value}}}\n' for value in values)
    (folder / "t.jsonl").write_text(rows)
    first, *_ = found = read(folder / "t.jsonl")
    assert isinstance(first, records.ImageTextPair)
    assert first.metadata == {"captions": ["one", "zwei"]}
    assert [row.text for row in found[:3]] == ["one", "three", "four"]
    why = "column text: a list of 1, not a text; name another with --columns text=NAME"
    assert outcome(folder / "t.jsonl")[3:] == [("broken_caption", why), ("missing_caption", "")]


def test_a_column_of_another_name_is_named_as_the_message_says(folder: pathlib.Path) -> None:
    cells = pa.array([[{"bytes": PICTURE, "path": None}]])
    pq.write_table(pa.table({"images": cells, "text": ["a"]}), folder / "t.parquet")
    with pytest.raises(
        ValueError, match="pictures, paths or URLs.*; name it with --columns image="
    ):
        outcome(folder / "t.parquet")
    assert outcome(folder / "t.parquet", columns={"image": "images"}) == ["a"]


def test_an_encoding_and_a_separator_that_are_named(folder: pathlib.Path) -> None:
    path = folder / "t.csv"
    path.write_bytes(spreadsheet(",").encode("cp1252"))
    why = """not UTF-8; with --encoding=cp1252 it is 'a café, with "two" tables'"""
    assert outcome(path) == [("broken_caption", why), CAPTIONS[1]]
    assert outcome(path, encoding="windows-1252") == CAPTIONS
    path.write_bytes(spreadsheet("^").encode())
    wanted = r"no column is known .*, of image\^caption;.* what is between columns with --separator"
    with pytest.raises(ValueError, match=wanted):
        outcome(path)
    assert outcome(path, separator="^") == CAPTIONS
    path.write_bytes(spreadsheet("\t").encode())
    assert outcome(path, separator="tab") == CAPTIONS
    for options, message in (
        ({"separator": ";;"}, "--separator=;;: give one character between cells, or tab"),
        ({"encoding": "cp99"}, "--encoding=cp99: not known; give cp1252"),
        ({"encoding": "base64"}, "--encoding=base64: not known; give cp1252"),
    ):
        with pytest.raises(ValueError, match=message):
            outcome(path, **options)
    path.write_bytes(b"bild;titel\n0.png;eins\n")
    with pytest.raises(ValueError, match="no column is known to hold captions, of bild, titel;"):
        outcome(path)
    assert outcome(path, columns={"image": "bild", "text": "titel"}) == ["eins"]
    (folder / "t.jsonl").write_bytes('{"image": "0.png", "text": "café"}'.encode("cp1252"))
    ((reason, why),) = outcome(folder / "t.jsonl", columns={"text": "text", "image": "image"})
    assert reason == "broken_row" and "with --encoding=cp1252 it is" in why
    assert outcome(folder / "t.jsonl", encoding="cp1252") == ["café"]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "L’été à la plage"),
        ("cp1251", "Собака бежит по улице"),
        ("gb18030", "一只红色的猫坐在垫子上"),
        ("shift_jis", "猫がマットの上に座っている"),
        ("cp949", "개가 해변에서 달리고 있다"),
        ("big5", "一隻紅色的貓坐在墊子上"),
    ],
)
def test_an_encoding_is_suggested(folder: pathlib.Path, encoding: str, text: str) -> None:
    (folder / "t.csv").write_bytes(f"image,caption\n0.png,{text}\n".encode(encoding))
    ((reason, why),) = outcome(folder / "t.csv")
    assert reason == "broken_caption"
    assert why == f"not UTF-8; with --encoding={encoding} it is {text[:20]!r}"
    assert outcome(folder / "t.csv", encoding=encoding) == [text]
    (folder / "t.csv").write_bytes("题,目,字,图,文\n一,二,三,四,五".encode("utf-16-le"))
    with pytest.raises(ValueError, match="is it UTF-16"):
        outcome(folder / "t.csv")


def test_rows_that_are_shorter_or_longer_than_the_header(folder: pathlib.Path) -> None:
    rows = ["image,caption,license", "0.png,short", "1.png,whole,cc0", "0.png,a, b,cc0", "0.png"]
    (folder / "t.csv").write_text("\n".join([*rows, "0.png,with empty cells,,,,", ""]))
    more = "put quotes around a text that holds a “,”"
    assert outcome(folder / "t.csv") == [
        "short",
        "whole",
        ("broken_row", f"line 4: 4 cells for 3 columns; {more}"),
        ("broken_row", "line 5: 1 cells for 3 columns"),
        "with empty cells",
    ]


@pytest.mark.parametrize("pack", ["", ".gz"])
def test_a_broken_row_names_its_line(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, pack: str
) -> None:
    """Also after rows of several lines, and in every piece of a table."""
    monkeypatch.setattr(source_files, "ROWS_PER_SOURCE", 2)
    lines = ["sep=;", "image;caption", '0.png;"of', 'two lines"', "", "1.png;b;c", *["0.png;d"] * 3]
    data = "\n".join([*lines, "0.png;e;f", '"0.png;g']).encode()
    (folder / f"t.csv{pack}").write_bytes(gzip.compress(data) if pack else data)
    assert len(readers.find_sources([str(folder / f"t.csv{pack}")])) == 4
    more = "3 cells for 2 columns; put quotes around a text that holds a “;”"
    assert outcome(folder / f"t.csv{pack}") == [
        "of\ntwo lines",
        ("broken_row", f"line 6: {more}"),
        *["d"] * 3,
        ("broken_row", f"line 10: {more}"),
        ("broken_row", "line 11: a quote is not closed"),
    ]


def test_tables_of_flickr8k(folder: pathlib.Path) -> None:
    (folder / "Flickr8k.token.txt").write_text("0.png#0\tA child , in pink .\n1.png#1\tA dog .\n")
    assert outcome(folder / "Flickr8k.token.txt") == ["A child , in pink .", "A dog ."]
    (folder / "results.csv").write_text("image_name| comment_number| comment\n0.png| 0| A bus .\n")
    assert outcome(folder / "results.csv") == [" A bus ."]


def test_a_row_has_its_caption_in_the_first_column_that_has_one(folder: pathlib.Path) -> None:
    rows = [
        {"image": "0.png", "caption": "one", "text": "other"},
        {"image": None, "file_name": "0.png", "caption": None, "text": "two", "title": "t"},
        {"url": "", "path": "0.png", "caption": "", "text": "three"},
        {"path": "0.png", "caption": float("nan"), "text": "four"},
        {"path": "0.png", "captions": [None, ""], "title": "five"},
        {"path": "0.png", "caption": "", "text": None},
    ]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read(folder / "t.jsonl")
    assert [row.text for row in found] == ["one", "two", "three", "four", "five", ""]
    assert [row.metadata for row in found] == [
        {"text": "other"},
        {"title": "t"},
        {"url": ""},
        {},
        {},
        {},
    ]
    (folder / "t.csv").write_text("image,caption,text,caption\n0.png,one,,x\n0.png,,two,\n")
    assert outcome(folder / "t.csv") == ["one", "two"]
    assert read(folder / "t.csv")[0].metadata == {"caption.1": "x"}


def save(path: pathlib.Path, columns: Mapping[str, Any] | pa.Table) -> pathlib.Path:
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
    return path


IMAGES = {
    "struct": [{"bytes": PICTURE, "path": "a.png"}],
    "list of one": [[{"bytes": PICTURE, "path": None}]],
    "list of one and nulls": [[None, PICTURE]],
    "list of bytes": pa.array([list(PICTURE)], pa.list_(pa.uint8())),
    "list of signed bytes": pa.array([[b - 256 * (b > 127) for b in PICTURE]], pa.list_(pa.int8())),
    "base64": [base64.b64encode(PICTURE).decode()],
    "base64 in lines": [base64.encodebytes(PICTURE)],
    "base64 of addresses": [base64.urlsafe_b64encode(PICTURE).decode().rstrip("=")],
    "data URL": ["data:image/png;base64," + base64.b64encode(PICTURE).decode()],
    "data URL in percent": ["DATA:image/png," + "".join(f"%{b:02x}" for b in PICTURE)],
    "dictionary": pa.array([PICTURE]).dictionary_encode(),
    "path in bytes": pa.array([{"bytes": None, "path": "0.png"}]),
}


def test_forms_of_images(folder: pathlib.Path) -> None:
    for images in IMAGES.values():
        (row,) = read(save(folder / "t.parquet", {"image": images, "text": ["a"]}))
        assert isinstance(row, records.ImageTextPair) and row.image == PICTURE
    (row,) = read(save(folder / "t.parquet", {"url": IMAGES["data URL"], "text": ["a"]}))
    assert (row.image, row.metadata) == (PICTURE, {})


@pytest.mark.parametrize(
    ("images", "why"),
    [
        ([[PICTURE, PICTURE]], "a list of 2, not a picture"),
        ([{"x": 1, "y": 2}], "a struct of x, y, not a picture"),
        ([17], "int, not a picture"),
        (["data:image/png;base64,%%"], "a data: URL that cannot be decoded"),
        (["x" * 5000], "a text of 5,000 characters, not a path"),
    ],
)
def test_images_that_are_none_name_their_column(
    folder: pathlib.Path, images: list[Any], why: str
) -> None:
    path = save(folder / "t.parquet", {"image": images, "text": ["a"]})
    ((reason, measure),) = outcome(path)
    assert reason == "missing_image" and measure.startswith(f"column image: {why}")
    with_url = {"image": images, "text": ["a"], "url": ["http://127.0.0.1/a"]}
    ((reason, _),) = outcome(save(folder / "t.parquet", with_url))
    assert reason == "fetch_refused"


def test_captions_and_keys_of_other_types(folder: pathlib.Path) -> None:
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)] * 3, pa.binary(16)))
    table = {
        "image": [PICTURE] * 3,
        "text": [{"en": "a", "de": None}, {"en": "a", "de": "b"}, {"en": None, "de": None}],
        "id": ids,
    }
    one, two, none = read(save(folder / "t.parquet", table))
    assert (one.key, one.text) == ("00000000-0000-0000-0000-000000000000", "a")
    assert (two.reason, two.measure) == (
        "broken_caption",
        "column text: a struct of en, de, not a text; name another with --columns text=NAME",
    )
    assert none.reason == "broken_caption"
    table = {"image": [PICTURE], "sentences": [[{"raw": "one", "n": 1}, {"raw": "two", "n": 2}]]}
    (row,) = read(save(folder / "t.parquet", table), columns={"text": "sentences"})
    assert (row.text, row.metadata) == ("one", {"captions": ["one", "two"]})


@pytest.mark.parametrize(
    ("captions", "wanted", "compression"),
    [
        (pa.array(["a", None]), ["a", "missing_caption"], "zstd"),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"], "lz4"),
        (pa.array(["a", "b"], pa.string_view()), ["a", "b"], "brotli"),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"], "gzip"),
        ([["a", "b"], ["c", None]], ["a", "c"], "snappy"),
        ([{"en": "a"}, {"en": "b"}], ["a", "b"], "none"),
    ],
)
def test_types_of_captions_and_compressions(
    folder: pathlib.Path, captions: Any, wanted: list[str], compression: str
) -> None:
    table = pa.table({"image": [PICTURE] * 2, "text": captions, "": ["x", "y"]})
    pq.write_table(table, folder / "t.parquet", compression=compression)
    found = read(folder / "t.parquet")
    assert [getattr(row, "reason", None) or row.text for row in found] == wanted
    assert found[0].metadata[""] == "x"


def test_columns_beside_the_pair_cost_no_pair(folder: pathlib.Path) -> None:
    table = pa.Table.from_arrays(
        [
            pa.array([PICTURE] * 2),
            pa.array(["a", "b"]),
            pa.array(["x", "y"]),
            pa.array([1_577_880_000] * 2, pa.timestamp("s", "Mars/Olympus")),
            pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            pa.array([bytes(2**20), b"small"]),
            pa.array([float("nan"), 1.0]),
        ],
        names=["image", "text", "text", "seen", "tags", "mask", "score"],
    )
    one, two = read(save(folder / "t.parquet", table))
    seen = "2020-01-01T12:00:00+00:00"
    left_out = {"left_out": {"mask": "too large"}}
    assert one.metadata == {
        "text.1": "x",
        "seen": seen,
        "tags": {"k": 1},
        "score": None,
        **left_out,
    }
    assert two.metadata == {"text.1": "y", "seen": seen, "mask": "small", "score": 1.0}


def test_a_damaged_column_beside_the_pair_is_left_out(folder: pathlib.Path) -> None:
    table = pa.table(
        {"image": [PICTURE] * 40, "text": ["a"] * 40, "n": range(40), "more": "m" * 40}
    )
    table = table.set_column(3, "more", pa.array([f"text {n}" for n in range(40)]))
    pq.write_table(table, folder / "t.parquet", compression="none", use_dictionary=False)
    data = bytearray((folder / "t.parquet").read_bytes())
    column = pq.ParquetFile(folder / "t.parquet").metadata.row_group(0).column(3)
    start = column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    (folder / "t.parquet").write_bytes(data)
    found = read(folder / "t.parquet")
    assert [row.metadata["n"] for row in found] == list(range(40))
    assert all(list(row.metadata["left_out"]) == ["more"] for row in found)


def test_texts_that_cannot_be_written_as_they_are(folder: pathlib.Path) -> None:
    lines = [
        r'{"image": "0.png", "text": "half \ud83d a pair", "key": "k\udc00", "n\ud83d": "\ud83d"}',
        r'{"image": "0.png", "text": "t", "a": NaN, "b": [Infinity, -Infinity], "c": 1e999}',
        r'{"image": "0.png", "text": "t", "control": "\u0001\u001b\u0000"}',
        r'{"image": "0.png", "text": "a NUL \u0000"}',
        r'{"image": "0.png", "text": "t", "key": "a\u0000"}',
        r'{"image": "0.png", "text": "t", "large": 1' + "0" * 5000 + "}",
    ]
    (folder / "t.jsonl").write_text("\n".join(lines))
    first, second, third, *rest = read(folder / "t.jsonl")
    assert (first.text, first.key, first.metadata) == (
        "half \ufffd a pair",
        "k\ufffd",
        {"n\ufffd": "\ufffd"},
    )
    assert second.metadata == {"b": [None, None]}
    assert third.metadata == {"control": "\1\x1b\0"}
    assert [row.reason for row in rest] == ["broken_caption", "unsafe_name", "broken_row"]
    (folder / "t.csv").write_text("image,text,n\n0.png,t,1e999\n")
    assert read(folder / "t.csv")[0].metadata == {"n": "1e999"}


def test_a_picture_that_is_not_there_says_where_it_is_looked_for(folder: pathlib.Path) -> None:
    (folder / "captions.txt").write_text("image,caption\n7.png,seven\n")
    ((reason, why),) = outcome(folder / "captions.txt")
    assert reason == "missing_image"
    assert why == "No such file or directory: 7.png; --image_root names another folder"


def test_random_columns_of_parquet(folder: pathlib.Path) -> None:
    """Many columns in few tables: each begins a process."""
    some: list[pa.Array] = [
        pa.array([datetime.timedelta(days=1), None, None], pa.duration("ns")),
        pa.array([[{"a": [("k", 1.5)]}], [], None], pa.list_(pa.struct({"a": DEEP}))),
    ]
    for seed in range(3):
        columns = dict(zip(("duration", "maps"), some)) | draw_columns(seed)
        table = pa.Table.from_arrays(
            [pa.array([PICTURE] * 3), pa.array(["a", "b", "c"]), *columns.values()],
            names=["image", "text", *columns],
        )
        found = read(save(folder / f"{seed}.parquet", table))
        assert [row.text for row in found] == ["a", "b", "c"]
        # Arrow itself writes some lists of a fixed size such that it cannot read them.
        unreadable = [name for name in columns if name.startswith("unreadable")]
        assert all(list(row.metadata.get("left_out", {})) == unreadable for row in found)


DEEP = pa.map_(pa.string(), pa.float64())


def draw_columns(seed: int) -> dict[str, pa.Array]:
    """Returns columns of random types that Parquet can hold."""
    columns = {}

    @hypothesis.seed(seed)
    @settings(max_examples=25, database=None)
    @given(test_arrow_cells.columns())
    def draw(column: pa.Array) -> None:
        sink = pa.BufferOutputStream()
        try:
            pq.write_table(pa.table({"x": column}), sink)
        except (pa.ArrowException, OSError, ValueError):
            return  # Parquet has no such type, or not these values
        try:
            pq.read_table(pa.BufferReader(sink.getvalue()))
            name = "column"
        except (pa.ArrowException, OSError):
            name = "unreadable"
        columns[f"{name}{len(columns)}"] = column

    draw()
    return columns


SEPARATORS = st.sampled_from(",;|\t")
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
CELLS = st.text(st.characters(codec="cp1252", exclude_characters="\r\n\0"), max_size=12)


@settings(FUZZ, max_examples=100)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5),
    separator=SEPARATORS,
    encoding=ENCODINGS,
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    suffix=st.sampled_from([".csv", ".CSV", ".txt", ".csv.gz"]),
)
def test_random_spreadsheets(
    folder: pathlib.Path,
    rows: list[tuple[str, str]],
    separator: str,
    encoding: str,
    line_end: str,
    suffix: str,
) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=separator, lineterminator=line_end)
    writer.writerows([("image", "caption", "note"), *(("0.png", *row) for row in rows)])
    data = buffer.getvalue().encode(encoding)
    path = folder / f"t{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == ".csv.gz" else data)
    found = read(path, encoding="cp1252" if encoding == "cp1252" else "")
    assert [row.text for row in found] == [caption for caption, _ in rows]
    wanted = [{"note": delimited.number(note)} for _, note in rows]
    assert [row.metadata for row in found] == wanted


@settings(FUZZ, max_examples=150)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.text('image,caption;|\t"\r\n 0.png\x00é\ud800#=sep', max_size=200).map(
            lambda text: text.encode("utf-8", "surrogatepass")
        ),
    ),
    begin=st.sampled_from([b"", b"image,caption\n", b"sep=;\n", b"\xff\xfe", b'{"image": "0.png"']),
    suffix=st.sampled_from([".csv", ".tsv", ".txt", ".jsonl"]),
    encoding=st.sampled_from(["", "cp1252", "utf-16", "shift_jis", "utf-7", "gb18030"]),
)
def test_random_texts(
    folder: pathlib.Path, data: bytes, begin: bytes, suffix: str, encoding: str
) -> None:
    (folder / f"r{suffix}").write_bytes(begin + data)
    try:
        read(folder / f"r{suffix}", encoding=encoding)
    except ValueError as error:
        assert str(error).startswith(str(folder)) and "\n" not in str(error)
