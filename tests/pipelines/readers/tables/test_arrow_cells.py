# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A column of any type of Arrow becomes what JSON can hold."""

import datetime
import decimal
import json
import uuid

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parti.pipelines.readers.base import rows
from parti.pipelines.readers.tables import arrow_cells

FUZZ = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
NOON = 1_577_880_000  # 2020-01-01 12:00 UTC, in seconds
TEXTS = pa.map_(pa.string(), pa.int64())


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        (pa.timestamp("s"), NOON, "2020-01-01T12:00:00"),
        (pa.timestamp("ns"), NOON * 10**9 + 123_456_789, "2020-01-01T12:00:00.123456"),
        (pa.timestamp("us", "Europe/Berlin"), NOON * 10**6, "2020-01-01T13:00:00+01:00"),
        (pa.timestamp("us", "+05:30"), NOON * 10**6, "2020-01-01T17:30:00+05:30"),
        (pa.timestamp("us", "Mars/Olympus"), NOON * 10**6, "2020-01-01T12:00:00+00:00"),
        (pa.timestamp("us", "US/Pacific-New"), NOON * 10**6, "2020-01-01T12:00:00+00:00"),
        (pa.timestamp("us", "tzutc()"), NOON * 10**6, "2020-01-01T12:00:00+00:00"),
        # 31 times 400 years after the year 2000
        (pa.timestamp("s"), 946_684_800 + 31 * 146_097 * 86_400, "+14400-01-01T00:00:00"),
        (pa.timestamp("s"), 946_684_800 - 6 * 146_097 * 86_400, "-0400-01-01T00:00:00"),
        (pa.timestamp("s", "UTC"), -62_135_596_801, "+0000-12-31T23:59:59+00:00"),
        (pa.timestamp("s", "+14:00"), 253_402_300_799, "+9999-12-31T23:59:59+00:00"),
        (pa.date32(), 18_262, "2020-01-01"),
        (pa.date64(), 18_262 * 86_400_000, "2020-01-01"),
        (pa.date32(), 2_932_897, "+10000-01-01"),
        (pa.time32("s"), 3661, "01:01:01"),
        (pa.time64("ns"), 123_456_789, "00:00:00.123456"),
        (pa.duration("ns"), 90_061_000_001_999, "1 day, 1:01:01.000001"),
        (pa.duration("s"), 2**62, f"PT{2**62}S"),
        (pa.decimal128(20, 2), decimal.Decimal("1.10"), "1.10"),
        (pa.float64(), float("nan"), None),
        (pa.float32(), float("-inf"), None),
        (pa.uint64(), 2**64 - 1, 2**64 - 1),
        (pa.binary(), b"\xff\xfe", "//4="),
        (TEXTS, [("a", 1), ("b", None)], {"a": 1, "b": None}),
        (TEXTS, [("a", 1), ("a", 2)], [["a", 1], ["a", 2]]),
        (pa.map_(pa.int8(), pa.date32()), [(5, 18_262)], {"5": "2020-01-01"}),
        (pa.list_(TEXTS), [[("a", 1)], None], [{"a": 1}, None]),
        (pa.struct({"m": TEXTS}), {"m": [("a", 1)]}, {"m": {"a": 1}}),
        (pa.struct({"t": pa.time64("ns")}), {"t": 1000}, {"t": "00:00:00.000001"}),
        (pa.list_(pa.timestamp("ns"), 1), [1], ["1970-01-01T00:00:00"]),
        (pa.list_(pa.date32(), 0), [], []),
        (pa.large_list(pa.duration("ns")), [1000], ["0:00:00.000001"]),
        (pa.list_view(pa.string_view()), ["a"], ["a"]),
        (pa.dictionary(pa.int8(), pa.string()), "a", "a"),
        (pa.month_day_nano_interval(), (1, 2, 3), [1, 2, 3]),
    ],
    ids=str,
)
def test_a_value_of_each_type(kind: pa.DataType, value: object, wanted: object) -> None:
    found = arrow_cells.read(pa.array([value, None], kind))
    assert [rows.json_safe(item) for item in found] == [wanted, None]
    alone = arrow_cells.read(pa.array([None, value], kind).slice(1))
    assert rows.json_safe(alone) == [wanted]


def test_extensions_unions_and_names_that_occur_twice() -> None:
    ids = pa.array([uuid.UUID(int=7).bytes], pa.binary(16))
    tensors = pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))
    union = pa.UnionArray.from_sparse(
        pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array([datetime.date(2020, 1, 1)] * 2)]
    )
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    for column, wanted in (
        (pa.ExtensionArray.from_storage(pa.uuid(), ids), [str(uuid.UUID(int=7))]),
        (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([2], pa.int8())), [True]),
        (
            pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [2]), tensors),
            [[1, 2]],
        ),
        (union, [1, "2020-01-01"]),
        (twice, [{"a": 1, "a.1": 2}]),
    ):
        assert arrow_cells.read(column) == wanted


