# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The markers of stages follow the outputs behind them, and a stage's lock keeps others out."""

import argparse
import ast
import dataclasses
import itertools
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO

import fake_remote
import pytest

from parti.stages import files
from parti.workflow import stage

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / stage.FOLDER).mkdir()
    return tmp_path


def run(workdir: pathlib.Path, script: str, *arguments: str, name: str = "pairs") -> int:
    """Runs a stage whose command is a shell script, which finds its arguments in $1, $2, ..."""
    return start(workdir, script, arguments, name).wait(60)


def start(
    workdir: pathlib.Path, script: str, arguments: Sequence[str] = (), name: str = "pairs"
) -> subprocess.Popen[bytes]:
    (workdir / "command.sh").write_text(script)
    environment = os.environ | {
        stage.COMMAND_VARIABLE: f"sh {workdir / 'command.sh'}",
        "PYTHONPATH": str(ROOT),
    }
    words = [*("--name", name, "--output", name, "--what", "w", "--inputs", "--"), *arguments]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "parti.workflow.stage", *words], cwd=workdir, env=environment
    )


MAKE = """
mkdir -p pairs/train
echo "$@" > pairs/train/data
echo "{\\"fingerprint\\": \\"$2\\"}" > pairs/manifest.json
"""


def fingerprint(workdir: pathlib.Path) -> str | None:
    """Returns what the marker says; None without one."""
    path = stage.marker_path(workdir, "pairs")
    return json.loads(path.read_text())["fingerprint"] if path.exists() else None


def test_a_marker_follows_its_output(workdir: pathlib.Path) -> None:
    assert run(workdir, MAKE, "clean", "one") == 0
    stage.reconcile(workdir)
    assert fingerprint(workdir) == "one"
    (workdir / "pairs" / "manifest.json").write_text('{"fingerprint": "by hand"}')
    stage.reconcile(workdir)
    assert fingerprint(workdir) == "by hand"
    (workdir / "pairs" / "train" / "data").unlink()
    stage.reconcile(workdir)
    assert fingerprint(workdir) is None


def test_a_marker_ends_with_its_manifest(workdir: pathlib.Path) -> None:
    assert run(workdir, MAKE, "clean", "one") == 0
    (workdir / "pairs" / "manifest.json").unlink()
    stage.reconcile(workdir)
    assert fingerprint(workdir) is None


def test_of_a_training_checkpoints_may_be_deleted(workdir: pathlib.Path) -> None:
    assert run(workdir, MAKE, "train", "one") == 0
    (workdir / "pairs" / "train" / "data").unlink()
    stage.reconcile(workdir)
    assert fingerprint(workdir) == "one"


def test_the_same_request_does_nothing_and_an_old_one_brings_its_output_back(
    workdir: pathlib.Path,
) -> None:
    assert run(workdir, MAKE, "clean", "one") == 0
    assert run(workdir, "exit 9", "clean", "one") == 0
    assert stage.read_record(workdir, "pairs")["reused"]
    assert run(workdir, "exit 9", "clean", "two") == 9
    assert stage.read_record(workdir, "pairs")["state"] == "failed"
    assert not (workdir / "pairs").exists()
    assert run(workdir, "exit 9", "clean", "one") == 0
    assert (workdir / "pairs" / "train" / "data").read_text() == "clean one\n"
    assert run(workdir, MAKE, "clean", "two") == 0
    assert not list((workdir / stage.FOLDER / "replaced").iterdir())


def test_a_damaged_record_or_marker_is_an_error_whose_cure_works(workdir: pathlib.Path) -> None:
    assert run(workdir, MAKE, "clean", "one") == 0
    marker, record = stage.marker_path(workdir, "pairs"), stage.record_path(workdir, "pairs")
    marker.write_text("{")
    with pytest.raises(ValueError, match=r"pairs.done: damaged .*; remove it; the next run writes"):
        stage.reconcile(workdir)
    marker.unlink()
    assert run(workdir, "exit 9", "clean", "one") == 0 and fingerprint(workdir) == "one"
    for remove_output in (False, True):
        record.write_text("{")
        with pytest.raises(ValueError, match=r"pairs.json: damaged .*; remove it, and the stage's"):
            stage.reconcile(workdir)
        record.unlink()
        if remove_output:
            shutil.rmtree(workdir / "pairs")
        assert run(workdir, MAKE, "clean", "two") == 0
        assert fingerprint(workdir) == ("two" if remove_output else "one")


def test_a_command_that_writes_no_manifest_has_failed(workdir: pathlib.Path) -> None:
    assert run(workdir, "exit 0", "clean") == 1
    assert "wrote no" in stage.log_path(workdir, "pairs").read_text()


