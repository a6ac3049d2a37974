# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files by their address: local paths, and whatever Beam has a file system for.

`gs://`, `s3://`, `hdfs://`, `azfs://` and any scheme registered with Beam go through
`apache_beam.io.filesystems`, which is imported only then (install `parti[gcp]`, or Beam's extra
for the scheme). A local path, also as `file:///...`, needs neither Beam nor TensorFlow. Nothing
here compresses or decompresses. Remote errors are OSErrors, as local ones.
"""

import builtins
import contextlib
import glob
import importlib
import io
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Literal, NamedTuple, TextIO, overload

Path = str | os.PathLike[str]

PARTIAL_SUFFIX = ".partial"  # of a file that is being written
# A file of these appears when it is closed, never before; a rename there is a copy.
_OBJECT_STORES = ("gs", "s3", "azfs")
# Scheme -> what Beam's file system imports (where it says so late), and what brings it.
_EXTRAS = {
    "gs": ("", "parti[gcp]"),
    "s3": ("boto3", "apache-beam[aws]"),
    "azfs": ("azure.storage.blob", "apache-beam[azure]"),
    "hdfs": ("hdfs", "apache-beam[hadoop]"),
}
_SPOOL_BYTES = 64 * 2**20  # of a remote file, held in memory until it goes to a temporary file
_BATCH = 100  # files in one request
_LOCAL_SCHEME = "file://"


class Entry(NamedTuple):
    """A file that a pattern or a folder holds.

    Attributes:
      path: its address, as `open` takes it.
      num_bytes: its size.
    """

    path: str
    num_bytes: int


class Status(NamedTuple):
    """What tells whether a file is still what it was.

    Attributes:
      num_bytes: its size.
      modified: when it was last written, in seconds since 1970; 0.0 if its system does not say.
    """

    num_bytes: int
    modified: float


def is_remote(path: Path) -> bool:
    """Returns whether an address has a scheme other than `file://`."""
    text = os.fspath(path)
    return "://" in text and not text.startswith(_LOCAL_SCHEME)


def scheme(path: Path) -> str:
    """Returns `gs` for `gs://bucket/file`, and "" for a local path."""
    return os.fspath(path).partition("://")[0] if is_remote(path) else ""


def is_object_store(path: Path) -> bool:
    """Returns whether folders there are only prefixes of names, which no rename moves at once."""
    return scheme(path) in _OBJECT_STORES or (is_remote(path) and not _system(path).has_dirs())


def absolute(path: Path) -> str:
    """Returns an address that does not depend on the working directory, without a last slash."""
    if is_remote(path):
        return os.fspath(path).rstrip("/")
    return os.path.abspath(_local(path))


def join(path: Path, *names: str) -> str:
    """Returns the address of a file below a folder: join("gs://bucket/a", "b", "c.txt")."""
    if is_remote(path):
        return "/".join([os.fspath(path).rstrip("/"), *names])
    return os.path.join(_local(path), *names)


def name(path: Path) -> str:
    """Returns the last part of an address."""
    return posixpath.basename(os.fspath(path).rstrip("/"))


def parent(path: Path) -> str:
    """Returns the address without its last part; of `gs://bucket/a`, `gs://bucket`."""
    if is_remote(path):
        return os.fspath(path).rstrip("/").rpartition("/")[0]
    return os.path.dirname(absolute(path))


@overload
def open(path: Path, mode: Literal["rb", "wb"] = "rb") -> BinaryIO: ...


@overload
def open(path: Path, mode: Literal["r", "w"]) -> TextIO: ...


def open(path: Path, mode: str = "rb") -> Any:
    """Opens a file.

    A remote file that is written appears when it is closed, also by an error: `replacing` is safe.

    Args:
      path: the file.
      mode: "rb", "wb", "r" or "w"; text is UTF-8.

    Raises:
      FileNotFoundError: reading a local file that is not there; remote systems raise an OSError,
        some of them only when it is read.
      ValueError: another mode, or no file system for the scheme.
    """
    if mode not in ("rb", "wb", "r", "w"):
        raise ValueError(f"mode {mode!r}: choose rb, wb, r or w")
    if not is_remote(path):
        return builtins.open(_local(path), mode, encoding=None if "b" in mode else "utf-8")
    from apache_beam.io import filesystem

    system, address = _system(path), os.fspath(path)
    plain = filesystem.CompressionTypes.UNCOMPRESSED
    act = system.open if mode.startswith("r") else system.create
    binary = act(address, compression_type=plain)
    return binary if "b" in mode else io.TextIOWrapper(binary, encoding="utf-8", newline="")


@contextlib.contextmanager
def replacing(path: Path, sync: bool = False) -> Iterator[BinaryIO]:
    """Writes a file that appears whole when the block ends, and not at all if the block fails.

    What was at `path` before is replaced. Safe when two workers write the same file: one wins.

    Args:
      path: the file; the folder must exist if the file system has folders.
      sync: wait until a local file is on the disk, so that it also survives a power cut.

    Yields:
      A binary file to write. For a remote file it is a temporary one on this machine.
    """
    if is_remote(path):
        with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool:
            yield spool  # type: ignore[misc]
            spool.seek(0)
            _upload(spool, os.fspath(path))  # type: ignore[arg-type]
        return
    partial = _partial(_local(path))
    try:
        with builtins.open(partial, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, _local(path))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def read_bytes(path: Path) -> bytes:
    """Returns the content of a file.

    Raises:
      OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return file.read()


