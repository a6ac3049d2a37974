# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The markers of stages follow the outputs behind them, and a stage's lock keeps others out."""

import ast
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

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
    assert stage._in_folder("--input=@/pairs", folder) == f"--input=/tmp/{name}/pairs"
    assert stage._in_folder("@/raw", folder) == f"/tmp/{name}/raw"
    word = stage._in_folder("--gin.PAIRS_DIR='@/pairs'", folder)
    assert ast.literal_eval(word.removeprefix("--gin.PAIRS_DIR=")) == f"/tmp/{name}/pairs"
    # Only where a path begins.
    for other in ("/data/b=@/a.tar", "/data/it's '@/a.tar", "--gin.NOTE='see @/x'"):
        assert stage._in_folder(other, folder) == other
