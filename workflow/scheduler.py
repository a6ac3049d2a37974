# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Snakemake as a child process: what it would run and why, its graph, and a run of it.

As a program, this module is Snakemake itself, which ends when the process that started it ends.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import psutil

import parti
from parti.workflow import config_files, stage

_REASONS = (
    (r"Missing output files", "its output is not there, or not complete"),
    (r"Params have changed", "its settings changed"),
    (r"Code has changed", "the Snakefile changed"),
    (r"Set of input files", "it reads other stages than before"),
    (r"Updated input files: (.*)", "{} changed"),
    (r"Input files updated by another job: (.*)", "{} runs before it"),
    (r"Forced execution", "asked for"),
)


class Planned(NamedTuple):
    """A stage that will run, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """Snakemake on one working folder."""

    workdir: pathlib.Path
    config_path: pathlib.Path  # the workflow file with all changes made
    jobs: int  # stages at work at once
    extra: tuple[str, ...] = ()  # further arguments of Snakemake, such as `--executor slurm`

    def plan(self) -> list[Planned]:
        """Returns the stages that would run now, in the order in which they can."""
        return parse_plan(self._ask("--dry-run", *self.extra))

    def dot(self) -> str:
        """Returns the graph of all stages in Graphviz's language."""
        text = self._ask("--rulegraph", "dot")
        return text[text.index("digraph") :].strip() + "\n"

    def start(self, log: pathlib.Path, lock: int) -> "subprocess.Popen[bytes]":
        """Starts a run in its own session; its output goes to `log`, and it inherits the lock."""
        with open(log, "ab") as file:
            return subprocess.Popen(
                self._command(*self.extra),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment(),
                pass_fds=[lock],
                start_new_session=True,
            )

    def _command(self, *arguments: str) -> list[str]:
        return [
            *(sys.executable, "-P", "-m", "parti.workflow.scheduler"),
            *("--snakefile", str(config_files.folder() / "Snakefile")),
            *("--directory", str(self.workdir), "--configfile", str(self.config_path)),
            *("--rerun-triggers", "mtime", "params", "input", "--rerun-incomplete"),
            *("--jobs", str(self.jobs), "--scheduler", "greedy", "--nocolor"),
            *arguments,
        ]

    def _ask(self, *arguments: str) -> str:
        """Returns what Snakemake prints; ValueError for an unknown flag, else RuntimeError."""
        ended = subprocess.run(
            self._command("--nolock", *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        if ended.returncode == 0:
            return ended.stdout
        lines = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
        if any("If no shared filesystem is assumed" in line for line in lines):
            raise ValueError(
                "--executor: the jobs of this one do not see --workdir, where the workflow has its "
                "markers; take one whose jobs do, such as slurm or cluster-generic "
                "(docs/workflow.md, Clusters)"
            )
        if usage_errors := [line for line in lines if "error: " in line]:
            message = usage_errors[-1].partition("error: ")[2]
            if "--executor" in message:
                message += "; others come with `pip install snakemake-executor-plugin-NAME`"
            if "unrecognized arguments" in message:
                message += "; see --help"
            raise ValueError(f"Snakemake: {message}")
        raise RuntimeError("Snakemake: " + " ".join(line.strip() for line in lines[-6:]))


@contextlib.contextmanager
def only_run(workdir: pathlib.Path, patience: float = 10.0) -> Iterator[int]:
    """Holds the working folder for one run, or raises ValueError; yields the lock's descriptor."""
    (workdir / stage.FOLDER).mkdir(parents=True, exist_ok=True)
    with open(workdir / stage.FOLDER / "run.lock", "a+", encoding="utf-8") as lock:
        if not stage.take_lock(lock, patience):
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise ValueError(f"{workdir}: another run is at work here (process {owner})")
        if others := _processes_of_snakemake(workdir):
            raise ValueError(f"{workdir}: Snakemake is at work here (process {others[0]})")
        for left in (workdir / ".snakemake" / "locks").glob("*"):  # by a kill
            left.unlink(missing_ok=True)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def _processes_of_snakemake(workdir: pathlib.Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            is_snakemake = any("snakemake" in word for word in process.cmdline()[:4])
            if is_snakemake and process.cwd() == str(workdir.resolve()):
                found.append(process.pid)
    return found


def stop(process: "subprocess.Popen[bytes]", patience: float = 70.0) -> None:
    """Ends a run: the stages save what they have, and Snakemake cancels what it submitted."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
            return
        # A stage that has just begun may have missed the signal; after `nohup ... &` it ignores it.
        for child in psutil.Process(process.pid).children():
            with contextlib.suppress(psutil.Error):
                if stage.__name__ in " ".join(child.cmdline()):
                    child.terminate()
    process.kill()
    process.wait()


def parse_plan(text: str) -> list[Planned]:
    """Returns the stages in the output of `snakemake --dry-run`."""
    planned = []
    for block in re.split(r"^(?:local)?rule (?=\w+:$)", text, flags=re.MULTILINE)[1:]:
        name = block.partition(":")[0]
        reason = re.search(r"^    reason: (.*)$", block, re.MULTILINE)
        if name != "all":
            planned.append(Planned(name, _in_words(reason.group(1) if reason else "")))
    return planned


def _in_words(reason: str) -> str:
    for pattern, words in _REASONS:
        if match := re.search(pattern, reason):
            files = match.group(1).partition(";")[0] if match.groups() else ""
            return words.format(", ".join(re.findall(r"(\w+)\.done", files)))
    return reason


def environment() -> dict[str, str]:
    """Returns an environment in which a child finds this very package from any folder."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    clone = pathlib.Path(parti.__file__).parents[1]
    if (clone / "setup.py").is_file():
        paths = [str(clone), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, dict.fromkeys(paths)))
    return environment


def main() -> None:
    """Is Snakemake, until the process that started it ends."""
    parent = os.getppid()

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.3)
        os._exit(143)

    threading.Thread(target=end_with_parent, daemon=True).start()
    from snakemake import cli

    cli.main(sys.argv[1:])


if __name__ == "__main__":
    main()
