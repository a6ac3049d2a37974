# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pairs in tars of img2dataset's layout, read as streams, member by member.

A member's name is only a key and never becomes a path on disk.
"""

import io
import posixpath
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from parti.pipelines.readers.base import decompression, pair_files, rows
from parti.stages import files

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# Members of one key may be apart in a tar, up to this.
MAX_PENDING_GROUPS = 256
MAX_PENDING_BYTES = 64 * 2**20
_MAX_HEADER_BYTES = 8 * 2**10  # of an extended header: a name of this length is no key anyway
_MAX_READS_PAST_END = 3  # `tarfile` itself would read on for as long as a header claims
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_ERRORS = (
    tarfile.TarError,
    ValueError,
    OverflowError,
    RecursionError,  # `tarfile` calls itself for each extended header in a row
    *decompression.ERRORS,
)


class _StrictTarInfo(tarfile.TarInfo):
    """Reports damage that `tarfile` takes for the end of the archive, and bounds headers."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_StrictTarInfo":
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the proper end
            raise
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError("no end-of-archive mark: the file was cut off") from error
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"bad header: {error}") from error

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_StrictTarInfo":
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0:
            raise tarfile.ReadError("bad header: a negative size")
        if info.type in _EXTENDED and info.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"an extended header of {info.size:,} bytes")
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a sparse member")
        return info

    def _proc_gnusparse_10(self, *args: Any) -> None:
        raise tarfile.ReadError("a sparse member")  # its map has no bound


class _Stream:
    """What `tarfile` reads: it ends with an error if it is read on and on after its end."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file, self._num_past_end = file, 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._num_past_end += not data
        if self._num_past_end > _MAX_READS_PAST_END:
            raise EOFError("the file was cut off")
        return data


def read_tar(file: IO[bytes], source: str) -> Iterator[rows.Row]:
    """Yields the pairs of a tar in img2dataset layout, plain or compressed, read as a stream."""
    pending: dict[str, pair_files.Group] = {}
    pending_bytes = 0

    def take(key: str) -> rows.Row:
        nonlocal pending_bytes
        group = pending.pop(key)
        pending_bytes -= sum(map(_size, group.values()))
        return pair_files.make_pair(key, group, source)

    damage = ""
    try:
        for name, data in _members(file):
            key, suffix = posixpath.splitext(name)
            suffix = suffix.lower()
            if _begins_another(suffix, pending.get(key, {})):
                yield take(key)
            pending.setdefault(key, {})[suffix] = data
            pending_bytes += _size(data)
            # The last one stays, however large: its caption may be the next member.
            while len(pending) > 1 and (
                len(pending) > MAX_PENDING_GROUPS or pending_bytes > MAX_PENDING_BYTES
            ):
                yield take(next(iter(pending)))
    except _ERRORS as error:
        damage = rows.one_line(error)
    for key in list(pending):
        yield take(key)
    if damage:
        yield rows.reject(source, "broken_file", damage, source=source)


def _members(file: IO[bytes]) -> Iterator[tuple[str, bytes | rows.Rejected]]:
    content: Any = _Stream(decompression.inflated(file)[0])
    # A name that is not UTF-8 is still a key.
    with tarfile.open(fileobj=content, mode="r|", tarinfo=_StrictTarInfo) as tar:
        while member := tar.next():
            # Else a long tar fills the memory.
            tar.members.clear()  # type: ignore[attr-defined]
            name = files.text(posixpath.normpath(member.name))
            suffix = posixpath.splitext(name)[1].lower()
            if member.isdir() or suffix not in pair_files.SUFFIXES:
                continue
            limit, reason = pair_files.limit_of(suffix)
            if member.name.startswith("/") or ".." in name.split("/"):
                yield files.text(member.name), rows.refuse("unsafe_name")
            elif not member.isreg():
                yield name, rows.refuse("not_a_file")
            elif member.size > limit:
                yield name, rows.refuse(reason, f"{member.size:,} bytes")
            else:
                data = tar.extractfile(member)
                yield name, data.read() if data else b""


def _begins_another(suffix: str, group: pair_files.Group) -> bool:
    """Returns whether a file starts a second pair of the same key."""
    is_pair = pair_files.TEXT in group and any(name in group for name in pair_files.IMAGE_SUFFIXES)
    return suffix in group or (suffix in pair_files.IMAGE_SUFFIXES and is_pair)


def _size(part: bytes | rows.Rejected) -> int:
    return len(part) if isinstance(part, bytes) else 0
