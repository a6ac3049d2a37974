# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""GroupByKey through files, for runners of one machine: Beam's keep every row in memory.

A bundle writes its pairs to a file, by partition of the keys; their positions go through the
runner. A partition is read and sorted; one too large for memory is split again, and the values of a
very frequent key are streamed. Without --shuffle_dir it is Beam's own transform.
"""

import argparse
import collections
import itertools
import pickle
import struct
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import xxhash
from apache_beam.options import pipeline_options
from apache_beam.transforms import window

from parti.stages import files

_NUM_PARTITIONS = 64
# A larger partition is split again, at most `_MAX_LEVELS` times: what is left then is one key's.
_MEMORY_BYTES = 64 * 2**20
_MAX_LEVELS = 3
_FLUSH_BYTES = 4 * 2**20
_LENGTHS = struct.Struct("<II")


class ShuffleOptions(pipeline_options.PipelineOptions):
    """Where a pipeline groups its rows; every transform here reads it as the job is built."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--shuffle_dir",
            default="",
            help="an existing folder that every worker reaches; empty: the runner groups the rows",
        )


class _Part(NamedTuple):
    """The position of some pairs of a partition in a file."""

    path: str
    offset: int
    num_bytes: int


class GroupByKey(beam.PTransform):
    """Groups (bytes, bytes) by their first; the values of a group come in any order."""

    def expand(self, inputs: beam.PCollection | tuple[beam.PCollection, ...]) -> beam.PCollection:
        """Returns (key, iterable of values), which can be read more than once."""
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        folder = inputs[0].pipeline.options.view_as(ShuffleOptions).shuffle_dir
        if not folder:
            return inputs | beam.Flatten() | "Group" >> beam.GroupByKey()
        # Each for itself: a runner may keep what is flattened until all of it is there.
        parts = (
            pairs | f"To files {number}" >> beam.ParDo(_ToFiles(folder))
            for number, pairs in enumerate(inputs)
        )
        return (
            tuple(parts)
            | beam.Flatten()
            | "Parts" >> beam.GroupByKey()
            # The runner gives the parts in any order.
            | "From files" >> beam.FlatMapTuple(lambda _, some: _groups(sorted(some), folder))
        )


class GroupObjects(beam.PTransform):
    """The same for (str, value) of any values, which are pickled."""

    def expand(self, inputs: beam.PCollection | tuple[beam.PCollection, ...]) -> beam.PCollection:
        """Returns (key, iterable of values), which can be read more than once."""

        def pack(key: str, value: Any) -> tuple[bytes, bytes]:
            return key.encode("utf-8", "surrogatepass"), pickle.dumps(value)

        def unpack(key: bytes, values: Iterable[bytes]) -> tuple[str, Iterable[Any]]:
            return key.decode("utf-8", "surrogatepass"), _Unpacked(values)

        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        packed = (some | f"Pack {i}" >> beam.MapTuple(pack) for i, some in enumerate(inputs))
        return tuple(packed) | GroupByKey() | "Unpack" >> beam.MapTuple(unpack)


class _Unpacked:
    """Values that are unpickled each time that they are read."""

    def __init__(self, values: Iterable[bytes]) -> None:
        self._values = values

    def __iter__(self) -> Iterator[Any]:
        return map(pickle.loads, self._values)


class _PartWriter:
    """Writes pairs to files, by partition of their keys, some at a time."""

    def __init__(self, folder: str, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self._buffers: dict[int, bytearray] = {}
        self._num_bytes = 0

    def add(self, key: bytes, value: bytes) -> Iterator[tuple[int, _Part]]:
        """Takes a pair; yields (partition, part) of what it writes now."""
        partition = xxhash.xxh3_64_intdigest(key, self._seed) % _NUM_PARTITIONS
        buffer = self._buffers.setdefault(partition, bytearray())
        buffer += _LENGTHS.pack(len(key), len(value)) + key + value
        self._num_bytes += _LENGTHS.size + len(key) + len(value)
        if self._num_bytes >= _FLUSH_BYTES:
            yield from self.flush()

    def flush(self) -> Iterator[tuple[int, _Part]]:
        """Writes what is left; yields (partition, part)."""
        buffers, self._buffers, self._num_bytes = self._buffers, {}, 0
        if not buffers:
            return
        path, offset = files.join(self._folder, f"shuffle-{uuid.uuid4().hex}"), 0
        with files.open(path, "wb") as file:
            file.writelines(buffers.values())
        for partition, buffer in buffers.items():
            yield partition, _Part(path, offset, len(buffer))
            offset += len(buffer)


class _ToFiles(beam.DoFn):
    """Yields (partition, _Part) for the pairs of a bundle.

    A bundle that is done twice writes two files, and only the parts of one are ever read.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def start_bundle(self) -> None:
        self._writer = _PartWriter(self._folder, seed=0)

    def process(self, pair: tuple[bytes, bytes]) -> Iterator[tuple[int, _Part]]:
        yield from self._writer.add(*pair)

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(window.GlobalWindows.windowed_value, self._writer.flush())


def _groups(
    parts: Sequence[_Part], folder: str, level: int = 0
) -> Iterator[tuple[bytes, Iterable[bytes]]]:
    """Yields the groups of some parts: in memory, or split again if they are too large for it."""
    if sum(part.num_bytes for part in parts) <= _MEMORY_BYTES:
        pairs = sorted(_read(parts), key=lambda pair: pair[0])
        for key, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
            yield key, [value for _, value in group]
    elif level < _MAX_LEVELS:
        writer = _PartWriter(folder, seed=level + 1)
        split: dict[int, list[_Part]] = collections.defaultdict(list)
        written = itertools.chain.from_iterable(itertools.starmap(writer.add, _read(parts)))
        for partition, part in itertools.chain(written, writer.flush()):
            split[partition].append(part)
        for partition in sorted(split):
            yield from _groups(split[partition], folder, level + 1)
    else:  # one key that very many pairs have, and a few that share its partition
        for key in sorted({key for key, _ in _read(parts)}):
            yield key, _Streamed(tuple(parts), key)


class _Streamed:
    """The values of one key, read from files each time."""

    def __init__(self, parts: tuple[_Part, ...], key: bytes) -> None:
        self._parts, self._key = parts, key

    def __iter__(self) -> Iterator[bytes]:
        return (value for key, value in _read(self._parts) if key == self._key)


def _read(parts: Iterable[_Part]) -> Iterator[tuple[bytes, bytes]]:
    for path, offset, num_bytes in parts:
        with files.open(path) as file:
            file.seek(offset)
            data = file.read(num_bytes)  # at most what is flushed at once, and a pair
        end = 0
        while end < len(data):
            key_length, value_length = _LENGTHS.unpack_from(data, end)
            start = end + _LENGTHS.size
            middle = start + key_length
            end = middle + value_length
            yield data[start:middle], data[middle:end]
