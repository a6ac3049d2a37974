# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables of every form become pairs; what is wrong with a row is that row's alone."""

import bz2
import datetime
import decimal
import gzip
import json
import os

import apache_beam as beam
import pyarrow as pa
import pytest
import zstandard
from apache_beam.testing import util
from pyarrow import parquet as pq

from parti.data.storage import records
from parti.pipelines import readers
from parti.pipelines.readers.base import decompression, source_files
from parti.pipelines.readers.tables import delimited
from parti.pipelines.readers.tables import parquet as parquet_lib
from parti.stages import files

PICTURE = b"\x89PNG picture"


def read(path, columns=None, input_format="auto"):
    """Returns the pairs, and the rejected rows by key."""
    found = readers.find_sources([str(path)], input_format, columns)
    rows = [row for source in found for row in readers.read_source(source)]
    pairs = [row for row in rows if isinstance(row, records.ImageTextPair)]
    for pair in pairs:
        assert records.ImageTextPair.from_example(pair.to_example()) == pair
    return pairs, {row.key: row for row in rows if isinstance(row, readers.Rejected)}


def reasons(rejected):
    assert {row.reason for row in rejected.values()} <= set(readers.REASONS)
    return {key: row.reason for key, row in rejected.items()}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "img").mkdir()
    for name in "abc":
        (tmp_path / "img" / f"{name}.png").write_bytes(PICTURE + name.encode())
    return tmp_path


ROWS = [
    ("img/a.png", "an a", "0.31"),
    ("./img/../img/b.png", 'a "b", of\ntwo lines', "x"),
    ("img/none.png", "not there", ""),
]
CSV = (
    "image_path,TEXT,similarity\n"
    "img/a.png,an a,0.31\n\n"
    './img/../img/b.png,"a ""b"", of\ntwo lines",x\n'
    "img/none.png,not there,\n"
)


@pytest.mark.parametrize("pack", ["", ".gz", ".bz2", ".zst"])
def test_csv_with_paths(folder, pack):
    packs = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}
    path = folder / f"t.csv{pack}"
    path.write_bytes(packs.get(pack, bytes)(("\ufeff" + CSV).encode()))
    pairs, rejected = read(path)
    assert [(p.key, p.image, p.text, p.metadata) for p in pairs] == [
        ("t#0", PICTURE + b"a", "an a", {"similarity": 0.31}),
        ("t#1", PICTURE + b"b", 'a "b", of\ntwo lines', {"similarity": "x"}),
    ]
    assert reasons(rejected) == {"t#2": "missing_image"}
    assert pairs[0].source == path.name


def test_tsv_has_a_row_in_each_line(folder):
    (folder / "t.tsv").write_bytes(
        b'url\tcaption\tpath\r\n\t"said ""a"""\timg/a.png\r\n'
        b'\t"open \timg/b.png\r\n\t5" wide\timg/c.png\r\nonly one\r\n'
    )
    pairs, rejected = read(folder / "t.tsv")
    assert [p.text for p in pairs] == ['said "a"', '"open ', '5" wide']
    assert reasons(rejected) == {"t#3": "broken_row"}
    assert rejected["t#3"].measure == "line 5: 1 cells for 3 columns"


def test_jsonl(folder):
    lines = [
        {"file_name": "img/a.png", "text": "an a", "n": {"deep": [1, None]}, "id": 7},
        {"file_name": "img/b.png", "captions": ["first", "second"]},
        {"file_name": "img/c.png"},
        {"file_name": "img/c.png", "text": 5},
        {"text": "no picture"},
    ]
    text = "\n".join(map(json.dumps, lines)) + "\n[1]\nnonsense\n" + "[" * 100_000 + "\n"
    (folder / "metadata.jsonl").write_text(text)
    pairs, rejected = read(folder)  # the table in a folder of pictures is found
    assert [(p.key, p.text, p.metadata) for p in pairs] == [
        ("7", "an a", {"n": {"deep": [1, None]}}),
        ("metadata#1", "first", {"captions": ["first", "second"]}),
    ]
    assert reasons(rejected) == {
        "metadata#2": "missing_caption",
        "metadata#3": "broken_caption",
        "metadata#4": "missing_image",
        "metadata#5": "broken_row",
        "metadata#6": "broken_row",
        "metadata#7": "broken_row",
    }


