# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Intermediate shards: the filtered pairs of one source, grouped by the final shard they go to.

    <name>-<attempt>.tfrecord    the pairs, in blocks; within a block those of a final shard adjoin
    <name>-<attempt>.jsonl       their fingerprint rows, in the same order
    <name>.json                  which attempt, the ranges of each final shard, notes; last
    <name>.wanted                of a source that is read in part, which rows; from before the run

So images never go through a shuffle of the runner: only the rows do, and each final shard reads its
ranges of every intermediate shard. One with its .json is finished work, whatever becomes of the
run. Two workers on one source write two attempts; the ranges that either returns stay readable.
"""

import contextlib
import dataclasses
import itertools
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple

from parti.data.storage import tfrecords
from parti.pipelines.beam import sharded_writers
from parti.pipelines.deduplicate import fingerprints
from parti.stages import files

_BLOCK_BYTES = 32 * 2**20  # a block is held in memory, and grouped there

Shard = tuple[str, int]  # split, index
_Order = tuple[Shard, float, str, int]  # final shard, rank in it, key, number of the row
Wanted = dict[int, str]  # the number of a row in its source -> its key


class Range(NamedTuple):
    """Adjoining pairs of one intermediate shard that go to one final shard.

    Attributes:
      name: of the attempt.
      offset: of the first in its .tfrecord, in bytes.
      row_offset: of the first one's row in its .jsonl, in bytes.
    """

    name: str
    num_pairs: int
    offset: int
    row_offset: int


def write_wanted(directory: files.Path, name: str, wanted: Wanted) -> None:
    """Writes which rows are to be read of the source of this intermediate shard."""
    text = json.dumps(list(wanted.items()), ensure_ascii=False)
    files.write_bytes(files.join(directory, f"{name}.wanted"), text.encode("utf-8", "replace"))


def read_wanted(directory: files.Path, name: str) -> Wanted:
    """Returns what `write_wanted` was given."""
    return dict(json.loads(files.read_bytes(files.join(directory, f"{name}.wanted"))))


def shard_of_id(identity: str) -> Shard:
    """Returns the final shard that the id of a row names."""
    _, split, index, _ = identity.rsplit("/", 3)
    return split, int(index)


class Writer:
    """Writes the pairs of one source; a context manager. `finish` makes them an `Intermediate`."""

    def __init__(self, directory: files.Path, name: str, num_shards: Mapping[str, int]) -> None:
        """Sets the directory, which exists, a plain file name, and split -> final shards."""
        self._directory, self._name, self._num_shards = directory, name, dict(num_shards)
        self._attempt = f"{name}-{uuid.uuid4().hex}"
        self._rows: list[fingerprints.Fingerprint] = []
        self._block: list[tuple[_Order, bytes]] = []
        self._num_bytes = 0  # of the block
        self._written: list[tuple[_Order, int]] = []  # with offsets, in the order of the file
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Writer":
        self._data = self._open("tfrecord")
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, serialized: bytes, row: fingerprints.Fingerprint) -> None:
        """Adds a pair, as an Example; the row's id is given by `finish`."""
        shard = row.split, sharded_writers.shard_of(row.key, self._num_shards[row.split])
        rank = sharded_writers.hash_fraction(row.key, "shard")
        self._block.append(((shard, rank, row.key, len(self._rows)), tfrecords.frame(serialized)))
        self._rows.append(row)
        self._num_bytes += len(serialized)
        if self._num_bytes >= _BLOCK_BYTES:
            self._flush()

    def finish(self, notes: Mapping[str, Any]) -> "Intermediate":
        """Finishes the files, the .json last; `notes` are JSON to keep with them."""
        self._flush()
        ranges = self._write_rows(self._open("jsonl"))
        self._stack.close()
        content = {"attempt": self._attempt, "ranges": ranges, "notes": notes}
        text = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
        files.write_bytes(files.join(self._directory, f"{self._name}.json"), text)
        return Intermediate(self._directory, content)

    def _open(self, suffix: str) -> IO[bytes]:
        path = files.join(self._directory, f"{self._attempt}.{suffix}")
        return self._stack.enter_context(files.replacing(path))

    def _flush(self) -> None:
        """Writes the block, grouped by final shard."""
        block, self._block, self._num_bytes = sorted(self._block), [], 0
        for order, record in block:
            self._written.append((order, self._data.tell()))
            self._data.write(record)

    def _write_rows(self, lines: IO[bytes]) -> list[list[Any]]:
        """Writes the rows with their ids; returns [split, index, num_pairs, offset, row_offset]."""
        ranks = {order: rank for rank, order in enumerate(sorted(o for o, _ in self._written))}
        ranges: list[list[Any]] = []
        for (split, index), some in itertools.groupby(self._written, lambda item: item[0][0]):
            found = list(some)
            ranges.append([split, index, len(found), found[0][1], lines.tell()])
            for order, _ in found:
                identity = f"{self._name}/{split}/{index}/{ranks[order]}"
                row = dataclasses.replace(self._rows[order[-1]], id=identity)
                lines.write(row.to_json().encode("utf-8", "replace") + b"\n")
        return ranges


class Intermediate:
    """A finished intermediate shard, with the notes that `Writer.finish` was given."""

    def __init__(self, directory: files.Path, content: Mapping[str, Any]) -> None:
        self._directory, self._content = directory, content
        self.notes: dict[str, Any] = content["notes"]

    @classmethod
    def open(cls, directory: files.Path, name: str) -> "Intermediate | None":
        """Returns the intermediate shard of that name, or None if there is no finished one."""
        path = files.join(directory, f"{name}.json")
        return cls(directory, json.loads(files.read_bytes(path))) if files.exists(path) else None

    def fingerprints(self) -> Iterator[fingerprints.Fingerprint]:
        """Yields the rows of the pairs."""
        path = files.join(self._directory, f"{self._content['attempt']}.jsonl")
        with files.open(path) as lines:
            for line in lines:
                yield fingerprints.Fingerprint.from_json(line.decode())

    def ranges(self) -> Iterator[tuple[Shard, Range]]:
        """Yields the ranges of each final shard."""
        for split, index, *numbers in self._content["ranges"]:
            yield (split, index), Range(self._content["attempt"], *numbers)


def read_ranges(
    directory: files.Path, ranges: Iterable[Range]
) -> Iterator[tuple[fingerprints.Fingerprint, bytes]]:
    """Yields the row and the serialized pair of each pair of some ranges.

    Raises:
      ValueError: the files are shorter than the ranges say.
    """
    in_order = sorted(ranges, key=lambda found: (found.name, found.offset))
    for name, some in itertools.groupby(in_order, lambda found: found.name):
        path = files.join(directory, name)
        with files.open(f"{path}.jsonl") as lines, files.open(f"{path}.tfrecord") as data:
            for _, num_pairs, offset, row_offset in some:
                lines.seek(row_offset)
                data.seek(offset)
                stream = tfrecords.read_stream(data, f"{path}.tfrecord")
                for _ in range(num_pairs):
                    line, serialized = lines.readline(), next(stream, None)
                    if not line or serialized is None:
                        raise ValueError(
                            f"{path}: cut off; delete this folder and run the command again"
                        )
                    yield fingerprints.Fingerprint.from_json(line.decode()), serialized
