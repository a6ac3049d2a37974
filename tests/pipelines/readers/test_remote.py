# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""All formats are read from remote file systems as from a local folder."""

import gzip
import io
import json
import tarfile

import fake_remote
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from parti.data.storage import records
from parti.pipelines import readers
from parti.stages import files

PICTURE = b"\x89PNG picture"


@pytest.fixture(params=["store", "tree"])
def root(request, tmp_path, monkeypatch):
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    return f"{request.param}://bucket/data"


def put(root, name, data):
    path = files.join(root, *name.split("/"))
    files.make_dirs(files.parent(path))
    files.write_bytes(path, data)


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, data in (("a.png", PICTURE), ("a.txt", b"words")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def parquet(image):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [image], "text": ["words"]}), buffer)
    return buffer.getvalue()


ROW = json.dumps({"image": "img/a.png", "text": "words"}).encode()
CONTENT = {
    "webdataset": {"x.tar.gz": tar(), "x_stats.json": b"{}"},
    "folder": {"d/a.png": PICTURE, "d/a.txt": b"words", "d/a.json": b"{}"},
    "parquet": {"t.parquet": parquet(PICTURE)},
    "csv": {"t.csv": b"image,text\nimg/a.png,words\n", "img/a.png": PICTURE},
    "tsv": {"t.tsv": b"image\ttext\nimg/a.png\twords\n", "img/a.png": PICTURE},
    "jsonl": {"t.jsonl.gz": gzip.compress(ROW), "img/a.png": PICTURE},
}


@pytest.mark.parametrize("kind", CONTENT)
@pytest.mark.parametrize("glob", ["", "/**"])
def test_formats(root, kind, glob):
    for name, data in CONTENT[kind].items():
        put(root, name, data)
    found = readers.find_sources([root + glob])
    assert [source.format for source in found] == [kind]
    assert found[0].num_bytes > 0
    (pair,) = readers.read_source(found[0])
    assert isinstance(pair, records.ImageTextPair), pair
    assert (pair.image, pair.text) == (PICTURE, "words")
    assert pair.key in {"webdataset": ["a"], "folder": ["d/a"]}.get(kind, ["t#0"])


def test_paths_in_a_remote_table(root):
    put(root, "img/a.png", PICTURE)
    put(root, "t.jsonl", ROW.replace(b"img/", b"../") + b"\n" + ROW.replace(b"/a", b"/b"))
    found = [row for s in readers.find_sources([root]) for row in readers.read_source(s)]
    assert [row.reason for row in found] == ["unsafe_name", "missing_image"]


def test_nothing_there(root):
    with pytest.raises(FileNotFoundError, match="no such file; check the path"):
        readers.find_sources([root + "/*.tar"])


class Outage(Exception):
    """What a store's own library raises, however often it has asked again."""


class Failing(io.BytesIO):
    """A download that breaks off."""

    def read(self, size=-1):
        raise Outage("503 backend error")

    readinto = read


@pytest.mark.parametrize("kind", CONTENT)
@pytest.mark.parametrize("failing", ["open", "read"])
def test_a_store_that_fails_costs_no_pair(root, kind, failing, monkeypatch):
    """What could not be read is not rejected: the job fails, and reads it when it goes on."""
    for name, data in CONTENT[kind].items():
        put(root, name, data)
    (source,) = readers.find_sources([root])

    def fail(self, path, **options):
        if failing == "open":
            raise Outage("503 backend error")
        return Failing()

    monkeypatch.setattr(fake_remote._Fake, "open", fail)
    with pytest.raises(files.StoreError, match=f"{root}/.*: 503 backend error"):
        list(readers.read_source(source))


def test_a_picture_is_asked_for_again_if_the_store_fails(root, monkeypatch):
    for name, data in CONTENT["csv"].items():
        put(root, name, data)
    (source,) = readers.find_sources([root])
    whole = fake_remote._Fake.open

    def fail(self, path, **options):
        return Failing() if path.endswith("png") else whole(self, path, **options)

    monkeypatch.setattr(fake_remote._Fake, "open", fail)
    with pytest.raises(files.StoreError, match="a.png: 503 backend error"):
        list(readers.read_source(source))
