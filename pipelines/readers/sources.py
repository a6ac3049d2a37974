# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What there is to read: the files that patterns name, in pieces of work."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

from parti.pipelines.readers import formats
from parti.pipelines.readers.base import pair_files, rows
from parti.pipelines.readers.base.source_files import FOLDER, Found, Source
from parti.pipelines.readers.tables import column_roles, delimited
from parti.stages import files


def detect_format(pattern: str) -> str:
    """Returns the format of the files that a pattern names; raises as `find_sources`."""
    listed = [entry.path for _, _, entries, _ in _list(pattern) for entry in entries]
    return formats.detect(pattern, listed)


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


def _group(
    patterns: Sequence[str], input_format: str, columns: column_roles.Given
) -> Iterator[Found]:
    """Yields the files that patterns name, each once, by format and folder."""
    found: dict[tuple[str, str], tuple[str, files.Entry]] = {}
    # (format, folder) -> all files in it, and the hidden ones
    folders: dict[tuple[str, str], tuple[list[files.Entry], list[str]]] = {}
    for pattern, root, entries, hidden in (named for whole in patterns for named in _list(whole)):
        is_auto = input_format == "auto"
        name = formats.detect(pattern, [e.path for e in entries]) if is_auto else input_format
        found |= {(name, e.path): (root, e) for e in _fitting(pattern, name, root, entries)}
        if root == (pattern.rstrip("/") or "/"):
            folders[name, root] = entries, hidden
    groups: dict[tuple[str, str], list[files.Entry]] = {}
    for (name, _), (root, entry) in sorted(found.items()):
        groups.setdefault((name, root), []).append(entry)
    taken, noted = {path for _, path in found}, set[tuple[str, str]]()
    for (name, root), entries in groups.items():
        others: list[files.Entry] | None = None
        left_out: list[tuple[str, str]] = []
        if (name, root) in folders:
            all_entries, hidden = folders[name, root]
            inner = tuple(f"{r}/" for n, r in groups if n == name and r.startswith(f"{root}/"))
            others = [
                entry
                for entry in all_entries
                if entry.path not in taken and not entry.path.startswith(inner)
            ]
            left_out = [("hidden", path) for path in hidden]
            odd = [path for path in files.list_odd(root) if not _is_hidden(path, root)]
            lost = {path for path in odd if not files.exists(path)}
            left_out += [("dangling_link", path) for path in odd if path in lost]
            odd = [path for path in odd if path not in lost]
            if name == FOLDER:  # a caption that is a pipe is still the caption of its image
                sides = [p for p in odd if pair_files.suffix_of(p) in pair_files.SIDE_SUFFIXES]
                others += [files.Entry(path, 0) for path in sides]
                odd = [path for path in odd if path not in sides]
            elif not formats.FORMATS[name].is_table:  # a table names files beside it
                left_out += [("other_format", entry.path) for entry in others]
            left_out += [("special_file", path) for path in odd]
            left_out = [item for item in left_out if item not in noted]
            noted |= {*left_out}
        yield Found(name, root, entries, columns, others, left_out)


def _fitting(
    pattern: str, name: str, root: str, entries: Sequence[files.Entry]
) -> Sequence[files.Entry]:
    """Returns the files that have an ending of the format; all of a glob, if none has."""
    row = formats.FORMATS[name]
    fitting = [entry for entry in entries if row.names_one_of([entry.path.lower()])]
    if not fitting and (name == FOLDER or root == pattern.rstrip("/")):
        what = row.files or f"{name} files"
        raise FileNotFoundError(f"{pattern}: no {what} ({', '.join(row.suffixes)}); check the path")
    return fitting or entries


def _is_hidden(path: str, root: str) -> bool:
    """Returns whether the name of a file, or of a folder between, begins with `.` or `_`."""
    return bool(re.search(r"(^|/)[._]", path[len(root.rstrip("/")) + 1 :]))


def _list(pattern: str) -> Iterator[tuple[str, str, list[files.Entry], list[str]]]:
    """Yields each part of a pattern, the folder that it begins with, and the files that it names.

    Of a folder, hidden files are not among these but come last.
    """
    try:
        found = files.resolve(pattern)
    except OSError as error:  # of a remote file system
        why = rows.one_line(error)
        raise FileNotFoundError(f"{pattern}: no such file; check the path ({why})") from error
    if not found:
        raise FileNotFoundError("--input is empty; name files or a folder")
    for text, root, entries in found:
        hidden: list[str] = []
        if entries is not None:
            listed, problem = entries, "no such file; check the path (quote a glob)"
        else:
            found_here = files.walk(root)
            listed = [entry for entry in found_here if not _is_hidden(entry.path, root)]
            hidden = [entry.path for entry in found_here if _is_hidden(entry.path, root)]
            problem = "no file in this folder; check the path"
        if not listed:
            raise FileNotFoundError(f"{text}: {problem}")
        yield text, root, listed, hidden
