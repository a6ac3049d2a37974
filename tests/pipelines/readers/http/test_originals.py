# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What was fetched is found again by its URL: after a kill, damaged, on a remote system."""

import dataclasses
import pathlib

import fake_remote
import pytest

from parti.data.storage import records, tfrecords
from parti.pipelines.readers.base import rows
from parti.pipelines.readers.http import downloads, originals
from parti.stages import files

SETTINGS = downloads.FetchSettings()
IMAGES = {f"http://a/{i}.png": bytes([i]) * 1000 for i in range(50)}
MISSING = rows.refuse("fetch_http_404", "HTTP 404")


@pytest.fixture(params=["", "store://bucket/", "tree://host/"])
def directory(request, tmp_path, monkeypatch):
    (tmp_path / "remote" / "tree").mkdir(parents=True)
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path / "remote"))
    return request.param + "kept" if request.param else str(tmp_path / "kept")


def find(directory, tmp_path, settings=SETTINGS):
    kept = originals.Kept.find(directory, settings, tmp_path / "index.npy")
    return kept, originals.Originals(kept)


def fill(directory, tmp_path, contents, name="000000"):
    kept, opened = find(directory, tmp_path)
    with originals.Part(opened, name) as part:
        for url, content in contents.items():
            part.keep(url, content)
            assert part.get(url) == content  # also of this part itself
    part.keep("http://late/", b"")  # after an error, a thread may still be about it
    return kept


def test_what_was_kept_is_found_by_its_url(directory, tmp_path, monkeypatch):
    monkeypatch.setattr(originals, "_PIECE_BYTES", 5000)  # of a remote file
    fill(directory, tmp_path, IMAGES)
    fill(directory, tmp_path, {"http://a/gone": MISSING, "http://a/empty": b""})  # another run
    kept, opened = find(directory, tmp_path)
    assert len(kept.names) == (11 if files.is_remote(directory) else 2)
    assert {url: opened.get(url) for url in IMAGES} == IMAGES
    assert opened.get("http://a/gone") == MISSING and opened.get("http://a/empty") == b""
    assert opened.get("http://late/") is None and opened.get("http://a/51.png") is None
    part = originals.Part(opened, "x")
    assert part.get("http://a/3.png") and not part.get("http://b") and part.num_read == 1
    assert not any("x-" in entry.path for entry in files.walk(directory))  # nothing came


def test_nothing_is_there_at_first(directory, tmp_path):
    kept, opened = find(directory, tmp_path)
    assert opened.get("http://a/1.png") is None and not kept.has_others()
    fill(directory, tmp_path, IMAGES)
    for name, value in (
        *(("user_agent", "other/1"), ("allow_private", True), ("respect_opt_out", False)),
        *(("max_bytes", 5), ("max_redirects", 1)),
    ):
        other, opened = find(directory, tmp_path, dataclasses.replace(SETTINGS, **{name: value}))
        assert opened.get("http://a/1.png") is None and other.has_others()
    patient = dataclasses.replace(SETTINGS, retries=9, total_timeout=99, user_agent="parti/99")
    kept, opened = find(directory, tmp_path, patient)
    assert opened.get("http://a/1.png") and not kept.has_others()


def test_what_a_kill_cut_off_or_is_damaged_is_asked_for_again(tmp_path):
    folder = pathlib.Path(fill(tmp_path / "kept", tmp_path, IMAGES).folder)
    (data,), (index,) = folder.glob("*.tfrecord"), folder.glob("*.index")
    whole, urls = data.read_bytes(), list(IMAGES)
    index.write_bytes(index.read_bytes()[:-3])
    data.write_bytes(whole[:3000] + b"?" + whole[3001:-1500])
    _, opened = find(tmp_path / "kept", tmp_path)
    found = {url: opened.get(url) for url in urls}
    assert [url for url in urls if found[url] is None] == [urls[2], urls[48], urls[49]]
    assert all(found[url] in (None, IMAGES[url]) for url in urls)
    with originals.Part(opened, "again") as part:
        part.keep(urls[2], IMAGES[urls[2]])
    data.unlink()
    _, opened = find(tmp_path / "kept", tmp_path)
    assert opened.get(urls[2]) == IMAGES[urls[2]] and opened.get(urls[3]) is None


def test_a_url_is_compared_not_only_its_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(originals, "_hash", len)
    fill(tmp_path / "kept", tmp_path, {"http://a": b"a", "http://b": b"b"})
    _, opened = find(tmp_path / "kept", tmp_path)
    found = [opened.get(url) for url in ("http://a", "http://b", "http://c")]
    assert found == [b"a", b"b", None]


def test_other_programs_can_read_it(tmp_path):
    folder = fill(tmp_path / "kept", tmp_path, {"http://a": b"a", "http://b": MISSING}).folder
    (path,) = pathlib.Path(folder).glob("*.tfrecord")
    found = [records.Original.from_example(serialized) for serialized in tfrecords.read(path)]
    assert found == [
        records.Original("http://a", b"a"),
        records.Original("http://b", b"", "fetch_http_404", "HTTP 404"),
    ]


def test_a_full_disk_ends_the_run_with_its_place(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    _, opened = find(tmp_path / "kept", tmp_path)
    monkeypatch.setattr(originals._Writer, "add", fail)
    with originals.Part(opened, "0") as part, pytest.raises(RuntimeError, match="No space left"):
        part.keep("http://a", b"a")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (downloads.Answer(b"image"), True),
        (downloads.Answer(MISSING), True),
        (downloads.Answer(rows.refuse("fetch_opt_out", "noai")), True),
        (downloads.Answer(rows.refuse("fetch_timeout", "30 s"), again=True), False),
        (downloads.Answer(rows.refuse("fetch_http_other", "HTTP 500"), again=True), False),
        (downloads.Answer(rows.refuse("fetch_http_other", "HTTP 451")), True),
        (downloads.Answer(rows.refuse("fetch_no_host")), False),
        (downloads.Answer(rows.refuse("fetch_redirects"), redirect="http://b"), False),
    ],
)
def test_failures_that_may_pass_are_not_kept(answer, expected):
    assert originals.is_final(answer) == expected
