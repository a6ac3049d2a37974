# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Hostile and damaged files: each ends in rejected rows, never in an exception, hang or escape."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import struct
import tarfile
import time
import tracemalloc

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from parti.data.storage import records, tfrecords
from parti.pipelines import readers
from parti.pipelines.readers.archives import tfrecord_files
from parti.pipelines.readers.base import decompression, rows, source_files
from parti.pipelines.readers.tables import column_roles, delimited, parquet

PICTURE = b"\x89PNG picture"
FUZZ = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def checked(found):
    """Returns the rows, each of which can be written and has a known reason."""
    found = list(found)
    for row in found:
        if isinstance(row, readers.Rejected):
            assert row.reason in readers.REASONS
            assert len(row.to_json().encode("utf-8")) < 20_000
        else:
            assert records.ImageTextPair.from_example(row.to_example()).key == row.key
            assert len(row.text.encode()) <= rows.MAX_CAPTION_BYTES
    return found


def reasons(found):
    return {row.key: getattr(row, "reason", "pair") for row in checked(found)}


def member(name, data=b"", kind=tarfile.REGTYPE, size=None, **fields):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data) if size is None else size
    for field, value in fields.items():
        setattr(info, field, value)
    padding = -len(data) % 512
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(padding)


def tar(*members, end=bytes(1024)):
    return b"".join(members) + end


GOOD = (member("good.png", PICTURE), member("good.txt", b"words"))


def read_tar(data):
    return readers.read_tar(io.BytesIO(data), "x.tar")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../a.png", "unsafe_name"),
        ("d/../../a.png", "unsafe_name"),
        ("/etc/a.png", "unsafe_name"),
        ("k" * 2000 + ".png", "unsafe_name"),
        ("d/../a.png", "missing_caption"),
        ("\u202e\udcff.png", "missing_caption"),
    ],
)
def test_names_in_a_tar(name, reason):
    found = checked(read_tar(tar(member(name, PICTURE), *GOOD)))
    assert [getattr(row, "reason", "pair") for row in found] == [reason, "pair"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar(kind):
    link = member("a.png", kind=kind, linkname="/etc/passwd")
    found = reasons(read_tar(tar(link, member("a.txt", b"words"), *GOOD)))
    assert found == {"a": "not_a_file", "good": "pair"}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"x" * 10_000_000, "caption_too_long"),
        ("a.txt", b"a\0b", "broken_caption"),
        ("a.txt", b"\xff\xfe\x00", "broken_caption"),
        ("a.json", b"{" + b" " * 2_000_000 + b"}", "metadata_too_large"),
        ("a.json", b'{"caption": "' + b"x" * 100_000 + b'"}', "caption_too_long"),
        ("a.json", b"[" * 500_000, "broken_metadata"),
        ("a.json", b'{"caption": ' + b"9" * 5000 + b"}", "broken_metadata"),
        ("a.json", b'{"caption": "\\ud800"}', "pair"),
        ("a.json", b'{"caption": "a", "captions": [1, "b", "\\u0000"]}', "pair"),
        ("a.json", b'{"caption": "a", "captions": {}}', "pair"),
    ],
)
def test_texts_in_a_tar(name, data, reason):
    assert reasons(read_tar(tar(member("a.png", PICTURE), member(name, data), *GOOD))) == {
        "a": reason,
        "good": "pair",
    }


def test_the_same_key_twice():
    found = checked(read_tar(tar(*GOOD, *GOOD, member("good.txt", b"other"))))
    assert [getattr(row, "reason", "pair") for row in found] == ["pair", "pair", "missing_image"]


def negative():
    data = bytearray(member("a.png", b""))
    data[124:136] = b"\xff" * 12  # the size, as a number of two's complement
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        member("x", kind=tarfile.XHDTYPE, size=10**9) + bytes(10**6),
        member("x", kind=tarfile.GNUTYPE_LONGNAME, size=10**9) + bytes(10**6),
        member("x", b"9" * 8_000, kind=tarfile.XHDTYPE) * 5,
        member("x", b"12 a=b\n\n\n\n\n\n", kind=tarfile.XHDTYPE) * 5000,
        member("x", b"30 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n", kind=tarfile.XHDTYPE)
        + member("x.png", b"9" * 512 * 200),
        member("a.png", b"x", kind=tarfile.GNUTYPE_SPARSE),
        negative(),
        member("a.png", size=2**60),
        b"\0" * 512 + b"\1" * 512,
        os.urandom(5000),
    ],
    ids=range(10),
)
def test_headers_of_a_tar_that_ask_too_much(data):
    start = time.monotonic()
    found = checked(read_tar(tar(*GOOD, data)))
    assert [getattr(row, "reason", "pair") for row in found][0] == "pair"
    assert {getattr(row, "reason", "pair") for row in found[1:]} <= {
        "broken_file",
        "member_too_large",
        "missing_caption",
    }
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_tar_that_inflates(pack, monkeypatch):
    monkeypatch.setattr(decompression, "FREE_BYTES", 2**20)
    data = pack(tar(*GOOD, member("a.png", bytes(40 * 2**20)), member("b.png", PICTURE)))
    found = checked(read_tar(data))
    assert [getattr(row, "reason", "pair") for row in found][0] == "pair"
    assert found[-1].reason == "broken_file" and "decompression bomb" in found[-1].measure


