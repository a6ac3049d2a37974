# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Raw image-text pairs from webdataset tars, folders of images, and TFRecords.

    sources = readers.find_sources(["raw/*.tar"])
    read = root | readers.ReadPairs(sources)      # read.pairs, read.rejected

A row that cannot be read is a `Rejected` record with its reason, never an exception. Tars are read
as streams, member by member; a member's name is only a key and never becomes a path on disk.
"""

import dataclasses
import glob
import json
import math
import os
import pathlib
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import apache_beam as beam

from parti.data import file_names, records, tfrecords
from parti.pipelines import options

WEBDATASET, FOLDER, TFRECORD = "webdataset", "folder", "tfrecord"
FORMATS = {
    WEBDATASET: "tar files in img2dataset layout: key.jpg|png|webp, key.txt, key.json",
    FOLDER: "image files with the caption beside each, in a .txt of the same name",
    TFRECORD: "image-text pairs as `parti clean` writes them",
}
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
TFRECORD_SUFFIXES = (".tfrecord",)
_SUFFIXES = {WEBDATASET: TAR_SUFFIXES, FOLDER: IMAGE_SUFFIXES, TFRECORD: TFRECORD_SUFFIXES}

MAX_MEMBER_BYTES = 256 * 2**20
# Members of one key may lie apart in a tar, but not further than this.
MAX_PENDING_GROUPS = 256
MAX_PENDING_BYTES = 64 * 2**20
_FILES_PER_FOLDER_SOURCE = 256
_REFUSED = "refused"  # in a group of members: why the pair is rejected, whatever else it has


@dataclasses.dataclass(frozen=True)
class Source:
    """What one worker reads in one go: a tar, a TFRecord file, or some files of a folder.

    Attributes:
      format: a key of `FORMATS`.
      paths: the files; one except for a folder.
      root: the folder that keys are relative to; empty except for a folder.
      num_bytes: size of the files, for the progress line.
    """

    format: str
    paths: tuple[str, ...]
    root: str = ""
    num_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A row that was dropped.

    Attributes:
      key: the pair's key, or the file's name if the file is at fault.
      reason: a short name, counted and reported; its words are in `clean_report.STAGES`.
      measure: the value that decided, as text.
      text: the caption, when known.
      source: the file it came from.
    """

    key: str
    reason: str
    measure: str = ""
    text: str = ""
    source: str = ""

    def to_json(self) -> str:
        """Returns one line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)


def detect_format(pattern: str) -> str:
    """Returns the format of the files that a pattern names; a folder is looked into.

    Raises:
      FileNotFoundError: nothing matches, or a folder without files.
      ValueError: the format is not known; the message lists the formats.
    """
    names = [pattern]
    if "://" not in pattern:
        found = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise FileNotFoundError(f"{pattern}: no such file; check the path (quote a glob)")
        if os.path.isdir(found[0]):
            names = sorted(p.name for p in pathlib.Path(found[0]).rglob("*") if p.is_file())
            if not names:
                raise FileNotFoundError(f"{pattern}: no file in this folder; check the path")
        else:
            names = found
    for kind in (TFRECORD, WEBDATASET, FOLDER):
        if any(name.lower().endswith(_SUFFIXES[kind]) for name in names):
            return kind
    raise ValueError(
        f"{pattern}: format not recognised; known are "
        + "; ".join(f"{kind} ({what})" for kind, what in FORMATS.items())
        + ". Name one with --input_format."
    )


def check_format(input_format: str) -> None:
    """Raises ValueError unless it is a key of `FORMATS`, or "auto"."""
    if input_format != "auto" and input_format not in FORMATS:
        raise ValueError(
            f"--input_format={input_format}: unknown; choose from auto, {', '.join(FORMATS)}"
        )


def find_sources(patterns: Sequence[str], input_format: str = "auto") -> list[Source]:
    """Returns what there is to read, sorted, each file once.

    Args:
      patterns: files, globs or folders.
      input_format: a key of `FORMATS`, or "auto".

    Raises:
      FileNotFoundError: a pattern matches no file.
      ValueError: unknown format.
    """
    check_format(input_format)
    found: set[Source] = set()
    for pattern in patterns:
        kind = detect_format(pattern) if input_format == "auto" else input_format
        if kind == FOLDER:
            found.update(_folder_sources(pattern))
        else:
            what = "tar files" if kind == WEBDATASET else "TFRecord files"
            paths = file_names.expand_pattern(pattern, what, suffixes=_SUFFIXES[kind])
            found.update(Source(kind, (path,), num_bytes=_size(path)) for path in paths)
    return sorted(found, key=lambda source: source.paths)


def _folder_sources(pattern: str) -> list[Source]:
    """Returns the image files below a folder, or that a glob matches, in groups."""
    root = pattern if os.path.isdir(pattern) else os.path.dirname(pattern.split("*")[0])
    candidates = (
        [str(p) for p in pathlib.Path(pattern).rglob("*")]
        if os.path.isdir(pattern)
        else glob.glob(pattern, recursive=True)
    )
    paths = sorted(p for p in candidates if p.lower().endswith(IMAGE_SUFFIXES))
    if not paths:
        raise FileNotFoundError(
            f"{pattern}: no image files ({', '.join(IMAGE_SUFFIXES)}); check the path"
        )
    groups = [
        paths[i : i + _FILES_PER_FOLDER_SOURCE]
        for i in range(0, len(paths), _FILES_PER_FOLDER_SOURCE)
    ]
    return [Source(FOLDER, tuple(g), root, sum(_size(p) for p in g)) for g in groups]


def _size(path: str) -> int:
    """Returns a file's size in bytes, 0 when it is not local."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def read_source(source: Source) -> Iterator[records.ImageTextPair | Rejected]:
    """Yields the pairs of a source, images undecoded, and what could not be read."""
    if source.format == FOLDER:
        for path in source.paths:
            yield _read_image_file(path, source.root)
    elif source.format == TFRECORD:
        yield from _read_tfrecord(source.paths[0])
    else:
        path = source.paths[0]
        with _open(path) as file:
            yield from read_tar(file, _utf8(os.path.basename(path)))


