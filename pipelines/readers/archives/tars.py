# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pairs in tars of img2dataset's or webdataset's layout, read as streams, member by member.

A member's name is only a key and never becomes a path on disk. Members of one key are usually side
by side. Of those that are not, only the positions are kept, and they are read at the end; of a
compressed tar, which cannot be read twice, their content is kept, up to a bound.
"""

import io
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

from parti.pipelines.readers.base import decompression, pair_files, rows
from parti.pipelines.readers.base.left_out import LeftOut
from parti.stages import files

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# Members of one key may be apart, up to this, before only their positions are kept.
MAX_PENDING_GROUPS = 256
MAX_PENDING_BYTES = 64 * 2**20
MAX_APART_GROUPS = 200_000  # keys of which members are looked for further on
MAX_APART_BYTES = 64 * 2**20  # of their content, in a compressed tar
_KNOWN = frozenset(pair_files.SUFFIXES)
_MAX_LINKS = 8  # in a row
# Reasons of a group that a member further on may mend.
_INCOMPLETE = ("missing_image", "missing_caption", "broken_metadata", "metadata_too_large")
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
    """Reports damage that `tarfile` takes for the end of the archive, and bounds headers.

    Tars that were joined (`cat a.tar b.tar`) are read on after the first one's end.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_StrictTarInfo":
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            tar.has_ended = True  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            if getattr(tar, "has_ended", False):  # the proper end
                raise
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
            raise tarfile.ReadError("a sparse member; pack it without --sparse")
        return info

    def _proc_gnusparse_10(self, *args: Any) -> None:
        raise tarfile.ReadError("a sparse member; pack it without --sparse")  # its map has no bound


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


class _Held(NamedTuple):
    """A member that is read at the end: where its content is in the tar."""

    offset: int  # in bytes
    num_bytes: int


class _Link(NamedTuple):
    """A member that is another one."""

    target: str  # its name, in normal form


class _Sizes(dict[str, int]):
    """Bytes of stems, in the order in which they were added, and their sum."""

    total = 0

    def __setitem__(self, stem: str, num_bytes: int) -> None:
        self.total += num_bytes - self.get(stem, 0)
        super().__setitem__(stem, num_bytes)

    def drop(self, stem: str) -> bool:
        """Returns whether the stem was there."""
        self.total -= self.get(stem, 0)
        return self.pop(stem, None) is not None


_Part = bytes | rows.Rejected | _Held | _Link


class _Group:
    """The members of one stem: a name without its last ending."""

    def __init__(self) -> None:
        self.parts: dict[str, _Part] = {}
        self.held: dict[str, _Held] = {}  # where they are in a tar that can be read twice
        self.surplus: set[str] = set()  # images that came after an image and a caption

    @property
    def kinds(self) -> pair_files.Kinds:
        return pair_files.by_kind(self.parts)

    @property
    def is_pair(self) -> bool:
        """Whether it has an image and a caption."""
        suffixes = {pair_files.suffix_of(name) for name in self.parts}
        return pair_files.TEXT in suffixes and not suffixes <= {*pair_files.SIDE_SUFFIXES}

    @property
    def num_bytes(self) -> int:
        return sum(len(part) for part in self.parts.values() if isinstance(part, bytes))


def read_tar(file: IO[bytes], source: str, left_out: LeftOut | None = None) -> Iterator[rows.Row]:
    """Yields the pairs of a tar, plain or compressed; files that are of no pair go to `left_out`.

    A file that is at its beginning; if it can seek, it is read again where members are far apart.
    """
    yield from _Reader(file, source, LeftOut() if left_out is None else left_out).read()


