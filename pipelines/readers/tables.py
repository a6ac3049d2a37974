# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables to pairs: csv, tsv, jsonl and parquet, with pictures in them, beside them, or by URL.

A path is relative to the table's folder, or to another that the user names; one that leads out of
it is not read. A row's picture is the first that it has of: bytes, path, URL. Its key is that of
its key column, else the table's name and the number of the row. All columns but those of picture,
caption and key go to the metadata.
"""

import json
import math
import os
import posixpath
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from parti.data.storage import records
from parti.pipelines.readers import sources
from parti.pipelines.readers.archives import folders, tars
from parti.pipelines.readers.base import decompression, rows
from parti.pipelines.readers.http import fetching
from parti.pipelines.readers.text_tables import columns, delimited, parquet
from parti.stages import files

_HTTP = ("http://", "https://")
_SHOWN_URL = 200  # characters of a URL or path in a rejected row


class _Ready(NamedTuple):
    """A row whose picture is still to be had, unless `image` is it.

    Its metadata are JSON: as Python objects they could be forty times as large.
    """

    key: str
    text: str | bytes | None
    metadata: bytes
    image: bytes | None = None
    path: str = ""
    url: str = ""


def read_table(source: sources.Source, fetcher: fetching.Fetcher) -> Iterator[rows.Row]:
    """Yields the pairs of a table, or of some of its rows, in their order.

    Args:
      source: from `sources.find_sources`.
      fetcher: for rows with a URL.
    """
    name = rows.utf8(files.name(source.paths[0]))
    if source.problem:
        yield rows.reject(name, "broken_file", source.problem, source=name)
        return
    for row, answer in fetcher.fetch_all(_prepared(source), size=_size):
        if isinstance(row, rows.Rejected):
            yield row
            continue
        image: bytes | tars.Refused | None = row.image
        if row.url:
            image = answer.data if not answer.reason else None
            if answer.reason:
                url = row.url[:_SHOWN_URL]
                measure = answer.measure if url in answer.measure else f"{answer.measure}: {url}"
                image = tars.Refused(answer.reason, measure)
        elif row.path:
            try:
                image = folders.read_file(row.path)
            except (OSError, ValueError) as error:
                image = tars.Refused("missing_image", rows.one_line(error))
        if isinstance(image, tars.Refused):
            yield rows.reject(row.key, *image, text=row.text or "", source=name)
        else:
            yield rows.make_pair(row.key, image, row.text, name, json.loads(row.metadata))


def _size(row: _Ready | rows.Rejected) -> int:
    """Returns the bytes that a row holds in memory."""
    return sum(map(sys.getsizeof, row)) if isinstance(row, _Ready) else 0


def _prepared(source: sources.Source) -> Iterator[tuple[_Ready | rows.Rejected, str]]:
    """Yields (row, URL to fetch or "")."""
    path = source.paths[0]
    name = rows.utf8(files.name(path))
    stem = folders.relative(path, source.root)
    for suffix in (*decompression.SUFFIXES, *sources.SUFFIXES[source.format]):
        stem = stem.removesuffix(suffix)
    at = source.start
    try:
        for index, cells in _cells(source):
            at = index + 1
            row = _prepare(cells, f"{stem}#{index}", source, name)
            yield row, row.url if isinstance(row, _Ready) else ""
    except (parquet.BrokenError, *decompression.ERRORS) as error:
        where = f"from row {at:,} on: " if at else ""
        yield rows.reject(name, "broken_file", where + rows.one_line(error), source=name), ""


def _cells(source: sources.Source) -> Iterator[tuple[int, dict[str, Any] | tars.Refused]]:
    path = source.paths[0]
    if source.format == sources.PARQUET:
        return parquet.read(path, source.names, source.start, source.stop)
    places = (source.start, source.stop, source.offset)
    return delimited.read(path, source.format, source.names, *places)


def _prepare(
    cells: dict[str, Any] | tars.Refused, name: str, source: sources.Source, file: str
) -> _Ready | rows.Rejected:
    """Returns a row with its cells in their places."""
    if isinstance(cells, tars.Refused):
        return rows.reject(name, *cells, source=file)
    roles = columns.resolve(tuple(cells), source.columns)
    cell = {role: cells.get(column) for role, column in roles.items()}
    key = _key(cell.get(columns.KEY)) or name
    text = cell.get(columns.TEXT)
    rest = {n: value for n, value in cells.items() if n not in _used(roles) and value is not None}
    if isinstance(text, list):
        rest[records.CAPTIONS] = text
        text = next((item for item in text if isinstance(item, str | bytes)), None)
    if isinstance(text, float) and math.isnan(text):
        text = None
    if text is not None and not isinstance(text, str | bytes):
        kind = type(text).__name__
        return rows.reject(key, "broken_caption", f"{kind}, not a text", source=file)
    metadata = _metadata(rest, is_text=source.format in (sources.CSV, sources.TSV))
    if isinstance(metadata, tars.Refused):
        return rows.reject(key, *metadata, text=text or "", source=file)
    image, path, url = _picture(cell.get(columns.IMAGE), cell.get(columns.URL))
    if path:
        found = _inside(source.image_root or files.parent(source.paths[0]), path)
        if found is None:
            measure = f"{path[:_SHOWN_URL]}; --image_root names the folder that paths lead to"
            return rows.reject(key, "unsafe_name", measure, text=text or "", source=file)
        path = found
    if image is not None and len(image) > rows.MAX_IMAGE_BYTES:
        measure = f"{len(image):,} bytes"
        return rows.reject(key, "member_too_large", measure, text=text or "", source=file)
    return _Ready(key, text, metadata, image, path, url)


def _used(roles: dict[str, str]) -> set[str]:
    """Returns the columns that do not go to the metadata; URLs do."""
    return {column for role, column in roles.items() if role != columns.URL}


def _key(value: Any) -> str:
    """Returns a key as text; "" if there is none."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return rows.utf8(str(value)) if isinstance(value, str | int) else ""


def _metadata(rest: dict[str, Any], is_text: bool) -> bytes | tars.Refused:
    """Returns what JSON can hold, as JSON; numbers of tables of text as numbers."""
    if is_text:
        rest = {name: delimited.number(value) for name, value in rest.items()}
    try:
        metadata = json.dumps(rows.json_safe(rest), ensure_ascii=False).encode()
    except (RecursionError, ValueError) as error:
        return tars.Refused("broken_metadata", rows.one_line(error))
    if len(metadata) > rows.MAX_METADATA_BYTES:
        return tars.Refused("metadata_too_large", f"{len(metadata):,} bytes")
    return metadata


def _picture(image: Any, url: Any) -> tuple[bytes | None, str, str]:
    """Returns (bytes, path, URL) of which at most one is given."""
    if isinstance(image, dict):  # Hugging Face's form
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes):
        return image, "", ""
    if isinstance(image, str) and image.strip():
        image = image.strip()
        return (None, "", image) if image.startswith(_HTTP) else (None, image, "")
    if isinstance(url, bytes):
        url = url.decode("utf-8", "replace")
    return None, "", rows.utf8(url.strip()) if isinstance(url, str) else ""


def _inside(folder: str, path: str) -> str | None:
    """Returns the address of a file in a folder; None if the path leads out of it."""
    if "\0" in path:
        return None
    prefix = folder.rstrip("/") + "/"
    path = path.removeprefix(prefix)
    inner = posixpath.normpath(path)
    if "://" in path or os.path.isabs(inner) or inner.split("/")[0] == "..":
        return None
    return files.join(folder, inner)
