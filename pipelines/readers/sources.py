# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What there is to read: the files that patterns name, in pieces of work."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence

from parti.pipelines.readers import formats
from parti.pipelines.readers.base import rows
from parti.pipelines.readers.base.source_files import FOLDER, Found, Source
from parti.pipelines.readers.tables import column_roles, delimited
from parti.stages import files


def detect_format(pattern: str) -> str:
    """Returns the format of the files that a pattern names; raises as `find_sources`."""
    return formats.detect(pattern, [entry.path for entry in _list(pattern)[1]])


def find_sources(
    patterns: Sequence[str],
    input_format: str = "auto",
    columns: Mapping[str, str] | None = None,
    image_root: str = "",
    separator: str = "",
    encoding: str = "",
) -> list[Source]:
    """Returns what there is to read, sorted, each file once.

    Args:
      patterns: files, globs or folders; several may stand in one, with commas between.
      input_format: a key of `formats.FORMATS`, or "auto".
      columns: of tables, {role: column}; roles are `column_roles.NAMES`.
      image_root: the folder that paths in tables must not lead out of; each table's own if empty.
      separator: of the cells of csv and tsv; found out for each table if empty.
      encoding: of tables of text; if empty, as their first bytes say, else UTF-8.

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
        for source in formats.FORMATS[found.format].split(
            dataclasses.replace(found, separator=separator, encoding=encoding)
        )
    ]
    mistakes = [source.mistake for source in result if source.mistake]
    if mistakes and all(s.problem for s in result if formats.FORMATS[s.format].is_table):
        raise ValueError(mistakes[0])
    return sorted(result, key=lambda source: (source.paths, source.start))


def _group(
    patterns: Sequence[str], input_format: str, columns: column_roles.Given
) -> Iterator[Found]:
    """Yields the files that patterns name, each once, by format and folder."""
    found: dict[tuple[str, str], tuple[str, files.Entry]] = {}
    for pattern in [part for whole in patterns for part in _parts(whole)]:
        root, entries = _list(pattern)
        is_auto = input_format == "auto"
        name = formats.detect(pattern, [e.path for e in entries]) if is_auto else input_format
        found |= {(name, e.path): (root, e) for e in _fitting(pattern, name, root, entries)}
    groups: dict[tuple[str, str], list[files.Entry]] = {}
    for (name, _), (root, entry) in sorted(found.items()):
        groups.setdefault((name, root), []).append(entry)
    yield from (Found(*group, entries, columns) for group, entries in groups.items())


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


def _parts(pattern: str) -> list[str]:
    """Returns the parts of a pattern with commas, unless a file or folder is named so."""
    if "," not in pattern or files.exists(pattern):
        return [pattern]
    return [part.strip() for part in pattern.split(",") if part.strip()]


def _list(pattern: str) -> tuple[str, list[files.Entry]]:
    """Returns the folder that a pattern begins with, and all files that it names.

    A file or folder inside a folder is left out if its name begins with `.` or `_`.
    """
    fixed = re.split(r"[*?\[]", pattern)[0]
    is_glob = files.is_remote(pattern) and fixed != pattern
    if not is_glob and files.is_dir(pattern):
        root = pattern.rstrip("/") or "/"
        inner = len(root) + 1
        found = [e for e in files.walk(root) if not re.search(r"(^|/)[._]", e.path[inner:])]
        if not found:
            raise FileNotFoundError(f"{pattern}: no file in this folder; check the path")
        return root, found
    try:
        found = _match(pattern, fixed)
    except OSError as error:  # of a remote file system
        why = rows.one_line(error)
        raise FileNotFoundError(f"{pattern}: no such file; check the path ({why})") from error
    if not found:
        raise FileNotFoundError(f"{pattern}: no such file; check the path (quote a glob)")
    return (files.parent(pattern) if fixed == pattern else os.path.dirname(fixed)), found


def _match(pattern: str, fixed: str) -> list[files.Entry]:
    """Returns the files that a glob names; `fixed` is its part without wildcards."""
    if not files.is_remote(pattern) or "**" not in pattern or files.is_object_store(pattern):
        return files.match(pattern)
    from apache_beam.io import filesystem

    # Beam lists a remote folder one level deep.
    wanted = re.compile(filesystem.FileSystem.translate_pattern(pattern))
    return [entry for entry in files.walk(os.path.dirname(fixed)) if wanted.fullmatch(entry.path)]
