# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The rows of a table to pairs: with images in the table, in files beside it, or by URL.

A path is relative to the table's folder, or to another that the user names; one that leads out of
it is not read. A row's image is the first that it has of: bytes (also as a list of them, as base64
or in a data: URL), path, URL. Its key is that of its key column, else the table's name and the
number of the row. All columns except those of image, caption and key go to the metadata; what
cannot be there is left out and named under `rows.LEFT_OUT`, and costs no pair.
"""

import array
import base64
import dataclasses
import decimal
import json
import math
import re
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from parti.data.storage import records
from parti.pipelines.readers.base import decompression, pair_files, rows, source_files
from parti.pipelines.readers.base.source_files import Source
from parti.pipelines.readers.http import fetching
from parti.pipelines.readers.tables import column_roles, delimited, parquet
from parti.stages import files, json_text

Cells = column_roles.Cells
ReadRows = Callable[[Source], Iterator[tuple[int, Cells | rows.Rejected]]]
_NUMBERED = re.compile(r"(?i)(.*\.(?:jpe?g|png|webp))#\d+")  # Flickr8k's: a caption of an image
# How the base64 of JPEG, PNG, WebP, GIF, BMP, TIFF, and of AVIF and HEIF begins.
_BASE64 = ("/9j/", "iVBORw0K", "UklGR", "R0lGOD", "Qk", "SUkq", "TU0A", "AAAA")
_LEAST_BASE64, _LONGEST_PATH = 64, 4096  # characters
_TEXT_OF_BYTES = tuple(t.encode() for t in (*source_files.HTTP, "data:", *_BASE64))
_IMAGE_KEYS = ("bytes", "path", "url")
# Columns that a pair names as left out, characters of a name, and bytes of all at most.
_LEFT_OUT_COLUMNS, _LEFT_OUT_NAME, _LEFT_OUT_BYTES = 20, 100, 2**15


class _Ready(NamedTuple):
    """A row whose image is still to be read from `path` or `url`, unless `image` is it.

    Its metadata are JSON: as Python objects they could be forty times as large.
    """

    pair: rows.Row  # without image and metadata; or why there is none, whatever the image
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
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) else stem
    prepared = _prepared(source, read_rows, stem, images.wants)
    for row, fetched in images.fetcher.fetch_all(prepared, _size, images.part):
        if isinstance(row, rows.Rejected):
            yield row
            continue
        image = _read_image(row, fetched)
        if isinstance(image, rows.Rejected):
            yield image.of(row.pair.key, row.pair.text, name)
        elif isinstance(row.pair, rows.Rejected) or image is None:
            yield row.pair
        else:
            metadata = json.loads(row.metadata)
            yield dataclasses.replace(row.pair, image=image, metadata=metadata)


def _read_image(row: _Ready, fetched: bytes | rows.Rejected) -> bytes | rows.Rejected | None:
    """Returns the encoded image of a row, why it cannot be read, or None if it has none."""
    if row.path:
        try:
            return pair_files.read(row.path)
        except (OSError, ValueError) as error:
            where = f"{rows.one_line(error)}: {files.name(row.path)[: rows.SHOWN_URL]}"
            return rows.refuse("missing_image", f"{where}; --image_root names another folder")
    if row.url and isinstance(fetched, rows.Rejected):
        url, said = row.url[: rows.SHOWN_URL], fetched.measure
        return rows.refuse(fetched.reason, said if url in said else f"{said}: {url}")
    return fetched if row.url else row.image


def _size(row: _Ready | rows.Rejected) -> int:
    if isinstance(row, rows.Rejected):
        return 0
    return sum(map(sys.getsizeof, (*row, row.pair.key, row.pair.text)))


def _prepared(
    source: Source, read_rows: ReadRows, stem: str, wants: fetching.Wants
) -> Iterator[tuple[_Ready | rows.Rejected, str]]:
    next_row = source.start
    # Rows of a jsonl have names of their own.
    roles = column_roles.candidates(source.names, source.columns) if source.names else None
    try:
        for index, cells in read_rows(source):
            next_row = index + 1
            yield _prepare(cells, index, stem, source, roles, wants)
    except (parquet.BrokenError, *decompression.ERRORS) as error:
        where = f"from row {next_row:,} on: " if next_row else ""
        name, why = source.name, where + rows.one_line(error)
        yield rows.reject(name, "broken_file", why, source=name), ""


def _prepare(
    cells: Cells | rows.Rejected,
    index: int,
    stem: str,
    source: Source,
    roles: column_roles.Roles | None,
    wants: fetching.Wants,
) -> tuple[_Ready | rows.Rejected, str]:
    """Returns a row with its cells by their roles, and the URL to fetch, or ""."""
    row, metadata = _by_role(cells, f"{stem}#{index}", source, roles)
    if isinstance(row, rows.Rejected) or not row.url:
        return row, ""
    if isinstance(row.pair, rows.Rejected):
        return row.pair, ""
    wanted = wants(index, dataclasses.replace(row.pair, metadata=metadata))
    return row, row.url if wanted else ""


def _by_role(
    cells: Cells | rows.Rejected, name: str, source: Source, roles: column_roles.Roles | None
) -> tuple[_Ready | rows.Rejected, dict[str, Any]]:
    """Returns a row with its cells by their roles, and its metadata."""
    file, is_text = source.name, source.format in delimited.SEPARATORS
    if isinstance(cells, rows.Rejected):
        return cells.of(name, source=file), {}
    roles = roles or column_roles.candidates(list(cells), source.columns)
    key_column, *_ = roles.get(column_roles.KEY, (None,))
    texts = roles.get(column_roles.TEXT, (None,))
    text_column = next(
        (column for column in texts if not _is_empty(_cell(cells, column))), texts[0]
    )
    images = roles.get(column_roles.IMAGE, ())
    key = _key(_cell(cells, key_column)) or name
    text, more_captions = _caption(_cell(cells, text_column), text_column)
    if isinstance(text, str) and is_text:
        text = _as_utf8(text, source)
    if isinstance(text, rows.Rejected):
        return text.of(key, source=file), {}
    folder = source.image_root or files.parent(source.paths[0])
    image_column, image = _first_image(cells, roles, folder)
    used = {key_column, text_column, image_column, *images[:1]}
    used |= {column for column in (*texts, *images) if _is_empty(cells.get(column))}
    rest = {n: value for n, value in cells.items() if n not in used and value is not None}
    try:
        metadata, data = _metadata(rest | more_captions, is_text)
    except (RecursionError, ValueError) as error:
        return rows.reject(key, "broken_metadata", rows.one_line(error), text or "", file), {}
    if isinstance(image, rows.Rejected):
        return image.of(key, text, file), {}
    pair = rows.make_pair(key, b"" if image else None, text, file, metadata)
    if isinstance(pair, rows.Rejected):
        return _Ready(pair, b"", **image), {}
    if pair.metadata is not metadata:
        metadata, data = pair.metadata, _json(pair.metadata)
    return _Ready(dataclasses.replace(pair, metadata={}), data, **image), metadata


def _cell(cells: Cells, column: str | None) -> Any:
    return None if column is None else cells.get(column)


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, list | dict):
        return all(map(_is_empty, value.values() if isinstance(value, dict) else value))
    return value is None or value == b""


def _key(value: Any) -> str:
    if isinstance(value, float | decimal.Decimal):
        return str(int(value)) if math.isfinite(value) and value == int(value) else ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return json_text.utf8(str(value)) if isinstance(value, str | int) else ""


def _caption(
    value: Any, column: str | None
) -> tuple[str | bytes | None | rows.Rejected, dict[str, Any]]:
    """Returns (the caption or why there is none, metadata with all captions of a list)."""
    if texts := pair_files.texts_in(value):
        return texts[0], {records.CAPTIONS: texts} if isinstance(value, list) else {}
    if isinstance(value, str | bytes):
        return value, {}
    if _is_empty(value) and not isinstance(value, dict):
        return None, {}
    why = f"column {column}: {_what(value)}, not a text; name another with --columns text=NAME"
    return rows.refuse("broken_caption", why), {}


def _as_utf8(text: str, table: Source) -> str | rows.Rejected:
    """Returns a text of a file, or what to do if it is not UTF-8."""
    if text.isascii():
        return text
    data = text.encode("utf-8", "surrogateescape")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return rows.refuse("broken_caption", delimited.not_utf8(data, error, table))


def _what(value: Any) -> str:
    """Returns in words what a cell holds."""
    if isinstance(value, Exception):
        return rows.one_line(value)
    if isinstance(value, dict):
        return f"a struct of {', '.join(map(str, value))}"[: rows.SHOWN_URL]
    return f"a list of {len(value):,}" if isinstance(value, list) else type(value).__name__


def _metadata(rest: Mapping[str, Any], is_text: bool) -> tuple[dict[str, Any], bytes]:
    """Returns what JSON can hold, also as JSON; numbers of tables of text as numbers.

    What it cannot hold is left out, and the largest of what is too much; ValueError,
    RecursionError: nothing can be written.
    """
    found: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name, value in rest.items():
        try:
            if isinstance(value, Exception):
                raise value
            found[json_text.utf8(name)] = rows.json_safe(
                delimited.number(value) if is_text else value
            )
        except Exception as error:  # of what kind depends on the type
            left_out[json_text.utf8(name)] = rows.one_line(error)
    named = _with_names(found, left_out)
    data = _json(named)
    if (size := len(data)) > rows.MAX_METADATA_BYTES:
        sizes = {name: len(_json({name: value})) for name, value in found.items()}
        for name in sorted(sizes, key=lambda name: -sizes[name]):
            if size + _LEFT_OUT_BYTES > rows.MAX_METADATA_BYTES:
                size -= sizes[name]
                left_out[name] = "too large"
                del found[name]
        named = _with_names(found, left_out)
        data = _json(named)
    return named, data


def _with_names(found: dict[str, Any], left_out: Mapping[str, str]) -> dict[str, Any]:
    """Returns metadata that also name what is not in them."""
    if not left_out:
        return found
    some = list(left_out.items())[:_LEFT_OUT_COLUMNS]
    return found | {rows.LEFT_OUT: {name[:_LEFT_OUT_NAME]: why for name, why in some}}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _first_image(
    cells: Cells, roles: Mapping[str, Sequence[str]], folder: str
) -> tuple[str | None, dict[str, Any] | rows.Rejected]:
    """Returns (the column that is no metadata, where the image is: fields of `_Ready`)."""
    refused = None
    for role in (column_roles.IMAGE, column_roles.URL):
        for column in roles.get(role, ()):
            found = _find_image(cells.get(column), folder, is_url=role == column_roles.URL)
            if isinstance(found, rows.Rejected):
                if found.reason != "missing_image":
                    return column, found
                why = f"column {column}: {found.measure}"
                refused = refused or rows.refuse(found.reason, why)
            elif found:
                return None if "url" in found and role == column_roles.URL else column, found
    return None, refused or {}


def _find_image(value: Any, folder: str, is_url: bool) -> dict[str, Any] | rows.Rejected | None:
    """Returns where the image of a cell is, as fields of `_Ready`; None if the cell is empty."""
    value = _unwrapped(value)
    if _is_empty(value):
        return None
    if isinstance(value, bytes):
        is_text = value.startswith(_TEXT_OF_BYTES) and value[:_LEAST_BASE64].isascii()
        if not (is_url or is_text):
            return _image(value)
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return rows.refuse("missing_image", f"{_what(value)}, not a picture, path or URL")
    value = value.strip()
    if value.startswith(source_files.HTTP):
        return {"url": json_text.utf8(value)}
    data = _inline(value)
    if data is not None:
        return data if isinstance(data, rows.Rejected) else _image(data)
    return {"url": json_text.utf8(value)} if is_url else _path(value, folder)


def _unwrapped(value: Any) -> Any:
    """Returns what is in Hugging Face's {"bytes", "path"}, in a list of one, or a list of bytes."""
    if isinstance(value, dict) and not value.keys().isdisjoint(_IMAGE_KEYS):
        return _unwrapped(next((value[k] for k in _IMAGE_KEYS if value.get(k)), None))
    if not isinstance(value, list):
        return value
    some = [item for item in value if item is not None]
    if some and type(some[0]) is int:
        for kind in "Bb":
            try:
                return array.array(kind, some).tobytes()
            except (TypeError, OverflowError):
                pass
    return _unwrapped(some[0]) if len(some) == 1 else value


