# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs one stage of a workflow: continues, restores or replaces its output (see the Snakefile).

Snakemake decides which stages run, and in what order. It sees only marker files,
`.stages/<name>.done`, because it deletes the output of a job that starts or fails, which a training
folder must survive. The *request* of a stage is the digest of its command and of its inputs'
fingerprints. The same request again: the output is continued, or already done. Another: the output
is moved to `.stages/replaced/`, from where the old request brings it back until the new one is
finished. A marker holds the output's fingerprint, and `reconcile` drops or renews the stale ones.
"""

import argparse
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

from parti.stages import files, manifests, progress_line

FOLDER = ".stages"
COMMAND_VARIABLE = "PARTI_COMMAND"  # replaces `python -m parti`, for containers and tests
_GRACE_SECONDS = 60.0  # a training saves a checkpoint when it is told to stop
_POLL_SECONDS = 0.2
# What to do about a damaged file here.
_RECORD_REMEDY = "remove it, and the stage's output too unless it is to be taken as it is"
_MARKER_REMEDY = "remove it; the next run writes it anew"


def marker_path(workdir: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the file that Snakemake sees as a stage's output."""
    return workdir / FOLDER / f"{name}.done"


def log_path(workdir: pathlib.Path, name: str) -> pathlib.Path:
    """Returns where a stage's own output and that of its libraries goes."""
    return workdir / "logs" / f"{name}.log"


