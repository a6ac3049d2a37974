# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every format is read; whatever is wrong with a row or a file is a rejected row."""

import gzip
import io
import json
import os
import tarfile

import pytest

from parti.data.storage import records, tfrecords
from parti.pipelines import readers
from parti.pipelines.readers.archives import tars
from parti.pipelines.readers.base import rows


def tar_bytes(members, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read(data):
    found = list(readers.read_tar(io.BytesIO(data), "x.tar"))
    pairs = [row for row in found if isinstance(row, records.ImageTextPair)]
    return pairs, {r.key: r for r in found if isinstance(r, readers.Rejected)}


GOOD = [("a.jpg", b"A"), ("a.txt", b"an a"), ("a.json", b'{"keywords": ["k"], "n": 1}')]


def test_tar_members_are_grouped_by_key():
    members = [*GOOD, ("./d/b.webp", b"B"), ("d/b.TXT", "ein \u00df".encode()), ("README", b"-")]
    pairs, rejected = read(tar_bytes(members))
    assert [(p.key, p.image, p.text, p.source) for p in pairs] == [
        ("a", b"A", "an a", "x.tar"),
        ("d/b", b"B", "ein \u00df", "x.tar"),
    ]
    assert pairs[0].metadata == {"keywords": ["k"], "n": 1}
    assert rejected == {}


def test_members_of_a_key_may_lie_apart_and_keys_may_come_twice():
    members = [("a.png", b"1"), ("b.png", b"2"), ("a.txt", b"a"), ("b.txt", b"b"), *GOOD]
    pairs, rejected = read(tar_bytes(members))
    assert [(p.key, p.image, p.text) for p in pairs] == [
        ("a", b"1", "a"),
        ("b", b"2", "b"),
        ("a", b"A", "an a"),
    ]
    assert rejected == {}


def test_a_rejected_row_has_the_whole_key():
    """By it `--retry_rejected` finds the row again."""
    key = 50 * "long/name/"
    assert rows.reject(key, "missing_caption").key == key
    assert len(rows.reject(100 * key, "unsafe_name").key) == rows.MAX_KEY_BYTES


def test_a_name_that_is_not_utf8_is_a_key(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT, encoding="latin-1"
    ) as tar:
        for name, data in (("\u00e9.jpg", b"A"), ("\u00e9.txt", b"a")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    pairs, rejected = read(buffer.getvalue())
    (tmp_path / os.fsdecode(b"\xe9.jpg")).write_bytes(b"A")
    (tmp_path / os.fsdecode(b"\xe9.txt")).write_text("a")
    (source,) = readers.find_sources([str(tmp_path)])
    for pair in (*pairs, *readers.read_source(source)):
        assert records.ImageTextPair.from_example(pair.to_example()) == pair
    assert len(pairs) == 1 and rejected == {}


def test_caption_may_be_in_the_json():
    pairs, _ = read(tar_bytes([("a.jpg", b"A"), ("a.json", b'{"caption": "from json"}')]))
    assert pairs[0].text == "from json"


def test_wrong_rows_are_rejected_with_a_reason():
    members = [
        *GOOD,
        ("no_text.jpg", b"A"),
        ("no_image.txt", b"text"),
        ("latin.jpg", b"A"),
        ("latin.txt", b"caf\xe9"),
        ("json.jpg", b"A"),
        ("json.json", b"{nonsense"),
        ("list.jpg", b"A"),
        ("list.json", b"[1]"),
        ("deep.jpg", b"A"),
        ("deep.json", b"[" * 100_000),
        ("../../etc/up.jpg", b"A"),
        ("../../etc/up.txt", b"A"),
        ("/root/absolute.jpg", b"A"),
        ("d/../../out.txt", b"A"),
    ]
    pairs, rejected = read(tar_bytes(members))
    assert [p.key for p in pairs] == ["a"]
    assert {key: row.reason for key, row in rejected.items()} == {
        "no_text": "missing_caption",
        "no_image": "missing_image",
        "latin": "broken_caption",
        "json": "broken_metadata",
        "list": "broken_metadata",
        "deep": "broken_metadata",
        "../../etc/up": "unsafe_name",
        "/root/absolute": "unsafe_name",
        "d/../../out": "unsafe_name",
    }
    assert {row.reason for row in rejected.values()} <= set(readers.REASONS)
    assert all(json.loads(row.to_json())["key"] == key for key, row in rejected.items())


def test_metadata_is_made_writable():
    data = b'{"nan": NaN, "half": "\\ud800", "big": 1e999}'
    metadata = readers.parse_metadata(data)
    assert metadata == {"nan": None, "half": "\ufffd", "big": None}
    pair = records.ImageTextPair("k", b"", "t", metadata=metadata)
    assert records.ImageTextPair.from_example(pair.to_example()).metadata == metadata


def test_large_members_are_refused(monkeypatch):
    monkeypatch.setattr(rows, "MAX_IMAGE_BYTES", 10)
    data = tar_bytes([("b.jpg", b"x" * 11), ("b.txt", b"b"), *GOOD[:2]])
    found = list(readers.read_tar(io.BytesIO(data), "x.tar"))
    assert {getattr(row, "reason", row.key) for row in found} == {"member_too_large", "a"}


def apart(num):
    """All images, then all captions, as `tar cf x.tar *.jpg *.txt` has them."""
    names = [f"{i}.{end}" for end in ("jpg", "txt") for i in range(num)]
    return [(name, f"<{name}>".encode()) for name in names]


def test_members_far_apart_are_read_a_second_time(monkeypatch):
    monkeypatch.setattr(tars, "MAX_PENDING_GROUPS", 2)
    monkeypatch.setattr(tars, "MAX_APART_BYTES", 0)  # in memory
    found = list(readers.read_tar(io.BytesIO(tar_bytes(apart(9))), "x.tar"))
    assert [(p.key, p.image, p.text) for p in found] == [
        (str(i), b"<%d.jpg>" % i, f"<{i}.txt>") for i in range(9)
    ]


def test_memory_is_bounded(monkeypatch):
    """A compressed tar cannot be read twice: what waits for a caption is in memory."""
    monkeypatch.setattr(tars, "MAX_PENDING_GROUPS", 2)
    packed = gzip.compress(tar_bytes(apart(9)))
    assert len(list(readers.read_tar(io.BytesIO(packed), "x.tar"))) == 9
    for name, bound in (("MAX_APART_BYTES", 9), ("MAX_APART_GROUPS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(tars, name, bound)
            found = list(readers.read_tar(io.BytesIO(packed), "x.tar"))
            assert {getattr(row, "reason", "pair") for row in found} == {"members_far_apart"}


def test_a_long_compressed_tar_of_webdataset(monkeypatch):
    """Keys that only webdataset has make pairs although they wait till memory is full."""
    monkeypatch.setattr(tars, "MAX_PENDING_GROUPS", 2)
    monkeypatch.setattr(tars, "MAX_APART_BYTES", 30)
    members = [
        (name, b"%d" % i) for i in range(40) for name in (f"d/s{i}.in.jpg", f"d/s{i}.out.txt")
    ]
    pairs, rejected = read(gzip.compress(tar_bytes([*members, ("alone.png", b"")])))
    assert [(p.key, p.text) for p in pairs] == [(f"d/s{i}", str(i)) for i in range(40)]
    assert [row.reason for row in rejected.values()] == ["missing_caption"]


def test_a_picture_over_the_bound_waits_for_its_caption(monkeypatch):
    monkeypatch.setattr(tars, "MAX_PENDING_BYTES", 10)
    members = [
        (f"{key}.{end}", b"x" * size) for key in "ab" for end, size in (("jpg", 20), ("txt", 1))
    ]
    pairs, rejected = read(tar_bytes(members))
    assert [pair.key for pair in pairs] == ["a", "b"] and rejected == {}


MANY = [(f"{i}.{ext}", bytes([65 + i]) * 600) for i in range(6) for ext in ("jpg", "txt")]


@pytest.mark.parametrize(
    ("damage", "num_pairs"),
    [
        (lambda data: data[: 4 * 3 * 512 + 1000], 2),  # within a member
        (lambda data: data[: 4 * 3 * 512 + 100], 2),  # within a header
        (lambda data: data[: 4 * 3 * 512], 2),  # between members
        (lambda data: data[:6144] + b"\x7f" * 512 + data[6656:], 2),  # a broken header
        (lambda data: b"not a tar at all" * 100, 0),
        (lambda data: b"", 0),
        (lambda data: gzip.compress(data)[:60], 0),
    ],
    ids=["member", "header", "between", "broken header", "no tar", "empty", "gzip"],
)
def test_a_damaged_tar_is_a_rejected_row(damage, num_pairs):
    pairs, rejected = read(damage(tar_bytes(MANY)))
    assert len(pairs) == num_pairs
    assert rejected["x.tar"].reason == "broken_file"
    assert "\n" not in rejected["x.tar"].measure and rejected["x.tar"].measure


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tars(mode):
    assert len(read(tar_bytes(MANY, mode))[0]) == 6


def test_folder_of_images(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").write_bytes(b"A")
    (tmp_path / "sub" / "a.txt").write_text("an a\n")
    (tmp_path / "b.PNG").write_bytes(b"B")
    (source,) = readers.find_sources([str(tmp_path)])
    found = {row.key: row for row in readers.read_source(source)}
    assert found["sub/a"].text == "an a\n"
    assert found["b"].reason == "missing_caption"
    assert source.num_bytes == 2


def test_tfrecords(tmp_path):
    pair = records.ImageTextPair("k", b"image", "text", metadata={"a": 1})
    path = tmp_path / "x.tfrecord"
    tfrecords.write(
        path, [pair.to_example(), b"junk", records.TokenizedPair("t", "", []).to_example()]
    )
    (source,) = readers.find_sources([str(tmp_path)])
    good, *bad = readers.read_source(source)
    assert good == pair
    assert [(r.key, r.reason) for r in bad] == [
        ("x.tfrecord#1", "not_a_pair"),
        ("x.tfrecord#2", "not_a_pair"),
    ]
    path.write_bytes(path.read_bytes()[:-3])
    assert [getattr(r, "reason", "pair") for r in readers.read_source(source)] == [
        "pair",
        "not_a_pair",
        "broken_file",
    ]


def test_find_sources_messages(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file; check the path"):
        readers.find_sources([str(tmp_path / "*.tar")])
    with pytest.raises(FileNotFoundError, match="no file in this folder; check the path"):
        readers.find_sources([str(tmp_path)])
    (tmp_path / "notes.doc").write_text("x")
    with pytest.raises(ValueError, match="format not recognised; known are tfrecord .*webdataset"):
        readers.find_sources([str(tmp_path)])
    with pytest.raises(
        ValueError, match="--input_format=zip: unknown; choose from auto, tfrecord, webdataset"
    ):
        readers.find_sources([str(tmp_path)], "zip")
    with pytest.raises(FileNotFoundError, match="no image files"):
        readers.find_sources([str(tmp_path)], "folder")


def test_a_file_named_twice_is_read_once(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes(GOOD))
    path = str(tmp_path / "a.tar")
    assert len(readers.find_sources([path, path, str(tmp_path)])) == 1
