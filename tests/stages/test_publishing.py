# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""An output appears whole or not at all, and nothing is deleted that was not asked for."""

import contextlib
import json
import pathlib
import subprocess
import sys

import fake_remote
import pytest

from parti.stages import files, manifests, publishing


def write(output, text="one", publish=True, **options):
    with publishing.OutputDirectory(output, "pairs", **options) as stage:
        pathlib.Path(stage.address, "data").write_text(text)
        if publish:
            stage.publish(counts={"train": 1})
    return stage


def test_published_output_is_complete(tmp_path):
    stage = write(tmp_path / "out", settings={"size": 1}, inputs={"from": "x"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["data", "manifest.json"]
    manifest = manifests.read(tmp_path / "out", "pairs")
    assert manifest == stage.manifest
    assert manifest["counts"] == {"train": 1} and manifest["settings"] == {"size": 1}
    assert manifest["created_by"] == "parti clean" and manifest["inputs"] == {"from": "x"}


def test_fingerprint_follows_settings_and_content_only(tmp_path):
    def fingerprint(name, **options):
        return write(tmp_path / name, **options).manifest["fingerprint"]

    first = fingerprint("a", settings={"size": 1}, inputs={"from": "x"})
    assert fingerprint("b", settings={"size": 1}, inputs={"from": "y"}) == first
    assert fingerprint("c", settings={"size": 2}) != first
    assert fingerprint("d", settings={"size": 1}, text="two") != first


def test_finished_output_needs_overwrite(tmp_path):
    write(tmp_path / "out")
    with pytest.raises(ValueError, match="already finished; pass --overwrite to replace it"):
        write(tmp_path / "out", text="two")
    assert (tmp_path / "out" / "data").read_text() == "one"
    write(tmp_path / "out", text="two", overwrite=True)
    assert (tmp_path / "out" / "data").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_failed_overwrite_keeps_the_old_output(tmp_path):
    write(tmp_path / "out")
    with (
        pytest.raises(KeyboardInterrupt),
        publishing.OutputDirectory(tmp_path / "out", "pairs", overwrite=True) as stage,
    ):
        pathlib.Path(stage.address, "data").write_text("two")
        raise KeyboardInterrupt
    assert (tmp_path / "out" / "data").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_foreign_is_deleted(tmp_path, overwrite):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty and not written by"):
        publishing.OutputDirectory(tmp_path / "out", "pairs", overwrite=overwrite)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        publishing.OutputDirectory(tmp_path / "file", "pairs", overwrite=overwrite)
    (tmp_path / "new.unfinished").mkdir()
    (tmp_path / "new.unfinished" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not ours"):
        write(tmp_path / "new", overwrite=overwrite)
    assert len(list(tmp_path.rglob("thesis.txt"))) == 2


def test_another_kind_is_not_overwritten(tmp_path):
    write(tmp_path / "out")
    with pytest.raises(ValueError, match="holds pairs, not tokens"):
        publishing.OutputDirectory(tmp_path / "out", "tokens", overwrite=True)


def test_empty_folder_is_an_output(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").exists()


KILLED = """
import os, pathlib, sys
from parti.stages import publishing
with publishing.OutputDirectory(sys.argv[1], "pairs", {"size": 1}, resume=True) as stage:
    pathlib.Path(stage.address, "half").write_text("half")
    os._exit(9)
"""


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"settings": {"size": 1}, "resume": True}, True),
        ({"settings": {"size": 1}, "resume": False}, False),
        ({"settings": {"size": 2}, "resume": True}, False),
    ],
    ids=["resume", "no resume", "other settings"],
)
def test_after_a_kill(tmp_path, options, kept):
    output = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(output)], check=False)
    assert killed.returncode == 9
    assert not output.exists() and (tmp_path / "out.unfinished" / "half").exists()
    with pytest.raises(FileNotFoundError, match="`parti clean` has not finished; run it again"):
        manifests.read(output, "pairs")
    with publishing.OutputDirectory(output, "pairs", **options) as stage:
        assert stage.resumed == kept
        assert pathlib.Path(stage.address, "half").exists() == kept
        stage.publish(counts={})
    assert output.exists() and not (tmp_path / "out.unfinished").exists()


