# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders, and that a tar of the same files gives the same pairs."""

import gzip
import io
import json
import os
import posixpath
import tarfile
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from parti.data.images import images
from parti.data.storage import records
from parti.pipelines import readers
from parti.pipelines.readers.base import left_out, pair_files


def write(folder, contents):
    for name, data in contents.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)


def tar_of(contents, order=None):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in order or contents:
            data = contents[name]
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sorted_out(rows):
    """Returns {key: (image, text, metadata)} and {key: reason}; no key comes twice."""
    pairs, rejected = {}, {}
    for row in rows:
        assert row.key not in {*pairs, *rejected}
        if isinstance(row, records.ImageTextPair):
            assert records.ImageTextPair.from_example(row.to_example()) == row
            pairs[row.key] = (row.image, row.text, row.metadata)
        else:
            rejected[row.key] = row.reason
    return pairs, rejected


def read_folder(folder, *patterns):
    found = left_out.LeftOut()
    sources = readers.find_sources([str(folder / p) for p in patterns] or [str(folder)])
    rows = [row for s in sources for row in readers.read_source(s, left_out=found)]
    return *sorted_out(rows), dict(found.names)


def read_tar(data):
    found = left_out.LeftOut()
    rows = list(readers.read_tar(io.BytesIO(data), "x.tar", found))
    return *sorted_out(rows), dict(found.names)


def both(folder, contents):
    """Returns what a folder and a tar of the same files give, which must be the same."""
    write(folder, contents)
    of_folder, of_tar = read_folder(folder), read_tar(tar_of(contents))
    assert of_folder == of_tar
    assert read_tar(gzip.compress(tar_of(contents, list(contents)[::-1])))[:2] == of_tar[:2]
    return of_folder


def test_every_ending_that_can_be_decoded():
    """All that Pillow has for our formats, and no ending that is decoded is called another."""
    Image.init()
    known = {end for end, name in Image.registered_extensions().items() if name in images.FORMATS}
    assert features.check("avif")
    assert known | {".mpo"} == {*images.SUFFIXES}
    assert not {*images.SUFFIXES} & {*images.OTHER_SUFFIXES}


@pytest.mark.parametrize("suffix", [*images.SUFFIXES, ".JPG", ".Png", ".TIFF"])
def test_endings_of_images(tmp_path, suffix):
    pairs, rejected, _ = both(tmp_path, {f"a{suffix}": b"A", "a.TXT": "an a", "a.Json": "{}"})
    assert pairs == {"a": (b"A", "an a", {})} and rejected == {}


def test_an_image_that_is_not_decoded_is_rejected(tmp_path):
    contents = {"a.heic": b"A", "a.txt": "a", "b.SVG": b"B", "c.jpg": b"C", "c.txt": "c"}
    pairs, rejected, _ = both(tmp_path, contents)
    assert [*pairs] == ["c"]
    assert rejected == {"a": "image_unsupported", "b": "image_unsupported"}
    assert pair_files.refusal(".heic").measure == (
        "not an image that is read: .heic; save it as JPEG, PNG or WebP"
    )


def test_several_images_of_a_key(tmp_path):
    contents = {"a.png": b"P", "a.jpg": b"J", "a.txt": "a", "a.JPEG": b"E"}
    pairs, rejected, left = both(tmp_path, contents)
    assert pairs == {"a": (b"J", "a", {})} and rejected == {}
    assert left == {"several_images": ["a.JPEG", "a.png"]}


