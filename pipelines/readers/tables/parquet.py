# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parquet tables, decoded in another process (parquet_process.py) that cannot hurt this one."""

import dataclasses
import json
import os
import pathlib
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple

from parti.pipelines.readers.base import rows, source_files
from parti.pipelines.readers.base.source_files import Found, Source
from parti.pipelines.readers.tables import column_roles
from parti.stages import files, json_text

MEMORY_BYTES = 2**30  # that decoding may take
TIMEOUT = 120.0  # seconds between two answers
_MAX_FRAME_BYTES = rows.MAX_IMAGE_BYTES + 8 * rows.MAX_METADATA_BYTES
_MAX_ROWS = 2**40
_FRAME, _RANGE = struct.Struct("<cQ"), struct.Struct("<QQ")  # as parquet_process.py writes them


class BrokenError(Exception):
    """A file cannot be decoded; the message says why."""


class Description(NamedTuple):
    """What a Parquet file says of itself."""

    names: tuple[str, ...]  # of its columns, each different, as UTF-8 can write them
    groups: list[int]  # the number of rows of each row group


class _Decoder:
    """The other process; it ends with the `with` block."""

    def __enter__(self) -> "_Decoder":
        script = pathlib.Path(__file__).with_name("parquet_process.py")
        # With its own allocator Arrow reserves more address space than the limit.
        environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.communicate()  # closes its streams and waits for its end

    def request(self, path: str, **wanted: Any) -> Iterator[tuple[bytes, bytes]]:
        """Yields the frames `D`, `B` and `L` that answer a request about a file.

        Raises:
          BrokenError: the file cannot be decoded.
          OSError: it cannot be read.
        """
        size = files.size(path)
        wanted |= {"size": size, "memory": MEMORY_BYTES, "max_row": _MAX_FRAME_BYTES // 2}
        with files.open(path) as file:
            self._write(json.dumps(wanted).encode() + b"\n")
            while (frame := self._frame())[0] != b".":
                kind, data = frame
                if kind == b"R":
                    self._answer(file, *_RANGE.unpack(data))
                elif kind == b"E":
                    raise BrokenError(data.decode("utf-8", "replace"))
                else:
                    yield frame

    def _answer(self, file: IO[bytes], offset: int, length: int) -> None:
        file.seek(offset)
        self._write(length.to_bytes(8, "little"))
        while length:
            chunk = file.read(min(length, 2**20))
            if not chunk:
                raise BrokenError("the file became shorter")
            self._write(chunk)
            length -= len(chunk)

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        view = memoryview(data)
        try:
            while view:
                view = view[self._process.stdin.write(view) or 0 :]
        except OSError as error:
            raise self._crash() from error

    def _frame(self) -> tuple[bytes, bytes]:
        kind, size = _FRAME.unpack(self._receive(_FRAME.size))
        if size > _MAX_FRAME_BYTES:
            raise BrokenError(f"a row of {size:,} bytes")
        return kind, self._receive(size)

    def _receive(self, size: int) -> bytes:
        assert self._process.stdout is not None
        number = self._process.stdout.fileno()
        data = bytearray()
        deadline = time.monotonic() + TIMEOUT
        while len(data) < size:
            if not select.select([number], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise BrokenError(f"decoding took over {TIMEOUT:g} seconds")
            chunk = os.read(number, min(2**20, size - len(data)))
            if not chunk:
                raise self._crash()
            data += chunk
        return bytes(data)

    def _crash(self) -> BrokenError:
        return BrokenError(f"the decoder crashed on it (exit code {self._process.wait()})")


def describe(paths: Iterable[str]) -> Iterator[Description | BrokenError]:
    """Yields what each file says of itself, or what is wrong with it."""
    left = list(paths)
    while left:
        with _Decoder() as decoder:
            while left:
                try:
                    ((_, data),) = decoder.request(left[0], do="describe")
                    content = json.loads(data)
                    if any(not 0 <= count <= _MAX_ROWS for count in content["groups"]):
                        raise BrokenError("a number of rows that cannot be")
                    names = column_roles.unique(map(json_text.utf8, content["columns"]))
                    yield Description(names, content["groups"])
                except (BrokenError, OSError) as error:
                    yield BrokenError(rows.one_line(error))
                    break  # it may have crashed: take a new one
                finally:
                    left.pop(0)


def split(found: Found) -> list[Source]:
    """Returns files in pieces: some row groups, or a part of one."""
    described = describe([entry.path for entry in found.entries])
    return [
        source
        for entry, description in zip(found.entries, described, strict=True)
        for source in _split_file(found, entry, description)
    ]


def _split_file(
    found: Found, entry: files.Entry, description: Description | BrokenError
) -> list[Source]:
    whole = found.whole(entry)
    try:
        if isinstance(description, BrokenError):
            raise description
        column_roles.check(description.names, found.columns, entry.path)
    except (BrokenError, ValueError) as error:
        return column_roles.broken(whole, error)
    stops = _stops(description.groups)
    return [
        dataclasses.replace(
            whole,
            num_bytes=entry.num_bytes * (stop - start) // max(1, stops[-1]),
            start=start,
            stop=stop,
            names=description.names,
            num_rows=stop - start,
        )
        for start, stop in zip([0, *stops], stops)
    ]


def _stops(counts: Sequence[int]) -> list[int]:
    """Returns where pieces of row groups of these sizes end."""
    most = source_files.ROWS_PER_SOURCE
    stops: list[int] = []
    begin = end = 0  # of the row groups gathered so far
    for count in counts:
        if end > begin and end + count - begin > most:
            stops.append(begin := end)
        step = max(most, -(-count // source_files.MAX_PIECES_WITHIN))
        stops += range(begin + step, begin + count, step)
        begin, end = (stops[-1] if count > step else begin), end + count
    return [*stops, end] if end > begin else stops


def read_rows(source: Source) -> Iterator[tuple[int, column_roles.Cells | rows.Rejected]]:
    """Yields (number of the row, its cells by name or why it cannot be read).

    A text that is not UTF-8 comes as bytes. An `Exception` is in place of a cell that cannot be
    read; also of the cells of a column that cannot be decoded, if no pair needs it.

    Raises:
      BrokenError: the file cannot be decoded from here on; OSError: it cannot be read.
    """
    index, numbers = source.start, list(range(len(source.names)))
    lost: column_roles.Cells = {}
    while True:
        try:
            with _Decoder() as decoder:
                for row in _read(decoder, source, index, numbers if lost else None):
                    yield index, row if isinstance(row, rows.Rejected) else row | lost
                    index += 1
            return
        except BrokenError as error:
            if lost or not (broken := _broken_columns(source, index)):
                raise error
            numbers = [number for number in numbers if number not in broken]
            lost = {source.names[number]: why for number, why in broken.items()}


def _broken_columns(source: Source, start: int) -> dict[int, BrokenError]:
    """Returns the columns, by number, that no pair needs and that cannot be decoded from a row."""
    needed = set().union(*column_roles.columns_of_pairs(source.names, source.columns))
    left = [number for number, name in enumerate(source.names) if name not in needed]
    found: dict[int, BrokenError] = {}
    while left:
        with _Decoder() as decoder:
            while left:
                try:
                    for _ in _read(decoder, source, start, [left[0]]):
                        pass
                except BrokenError as error:
                    found[left[0]] = error
                    break  # it may have crashed: take a new one
                finally:
                    left.pop(0)
    return found


def _read(
    decoder: _Decoder, source: Source, start: int, numbers: list[int] | None
) -> Iterator[column_roles.Cells | rows.Rejected]:
    """Yields rows from one on, with all columns or those of some numbers; raises as `read_rows`."""
    request = {"do": "read", "start": start, "stop": source.stop, "columns": numbers}
    for kind, data in decoder.request(source.paths[0], **request):
        if kind == b"L":
            yield rows.refuse("row_too_large", f"{int(data):,} bytes")
        else:
            yield from _rows(data, source.names)


def _rows(data: bytes, names: tuple[str, ...]) -> Iterator[column_roles.Cells]:
    import pyarrow as pa

    from parti.pipelines.readers.tables import arrow_cells

    with pa.ipc.open_stream(data) as stream:
        batch = stream.read_next_batch()  # the only one
    cells = [arrow_cells.read(column) for column in batch.columns]
    columns = [names[int(number)] for number in batch.schema.names]
    yield from (dict(zip(columns, row)) for row in zip(*cells))
