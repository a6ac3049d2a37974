# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The rows of a prompt file of any ending, not yet taken for prompts (`prompt_files`)."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from parti.data.text import parquet_rows, text_files
from parti.stages import json_text

TEXT = "prompt"  # the field that a row must have
_BLANK = "blank line"
_MAX_SHOWN = 120  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class Broken:
    """A row that could not be read."""

    reason: str
    text: Any  # what is there: a line, or cells


# (Where a row is, row). A row is an object with the fields of a prompt, a `Broken`, or something
# else that `prompt_files` refuses.
Rows = Iterator[tuple[str, Any]]
LeftOut = collections.Counter[str]  # by the name of what is left out


def read(suffix: str, data: bytes, left_out: LeftOut) -> tuple[Rows, str]:
    """Returns the rows of a file whose ending is one of `SUFFIXES`, and its encoding.

    BrokenFileError: it cannot be read as a whole; reading rows, which counts in `left_out`, raises
    it too.
    """
    if suffix == _PARQUET:
        return _read_parquet(data, left_out), "utf-8"
    text, encoding = text_files.decode(data)
    rows = _READERS[suffix](text.rstrip(), left_out) if text.strip() else iter(())
    return rows, encoding


def shown(value: Any) -> str:
    """Returns a value for a message, cut."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _read_txt(text: str, left_out: LeftOut) -> Rows:
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            left_out["comment" if line else _BLANK] += 1
        else:
            yield f"line {number}", {TEXT: line}


def _read_tsv(text: str, left_out: LeftOut) -> Rows:
    return _read_table(text, "\t", left_out)


def _read_csv(text: str, left_out: LeftOut) -> Rows:
    return _read_table(text, ",", left_out)


def _read_table(text: str, separator: str, left_out: LeftOut) -> Rows:
    rows = text_files.read_table(text, TEXT, separator)
    names = _columns("the first line", next(rows, (1, []))[1])
    for number, cells in rows:
        if not any(cells):
            left_out[_BLANK] += 1
            continue
        if any(cells[len(names) :]):
            reason = (
                f"{len(cells)} cells for {len(names)} columns; put quotes around a cell that holds "
                "the separator."
            )
            yield f"line {number}", Broken(reason, cells)
            continue
        row = {name: cell for name, cell in zip(names, cells) if name and cell}
        yield f"line {number}", {TEXT: "", **row}
    if unnamed := names.count(""):
        left_out["nameless column"] = unnamed


def _columns(where: str, names: Iterable[str]) -> list[str]:
    """Returns the names of a table's columns as metadata has them; BrokenFileError: no prompts."""
    names = [json_text.mend_text(name).strip().lower() for name in names]
    named = [name for name in names if name]
    if TEXT not in named:
        raise text_files.BrokenFileError(
            f"{where}: it has the columns {shown(named)}; it must name a column `Prompt`"
        )
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise text_files.BrokenFileError(f"{where}: it has two columns {shown(twice)}")
    return names


def _read_parquet(data: bytes, left_out: LeftOut) -> Rows:
    given, rows = parquet_rows.read(data)
    not_json = [name for name, is_json in given.items() if not is_json]
    where = f"the schema (without {shown(not_json)}, which JSON cannot hold)"
    kept = [name for name in given if name not in not_json]
    names = dict(zip(kept, _columns(where if not_json else "the schema", kept)))
    for number, cells in enumerate(rows, start=1):
        row = {names[name]: cell for name, cell in cells.items() if names[name] and cell != ""}
        if row:
            yield f"row {number}", {TEXT: "", **row}
        else:
            left_out["blank row"] += 1
    if not_json:
        left_out["non-JSON column"] = len(not_json)
    if unnamed := [*names.values()].count(""):
        left_out["nameless column"] = unnamed


def _read_jsonl(text: str, left_out: LeftOut) -> Rows:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _parse_line(line)
        else:
            left_out[_BLANK] += 1


def _parse_line(line: str) -> Any:
    try:
        return json_text.parse(line)
    except ValueError as error:
        return Broken(f"{error}.", line)


def _read_json(text: str, left_out: LeftOut) -> Rows:
    try:
        values = json_text.parse(text)
    except ValueError as error:
        raise text_files.BrokenFileError(f"read whole: {error}") from error
    if not isinstance(values, list):
        raise text_files.BrokenFileError(
            "read whole: it must be a list of texts or objects; with an object a line, call it "
            ".jsonl"
        )
    for number, value in enumerate(values, start=1):
        yield f"entry {number}", {TEXT: value} if isinstance(value, str) else value


_PARQUET = ".parquet"
_READERS = {
    ".txt": _read_txt,
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
}
SUFFIXES = (*_READERS, _PARQUET)  # endings of prompt files, in lower case
