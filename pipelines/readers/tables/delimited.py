# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables as text: csv, tsv and jsonl, also compressed; row by row, each row bounded.

A row of csv may have line breaks inside quotes. A row of tsv is a line: quotes around a whole cell
are taken off, others are part of the text. Rows are counted from 0, without the header and without
empty lines.
"""

import csv
import dataclasses
import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import IO, Any, cast

from parti.pipelines.readers.base import decompression, rows, source_files
from parti.pipelines.readers.base.source_files import Found, Source
from parti.pipelines.readers.tables import column_roles
from parti.stages import files

CSV, TSV, JSONL = "csv", "tsv", "jsonl"
SUFFIXES = {
    name: tuple(ending + pack for ending in endings for pack in ("", *decompression.SUFFIXES))
    for name, endings in ((CSV, (".csv",)), (TSV, (".tsv",)), (JSONL, (".jsonl", ".ndjson")))
}
OF_TEXT = (CSV, TSV)  # formats whose numbers are text too
MAX_ROW_BYTES = 2 * rows.MAX_METADATA_BYTES
MAX_LINES = 256  # of a row, and the rows that are lost where a quote is never closed
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d{1,40})?([eE][+-]?\d{1,3})?")
_SKIPPED_BYTES = 2**20
_FIRST_ROWS = 100  # of jsonl, whose names are its columns

CellsOrRejected = column_roles.Cells | rows.Rejected
_RawRow = list[str] | str | rows.Rejected  # cells for csv, else the line


class _TooLargeError(Exception):
    """A row is over a limit."""


class _Lines:
    """The lines of a file from an offset on, bounded in each row."""

    def __init__(self, file: io.BufferedReader, offset: int) -> None:
        self._file, self.offset = file, offset
        self._at_start = offset == 0
        self.begin_row()

    def begin_row(self) -> None:
        self._num_bytes = self._num_lines = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = part = self._file.readline(MAX_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        self.offset += len(line)
        while not part.endswith(b"\n") and (part := self._file.readline(MAX_ROW_BYTES)):
            self.offset += len(part)
        self._num_bytes += len(line)
        self._num_lines += 1
        if self._num_bytes > MAX_ROW_BYTES:
            raise _TooLargeError(f"over {MAX_ROW_BYTES:,} bytes")
        if self._num_lines > MAX_LINES:
            raise _TooLargeError(f"over {MAX_LINES} lines; is a quote not closed?")
        codec = "utf-8-sig" if self._at_start else "utf-8"
        self._at_start = False
        # What is not UTF-8 is found again cell by cell.
        return line.decode(codec, "surrogateescape")


def _raw_rows(lines: _Lines, kind: str) -> Iterator[_RawRow]:
    """Yields the rows that are not empty."""
    source: Iterator[Any] = csv.reader(lines) if kind == CSV else lines
    while True:
        lines.begin_row()
        try:
            row = next(source)
        except StopIteration:
            return
        except (_TooLargeError, csv.Error) as error:
            if kind == CSV:
                source = csv.reader(lines)  # the old one is in the middle of a row
            large = isinstance(error, _TooLargeError) or "limit" in str(error)
            row = rows.refuse("row_too_large" if large else "broken_row", rows.one_line(error))
        if row and (not isinstance(row, str) or row.strip()):
            yield row


def _tsv_cells(line: str) -> list[str]:
    return [
        cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell
        for cell in line.rstrip("\r\n").split("\t")
    ]


def _parse(raw: _RawRow, kind: str, names: tuple[str, ...]) -> CellsOrRejected:
    if isinstance(raw, rows.Rejected):
        return raw
    if kind == JSONL:
        try:
            return rows.parse_metadata(cast(str, raw).encode("utf-8", "surrogateescape"))
        except ValueError as error:
            return rows.refuse("broken_row", rows.one_line(error))
    cells = _tsv_cells(raw) if isinstance(raw, str) else raw
    if len(cells) != len(names):
        return rows.refuse("broken_row", f"{len(cells)} cells for {len(names)} columns")
    return dict(zip(names, cells))


def number(cell: str) -> Any:
    """Returns the number that a cell of text spells as JSON would, else the text itself."""
    return json.loads(cell) if _NUMBER.fullmatch(cell) else cell


def _open(file: IO[bytes], offset: int) -> _Lines:
    """Returns the lines of a file, plain or compressed, from an offset on."""
    content, compressed = decompression.inflated(file)
    if offset and not compressed:
        file.seek(offset)
        content = decompression.plain(file)  # a row may begin as a compressed file does
    else:
        left = offset
        while left and (skipped := len(content.read(min(left, _SKIPPED_BYTES)))):
            left -= skipped
    return _Lines(content, offset)


def _with_columns(table: Source) -> Source:
    """Returns a table with the names of its columns, and which are chosen.

    A csv or tsv without a header has the columns `#1`, `#2`, ...: if one of these is chosen, or if
    its first row is two cells and one of them a URL (the form of CC3M and CC12M).
    """
    path, chosen = table.paths[0], table.columns
    with files.open(path) as file:
        lines = _open(file, 0)
        if table.format == JSONL:
            if names := _names_of_first(lines):
                column_roles.check(names, chosen, path)
            return table
        first = next(_raw_rows(lines, table.format), "")
    if isinstance(first, rows.Rejected) or any("\0" in cell for cell in first):
        raise ValueError(f"{path}: its first row is not the names of columns")
    cells = _tsv_cells(first) if isinstance(first, str) else first
    numbers = _numbers(len(cells))
    urls = [name for name, cell in zip(numbers, cells) if cell.startswith(source_files.HTTP)]
    if not chosen and len(cells) == 2 and len(urls) == 1:
        (other,) = set(numbers) - set(urls)
        chosen = column_roles.given({column_roles.URL: urls[0], column_roles.TEXT: other})
    names = tuple(rows.utf8(cell.strip()) for cell in cells)
    if any(name in numbers and name not in names for _, name in chosen):
        names = numbers
    column_roles.check(names, chosen, path)
    return dataclasses.replace(table, names=names, columns=chosen)


def _names_of_first(lines: _Lines) -> tuple[str, ...]:
    """Returns the names in the first rows of a jsonl; those that cannot be parsed have none."""
    names: dict[str, None] = {}
    try:
        for raw in itertools.islice(_raw_rows(lines, JSONL), _FIRST_ROWS):
            row = _parse(raw, JSONL, ())
            if isinstance(row, dict):
                names |= dict.fromkeys(row)
            if lines.offset > MAX_ROW_BYTES:
                break
    except decompression.ERRORS:
        if not names:
            raise
    return tuple(names)


def split(found: Found) -> list[Source]:
    """Returns tables in pieces; one that cannot be read as one piece, with its problem."""
    tables = [found.whole(entry) for entry in found.entries if entry.num_bytes]
    return [piece for table in tables for piece in _split_table(table)]


def _split_table(table: Source) -> list[Source]:
    try:
        return _plan(_with_columns(table))
    except (ValueError, *decompression.ERRORS) as error:
        return column_roles.broken(table, error)


def _plan(table: Source) -> list[Source]:
    """Returns a table in pieces; the last goes to the end, or to where the table is damaged."""
    path, count = table.paths[0], 0
    with files.open(path) as file:
        lines, raw_rows = _open_rows(file, table)
        offset = lines.offset
        starts = [(0, offset)]
        try:
            for _ in raw_rows:
                if count and count % source_files.ROWS_PER_SOURCE == 0:
                    starts.append((count, offset))
                count, offset = count + 1, lines.offset
        except decompression.ERRORS:
            pass  # the reader of the last piece finds it
    if path.lower().endswith(decompression.SUFFIXES):
        starts = starts[:: -(-len(starts) // source_files.MAX_PIECES_WITHIN)]
    total = max(1, lines.offset - starts[0][1])
    pieces = [
        dataclasses.replace(
            table,
            start=start,
            stop=stop,
            offset=begin,
            num_bytes=table.num_bytes * (end - begin) // total,
            num_rows=stop - start,
        )
        for (start, begin), (stop, end) in zip(starts, [*starts[1:], (count, lines.offset)])
    ]
    return [*pieces[:-1], dataclasses.replace(pieces[-1], stop=-1)]


def _open_rows(file: IO[bytes], table: Source) -> tuple[_Lines, Iterator[_RawRow]]:
    """Returns the lines of a table from its offset on, and its rows, without the header."""
    lines = _open(file, table.offset)
    raw_rows = _raw_rows(lines, table.format)
    if table.names and table.offset == 0 and table.names != _numbers(len(table.names)):
        next(raw_rows, None)
    return lines, raw_rows


def _numbers(count: int) -> tuple[str, ...]:
    """Returns the names of the columns of a table without a header."""
    return tuple(f"#{i + 1}" for i in range(count))


def read_rows(source: Source) -> Iterator[tuple[int, CellsOrRejected]]:
    """Yields (number of the row, its cells by name or why it cannot be read).

    Raises:
      OSError: the file cannot be read; also other `decompression.ERRORS`.
    """
    with files.open(source.paths[0]) as file:
        _, raw_rows = _open_rows(file, source)
        index = source.start
        while index != source.stop and (raw := next(raw_rows, None)) is not None:
            yield index, _parse(raw, source.format, source.names)
            index += 1
