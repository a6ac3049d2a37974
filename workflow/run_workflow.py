# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti workflow` and `parti demo`: run the stages that are stale, and show them at work."""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import yaml

from parti.engine.experiment import checks
from parti.pipelines.evaluation import report as evaluation_report
from parti.stages import files, flag_parser, progress_line, publishing
from parti.workflow import config_files, display, preflight, scheduler, stage

_NOTHING = "nothing to do: every stage is up to date"
# Flags of Snakemake that a stage would not obey (see `workflow/stage.py`).
_FORCING = {"--force", "-f", "--forceall", "-F", "--forcerun", "-R"}
# Flags for Snakemake's own storage, of which it would see the markers alone.
_STORING = {"--default-storage-provider", "--default-storage-prefix"}
# Flags of Snakemake with which the stages run on other machines.
_ELSEWHERE = re.compile(r"(-e|--executor|--profile|--workflow-profile)(=|$)")
_EXAMPLES = """examples:
  parti workflow pairs --set input='data/*.tar' --workdir runs/mine
  parti workflow scenes-tiny --workdir runs/demo --dry_run
  parti workflow scenes --set train_generator.gin.TRAIN_STEPS=500 --set generate.num_samples=4
  parti workflow scenes --set storage=gs://bucket/run --workdir runs/scenes
  parti workflow scenes --executor slurm --jobs 8 --default-resources slurm_account=mine

Run the same command again and it goes on where it stopped; a stage whose settings or inputs have
changed is made anew, and so is what depends on it. Flags that are not listed here go to Snakemake:
--executor (with its plugin installed), --until STAGE, --profile, ..."""


def workflow(argv: Sequence[str]) -> int:
    """Runs `parti workflow CONFIG --workdir DIR`; returns the exit code."""
    parser = _parser("parti workflow", "Run every stage of a workflow that is stale.", _EXAMPLES)
    parser.add_argument(
        "config", help="a workflow file, or one of: scenes-tiny, scenes, pairs-tiny, pairs"
    )
    parser.add_argument("--workdir", help="where everything goes (default: runs/CONFIG)")
    options, extra = parser.parse_known_args(list(argv))
    options.workdir = options.workdir or f"runs/{pathlib.Path(options.config).stem}"
    return _main(options, extra, "workflow", options.config)


def demo(argv: Sequence[str]) -> int:
    """Runs `parti demo`: the workflow `scenes-tiny`; returns the exit code."""
    example = "example:\n  parti demo --workdir runs/demo"
    parser = _parser("parti demo", "Run the whole workflow, tiny, on this machine.", example)
    parser.add_argument("--workdir", default="runs/demo", help="default: %(default)s")
    options, extra = parser.parse_known_args(list(argv))
    options.config = "scenes-tiny"
    return _main(options, extra, "demo")


def _parser(program: str, description: str, epilog: str) -> flag_parser.Parser:
    parser = flag_parser.Parser(program, description, epilog)
    add = parser.add_argument
    help_text = "stages at work at once (default: `jobs` of the workflow file)"
    add("--jobs", "--cores", type=int, metavar="N", help=help_text)
    help_text = "change the workflow file: generate.num_samples=4"
    add("--set", action="append", default=[], metavar="KEY=VALUE", help=help_text)
    add("--dry_run", action="store_true", help="list what would run, and why")
    # Snakemake's words for it: handed on, they would look like a run that did nothing.
    words = ("--dry-run", "--dryrun", "-n")
    add(*words, dest="dry_run", action="store_true", help=argparse.SUPPRESS)
    add("--graph", metavar="FILE", help="only draw the stages: .dot; by Graphviz .svg, .png")
    return parser


def _main(options: argparse.Namespace, extra: list[str], *command: str) -> int:
    config = config_files.load(options.config, options.set)
    jobs = options.jobs if options.jobs is not None else config["jobs"]
    if jobs < 1:
        raise ValueError(f"--jobs {jobs}: it must be 1 or more")
    if forced := sorted({word.partition("=")[0] for word in extra} & _FORCING):
        raise ValueError(
            f"{forced[0]}: a stage that is up to date does nothing; to make it anew, delete its "
            "folder (or change its settings)"
        )
    if stored := sorted({word.partition("=")[0] for word in extra} & _STORING):
        raise ValueError(
            f"{stored[0]}: the files that Snakemake sees are markers, in --workdir; for data "
            "elsewhere --set storage=gs://bucket/run"
        )
    folder = pathlib.Path(options.workdir).resolve()
    if "://" in options.workdir:
        raise ValueError(
            f"--workdir {options.workdir}: must be a folder of this machine; for data elsewhere "
            "--set storage=gs://bucket/run"
        )
    checks.check_folder("--workdir", folder)
    if storage := config.get("storage", ""):
        checks.check_folder("storage", storage)
    if (
        file := next((path for path in (folder, *folder.parents) if path.is_file()), None)
    ) is not None:
        raise NotADirectoryError(
            f"--workdir {options.workdir}: {file} is a file; it must be a folder"
        )
    elsewhere = os.environ.get(stage.COMMAND_VARIABLE) or any(map(_ELSEWHERE.match, extra))
    if {"JAX_PLATFORMS", "XLA_FLAGS"} & os.environ.keys() and not elsewhere:
        from parti.engine.hardware import accelerators  # loads JAX

        accelerators.check_platforms()
    stage.check_storage(folder, storage)
    if storage and not options.graph:
        publishing.check_places([], [files.join(storage, stage.FOLDER)])
    preflight.check_prompts(config["prompts"])
    again = ["parti", *command, "--workdir", options.workdir]
    again += [] if options.jobs is None else ["--jobs", str(options.jobs)]
    again += [word for change in options.set for word in ("--set", change)]
    with tempfile.TemporaryDirectory(prefix="parti-") as temporary:
        # Until all is checked nothing is written to `folder`.
        draft = pathlib.Path(temporary) / "workflow.yaml"
        draft.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        kept = folder.is_dir() and not options.graph
        tool = scheduler.Scheduler(folder if kept else draft.parent, draft, jobs, tuple(extra))
        if options.graph:
            _draw(pathlib.Path(options.graph), tool.dot())
            return 0
        known = folder / draft.name
        if not known.is_file() or known.read_bytes() != draft.read_bytes():
            preflight.check(draft, storage or str(folder), scheduler.environment())
        if options.dry_run:
            plan = tool.plan()
            print(f"{len(plan)} stages would run:" if plan else _NOTHING)
            width = max((len(planned.name) for planned in plan), default=0)
            for planned in plan:
                print(f"  {planned.name:<{width}}  {planned.reason}")
            return 0
        if not folder.is_dir():
            tool.plan()  # refuses an unknown flag of Snakemake
        return _run(folder, storage, draft, tool, shlex.join([*again, *extra]))


