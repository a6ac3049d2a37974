# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""TFRecord files without TensorFlow, whose import costs a Beam worker seconds.

A record on disk is: length (8 bytes, little-endian), masked CRC-32C of those, the data, masked
CRC-32C of the data (Source: tensorflow/core/lib/io/record_writer.h). CRC-32C is computed over many
chunks of the data at once with numpy, and the results are combined: a CRC is linear, so that of
A followed by B is that of A, moved on by the length of B, xor that of B.
"""

import collections
import functools
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import numpy as np

from parti.data.storage import shard_names
from parti.stages import files

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed
_MASK_DELTA = 0xA282EAD8
_HEADER = struct.Struct("<QI")
HEADER_BYTES = _HEADER.size
FRAME_BYTES = HEADER_BYTES + 4  # that a record takes in a file besides its data
MAX_RECORD_BYTES = 2**30
_WORD = 4  # bytes that one step of the CRC takes in


def _tables(columns: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns a linear map of 32 bits as two tables, for the low and the high 16 bits.

    `columns` is what the map makes of each single bit, lowest first.
    """
    low, high = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    for low_column, high_column in zip(columns[:16], columns[16:], strict=True):
        low = np.concatenate([low, low ^ np.uint32(low_column)])
        high = np.concatenate([high, high ^ np.uint32(high_column)])
    return low, high


def _apply(tables: tuple[np.ndarray, np.ndarray], values: np.ndarray) -> np.ndarray:
    low, high = tables
    # With a mode `take` needs no check of all indices, which are in range.
    return low.take(values & 0xFFFF, mode="wrap") ^ high.take(values >> 16, mode="wrap")


def _step(register: int) -> int:
    """Moves the register on by one zero bit."""
    return (register >> 1) ^ (_POLYNOMIAL if register & 1 else 0)


