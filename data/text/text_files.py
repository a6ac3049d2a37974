# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of text as people have them: how they are encoded, and how a table divides its cells.

What is said here of marks, encodings and separators holds for prompt files and for tables of pairs.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from typing import Literal

import charset_normalizer

UTF8_WITH_MARK = "utf-8-sig"
_MARKS = {  # byte order mark -> encoding; the longer ones first
    codecs.BOM_UTF8: UTF8_WITH_MARK,
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What else a text may be, as Python and iconv name it. The first is suggested wherever it is one of
# those that fit: a few letters fit many.
_OTHER_ENCODINGS = ("cp1252", "cp1251", "gb18030", "shift_jis", "cp949", "big5")
_GUESSED_BYTES = 2**14  # of the lines that a guess goes by
_LINE_END = re.compile("\r\n|\r|\n")
_SEPARATORS = ",\t;|"
_NO_SEPARATOR = "\x1f"  # of a table of one column
_SEPARATOR_LINE = re.compile(r'(?i)"?sep=([^\w\s"]|\t)"?')  # which spreadsheets write first


class BrokenFileError(ValueError):
    """A file is not the text or table that it should be; the message begins with the line."""


def marked_encoding(data: bytes) -> str:
    """Returns the encoding that the byte order mark of a text says; "" if it has none."""
    return next((name for mark, name in _MARKS.items() if data.startswith(mark)), "")


def unmarked_utf16(data: bytes) -> str:
    """Returns the form of UTF-16 of a text whose every other byte is mostly NUL; else ""."""
    shares = [data[first::2].count(0) / max(1, len(data) // 2) for first in (0, 1)]
    if max(shares) > 0.5 and min(shares) < 0.1:
        return "utf-16-be" if shares[0] > shares[1] else "utf-16-le"
    return ""


def guess_encoding(data: bytes) -> str:
    """Returns what the lines that are not UTF-8 may be: to be suggested, never to be taken."""
    lines = [line for line in data.split(b"\n") if not _is_utf8(line)]
    while len(lines) > 1 and sum(map(len, lines)) > _GUESSED_BYTES:
        lines = lines[: len(lines) // 2]
    found = charset_normalizer.from_bytes(b"\n".join(lines), cp_isolation=[*_OTHER_ENCODINGS])
    names = [match.encoding for match in found if match.encoding in _OTHER_ENCODINGS]
    return names[0] if names and _OTHER_ENCODINGS[0] not in names else _OTHER_ENCODINGS[0]


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def named_separator(line: str) -> str:
    """Returns the separator that the first line of a table names (`sep=;`); "" if it is none."""
    match = _SEPARATOR_LINE.fullmatch(line.strip("\ufeff \r\n"))
    return match[1] if match else ""


def separators(usual: str) -> str:
    """Returns the separators in the order in which they are tried: that of the ending first."""
    return usual + _SEPARATORS.replace(usual, "")


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
            guess = guess_encoding(data).upper()
            hint = f"save it as UTF-8 (if it is {guess}: iconv -f {guess} -t UTF-8)"
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

    The separator is the given one, or that of `, tab ; |` by which the header has the column; a
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
    if named := named_separator(first):
        separator, text = named, text.partition("\n")[2]
    else:
        tried = (sep for sep in separators(separator) if column in _names(first, sep))
        separator = next(tried, separator)
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