def write_bytes(path: Path, data: bytes, sync: bool = False) -> None:
    """Writes a file that appears whole; see `replacing`."""
    with replacing(path, sync) as file:
        file.write(data)


def exists(path: Path) -> bool:
    """Returns whether there is such a file, or folder where the file system has folders."""
    return _system(path).exists(os.fspath(path)) if is_remote(path) else _exists(path)


def is_dir(path: Path) -> bool:
    """Returns whether it is a folder; on an object store, whether any file is below it."""
    if not is_remote(path):
        return os.path.isdir(_local(path))
    found = _list_folder(os.fspath(path).rstrip("/"), limit=1)
    return bool(found) if is_object_store(path) else found is not None and exists(path)


def is_empty(folder: Path) -> bool:
    """Returns whether nothing is in a folder, or there is no such folder."""
    if is_remote(folder):
        return not _list_folder(os.fspath(folder).rstrip("/"), limit=1)
    return not os.path.isdir(_local(folder)) or not os.listdir(_local(folder))


def size(path: Path) -> int:
    """Returns the size of a file in bytes.

    Raises:
      OSError: there is no such file.
    """
    if is_remote(path):
        return _system(path).size(os.fspath(path))
    return os.path.getsize(_local(path))


def status(path: Path) -> Status:
    """Returns the size of a file and when it was last written.

    Raises:
      OSError: there is no such file.
    """
    if is_remote(path):
        found = _system(path).metadata(os.fspath(path))
        return Status(found.size_in_bytes, found.last_updated_in_seconds or 0.0)
    local = os.stat(_local(path))
    return Status(local.st_size, local.st_mtime)


def match(pattern: Path) -> list[Entry]:
    """Returns the files that a glob names, sorted; `**` stands for any number of folders.

    Raises:
      OSError: a remote listing failed.
    """
    if is_remote(pattern):
        return _match(os.fspath(pattern))
    text = _local(pattern)
    paths = [text] if os.path.isfile(text) else glob.iglob(text, recursive=True)
    return sorted(Entry(path, os.path.getsize(path)) for path in paths if os.path.isfile(path))


def expand(pattern: Path) -> list[str]:
    """Returns the addresses of the files that a glob names, sorted."""
    return [entry.path for entry in match(pattern)]


def list_folder(folder: Path) -> list[Entry]:
    """Returns the files in a folder, not those deeper, sorted; [] if there is no such folder."""
    if is_remote(folder):
        place = os.fspath(folder).rstrip("/")
        return [entry for entry in walk(place) if "/" not in entry.path[len(place) + 1 :]]
    return match(os.path.join(glob.escape(_local(folder)), "*"))


