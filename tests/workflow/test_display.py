# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What is shown of stages at work, on a terminal and elsewhere."""

import io
import json
import os
import pathlib
import time

import pytest
import rich.console
import rich.live

from parti.workflow import display, scheduler, stage

NAMES = ["clean", "train_generator", "export"]


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> pathlib.Path:
    """One stage is done, one at work, one waits."""
    for folder in (stage.FOLDER, "logs"):
        (tmp_path / folder).mkdir()
    now = time.time()
    records = {
        "clean": {"what": "filter the pairs", "state": "done", "started": now - 75},
        "train_generator": {"what": "train", "state": "running", "started": now - 10},
    }
    for name, record in records.items():
        record |= {"name": name, "output": name, "updated": now}
        (tmp_path / stage.FOLDER / f"{name}.json").write_text(json.dumps(record))
    progress = {"done": 300, "total": 1000, "unit": "steps", "rate": 85.2, "rate_unit": "examples"}
    progress |= {"eta_seconds": 72.0, "fields": {"loss": 3.21456}, "state": "running"}
    stage.progress_path(tmp_path, "train_generator").write_text(json.dumps(progress))
    return tmp_path


def test_rows(workdir: pathlib.Path) -> None:
    clean, train, export = display.read_rows(NAMES, workdir, time.time() - 100)
    assert (clean.state, train.state, export.state) == ("done", "running", "waiting")
    assert round(clean.seconds) == 75 and 10 <= train.seconds < 20
    assert train.counted() == "300/1,000 steps"
    assert (train.rate(), train.eta(), train.fields()) == ("85.2 examples/s", "1:12", "loss=3.215")
    assert (clean.counted(), clean.rate(), clean.eta()) == ("", "", "")
    # What an earlier run left is not shown as this run's.
    assert {row.state for row in display.read_rows(NAMES, workdir, time.time() + 9)} == {"waiting"}


def test_lines(workdir: pathlib.Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(display, "_LINE_SECONDS", 0.0)
    with display.view(NAMES, workdir, time.time() - 100) as view:
        view.update()
        view.update()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"[1/3] clean: filter the pairs -> {workdir}/clean"
    assert lines[1] == "[1/3] clean: done in 1:15"
    assert lines[2].startswith("[2/3] train_generator: train -> ")
    assert "300/1,000 steps  85.2 examples/s  ETA 1:12  loss=3.215" in lines[3]
    assert len([line for line in lines if "clean" in line]) == 2


def test_table(workdir: pathlib.Path) -> None:
    stream = io.StringIO()
    console = rich.console.Console(
        file=stream, width=150, height=40, force_terminal=True, color_system=None
    )
    with rich.live.Live(console=console, auto_refresh=False) as live:
        view = display.Table(NAMES, workdir, time.time() - 100, live)
        view.update()
        view.note("stopping")
    text = stream.getvalue()
    for part in ("✓  clean", "1:15", "▶  train_generator", "300/1,000 steps", "85.2 examples/s"):
        assert part in text
    assert "1:12" in text and "·  export" in text and "stopping" in text


def test_short_path(monkeypatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert display.short_path(tmp_path / "runs" / "a") == os.path.join("runs", "a")
    assert display.short_path(tmp_path.parent) == str(tmp_path.parent)


def test_the_plan_is_read_from_what_snakemake_prints() -> None:
    text = """
rule clean:
    output: .stages/clean.done
    reason: Params have changed since last execution: before: x
rule export:
    input: .stages/clean.done
    reason: Input files updated by another job: .stages/clean.done, .stages/vocab.done
rule all:
    reason: Input files updated by another job: .stages/export.done
"""
    assert scheduler.parse_plan(text) == [
        scheduler.Planned("clean", "its settings changed"),
        scheduler.Planned("export", "clean, vocab runs before it"),
    ]
