# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What there is to read: the files that patterns name, their formats, and the pieces of work."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence

from parti.pipelines.readers.archives import tars
from parti.pipelines.readers.base import decompression, rows
from parti.pipelines.readers.text_tables import columns as columns_lib
from parti.pipelines.readers.text_tables import delimited, parquet
from parti.stages import files

WEBDATASET, FOLDER, TFRECORD, PARQUET = "webdataset", "folder", "tfrecord", "parquet"
CSV, TSV, JSONL = delimited.CSV, delimited.TSV, delimited.JSONL
FORMATS = {
    WEBDATASET: "tar files in img2dataset layout: key.jpg|png|webp, key.txt, key.json",
    FOLDER: "image files with the caption beside each, in a .txt of the same name",
    TFRECORD: "image-text pairs as `parti clean` writes them",
    PARQUET: "tables with a caption and a picture's bytes, path or URL",
    CSV: "the same as text, separated by commas",
    TSV: "separated by tabs",
    JSONL: "a JSON object in each line",
}
SUFFIXES = {
    TFRECORD: (".tfrecord",),
    WEBDATASET: (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"),
    FOLDER: tars.IMAGE_SUFFIXES,
    PARQUET: (".parquet",),
    CSV: (".csv", *(f".csv{end}" for end in decompression.SUFFIXES)),
    TSV: (".tsv", *(f".tsv{end}" for end in decompression.SUFFIXES)),
    JSONL: tuple(n + end for n in (".jsonl", ".ndjson") for end in ("", *decompression.SUFFIXES)),
}
_TABLES = (PARQUET, CSV, TSV, JSONL)
_WHAT = {FOLDER: "image files", WEBDATASET: "tar files", TFRECORD: "TFRecord files"}

ROWS_PER_SOURCE = 10_000
# To begin in the middle of a compressed file or of a row group, all before must be read.
_MAX_PIECES_WITHIN = 64
_FILES_PER_FOLDER_SOURCE = 256


@dataclasses.dataclass(frozen=True, order=True)
class Source:
    """What one worker reads in one go: a tar, a TFRecord file, files of a folder, rows of a table.

    Attributes:
      format: a key of `FORMATS`.
      paths: the files; one except for a folder.
      root: the folder that keys are relative to; empty for tars and TFRecords.
      num_bytes: size of what is read, for the progress line.
      start: of a table, the first row.
      stop: of a table, the row after the last; -1 if all that follow belong to it.
      offset: of a table as text, where the first row begins, in bytes of the decompressed file.
      names: of a table's columns; empty for jsonl, where each row has its own.
      columns: of a table, the (role, column) that the user has named.
      image_root: of a table, the folder that its paths are relative to; empty for its own.
      num_rows: of a table, how many, as far as is known.
      problem: of a table, why no row can be read, which its reader will say; else empty.
    """

    format: str
    paths: tuple[str, ...]
    root: str = ""
    num_bytes: int = 0
    start: int = 0
    stop: int = -1
    offset: int = 0
    names: tuple[str, ...] = ()
    columns: columns_lib.Given = ()
    image_root: str = ""
    num_rows: int = 0
    problem: str = ""


def check_format(input_format: str) -> None:
    """Raises ValueError unless it is a key of `FORMATS`, or "auto"."""
    if input_format != "auto" and input_format not in FORMATS:
        raise ValueError(
            f"--input_format={input_format}: unknown; choose from auto, {', '.join(FORMATS)}"
        )


def check_columns(columns: Mapping[str, str] | None) -> None:
    """Raises ValueError if a role of a column is unknown: {"text": "my_caption", ...}."""
    columns_lib.given(columns)


def detect_format(pattern: str) -> str:
    """Returns the format of the files that a pattern names; a folder is looked into.

    Raises:
      FileNotFoundError: nothing matches, or a folder without files.
      ValueError: the format is not known; the message lists the formats.
    """
    return _detect(pattern, _list(pattern)[1])


def _detect(pattern: str, entries: Sequence[files.Entry]) -> str:
    names = [entry.path.lower() for entry in entries]
    has = {kind: any(n.endswith(ends) for n in names) for kind, ends in SUFFIXES.items()}
    # A folder of pictures may have its captions in a table.
    table = next((kind for kind in _TABLES if has[kind]), None)
    if has[FOLDER] and table and not any(name.endswith(".txt") for name in names):
        has[FOLDER] = False
    for kind in SUFFIXES:
        if has[kind]:
            return kind
    raise ValueError(
        f"{pattern}: format not recognised; known are "
        + "; ".join(f"{kind} ({what})" for kind, what in FORMATS.items())
        + ". Name one with --input_format."
    )


def _list(pattern: str) -> tuple[str, list[files.Entry]]:
    """Returns the folder that a pattern begins with, and all files that it names.

    A file or folder inside a folder is left out if its name begins with `.` or `_`.

    Raises:
      FileNotFoundError: there are none.
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


def find_sources(
    patterns: Sequence[str],
    input_format: str = "auto",
    columns: Mapping[str, str] | None = None,
    image_root: str = "",
) -> list[Source]:
    """Returns what there is to read, sorted, each file once.

    Args:
      patterns: files, globs or folders; several may stand in one, with commas between.
      input_format: a key of `FORMATS`, or "auto".
      columns: of tables, {role: column}; roles are `columns.NAMES`.
      image_root: the folder that paths in tables are relative to, and must not lead out of; each
        table's own if empty.

    Raises:
      FileNotFoundError: a pattern matches no file, or there is no such folder.
      ValueError: unknown format, or tables none of which has the columns that are needed.
    """
    check_format(input_format)
    if image_root and not files.is_dir(image_root):
        raise FileNotFoundError(f"--image_root={image_root}: no such folder; check the path")
    image_root = files.absolute(image_root) if image_root else ""
    chosen = columns_lib.given(columns)
    found: dict[tuple[str, str], tuple[str, files.Entry]] = {}
    for pattern in [part for whole in patterns for part in _parts(whole)]:
        root, entries = _list(pattern)
        kind = _detect(pattern, entries) if input_format == "auto" else input_format
        fitting = [e for e in entries if e.path.lower().endswith(SUFFIXES[kind])]
        if not fitting and (kind == FOLDER or root == pattern.rstrip("/")):
            ends = ", ".join(SUFFIXES[kind])
            what = _WHAT.get(kind, f"{kind} files")
            raise FileNotFoundError(f"{pattern}: no {what} ({ends}); check the path")
        found |= {(kind, e.path): (root, e) for e in fitting or entries}
    groups: dict[tuple[str, str], list[files.Entry]] = {}
    for (kind, _), (root, entry) in sorted(found.items()):
        groups.setdefault((kind, root), []).append(entry)
    errors: list[ValueError] = []
    result = []
    for (kind, root), entries in groups.items():
        result += _sources(kind, root, entries, chosen, errors)
    if errors and all(s.problem for s in result if s.format in _TABLES):
        raise errors[0]
    if image_root:
        result = [dataclasses.replace(source, image_root=image_root) for source in result]
    return sorted(result, key=lambda source: (source.paths, source.start))


def _parts(pattern: str) -> list[str]:
    """Returns the parts of a pattern with commas, unless a file or folder is named so."""
    if "," not in pattern or files.exists(pattern):
        return [pattern]
    return [part.strip() for part in pattern.split(",") if part.strip()]


def _sources(
    kind: str,
    root: str,
    entries: list[files.Entry],
    chosen: columns_lib.Given,
    errors: list[ValueError],
) -> list[Source]:
    """Returns the pieces of work in files of one format.

    Args:
      kind: the format.
      root: the folder of the files.
      entries: the files.
      chosen: columns of tables.
      errors: takes what is wrong with the columns of a table.
    """
    if kind == PARQUET:
        return _parquet_sources(root, entries, chosen, errors)
    if kind in _TABLES:
        return [s for entry in entries for s in _text_sources(kind, root, entry, chosen, errors)]
    if kind != FOLDER:
        return [Source(kind, (entry.path,), num_bytes=entry.num_bytes) for entry in entries]
    size = _FILES_PER_FOLDER_SOURCE
    groups = [entries[i : i + size] for i in range(0, len(entries), size)]
    return [
        Source(FOLDER, tuple(e.path for e in group), root, sum(e.num_bytes for e in group))
        for group in groups
    ]


def _text_sources(
    kind: str,
    root: str,
    entry: files.Entry,
    chosen: columns_lib.Given,
    errors: list[ValueError],
) -> list[Source]:
    """Returns a csv, tsv or jsonl in pieces."""
    path = entry.path
    whole = Source(kind, (path,), root, entry.num_bytes, columns=chosen)
    if not entry.num_bytes:
        return []
    try:
        names, chosen = delimited.header(path, kind, chosen)
        pieces = delimited.plan(path, kind, names, ROWS_PER_SOURCE)
    except decompression.ERRORS as error:
        return [dataclasses.replace(whole, problem=rows.one_line(error))]
    except ValueError as error:
        errors.append(error)
        return [dataclasses.replace(whole, problem=_short(error, path))]
    if path.lower().endswith(decompression.SUFFIXES):
        pieces = _merge(pieces)
    total = max(1, sum(piece.num_bytes for piece in pieces))
    return [
        Source(
            kind,
            (path,),
            root,
            num_bytes=entry.num_bytes * piece.num_bytes // total,
            start=piece.start,
            stop=piece.stop,
            offset=piece.offset,
            names=names,
            columns=chosen,
            num_rows=piece.num_rows,
        )
        for piece in pieces
    ]


def _short(error: ValueError, path: str) -> str:
    """Returns in one line what is wrong with a file, not where on this machine it is."""
    text = str(error).removeprefix(f"{path}: ").replace(path, files.name(path))
    return rows.one_line(ValueError(text))


def _merge(pieces: list[delimited.Piece]) -> list[delimited.Piece]:
    """Returns fewer and larger pieces."""
    size = -(-len(pieces) // _MAX_PIECES_WITHIN)
    groups = [pieces[i : i + size] for i in range(0, len(pieces), size)]
    return [
        g[0]._replace(
            stop=g[-1].stop,
            num_bytes=sum(piece.num_bytes for piece in g),
            num_rows=sum(piece.num_rows for piece in g),
        )
        for g in groups
    ]


def _parquet_sources(
    root: str,
    entries: list[files.Entry],
    chosen: columns_lib.Given,
    errors: list[ValueError],
) -> list[Source]:
    """Returns Parquet files in pieces: some row groups, or a part of one."""
    result = []
    paths = [entry.path for entry in entries]
    for entry, description in zip(entries, parquet.describe(paths), strict=True):
        whole = Source(PARQUET, (entry.path,), root, entry.num_bytes, columns=chosen)
        if isinstance(description, parquet.BrokenError):
            result.append(dataclasses.replace(whole, problem=str(description)))
            continue
        try:
            columns_lib.check(description.names, chosen, entry.path)
        except ValueError as error:
            errors.append(error)
            result.append(dataclasses.replace(whole, problem=_short(error, entry.path)))
            continue
        stops = _stops([count for count, _ in description.groups])
        total = max(1, stops[-1]) if stops else 1
        for start, stop in zip([0, *stops], stops):
            result.append(
                dataclasses.replace(
                    whole,
                    num_bytes=entry.num_bytes * (stop - start) // total,
                    start=start,
                    stop=stop,
                    names=description.names,
                    num_rows=stop - start,
                )
            )
    return result


def _stops(counts: Sequence[int]) -> list[int]:
    """Returns where pieces of row groups of these sizes end."""
    stops: list[int] = []
    begin = end = 0  # of the row groups gathered so far
    for count in counts:
        if end > begin and end + count - begin > ROWS_PER_SOURCE:
            stops.append(end)
            begin = end
        step = max(ROWS_PER_SOURCE, -(-count // _MAX_PIECES_WITHIN))
        while count > step:
            stops.append(begin + step)
            begin, count = begin + step, count - step
            end = begin
        end += count
    if end > begin:
        stops.append(end)
    return stops