def record(data):
    head = struct.pack("<Q", len(data))
    crc = [struct.pack("<I", tfrecords._masked(part)) for part in (head, data)]
    return head + crc[0] + data + crc[1]


def read_tfrecord(data):
    return tfrecord_files.read_tfrecord(io.BytesIO(data), "x.tfrecord")


def test_a_tfrecord_that_claims_too_much():
    head = struct.pack("<Q", 2**50)
    data = record(records.ImageTextPair("k", PICTURE, "t").to_example())
    claim = head + struct.pack("<I", tfrecords._masked(head))
    found = reasons(read_tfrecord(data + claim + b"x" * 100))
    assert found == {"k": "pair", "x.tfrecord": "broken_file"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text": "x" * 100_000}, "caption_too_long"),
        ({"text": "a\0b"}, "broken_caption"),
        ({"key": "k" * 3000}, "unsafe_name"),
        ({"metadata": {"x": "y" * 20_000_000}}, "not_a_pair"),
    ],
)
def test_texts_in_a_tfrecord(changes, reason):
    values = {"key": "k", "image": PICTURE, "text": "t", **changes}
    (row,) = checked(read_tfrecord(record(records.ImageTextPair(**values).to_example())))
    assert row.reason == reason


def test_json_in_a_tfrecord_that_python_takes_and_json_does_not():
    pair = records.ImageTextPair("k", PICTURE, "t", metadata={"a": "NAN"})
    for value, wanted in ((b"NaN  ", None), (b"-1e99", -1e99)):
        (row,) = checked(read_tfrecord(record(pair.to_example().replace(b'"NAN"', value))))
        assert row.metadata == {"a": wanted}
    deep = b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    data = records.ImageTextPair("k", PICTURE, "t", source="s" * len(deep)).to_example()
    data = data.replace(b"s" * len(deep), deep).replace(b"source", b"xource")
    data = data.replace(b"metadata", b"xetadata").replace(b"xource", b"metadata")
    (row,) = checked(read_tfrecord(record(data)))
    assert row.reason == "not_a_pair"


def damage(data, changes):
    """Returns the data with stretches replaced, cut out or cut off."""
    data = bytearray(data)
    for place, length, new in changes:
        at = place % (len(data) + 1)
        data[at : at + length] = new
    return bytes(data)


changes = st.lists(
    st.tuples(st.integers(0, 2**20), st.integers(0, 700), st.binary(max_size=12)), max_size=6
)
names = st.one_of(
    st.text(max_size=12), st.sampled_from(["a", "../b", "/c", "d/../../e", "f\0g", "x" * 300])
)
suffixes = st.sampled_from([".png", ".txt", ".json", ".TXT", ".webp", ""])
texts = st.one_of(st.binary(max_size=50), st.just(b'{"caption": "c"}'), st.text().map(str.encode))


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, suffix, data in members:
            info = tarfile.TarInfo(name.replace("\udfff", "") + suffix)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@FUZZ
@given(st.lists(st.tuples(names, suffixes, texts), max_size=8), changes, st.booleans())
def test_fuzz_tar(members, changes, packed):
    data = tar_of(members)
    data = damage(gzip.compress(data) if packed else data, changes)
    for row in checked(read_tar(data)):
        if isinstance(row, records.ImageTextPair):
            assert not row.key.startswith("/") and ".." not in row.key.split("/")


PAIRS = b"".join(
    record(records.ImageTextPair(f"k{i}", PICTURE, "text", metadata={"n": [i]}).to_example())
    for i in range(4)
)


@FUZZ
@given(changes)
def test_fuzz_tfrecord(changes):
    checked(read_tfrecord(damage(PAIRS, changes)))


@FUZZ
@given(changes)
def test_fuzz_example(changes):
    example = records.ImageTextPair("k", PICTURE, "text", metadata={"n": [1]}).to_example()
    checked(read_tfrecord(record(damage(example, changes))))