def test_keys_of_webdataset(tmp_path):
    """The name up to the first dot, where that makes pairs and names without the ending do not."""
    contents = {
        "s0.input.jpg": b"0",
        "s0.outputs.txt": "zero",
        "d.x/s1.a.jpg": b"1",
        "d.x/s1.txt": "1",
        # Keys with dots of their own.
        **{f"photo.v1.{i}.png": str(i) for i in range(3)},
        **{f"photo.v1.{i}.txt": f"photo {i}" for i in range(2)},
        # Two images, each with its metadata, and a text: whose is it?
        **{f"two.{i}.png": "2" for i in range(2)},
        **{f"two.{i}.json": '{"n": 1}' for i in range(2)},
        "seen.0.png": "a",
        "seen.1.png": "b",
        "seen.json": '{"caption": "both"}',
    }
    pairs, rejected, left = both(tmp_path, contents)
    assert {key: (image, text) for key, (image, text, _) in pairs.items()} == {
        "s0": (b"0", "zero"),
        "d.x/s1": (b"1", "1"),
        "photo.v1.0": (b"0", "photo 0"),
        "photo.v1.1": (b"1", "photo 1"),
        "seen": (b"a", "both"),
    }
    assert rejected == dict.fromkeys(("photo.v1.2", "two.0", "two.1"), "missing_caption")
    assert left == {"several_images": ["seen.1.png"]}


LINES = ["a red crown", "a short beak", "brown and white"]


@pytest.mark.parametrize(
    ("more", "text", "captions"),
    [
        ({"a.txt": "\n".join(LINES) + "\n"}, LINES[0], LINES),
        ({"a.txt": "\r\n" + "\r\n\r\n".join(LINES)}, LINES[0], LINES),
        ({"a.txt": LINES[0] + "\n"}, LINES[0] + "\n", None),
        ({"a.txt": "\ufeff" + LINES[0]}, LINES[0], None),
        ({"a.json": json.dumps({"captions": LINES})}, LINES[0], LINES),
        ({"a.json": json.dumps({"caption": LINES})}, LINES[0], LINES),
        ({"a.json": json.dumps({"Text": LINES[0]})}, LINES[0], None),
        ({"a.json": json.dumps({"caption": None, "TEXT": LINES[0]})}, LINES[0], None),
        ({"a.json": json.dumps(LINES)}, LINES[0], LINES),
        ({"a.json": json.dumps(LINES[0])}, LINES[0], [LINES[0]]),
        (
            {"a.txt": LINES[0], "a.json": json.dumps({"caption": "x", "captions": LINES})},
            LINES[0],
            LINES,
        ),
        ({"a.0.txt": LINES[0], "a.1.txt": LINES[1]}, LINES[0], LINES[:2]),
        ({"a.txt": "a café\r\nby the sea".encode("utf-16")}, "a café", ["a café", "by the sea"]),
        ({"a.json": '{"caption": "a café"}'.encode("utf-16")}, "a café", None),
        ({"a.txt": "one\u2028caption"}, "one\u2028caption", None),
        ({"a.json": json.dumps({"caption": {"en": LINES[0]}})}, LINES[0], None),
        ({"a.json": json.dumps([{"id": "7", "caption": c} for c in LINES])}, LINES[0], LINES),
    ],
)
def test_several_captions(tmp_path, more, text, captions):
    pairs, rejected, _ = both(tmp_path, {"a.jpg": b"A", **more})
    assert rejected == {}
    ((_, found, metadata),) = pairs.values()
    assert (found, metadata.get("captions")) == (text, captions)


def test_a_caption_that_is_not_utf8_says_what_to_do(tmp_path):
    write(tmp_path, {"a.jpg": b"A", "a.txt": "a café".encode("cp1252")})
    (source,) = readers.find_sources([str(tmp_path)])
    (row,) = readers.read_source(source)
    assert row.reason == "broken_caption"
    why = "byte 5 is not utf-8; save it as UTF-8 (from Windows: iconv -f CP1252 -t UTF-8)"
    assert row.measure == why


@pytest.mark.parametrize("data", ["[1, 2]", "3", "null", "{nonsense", "", b"\xff", "[" * 10_000])
def test_a_json_never_costs_a_caption(tmp_path, data):
    contents = {"a.jpg": b"A", "a.txt": "an a", "a.json": data}
    assert both(tmp_path, contents) == (
        {"a": (b"A", "an a", {})},
        {},
        {"unusable_json": ["a.json"]},
    )