class _Reader:
    """Reads one tar."""

    def __init__(self, file: IO[bytes], source: str, left_out: LeftOut) -> None:
        self._file, self._source, self._left_out = file, source, left_out
        self._content, is_compressed = decompression.inflated(file)
        self._is_seekable = not is_compressed and file.seekable()
        self._groups: dict[str, _Group] = {}  # by stem, in the order of their first members
        self._fresh = _Sizes()  # the last stems, whose content is in memory
        self._apart = _Sizes()  # those that wait for members; 0 bytes if the tar can be read again
        self._samples: dict[str, dict[str, None]] = {}  # key of webdataset -> stems of `_apart`
        self._paired: set[str] = set()  # keys of webdataset of pairs that were found by their stem
        self._is_over = False  # whether members were too far apart

    def read(self) -> Iterator[rows.Row]:
        damage = ""
        try:
            for name, part, held in self._members():
                yield from self._add(name, part, held)
        except _ERRORS as error:
            damage = rows.one_line(error)
        yield from self._rest()
        if damage:
            yield rows.reject(self._source, "broken_file", damage, source=self._source)

    def _members(self) -> Iterator[tuple[str, _Part, _Held]]:
        content: Any = _Stream(self._content)
        # A name that is not UTF-8 is still a key.
        with tarfile.open(
            fileobj=content, mode="r|", tarinfo=_StrictTarInfo, ignore_zeros=True
        ) as tar:
            while member := tar.next():
                # Else a long tar fills the memory.
                tar.members.clear()  # type: ignore[attr-defined]
                name = files.text(posixpath.normpath(member.name))
                suffix = pair_files.suffix_of(name)
                if member.isdir():
                    continue
                if suffix not in _KNOWN:
                    self._left_out.add("other_ending", name)
                    continue
                if posixpath.basename(name).startswith("._"):  # macOS keeps attributes in them
                    self._left_out.add("hidden", name)
                    continue
                limit, reason = pair_files.limit_of(suffix)
                held = _Held(member.offset_data, member.size)
                if member.name.startswith("/") or ".." in name.split("/"):
                    yield files.text(member.name), rows.refuse("unsafe_name"), held
                elif refused := pair_files.refusal(suffix):
                    yield name, refused, held
                elif member.issym() or member.islnk():
                    yield name, self._link(member), held
                elif not member.isreg():
                    yield name, rows.refuse("not_a_file"), held
                elif member.size > limit:
                    yield name, rows.refuse(reason, f"{member.size:,} bytes"), held
                else:
                    data = tar.extractfile(member)
                    yield name, data.read() if data else b"", held

    def _link(self, member: tarfile.TarInfo) -> _Part:
        target = _target(member)
        if not target:
            return rows.refuse("not_a_file", f"a link to {member.linkname[: rows.SHOWN_URL]}")
        if not self._is_seekable:
            return rows.refuse("not_a_file", "a link in a compressed tar, which is read once")
        return _Link(target)

    def _add(self, name: str, part: _Part, held: _Held) -> Iterator[rows.Row]:
        """Adds a member to its group; yields the pairs that are ready."""
        stem = posixpath.splitext(name)[0]
        group = self._groups.get(stem) or _Group()
        if name in group.parts:  # another pair of this key begins
            after = _Group()
            for image in sorted(group.surplus):
                after.parts[image] = group.parts.pop(image)
                after.held[image] = group.held.pop(image)
            yield from self._take({stem: self._remove(stem)})
            group = after
        if pair_files.suffix_of(name) not in pair_files.SIDE_SUFFIXES and group.is_pair:
            group.surplus.add(name)
        group.parts[name], group.held[name] = part, held
        self._groups[stem] = group
        if stem in self._apart:
            self._set_apart(stem)
        else:
            self._fresh[stem] = group.num_bytes
        # The last one stays, however large: its caption may be the next member.
        while len(self._fresh) > 1 and (
            len(self._fresh) > MAX_PENDING_GROUPS or self._fresh.total > MAX_PENDING_BYTES
        ):
            yield from self._leave(next(iter(self._fresh)))
        while len(self._apart) > MAX_APART_GROUPS or self._apart.total > MAX_APART_BYTES:
            yield from self._give_up(next(iter(self._apart)))

    def _leave(self, stem: str) -> Iterator[rows.Row]:
        """Yields the pair of a group, or sets it apart if a member of it may come further on."""
        group = self._groups[stem]
        if not any(isinstance(part, _Link) for part in group.parts.values()):
            left_out = LeftOut()
            row = pair_files.make_pair(stem, group.parts, self._source, left_out)  # type: ignore[arg-type]
            if not (isinstance(row, rows.Rejected) and row.reason in _INCOMPLETE):
                self._left_out.update(left_out)
                self._remove(stem)
                yield row
                return
        self._set_apart(stem)

    def _set_apart(self, stem: str) -> None:
        group = self._groups[stem]
        if self._is_seekable:
            for name, part in group.parts.items():
                if isinstance(part, bytes):
                    group.parts[name] = group.held[name]
        self._fresh.drop(stem)
        self._apart[stem] = group.num_bytes
        self._samples.setdefault(pair_files.sample_key(stem), {})[stem] = None

    def _give_up(self, stem: str) -> Iterator[rows.Row]:
        """Yields the pair or rejected row of a group that is apart, so that memory is bounded."""
        stems = self._samples[pair_files.sample_key(stem)]
        kinds = {name: self._groups[name].kinds for name in stems}
        (key, group), *_ = pair_files.keys_of_stems(kinds, self._paired).items()
        of_key = pair_files.by_kind(part for name in group for part in self._groups[name].parts)
        self._is_over |= not (of_key.images and (of_key.texts or of_key.metadata))
        yield from self._take({name: self._remove(name) for name in group}, key)

    def _remove(self, stem: str) -> _Group:
        """Returns a group that is no longer waited for."""
        group = self._groups.pop(stem)
        self._fresh.drop(stem)
        key = pair_files.sample_key(stem)
        if self._apart.drop(stem):
            self._samples[key].pop(stem)
            if not self._samples[key]:
                del self._samples[key]
        if group.is_pair:
            self._paired.add(key)
        return group

    def _rest(self) -> Iterator[rows.Row]:
        """Yields the pairs of all groups that are left, when all names are known."""
        kinds = {stem: group.kinds for stem, group in self._groups.items()}
        keys = pair_files.keys_of_stems(kinds, self._paired)
        targets = self._find_targets()
        for key, stems in keys.items():
            yield from self._take({stem: self._groups[stem] for stem in stems}, key, targets)

    def _take(
        self,
        groups: dict[str, _Group],
        key: str = "",
        targets: dict[str, _Held] | None = None,
    ) -> Iterator[rows.Row]:
        """Yields the row of the groups of one key, which is the stem unless it is given."""
        parts = {name: part for group in groups.values() for name, part in group.parts.items()}
        if targets is None and any(isinstance(part, _Link) for part in parts.values()):
            targets = self._find_targets(parts.values())
        key = key or next(iter(groups))
        try:
            content = {name: self._load(name, part, targets or {}) for name, part in parts.items()}
        except OSError as error:
            yield rows.reject(key, "broken_file", rows.one_line(error), source=self._source)
            return
        row = pair_files.make_pair(key, content, self._source, self._left_out)
        if self._is_over and isinstance(row, rows.Rejected) and row.reason.startswith("missing_"):
            bound = f"over {MAX_APART_BYTES / 2**20:,.0f} MiB or {MAX_APART_GROUPS:,} keys"
            row = rows.reject(key, "members_far_apart", bound, row.text, self._source)
        yield row

    def _load(self, name: str, part: _Part, targets: dict[str, _Held]) -> bytes | rows.Rejected:
        if isinstance(part, _Link):
            found = targets.get(part.target)
            if found is None:
                return rows.refuse("not_a_file", f"a link to {part.target}, which is no file here")
            limit, reason = pair_files.limit_of(pair_files.suffix_of(name))
            if found.num_bytes > limit:
                return rows.refuse(reason, f"{found.num_bytes:,} bytes")
            part = found
        if not isinstance(part, _Held):
            return part
        position = self._file.tell()
        self._file.seek(part.offset)
        data = self._file.read(part.num_bytes)
        self._file.seek(position)
        if len(data) < part.num_bytes:
            raise OSError("the file was cut off")
        return data

    def _find_targets(self, parts: Iterable[_Part] | None = None) -> dict[str, _Held]:
        """Returns where the files are that links lead to; the tar is read again for it."""
        if parts is None:
            parts = [part for group in self._groups.values() for part in group.parts.values()]
        wanted = {part.target for part in parts if isinstance(part, _Link)}
        if not wanted:
            return {}
        found: dict[str, _Held | str] = {}
        position = self._file.tell()
        try:
            self._file.seek(0)
            with tarfile.open(
                fileobj=self._file, mode="r:", tarinfo=_StrictTarInfo, ignore_zeros=True
            ) as tar:
                while (member := tar.next()) and len(found) < 2 * MAX_APART_GROUPS:
                    tar.members.clear()  # type: ignore[attr-defined]
                    name = files.text(posixpath.normpath(member.name))
                    if member.isreg():
                        found[name] = _Held(member.offset_data, member.size)
                    elif target := _target(member):
                        found[name] = target
        except _ERRORS as error:
            rows.raise_if_of_store(error)  # of damage the first reading has told
        finally:
            self._file.seek(position)
        ends: dict[str, _Held] = {}
        for name in wanted:
            end: _Held | str | None = name
            for _ in range(_MAX_LINKS):
                end = found.get(end) if isinstance(end, str) else end
            if isinstance(end, _Held):
                ends[name] = end
        return ends


def _target(member: tarfile.TarInfo) -> str:
    """Returns the name that a link leads to; "" if it is no link or leads out of the tar."""
    if not (member.issym() or member.islnk()) or member.linkname.startswith("/"):
        return ""
    folder = posixpath.dirname(member.name) if member.issym() else ""
    target = files.text(posixpath.normpath(posixpath.join(folder, member.linkname)))
    return "" if target.startswith("..") else target