def _image(data: bytes) -> dict[str, Any] | rows.Rejected:
    if len(data) > rows.MAX_IMAGE_BYTES:
        return rows.refuse("member_too_large", f"{len(data):,} bytes")
    return {"image": data}


def _inline(text: str) -> bytes | rows.Rejected | None:
    """Returns the bytes of a data: URL or of base64 that begins as images do; None if neither."""
    head, _, data = text.partition(",")
    if head[:5].lower() == "data:":
        data = urllib.parse.unquote_to_bytes(data).decode("latin-1")
        decoded = _base64(data) if head.lower().endswith(";base64") else data.encode("latin-1")
        return decoded or rows.refuse("missing_image", "a data: URL that cannot be decoded")
    return _base64(text) if len(text) >= _LEAST_BASE64 and text.startswith(_BASE64) else None


def _base64(text: str) -> bytes | None:
    text = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None


def _path(text: str, folder: str) -> dict[str, Any] | rows.Rejected:
    if len(text) > _LONGEST_PATH:
        why = f"a text of {len(text):,} characters, not a path, URL or base64"
        return rows.refuse("missing_image", why)
    numbered = _NUMBERED.fullmatch(text)
    name = (numbered[1] if numbered else text).removeprefix(files.LOCAL_SCHEME)
    path = pair_files.below(folder, name)
    if "\\" in name and (isinstance(path, rows.Rejected) or not files.exists(path)):  # of Windows
        path = pair_files.below(folder, name.replace("\\", "/"))
    return path if isinstance(path, rows.Rejected) else {"path": path}
