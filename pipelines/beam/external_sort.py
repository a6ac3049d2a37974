# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sorts pieces of bytes; beyond a limit they are in a spill file, and only their keys in memory."""

import tempfile
from collections.abc import Iterator
from typing import Any

# A shard of `sharded_writers.TARGET_SHARD_BYTES` is sorted without a file.
_MEMORY_BYTES = 64 * 2**20


class ExternalSort:
    """Takes pieces in any order and gives them back sorted by their keys; a context manager."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115
        self._pieces: list[tuple[Any, int, int]] = []

    def __enter__(self) -> "ExternalSort":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._pieces)

    def add(self, key: Any, piece: bytes) -> None:
        """Adds a piece; of equal keys the one that was added first comes first."""
        self._pieces.append((key, self._file.tell(), len(piece)))
        self._file.write(piece)

    def sorted(self) -> Iterator[bytes]:
        """Yields the pieces in the order of their keys; nothing can be added then."""
        for _, offset, num_bytes in sorted(self._pieces):
            self._file.seek(offset)
            yield self._file.read(num_bytes)
