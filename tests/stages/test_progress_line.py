# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Progress lines, the JSON copy, and use from threads."""

import io
import json
import pathlib
import threading
import time

import pytest

from parti.stages import progress_line


def test_line_has_count_rate_and_eta() -> None:
    stream = io.StringIO()
    report = progress_line.Progress(
        "train", 10, "steps", rate_unit="examples", rate_scale=4, interval=0, stream=stream
    )
    report.update(0)
    time.sleep(0.02)
    report.update(5, loss=3.21)
    first, second = stream.getvalue().splitlines()
    assert first == "[train] 0/10 steps"
    assert second.startswith("[train] 5/10 steps  ")
    assert " examples/s  ETA 0:00  loss=3.21" in second
    report.done("wrote x")
    assert stream.getvalue().splitlines()[-1] == "[train] done: 5 steps in 0:00  wrote x"


def test_reports_at_most_once_per_interval() -> None:
    stream = io.StringIO()
    report = progress_line.Progress("count", 100, interval=60, stream=stream)
    for index in range(100):
        report.update(index)
    assert len(stream.getvalue().splitlines()) == 1


def test_json_copy(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "progress.json"
    monkeypatch.setenv(progress_line.FILE_VARIABLE, str(path))
    report = progress_line.Progress("tokenize", 8, "images", stream=io.StringIO())
    report.update(2, shard="a")
    record = json.loads(path.read_text())
    assert (record["stage"], record["done"], record["total"]) == ("tokenize", 2, 8)
    assert (record["unit"], record["state"], record["fields"]) == (
        "images",
        "running",
        {"shard": "a"},
    )
    report.failed("stopped")
    assert json.loads(path.read_text())["state"] == "failed"
    assert [p.name for p in tmp_path.iterdir()] == ["progress.json"]


def test_threads_share_a_report() -> None:
    stream = io.StringIO()
    report = progress_line.Progress("threads", 400, "items", stream=stream, interval=0)

    def work() -> None:
        for index in range(100):
            report.update(index)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report.done()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 401 and all(line.startswith("[threads] ") for line in lines)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75, "1:15"), (3675.2, "1:01:15")])
def test_clock(seconds: float, text: str) -> None:
    assert progress_line.clock(seconds) == text
