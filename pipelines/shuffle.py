# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""GroupByKey through files, for runners of one machine: Beam's keep every row in memory.

    groups = pairs | shuffle.GroupByKey(folder)     # (bytes, bytes) -> (bytes, values)

Each bundle writes its pairs to a file, by partition of the keys; what goes through the runner is
where they lie. A partition is then read and sorted, so a worker holds one partition at a time.
Without a folder it is Beam's own transform, which runners of many machines do on disk.
"""

import itertools
import struct
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import xxhash
from apache_beam.transforms import window

from parti.data import files

# A hundred million rows of 400 bytes make partitions of 600 MB.
_NUM_PARTITIONS = 64
_FLUSH_BYTES = 4 * 2**20
_LENGTHS = struct.Struct("<II")


class _Part(NamedTuple):
    """Where some pairs of a partition lie."""

    path: str
    offset: int
    num_bytes: int


class GroupByKey(beam.PTransform):
    """Groups (bytes, bytes) by their first; the values of a group come in any order."""

    def __init__(self, folder: str = "") -> None:
        """Sets how.

        Args:
          folder: an existing folder that every worker reaches; "" leaves it to the runner.
        """
        super().__init__()
        self._folder = folder

    def expand(self, inputs: beam.PCollection | tuple[beam.PCollection, ...]) -> beam.PCollection:
        """Returns (key, iterable of values), which can be read more than once.

        Args:
          inputs: (bytes, bytes), or several such collections.
        """
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        if not self._folder:
            return inputs | beam.Flatten() | "Group" >> beam.GroupByKey()
        # Each for itself: a runner may keep what is flattened until all of it is there.
        parts = tuple(
            pairs | f"To files {place}" >> beam.ParDo(_ToFiles(self._folder))
            for place, pairs in enumerate(inputs)
        )
        return (
            parts
            | beam.Flatten()
            | "Parts" >> beam.GroupByKey()
            | "From files" >> beam.ParDo(_FromFiles())
        )


class _ToFiles(beam.DoFn):
    """Yields (partition, _Part) for the pairs of a bundle.

    A bundle that is done twice writes two files, and only the parts of one are ever read.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def start_bundle(self) -> None:
        self._buffers: dict[int, bytearray] = {}
        self._num_bytes = 0

    def process(self, pair: tuple[bytes, bytes]) -> Iterator[tuple[int, _Part]]:
        key, value = pair
        partition = xxhash.xxh3_64_intdigest(key) % _NUM_PARTITIONS
        buffer = self._buffers.setdefault(partition, bytearray())
        buffer += _LENGTHS.pack(len(key), len(value)) + key + value
        self._num_bytes += _LENGTHS.size + len(key) + len(value)
        if self._num_bytes >= _FLUSH_BYTES:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(window.GlobalWindows.windowed_value, self._flush())

    def _flush(self) -> Iterator[tuple[int, _Part]]:
        buffers, self._buffers, self._num_bytes = self._buffers, {}, 0
        if not buffers:
            return
        path = files.join(self._folder, f"shuffle-{uuid.uuid4().hex}")
        with files.open(path, "wb") as file:
            for partition, buffer in buffers.items():
                yield partition, _Part(path, file.tell(), len(buffer))
                file.write(buffer)


class _FromFiles(beam.DoFn):
    """Yields the groups of a partition, in the order of their keys."""

    def process(
        self, partition: tuple[int, Iterable[_Part]]
    ) -> Iterator[tuple[bytes, list[bytes]]]:
        pairs: list[tuple[bytes, bytes]] = []
        for part in partition[1]:
            path, offset, num_bytes = part
            with files.open(path) as file:
                file.seek(offset)
                pairs += _parse(file.read(num_bytes))
        pairs.sort(key=lambda pair: pair[0])
        for key, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
            yield key, [value for _, value in group]


def _parse(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position < len(data):
        key_length, value_length = _LENGTHS.unpack_from(data, position)
        start = position + _LENGTHS.size
        middle = start + key_length
        position = middle + value_length
        yield data[start:middle], data[middle:position]
