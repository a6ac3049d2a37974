# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks a checkpoint for damage by checksums: size and crc32 of every file.

`checksums.json` is `{path below its folder: [size in bytes, crc32]}`. Each process sums the files
it wrote, in their folder; the first process merges these and adds the sums of all other files.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import posixpath
import zlib
from collections.abc import Collection, Iterator

from parti.stages import files

FILE_NAME = "checksums.json"

# Files read at a time. crc32 and reading leave Python's lock to others.
_NUM_THREADS = min(8, os.cpu_count() or 1)
_BLOCK_BYTES = 1 << 20

Sums = dict[str, tuple[int, int]]


def write(folder: files.Path, without: Collection[str] = ()) -> None:
    """Writes the checksums of a checkpoint, or of one process's part of it.

    Those of folders in it are merged into its own and deleted; left out are the files `without`,
    relative to the folder, that are still to change.
    """
    root, sums = files.absolute(folder), Sums()
    found = {entry.path[len(root) + 1 :] for entry in files.walk(root)}
    for part in sorted(name for name in found if name.endswith(f"/{FILE_NAME}")):
        inside = posixpath.dirname(part)
        sums |= {f"{inside}/{name}": pair for name, pair in _read(f"{root}/{inside}").items()}
        files.remove(f"{root}/{part}")
        found.remove(part)
    left = sorted(found - sums.keys() - set(without))
    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as threads:
        sums |= dict(zip(left, threads.map(_sum, (f"{root}/{name}" for name in left)), strict=True))
    files.write_bytes(f"{root}/{FILE_NAME}", json.dumps(sums, indent=1, sort_keys=True).encode())


def verify(folder: files.Path, part: int = 0, num_parts: int = 1, below: str = "") -> None:
    """Compares a checkpoint's files with their checksums; one of T5X has none and passes.

    Args:
      folder: the checkpoint.
      part, num_parts: which share of the files to read, of how many; their sizes are alike.
      below: only the files in this folder of it; all by default.

    Raises:
      ValueError, FileNotFoundError: the size or the content of a file has changed; it is missing.
      OSError: it cannot be read.
    """
    try:
        sums = _read(folder)
    except FileNotFoundError:
        return
    names = [name for name in sums if pathlib.PurePath(name).is_relative_to(below)]
    names.sort(key=lambda name: (-sums[name][0], name))
    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as threads:
        list(threads.map(lambda name: _compare(folder, name, *sums[name]), names[part::num_parts]))


def _compare(folder: files.Path, name: str, size: int, crc32: int) -> None:
    path = files.join(folder, name)
    with _missing_if_not_there(path, name):
        found = files.size(path)
    if found != size:
        raise ValueError(f"{name} has {found} bytes, not {size}")
    if _sum(path)[1] != crc32:
        raise ValueError(f"the content of {name} has changed")


def _read(folder: files.Path) -> Sums:
    path = files.join(folder, FILE_NAME)
    with _missing_if_not_there(path, FILE_NAME):
        sums = json.loads(files.read_bytes(path))
    return {name: (int(size), int(crc32)) for name, (size, crc32) in sums.items()}


@contextlib.contextmanager
def _missing_if_not_there(path: str, name: str) -> Iterator[None]:
    """Raises FileNotFoundError for any error of an absent file: remote systems have their own."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) or (
            files.is_remote(path) and not files.exists(path)
        ):
            raise FileNotFoundError(f"{name} is missing") from None
        raise


def _sum(path: str) -> tuple[int, int]:
    """Returns the size of a file in bytes and its crc32."""
    size, crc32 = 0, 0
    with files.open(path) as file:
        while block := file.read(_BLOCK_BYTES):
            size, crc32 = size + len(block), zlib.crc32(block, crc32)
    return size, crc32
