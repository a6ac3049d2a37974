# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""One set of calls means the same on a local disk, an object store and a remote tree."""

import os
import subprocess
import sys
import time
import types

import fake_remote
import pytest

from parti.data.storage import shard_names, tfrecords
from parti.stages import files


@pytest.fixture(params=["local", "file", "store", "tree"])
def root(request, tmp_path, monkeypatch):
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    folder = {"local": tmp_path / "x", "file": f"file://{tmp_path}/x"}.get(
        request.param, f"{request.param}://bucket/x"
    )
    files.make_dirs(folder)
    return folder


def names(entries, root):
    return [entry.path.removeprefix(files.absolute(root) + "/") for entry in entries]


def test_write_read_list_and_delete(root):
    files.make_dirs(files.join(root, "sub", "deep"))
    files.make_dirs(files.join(root, "sub", "deep"))
    for place, data in {"b.txt": b"22", "a.txt": b"", "sub/deep/c.txt": b"333"}.items():
        files.write_bytes(files.join(root, *place.split("/")), data)
    assert names(files.walk(root), root) == ["a.txt", "b.txt", "sub/deep/c.txt"]
    assert names(files.list_folder(root), root) == ["a.txt", "b.txt"]
    assert [entry.num_bytes for entry in files.walk(root)] == [0, 2, 3]
    assert names(files.match(files.join(root, "*.txt")), root) == ["a.txt", "b.txt"]
    ((_, _, entries),) = files.resolve(files.join(root, "a.txt"))
    assert names(entries, root) == ["a.txt"]
    ((_, _, entries),) = files.resolve(files.join(root, "none.txt"))
    assert entries == []
    assert files.read_bytes(files.join(root, "sub", "deep", "c.txt")) == b"333"
    assert files.size(files.join(root, "b.txt")) == 2
    status = files.status(files.join(root, "b.txt"))
    assert status.num_bytes == 2 and abs(status.modified - time.time()) < 60
    assert files.is_dir(root) and not files.is_dir(files.join(root, "b.txt"))
    assert files.exists(files.join(root, "b.txt")) and not files.exists(files.join(root, "d"))
    files.remove(files.join(root, "b.txt"), files.join(root, "never"))
    assert names(files.walk(root), root) == ["a.txt", "sub/deep/c.txt"]
    files.remove_tree(files.join(root, "sub"))
    files.remove_tree(files.join(root, "sub"))
    assert names(files.walk(root), root) == ["a.txt"]
    assert files.walk(files.join(root, "never")) == []


def test_hidden_files_are_named_by_their_dot_alone(root):
    for name in (".a.txt.offsets", "a.txt", ".b/c.txt"):
        files.make_dirs(files.parent(files.join(root, *name.split("/"))))
        files.write_bytes(files.join(root, *name.split("/")), b"1")
    everything = [".a.txt.offsets", ".b/c.txt", "a.txt"]
    assert names(files.walk(root), root) == everything
    for pattern, wanted in {"*": "a.txt", "**": "a.txt", ".*.offsets": ".a.txt.offsets"}.items():
        found = files.match(files.join(root, pattern), files.join(root, ""))
        assert names(found, root) == [wanted], pattern
    assert shard_names.expand_pattern(files.join(root, "*"), "texts") == [files.join(root, "a.txt")]


def test_a_file_is_replaced_whole_or_not_at_all(root):
    path = files.join(root, "file")
    files.write_bytes(path, b"one")
    with pytest.raises(RuntimeError), files.replacing(path) as file:
        file.write(b"tw")
        raise RuntimeError
    assert files.read_bytes(path) == b"one"
    with files.replacing(path, sync=True) as file:
        file.write(b"two")
        assert files.read_bytes(path) == b"one"
    assert files.read_bytes(path) == b"two"
    assert names(files.walk(root), root) == ["file"]


def test_text_rename_and_copy(root):
    a, b, c = (files.join(root, name) for name in "abc")
    with files.open(a, "w") as file:
        file.write("häuser\n")
    assert files.read_bytes(a) == "häuser\n".encode()
    with files.open(a, "r") as file:
        assert list(file) == ["häuser\n"]
    files.rename(a, b)
    files.copy([b], [c])
    assert names(files.walk(root), root) == ["b", "c"]
    assert files.read_bytes(c) == files.read_bytes(b)
    with pytest.raises(OSError):
        files.open(a).read()
    with pytest.raises(ValueError, match="choose rb, wb, r or w"):
        files.open(a, "ab")


