# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables as text: csv, tsv and jsonl, also compressed; row by row, each row bounded.

A row of csv may have line breaks inside quotes. A row of tsv is a line: quotes around a whole cell
are taken off, others are part of the text; unless its first rows are quoted as csv is and some have
line breaks. Rows are counted from 0, without the header and without
empty lines.

Spreadsheets write csv in many forms. The separator is the first of `SEPARATORS` with which the
first row names columns that are known; or it is that of a first line `sep=;`. Text is UTF-8, or
what its byte order mark says; other encodings are named by the user. A table whose first line ends
with a carriage return alone has only lines of that kind; line feeds then are in quotes.
"""

import codecs
import csv
import dataclasses
import functools
import io
import itertools
import json
import math
import re
from collections.abc import Iterator
from typing import IO, Any, cast

from parti.data.text import text_files
from parti.pipelines.readers.base import decompression, rows, source_files
from parti.pipelines.readers.base.source_files import Found, Source
from parti.pipelines.readers.tables import column_roles
from parti.stages import files, json_text

CSV, TSV, TXT, JSONL = "csv", "tsv", "txt", "jsonl"
SUFFIXES = {
    name: tuple(ending + pack for ending in endings for pack in ("", *decompression.SUFFIXES))
    for name, endings in (
        (CSV, (".csv",)),
        (TSV, (".tsv",)),
        (TXT, (".txt",)),
        (JSONL, (".jsonl", ".ndjson")),
    )
}
SEPARATORS = {  # in the order in which they are tried
    name: text_files.separators(usual) for name, usual in ((CSV, ","), (TSV, "\t"), (TXT, ","))
}
MAX_ROW_BYTES = 2 * rows.MAX_METADATA_BYTES
MAX_LINES = 256  # of a row, and the rows that are lost where a quote is never closed
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d{1,40})?([eE][+-]?\d{1,3})?")
_SKIPPED_BYTES = 2**20
_SNIFFED_BYTES = 2**16
_IMAGE_NAME = re.compile(r"(?i).*\.(jpe?g|png|webp)(#\d+)?")
_FIRST_ROWS = 100  # of jsonl, whose names are its columns

CellsOrRejected = column_roles.Cells | rows.Rejected
_RawRow = list[str] | str | rows.Rejected  # cells for csv, else the line


class _TooLargeError(Exception):
    """A row is over a limit."""


class _Recoded(io.RawIOBase):
    """A text of another encoding or with other ends of lines, as UTF-8 with line feeds."""

    def __init__(self, file: io.BufferedReader, encoding: str, line_end: str) -> None:
        self._read, self._line_end, self._ready = file.read1, line_end, b""
        # What one byte does not mean is found again cell by cell; elsewhere U+FFFD is there.
        is_of_bytes = len(bytes(range(256)).decode(encoding or "ascii", "replace")) == 256
        errors = "surrogateescape" if is_of_bytes or not encoding else "replace"
        self._decoder = codecs.getincrementaldecoder(encoding or "utf-8")(errors)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = b"more"
        while not self._ready and data:
            data = self._read(_SNIFFED_BYTES)
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeError as error:  # of a codec that cannot replace
                raise OSError(rows.one_line(error)) from error
            text = text.replace(self._line_end, "\n") if self._line_end else text
            self._ready = text.encode("utf-8", "surrogateescape")
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


class _Lines:
    """The lines of a file from an offset on, bounded in each row; without a line `sep=;`."""

    def __init__(self, file: io.BufferedReader, offset: int, line: int = 0) -> None:
        self._file, self.offset, self.line = file, offset, line  # what is before the next row
        self._first = file.readline(MAX_ROW_BYTES + 1) if offset == 0 else b""
        if text_files.named_separator(self._first.decode("utf-8", "replace")):
            self.offset, self.line, self._first = len(self._first), 1, b""
        self.begin_row()

    def begin_row(self) -> None:
        self._num_bytes = self._num_lines = 0

    @property
    def first_of_row(self) -> int:
        """The number of the line, from 1, in which the last row began."""
        return self.line - self._num_lines + 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = part = self._first or self._file.readline(MAX_ROW_BYTES + 1)
        self._first = b""
        if not line and self._num_lines:
            raise csv.Error("a quote is not closed")
        if not line:
            raise StopIteration
        self.offset += len(line)
        while not part.endswith(b"\n") and (part := self._file.readline(MAX_ROW_BYTES)):
            self.offset += len(part)
        self._num_bytes += len(line)
        self._num_lines += 1
        self.line += 1
        if self._num_bytes > MAX_ROW_BYTES:
            raise _TooLargeError(f"over {MAX_ROW_BYTES:,} bytes")
        if self._num_lines > MAX_LINES:
            raise _TooLargeError(f"over {MAX_LINES} lines; is a quote not closed?")
        # Files that were joined have marks within. What is not UTF-8 is found again cell by cell.
        return line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def _raw_rows(lines: _Lines, table: Source) -> Iterator[_RawRow]:
    """Yields the rows that are not empty."""
    csv.field_size_limit(MAX_ROW_BYTES)
    separator, space = table.separator[:1] or ",", table.separator[1:]
    make = functools.partial(csv.reader, delimiter=separator, skipinitialspace=bool(space))
    source: Iterator[Any] = lines if _has_a_row_in_each_line(table) else make(lines)
    while True:
        lines.begin_row()
        try:
            row = next(source)
        except StopIteration:
            return
        except (_TooLargeError, csv.Error) as error:
            if source is not lines:
                source = make(lines)  # the old one is in the middle of a row
            large = isinstance(error, _TooLargeError) or "limit" in str(error)
            row = rows.refuse("row_too_large" if large else "broken_row", rows.one_line(error))
        if row and (not isinstance(row, str) or row.strip()):
            yield row


def _has_a_row_in_each_line(table: Source) -> bool:
    return table.format == JSONL or (table.format == TSV and table.separator == "\t")


def _tsv_cells(line: str) -> list[str]:
    return [
        cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell
        for cell in line.rstrip("\r\n").split("\t")
    ]


def _parse(raw: _RawRow, table: Source) -> CellsOrRejected:
    if isinstance(raw, rows.Rejected):
        return raw
    if table.format == JSONL:
        data = cast(str, raw).encode("utf-8", "surrogateescape")
        try:
            return rows.parse_metadata(data)
        except UnicodeDecodeError as error:
            return rows.refuse("broken_row", not_utf8(data, error, table))
        except ValueError as error:
            return rows.refuse("broken_row", f"not an object in one line: {rows.one_line(error)}")
    cells = _tsv_cells(raw) if isinstance(raw, str) else raw
    names = table.names
    if len(cells) != len(names):
        why = f"{len(cells)} cells for {len(names)} columns"
        if len(cells) > len(names) and any(cells[len(names) :]):
            more = f"put quotes around a text that holds a {_shown(table.separator)}"
            return rows.refuse("broken_row", f"{why}; {more}")
        there = {*names[: len(cells)]}
        if not all(
            there & wanted for wanted in column_roles.columns_of_pairs(names, table.columns)
        ):
            return rows.refuse("broken_row", why)
    return dict(zip(names, cells))


def _shown(separator: str) -> str:
    return "tab" if separator == "\t" else f"“{separator[:1]}”"


def not_utf8(data: bytes, error: UnicodeDecodeError, table: Source) -> str:
    """Returns what to do about a text of a table that is not UTF-8."""
    encoding = _guess_encoding(table.paths[0])
    at = len(data[: error.start].decode(encoding, "replace"))
    shown = data[: error.start + 80].decode(encoding, "replace")[max(0, at - 20) : at + 20]
    return f"not UTF-8; with --encoding={encoding} it is {' '.join(shown.split())!r}"


@functools.lru_cache(maxsize=16)
def _guess_encoding(path: str) -> str:
    data = _first_bytes(path)
    is_whole = len(data) < _SNIFFED_BYTES  # else the end of a line is missing
    return text_files.guess_encoding(data if is_whole else data.rpartition(b"\n")[0])


def number(cell: str) -> Any:
    """Returns the number that a cell of text spells as JSON would, else the text itself."""
    if not _NUMBER.fullmatch(cell):
        return cell
    value = json.loads(cell)
    return value if math.isfinite(value) else cell


def check_text(separator: str, encoding: str) -> tuple[str, str]:
    """Returns the user's separator and encoding, empty for UTF-8; ValueError: there is none such.

    A separator is a character, or "tab".
    """
    found = {"tab": "\t", "\\t": "\t"}.get(separator.lower(), separator)
    if len(found) > 1 or found in ('"', "\r", "\n", "\0"):
        raise ValueError(f"--separator={separator}: give one character between cells, or tab")
    try:
        known = codecs.lookup(encoding or "utf-8").name
        codecs.getincrementaldecoder(known)
        "".encode(known)  # of codecs of bytes this fails
    except (LookupError, ValueError) as error:
        raise ValueError(
            f"--encoding={encoding}: not known; give cp1252 (of Windows), mac-roman, utf-16, "
            "shift_jis or another that Python knows"
        ) from error
    return found, "" if known in ("utf-8", "utf-8-sig") else known


def _open(file: IO[bytes], table: Source, offset: int, line: int = 0) -> _Lines:
    """Returns the lines of a table, plain or compressed, from an offset on, that of a line."""
    content, compressed = decompression.inflated(file)
    left = offset
    if not (compressed or table.encoding):
        file.seek(offset)
        content, left = decompression.plain(file), 0  # a row may begin as a compressed file does
    if table.encoding or table.line_end:
        recoded = _Recoded(content, table.encoding, table.line_end)
        content = io.BufferedReader(recoded, _SNIFFED_BYTES)
    while left and (skipped := len(content.read(min(left, _SKIPPED_BYTES)))):
        left -= skipped
    return _Lines(content, offset, line)


def _first_bytes(path: str) -> bytes:
    """Returns the first bytes of a file, decompressed; fewer if it is damaged."""
    data = b""
    with files.open(path) as file:
        content, _ = decompression.inflated(file)
        try:
            while len(data) < _SNIFFED_BYTES and (more := content.read1(_SNIFFED_BYTES)):
                data += more
        except decompression.ERRORS as error:
            rows.raise_if_of_store(error)  # damage the reader finds
    return data


def _with_form(table: Source) -> Source:
    """Returns a table with what its first bytes say of encoding, ends of lines and separator."""
    data = _first_bytes(table.paths[0])
    marked = text_files.marked_encoding(data)
    head = data.partition(b"\n")[0]  # names of columns are English in most tables
    encoding = marked or table.encoding or text_files.unmarked_utf16(head)
    if encoding == text_files.UTF8_WITH_MARK:
        encoding = ""
    if not marked and encoding in ("utf-16", "utf-32"):
        encoding += "-le"
    text = data.decode(encoding or "utf-8", "replace")
    line_end = "\r" if re.match(r"[^\r\n]*\r(?!\n)", text) else ""
    first = text.partition(line_end or "\n")[0]
    separator = table.separator or text_files.named_separator(first)
    return dataclasses.replace(table, encoding=encoding, line_end=line_end, separator=separator)


def _with_columns(table: Source) -> Source:
    """Returns a table with its form, the names of its columns, and which are chosen.

    A table of which no separator gives known columns has the one that gives the most.

    Raises:
      ValueError: no columns are known to hold captions, or images.
    """
    table, path = _with_form(table), table.paths[0]
    if table.format == JSONL:
        with files.open(path) as file:
            if names := _names_of_first(_open(file, table, 0), table):
                column_roles.check(names, table.columns, path)
        return table
    most, failure = 0, ValueError()
    for separator in table.separator or SEPARATORS[table.format]:
        tried = dataclasses.replace(table, separator=separator)
        cells = _first_cells(tried)
        if separator != " " and (_has_spaces_before_quotes(tried) or _has_quoted_lines(tried)):
            tried = dataclasses.replace(table, separator=f"{separator} ")
            cells = _first_cells(tried)
        try:
            return _named(tried, cells)
        except ValueError as error:
            if len(cells) > most:
                most, failure = len(cells), error
    if most == 1 and not table.separator:
        raise ValueError(f"{failure}; or name what is between columns with --separator")
    raise failure


def _first_cells(table: Source) -> list[str]:
    with files.open(table.paths[0]) as file:
        first = next(_raw_rows(_open(file, table, 0), table), "")
    if isinstance(first, rows.Rejected) or any("\0" in cell for cell in first):
        hint = "" if table.encoding else "; is it UTF-16? name that with --encoding=utf-16-le"
        raise ValueError(f"{table.paths[0]}: its first row is not the names of columns{hint}")
    return _tsv_cells(first) if isinstance(first, str) else first


def _has_spaces_before_quotes(table: Source) -> bool:
    with files.open(table.paths[0]) as file:
        some = itertools.islice(_raw_rows(_open(file, table, 0), table), 2)
        return any(cell.startswith(' "') for row in some if isinstance(row, list) for cell in row)


def _has_quoted_lines(table: Source) -> bool:
    """Returns whether a tsv is quoted as csv is: cells with line ends are in its first rows."""
    if not _has_a_row_in_each_line(table):
        return False
    data = _first_bytes(table.paths[0])
    text = data.decode(table.encoding or "utf-8-sig", "replace")
    found: list[list[str]] = []
    is_whole = len(data) < _SNIFFED_BYTES
    try:
        found += csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    except csv.Error as error:
        if is_whole or "end of data" not in str(error):
            return False
    found = [row for row in (found if is_whole else found[:-1]) if row]
    of_lines = [cell for row in found for cell in row if "\n" in cell]
    is_text = any("\t" in cell for cell in of_lines)  # as in prompt files: two stray quotes
    return bool(of_lines) and not is_text and len({len(row) for row in found}) == 1


def _named(table: Source, cells: list[str]) -> Source:
    """Returns a table with the names that are in the cells of its first row.

    A table without a header has the columns `#1`, `#2`, ...: if one of these is chosen, or if its
    first row is two cells and one of them a URL (the form of CC3M and CC12M) or the name of an
    image (that of Flickr8k).
    """
    chosen, numbers = table.columns, _numbers(len(cells))
    if not chosen and len(cells) == 2:
        is_url = [cell.startswith(source_files.HTTP) for cell in cells]
        found = is_url if any(is_url) else [bool(_IMAGE_NAME.fullmatch(cell)) for cell in cells]
        if sum(found) == 1:
            role = column_roles.URL if any(is_url) else column_roles.IMAGE
            at = found.index(True)
            chosen = column_roles.given({role: numbers[at], column_roles.TEXT: numbers[1 - at]})
    names = column_roles.unique(json_text.utf8(cell.strip()) for cell in cells)
    if any(name in numbers and name not in names for _, name in chosen):
        names = numbers
    column_roles.check(names, chosen, table.paths[0])
    return dataclasses.replace(table, names=names, columns=chosen)


def _names_of_first(lines: _Lines, table: Source) -> tuple[str, ...]:
    """Returns the names in the first rows of a jsonl; those that cannot be parsed have none."""
    names: dict[str, None] = {}
    try:
        for raw in itertools.islice(_raw_rows(lines, table), _FIRST_ROWS):
            row = _parse(raw, table)
            if isinstance(row, dict):
                names |= dict.fromkeys(row)
            if lines.offset > MAX_ROW_BYTES:
                break
    except decompression.ERRORS as error:
        rows.raise_if_of_store(error)
        if not names:
            raise
    return tuple(names)


def split(found: Found) -> list[Source]:
    """Returns tables in pieces; one that cannot be read as one piece, with its problem."""
    tables = [found.whole(entry) for entry in found.entries if entry.num_bytes]
    return [piece for table in tables for piece in _split_table(table, found.quick)]


def _split_table(table: Source, quick: bool) -> list[Source]:
    try:
        table = _with_columns(table)
        return [table] if quick else _plan(table)
    except (ValueError, *decompression.ERRORS) as error:
        return column_roles.broken(table, error)


def _plan(table: Source) -> list[Source]:
    """Returns a table in pieces; the last goes to the end, or to where the table is damaged."""
    path, count = table.paths[0], 0
    with files.open(path) as file:
        lines, raw_rows = _open_rows(file, table)
        offset, line = lines.offset, lines.line
        starts = [(0, offset, lines.line)]
        try:
            for _ in raw_rows:
                if count and count % source_files.ROWS_PER_SOURCE == 0:
                    starts.append((count, offset, line))
                count, offset, line = count + 1, lines.offset, lines.line
        except decompression.ERRORS:
            pass  # the reader of the last piece finds it
    if table.encoding or path.lower().endswith(decompression.SUFFIXES):
        starts = starts[:: -(-len(starts) // source_files.MAX_PIECES_WITHIN)]
    last = (count, lines.offset, lines.line)
    total = max(1, lines.offset - starts[0][1])
    pieces = [
        dataclasses.replace(
            table,
            start=start,
            stop=stop,
            offset=begin,
            line=line,
            num_bytes=table.num_bytes * (end - begin) // total,
            num_rows=stop - start,
        )
        for (start, begin, line), (stop, end, _) in zip(starts, [*starts[1:], last])
    ]
    return [*pieces[:-1], dataclasses.replace(pieces[-1], stop=-1)]


def _open_rows(file: IO[bytes], table: Source) -> tuple[_Lines, Iterator[_RawRow]]:
    """Returns the lines of a table from its offset on, and its rows, without the header."""
    lines = _open(file, table, table.offset, table.line)
    raw_rows = _raw_rows(lines, table)
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
        lines, raw_rows = _open_rows(file, source)
        index = source.start
        while index != source.stop and (raw := next(raw_rows, None)) is not None:
            row = _parse(raw, source)
            if isinstance(row, rows.Rejected):
                row = rows.refuse(row.reason, f"line {lines.first_of_row:,}: {row.measure}")
            yield index, row
            index += 1