def test_a_text_that_is_not_utf8_is_bytes() -> None:
    offsets = pa.py_buffer(b"\0\0\0\0\4\0\0\0\5\0\0\0")
    bad = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"caf\xe9b")])
    assert arrow_cells.read(bad) == [b"caf\xe9", "b"]
    assert arrow_cells.read(pa.ListArray.from_arrays([0, 2], bad)) == [[b"caf\xe9", "b"]]


SIMPLE = st.sampled_from(
    [
        *(pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()),
        *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view()),
        *(pa.binary(3), pa.decimal128(38, 5), pa.decimal256(60, -3), pa.date32(), pa.date64()),
        *(pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
        *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
        *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
        *(pa.timestamp("us", zone) for zone in ("UTC", "Asia/Tokyo", "-03:30", "Mars/Olympus")),
        *(pa.timestamp("s", "tzutc()"), pa.timestamp("ns", "US/Pacific-New")),
    ]
)


def nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    """Returns types that are made of others."""
    names = st.text(st.characters(codec="utf-8"), max_size=3)
    return st.one_of(
        st.builds(pa.list_, inner),
        st.builds(pa.large_list, inner),
        st.builds(pa.list_, inner, st.integers(1, 3)),
        st.builds(pa.map_, SIMPLE.filter(lambda kind: not pa.types.is_null(kind)), inner),
        st.builds(pa.struct, st.lists(st.tuples(names, inner), max_size=3)),
    )


TYPES = st.recursive(SIMPLE, nested, max_leaves=5)


def filled(kind: pa.DataType, draw: st.DrawFn, count: int, nulls: bool = True) -> pa.Array:
    """Returns a column whose fixed-size values are any bits, as a damaged file may have them."""
    is_null = draw(st.lists(st.booleans(), min_size=count, max_size=count)) if nulls else []
    mask = pa.array(is_null, pa.bool_()) if nulls else None
    if pa.types.is_null(kind):
        return pa.nulls(count)
    if pa.types.is_struct(kind):
        parts = [filled(field.type, draw, count) for field in kind]
        if not parts:
            return pa.array([{}] * count, kind)
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=mask)
    if pa.types.is_fixed_size_list(kind):
        inner = filled(kind.value_type, draw, count * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(inner, type=kind, mask=mask)
    if pa.types.is_map(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        sizes = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
        offsets = [sum(sizes[:index]) for index in range(count + 1)]
        if pa.types.is_map(kind):
            keys = filled(kind.key_type, draw, offsets[-1], nulls=False)
            return pa.MapArray.from_arrays(offsets, keys, filled(kind.item_type, draw, offsets[-1]))
        inner = filled(kind.value_type, draw, offsets[-1])
        make = pa.LargeListArray if pa.types.is_large_list(kind) else pa.ListArray
        return make.from_arrays(offsets, inner)
    if pa.types.is_decimal(kind):
        digits = st.decimals(-999, 999, places=max(0, min(kind.scale, 3)))
        values: list[object] = [draw(digits.map(decimal.Decimal)) for _ in range(count)]
        values = [decimal.Decimal(int(v)) * 1000 if kind.scale < 0 else v for v in values]
    elif pa.types.is_boolean(kind):
        values = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    elif pa.types.is_fixed_size_binary(kind):
        values = [draw(st.binary(min_size=3, max_size=3)) for _ in range(count)]
    elif not pa.types.is_primitive(kind) or pa.types.is_floating(kind):
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        is_text = is_text or pa.types.is_string_view(kind)
        one = (
            st.text(st.characters(codec="utf-8"), max_size=5) if is_text else st.binary(max_size=5)
        )
        one = st.floats(width=16) if pa.types.is_floating(kind) else one
        values = [draw(one) for _ in range(count)]
    else:
        num_bytes = kind.bit_width // 8 * count
        bits = draw(st.binary(min_size=num_bytes, max_size=num_bytes))
        valid = pa.array([not empty for empty in is_null], pa.bool_()).buffers()[1]
        return pa.Array.from_buffers(kind, count, [valid if nulls else None, pa.py_buffer(bits)])
    values = [None if empty else v for empty, v in zip(is_null or [False] * count, values)]
    return pa.array(values, kind)


@st.composite
def columns(draw: st.DrawFn, count: int = 3) -> pa.Array:
    """Returns a column of any type with any values."""
    return filled(draw(TYPES), draw, count)


@FUZZ
@given(columns())
def test_any_column_becomes_json(column: pa.Array) -> None:
    for found in (arrow_cells.read(column), arrow_cells.read(column.slice(1))):
        assert not [item for item in found if isinstance(item, Exception)]
        json.dumps(rows.json_safe(found), allow_nan=False, ensure_ascii=False).encode()
