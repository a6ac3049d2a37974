# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Cells of Arrow columns of any type as values that JSON can hold, by one rule.

Times are ISO 8601 text, to the microsecond; with a zone in its local time, or in UTC if Python does
not know the zone or the year. A year outside 1 to 9999 has a sign and the days of the Gregorian
calendar. Durations are as Python writes them, else in seconds (`PT1S`). A map is an object; if two
of its keys are the same text, a list of pairs. Dictionaries, extensions and unions are their
values. Bytes and decimals stay, `rows.json_safe` writes them.
"""

import datetime
import functools
import json
import uuid
from typing import Any

import pyarrow as pa

from parti.pipelines.readers.base import rows
from parti.pipelines.readers.tables import column_roles

_SECOND = 10**6  # in microseconds
_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # in a second
_EPOCH = datetime.datetime(1970, 1, 1)
_CYCLE = datetime.timedelta(days=146_097)  # of 400 years, after which the calendar repeats
_MICROSECOND, _DAY = datetime.timedelta(microseconds=1), datetime.timedelta(days=1)


def read(column: pa.Array) -> list[Any]:
    """Returns the cells of a column; an `Exception` in place of one that cannot be read.

    A text that is not UTF-8 is bytes.
    """
    if _is_plain(column.type):
        try:
            return column.to_pylist()
        except (ValueError, pa.ArrowException):
            pass  # a text that is not UTF-8: find out which
    return [_cell(column, index) for index in range(len(column))]


def _cell(column: pa.Array, index: int) -> Any:
    try:
        return _value(column[index])
    except Exception as error:  # of what kind depends on the type
        return error


def _is_plain(kind: pa.DataType) -> bool:
    """Returns whether Arrow gives values of this type as they are wanted, which is faster."""
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_union(kind):
        return False
    if pa.types.is_temporal(kind) or pa.types.is_map(kind) or pa.types.is_run_end_encoded(kind):
        return False
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    fields = [kind.field(index) for index in range(kind.num_fields)]
    names = {field.name for field in fields}
    return len(names) == len(fields) and all(_is_plain(field.type) for field in fields)


def _value(cell: pa.Scalar) -> Any:
    if not cell.is_valid:
        return None
    kind = cell.type
    if isinstance(cell, pa.MapScalar):
        return _object(cell)
    if isinstance(cell, pa.ListScalar):
        return [_value(item) for item in cell.values]
    if isinstance(cell, pa.StructScalar):
        names = column_roles.unique(field.name for field in kind)
        return {name: _value(cell[index]) for index, name in enumerate(names)}
    if isinstance(cell, pa.ExtensionScalar):
        return _extension(kind, _value(cell.value))
    if isinstance(cell, pa.DictionaryScalar | pa.UnionScalar):
        return _value(cell.value)
    if pa.types.is_temporal(kind):
        return _time(kind, cell)
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return cell.as_buffer().to_pybytes()


def _object(cell: pa.Scalar) -> dict[str, Any] | list[list[Any]]:
    entries = cell.values
    pairs = [[_value(entries.field(n)[i]) for n in (0, 1)] for i in range(len(entries))]
    keys = [key if isinstance(key, str) else json.dumps(rows.json_safe(key)) for key, _ in pairs]
    return {k: v for k, (_, v) in zip(keys, pairs)} if len({*keys}) == len(keys) else pairs


def _extension(kind: pa.DataType, value: Any) -> Any:
    if kind.extension_name == "arrow.uuid":
        return str(uuid.UUID(bytes=value))
    return bool(value) if kind.extension_name == "arrow.bool8" else value


def _time(kind: pa.DataType, cell: pa.Scalar) -> Any:
    if pa.types.is_interval(kind):
        return list(cell.as_py())
    if pa.types.is_date32(kind):
        return _date(cell.value * 86_400 * _SECOND)
    if pa.types.is_date64(kind):
        return _date(cell.value * _SECOND // _TICKS["ms"])
    microseconds = cell.value * _SECOND // _TICKS[kind.unit]
    if pa.types.is_timestamp(kind):
        return _moment(microseconds, kind.tz or "")
    try:
        length = datetime.timedelta(microseconds=microseconds)
    except OverflowError:
        return f"PT{microseconds // _SECOND}S"
    is_of_day = pa.types.is_time(kind) and datetime.timedelta() <= length < _DAY
    return (_EPOCH + length).time().isoformat() if is_of_day else str(length)


def _date(microseconds: int) -> str:
    return _moment(microseconds, "").partition("T")[0]


def _moment(microseconds: int, zone: str) -> str:
    """Returns a moment, counted from 1970 in UTC, as ISO 8601 text."""
    try:
        found = _EPOCH + datetime.timedelta(microseconds=microseconds)
        if not zone:
            return found.isoformat()
        return found.replace(tzinfo=datetime.UTC).astimezone(_zone(zone)).isoformat()
    except OverflowError:
        cycles, rest = divmod(microseconds, _CYCLE // _MICROSECOND)
        found = _EPOCH + datetime.timedelta(microseconds=rest)
        year = f"{found.year + 400 * cycles:+05}"
        return year + found.isoformat()[4:] + ("+00:00" if zone else "")


@functools.lru_cache(maxsize=256)
def _zone(name: str) -> datetime.tzinfo:
    try:
        return pa.lib.string_to_tzinfo(name)
    except Exception:  # of what kind depends on what is installed
        return datetime.UTC