def test_a_table_without_a_header(folder):
    (folder / "cc3m.tsv").write_text("a cat\thttp://127.0.0.1/a.png\n")
    (source,) = readers.find_sources([str(folder / "cc3m.tsv")])
    assert dict(source.columns) == {"text": "#1", "url": "#2"}
    (row,) = readers.read_source(source)
    assert (row.text, row.reason) == ("a cat", "fetch_refused")
    (folder / "t.csv").write_text("img/a.png,x,an a\nimg/b.png,y,a b\n")
    pairs, _ = read(folder / "t.csv", {"image": "#1", "text": "#3"})
    assert [(p.text, p.metadata) for p in pairs] == [("an a", {"#2": "x"}), ("a b", {"#2": "y"})]


@pytest.mark.parametrize(
    ("root", "path", "reason"),
    [
        ("{folder}/img", "a.png", None),
        ("{folder}/img", "{folder}/img/a.png", None),
        ("{folder}/img", "../up.png", "unsafe_name"),
        ("{folder}/img", "{folder}/up.png", "unsafe_name"),
        ("/", "{folder}/img/a.png", None),
        ("", "{folder}/img/a.png", "unsafe_name"),
    ],
)
def test_paths_may_lead_to_another_folder_that_is_named(folder, tmp_path, root, path, reason):
    (tmp_path / "elsewhere").mkdir()
    table = tmp_path / "elsewhere" / "t.jsonl"
    table.write_text(json.dumps({"image": path.format(folder=folder), "text": "an a"}))
    (source,) = readers.find_sources([str(table)], image_root=root.format(folder=folder))
    (row,) = readers.read_source(source)
    if reason is None:
        assert row.image == (folder / "img" / "a.png").read_bytes()
    else:
        assert row.reason == reason and "--image_root names the folder" in row.measure


def test_a_missing_image_root_is_reported(folder):
    (folder / "t.jsonl").write_text("{}\n")
    with pytest.raises(FileNotFoundError, match="--image_root=/none/such: no such folder"):
        readers.find_sources([str(folder / "t.jsonl")], image_root="/none/such")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../up.png", "unsafe_name"),
        ("img/../../up.png", "unsafe_name"),
        ("/etc/passwd", "unsafe_name"),
        ("file:///etc/passwd", "unsafe_name"),
        ("gs://bucket/x.png", "unsafe_name"),
        ("img/a\0.png", "unsafe_name"),
        ("img", "not_a_file"),
        ("pipe", "not_a_file"),
        ("img/" + "x" * 5000, "missing_image"),
        ("{inside}/img/a.png", None),
    ],
)
def test_paths_stay_in_the_folder_of_the_table(folder, path, reason):
    (folder / "t").mkdir()
    inside = folder / "t"
    (folder / "img").rename(inside / "img")
    (folder / "up.png").write_bytes(PICTURE)
    os.mkfifo(inside / "pipe")
    row = {"image": path.replace("{inside}", str(inside)), "text": "t"}
    (inside / "t.jsonl").write_text(json.dumps(row))
    pairs, rejected = read(inside / "t.jsonl")
    assert [row.reason for row in rejected.values()] == ([reason] if reason else [])
    assert len(pairs) == (0 if reason else 1)


