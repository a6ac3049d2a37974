# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files by their address: the one storage layer, for local paths and remote systems.

`gs://`, `s3://`, `hdfs://`, `azfs://` and any scheme registered with Beam are for `remote_files`,
which is imported only then (install `parti[gcp]`, or Beam's extra for the scheme). A local path,
also as `file:///...`, is for `local_files`, which needs neither Beam nor TensorFlow. Another kind
of storage is another such file. Nothing here compresses or decompresses. Remote errors are
OSErrors, as local ones.
"""

import contextlib
import os
import posixpath
from collections.abc import Sequence
from typing import Any, BinaryIO, Literal, Protocol, TextIO, overload

from parti.stages import local_files
from parti.stages.local_files import Entry, Status

PARTIAL_SUFFIX = local_files.PARTIAL_SUFFIX
Path = str | os.PathLike[str]

_LOCAL_SCHEME = "file://"


class _Storage(Protocol):
    """What `local_files` and `remote_files` have in common."""

    def open(self, path: str, mode: str) -> Any: ...
    def replacing(self, path: str, sync: bool) -> contextlib.AbstractContextManager[BinaryIO]: ...
    def exists(self, path: str) -> bool: ...
    def is_dir(self, path: str) -> bool: ...
    def is_empty(self, folder: str) -> bool: ...
    def status(self, path: str) -> Status: ...
    def match(self, pattern: str) -> list[Entry]: ...
    def list_folder(self, folder: str) -> list[Entry]: ...
    def walk(self, folder: str) -> list[Entry]: ...
    def make_dirs(self, path: str) -> None: ...
    def rename(self, source: str, target: str) -> None: ...
    def copy(self, sources: Sequence[str], targets: Sequence[str]) -> None: ...
    def remove(self, path: str) -> None: ...
    def remove_tree(self, path: str) -> None: ...


def _storage(path: Path) -> tuple[_Storage, str]:
    """Returns where an address is stored, and the address as that storage takes it."""
    if not is_remote(path):
        return local_files, _local(path)
    from parti.stages import remote_files

    return remote_files, os.fspath(path)


def _local(path: Path) -> str:
    return os.fspath(path).removeprefix(_LOCAL_SCHEME)


def is_remote(path: Path) -> bool:
    """Returns whether an address has a scheme other than `file://`."""
    text = os.fspath(path)
    return "://" in text and not text.startswith(_LOCAL_SCHEME)


def is_object_store(path: Path) -> bool:
    """Returns whether folders there are only prefixes of names, which no rename moves at once."""
    if not is_remote(path):
        return False
    from parti.stages import remote_files

    return remote_files.is_object_store(os.fspath(path))


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
    storage, address = _storage(path)
    return storage.open(address, mode)


def replacing(path: Path, sync: bool = False) -> contextlib.AbstractContextManager[BinaryIO]:
    """Writes a file that appears whole when the block ends, and not at all if the block fails.

    What was at `path` before is replaced. Safe when two workers write the same file: one wins.

    Args:
      path: the file; the folder must exist if the file system has folders.
      sync: wait until a local file is on the disk, so that it also survives a power cut.

    Returns:
      A context of a binary file to write. For a remote file it is a temporary one on this machine.
    """
    storage, address = _storage(path)
    return storage.replacing(address, sync)


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
    storage, address = _storage(path)
    return storage.exists(address)


def is_dir(path: Path) -> bool:
    """Returns whether it is a folder; on an object store, whether any file is below it."""
    storage, address = _storage(path)
    return storage.is_dir(address)


def is_empty(folder: Path) -> bool:
    """Returns whether nothing is in a folder, or there is no such folder."""
    storage, address = _storage(folder)
    return storage.is_empty(address)


def size(path: Path) -> int:
    """Returns the size of a file in bytes.

    Raises:
      OSError: there is no such file.
    """
    return status(path).num_bytes


def status(path: Path) -> Status:
    """Returns the size of a file and when it was last written.

    Raises:
      OSError: there is no such file.
    """
    storage, address = _storage(path)
    return storage.status(address)


def match(pattern: Path) -> list[Entry]:
    """Returns the files that a glob names, sorted; `**` stands for any number of folders.

    Raises:
      OSError: a remote listing failed.
    """
    storage, address = _storage(pattern)
    return storage.match(address)


def expand(pattern: Path) -> list[str]:
    """Returns the addresses of the files that a glob names, sorted."""
    return [entry.path for entry in match(pattern)]


def list_folder(folder: Path) -> list[Entry]:
    """Returns the files in a folder, not those deeper, sorted; [] if there is no such folder."""
    storage, address = _storage(folder)
    return storage.list_folder(address)


def walk(folder: Path) -> list[Entry]:
    """Returns all files below a folder at any depth, sorted; [] if there is no such folder.

    Raises:
      OSError: a folder in it cannot be listed.
    """
    storage, address = _storage(folder)
    return storage.walk(address)


def make_dirs(path: Path) -> None:
    """Makes a folder and those above it, if they are not there; nothing on an object store."""
    storage, address = _storage(path)
    storage.make_dirs(address)


def rename(source: Path, target: Path) -> None:
    """Moves a file or a folder to a name that is free; on an object store a folder is refused.

    Raises:
      OSError: the rename failed.
      ValueError: a folder of an object store, which cannot be moved at once: copy its files.
    """
    storage, address = _storage(source)
    storage.rename(address, _storage(target)[1])


def copy(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    """Copies files to new names of the same file system, in the system itself where it can."""
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} files to copy to {len(targets)} names")
    if sources:
        storage, _ = _storage(sources[0])
        from_, to = ([_storage(path)[1] for path in paths] for paths in (sources, targets))
        storage.copy(from_, to)


def remove(*paths: Path) -> None:
    """Deletes files; those that are not there are no error."""
    for path in paths:
        storage, address = _storage(path)
        storage.remove(address)


def remove_tree(path: Path) -> None:
    """Deletes a folder with all that is in it; one that is not there is no error."""
    storage, address = _storage(path)
    storage.remove_tree(address)