def _draw(path: pathlib.Path, dot: str) -> None:
    suffix = path.suffix.lower()
    if suffix not in (".dot", ".svg", ".png", ".pdf"):
        raise ValueError(f"{path}: cannot draw {suffix or 'that'}; use .dot, .svg, .png or .pdf")
    program = shutil.which("dot")
    if suffix != ".dot" and program is None:
        raise ValueError(f"{path}: {suffix} needs Graphviz (`dot`); install it, or write .dot")
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".dot":
        path.write_text(dot, encoding="utf-8")
    else:
        command = [str(program), f"-T{suffix[1:]}", "-o", str(path)]
        subprocess.run(command, input=dot, text=True, check=True)
    print(f"wrote {path}")


def _run(
    folder: pathlib.Path, storage: str, draft: pathlib.Path, tool: scheduler.Scheduler, again: str
) -> int:
    """Plans and runs; returns 0 when all is up to date, 1 when a stage failed, 130 when stopped."""
    began = time.monotonic()
    with scheduler.only_run(folder) as lock:
        shutil.copyfile(draft, folder / draft.name)
        tool = dataclasses.replace(tool, workdir=folder, config_path=folder / draft.name)
        plan = tool.plan()
        if not plan:
            print(_NOTHING)
            _print_results(storage or str(folder))
            return 0
        where = display.short_path(folder) + (f", data at {storage}" if storage else "")
        print(f"{len(plan)} stages to run in {where}, {tool.jobs} at once")
        (folder / "logs").mkdir(exist_ok=True)
        log = folder / "logs" / "snakemake.log"
        since = time.time()
        process = tool.start(log, lock)
        with display.view([planned.name for planned in plan], folder, since) as view:
            stopped = _watch(process, view)
    if stopped:
        print(f"stopped; to go on: {again}", file=sys.stderr)
        return 130
    if process.returncode:
        _print_failure(folder, since, log, again)
        return 1
    print(f"done in {progress_line.clock(time.monotonic() - began)}")
    _print_results(storage or str(folder))
    return 0


def _watch(process: "subprocess.Popen[bytes]", view: display.View) -> bool:
    """Shows a run until it ends; returns whether it was stopped by Ctrl-C or SIGTERM."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while process.poll() is None:
            view.update()
            time.sleep(0.25)
    except KeyboardInterrupt:
        view.note("stopping: the stages at work save what they have")
        scheduler.stop(process)
        return True
    finally:
        view.update()
        signal.signal(signal.SIGTERM, before)
    return False


def _print_failure(folder: pathlib.Path, since: float, log: pathlib.Path, again: str) -> None:
    ended = {
        record["name"]: "was stopped" if record["state"] == "stopped" else "failed"
        for record in stage.read_records(folder).values()
        if record["state"] not in ("done", "running") and record["updated"] >= since
    }
    for name, what in ended.items():
        _print_tail(f"{name} {what}", stage.log_path(folder, name))
    if not ended:
        _print_tail("Snakemake failed", log)
    print(f"\nwhat is finished is kept; to go on: {again}", file=sys.stderr)


def _print_tail(title: str, path: pathlib.Path, count: int = 15) -> None:
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = text.splitlines()
    print(f"\n{title}; the end of {display.short_path(path)}:", file=sys.stderr)
    attempt = max((i for i, line in enumerate(lines) if line.startswith("$ ")), default=-1)
    for line in lines[attempt + 1 :][-count:]:
        print(f"  {line[:240]}", file=sys.stderr)


def _print_results(root: str) -> None:
    evaluation = files.join(root, "evaluation")
    with contextlib.suppress(OSError, ValueError, KeyError):  # an output of another version
        metrics = json.loads(files.read_bytes(files.join(evaluation, "metrics.json")))
        print(f"\n{evaluation_report.table(metrics)}\n")
    results = {
        "gallery": files.join(root, "generations", "gallery.html"),
        "evaluation": files.join(evaluation, evaluation_report.FILE_NAME),
        "bundle": files.join(root, "bundle"),
    }
    for name, path in results.items():
        if files.exists(path) or files.is_dir(path):
            shown = path if files.is_remote(path) else display.short_path(pathlib.Path(path))
            print(f"{name:<10} {shown}")
