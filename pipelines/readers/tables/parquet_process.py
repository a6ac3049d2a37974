# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Decodes Parquet for `parquet.py`, in a process of its own.

A page of a few bytes can claim to inflate to gigabytes, and a damaged file can crash a decoder: it
would take the worker down with it. Here memory is limited (on Linux), and the parent sees the end
of a process. It opens no file, is run by its path, and imports only pyarrow and what Python brings.
Requests are lines of JSON on its standard input:

    {"do": "describe", "size": 123, "memory": 456}
    {"do": "read", "size": 123, "memory": 456, "start": 0, "stop": 10, "max_row": 789,
     "columns": null}

It answers with frames, a letter and a length before each: `R` requests bytes of the file (offset
and length as two int64; the answer is a length and the bytes), `D` is a description as JSON, `B` is
some rows as an Arrow stream, whose columns are named by their numbers in the file, `L` a row that
is too large (its size), `E` an error, `.` the end. `columns` are the numbers of those to read; null
for all.
"""

import io
import json
import os
import resource
import struct
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FRAME = struct.Struct("<cQ")
RANGE = struct.Struct("<QQ")
LENGTH = struct.Struct("<Q")
_FRAME_BYTES = 8 * 2**20  # about as much in one frame, if it is more than a row
_BUFFER_BYTES = 2**20
_MAX_BATCH_ROWS = 1024


def _send(kind: bytes, data: bytes = b"") -> None:
    sys.stdout.buffer.write(FRAME.pack(kind, len(data)))
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


class _File(io.RawIOBase):
    """The file, read through the parent."""

    def __init__(self, size: int) -> None:
        self._size, self._offset = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size}[whence]
        self._offset = base + offset
        return self._offset

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._offset)
        size = left if size < 0 else min(size, left)
        if not size:
            return b""
        _send(b"R", RANGE.pack(self._offset, size))
        (length,) = LENGTH.unpack(sys.stdin.buffer.read(LENGTH.size))
        data = sys.stdin.buffer.read(length)
        if length != size:
            raise OSError("the file became shorter")
        self._offset += size
        return data


def _limit_memory(num_bytes: int) -> None:
    """Limits the memory that the process may take beyond what it has; only Linux enforces it."""
    if not os.path.exists("/proc/self/statm"):
        return
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, resource.RLIM_INFINITY))


def _open(size: int) -> pq.ParquetFile:
    file = pa.PythonFile(_File(size), mode="r")
    return pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def _describe(request: dict[str, Any]) -> None:
    file = _open(request["size"])
    groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    content = {"columns": file.schema_arrow.names, "groups": groups}
    _send(b"D", json.dumps(content).encode())


def _read(request: dict[str, Any]) -> None:
    file = _open(request["size"])
    start, stop = request["start"], request["stop"]
    stop = stop if stop >= 0 else sys.maxsize
    first, columns = 0, request["columns"]
    for index in range(file.metadata.num_row_groups):
        last = first + file.metadata.row_group(index).num_rows
        if last > start and first < stop:
            _read_group(file, index, start - first, stop - first, columns, request["max_row"])
        first = last


def _read_group(
    file: pq.ParquetFile,
    index: int,
    start: int,
    stop: int,
    columns: list[int] | None,
    max_row: int,
) -> None:
    """Sends the rows [start, stop) of a row group; `start` may be negative, `stop` too large."""
    names = file.schema_arrow.names
    wanted = None if columns is None else [names[number] for number in columns]
    numbers = columns or list(range(len(names)))
    group = file.metadata.row_group(index)
    row_bytes = max(1, group.total_byte_size // max(1, group.num_rows))
    size = max(1, min(_MAX_BATCH_ROWS, _FRAME_BYTES // row_bytes))
    begin = 0  # of the batch, in the row group
    for batch in file.iter_batches(size, row_groups=[index], columns=wanted, use_threads=False):
        if batch.num_columns != len(numbers):  # a name that a column of another begins with
            raise ValueError("columns whose names are alike")
        low, high = max(0, start - begin), min(batch.num_rows, stop - begin)
        if high > low:
            _send_rows(batch.slice(low, high - low).columns, numbers, max_row)
        begin += batch.num_rows
        if begin >= stop:
            return
    if begin != group.num_rows:
        raise OSError(f"row group {index} has {begin} rows, not {group.num_rows}")


def _send_rows(columns: list[pa.Array], numbers: list[int], max_row: int) -> None:
    """Sends rows in frames of bounded size."""
    columns = [_plain(column) for column in columns]
    num_rows, num_bytes = len(columns[0]), sum(map(_num_bytes, columns))
    if num_rows > 1 and num_bytes > _FRAME_BYTES:
        half = num_rows // 2
        _send_rows([column.slice(0, half) for column in columns], numbers, max_row)
        _send_rows([column.slice(half) for column in columns], numbers, max_row)
        return
    if num_rows == 1 and num_bytes > max_row:
        _send(b"L", str(num_bytes).encode())
        return
    # By number, not by name: names need not differ, nor be UTF-8.
    plain = pa.RecordBatch.from_arrays(columns, names=[str(number) for number in numbers])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, plain.schema) as stream:
        stream.write_batch(plain)
    _send(b"B", sink.getvalue())


def _num_bytes(column: pa.Array) -> int:
    """Returns about how many bytes a column takes in Python; Arrow needs none for a null."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind, parts = column.type, []
    if pa.types.is_map(kind):
        first, last = column.offsets[0].as_py(), column.offsets[-1].as_py()
        parts = [part.slice(first, last - first) for part in (column.keys, column.items)]
    elif pa.types.is_struct(kind):
        parts = column.flatten()
    elif (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        parts = [column.flatten()]
    return column.nbytes + 8 * len(column) + sum(map(_num_bytes, parts))


def _plain(column: pa.Array) -> pa.Array:
    """Returns a column without a dictionary, and texts and bytes of the usual layout."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    return column.cast(pa.large_binary()) if pa.types.is_binary_view(column.type) else column


def main() -> None:
    """Answers requests until there are no more."""
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            _limit_memory(request["memory"])
            {"describe": _describe, "read": _read}[request["do"]](request)
        except MemoryError:
            _send(b"E", b"it takes too much memory: pages that inflate without bound?")
        except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
            _send(b"E", " ".join(str(error).split())[:200].encode("utf-8", "replace"))
        else:
            _send(b".")


if __name__ == "__main__":
    main()