def parquet(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_parquet_with_pictures(tmp_path):
    path = parquet(
        tmp_path / "t.parquet",
        {
            "image": [{"bytes": PICTURE, "path": "a.png"}, {"bytes": None, "path": "b.png"}, None],
            "caption": ["an a", "a b", "none"],
            "when": pa.array([1, 2, None], pa.timestamp("ns")),
            "day": [datetime.date(2020, 1, 2)] * 3,
            "cost": [decimal.Decimal("1.50")] * 3,
            "raw": [b"\xff\x00", b"text", None],
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "score": [float("nan"), 0.5, None],
            "list": [[1, 2], [], None],
        },
    )
    (tmp_path / "b.png").write_bytes(PICTURE + b"b")
    pairs, rejected = read(path)
    assert [(p.key, p.image, p.text) for p in pairs] == [
        ("t#0", PICTURE, "an a"),
        ("t#1", PICTURE + b"b", "a b"),
    ]
    assert pairs[0].metadata == {
        "when": "1970-01-01T00:00:00",
        "day": "2020-01-02",
        "cost": "1.50",
        "raw": "/wA=",
        "kind": "x",
        "score": None,
        "list": [1, 2],
    }
    assert pairs[1].metadata["raw"] == "text"
    assert reasons(rejected) == {"t#2": "missing_image"}


LAION = {
    "SAMPLE_ID": [1.0, None],
    "URL": ["http://127.0.0.1/a", "http://127.0.0.1/b"],
    "TEXT": ["one", "two"],
    "HEIGHT": [5, 6],
    "WIDTH": [7, 8],
    "LICENSE": ["?", "?"],
    "NSFW": ["UNLIKELY", "NSFW"],
    "similarity": [0.3, 0.4],
}
COYO = {
    "id": [12, 13],
    "url": ["http://127.0.0.1/a", "http://127.0.0.1/b"],
    "text": ["one", "two"],
    "width": [7, 8],
    "image_phash": ["ab", "cd"],
    "clip_similarity_vitb32": [0.3, 0.4],
    "watermark_score": [0.1, 0.2],
}
IMG2DATASET = {
    "url": ["http://127.0.0.1/a", "http://127.0.0.1/b"],
    "caption": ["one", "two"],
    "key": ["000000000", "000000001"],
    "status": ["success", "success"],
    "sha256": ["0", "1"],
}


@pytest.mark.parametrize(
    ("table", "keys"),
    [(LAION, ["1", "t#1"]), (COYO, ["12", "13"]), (IMG2DATASET, ["000000000", "000000001"])],
    ids=["laion", "coyo", "img2dataset"],
)
def test_columns_of_published_tables(tmp_path, table, keys):
    _, rejected = read(parquet(tmp_path / "t.parquet", table))
    assert [(row.key, row.text, row.reason) for row in rejected.values()] == [
        (keys[0], "one", "fetch_refused"),  # 127.0.0.1 is a private address
        (keys[1], "two", "fetch_refused"),
    ]
    assert rejected[keys[0]].measure.endswith(": http://127.0.0.1/a")  # to be found again
    pictures = {**table, "jpg": [PICTURE, PICTURE]}
    pairs, _ = read(parquet(tmp_path / "t.parquet", pictures))
    gone = {"caption", "text", "TEXT", "key", "id", "SAMPLE_ID"}
    assert list(pairs[0].metadata) == [name for name in table if name not in gone]


def test_columns_by_choice(tmp_path):
    table = {"a": [PICTURE], "b": ["words"], "text": ["other"], "c": ["name"]}
    path = parquet(tmp_path / "t.parquet", table)
    pairs, _ = read(path, {"image": "a", "text": "b", "key": "c"})
    assert [(p.key, p.text, p.metadata) for p in pairs] == [("name", "words", {"text": "other"})]
    for columns, message in (
        (
            {"text": "b"},
            "no column is known to hold pictures, paths or URLs, of a, b, text, c;",
        ),
        ({"text": "d"}, "--columns text=d: .*t.parquet has only the columns a, b, text, c"),
        ({"words": "b"}, "--columns words=b: choose from image, url, text, key"),
        ({"text": ""}, "--columns text=: give the name of a column"),
    ):
        with pytest.raises(ValueError, match=message):
            readers.find_sources([str(path)], columns=columns)
    with pytest.raises(ValueError, match="choose from image, url, text, key"):
        readers.check_columns({"words": "b"})


def pieces(found):
    return [(source.start, source.stop) for source in found]


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(source_files, "ROWS_PER_SOURCE", 10)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "csv.gz", "jsonl.zst"])
def test_text_is_read_in_pieces(folder, suffix, small_pieces, monkeypatch):
    monkeypatch.setattr(source_files, "MAX_PIECES_WITHIN", 2)
    text = ["image_path,text\n"]
    text += [f'img/a.png,"row {i}{chr(10) * (i % 3)}"\n' + "\n" * (i % 2) for i in range(35)]
    if suffix.startswith("tsv"):
        text = ["image_path\ttext\n", *[f"img/a.png\trow {i}\n" for i in range(35)]]
    if suffix.startswith("jsonl"):
        text = [json.dumps({"image": "img/a.png", "text": f"row {i}"}) + "\n" for i in range(35)]
    data = "".join(text).encode()
    packs = {".gz": gzip.compress, "zst": zstandard.compress}
    (folder / f"t.{suffix}").write_bytes(packs.get(suffix[-3:], bytes)(data))
    found = readers.find_sources([str(folder / f"t.{suffix}")])
    if suffix.endswith(("gz", "zst")):
        assert pieces(found) == [(0, 20), (20, -1)]
    else:
        assert pieces(found) == [(0, 10), (10, 20), (20, 30), (30, -1)]
    assert sum(source.num_rows for source in found) == 35
    assert 0 < sum(s.num_bytes for s in found) <= (folder / f"t.{suffix}").stat().st_size
    rows = [row for source in found for row in readers.read_source(source)]
    assert [row.key for row in rows] == [f"t#{i}" for i in range(35)]
    assert [row.text.strip() for row in rows] == [f"row {i}" for i in range(35)]


