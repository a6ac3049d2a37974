# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows the stages at work: a table that is redrawn on a terminal, plain lines anywhere else."""

import abc
import contextlib
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import rich.console
import rich.live
import rich.table
import rich.text

from parti.stages import files, manifests, progress_line
from parti.workflow import stage

_LINE_SECONDS = 10.0
_BAR = 18
_MARKS = {
    "waiting": ("·", "dim"),
    "running": ("▶", "bold cyan"),
    "done": ("✓", "green"),
    "unchanged": ("✓", "dim green"),
    "failed": ("✗", "bold red"),
    "stopped": ("■", "yellow"),
}


def short_path(path: pathlib.Path) -> str:
    """Returns a path relative to the current folder if it is below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def place(record: Mapping[str, Any], workdir: pathlib.Path) -> str:
    """Returns where the output of a recorded stage is, for a person."""
    if storage := record.get("storage"):
        return files.join(storage, record["output"])
    return short_path(workdir / record["output"])


@dataclasses.dataclass(frozen=True)
class Row:
    """What is known of a stage now."""

    name: str
    what: str = ""  # that it does
    state: str = "waiting"  # a key of `_MARKS`
    seconds: float = 0.0  # since its start, or its whole time
    output: str = ""
    progress: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of `progress_line`

    def counted(self) -> str:
        """Returns `300/1000 steps`, or '' if unknown."""
        done, total = self.progress.get("done"), self.progress.get("total")
        if done is None:
            return ""
        return f"{done:,}{f'/{total:,}' if total else ''} {self.progress.get('unit', '')}"

    def rate(self) -> str:
        """Returns `85.2 examples/s`, or '' if unknown."""
        rate = self.progress.get("rate") or 0
        unit = self.progress.get("rate_unit") or self.progress.get("unit", "")
        return f"{rate:,.4g} {unit}/s" if rate else ""

    def eta(self) -> str:
        """Returns the time left, or '' if unknown."""
        seconds = self.progress.get("eta_seconds") if self.state == "running" else None
        return "" if seconds is None else progress_line.clock(seconds)

    def fields(self) -> str:
        """Returns the stage's own numbers: `loss=3.21`."""
        values = (self.progress.get("fields") or {}).items()
        return "  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values)


def read_rows(names: Sequence[str], workdir: pathlib.Path, since: float) -> list[Row]:
    """Returns a row per stage; one that has not started since `since` (epoch) waits."""
    rows = []
    for name in names:
        record = stage.read_record(workdir, name)
        if record.get("updated", 0) < since:
            rows.append(Row(name))
            continue
        end = time.time() if record["state"] == "running" else record["updated"]
        state = "unchanged" if record.get("reused") else record["state"]
        output = place(record, workdir)
        progress = manifests.read_json(stage.progress_path(workdir, name), "remove it")
        seconds = max(end - record["started"], 0.0)
        rows.append(Row(name, record["what"], state, seconds, output, progress))
    return rows


class View(abc.ABC):
    """Shows the stages of one run."""

    def __init__(self, names: Sequence[str], workdir: pathlib.Path, since: float) -> None:
        self._names, self._workdir, self._since = names, workdir, since

    def update(self) -> None:
        """Reads the state of all stages and shows it."""
        self._show(read_rows(self._names, self._workdir, self._since))

    @abc.abstractmethod
    def _show(self, rows: Sequence[Row]) -> None: ...

    @abc.abstractmethod
    def note(self, text: str) -> None:
        """Shows a message."""


class Lines(View):
    """Prints a line when a stage starts, every ten seconds while it works, and when it ends."""

    def __init__(self, names: Sequence[str], workdir: pathlib.Path, since: float) -> None:
        super().__init__(names, workdir, since)
        self._states: dict[str, str] = {}
        self._printed: dict[str, float] = {}  # when a stage's last line was, by time.monotonic

    def _show(self, rows: Sequence[Row]) -> None:
        for number, row in enumerate(rows, start=1):
            title = f"[{number}/{len(rows)}] {row.name}"
            before = self._states.get(row.name, "waiting")
            if row.state != "waiting" and before == "waiting":
                self._print(row, f"{title}: {row.what} -> {row.output}")
            if row.state == "running":
                if time.monotonic() - self._printed[row.name] >= _LINE_SECONDS:
                    eta = row.eta() and f"ETA {row.eta()}"
                    parts = (
                        progress_line.clock(row.seconds),
                        row.counted(),
                        row.rate(),
                        eta,
                        row.fields(),
                    )
                    self._print(row, f"{title}: {'  '.join(filter(None, parts))}")
            elif row.state != before:
                about = "  ".join(filter(None, (row.counted(), row.fields())))
                self._print(
                    row,
                    f"{title}: {row.state} in {progress_line.clock(row.seconds)}  {about}".rstrip(),
                )
            self._states[row.name] = row.state

    def note(self, text: str) -> None:
        """Prints a message."""
        print(text, flush=True)

    def _print(self, row: Row, text: str) -> None:
        self._printed[row.name] = time.monotonic()
        self.note(text)


class Table(View):
    """Redraws a table with a row per stage in place."""

    def __init__(
        self, names: Sequence[str], workdir: pathlib.Path, since: float, live: rich.live.Live
    ) -> None:
        super().__init__(names, workdir, since)
        self._live, self._note = live, ""

    def _show(self, rows: Sequence[Row]) -> None:
        elapsed = progress_line.clock(time.time() - self._since)
        caption = f"{elapsed} in all  {self._note}".rstrip()
        table = rich.table.Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
        for header, style in (("", ""), ("stage", "bold"), ("", "dim"), ("done", "")):
            table.add_column(header, style=style, no_wrap=True)
        for header in ("rate", "ETA", "time"):
            table.add_column(header, justify="right", no_wrap=True)
        for row in rows:
            mark, style = _MARKS.get(row.state, ("?", ""))
            table.add_row(
                rich.text.Text(mark, style=style),
                row.name,
                f"-> {row.output}" if row.state in ("done", "unchanged") else row.what,
                _progress_bar(row),
                row.rate() if row.state == "running" else "",
                row.eta(),
                progress_line.clock(row.seconds) if row.state != "waiting" else "",
            )
        self._live.update(table, refresh=True)

    def note(self, text: str) -> None:
        """Shows a message below the table."""
        self._note = text
        self.update()


def _progress_bar(row: Row) -> rich.text.Text:
    done, total = row.progress.get("done") or 0, row.progress.get("total") or 0
    if row.state != "running" or not total:
        return rich.text.Text(row.counted() if row.state != "unchanged" else "unchanged")
    full = round(_BAR * min(done / total, 1.0))
    bar = rich.text.Text("━" * full, style="cyan").append("━" * (_BAR - full), style="dim")
    return bar.append(f" {row.counted()}", style="default")


@contextlib.contextmanager
def view(names: Sequence[str], workdir: pathlib.Path, since: float) -> Iterator[View]:
    """Yields a table if stdout is a terminal, else lines; `since` (epoch) is the run's start."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        yield Lines(names, workdir, since)
        return
    with rich.live.Live(console=rich.console.Console(), auto_refresh=False) as live:
        yield Table(names, workdir, since, live)
