# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The rows of a table to pairs: with images in the table, in files beside it, or by URL.

A path is relative to the table's folder, or to another that the user names; one that leads out of
it is not read. A row's image is the first that it has of: bytes, path, URL. Its key is that of its
key column, else the table's name and the number of the row. All columns except those of image,
caption and key go to the metadata.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from parti.data.storage import records
from parti.pipelines.readers.base import decompression, pair_files, rows, source_files
from parti.pipelines.readers.base.source_files import Source
from parti.pipelines.readers.http import fetching
from parti.pipelines.readers.tables import column_roles, delimited, parquet
from parti.stages import files

Cells = column_roles.Cells
ReadRows = Callable[[Source], Iterator[tuple[int, Cells | rows.Rejected]]]
_TEXT_CELLS = (delimited.CSV, delimited.TSV)  # numbers too are text there


class _Ready(NamedTuple):
    """A row whose image is still to be read from `path` or `url`, unless `image` is it.

    Its metadata are JSON: as Python objects they could be forty times as large.
    """

    key: str
    text: str | bytes | None
    metadata: bytes
    image: bytes | None = None
    path: str = ""
    url: str = ""


def read_table(
    source: Source, images: fetching.Images, *, read_rows: ReadRows, suffixes: Sequence[str]
) -> Iterator[rows.Row]:
    """Yields the pairs of a table, or of some of its rows, in their order.

    `read_rows` yields (number, cells) of the rows of a source; keys are without `suffixes`.
    """
    name = source.name
    if source.problem:
        yield rows.reject(name, "broken_file", source.problem, source=name)
        return
    stem = pair_files.relative(source.paths[0], source.root)
    for suffix in (*decompression.SUFFIXES, *suffixes):
        stem = stem.removesuffix(suffix)
    prepared = _prepared(source, read_rows, stem, images.wants)
    for row, fetched in images.fetcher.fetch_all(prepared, _size, images.part):
        if isinstance(row, rows.Rejected):
            yield row
            continue
        image = _read_image(row, fetched)
        if isinstance(image, rows.Rejected):
            yield image.of(row.key, row.text, name)
        else:
            yield rows.make_pair(row.key, image, row.text, name, json.loads(row.metadata))


def _read_image(row: _Ready, fetched: bytes | rows.Rejected) -> bytes | rows.Rejected | None:
    """Returns the encoded image of a row, why it cannot be read, or None if it has none."""
    if row.path:
        try:
            return pair_files.read(row.path)
        except (OSError, ValueError) as error:
            return rows.refuse("missing_image", rows.one_line(error))
    if row.url and isinstance(fetched, rows.Rejected):
        url, said = row.url[: rows.SHOWN_URL], fetched.measure
        return rows.refuse(fetched.reason, said if url in said else f"{said}: {url}")
    return fetched if row.url else row.image


def _size(row: _Ready | rows.Rejected) -> int:
    return sum(map(sys.getsizeof, row)) if isinstance(row, _Ready) else 0


def _prepared(
    source: Source, read_rows: ReadRows, stem: str, wants: fetching.Wants
) -> Iterator[tuple[_Ready | rows.Rejected, str]]:
    next_row = source.start
    try:
        for index, cells in read_rows(source):
            next_row = index + 1
            row = _prepare(cells, f"{stem}#{index}", source)
            yield _checked(row, index, source.name, wants)
    except (parquet.BrokenError, *decompression.ERRORS) as error:
        where = f"from row {next_row:,} on: " if next_row else ""
        name, why = source.name, where + rows.one_line(error)
        yield rows.reject(name, "broken_file", why, source=name), ""


def _checked(
    row: _Ready | rows.Rejected, index: int, file: str, wants: fetching.Wants
) -> tuple[_Ready | rows.Rejected, str]:
    """Returns a row, rejected if it is no pair whatever its image, and the URL to fetch, or ""."""
    if isinstance(row, rows.Rejected) or not row.url:
        return row, ""
    pair = rows.make_pair(row.key, b"", row.text, file, json.loads(row.metadata))
    if isinstance(pair, rows.Rejected):
        return pair, ""
    return row, row.url if wants(index, pair) else ""


def _prepare(cells: Cells | rows.Rejected, name: str, source: Source) -> _Ready | rows.Rejected:
    """Returns a row with its cells by their roles."""
    file = source.name
    if isinstance(cells, rows.Rejected):
        return cells.of(name, source=file)
    roles = column_roles.resolve(tuple(cells), source.columns)
    cell = {role: cells.get(column) for role, column in roles.items()}
    key = _key(cell.get(column_roles.KEY)) or name
    text, more_captions = _caption(cell.get(column_roles.TEXT))
    if isinstance(text, rows.Rejected):
        return text.of(key, source=file)
    used = {column for role, column in roles.items() if role != column_roles.URL}
    rest = {n: value for n, value in cells.items() if n not in used and value is not None}
    metadata = _metadata(rest | more_captions, is_text=source.format in _TEXT_CELLS)
    if isinstance(metadata, rows.Rejected):
        return metadata.of(key, text, file)
    folder = source.image_root or files.parent(source.paths[0])
    row = _Ready(key, text, metadata)
    found = _with_image(row, cell.get(column_roles.IMAGE), cell.get(column_roles.URL), folder)
    return found.of(key, text, file) if isinstance(found, rows.Rejected) else found


def _key(value: Any) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return rows.utf8(str(value)) if isinstance(value, str | int) else ""


def _caption(value: Any) -> tuple[str | bytes | None | rows.Rejected, dict[str, Any]]:
    """Returns (the caption or why there is none, metadata with all captions of a list)."""
    more = {}
    if isinstance(value, list):
        more = {records.CAPTIONS: value}
        value = next((item for item in value if isinstance(item, str | bytes)), None)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, more
    if not isinstance(value, str | bytes):
        return rows.refuse("broken_caption", f"{type(value).__name__}, not a text"), more
    return value, more


def _metadata(rest: dict[str, Any], is_text: bool) -> bytes | rows.Rejected:
    """Returns what JSON can hold, as JSON; numbers of tables of text as numbers."""
    if is_text:
        rest = {name: delimited.number(value) for name, value in rest.items()}
    try:
        metadata = json.dumps(rows.json_safe(rest), ensure_ascii=False).encode()
    except (RecursionError, ValueError) as error:
        return rows.refuse("broken_metadata", rows.one_line(error))
    if len(metadata) > rows.MAX_METADATA_BYTES:
        return rows.refuse("metadata_too_large", f"{len(metadata):,} bytes")
    return metadata


def _with_image(row: _Ready, image: Any, url: Any, folder: str) -> _Ready | rows.Rejected:
    """Returns a row with where its image is, from its cells; paths are below a folder."""
    if isinstance(image, dict):  # Hugging Face's form
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes):
        if len(image) > rows.MAX_IMAGE_BYTES:
            return rows.refuse("member_too_large", f"{len(image):,} bytes")
        return row._replace(image=image)
    if isinstance(image, str) and image.strip():
        image = image.strip()
        if image.startswith(source_files.HTTP):
            return row._replace(url=image)
        path = pair_files.below(folder, image)
        return path if isinstance(path, rows.Rejected) else row._replace(path=path)
    if isinstance(url, bytes):
        url = url.decode("utf-8", "replace")
    return row._replace(url=rows.utf8(url.strip()) if isinstance(url, str) else "")