def test_a_row_that_begins_as_a_compressed_file_does(folder, small_pieces):
    rows = [f"BZh{i},img/a.png,row {i}\n" for i in range(25)]
    (folder / "t.csv").write_text("key,image_path,text\n" + "".join(rows))
    pairs, rejected = read(folder / "t.csv")
    assert [pair.key for pair in pairs] == [f"BZh{i}" for i in range(25)] and rejected == {}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "csv.gz", "parquet"])
def test_the_rows_of_a_small_table_are_known(folder, suffix):
    table = {"image": ["a.png"] * 8, "text": ["t"] * 8}
    text = "image,text\n" + "a.png,t\n" * 8
    if suffix == "jsonl":
        text = '{"image": "a.png", "text": "t"}\n' * 8
    data = text.replace("," if suffix == "tsv" else "\0", "\t").encode()
    path = folder / f"t.{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == "csv.gz" else data)
    if suffix == "parquet":
        parquet(path, table)
    (source,) = readers.find_sources([str(path)])
    assert source.num_rows == 8


def test_parquet_is_read_in_pieces(tmp_path, small_pieces, monkeypatch):
    monkeypatch.setattr(source_files, "MAX_PIECES_WITHIN", 3)
    table = {"image": [PICTURE] * 40, "text": [f"row {i}" for i in range(40)]}
    path = parquet(tmp_path / "t.parquet", table, row_group_size=4)
    assert pieces(readers.find_sources([str(path)]))[:2] == [(0, 8), (8, 16)]
    assert [p.text for p in read(path)[0]] == table["text"]
    path = parquet(tmp_path / "t.parquet", table)
    found = readers.find_sources([str(path)])
    assert pieces(found) == [(0, 14), (14, 28), (28, 40)]
    assert [p.text for p in read(path)[0]] == table["text"]


@pytest.mark.parametrize(
    ("counts", "stops"),
    [
        ([], []),
        ([0], []),
        ([4, 4, 4], [8, 12]),
        ([10, 10], [10, 20]),
        ([4, 25, 4], [4, 14, 24, 33]),
        ([1000], list(range(16, 1001, 16)) + [1000]),
    ],
)
def test_stops(counts, stops, small_pieces):
    assert parquet_lib._stops(counts) == stops


def test_a_row_too_large_is_one_row(folder, monkeypatch):
    monkeypatch.setattr(delimited, "MAX_ROW_BYTES", 1000)
    long = "x" * 5000
    (folder / "t.csv").write_text(
        f"image_path,text\nimg/a.png,one\nimg/a.png,{long}\nimg/a.png,two\n"
        f'img/a.png,"{long}\n{long}\n{long}"\nimg/a.png,three\n'
    )
    pairs, rejected = read(folder / "t.csv")
    assert [p.text for p in pairs] == ["one", "two", "three"]
    assert "row_too_large" in reasons(rejected).values()
    assert set(reasons(rejected).values()) <= {"row_too_large", "broken_row"}


def test_a_quote_that_is_not_closed_costs_few_rows(folder):
    rows = [f"img/a.png,row {i}\n" for i in range(1000)]
    rows[10] = 'img/a.png,"row 10\n'
    (folder / "t.csv").write_text("image_path,text\n" + "".join(rows))
    pairs, rejected = read(folder / "t.csv")
    assert len(pairs) >= 1000 - delimited.MAX_LINES - 2
    assert pairs[-1].text == "row 999"
    assert [(r.reason, r.measure) for r in rejected.values()] == [
        ("row_too_large", "line 12: over 256 lines; is a quote not closed?")
    ]