def walk(folder: Path) -> list[Entry]:
    """Returns all files below a folder at any depth, sorted; [] if there is no such folder.

    Raises:
      OSError: a folder in it cannot be listed.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    if is_remote(folder):
        return sorted(_walk_remote(os.fspath(folder).rstrip("/")))
    found = (
        os.path.join(place, name)
        for place, _, names in os.walk(_local(folder), onerror=fail)
        for name in names
        if os.path.isfile(os.path.join(place, name))
    )
    return sorted(Entry(path, os.path.getsize(path)) for path in found)


def make_dirs(path: Path) -> None:
    """Makes a folder and those above it, if they are not there; nothing on an object store."""
    if not is_remote(path):
        os.makedirs(_local(path), exist_ok=True)
    elif not exists(path):
        with contextlib.suppress(FileExistsError):
            _system(path).mkdirs(os.fspath(path))


def rename(source: Path, target: Path) -> None:
    """Moves a file or a folder to a name that is free; on an object store a folder is refused.

    Raises:
      OSError: the rename failed.
      ValueError: a folder of an object store, which cannot be moved at once: copy its files.
    """
    if not is_remote(source):
        os.rename(_local(source), _local(target))
        return
    if is_object_store(source) and not exists(source):
        raise ValueError(f"{os.fspath(source)}: not a file; an object store cannot move a folder")
    _system(source).rename([os.fspath(source)], [os.fspath(target)])


def copy(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    """Copies files to new names of the same file system, in the system itself where it can."""
    from_to = [
        (os.fspath(source), os.fspath(target))
        for source, target in zip(sources, targets, strict=True)
    ]
    if not from_to:
        return
    if not is_remote(from_to[0][0]):
        for source, target in from_to:
            shutil.copyfile(_local(source), _local(target))
        return
    system = _system(from_to[0][0])
    for start in range(0, len(from_to), _BATCH):
        batch = from_to[start : start + _BATCH]
        system.copy([source for source, _ in batch], [target for _, target in batch])


def remove(*paths: Path) -> None:
    """Deletes files; those that are not there are no error."""
    for path in paths:
        if is_remote(path):
            if exists(path):
                _system(path).delete([os.fspath(path)])
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_local(path))


def remove_tree(path: Path) -> None:
    """Deletes a folder with all that is in it; one that is not there is no error."""
    if not is_remote(path):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(_local(path))
        return
    system = _system(path)
    if system.has_dirs():
        if exists(path):
            system.delete([os.fspath(path)])
        return
    found = [entry.path for entry in walk(path)]
    for start in range(0, len(found), _BATCH):
        system.delete(found[start : start + _BATCH])


def _local(path: Path) -> str:
    return os.fspath(path).removeprefix(_LOCAL_SCHEME)


def _exists(path: Path) -> bool:
    return os.path.exists(_local(path))


def _partial(path: str) -> str:
    """Returns another name on each call, so that two writers never share a file."""
    return f"{path}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}"


def _system(path: Path) -> Any:
    """Returns Beam's file system for an address."""
    from apache_beam.io import filesystem, filesystems

    address, kind = os.fspath(path), scheme(path)
    extra = _EXTRAS.get(kind, ("", ""))
    try:
        found = filesystems.FileSystems.get_filesystem(address)
        if extra[0] and type(found).__module__.startswith("apache_beam."):
            importlib.import_module(extra[0])  # Beam would tell only when it is used
        return found
    except (ValueError, ImportError, filesystem.BeamIOError) as error:
        causes = [error, *(getattr(error, "exception_details", None) or {}).values()]
        is_missing = any(isinstance(cause, ImportError) for cause in causes)
        if not is_missing and "Unable to get filesystem" not in str(error):
            raise ValueError(f"{address}: {causes[-1]}") from error  # --hdfs_host is not set
        advice = f"; pip install '{extra[1]}'" if extra[1] else f"; known are {', '.join(_EXTRAS)}"
        raise ValueError(f"{address}: no file system for {kind}:// is installed{advice}") from error


def _upload(content: BinaryIO, path: str) -> None:
    """Writes a remote file so that it appears whole."""
    place = path if is_object_store(path) else _partial(path)
    with open(place, "wb") as file:
        shutil.copyfileobj(content, file, 2**20)
    if place != path:
        remove(path)  # a rename there does not replace
        rename(place, path)


def _match(pattern: str, limit: int | None = None) -> list[Entry]:
    results = _system(pattern).match([pattern], [limit])
    found = [Entry(data.path, data.size_in_bytes) for data in results[0].metadata_list]
    return sorted(set(found))


def _list_folder(folder: str, limit: int | None = None) -> list[Entry] | None:
    """Returns what a remote folder holds (all depths on an object store); None: not a folder."""
    depth = "*" if _system(folder).has_dirs() else "**"
    try:
        return _match(f"{folder}/{depth}", limit)
    except OSError:
        if depth == "**":
            raise
        exists(folder)  # raises too if the system cannot be reached: then nothing is known
        return None


def _walk_remote(folder: str) -> Iterator[Entry]:
    nested = _system(folder).has_dirs()
    for entry in _list_folder(folder) or []:
        # Beam does not say which entries are folders, but they have no size.
        inside = _list_folder(entry.path) if nested and not entry.num_bytes else None
        if inside is None:
            yield entry
        else:
            yield from _walk_remote(entry.path)
