# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Compressed files as streams, with a bound on how far they may inflate."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any

import zstandard

# Text of one line written over and over shrinks to a thousandth; no data set is like that.
MAX_RATIO = 200
FREE_BYTES = 64 * 2**20
_MAX_WINDOW = 128 * 2**20
_CHUNK = 2**18

_MAGIC: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda file: zstandard.ZstdDecompressor(
        max_window_size=_MAX_WINDOW
    ).stream_reader(file, read_across_frames=True),
}
SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
# What reading a damaged or hostile file raises here.
ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, MemoryError)


def inflated(file: IO[bytes]) -> tuple[io.BufferedReader, bool]:
    """Returns the content of a file, and whether it is compressed, by its first bytes.

    Reading a compressed one raises one of `ERRORS` on damage, or if it inflates over `MAX_RATIO`
    times beyond `FREE_BYTES`.
    """
    counted = _Counted(file.read)
    for magic, make in _MAGIC.items():
        if counted.peek(len(magic)) == magic:
            return io.BufferedReader(_Bounded(make(counted).read1, counted), _CHUNK), True
    return io.BufferedReader(counted, _CHUNK), False


def plain(file: IO[bytes]) -> io.BufferedReader:
    """Returns the rest of a file as it is; the end of the stream does not close the file."""
    return io.BufferedReader(_Counted(file.read), _CHUNK)


class _Counted(io.RawIOBase):
    """Passes on the bytes that a function reads, and counts them; the first can be peeked at."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read, self._ahead = read, b""
        self.num_bytes = 0

    def peek(self, size: int) -> bytes:
        while len(self._ahead) < size and (more := self._read(size - len(self._ahead))):
            self._ahead += more
        return self._ahead[:size]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._ahead:
            data, self._ahead = self._ahead[: len(buffer)], self._ahead[len(buffer) :]
        else:
            data = self._read(len(buffer))
        buffer[: len(data)] = data
        self.num_bytes += len(data)
        return len(data)


class _Bounded(_Counted):
    """Reads a decompressor's output as long as it is in proportion to its input."""

    def __init__(self, read1: Callable[[int], bytes], compressed: _Counted) -> None:
        super().__init__(read1)  # not `read`: what comes before damage is not lost
        self._compressed = compressed

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = super().readinto(buffer)
        if self.num_bytes > FREE_BYTES + MAX_RATIO * self._compressed.num_bytes:
            raise OSError(f"inflates over {MAX_RATIO} times: a decompression bomb")
        return size
