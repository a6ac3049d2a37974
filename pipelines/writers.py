# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sharded files whose bytes do not depend on the workers: shard by hash of key, sorted by key.

written = keyed | writers.WriteShards(stage.path, "train", num_shards=8)
written.files | writers.CollectJson(stage.path / ".files.json")
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from parti.data import file_names, files, tfrecords

# A worker sorts one shard in memory, so shards are kept small.
TARGET_SHARD_BYTES = 32 * 2**20
MIN_AUTO_SHARDS = 4
MAX_SHARDS = 99_999


def hash_fraction(key: str, salt: str = "") -> float:
    """Returns a number in [0, 1) that depends only on the key and the salt."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def shard_of(key: str, num_shards: int) -> int:
    """Returns the shard, in [0, num_shards), that a key belongs to."""
    return int(hash_fraction(key, "shard") * num_shards)


def auto_num_shards(num_bytes: int) -> int:
    """Returns a number of shards for this much data (bytes)."""
    return min(max(MIN_AUTO_SHARDS, -(-num_bytes // TARGET_SHARD_BYTES)), MAX_SHARDS)


def parse_num_shards(value: str, num_bytes: int) -> int:
    """Returns the value of --num_shards: a positive number, or "auto".

    Raises:
      ValueError: neither.
    """
    if value == "auto":
        return auto_num_shards(num_bytes)
    if not value.isdecimal() or not 1 <= int(value) <= MAX_SHARDS:
        raise ValueError(f"--num_shards={value}: give auto, or a number from 1 to {MAX_SHARDS}")
    return int(value)


class WriteShards(beam.PTransform):
    """Writes (key, bytes) as `prefix-0000i-of-0000N<suffix>`; every shard exists, even if empty.

    The result has two outputs: `files`, a dict {name, count, num_bytes, sha256} for each file, and
    `duplicates`, the (key, bytes) whose key another record with smaller bytes has (`unique` only).
    """

    def __init__(
        self,
        directory: files.Path,
        prefix: str,
        num_shards: int,
        suffix: str = ".tfrecord",
        unique: bool = True,
    ) -> None:
        """Sets what is written.

        Args:
          directory: an existing folder that every worker reaches.
          prefix: of the file names, e.g. "train".
          num_shards: how many files.
          suffix: `.tfrecord` for serialized records, `.jsonl` for lines (without line end).
          unique: write only one record of each key.
        """
        super().__init__(f"Write {prefix}")
        if suffix not in (".tfrecord", ".jsonl"):
            raise ValueError(f"suffix {suffix!r}: choose .tfrecord or .jsonl")
        self._writer = _WriteShard(str(directory), prefix, num_shards, suffix, unique)
        self._num_shards = num_shards

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Returns the tagged outputs `files` and `duplicates`."""
        num_shards = self._num_shards
        keyed = pcoll | "Assign shards" >> beam.Map(
            lambda item: (shard_of(item[0], num_shards), item)
        )
        empty = pcoll.pipeline | "All shards" >> beam.Create([(i, None) for i in range(num_shards)])
        return (
            (keyed, empty)
            | beam.Flatten()
            | "Gather shards" >> beam.GroupByKey()
            | "Write files" >> beam.ParDo(self._writer).with_outputs("duplicates", main="files")
        )


class _WriteShard(beam.DoFn):
    def __init__(
        self, directory: str, prefix: str, num_shards: int, suffix: str, unique: bool
    ) -> None:
        self._directory, self._prefix, self._num_shards = directory, prefix, num_shards
        self._suffix, self._unique = suffix, unique

    def process(
        self, element: tuple[int, Iterable[tuple[str, bytes] | None]]
    ) -> Iterator[dict[str, Any] | beam.pvalue.TaggedOutput]:
        shard, items = element
        rows = sorted(item for item in items if item is not None)
        written: list[bytes] = []
        last = None
        for key, data in rows:
            if self._unique and key == last:
                yield beam.pvalue.TaggedOutput("duplicates", (key, data))
            else:
                written.append(data)
            last = key
        name = file_names.shard_name(self._prefix, shard, self._num_shards, self._suffix)
        frame = tfrecords.frame if self._suffix == ".tfrecord" else _line
        written_file = write_file(files.join(self._directory, name), map(frame, written))
        yield {**written_file, "count": len(written)}


def _line(data: bytes) -> bytes:
    return data + b"\n"


def write_file(path: files.Path, parts: Iterable[bytes]) -> dict[str, Any]:
    """Writes a file that appears whole; returns {name, num_bytes, sha256} of it."""
    digest, num_bytes = hashlib.sha256(), 0
    with files.replacing(path) as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            num_bytes += len(part)
    return {"name": files.name(path), "num_bytes": num_bytes, "sha256": digest.hexdigest()}


class CollectJson(beam.PTransform):
    """Writes all elements (JSON values) to one file, as a sorted list; for small results."""

    def __init__(self, path: files.Path) -> None:
        super().__init__(f"Collect {files.name(path)}")
        self._path = str(path)

    def expand(self, pcoll: beam.PCollection) -> beam.PCollection:
        """Returns a collection of one element, the path."""
        path = self._path

        def write(values: list[Any]) -> str:
            lines = sorted(json.dumps(value, sort_keys=True) for value in values)
            files.write_bytes(path, b"[" + ",\n".join(lines).encode() + b"]\n")
            return path

        return pcoll | beam.combiners.ToList() | beam.Map(write)


def read_collected(path: files.Path) -> list[Any]:
    """Returns what `CollectJson` wrote, and removes the file."""
    values = json.loads(files.read_bytes(path))
    files.remove(path)
    return values