def _open(path: str) -> BinaryIO:
    """Opens a local file, or a remote one through Beam."""
    if "://" not in path:
        return open(path, "rb")
    from apache_beam.io import filesystem, filesystems

    plain = filesystem.CompressionTypes.UNCOMPRESSED  # the tar reader finds out by itself
    return filesystems.FileSystems.open(path, compression_type=plain)


class _StrictTarInfo(tarfile.TarInfo):
    """Reports damage that `tarfile` takes for the end of the archive."""

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


def read_tar(file: BinaryIO, source: str) -> Iterator[records.ImageTextPair | Rejected]:
    """Yields the pairs of a tar in img2dataset layout, read as a stream.

    Args:
      file: the tar, plain or compressed.
      source: the name of the file, for the records.
    """
    pending: dict[str, dict[str, bytes]] = {}
    pending_bytes = 0

    def take(key: str) -> Iterator[records.ImageTextPair | Rejected]:
        nonlocal pending_bytes
        group = pending.pop(key)
        pending_bytes -= sum(map(len, group.values()))
        if row := _pair(key, group, source):
            yield row

    try:
        for name, data in _tar_members(file):
            key, suffix = posixpath.splitext(name)
            suffix = suffix.lower()
            if isinstance(data, str):
                suffix, data = _REFUSED, data.encode()
            if _begins_another(suffix, pending.get(key, {})):
                yield from take(key)
            pending.setdefault(key, {})[suffix] = data
            pending_bytes += len(data)
            # The last one stays, however large: its caption may be the next member.
            while len(pending) > 1 and (
                len(pending) > MAX_PENDING_GROUPS or pending_bytes > MAX_PENDING_BYTES
            ):
                yield from take(next(iter(pending)))
        damage = None
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
        damage = error
    for key in list(pending):
        yield from take(key)
    if damage is not None:
        yield Rejected(source, "broken_file", _one_line(damage), source=source)


def _tar_members(file: BinaryIO) -> Iterator[tuple[str, bytes | str]]:
    """Yields (name, content) of the members that matter; content is a reason if it is refused."""
    # A name that is not UTF-8 is still a key.
    with tarfile.open(fileobj=file, mode="r|*", tarinfo=_StrictTarInfo, errors="replace") as tar:
        while member := tar.next():
            # Else a long tar fills the memory.
            tar.members.clear()  # type: ignore[attr-defined]
            name = posixpath.normpath(member.name)
            if not member.isreg() or not name.lower().endswith((*IMAGE_SUFFIXES, ".txt", ".json")):
                continue
            if member.name.startswith("/") or ".." in name.split("/"):
                yield member.name, "unsafe_name"
            elif member.size > MAX_MEMBER_BYTES:
                yield name, "member_too_large"
            else:
                content = tar.extractfile(member)
                yield name, content.read() if content else b""