def test_text_that_is_not_utf8_or_has_a_nul(folder):
    (folder / "t.csv").write_bytes(
        b"image_path,text,n\nimg/a.png,caf\xe9,1\nimg/b.png,b\0b,1\nimg/c.png,c,caf\xe9\n"
    )
    pairs, rejected = read(folder / "t.csv")
    assert [(p.text, p.metadata) for p in pairs] == [("c", {"n": "caf\ufffd"})]
    assert reasons(rejected) == {"t#0": "broken_caption", "t#1": "broken_caption"}
    bad = pa.Array.from_buffers(
        pa.string(),
        3,
        [None, pa.py_buffer(b"\0\0\0\0\4\0\0\0\5\0\0\0\6\0\0\0"), pa.py_buffer(b"caf\xe9bc")],
    )
    pairs, rejected = read(parquet(folder / "t.parquet", {"jpg": [PICTURE] * 3, "text": bad}))
    assert [p.text for p in pairs] == ["b", "c"]
    assert reasons(rejected) == {"t#0": "broken_caption"}


def test_long_captions_and_metadata(folder):
    rows = [
        {"image": "img/a.png", "text": "x" * 70_000},
        {"image": "img/a.png", "text": "x", "more": "y" * 1_100_000},
        {"image": "img/a.png", "text": "x" * 10_000_000},
        {"image": "img/a.png", "text": "x" * 60_000},
        {"image": "img/a.png", "text": "x", "key": "k" * 2000},
    ]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs, rejected = read(folder / "t.jsonl")
    assert [(p.key, p.metadata) for p in pairs] == [
        ("t#1", {"left_out": {"more": "too large"}}),
        ("t#3", {}),
    ]
    found = reasons(rejected)
    assert list(found.values()) == ["caption_too_long", "row_too_large", "unsafe_name"]
    assert all(len(row.to_json()) < 2000 for row in rejected.values())


def test_damaged_tables_give_what_comes_before(folder):
    text = "image_path,text\n" + "".join(f"img/a.png,row {i}\n" for i in range(20_000))
    data = gzip.compress(text.encode())
    (folder / "t.csv.gz").write_bytes(data[: len(data) // 2])
    pairs, rejected = read(folder / "t.csv.gz")
    assert 5000 < len(pairs) < 20_000
    assert reasons(rejected) == {"t.csv.gz": "broken_file"}
    (folder / "u.csv.gz").write_bytes(b"\x1f\x8bnonsense")
    assert reasons(read(folder / "u.csv.gz")[1]) == {"u.csv.gz": "broken_file"}


def test_a_compressed_bomb_ends(folder, monkeypatch):
    monkeypatch.setattr(decompression, "FREE_BYTES", 2**20)
    data = b"image_path,text\nimg/a.png,one\n" + (b" " * 2**19 + b"\n") * 200
    (folder / "t.csv.gz").write_bytes(gzip.compress(data))
    pairs, rejected = read(folder / "t.csv.gz")
    assert [p.text for p in pairs] == ["one"]
    assert "decompression bomb" in rejected["t.csv.gz"].measure


def test_damaged_parquet(tmp_path):
    table = {"image": [os.urandom(1000) for _ in range(300)], "text": [f"{i}" for i in range(300)]}
    path = parquet(tmp_path / "t.parquet", table, row_group_size=100, compression="none")
    data = bytearray(path.read_bytes())
    for damaged in (data[:-100], b"PAR1" + bytes(100) + b"PAR1", b""):
        path.write_bytes(damaged)
        pairs, rejected = read(path)
        assert pairs == [] and reasons(rejected) == {"t.parquet": "broken_file"}
        assert rejected["t.parquet"].measure
    place = len(data) // 2
    data[place : place + 2000] = b"\xff" * 2000
    path.write_bytes(data)
    pairs, rejected = read(path)
    assert 100 <= len(pairs) <= 300


def test_pieces_of_a_damaged_parquet_say_where_it_is_damaged(tmp_path, small_pieces):
    table = {"image": [os.urandom(1000) for _ in range(60)], "text": [f"{i}" for i in range(60)]}
    path = parquet(tmp_path / "t.parquet", table, row_group_size=30, compression="none")
    data = bytearray(path.read_bytes())
    data[1000:3000] = b"\xff" * 2000  # of the first row group
    path.write_bytes(data)
    found = [list(readers.read_source(s)) for s in readers.find_sources([str(path)])]
    bad = [row for piece in found for row in piece if isinstance(row, readers.Rejected)]
    assert {row.source for row in bad} == {"t.parquet"}
    assert len({row.measure for row in bad}) == len(bad) == 3  # one for each piece
    assert bad[1].measure.startswith("from row 10 on: ")
    assert sum(map(len, found)) == 30 + 3


GOOD_TABLE = b"image_path,text\nimg/a.png,one\n"


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("bad.csv", bytes(100) + GOOD_TABLE, "its first row is not the names of columns"),
        ("bad.csv", GOOD_TABLE[:8], "no column is known to hold captions, of image_pa;"),
        ("bad.jsonl", b'{"image": "img/a.png"}\n', "no column is known to hold captions, of image"),
        ("bad.parquet", None, "no column is known to hold captions, of image;"),
    ],
)
def test_a_bad_table_does_not_stop_a_good_one(folder, name, data, why):
    path = folder / name
    path.write_bytes(data) if data else parquet(path, {"image": ["img/a.png"]})
    (folder / "good.csv").write_bytes(GOOD_TABLE)
    found = readers.find_sources([str(path), str(folder / "good.csv")])
    bad, good = [row for source in found for row in readers.read_source(source)]
    assert good.text == "one"
    assert (bad.key, bad.reason, bad.source) == (name, "broken_file", name)
    assert bad.measure.startswith(why) and str(folder) not in bad.measure
    (folder / "good.csv").unlink()
    with pytest.raises(ValueError, match=f"{path}: {why}"):  # it may be a mistake of the user's
        readers.find_sources([str(folder / "*.*")], path.suffix[1:])


