# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Intermediate shards: the filtered pairs of one source, grouped by the final shard they go to.

    <name>-<attempt>.tfrecord    the pairs, those of a final shard side by side
    <name>-<attempt>.jsonl       their fingerprint rows, in the same order
    <name>.json                  which attempt, the range of each final shard, notes; last
    <name>.wanted                of a source that is read in part, which rows; from before the run

Images never go through a shuffle of the runner: each final shard reads its range of every
intermediate shard. One with its .json is finished work, whatever becomes of the run. Two workers on
one source write two attempts; the ranges that either returns stay readable.
"""

import dataclasses
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple

from parti.data.storage import tfrecords
from parti.pipelines.beam import sharded_writers
from parti.pipelines.deduplicate import fingerprints
from parti.stages import files, manifests

LAYOUT = 2  # of the files here; those of a run with another one are not read

Shard = tuple[str, int]  # split, index
_Order = tuple[Shard, float, str, int]  # final shard, rank in it, key, number of the pair
Wanted = dict[int, str]  # the number of a row in its source -> its key


class Range(NamedTuple):
    """Adjoining pairs of one intermediate shard that go to one final shard."""

    name: str  # of the attempt
    num_pairs: int
    offset: int  # of the first pair in the .tfrecord, in bytes
    row_offset: int  # of its row in the .jsonl, in bytes


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
        spill_dir = None if files.is_remote(directory) else files.absolute(directory)
        self._pairs = sharded_writers.SortedFile(spill_dir=spill_dir)
        self._rows: list[
            tuple[_Order, int, fingerprints.Fingerprint]
        ] = []  # with bytes of the pair

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: Any) -> None:
        self._pairs.__exit__(*error)

    def add(self, serialized: bytes, row: fingerprints.Fingerprint) -> None:
        """Adds a pair, as an Example; the row's id is given by `finish`."""
        shard = row.split, sharded_writers.shard_of(row.key, self._num_shards[row.split])
        rank = sharded_writers.hash_fraction(row.key, "shard")
        order, record = (shard, rank, row.key, len(self._rows)), tfrecords.frame(serialized)
        self._pairs.add(order, record)
        self._rows.append((order, len(record), row))

    def finish(self, notes: Mapping[str, Any]) -> "Intermediate":
        """Writes the files, the .json last; `notes` are JSON to keep with them."""
        attempt = f"{self._name}-{uuid.uuid4().hex}"
        path = files.join(self._directory, attempt)
        self._pairs.write(f"{path}.tfrecord")
        with files.replacing(f"{path}.jsonl") as lines:
            content = {"attempt": attempt, "ranges": self._write_rows(lines), "notes": notes}
        path = files.join(self._directory, f"{self._name}.json")
        files.write_bytes(path, manifests.json_bytes(content))
        return Intermediate(self._directory, content)

    def _write_rows(self, lines: IO[bytes]) -> list[list[Any]]:
        """Writes the rows with their ids; returns [split, index, num_pairs, offset, row_offset]."""
        ranges: list[list[Any]] = []
        offset = 0
        in_order = sorted(self._rows, key=lambda item: item[0])
        for number, (((split, index), *_), num_bytes, row) in enumerate(in_order):
            if not ranges or ranges[-1][:2] != [split, index]:
                ranges.append([split, index, 0, offset, lines.tell()])
            ranges[-1][2] += 1
            offset += num_bytes
            row = dataclasses.replace(row, id=f"{self._name}/{split}/{index}/{number}")
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
    """Yields the row and the serialized pair of each pair; ValueError: a file is cut off."""
    for name, num_pairs, offset, row_offset in sorted(ranges):
        path = files.join(directory, name)
        with files.open(f"{path}.jsonl") as lines, files.open(f"{path}.tfrecord") as data:
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