def _pair(
    key: str, group: dict[str, bytes], source: str
) -> records.ImageTextPair | Rejected | None:
    """Returns the pair that the members of one key make: {".jpg": ..., ".txt": ...}."""
    if _REFUSED in group:
        return Rejected(key, group[_REFUSED].decode(), source=source)
    images = _images(group)
    text, metadata = None, {}
    if ".json" in group:
        try:
            metadata = parse_metadata(group[".json"])
        except ValueError as error:
            return Rejected(key, "broken_metadata", _one_line(error), source=source)
        if isinstance(metadata.get("caption"), str):
            text = metadata["caption"]
    if ".txt" in group:
        try:
            text = group[".txt"].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return Rejected(key, "broken_caption", _one_line(error), source=source)
    if not images:
        return Rejected(key, "missing_image", text=text or "", source=source)
    if text is None:
        return Rejected(key, "missing_caption", source=source)
    return records.ImageTextPair(key, images[0], text, source=source, metadata=metadata)


def _begins_another(suffix: str, group: dict[str, bytes]) -> bool:
    """Returns whether a member starts a second pair of the same key."""
    if suffix in IMAGE_SUFFIXES and ".txt" in group and _images(group):
        return True
    return suffix in group and suffix != _REFUSED


def _images(group: dict[str, bytes]) -> list[bytes]:
    return [group[suffix] for suffix in IMAGE_SUFFIXES if suffix in group]


def parse_metadata(data: bytes) -> dict[str, Any]:
    """Returns a JSON object such as UTF-8 and strict JSON can write again.

    NaN and infinities become null, and halves of surrogate pairs question marks.

    Raises:
      ValueError: not a JSON object.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_null, parse_float=_finite)
        text = json.dumps(value, ensure_ascii=False)
        clean = text.encode("utf-8", "replace").decode("utf-8")
        value = value if clean == text else json.loads(clean)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is wanted, this is {type(value).__name__}")
    return value


def _null(text: str) -> None:
    return None


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _read_image_file(path: str, root: str) -> records.ImageTextPair | Rejected:
    """Reads an image file, and the .txt and .json beside it."""
    stem, suffix = os.path.splitext(path)
    key = _utf8(os.path.relpath(stem, root or ".").replace(os.sep, "/"))
    source = _utf8(os.path.basename(path))
    group = {}
    try:
        for part in (suffix, ".txt", ".json"):
            name = path if part == suffix else stem + part
            if part == suffix or os.path.exists(name):
                group[part.lower()] = pathlib.Path(name).read_bytes()
    except OSError as error:
        return Rejected(key, "broken_file", _one_line(error), source=source)
    row = _pair(key, group, source)
    assert row is not None
    return row


def _read_tfrecord(path: str) -> Iterator[records.ImageTextPair | Rejected]:
    name = _utf8(os.path.basename(path))
    try:
        with _open(path) as file:
            for index, serialized in enumerate(tfrecords.read_stream(file, name)):
                try:
                    yield records.ImageTextPair.from_example(serialized)
                except ValueError as error:
                    yield Rejected(f"{name}#{index}", "not_a_pair", _one_line(error), source=name)
    except ValueError as error:  # raised by read_stream: the file is damaged
        yield Rejected(name, "broken_file", _one_line(error), source=name)


def _utf8(name: str) -> str:
    """Returns a file's name such as UTF-8 can write, `?` for what it cannot."""
    return name.encode("utf-8", "replace").decode("utf-8")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class ReadPairs(beam.PTransform):
    """Reads sources; the result has the outputs `pairs` and `rejected`."""

    def __init__(self, sources: Sequence[Source]) -> None:
        super().__init__()
        self._sources = list(sources)

    def expand(self, root: beam.Pipeline) -> Any:
        """Returns the tagged outputs: `pairs` (ImageTextPair), `rejected` (Rejected)."""
        return (
            root
            | beam.Create(self._sources)
            | beam.Reshuffle()  # so that workers share the files
            | beam.ParDo(_ReadPairs()).with_outputs("rejected", main="pairs")
        )


class _ReadPairs(beam.DoFn):
    def process(self, source: Source) -> Iterator[Any]:
        rest = source.num_bytes
        for row in read_source(source):
            size = 0 if isinstance(row, Rejected) else min(len(row.image), rest)
            rest -= size
            options.tick(1, size)
            yield beam.pvalue.TaggedOutput("rejected", row) if isinstance(row, Rejected) else row
        options.tick(0, rest)