def test_files_are_concatenated_in_order(root):
    paths = [files.join(root, name) for name in ("b", "a")]
    for path, data in zip(paths, (b"22", b"1")):
        files.write_bytes(path, data)
    files.concatenate(paths, files.join(root, "all"))
    assert files.read_bytes(files.join(root, "all")) == b"221"


def test_tfrecords_and_patterns(root):
    for index, values in enumerate(([b"a", b"b"], [b"c"])):
        path = files.join(root, shard_names.shard_name("train", index, 2))
        assert tfrecords.write(path, values) == len(values)
    files.write_bytes(files.join(root, "manifest.json"), b"{}")
    assert list(tfrecords.read_pattern(root)) == [b"a", b"b", b"c"]
    pattern = ",".join(files.join(root, f"train-{index:05d}*") for index in (1, 0))
    assert list(tfrecords.read_pattern(pattern)) == [b"a", b"b", b"c"]
    with pytest.raises(FileNotFoundError, match="No pictures: no files match"):
        shard_names.expand_pattern(files.join(root, "none-*"), "pictures")
    with pytest.raises(FileNotFoundError, match=r"no files that end in \.tar in the directory"):
        shard_names.expand_pattern(root, "pictures", (".tar",))


def test_parts_of_an_address():
    assert files.join("gs://b/x/", "y", "z.txt") == "gs://b/x/y/z.txt"
    assert files.name("gs://b/x/y/") == "y" and files.parent("gs://b/x/") == "gs://b"
    assert files.absolute("gs://b/x/") == "gs://b/x" and files.absolute("file:///x/") == "/x"
    assert files.parent("/a/b") == "/a" and files.name("/a/b") == "b"
    assert files.is_object_store("gs://b/x") and not files.is_object_store("/x")