def test_a_signalled_stage_stops_its_command(workdir: pathlib.Path) -> None:
    process = start(workdir, "echo ready; exec sleep 60", ["clean"])
    log = stage.log_path(workdir, "pairs")
    end = time.monotonic() + 60
    while not (log.exists() and "ready" in log.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    with open(workdir / stage.FOLDER / "pairs.lock") as lock:
        assert not stage.take_lock(lock, patience=0.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert stage.take_lock(lock, patience=30.0)
    assert stage.read_record(workdir, "pairs")["state"] == "stopped"


@pytest.mark.parametrize("name", ["plain", "it's", 'q"', "a\\new", "\\", "{x}", "b=@", "'@"])
def test_the_working_folder_is_what_it_is_in_every_word(name: str) -> None:
    folder = pathlib.Path("/tmp") / name
    assert stage.in_folder("--input=@/pairs", folder) == f"--input=/tmp/{name}/pairs"
    assert stage.in_folder("@/raw", folder) == f"/tmp/{name}/raw"
    word = stage.in_folder("--gin.PAIRS_DIR='@/pairs'", folder)
    assert ast.literal_eval(word.removeprefix("--gin.PAIRS_DIR=")) == f"/tmp/{name}/pairs"
    # Only where a path begins.
    for other in ("/data/b=@/a.tar", "/data/it's '@/a.tar", "--gin.NOTE='see @/x'"):
        assert stage.in_folder(other, folder) == other


class Killed(BaseException):
    """What ends a process between two requests to a store."""


@dataclasses.dataclass
class Remote:
    """A stage with its output in `store://`; its command writes its last word to two files.

    Attributes:
      made: the last word of each command that was run.
      left: how many files are written or deleted before the process is killed.
    """

    workdir: pathlib.Path
    storage: str = "store://bucket/run"
    made: list[str] = dataclasses.field(default_factory=list)
    left: float = math.inf

    def run(self, setting: str, verb: str = "clean") -> int:
        words = {"name": "pairs", "output": "pairs", "what": "w", "digest": "", "inputs": []}
        command = [verb, "--output=@/pairs", setting]
        options = argparse.Namespace(**words, storage=self.storage, command=command)
        with open(self.workdir / stage.FOLDER / "pairs.lock", "a+") as lock:
            return stage._Stage(self.workdir, options, lambda: False).run(lock)

    def request(self) -> None:
        """Counts a file that is written or deleted."""
        self.left -= 1
        if self.left < 0:
            raise Killed

    def command(self, running: stage._Stage, lock: IO[str]) -> int:
        verb, output, setting = running.command
        assert output == f"--output={self.storage}/pairs"
        assert "manifest.json" not in self.content(), "a command refuses what is finished"
        self.made.append(setting)
        for name in ("data", "train/data"):
            files.write_bytes(f"{self.storage}/pairs/{name}", setting.encode())
        manifest = json.dumps({"fingerprint": setting}).encode()
        files.write_bytes(f"{self.storage}/pairs/manifest.json", manifest)
        return 0

    def content(self) -> dict[str, str]:
        root = f"{self.storage}/pairs"
        found = [entry.path for entry in files.walk(root)]
        return {path[len(root) + 1 :]: files.read_bytes(path).decode() for path in found}

    def is_whole(self, setting: str) -> bool:
        files_of = dict.fromkeys(("data", "train/data"), setting)
        return self.content() == files_of | {"manifest.json": f'{{"fingerprint": "{setting}"}}'}

    def marker(self) -> str | None:
        stage.reconcile(self.workdir, self.storage)
        return fingerprint(self.workdir)


@pytest.fixture
def make_remote(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Remote]]:
    """Makes working folders with a storage of their own, one at a time."""
    made: list[Remote] = []

    def make() -> Remote:
        folder = tmp_path / f"{len(made)}"
        (folder / "work" / stage.FOLDER).mkdir(parents=True)
        (folder / "remote").mkdir()
        monkeypatch.setenv(fake_remote.ROOT, str(folder / "remote"))
        made.append(Remote(folder / "work"))
        return made[-1]

    delete, close = fake_remote.Store.delete, fake_remote._Upload.close

    def count_deleted(self: fake_remote.Store, paths: Sequence[str]) -> None:
        for path in paths:
            made[-1].request()
            delete(self, [path])

    def count_written(self: fake_remote._Upload) -> None:
        if not self.closed:
            made[-1].request()
        close(self)

    monkeypatch.setattr(fake_remote.Store, "delete", count_deleted)
    monkeypatch.setattr(fake_remote._Upload, "close", count_written)
    monkeypatch.setattr(
        stage._Stage, "_run_command", lambda running, lock: made[-1].command(running, lock)
    )
    yield make
    for remote in made:
        remote.left = math.inf  # for files that are closed late


def test_a_remote_output_is_made_once_and_again_when_it_is_lost_or_changed(make_remote) -> None:
    remote = make_remote()
    assert remote.run("one") == 0 and remote.marker() == "one"
    assert remote.run("one") == 0 and remote.made == ["one"]
    assert stage.read_record(remote.workdir, "pairs")["reused"]
    for name in ("manifest.json", "train/data"):
        files.remove(f"{remote.storage}/pairs/{name}")
        assert remote.marker() is None
        assert remote.run("one") == 0 and remote.is_whole("one") and remote.marker() == "one"
    assert remote.made == ["one"] * 3
    # Somebody else's: another manifest, with at least as many bytes.
    files.write_bytes(f"{remote.storage}/pairs/manifest.json", b'{"fingerprint": "another"}')
    assert remote.marker() is None
    assert remote.run("one") == 0 and remote.made == ["one"] * 4
    assert remote.is_whole("one") and remote.marker() == "one"
    assert not files.walk(f"{remote.storage}/.stages/replaced")


def test_a_second_working_folder_goes_on_with_a_storage(make_remote, tmp_path) -> None:
    first = make_remote()
    assert first.run("one") == 0
    second = Remote(tmp_path / "second")
    (second.workdir / stage.FOLDER).mkdir(parents=True)
    second.made = first.made
    assert second.run("one") == 0 and first.made == ["one"] and second.marker() == "one"
    assert second.run("two") == 0 and first.made == ["one", "two"]
    assert first.marker() is None  # what it knew is replaced


def test_the_storage_of_a_working_folder_stays(make_remote) -> None:
    remote = make_remote()
    assert remote.run("one") == 0
    with pytest.raises(ValueError, match="its data are at store://bucket/run, not here; set sto"):
        stage.reconcile(remote.workdir)
    with pytest.raises(ValueError, match="not at store://bucket/other; .* choose another --workd"):
        stage.reconcile(remote.workdir, "store://bucket/other")


@pytest.mark.parametrize("back", ["one", "two"])
def test_a_kill_at_any_request_of_a_switch_loses_nothing(make_remote, back: str) -> None:
    """Output "one" is replaced by "two", then one of them is asked for."""
    for number in itertools.count():
        remote = make_remote()
        assert remote.run("one") == 0
        remote.left = number
        try:
            remote.run("two")
        except Killed:
            pass
        else:
            break
        remote.left = math.inf
        finished = stage.read_record(remote.storage, "pairs")["state"] == "done"
        remote.made.clear()
        assert remote.run(back) == 0
        assert remote.is_whole(back) and remote.marker() == back
        if back == "one" and not finished:
            assert remote.made == []  # it was brought back
    assert number > 15


def test_a_kill_at_any_request_of_a_switch_keeps_a_training_that_is_not_finished(
    make_remote, monkeypatch
) -> None:
    """One that was stopped after its first checkpoint, then another setting, then the first."""
    for number in itertools.count():
        remote = make_remote()
        with monkeypatch.context() as patch:
            step = f"{remote.storage}/pairs/step"
            patch.setattr(
                remote,
                "command",
                lambda running, lock, step=step: files.write_bytes(step, b"one") or 143,
            )
            assert remote.run("one", "train") == 143
        remote.left = number
        try:
            remote.run("two", "train")
        except Killed:
            pass
        else:
            break
        remote.left = math.inf
        if stage.read_record(remote.storage, "pairs")["state"] == "done":
            continue
        assert remote.run("one", "train") == 0
        assert remote.content()["step"] == "one"
    assert number > 10


def test_a_store_that_fails_is_told_in_the_log(make_remote, monkeypatch) -> None:
    remote = make_remote()
    monkeypatch.chdir(remote.workdir)
    monkeypatch.setattr(stage, "_watch_for_stop", lambda: lambda: False)
    monkeypatch.setattr(fake_remote.Store, "exists", lambda self, path: 1 / 0)
    words = ["--name=pairs", "--output=pairs", "--what=w", f"--storage={remote.storage}", "clean"]
    assert stage.main(words) == 1
    assert "store://bucket/run/" in stage.log_path(remote.workdir, "pairs").read_text()
    assert stage.read_record(remote.workdir, "pairs")["state"] == "failed"


def test_words_of_a_command_at_an_address() -> None:
    def at(word: str) -> str:
        return stage.in_folder(word, "gs://bucket/run")

    assert at("--workdir=@/.") == "--workdir=gs://bucket/run"
    assert at("--input=@/pairs") == "--input=gs://bucket/run/pairs"
    assert at("--gin.MODEL_DIR='@/generator'") == "--gin.MODEL_DIR='gs://bucket/run/generator'"
    mixed = "--gin.PAIRS_DIR={'@/pairs_a': 0.7, '@/pairs_b': 0.3}"
    assert at(mixed) == mixed.replace("@/", "gs://bucket/run/")
