# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of text as people have them: how they are encoded, and how a table divides its cells."""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from typing import Literal

_MARKS = {  # byte order mark -> encoding; the longer ones first
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LINE_END = re.compile("\r\n|\r|\n")
_SEPARATORS = (",", ";", "\t", "|")
_NO_SEPARATOR = "\x1f"  # of a table of one column
_SEPARATOR_LINE = re.compile(r'"?sep=([^\w\s"]|\t)"?')  # which spreadsheets write before the header


class BrokenFileError(ValueError):
    """A file is not the text or table that it should be; the message begins with the line."""


def marked_encoding(data: bytes) -> str:
    """Returns the encoding that a byte order mark at the beginning says, "" without one."""
    return next((name for mark, name in _MARKS.items() if data.startswith(mark)), "")


def decode(data: bytes) -> tuple[str, str]:
    r"""Returns (text, encoding) of a file: UTF-8, or what its byte order mark says.

    Every line ends in "\n"; byte order marks, also of files that were joined, are gone.

    Raises:
      BrokenFileError: it is neither.
    """
    encoding = marked_encoding(data) or "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "replace")
        number, byte = len(_LINE_END.findall(before)) + 1, data[error.start]
        hint = "write it again as UTF-8"
        if encoding.startswith("utf-8"):
            hint = "save it as UTF-8 (from Windows or Latin-1: iconv -f CP1252 -t UTF-8)"
        if b"\0" in data and encoding == "utf-8":
            hint = "it may be UTF-16 without a byte order mark; save it as UTF-8"
        name = encoding.removesuffix("-sig").upper()
        raise BrokenFileError(f"line {number}: byte {byte:#04x} is not {name}; {hint}") from error
    text = _LINE_END.sub("\n", text).replace("\n\ufeff", "\n")
    if (start := text.find("\0")) >= 0:
        raise BrokenFileError(
            f"line {text.count(chr(10), 0, start) + 1}: a NUL character, as UTF-16 without a byte "
            "order mark has; save it as UTF-8"
        )
    return text, encoding


def read_table(text: str, column: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of its first line, its cells) of each row of a table, the header first.

    The separator is the given one, or that of `, ; tab |` by which the header has the column; a
    first line `sep=;` names it; a table of one column has none. Empty lines have no cells.

    Quotes around cells are quoting, as spreadsheets and pandas write it: none is left open, none is
    followed by more text, and a quote inside is doubled. If a table with tabs, or of one column, is
    not so, or a cell would hold both a line end and a tab, all its quotes are part of the text.

    Raises:
      BrokenFileError: the quotes do not match, or a cell is huge.
    """
    lines = text.count("\n")
    text = text.lstrip("\n")
    first = text.partition("\n")[0]
    if named := _SEPARATOR_LINE.fullmatch(first.strip(" ")):
        separator, text = named.group(1), text.partition("\n")[2]
    else:
        names = (separator, *_SEPARATORS)
        separator = next((sep for sep in names if column in _names(first, sep)), separator)
    skipped = lines - text.count("\n")
    if len(_names(text.partition("\n")[0], separator)) == 1:
        separator = _NO_SEPARATOR
    try:
        rows = list(_rows(text, skipped, separator, csv.QUOTE_MINIMAL))
        is_quoted = separator != "\t" or not any(
            "\n" in cell and "\t" in cell for _, cells in rows for cell in cells
        )
    except BrokenFileError:
        if separator not in ("\t", _NO_SEPARATOR):
            raise
        is_quoted = False
    yield from rows if is_quoted else _rows(text, skipped, separator, csv.QUOTE_NONE)


def _names(header: str, separator: str) -> list[str]:
    return [cell.strip().strip('"').strip().lower() for cell in header.split(separator)]


def _rows(
    text: str, skipped: int, separator: str, quoting: Literal[0, 3]
) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of its first line, cells) of the rows of a text after some skipped lines."""
    lines = io.StringIO(text, newline="\n")
    reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
    number = skipped + 1
    try:
        for cells in reader:
            yield number, [cell.strip() for cell in cells]
            number = skipped + reader.line_num + 1
    except csv.Error as error:
        raise BrokenFileError(
            f"line {number}: {error}; a quote inside a quoted cell is written twice"
        ) from error