def test_an_interrupted_attempt_with_other_settings_is_refused(tmp_path):
    """What differs is named, nothing is removed; --overwrite begins anew."""
    of = {"resume": True, "refuse_other": True}
    old = {"size": 1, "parts": {"a": "0" * 64, "b": [2]}}
    write(tmp_path / "out", publish=False, settings=old, inputs={"from": "x"}, **of)
    new = {"size": 2, "parts": {"a": "1" * 64, "b": (2,)}, "rate": 0.5}
    message = (
        r"out.unfinished: an interrupted run had parts.a 000000000000... "
        r'\(now 111111111111...\), size 1 \(now 2\), from "x" \(now not given\), '
        r"rate not given \(now 0.5\); give"
    )
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / "out", settings=new, **of)
    with pytest.raises(ValueError, match="of another version of Parti, or of other input files"):
        write(tmp_path / "out", settings=old, inputs={"from": "x"}, state=1, **of)
    assert (tmp_path / "out.unfinished" / "data").read_text() == "one"
    same = {**old, "parts": {"a": "0" * 64, "b": (2,)}}
    assert write(tmp_path / "out", publish=False, settings=same, inputs={"from": "x"}, **of).resumed
    assert not write(tmp_path / "out", settings=new, overwrite=True, **of).resumed
    (tmp_path / "old.unfinished").mkdir()
    (tmp_path / "old.unfinished" / ".attempt.json").write_text('{"digest": "x"}')
    with pytest.raises(ValueError, match="earlier version of Parti left files there; give another"):
        write(tmp_path / "old", **of)


@pytest.mark.parametrize("resume", [True, False])
def test_an_interrupt_says_whether_the_same_command_goes_on(tmp_path, resume):
    stage = publishing.OutputDirectory(tmp_path / "out", "pairs", resume=resume)
    with pytest.raises(KeyboardInterrupt) as interrupt, stage:
        raise KeyboardInterrupt
    assert ("the same command goes on" in str(interrupt.value)) == resume


def test_kill_between_the_two_renames_is_undone(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "out.replaced")  # what publish does first
    write(tmp_path / "out", text="two", overwrite=True)
    assert (tmp_path / "out" / "data").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_two_writers_of_one_output(tmp_path):
    with (
        publishing.OutputDirectory(tmp_path / "out", "pairs"),
        pytest.raises(ValueError, match="another process is writing it now"),
    ):
        write(tmp_path / "out")


