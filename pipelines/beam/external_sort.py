# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pieces of bytes to be sorted; when they are many, only their places are in memory."""

import tempfile
from collections.abc import Iterator
from typing import Any

_MEMORY_BYTES = 16 * 2**20  # pieces beyond this are in a temporary file


class Spool:
    """Takes pieces in any order and gives them back sorted by their places; a context manager."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115
        self._pieces: list[tuple[Any, int, int]] = []

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._pieces)

    def add(self, place: Any, piece: bytes) -> None:
        """Adds a piece; of equal places the one that was added first comes first."""
        self._pieces.append((place, self._file.tell(), len(piece)))
        self._file.write(piece)

    def sorted(self) -> Iterator[tuple[Any, bytes]]:
        """Yields (place, piece) in order; nothing can be added then."""
        for place, offset, num_bytes in sorted(self._pieces):
            self._file.seek(offset)
            yield place, self._file.read(num_bytes)