def test_a_column_by_choice_that_some_tables_lack(folder):
    (folder / "a.csv").write_text("image_path,mine\nimg/a.png,one\n")
    (folder / "b.csv").write_text("image_path,other\nimg/a.png,one\n")
    found = readers.find_sources([str(folder / "*.csv")], columns={"text": "mine"})
    good, bad = [row for source in found for row in readers.read_source(source)]
    assert good.text == "one"
    assert bad.measure == "--columns text=mine: b.csv has only the columns image_path, other"
    with pytest.raises(ValueError, match=f"--columns text=x: {folder}/a.csv has only"):
        readers.find_sources([str(folder / "*.csv")], columns={"text": "x"})


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_table_that_cannot_be_opened_does_not_stop_a_good_one(folder, suffix, monkeypatch):
    for name in ("bad", "good"):
        path = folder / f"{name}.{suffix}"
        path.write_bytes(GOOD_TABLE)
        if suffix == "parquet":
            parquet(path, {"image_path": ["img/a.png"], "text": ["one"]})
    real = files.open

    def refuse(path, *args, **options):
        if "bad." in str(path):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **options)

    monkeypatch.setattr(files, "open", refuse)
    pairs, rejected = read(folder / f"*.{suffix}")
    assert [pair.text for pair in pairs] == ["one"]
    assert reasons(rejected) == {f"bad.{suffix}": "broken_file"}
    assert rejected[f"bad.{suffix}"].measure == "Permission denied"


def test_the_first_rows_of_a_jsonl_are_looked_at_together(folder):
    lines = [{"image": "img/a.png"}, {"note": 1}, {"image": "img/b.png", "text": "a b"}]
    (folder / "t.jsonl").write_text("nonsense\n" + "\n".join(map(json.dumps, lines)))
    pairs, rejected = read(folder / "t.jsonl")
    assert [pair.text for pair in pairs] == ["a b"]
    assert list(reasons(rejected).values()) == ["broken_row", "missing_caption", "missing_image"]
    (folder / "u.jsonl").write_text('{"image": "img/a.png"}\n' * 100 + '{"text": "t"}')
    with pytest.raises(ValueError, match="no column is known to hold captions, of image;"):
        readers.find_sources([str(folder / "u.jsonl")])


