# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where the records of TFRecord files begin, so that any record is one ranged read.

Beside a shard, `.<shard>.offsets` holds the first byte of each record, and at the end the size of
the shard: little-endian uint64, so the size of the file gives the number of records. Every stage
whose output is shards writes them with each (`write_shard`, `join`). Offsets that are missing are
found by the headers of the records, by each process for itself, and written there if the folder can
be written. The name is hidden, and so no part of the content that a manifest's
fingerprint is of, and no input of a job that reads the folder.
"""

import concurrent.futures
import contextlib
import functools
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from parti.data.storage import tfrecords
from parti.stages import files

_SUFFIX = ".offsets"
_TYPE = np.dtype("<u8")
_THREADS = 16


def path_of(shard: str | os.PathLike[str]) -> str:
    """Returns the address of a shard's offsets."""
    return files.join(files.parent(shard), f".{files.name(shard)}{_SUFFIX}")


def is_offsets(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file is the offsets of a shard, also half-written ones."""
    return files.name(path).startswith(".") and _SUFFIX in files.name(path)


def of_sizes(frame_sizes: Iterable[int]) -> np.ndarray:
    """Returns the offsets [records + 1] uint64 of records that take so many bytes each."""
    return np.cumsum([0, *frame_sizes], dtype=_TYPE)


def scan(shard: str | os.PathLike[str]) -> np.ndarray:
    """Returns the offsets [records + 1] uint64 of a shard, by the headers of its records.

    Raises:
      ValueError: it is damaged, cut off or no TFRecord file.
    """
    return _scan(os.fspath(shard), files.status(shard))


@functools.lru_cache(1024)
def _scan(shard: str, status: files.Status) -> np.ndarray:
    with files.open(shard) as file:
        return of_sizes(_frame_sizes(file, status.num_bytes, shard))


def _frame_sizes(file: BinaryIO, num_bytes: int, name: str) -> list[int]:
    """Returns the bytes of each record of an open file of `num_bytes`; raises as `scan`."""
    headers, sizes, end = [], [], 0
    while end < num_bytes:
        file.seek(end)
        headers.append(file.read(tfrecords.HEADER_BYTES))
        sizes.append(tfrecords.FRAME_BYTES + int.from_bytes(headers[-1][:8], "little"))
        end += sizes[-1]
    tfrecords.check_headers(headers, name)
    if end > num_bytes:
        raise ValueError(f"{name}: cut off within a record; write it again")
    return sizes


def write(shard: str | os.PathLike[str], offsets: np.ndarray) -> None:
    """Writes the offsets of a shard."""
    files.write_bytes(path_of(shard), np.asarray(offsets, _TYPE).tobytes())


def write_shard(shard: str | os.PathLike[str], examples: Iterable[bytes]) -> int:
    """Writes serialized records to a shard, and its offsets; returns how many there are."""
    sizes: list[int] = []

    def counted() -> Iterator[bytes]:
        for example in examples:
            sizes.append(len(example) + tfrecords.FRAME_BYTES)
            yield example

    tfrecords.write(shard, counted())
    write(shard, of_sizes(sizes))
    return len(sizes)


def join(pieces: Iterable[files.Path], shard: str | os.PathLike[str]) -> None:
    """Writes TFRecord files, one after the other, as one shard, and its offsets.

    A piece at a time is in memory. Raises as `scan`.
    """
    sizes: list[int] = []
    with files.replacing(shard) as file:
        for piece in pieces:
            data = files.read_bytes(piece)
            sizes += _frame_sizes(io.BytesIO(data), len(data), os.fspath(piece))
            file.write(data)
    write(shard, of_sizes(sizes))


def of_shards(shards: Sequence[str]) -> list[np.ndarray]:
    """Returns the offsets [records + 1] uint64 of each shard.

    They take 8 bytes of memory a record. Those that are not there, or of a shard of another size,
    are found and, where that can be, written.

    Raises:
      ValueError: as `scan`.
    """
    sizes: dict[str, int] = {}  # of shards and offsets
    for folder in dict.fromkeys(map(files.parent, shards)):
        hidden = files.match(files.join(folder, f".*{_SUFFIX}"), files.join(folder, ""))
        for entry in [*files.list_folder(folder), *hidden]:
            sizes[files.join(folder, files.name(entry.path))] = entry.num_bytes

    def one(shard: str) -> np.ndarray:
        path = path_of(shard)
        size = sizes.get(files.join(files.parent(shard), files.name(shard)))
        if sizes.get(path, 0) and sizes[path] % _TYPE.itemsize == 0:
            offsets = np.frombuffer(files.read_bytes(path), _TYPE)
            if int(offsets[-1]) == size:
                return offsets
        offsets = scan(shard)
        with contextlib.suppress(OSError, files.AccessError):  # not ours to write, or full
            write(shard, offsets)
        return offsets

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(one, shards))
