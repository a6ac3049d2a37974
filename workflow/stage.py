# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs one stage of a workflow: continues, restores or replaces its output (see the Snakefile).

Snakemake decides which stages run, and in what order. It sees only marker files,
`.stages/<name>.done`, because it deletes the output of a job that starts or fails, which a training
folder must survive. The *request* of a stage is the digest of its command and of its inputs'
fingerprints. The same request again: the output is continued, or already done. Another: the output
is moved to `.stages/replaced/`, from where the old request brings it back until the new one is
finished. A marker holds the output's fingerprint, and `reconcile` drops or renews the stale ones.

With `storage:` outputs, records and what is replaced are at that address, so that another machine
goes on from there; markers, locks, logs and a copy of the records for the display stay in the
working folder. A move in an object store is a copy and a deletion, of which the record keeps
account, so that the next start completes what a kill interrupted.
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
_REPLACED = f"{FOLDER}/replaced"
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


def read_record(root: files.Path, name: str) -> dict[str, Any]:
    """Returns what is recorded, in the working folder or the storage, about a stage's last start.

    It is {} if it never started.
    """
    return manifests.read_json(files.join(root, FOLDER, f"{name}.json"), _RECORD_REMEDY)


def read_records(workdir: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the records of all stages that were ever started in a folder."""
    names = sorted(path.stem for path in (workdir / FOLDER).glob("*.json"))
    return {name: record for name in names if (record := read_record(workdir, name))}


def check_storage(workdir: pathlib.Path, storage: str) -> None:
    """Raises ValueError if a working folder's stages have their data in another place."""
    for record in read_records(workdir).values():
        if (other := record.get("storage", "")) != storage:
            raise ValueError(
                f"--workdir {workdir}: its data are {f'at {other}' if other else 'in this folder'}"
                f", not {f'at {storage}' if storage else 'here'}; set storage as it was, or choose "
                "another --workdir"
            )


def reconcile(workdir: pathlib.Path, storage: str = "") -> None:
    """Makes the markers tell the truth about the outputs behind them."""
    check_storage(workdir, storage)
    for name, record in read_records(workdir).items():
        marker = marker_path(workdir, name)
        if not marker.is_file():
            continue
        if storage:
            record = read_record(storage, name) or record
        output = files.join(storage or workdir, record["output"])
        fingerprint = _fingerprint(output)
        changed = fingerprint != manifests.read_json(marker, _MARKER_REMEDY).get("fingerprint")
        if fingerprint and changed and not storage:
            _finish(workdir, record)  # made by hand in the meantime: take it as it is
        elif fingerprint is None or changed or not _is_whole(output, record.get("files", {})):
            marker.unlink()


def main(argv: Sequence[str] | None = None) -> int:
    """Brings one stage's output to what its command and inputs ask for."""
    parser = argparse.ArgumentParser(prog="python -m parti.workflow.stage", allow_abbrev=False)
    add = parser.add_argument
    add("--name", required=True)
    add("--output", required=True, help="folder, relative to the working one or the storage")
    add("--storage", default="", help="address of all outputs (default: the working folder)")
    add("--inputs", nargs="*", default=[], help="markers of the stages it reads")
    add("--what", default="", help="what the stage does, for the display")
    add("--digest", default="", help="state of inputs that no stage makes")
    add("command", nargs="+", help="`@/` in it is the working folder, or the storage")
    options = parser.parse_args(argv)
    must_stop = _watch_for_stop()
    workdir = pathlib.Path.cwd()
    (workdir / FOLDER).mkdir(exist_ok=True)
    with open(workdir / FOLDER / f"{options.name}.lock", "a+") as lock:
        if not take_lock(lock, _GRACE_SECONDS + 10, must_stop):
            print(f"{options.name}: still at work in {workdir}, from an earlier run; wait for it")
            return 1
        try:
            return _Stage(workdir, options, must_stop).run(lock)
        except (OSError, ValueError) as error:
            if not options.storage:
                raise
            _fail(workdir, options, str(error))  # the store's fault, mostly
            return 1


class _Stage:
    def __init__(
        self, workdir: pathlib.Path, options: argparse.Namespace, must_stop: Callable[[], bool]
    ) -> None:
        self.workdir, self.name, self.must_stop = workdir, options.name, must_stop
        self.storage = options.storage
        self.root = options.storage or str(workdir)
        self.output = files.join(self.root, options.output)
        self.command = [in_folder(word, self.root) for word in options.command]
        self.before = read_record(self.root, options.name)
        inputs = {
            path: manifests.read_json(workdir / path, _MARKER_REMEDY).get("fingerprint")
            for path in options.inputs
        }
        self.request = manifests.digest([options.command, inputs, options.digest])
        self.record = {
            "name": options.name,
            "what": options.what,
            "output": options.output,
            **({"storage": self.storage} if self.storage else {}),
            "command": options.command,
            "request": self.request,
            "kept": self.before.get("kept", []),  # requests whose outputs are in `replaced`, whole
            "started": time.time(),
        }

    def run(self, lock: IO[str]) -> int:
        """Continues, restores or starts over; returns the command's exit code."""
        (self.workdir / "logs").mkdir(exist_ok=True)
        progress_path(self.workdir, self.name).unlink(missing_ok=True)
        self._complete_move()
        counts = self.before.get("files", {})
        # Without a record the output was put here by hand: it is taken as it is.
        if self.before and self.before.get("request") != self.request:
            self._move_aside(self.before.get("request", ""))
            if self.request in self.record["kept"]:
                self._move(self._replaced(self.request), self.record["output"], self.request)
            counts = {}
        if (found := _fingerprint(self.output)) is not None:
            is_ours = not self.storage or self.before.get("fingerprint", found) == found
            if is_ours and _is_whole(self.output, counts):
                self._write_record("done", reused=True)
                _finish(self.workdir, self.record)
                return 0
            # It lost files, or is of somebody else: it is unfinished again.
            if is_ours and self.command[0] == "train":  # goes on from its checkpoints and finishes
                files.remove(files.join(self.output, manifests.FILE_NAME))
            else:
                self._move_aside("damaged")
        self._write_record("running")
        code = self._run_command(lock)
        if code == 0 and _fingerprint(self.output) is None:
            self._log(f"ended without an error, but wrote no {self.output}/{manifests.FILE_NAME}")
            code = 1
        self._write_record({0: "done", 130: "stopped", 143: "stopped"}.get(code, "failed"))
        if code == 0:
            self.record["kept"] = []  # from here on nothing of it is brought back
            _finish(self.workdir, self.record)
            slots = files.join(self.root, _REPLACED)
            for slot in files.list_names(slots):
                if slot.startswith(f"{self.name}-"):
                    files.remove_tree(files.join(slots, slot))
        return code

    def _replaced(self, request: str) -> str:
        return f"{_REPLACED}/{self.name}-{request[:16]}"

    def _move_aside(self, request: str) -> None:
        """Moves away what another request has made; what it has not finished is deleted."""
        if files.is_dir(self.output):
            self._move(self.record["output"], self._replaced(request), "", kept=request)
        else:
            self._note(None)
        files.remove_tree(f"{self.output}{manifests.UNFINISHED_SUFFIX}")

    def _move(self, source: str, target: str, request: str, kept: str = "") -> None:
        """Moves a folder of the root; of the output then is `request`, of what is aside `kept`."""
        self._note({"source": source, "target": target, "request": request, "kept": kept})
        self._complete_move()

    def _complete_move(self) -> None:
        """Makes the move that the record speaks of; a kill at any point leaves it to be made."""
        if not (move := self.before.get("move")):
            return
        source, target = (files.join(self.root, move[key]) for key in ("source", "target"))
        if files.is_object_store(self.root):
            if not move.get("copied"):
                files.remove_tree(target)  # what an interrupted copy left
                paths = [entry.path for entry in files.walk(source)]
                files.copy(paths, [target + path[len(source) :] for path in paths])
                self._note(move | {"copied": True})
            files.remove_tree(source)
        elif files.is_dir(source):
            files.remove_tree(target)
            files.make_dirs(files.parent(target))
            files.rename(source, target)
        self.record["kept"] = [
            *(request for request in self.record["kept"] if request != move["request"]),
            *filter(None, [move["kept"]]),
        ]
        self._note(None, move["request"])

    def _note(self, move: dict[str, Any] | None, request: str = "") -> None:
        """Records a move that is being made, or the request of the output after it."""
        noted = {"state": "running", "updated": time.time(), "request": request, "move": move}
        self.before = self.record | noted
        _write_record(self.workdir, self.before)

    def _write_record(self, state: str, **fields: Any) -> None:
        self.record |= {"state": state, "updated": time.time()} | fields
        _write_record(self.workdir, self.record)

    def _log(self, message: str) -> None:
        _log(self.workdir, self.name, message)

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


def _log(workdir: pathlib.Path, name: str, message: str) -> None:
    with open(log_path(workdir, name), "a", encoding="utf-8") as log:
        log.write(f"\n{message}\n")


def _fail(workdir: pathlib.Path, options: argparse.Namespace, message: str) -> None:
    """Says in the log, and in the record for the display, why a stage could not begin or end."""
    (workdir / "logs").mkdir(exist_ok=True)
    _log(workdir, options.name, message)
    record = {name: getattr(options, name) for name in ("name", "what", "output", "storage")}
    record |= {"state": "failed", "started": time.time(), "updated": time.time()}
    manifests.write_json(record_path(workdir, options.name), record)


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


def _write_record(workdir: pathlib.Path, record: dict[str, Any]) -> None:
    if storage := record.get("storage"):
        manifests.write_json(files.join(storage, FOLDER, f"{record['name']}.json"), record)
    manifests.write_json(record_path(workdir, record["name"]), record)


def _finish(workdir: pathlib.Path, record: dict[str, Any]) -> None:
    """Records what belongs to a stage's output, and writes its marker."""
    output = files.join(record.get("storage") or workdir, record["output"])
    counts = _count_files(output, top_only=record["command"][0] == "train")
    fingerprint = _fingerprint(output)
    _write_record(workdir, record | {"files": counts, "fingerprint": fingerprint})
    content = {"stage": record["name"], "fingerprint": fingerprint}
    manifests.write_json(marker_path(workdir, record["name"]), content)


def _fingerprint(output: str) -> str | None:
    """Returns the fingerprint in an output's manifest, else the digest of it; None: no manifest."""
    path = files.join(output, manifests.FILE_NAME)
    # That a store fails does not mean that nothing is there.
    if files.is_remote(path) and not files.exists(path):
        return None
    try:
        content = files.read_bytes(path)
    except OSError:
        if files.is_remote(path):
            raise
        return None
    try:
        return str(json.loads(content)["fingerprint"])
    except (ValueError, KeyError, TypeError):
        return hashlib.sha256(content).hexdigest()


def _count_files(output: str, top_only: bool) -> dict[str, list[int]]:
    """Returns {folder: [files, bytes]} of an output, for "." and each folder directly in it.

    With `top_only` only for ".": old checkpoints of a training may be deleted.
    """
    counts: dict[str, list[int]] = {}
    if files.is_remote(output):
        for entry in files.walk(output):
            first, *below = entry.path[len(output) + 1 :].split("/")
            if not (below and top_only):
                count = counts.setdefault(first if below else ".", [0, 0])
                count[0] += 1
                count[1] += entry.num_bytes
        return counts
    for folder, inner, names in os.walk(output):
        parts = pathlib.Path(folder).relative_to(output).parts[:1]
        count = counts.setdefault(parts[0] if parts else ".", [0, 0])
        count[0] += len(names)
        count[1] += sum(os.stat(os.path.join(folder, name)).st_size for name in names)
        if top_only:
            inner.clear()
    return counts


def _is_whole(output: str, counts: dict[str, list[int]]) -> bool:
    """Returns whether an output still has at least the files and bytes that belonged to it."""
    present = _count_files(output, top_only=set(counts) <= {"."})
    pairs = ((present.get(folder, [0, 0]), counted) for folder, counted in counts.items())
    return all(now >= before for pair in pairs for now, before in zip(*pair, strict=True))


def in_folder(word: str, root: files.Path) -> str:
    """Returns a word of a command with the folder of the data for `@/`, where a path may begin."""
    here = f"{os.fspath(root)}/"
    if word.startswith("--gin."):  # there it is part of a Python literal
        here = re.sub(r"([\\'\"])", r"\\\1", here)
    # The first path of a flag, and the others of a dict of several data sets.
    first, others = r"^(?:--[\w.]+=)?\{?'?", r"(?<=\d), '"
    word = re.sub(rf"({first}|{others})@/", lambda match: f"{match[1]}{here}", word)
    return word.removesuffix("/.") if files.is_remote(root) else word  # `@/.`


def _quoted(word: str) -> str:
    """Returns a word for a shell, `"--gin.X='a'"` rather than `'--gin.X='"'"'a'"'"''`."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


if __name__ == "__main__":
    sys.exit(main())
