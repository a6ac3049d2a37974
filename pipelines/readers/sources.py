# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What there is to read: the files that patterns name, in pieces of work."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from parti.pipelines.readers import formats
from parti.pipelines.readers.base import pair_files, rows
from parti.pipelines.readers.base.source_files import FOLDER, Found, Source
from parti.pipelines.readers.tables import column_roles, delimited
from parti.stages import files


def detect_format(pattern: str) -> str:
    """Returns the format of the files that a pattern names; raises as `find_sources`."""
    return formats.detect(pattern, [e.path for named in _list(pattern) for e in named.entries])


def find_sources(
    patterns: Sequence[str],
    input_format: str = "auto",
    columns: Mapping[str, str] | None = None,
    image_root: str = "",
    separator: str = "",
    encoding: str = "",
    quick: bool = False,
) -> list[Source]:
    """Returns what there is to read, sorted, each file once.

    Args:
      patterns: addresses of files or folders, see `files.resolve`.
      input_format: a key of `formats.FORMATS`, or "auto".
      columns: of tables, {role: column}; roles are `column_roles.NAMES`.
      image_root: the folder that paths in tables must not lead out of; each table's own if empty.
      separator: of the cells of csv and tsv; found out for each table if empty.
      encoding: of tables of text; if empty, as their first bytes say, else UTF-8.
      quick: only for what this raises; tables of text are not read to their end.

    Raises:
      FileNotFoundError: a pattern matches no file, or there is no such folder.
      ValueError: unknown format, or tables none of which has the columns that are needed.
    """
    formats.check(input_format)
    if image_root and not files.is_dir(image_root):
        raise FileNotFoundError(f"--image_root={image_root}: no such folder; check the path")
    image_root = files.absolute(image_root) if image_root else ""
    chosen = column_roles.given(columns)
    separator, encoding = delimited.check_text(separator, encoding)
    result = [
        dataclasses.replace(source, image_root=image_root)
        for found in _group(patterns, input_format, chosen)
        for source in _split(
            dataclasses.replace(found, separator=separator, encoding=encoding, quick=quick)
        )
    ]
    mistakes = [source.mistake for source in result if source.mistake]
    if mistakes and all(s.problem for s in result if formats.FORMATS[s.format].is_table):
        raise ValueError(mistakes[0])
    return sorted(result, key=lambda source: (source.paths, source.start))


def _split(found: Found) -> list[Source]:
    sources = formats.FORMATS[found.format].split(found)
    if found.format == FOLDER or not (sources and found.left_out):
        return sources
    return [dataclasses.replace(sources[0], left_out=tuple(found.left_out)), *sources[1:]]


class _Listed(NamedTuple):
    """What a part of a pattern names."""

    text: str
    root: str  # the folder itself, or the one with which a glob begins
    entries: list[files.Entry]
    # Of a folder: whether it is one, its hidden files, and what there is no file
    is_folder: bool = False
    hidden: Sequence[str] = ()
    odd: Sequence[str] = ()


def _group(
    patterns: Sequence[str], input_format: str, columns: column_roles.Given
) -> Iterator[Found]:
    """Yields the files that patterns name, each once, by format and folder."""
    found: dict[tuple[str, str], tuple[str, files.Entry]] = {}
    folders: dict[tuple[str, str], _Listed] = {}  # by format and folder
    for listed in (named for pattern in patterns for named in _list(pattern)):
        name = input_format
        if input_format == "auto":
            name = formats.detect(listed.text, [entry.path for entry in listed.entries])
        found |= {(name, entry.path): (listed.root, entry) for entry in _fitting(name, listed)}
        if listed.is_folder:
            folders[name, listed.root] = listed
    groups: dict[tuple[str, str], list[files.Entry]] = {}
    for (name, _), (root, entry) in sorted(found.items()):
        groups.setdefault((name, root), []).append(entry)
    taken, noted = {path for _, path in found}, set[tuple[str, str]]()
    for (name, root), entries in groups.items():
        others: list[files.Entry] | None = None
        left_out: list[tuple[str, str]] = []
        if (name, root) in folders:
            inner = tuple(f"{r}/" for n, r in groups if n == name and r.startswith(f"{root}/"))
            others, left_out = _others(name, folders[name, root], taken, inner)
            left_out = [item for item in left_out if item not in noted]
            noted |= {*left_out}
        yield Found(name, root, entries, columns, others, left_out)


def _others(
    name: str, listed: _Listed, taken: Set[str], inner: tuple[str, ...]
) -> tuple[list[files.Entry], list[tuple[str, str]]]:
    """Returns the files of a folder that are not of its format, and (reason, path) left out.

    Files that are taken for another format, or in an inner folder that is read too, are neither.
    """
    others = [e for e in listed.entries if e.path not in taken and not e.path.startswith(inner)]
    lost = {path for path in listed.odd if not files.exists(path)}
    odd = [path for path in listed.odd if path not in lost]
    left_out = [("hidden", path) for path in listed.hidden]
    left_out += [("dangling_link", path) for path in listed.odd if path in lost]
    if name == FOLDER:  # a caption that is a pipe is still the caption of its image
        sides = [path for path in odd if pair_files.suffix_of(path) in pair_files.SIDE_SUFFIXES]
        others += [files.Entry(path, 0) for path in sides]
        odd = [path for path in odd if path not in sides]
    elif not formats.FORMATS[name].is_table:  # a table names files beside it
        left_out += [("other_format", entry.path) for entry in others]
    return others, left_out + [("special_file", path) for path in odd]


def _fitting(name: str, listed: _Listed) -> Sequence[files.Entry]:
    """Returns the files that have an ending of the format; all of a glob, if none has."""
    row = formats.FORMATS[name]
    fitting = [entry for entry in listed.entries if row.names_one_of([entry.path.lower()])]
    if not fitting and (name == FOLDER or listed.is_folder):
        what = row.files or f"{name} files"
        raise FileNotFoundError(
            f"{listed.text}: no {what} ({', '.join(row.suffixes)}); check the path"
        )
    return fitting or listed.entries


def _is_hidden(path: str, root: str) -> bool:
    """Returns whether the name of a file, or of a folder between, begins with `.` or `_`."""
    return bool(re.search(r"(^|/)[._]", path[len(root.rstrip("/")) + 1 :]))


def _list(pattern: str) -> Iterator[_Listed]:
    """Yields what each part of a pattern names."""
    try:
        found = files.resolve(pattern)
    except OSError as error:  # of a remote file system
        why = rows.one_line(error)
        raise FileNotFoundError(f"{pattern}: no such file; check the path ({why})") from error
    if not found:
        raise FileNotFoundError("--input is empty; name files or a folder")
    for text, root, entries in found:
        if entries is not None:
            listed = _Listed(text, root, entries)
            problem = "no such file; check the path (quote a glob)"
        else:
            entries, odd = files.walk_all(root)
            hidden = [entry.path for entry in entries if _is_hidden(entry.path, root)]
            entries = [entry for entry in entries if not _is_hidden(entry.path, root)]
            odd = [path for path in odd if not _is_hidden(path, root)]
            listed = _Listed(text, root, entries, True, hidden, odd)
            problem = "no file in this folder; check the path"
        if not listed.entries:
            raise FileNotFoundError(f"{text}: {problem}")
        yield listed
