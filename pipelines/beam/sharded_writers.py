# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sharded files whose bytes do not depend on the workers: shard by hash of key, sorted by key."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import xxhash

from parti.data.storage import shard_names
from parti.pipelines.beam import disk_group_by_key
from parti.stages import files

# A worker sorts one shard in memory, so shards are kept small; above the limit through a file.
TARGET_SHARD_BYTES = 32 * 2**20
_MEMORY_BYTES = 64 * 2**20  # of all that a worker sorts at a time
MIN_AUTO_SHARDS = 4
MAX_SHARDS = 99_999


def hash_fraction(key: str, salt: str = "") -> float:
    """Returns a number in [0, 1) that depends only on the key and the salt."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def shard_of(key: str, num_shards: int) -> int:
    """Returns the shard, in [0, num_shards), that a key belongs to."""
    return int(hash_fraction(key, "shard") * num_shards)


def parse_num_shards(value: str, num_bytes: int) -> int:
    """Returns the number that --num_shards gives, or, for "auto", one by the size of the data."""
    if value == "auto":
        return min(max(MIN_AUTO_SHARDS, -(-num_bytes // TARGET_SHARD_BYTES)), MAX_SHARDS)
    if not value.isdecimal() or not 1 <= int(value) <= MAX_SHARDS:
        raise ValueError(f"--num_shards={value}: give auto, or a number from 1 to {MAX_SHARDS}")
    return int(value)


class WriteLines(beam.PTransform):
    """Writes (key, line) as `prefix-0000i-of-0000N.jsonl`; every shard exists, even if empty.

    A shard's lines are sorted by key.
    """

    def __init__(self, directory: files.Path, prefix: str, num_shards: int) -> None:
        """Sets an existing folder that every worker reaches, and the prefix of the file names."""
        super().__init__(f"Write {prefix}")
        self._directory, self._prefix, self._num_shards = str(directory), prefix, num_shards

    def expand(self, lines: beam.PCollection | tuple[beam.PCollection, ...]) -> beam.PCollection:
        """Returns a dict {name, count, num_bytes, sha256} for each file.

        `lines` are (key, line) of str and bytes, without line ends, or several such collections.
        """
        lines, num_shards = lines if isinstance(lines, tuple) else (lines,), self._num_shards

        def keyed(item: tuple[str, bytes]) -> tuple[str, tuple[str, bytes]]:
            return str(shard_of(item[0], num_shards)), item

        some = (part | f"Assign shards {i}" >> beam.Map(keyed) for i, part in enumerate(lines))
        every = [(str(shard), None) for shard in range(num_shards)]
        empty = lines[0].pipeline | "All shards" >> beam.Create(every)
        return (
            (*some, empty)
            | "Gather shards" >> disk_group_by_key.GroupObjects()
            | "Write files" >> beam.MapTuple(self._write_shard)
        )

    def _write_shard(self, shard: str, items: Iterable[tuple[str, bytes] | None]) -> dict[str, Any]:
        name = shard_names.shard_name(self._prefix, int(shard), self._num_shards, ".jsonl")
        with SortedFile() as lines:
            for key, line in filter(None, items):
                lines.add((key, xxhash.xxh3_64_intdigest(line)), line + b"\n")
            return lines.write(files.join(self._directory, name))


class SortedFile:
    """Pieces of bytes in any order, written to a file in the order of their keys.

    An external sort: beyond `_MEMORY_BYTES` a spill file, which leaving the context removes, has
    the pieces, and memory only their keys.
    """

    def __init__(self, share: float = 1.0, spill_dir: str | None = None) -> None:
        """Sets the share of the memory, where several are open, and where the spill file is."""
        num_bytes = int(share * _MEMORY_BYTES)
        self._spill = tempfile.SpooledTemporaryFile(num_bytes, dir=spill_dir)  # noqa: SIM115
        self._pieces: list[tuple[Any, int, int]] = []

    def __enter__(self) -> "SortedFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._spill.close()

    def add(self, key: Any, piece: bytes) -> None:
        """Adds a piece; of equal keys the one that was added first comes first."""
        self._pieces.append((key, self._spill.tell(), len(piece)))
        self._spill.write(piece)

    def sizes(self) -> list[int]:
        """Returns the sizes of the pieces in bytes, in the order of their keys."""
        return [num_bytes for _, _, num_bytes in sorted(self._pieces)]

    def write(self, path: files.Path) -> dict[str, Any]:
        """Writes the file, which appears whole; returns {name, count, num_bytes, sha256} of it."""
        digest, total = hashlib.sha256(), 0
        with files.replacing(path) as file:
            for _, offset, num_bytes in sorted(self._pieces):
                self._spill.seek(offset)
                piece = self._spill.read(num_bytes)
                file.write(piece)
                digest.update(piece)
                total += num_bytes
        return {
            "name": files.name(path),
            "count": len(self._pieces),
            "num_bytes": total,
            "sha256": digest.hexdigest(),
        }


class CollectJson(beam.PTransform):
    """Writes all elements (JSON values) to one file, as a sorted list; for small results."""

    def __init__(self, path: files.Path) -> None:
        super().__init__(f"Collect {files.name(path)}")
        self._path = str(path)

    def expand(self, pcoll: beam.PCollection) -> beam.PCollection:
        """Returns a collection of one element, the path as bytes."""
        return pcoll | beam.combiners.ToList() | beam.Map(self._write)

    def _write(self, values: list[Any]) -> bytes:
        lines = sorted(json.dumps(value, sort_keys=True) for value in values)
        files.write_bytes(self._path, b"[" + ",\n".join(lines).encode() + b"]\n")
        return os.fsencode(self._path)  # Beam writes a text as UTF-8


def read_collected(path: files.Path) -> list[Any]:
    """Returns what `CollectJson` wrote, and removes the file."""
    values = json.loads(files.read_bytes(path))
    files.remove(path)
    return values