CSV = b'image,text,n\na.png,one,1\n"a.png","t\n""wo",2\n' + b"a.png,x,y\n" * 20
JSONL = b"".join(
    json.dumps({"image": f"a{i}.png", "text": "t", "x": [i, None, "\ud800"]}).encode() + b"\n"
    for i in range(10)
)
TABLES = {
    "t.csv": CSV,
    "t.tsv": CSV.replace(b",", b"\t"),
    "t.jsonl": JSONL,
    "t.csv.gz": gzip.compress(CSV),
    "t.jsonl.xz": lzma.compress(JSONL),
}


@pytest.mark.parametrize("name", TABLES)
@settings(FUZZ, max_examples=60)
@given(changes=changes)
def test_fuzz_text_table(tmp_path_factory, name, changes):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(damage(TABLES[name], changes))
    # A good table stands beside it: whatever is wrong with this one, the run goes on.
    (folder / "good.csv").write_bytes(b"image,text\nnone.png,one\n")
    patterns = [str(path), str(folder / "good.csv")]
    found = readers.find_sources(patterns)
    whole = checked(row for source in found for row in readers.read_source(source))
    # The same rows, whatever the pieces.
    before, source_files.ROWS_PER_SOURCE = source_files.ROWS_PER_SOURCE, 3
    try:
        found = readers.find_sources(patterns)
    finally:
        source_files.ROWS_PER_SOURCE = before
    assert checked(row for source in found for row in readers.read_source(source)) == whole
    assert "good#0" in {row.key for row in whole}


def test_names_of_columns_do_not_stay_in_memory():
    tracemalloc.start()
    for i in range(50):
        names = tuple(f"{i} {j}" for j in range(2000))
        assert column_roles.resolve((*names, "Text", "TEXT"), ()) == {"text": "Text"}
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 10**6  # 12 MB if they do


def test_nulls_that_take_no_room_in_a_file(tmp_path):
    """In Python each takes eight bytes."""
    count = 6_000_000
    nulls = pa.ListArray.from_arrays([0, 1, 1 + count], pa.nulls(1 + count))
    table = pa.table({"text": ["one", "two"], "image": [PICTURE] * 2, "x": nulls})
    pq.write_table(table, tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 10_000
    (source,) = readers.find_sources([str(tmp_path / "t.parquet")])
    good, bad = readers.read_source(source)
    assert good.text == "one" and (bad.key, bad.reason) == ("t#1", "row_too_large")


def test_fuzz_parquet(tmp_path):
    """All cases in few processes: each begins with an import of pyarrow."""
    chance = random.Random(0)
    table = pa.table(
        {
            "text": [f"caption {i}" for i in range(50)],
            "image": [{"bytes": PICTURE * (i % 5), "path": None} for i in range(50)],
            "tags": [[str(i)] * (i % 3) for i in range(50)],
            "n": [float(i) for i in range(50)],
        }
    )
    paths = []
    for i, compression in enumerate(("none", "zstd", "snappy") * 8):
        path = tmp_path / f"{i}.parquet"
        pq.write_table(table, path, row_group_size=20, compression=compression)
        data = path.read_bytes()
        start = chance.choice([4, len(data) - 2000])
        at = chance.randrange(start, len(data))
        places = [(at + chance.randrange(200), chance.randrange(4), chance.randbytes(3))]
        path.write_bytes(damage(data, places))
        paths.append(str(path))
    described = list(parquet.describe(paths))
    broken = [isinstance(found, parquet.BrokenError) for found in described]
    assert any(broken) and not all(broken)
    for path in paths[:8]:
        found = []
        try:
            names = ("text", "image", "tags", "n")
            source = readers.Source("parquet", (path,), names=names)
            found = [row for _, row in parquet.read_rows(source)]
        except parquet.BrokenError as error:
            assert str(error)
        assert len(found) <= 50
        assert all(isinstance(row, dict | rows.Rejected) for row in found)


def test_a_table_that_changes_between_planning_and_reading(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(CSV)
    (source,) = readers.find_sources([str(path)])
    path.write_bytes(b"")
    assert checked(readers.read_source(source)) == []
    path.unlink()
    assert reasons(readers.read_source(source)) == {"t.csv": "broken_file"}
    assert delimited.MAX_ROW_BYTES > rows.MAX_CAPTION_BYTES


def test_things_in_a_folder_that_are_no_files(tmp_path):
    (tmp_path / "a.png").write_bytes(PICTURE)
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "c.png").write_bytes(b"")
    (tmp_path / "c.txt").symlink_to("/dev/zero")
    (tmp_path / "d.png").symlink_to(tmp_path / "d.png")
    (tmp_path / "e.png").write_bytes(PICTURE)
    (tmp_path / "e.txt").write_bytes(b"x" * 10_000_000)
    found = readers.find_sources([str(tmp_path)])
    assert reasons(row for s in found for row in readers.read_source(s)) == {
        "a": "not_a_file",
        "c": "not_a_file",
        "e": "caption_too_long",
    }