def test_a_jsonl_that_is_cut_off_gives_what_comes_before(folder):
    line = json.dumps({"image": "img/a.png", "text": "t", "n": os.urandom(999).hex()}) + "\n"
    data = gzip.compress(line.encode() * 20)
    (folder / "t.jsonl.gz").write_bytes(data[:-8])  # without its check sum
    pairs, rejected = read(folder / "t.jsonl.gz")
    assert len(pairs) == 20 and reasons(rejected) == {"t.jsonl.gz": "broken_file"}
    assert rejected["t.jsonl.gz"].measure.startswith("from row 20 on: ")


def test_a_parquet_bomb_is_one_rejected_row(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_lib, "MEMORY_BYTES", 200 * 2**20)
    table = {"image": [bytes(300 * 2**20)], "text": ["t"]}
    parquet(tmp_path / "t.parquet", table, compression="zstd", write_statistics=False)
    assert (tmp_path / "t.parquet").stat().st_size < 200_000
    pairs, rejected = read(tmp_path / "t.parquet")
    assert pairs == [] and reasons(rejected) == {"t.parquet": "broken_file"}
    assert "memory" in rejected["t.parquet"].measure


def test_a_parquet_row_too_large(tmp_path):
    images = [b"x" * n for n in (10, 80 * 2**20, 10)]
    path = parquet(tmp_path / "t.parquet", {"image": images, "text": ["a", "b", "c"]})
    pairs, rejected = read(path)
    assert [p.text for p in pairs] == ["a", "c"]
    assert list(reasons(rejected).values()) == ["row_too_large"]


def test_an_idle_decoder_is_given_up(tmp_path, monkeypatch):
    path = parquet(tmp_path / "t.parquet", {"image": [PICTURE], "text": ["a"]})
    (source,) = readers.find_sources([str(path)])
    monkeypatch.setattr(parquet_lib, "TIMEOUT", 0.0)
    (row,) = readers.read_source(source)
    assert (row.reason, row.measure) == ("broken_file", "decoding took over 0 seconds")


def test_formats_are_told_apart(tmp_path):
    for names, wanted in (
        (["a.tar", "a.parquet", "a_stats.json"], "webdataset"),
        (["train.tfrecord", "rejected-00000.jsonl"], "tfrecord"),
        (["a.jpg", "a.txt", "list.csv"], "folder"),
        (["a.jpg", "metadata.csv"], "csv"),
        (["a.jpg"], "folder"),
        (["a.jsonl.gz"], "jsonl"),
        (["_part.tar", ".x.tar", "a.tsv"], "tsv"),
    ):
        for path in tmp_path.iterdir():
            path.unlink()
        for name in names:
            (tmp_path / name).write_bytes(b"")
        assert readers.detect_format(str(tmp_path)) == wanted


def test_same_names_in_different_folders_have_different_keys(folder):
    for name in ("x", "y"):
        (folder / name).mkdir()
        (folder / name / "t.jsonl").write_text('{"image": "a.png", "text": "t"}')
        (folder / name / "a.png").write_bytes(PICTURE)
    pairs, _ = read(folder / "*" / "t.jsonl")
    assert [p.key for p in pairs] == ["x/t#0", "y/t#0"]


def test_the_beam_transform(folder):
    (folder / "t.csv").write_text(CSV)
    with beam.Pipeline() as root:
        found = root | readers.ReadPairs(readers.find_sources([str(folder / "t.csv")]))
        util.assert_that(
            found.pairs | beam.Map(lambda pair: pair.key), util.equal_to(["t#0", "t#1"])
        )
        util.assert_that(
            found.rejected | "Keys" >> beam.Map(lambda row: row.reason),
            util.equal_to(["missing_image"]),
            "rejected",
        )


def test_numbers_in_text():
    cells = ("1", "-0.5", "1e3", "007", "1.", "", "nan", "1" * 30)
    numbers = [1, -0.5, 1000.0, "007", "1.", "", "nan", "1" * 30]
    assert [delimited.number(cell) for cell in cells] == numbers


def test_empty_tables(folder):
    for name in ("t.csv", "t.jsonl", "t.tsv"):
        (folder / name).write_bytes(b"")
        assert readers.find_sources([str(folder / name)]) == []
    (folder / "t.csv").write_text("image,text\n")
    assert read(folder / "t.csv") == ([], {})