def test_what_is_left_out_of_a_folder(tmp_path):
    write(tmp_path, {"a.jpg": b"A", "a.txt": "a", "README.md": "", "notes.txt": "n", ".x": ""})
    write(tmp_path, {"_b.jpg": b"B", "sub/only.json": "{}"})
    (tmp_path / "c.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "d.jpg")
    pairs, rejected, left = read_folder(tmp_path)
    assert [*pairs] == ["a"] and rejected == {}
    assert {reason: sorted(names) for reason, names in left.items()} == {
        "other_ending": ["README.md"],
        "side_file_alone": ["notes.txt", "sub/only.json"],
        "hidden": [".x", "_b.jpg"],
        "dangling_link": ["c.jpg"],
        "special_file": ["d.jpg"],
    }
    # A pattern that names the images is no question of what else is there.
    assert read_folder(tmp_path, "[ac]*.jpg") == (pairs, {}, {})


def test_a_pattern_relative_to_here(tmp_path, monkeypatch):
    write(tmp_path, {"a.jpg": b"A", "a.txt": "a", "s/b.x.jpg": b"B", "s/b.y.TXT": "b"})
    monkeypatch.chdir(tmp_path)
    for pattern in ("*.jpg", "./*.jpg", "a.jpg", str(tmp_path / "*.jpg")):
        sources = readers.find_sources([pattern])
        pairs, _ = sorted_out(row for s in sources for row in readers.read_source(s))
        assert pairs == {"a": (b"A", "a", {})}
    (source,) = readers.find_sources(["s/*.jpg"])
    assert [row.key for row in readers.read_source(source)] == ["b"]


def test_files_beside_tars_are_counted(tmp_path):
    data = tar_of({"a.jpg": b"A", "a.txt": "a", "b.mp4": b"", "._a.jpg": b""})
    write(tmp_path, {"0.tar": data, "0.parquet": b"", "0_stats.json": "{}"})
    pairs, _, left = read_folder(tmp_path)
    assert [*pairs] == ["a"] and left == {
        "other_format": ["0.parquet", "0_stats.json"],
        "other_ending": ["b.mp4"],
        "hidden": ["._a.jpg"],
    }


def test_folders_in_each_other_and_tables_beside_pictures(tmp_path):
    """What one source reads is not left out of another; a table reads the pictures beside it."""
    write(tmp_path / "raw", {"a.jpg": b"A", "a.txt": "a", "sub/b.jpg": b"B", "sub/b.txt": "b"})
    for patterns in (["raw", "raw/sub"], ["raw/sub", "raw"], ["raw", "raw/*.jpg"]):
        pairs, rejected, left = read_folder(tmp_path, *patterns)
        assert len(pairs) == 2 and rejected == left == {}
    write(tmp_path / "table", {"t.csv": "image,text\na.jpg,a\n", "a.jpg": b"A", "README": ""})
    assert read_folder(tmp_path, "table") == ({"t#0": (b"A", "a", {})}, {}, {})


def test_links_in_a_folder(tmp_path):
    """To files and to folders; each folder once, so that a loop ends."""
    write(tmp_path / "store", {"x1.jpg": b"1", "x1.txt": "one", "more/x2.jpg": b"2"})
    write(tmp_path / "raw", {"own/x3.jpg": b"3", "own/x3.txt": "three", "x2.txt": "two"})
    raw = tmp_path / "raw"
    (raw / "linked").symlink_to(tmp_path / "store")
    (raw / "own" / "loop").symlink_to(raw)
    (raw / "own" / "again").symlink_to(raw / "own")
    (raw / "x2.jpg").symlink_to(tmp_path / "store" / "more" / "x2.jpg")
    (raw / "gone").symlink_to(tmp_path / "nowhere")
    pairs, rejected, left = read_folder(raw)
    assert {key: text for key, (_, text, _) in pairs.items()} == {
        "linked/x1": "one",
        "own/x3": "three",
        "x2": "two",
    }
    assert rejected == {"linked/more/x2": "missing_caption"}
    assert left == {"dangling_link": ["gone"]}


def test_links_in_a_tar():
    """To members before or after them, in one or more steps; in a compressed tar to none."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def link(name, target, kind=tarfile.SYMTYPE):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)

        for name, data in (("d/a.jpg", b"A"), ("d/a.txt", b"an a")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link("b.jpg", "d/a.jpg", tarfile.LNKTYPE)
        link("b.txt", "d/later")
        link("d/later", "a.txt")
        link("d/c.jpg", "../d/a.jpg")
        link("d/c.txt", "nowhere.txt")
        link("e.jpg", "e.jpg")
        link("f.jpg", "../../etc/passwd")
    pairs, rejected, left = read_tar(buffer.getvalue())
    assert {key: pair[:2] for key, pair in pairs.items()} == {
        key: (b"A", "an a") for key in ("d/a", "b")
    }
    assert rejected == dict.fromkeys(("d/c", "e", "f"), "not_a_file")
    assert left == {"other_ending": ["d/later"]}
    pairs, rejected, _ = read_tar(gzip.compress(buffer.getvalue()))
    assert [*pairs] == ["d/a"] and {*rejected.values()} == {"not_a_file"}


KEYS = [
    "a",
    "b",
    "a.x",
    "a.y",
    "b.in.put",
    "dir/c",
    "dir.d/c.1",
    "dir.d/c.2",
    "e e",
    "\u00fc",
    "[1]",
]
ENDINGS = [".jpg", ".JPG", ".png", ".gif", ".heic", ".txt", ".TXT", ".json", ".doc", ".mp4", ""]
names = st.builds(str.__add__, st.sampled_from(KEYS), st.sampled_from(ENDINGS))
texts = st.sampled_from(["words", "two\nlines", "", "{}", "[1]", '{"caption": "c"}', '["d", "e"]'])


@settings(max_examples=200)
@given(st.dictionaries(names, texts, max_size=14), st.randoms(use_true_random=False), st.booleans())
def test_a_folder_and_a_tar_give_the_same_pairs(contents, chance, packed):
    """Whatever the names and their order; every file is of a pair, or counted with a reason."""
    contents = {name: data for name, data in contents.items() if "." in posixpath.basename(name)}
    for name in contents:
        if posixpath.splitext(name)[1].lower() in images.SUFFIXES:
            contents[name] = name  # tells which image it is
    order = list(contents)
    chance.shuffle(order)
    data = tar_of(contents, order)
    of_tar = read_tar(gzip.compress(data) if packed else data)
    with tempfile.TemporaryDirectory() as folder:
        write(folder, contents)
        source_names = [n for n in contents if n.lower().endswith((*images.SUFFIXES, ".heic"))]
        if not source_names:
            assert of_tar[0] == {}
            return
        found = left_out.LeftOut()
        sources = readers.find_sources([folder], "folder")
        rows = [row for s in sources for row in readers.read_source(s, left_out=found)]
    of_folder = *sorted_out(rows), dict(found.names)
    assert of_folder[0] == of_tar[0]
    for pairs, rejected, left in (of_folder, of_tar):
        gone = {name for some in left.values() for name in some}
        keys = {*pairs, *rejected}
        for name in contents:
            stem = posixpath.splitext(name)[0]
            head, slash, base = name.rpartition("/")
            assert name in gone or {stem, head + slash + base.split(".")[0]} & keys, name
        assert gone <= {*contents}
        used = {image.decode() for image, _, _ in pairs.values()}
        assert not used & gone
    # A tar has a rejected row for a caption without an image, a folder only counts it.
    assert of_folder[1].items() <= of_tar[1].items()


def test_tars_that_were_joined_are_read_to_the_end():
    first, second = ({f"{key}.jpg": b"A", f"{key}.txt": f"of {key}"} for key in "ab")
    far = {
        **{f"{n:04d}.jpg": b"A" for n in range(300)},
        **{f"{n:04d}.txt": "x" for n in range(300)},
    }
    joined = tar_of(first) + tar_of(second) + tar_of(far)
    for data in (joined, gzip.compress(joined)):
        pairs, rejected, _ = read_tar(data)
        assert len(pairs) == 302 and not rejected
        assert [pairs[key][1] for key in ("a", "b")] == ["of a", "of b"]
    rejected = read_tar(tar_of(first) + b"no tar" * 999)[1]
    assert rejected == {"x.tar": "broken_file"}  # what it is cannot be known, so it is said