def progress_path(workdir: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the JSON copy of a stage's progress line (see `parti.stages.progress_line`)."""
    return workdir / "logs" / f"{name}.progress.json"


def record_path(workdir: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the record of a stage's last start: request, output, state, times."""
    return workdir / FOLDER / f"{name}.json"


def read_record(workdir: pathlib.Path, name: str) -> dict[str, Any]:
    """Returns what is recorded about a stage's last start; {} if it never started."""
    return manifests.read_json(record_path(workdir, name), _RECORD_REMEDY)


def read_records(workdir: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the records of all stages that were ever started in a folder."""
    names = sorted(path.stem for path in (workdir / FOLDER).glob("*.json"))
    return {name: record for name in names if (record := read_record(workdir, name))}


def reconcile(workdir: pathlib.Path) -> None:
    """Makes the markers tell the truth about the outputs behind them."""
    for name, record in read_records(workdir).items():
        marker = marker_path(workdir, name)
        if not marker.is_file():
            continue
        output = workdir / record["output"]
        fingerprint = _fingerprint(output)
        changed = fingerprint != manifests.read_json(marker, _MARKER_REMEDY).get("fingerprint")
        if fingerprint and changed:
            _finish(workdir, record)  # made by hand in the meantime: take it as it is
        elif fingerprint is None or not _is_whole(output, record.get("files", {})):
            marker.unlink()


def main(argv: Sequence[str] | None = None) -> int:
    """Brings one stage's output to what its command and inputs ask for."""
    parser = argparse.ArgumentParser(prog="python -m parti.workflow.stage", allow_abbrev=False)
    add = parser.add_argument
    add("--name", required=True)
    add("--output", required=True, help="folder, relative to the working one")
    add("--inputs", nargs="*", default=[], help="markers of the stages it reads")
    add("--what", default="", help="what the stage does, for the display")
    add("--digest", default="", help="state of inputs that no stage makes")
    add("command", nargs="+", help="`@/` in it is the working folder")
    options = parser.parse_args(argv)
    must_stop = _watch_for_stop()
    workdir = pathlib.Path.cwd()
    (workdir / FOLDER).mkdir(exist_ok=True)
    with open(workdir / FOLDER / f"{options.name}.lock", "a+") as lock:
        if not take_lock(lock, _GRACE_SECONDS + 10, must_stop):
            print(f"{options.name}: still at work in {workdir}, from an earlier run; wait for it")
            return 1
        return _Stage(workdir, options, must_stop).run(lock)


class _Stage:
    def __init__(
        self, workdir: pathlib.Path, options: argparse.Namespace, must_stop: Callable[[], bool]
    ) -> None:
        self.workdir, self.name, self.must_stop = workdir, options.name, must_stop
        self.output = workdir / options.output
        self.command = [_in_folder(word, workdir) for word in options.command]
        self.before = read_record(workdir, options.name)
        inputs = {
            path: manifests.read_json(workdir / path, _MARKER_REMEDY).get("fingerprint")
            for path in options.inputs
        }
        self.record = {
            "name": options.name,
            "what": options.what,
            "output": options.output,
            "command": options.command,
            "request": manifests.digest([options.command, inputs, options.digest]),
            "started": time.time(),
        }

    def run(self, lock: IO[str]) -> int:
        """Continues, restores or starts over; returns the command's exit code."""
        (self.workdir / "logs").mkdir(exist_ok=True)
        progress_path(self.workdir, self.name).unlink(missing_ok=True)
        counts = self.before.get("files", {})
        # Without a record the output was put here by hand: it is taken as it is.
        if self.before and self.before.get("request") != self.record["request"]:
            self._move_aside()
            if (slot := self._replaced(self.record["request"])).exists():
                slot.rename(self.output)
            counts = {}
        if _fingerprint(self.output) is not None:
            if _is_whole(self.output, counts):
                self._write_record("done", reused=True)
                _finish(self.workdir, self.record)
                return 0
            # It lost files: it is unfinished again.
            if self.command[0] == "train":  # goes on from its checkpoints and finishes at once
                (self.output / manifests.FILE_NAME).unlink()
            else:
                self._move_aside()
        self._write_record("running")
        code = self._run_command(lock)
        if code == 0 and _fingerprint(self.output) is None:
            self._log(f"ended without an error, but wrote no {self.output / manifests.FILE_NAME}")
            code = 1
        self._write_record({0: "done", 130: "stopped", 143: "stopped"}.get(code, "failed"))
        if code == 0:
            _finish(self.workdir, self.record)
            for slot in self._replaced("").parent.glob(f"{self.name}-*"):
                files.remove_tree(slot)
        return code

    def _replaced(self, request: str) -> pathlib.Path:
        return self.workdir / FOLDER / "replaced" / f"{self.name}-{request[:16]}"

    def _move_aside(self) -> None:
        """Moves away what another request has made; what it has not finished is deleted."""
        slot = self._replaced(self.before.get("request", ""))
        files.remove_tree(f"{self.output}{manifests.UNFINISHED_SUFFIX}")
        if self.output.exists():
            slot.parent.mkdir(exist_ok=True)
            files.remove_tree(slot)
            self.output.rename(slot)

    def _write_record(self, state: str, **fields: Any) -> None:
        self.record |= {"state": state, "updated": time.time()} | fields
        manifests.write_json(record_path(self.workdir, self.name), self.record)

    def _log(self, message: str) -> None:
        with open(log_path(self.workdir, self.name), "a", encoding="utf-8") as log:
            log.write(f"\n{message}\n")

    def _run_command(self, lock: IO[str]) -> int:
        """Runs the command with its output in the log; stops it when this process must stop."""
        base = os.environ.get(COMMAND_VARIABLE) or f"{shlex.quote(sys.executable)} -P -m parti"
        command = shlex.split(base) + self.command
        progress = {progress_line.FILE_VARIABLE: str(progress_path(self.workdir, self.name))}
        with open(log_path(self.workdir, self.name), "ab") as log:
            log.write(f"$ {' '.join(map(_quoted, command))}\n".encode())
            log.flush()
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | progress,
                pass_fds=[lock.fileno()],  # held while the command lives, whatever becomes of us
                start_new_session=True,
            )
            while (code := child.poll()) is None:
                if self.must_stop():
                    _stop(child)
                time.sleep(_POLL_SECONDS)
        if self.must_stop():
            return 143
        if code < 0:
            reason = " (the system does that when memory is full)" if code == -9 else ""
            self._log(f"ended by signal {-code}{reason}")
        return code if code >= 0 else 128 - code


def _watch_for_stop() -> Callable[[], bool]:
    """Returns what tells whether a signal came or the process that started us is gone."""
    parent, signals = os.getppid(), list[int]()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: signals.append(number))
    return lambda: bool(signals) or os.getppid() != parent


def _stop(child: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(child.pid, number)
            child.wait(seconds)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        return


def take_lock(lock: IO[str], patience: float, stop: Callable[[], bool] = lambda: False) -> bool:
    """Takes a lock file's lock, which those who inherit it hold too; waits `patience` seconds.

    Returns whether it was free in time; False if `stop` returned True before.
    """
    end = time.monotonic() + patience
    while not stop():
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_SECONDS)
        except OSError:  # a file system without locks
            return True
        else:
            return True
    return False


def _finish(workdir: pathlib.Path, record: dict[str, Any]) -> None:
    """Records how many files belong to a stage's output, and writes its marker."""
    output, name = workdir / record["output"], record["name"]
    counts = _count_files(output, top_only=record["command"][0] == "train")
    manifests.write_json(record_path(workdir, name), record | {"files": counts})
    content = {"stage": name, "fingerprint": _fingerprint(output)}
    manifests.write_json(marker_path(workdir, name), content)


def _fingerprint(output: pathlib.Path) -> str | None:
    """Returns the fingerprint in an output's manifest, else the digest of it; None: no manifest."""
    try:
        content = (output / manifests.FILE_NAME).read_bytes()
    except OSError:
        return None
    try:
        return str(json.loads(content)["fingerprint"])
    except (ValueError, KeyError, TypeError):
        return hashlib.sha256(content).hexdigest()


def _count_files(output: pathlib.Path, top_only: bool) -> dict[str, list[int]]:
    """Returns {folder: [files, bytes]} of an output, for "." and each folder directly in it.

    With `top_only` only for ".": old checkpoints of a training may be deleted.
    """
    counts: dict[str, list[int]] = {}
    for folder, below, names in os.walk(output):
        first = pathlib.Path(folder).relative_to(output).parts[:1]
        count = counts.setdefault(first[0] if first else ".", [0, 0])
        count[0] += len(names)
        count[1] += sum(os.stat(os.path.join(folder, name)).st_size for name in names)
        if top_only:
            below.clear()
    return counts


def _is_whole(output: pathlib.Path, counts: dict[str, list[int]]) -> bool:
    """Returns whether an output still has at least the files and bytes that belonged to it."""
    present = _count_files(output, top_only=set(counts) <= {"."})
    pairs = ((present.get(folder, [0, 0]), counted) for folder, counted in counts.items())
    return all(now >= before for pair in pairs for now, before in zip(*pair, strict=True))


def _in_folder(word: str, workdir: pathlib.Path) -> str:
    """Returns a word of a command with the working folder for `@/`, where a path may begin."""
    here = f"{workdir}/"
    if word.startswith("--gin."):  # there it is part of a Python literal
        here = re.sub(r"([\\'\"])", r"\\\1", here)
    # The first path of a flag, and the others of a dict of several data sets.
    first, others = r"^(?:--[\w.]+=)?\{?'?", r"(?<=\d), '"
    return re.sub(rf"({first}|{others})@/", lambda match: f"{match[1]}{here}", word)


def _quoted(word: str) -> str:
    """Returns a word for a shell, `"--gin.X='a'"` rather than `'--gin.X='"'"'a'"'"''`."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


if __name__ == "__main__":
    sys.exit(main())