def test_a_folder_of_an_object_store_cannot_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    files.write_bytes("store://b/x/file", b"")
    with pytest.raises(ValueError, match="cannot move a folder"):
        files.rename("store://b/x", "store://b/y")


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("nowhere://x", "known are gs, s3, azfs, hdfs"),
        ("s3://bucket/x", r"pip install -c constraints.txt '\.\[aws\]' in Parti"),
        ("azfs://account/container/x", r"pip install 'apache-beam\[azure\]'"),
        ("hdfs://host/x", r"pip install 'apache-beam\[hadoop\]'"),
    ],
)
def test_a_scheme_without_its_packages_says_what_to_install(monkeypatch, address, advice):
    for module in ("boto3", "azure.storage.blob", "hdfs"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    for call in (files.read_bytes, files.match, files.is_dir, files.walk):
        with pytest.raises(ValueError, match=f"no file system for .*:// is installed; {advice}"):
            call(address)


def test_what_a_file_system_lacks_is_passed_on(monkeypatch):
    from apache_beam.io import hadoopfilesystem

    monkeypatch.setattr(hadoopfilesystem, "hdfs", types.ModuleType("hdfs"))
    with pytest.raises(ValueError, match="hdfs://host/x: .* is not set"):
        files.read_bytes("hdfs://host/x")


def test_local_files_need_neither_beam_nor_tensorflow(tmp_path):
    code = (
        "import sys; from parti.data.storage import tfrecords; from parti.stages import files;"
        "files.write_bytes(sys.argv[1], b'');"
        "list(tfrecords.read_pattern(sys.argv[1]));"
        "sys.exit('apache_beam' in sys.modules or 'tensorflow' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=False)
    assert ran.returncode == 0


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        files.walk(tmp_path)


def named(address):
    return [
        (text, entries and [files.name(e.path) for e in entries])
        for text, _, entries in files.resolve(address)
    ]


ODD = ["run[1]", "a,b", "{x,y}", "wh?t", "st*r", "it's", 'q"', "back\\slash", "a b "]


@pytest.mark.parametrize("name", ODD)
def test_what_exists_is_that_one_whatever_is_in_its_name(root, name):
    siblings = ["run1", "a", "b", "x", "y", "what", "star", "its", "q", "backslash", "a b", "new"]
    for sibling in [*siblings, name]:
        for file in ("one.tar", "two.tar", "n[1].tar", "n1.tar"):
            files.write_bytes(_made(root, sibling, file), sibling.encode())
    folder = files.join(root, name)
    resolved = files.resolve(folder)
    assert resolved == [(os.fspath(resolved[0].text), resolved[0].folder, None)]
    assert names(files.walk(resolved[0].folder), root) == names(files.list_folder(folder), root)
    assert [e.path for e in files.list_folder(folder)] == [
        e.path for e in files.walk(folder) if files.read_bytes(e.path) == name.encode()
    ]
    assert len(files.list_folder(folder)) == 4
    for pattern, count in {"*.tar": 4, "n[1].tar": 1, "{one,n[1]}.tar": 2}.items():
        resolved = files.resolve(files.join(folder, pattern))
        found = [entry for _, _, entries in resolved for entry in entries]
        assert [files.read_bytes(entry.path) for entry in found] == [name.encode()] * count
    assert shard_names.list_shards(folder, "one") == []


def _made(root, folder, name):
    files.make_dirs(files.join(root, folder))
    return files.join(root, folder, name)


def test_patterns_and_lists(root):
    for name in ("s-0.tar", "s-1.tar", "s-2.tar", "t.txt"):
        files.write_bytes(files.join(root, name), b"")
    files.write_bytes(_made(root, "in", "u.txt"), b"")
    where = files.join(root, "").rstrip("/") + "/"

    def found(*words):
        return [
            (text.removeprefix(where.removeprefix("file://")), entries)
            for text, entries in named(",".join(where + word for word in words))
        ]

    assert found("s-{0..2}.tar") == [(f"s-{n}.tar", [f"s-{n}.tar"]) for n in range(3)]
    # What is missing of a range is told, not left out.
    assert found("s-{1..3}.tar")[-1] == ("s-3.tar", [])
    assert found("s-{0,2}*", "in") == [("s-0*", ["s-0.tar"]), ("s-2*", ["s-2.tar"]), ("in", None)]
    assert found("{t,in/u}.txt") == [("t.txt", ["t.txt"]), ("in/u.txt", ["u.txt"])]
    assert found("s-*", "no") == [("s-*", ["s-0.tar", "s-1.tar", "s-2.tar"]), ("no", [])]
    assert found("**/*.txt")[0][1] in (["u.txt", "t.txt"], ["t.txt", "u.txt"], ["u.txt"])
    assert files.resolve("") == []
    with pytest.raises(ValueError, match="more than 1,000,000 names"):
        files.resolve(where + "{0..99999999}")


@pytest.mark.parametrize("name", [b"caf\xe9[1]", b"new\nline", b" "])
def test_names_that_are_not_utf8_or_not_a_line(tmp_path, name):
    name = os.fsdecode(bytes(tmp_path) + b"/" + name)
    files.make_dirs(name)
    files.write_bytes(files.join(name, "train-0.tfrecord"), b"x")
    assert files.resolve(name) == [(name, name, None)]
    assert shard_names.list_shards(name, "train") == [files.join(name, "train-0.tfrecord")]
    ((_, _, (entry,)),) = files.resolve(files.join(name, "*"))
    assert entry.path == files.join(name, "train-0.tfrecord")


def test_links_below_a_folder_are_followed_once(tmp_path):
    (tmp_path / "raw" / "b").mkdir(parents=True)
    (tmp_path / "else").mkdir()
    for name in ("raw/b/1", "else/2"):
        (tmp_path / name).write_text("x")
    for link, target in (
        ("a", "b"),
        ("c", "../else"),
        ("b/up", "b/.."),
        ("gone", "x"),
        ("3", "b/1"),
    ):
        (tmp_path / "raw" / link).symlink_to(tmp_path / "raw" / target)
    root = str(tmp_path / "raw")
    found = [entry.path.removeprefix(root) for entry in files.walk(root)]
    assert found == ["/3", "/b/1", "/c/2"]
    assert files.walk_all(root)[1] == [f"{root}/gone"]


def test_stars_follow_links_and_read_each_folder_once(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for name in ("a/x.png", "a/b/y.png", "other/z.png", "a/b/note.txt"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "a" / "b" / "loop").symlink_to("..")
    (tmp_path / "a" / "out").symlink_to("../other")
    wanted = ["a/b/y.png", "a/out/z.png", "a/x.png"]
    for pattern, names in {
        "a/**/*.png": wanted,
        "**/a/**/*.png": wanted,
        "a/**": ["a/b/note.txt", *wanted],
        "**/b/*.txt": ["a/b/note.txt"],
    }.items():
        found = [entry.path for entry in files.match(tmp_path / pattern)]
        assert found == sorted(str(tmp_path / name) for name in names), pattern
    monkeypatch.chdir(tmp_path)
    assert [entry.path for entry in files.match("**/b/*.txt")] == ["a/b/note.txt"]


def test_a_range_of_a_file(root):
    path = files.join(root, "x.bin")
    files.write_bytes(path, bytes(range(100)))
    assert files.Ranges(path).read(10, 5) == bytes(range(10, 15))
    assert files.Ranges(path).read(95, 50) == bytes(range(95, 100))