@functools.cache
def _advance(num_words: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the map that moves a register on by zero words; `num_words` is a power of two."""
    if num_words == 1:
        columns = [1 << bit for bit in range(32)]
        for _ in range(8 * _WORD):
            columns = [_step(column) for column in columns]
        return _tables(columns)
    half = _advance(num_words // 2)
    bits = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
    return _tables(_apply(half, _apply(half, bits)).tolist())


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C of bytes."""
    return int(crc32cs([data])[0])


def crc32cs(pieces: Sequence[bytes]) -> np.ndarray:
    """Returns the CRC-32C of each of several pieces of bytes, [pieces] uint32.

    Of many records at once it takes a small part of the time of one by one.
    """
    found = np.zeros(len(pieces), np.uint32)
    groups: dict[int, list[int]] = collections.defaultdict(list)  # of about the same size
    for index, piece in enumerate(pieces):
        groups[len(piece).bit_length()].append(index)
    for of in groups.values():
        some = [pieces[index] for index in of]
        found[of] = _crcs(some) if len(some[0]) >= _WORD else [_crc_of_few(x) for x in some]
    return found


def _crc_of_few(data: bytes) -> int:
    """Returns the CRC-32C of less than a word."""
    register = int.from_bytes(data, "little") ^ 0xFFFFFFFF
    for _ in range(8 * len(data)):
        register = _step(register)
    return register ^ 0xFFFFFFFF


def _crcs(pieces: Sequence[bytes]) -> np.ndarray:
    """Returns the CRC-32C of pieces of a word or more."""
    num_words = -(-max(map(len, pieces)) // _WORD)
    # About as many chunks as words in each; zeros in front of the data change nothing.
    length = 1 << max(0, (num_words.bit_length() - 3) // 2)
    chunks = -(-num_words // length)
    num_bytes = length * chunks * _WORD
    joined = bytearray().join(piece.rjust(num_bytes, b"\0") for piece in pieces)
    padded = np.frombuffer(joined, np.uint8).reshape(len(pieces), num_bytes)
    starts = num_bytes - np.array([len(piece) for piece in pieces])
    # The same as a register that starts with all ones.
    padded[np.arange(len(pieces))[:, None], starts[:, None] + np.arange(_WORD)] ^= 0xFF
    words = padded.view("<u4").reshape(len(pieces), chunks, length)
    one = _advance(1)
    registers = np.zeros((chunks, len(pieces)), np.uint32)
    for word in np.ascontiguousarray(words.transpose(2, 1, 0)):
        registers = _apply(one, registers ^ word)
    while len(registers) > 1:
        if len(registers) % 2:
            registers = np.pad(registers, ((1, 0), (0, 0)))
        registers = _apply(_advance(length), registers[0::2]) ^ registers[1::2]
        length *= 2
    return registers[0] ^ np.uint32(0xFFFFFFFF)


def _masked(data: bytes) -> int:
    return int(_mask(crc32cs([data]))[0])


def _mask(crcs: np.ndarray) -> np.ndarray:
    return ((crcs >> 15) | (crcs << 17)) + np.uint32(_MASK_DELTA)


def frame(data: bytes) -> bytes:
    """Returns a record as it stands in a file."""
    length = struct.pack("<Q", len(data))
    crcs = struct.pack("<I", _masked(length)), struct.pack("<I", _masked(data))
    return b"".join((length, crcs[0], data, crcs[1]))


def unframe(frames: Sequence[bytes], names: Sequence[str]) -> list[bytes]:
    """Returns the data of records as they stand in files of these names; the inverse of `frame`.

    Raises:
      ValueError: one is damaged, or not a whole record.
    """
    found = [frame[HEADER_BYTES:-4] for frame in frames]
    sizes = [len(data).to_bytes(8, "little") for data in found]
    heads, ends = (_mask(crc32cs(pieces)).astype("<u4").tobytes() for pieces in (sizes, found))
    for i, (frame, size, name) in enumerate(zip(frames, sizes, names, strict=True)):
        crcs = slice(4 * i, 4 * i + 4)
        if frame[:HEADER_BYTES] != size + heads[crcs] or frame[-4:] != ends[crcs]:
            raise ValueError(f"{name}: a record is damaged; write the file again")
    return found


def write(path: str | os.PathLike[str], examples: Iterable[bytes]) -> int:
    """Writes serialized records to one file, which appears when it is complete."""
    count = 0
    with files.replacing(path) as file:
        for example in examples:
            file.write(frame(example))
            count += 1
    return count


def read(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yields the serialized records of a file; ValueError: damaged, cut off or of another kind."""
    name = os.fspath(path)
    with files.open(name) as file:
        yield from read_stream(file, name)


def read_pattern(pattern: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yields the records, as `read`, of the files that a pattern names, in order.

    Raises:
      FileNotFoundError: no such file (see `shard_names.expand_pattern`).
    """
    for path in shard_names.expand_pattern(pattern, "TFRecord files"):
        yield from read(path)


def check_headers(headers: Sequence[bytes], name: str) -> None:
    """Checks the first HEADER_BYTES of records of a file; `name` is for messages.

    Raises:
      ValueError: one is damaged, cut off or of another kind of file.
    """
    crcs = _mask(crc32cs([header[:8] for header in headers])).tolist()
    for header, crc in zip(headers, crcs, strict=True):
        if len(header) < _HEADER.size:
            raise ValueError(f"{name}: cut off within a record; write it again")
        if _HEADER.unpack(header)[1] != crc:
            raise ValueError(f"{name}: damaged, or not a TFRecord file; write it again")


def read_stream(file: IO[bytes], name: str, max_bytes: int = MAX_RECORD_BYTES) -> Iterator[bytes]:
    """Yields the serialized records of an open file; `name` is for messages.

    Raises:
      ValueError: as for `read`, or a record over `max_bytes`: its length could claim anything.
    """
    while header := file.read(_HEADER.size):
        check_headers([header], name)
        length, _ = _HEADER.unpack(header)
        if length > max_bytes:
            raise ValueError(
                f"{name}: a record of {length:,} bytes; at most {max_bytes:,} are read"
            )
        body = file.read(length + 4)
        if len(body) < length + 4:
            raise ValueError(f"{name}: cut off within a record; write it again")
        data = body[:length]
        if struct.unpack("<I", body[length:])[0] != _masked(data):
            raise ValueError(f"{name}: a record is damaged; write the file again")
        yield data