def test_manifest_messages(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder; `parti clean` makes it"):
        manifests.read(tmp_path / "none", "pairs")
    with pytest.raises(FileNotFoundError, match="no manifest.json here"):
        manifests.read(tmp_path, "pairs")
    write(tmp_path / "out")
    with pytest.raises(ValueError, match="holds pairs, not tokens"):
        manifests.read(tmp_path / "out", "tokens")
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(ValueError, match="schema version 99, this code reads 1"):
        manifests.read(tmp_path / "out", "pairs")


@pytest.fixture(params=["store", "tree"])
def remote(request, tmp_path, monkeypatch):
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    return f"{request.param}://bucket/out"


def put(output, text="one", publish=True, **options):
    with publishing.OutputDirectory(output, "pairs", **options) as stage:
        files.make_dirs(stage.scratch)
        files.write_bytes(files.join(stage.scratch, "work"), b"")
        files.write_bytes(files.join(stage.address, "data"), text.encode())
        if publish:
            stage.publish(counts={})
    return stage


def listed():
    """Returns the names of all files of both file systems, without scheme and bucket."""
    found = files.walk("store://bucket") + files.walk("tree://bucket")
    return [entry.path.partition("://bucket/")[2] for entry in found]


def test_a_remote_output_is_published_with_its_manifest(remote, tmp_path):
    put(remote, settings={"size": 1})
    assert listed() == ["out/data", "out/manifest.json"]
    write(tmp_path / "local", settings={"size": 1})
    local = manifests.read(tmp_path / "local", "pairs")
    assert manifests.read(remote, "pairs")["fingerprint"] == local["fingerprint"]
    with pytest.raises(ValueError, match="already finished"):
        put(remote)
    put(remote, text="two", overwrite=True)
    assert listed() == ["out/data", "out/manifest.json"]
    assert files.read_bytes(files.join(remote, "data")) == b"two"


def test_a_failed_remote_attempt_leaves_what_was_there(remote):
    put(remote)
    with (
        pytest.raises(KeyboardInterrupt),
        publishing.OutputDirectory(remote, "pairs", overwrite=True) as stage,
    ):
        files.write_bytes(files.join(stage.address, "data"), b"two")
        raise KeyboardInterrupt
    assert listed() == ["out/data", "out/manifest.json"]
    assert files.read_bytes(files.join(remote, "data")) == b"one"


def test_nothing_foreign_is_deleted_from_a_remote_place(remote):
    files.make_dirs(remote)
    files.write_bytes(files.join(remote, "thesis.txt"), b"mine")
    with pytest.raises(ValueError, match="not empty and not written by"):
        put(remote, overwrite=True)
    files.make_dirs(remote + "2.unfinished")
    files.write_bytes(files.join(remote + "2.unfinished", "thesis.txt"), b"mine")
    with pytest.raises(ValueError, match="not ours"):
        put(remote + "2")
    assert len(listed()) == 2


def test_a_remote_attempt_goes_on(remote):
    put(remote, publish=False, resume=True, settings={"size": 1})
    assert "out/manifest.json" not in listed()
    with publishing.OutputDirectory(remote, "pairs", {"size": 1}, resume=True) as stage:
        assert stage.resumed and files.exists(files.join(stage.scratch, "work"))
        stage.publish(counts={})
    assert listed() == ["out/data", "out/manifest.json"]


@pytest.mark.parametrize("old", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize("after", range(12))
def test_a_kill_at_any_point_of_the_publication(remote, monkeypatch, after, old):
    if old:
        put(remote, text="old")
    calls = []

    def limited(function):
        def call(*arguments, **options):
            calls.append(function.__name__)
            if len(calls) > after:
                raise SystemExit("killed")
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        stage = publishing.OutputDirectory(remote, "pairs", overwrite=True, resume=True)
        with contextlib.suppress(SystemExit), stage:
            for name in ("data", "more"):
                files.write_bytes(files.join(stage.address, name), b"new")
            for name in ("create", "rename", "delete", "copy"):
                for system in (fake_remote.Store, fake_remote.Tree):
                    patch.setattr(system, name, limited(getattr(system, name)))
            stage.publish(counts={})
    try:
        manifests.read(remote, "pairs")
        names = sorted(files.name(entry.path) for entry in files.list_folder(remote))
        whole = [["data", "manifest.json"]] * old + [["data", "manifest.json", "more"]]
        assert [name for name in names if name != ".attempt.json"] in whole
    except FileNotFoundError:
        pass
    with publishing.OutputDirectory(remote, "pairs", overwrite=True, resume=True) as stage:
        for name in ("data", "more"):
            files.write_bytes(files.join(stage.address, name), b"new")
        stage.publish(counts={})
    assert listed() == ["out/data", "out/manifest.json", "out/more"]
    assert files.read_bytes(files.join(remote, "data")) == b"new"


def test_two_writers_of_one_remote_output(remote):
    with publishing.OutputDirectory(remote, "pairs") as first:
        second = publishing.OutputDirectory(remote, "pairs")
        with second:
            with pytest.raises(ValueError, match="another process is writing it now"):
                first.publish(counts={})
            second.publish(counts={})
    assert listed() == ["out/manifest.json"]


def test_a_damaged_manifest_is_not_taken_for_something_else(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="manifest.json: damaged .*; remove the folder, or choose"):
        publishing.OutputDirectory(tmp_path / "out", "pairs", overwrite=True)


def test_a_damaged_mark_of_an_attempt_deletes_nothing(tmp_path):
    unfinished = tmp_path / "out.unfinished"
    unfinished.mkdir()
    (unfinished / "half").write_text("half")
    (unfinished / ".attempt.json").write_text('{"kind"')
    with pytest.raises(ValueError, match="damaged .*; remove .*out.unfinished to start over"):
        write(tmp_path / "out", resume=True)
    assert (unfinished / "half").read_text() == "half"
    (unfinished / ".attempt.json").unlink()
    (unfinished / "half").unlink()
    write(tmp_path / "out", resume=True)  # the lock was let go
