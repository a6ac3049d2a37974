# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files by their address: the one storage layer, for local paths and remote systems.

`gs://`, `s3://`, `hdfs://`, `azfs://` and any scheme registered with Beam are for `remote_files`,
which is imported only then. A local path, also as `file:///...`, needs no Beam. Nothing here
compresses or decompresses. What is not there, or cannot be read, raises OSError.
"""

import builtins
import contextlib
import glob
import os
import posixpath
import shutil
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Literal, TextIO, overload

from parti.stages import file_entries
from parti.stages.file_entries import Entry, Status

Path = str | os.PathLike[str]

PARTIAL_SUFFIX = file_entries.PARTIAL_SUFFIX
_LOCAL_SCHEME = "file://"


def _local(path: Path) -> str:
    return os.fspath(path).removeprefix(_LOCAL_SCHEME)


def _remote() -> types.ModuleType:
    from parti.stages import remote_files

    return remote_files


def is_remote(path: Path) -> bool:
    """Returns whether an address has a scheme other than `file://`."""
    text = os.fspath(path)
    return "://" in text and not text.startswith(_LOCAL_SCHEME)


def is_object_store(path: Path) -> bool:
    """Returns whether folders there are only prefixes of names, which no rename moves at once."""
    return is_remote(path) and _remote().is_object_store(os.fspath(path))


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
    """Opens a file; `mode` is "rb", "wb", "r" or "w", and text is UTF-8.

    A remote file that is written appears when it is closed, also by an error: `replacing` is safe.
    Some remote systems find out that a file is not there only when it is read.
    """
    if mode not in ("rb", "wb", "r", "w"):
        raise ValueError(f"mode {mode!r}: choose rb, wb, r or w")
    if is_remote(path):
        return _remote().open(os.fspath(path), mode)
    return builtins.open(_local(path), mode, encoding=None if "b" in mode else "utf-8")


@contextlib.contextmanager
def replacing(path: Path, sync: bool = False) -> Iterator[BinaryIO]:
    """Yields a file that appears whole when the block ends, and not at all if the block fails.

    It replaces what was there; of two workers that write the same file one wins. The folder must
    exist. A remote file is first a temporary one on this machine. With `sync` a local file is on
    the disk, so that it survives a power cut.
    """
    if is_remote(path):
        with _remote().replacing(os.fspath(path)) as file:
            yield file
        return
    partial = file_entries.partial_name(_local(path))
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
    """Returns the content of a file."""
    with open(path, "rb") as file:
        return file.read()


def write_bytes(path: Path, data: bytes, sync: bool = False) -> None:
    """Writes a file that appears whole; see `replacing`."""
    with replacing(path, sync) as file:
        file.write(data)


def exists(path: Path) -> bool:
    """Returns whether there is such a file, or folder where the file system has folders."""
    if is_remote(path):
        return _remote().exists(os.fspath(path))
    return os.path.exists(_local(path))


def is_dir(path: Path) -> bool:
    """Returns whether it is a folder; on an object store, whether any file is below it."""
    if is_remote(path):
        return _remote().is_dir(os.fspath(path))
    return os.path.isdir(_local(path))


def is_empty(folder: Path) -> bool:
    """Returns whether nothing is in a folder, or there is no such folder."""
    if is_remote(folder):
        return _remote().is_empty(os.fspath(folder))
    return not os.path.isdir(_local(folder)) or not os.listdir(_local(folder))


def size(path: Path) -> int:
    """Returns the size of a file in bytes."""
    return status(path).num_bytes


def status(path: Path) -> Status:
    """Returns the size of a file and when it was last written."""
    if is_remote(path):
        return _remote().status(os.fspath(path))
    found = os.stat(_local(path))
    return Status(found.st_size, found.st_mtime)


def match(pattern: Path) -> list[Entry]:
    """Returns the files that a glob names, sorted; `**` stands for any number of folders."""
    if is_remote(pattern):
        return _remote().match(os.fspath(pattern))
    text = _local(pattern)
    return _entries([text] if os.path.isfile(text) else glob.iglob(text, recursive=True))


def expand(pattern: Path) -> list[str]:
    """Returns the addresses of the files that a glob names, sorted."""
    return [entry.path for entry in match(pattern)]


def list_folder(folder: Path) -> list[Entry]:
    """Returns the files in a folder, not those deeper, sorted; [] if there is no such folder."""
    if is_remote(folder):
        return _remote().list_folder(os.fspath(folder))
    return match(os.path.join(glob.escape(_local(folder)), "*"))


def walk(folder: Path) -> list[Entry]:
    """Returns all files below a folder at any depth, sorted; [] if there is no such folder.

    Links are followed; a folder that several lead to is read once.
    """
    if is_remote(folder):
        return _remote().walk(os.fspath(folder))

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    folders = _walk_links(_local(folder), fail, set())
    return _entries(os.path.join(inner, name) for inner, names in folders for name in names)


def _walk_links(
    folder: str, fail: Callable[[OSError], None], seen: set[tuple[int, int]]
) -> Iterator[tuple[str, list[str]]]:
    """Yields each folder, also those that links lead to, once, and the names of files in it."""
    links = []
    for inner, names, file_names in os.walk(folder, onerror=fail):
        if (identity := _identity(inner)) in seen:
            names.clear()
            continue
        seen.add(identity)
        links += [path for n in names if os.path.islink(path := os.path.join(inner, n))]
        yield inner, file_names
    for link in sorted(links):
        if _identity(link) not in seen:
            yield from _walk_links(link, fail, seen)


def _identity(folder: str) -> tuple[int, int]:
    try:
        found = os.stat(folder)
    except FileNotFoundError:
        return (-1, -1)
    return found.st_dev, found.st_ino


def list_odd(folder: Path) -> list[str]:
    """Returns what is below a local folder and is no file: links to nothing, pipes, devices."""
    if is_remote(folder):
        return []
    folders = _walk_links(_local(folder), lambda error: None, set())
    paths = (os.path.join(inner, name) for inner, names in folders for name in names)
    return sorted(path for path in paths if not os.path.isfile(path))


def _entries(paths: Iterable[str]) -> list[Entry]:
    return sorted(Entry(path, os.path.getsize(path)) for path in paths if os.path.isfile(path))


def make_dirs(path: Path) -> None:
    """Makes a folder and those above it, if they are not there; nothing on an object store."""
    if is_remote(path):
        _remote().make_dirs(os.fspath(path))
    else:
        os.makedirs(_local(path), exist_ok=True)


def rename(source: Path, target: Path) -> None:
    """Moves a file or a folder to a name that is free; ValueError: a folder of an object store."""
    if is_remote(source):
        _remote().rename(os.fspath(source), os.fspath(target))
    else:
        os.rename(_local(source), _local(target))


def copy(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    """Copies files to new names of the same file system, in the system itself where it can."""
    if sources and is_remote(sources[0]):
        _remote().copy([os.fspath(path) for path in sources], [os.fspath(path) for path in targets])
        return
    for source, target in zip(sources, targets, strict=True):
        shutil.copyfile(_local(source), _local(target))


def concatenate(sources: Iterable[Path], target: Path) -> None:
    """Writes the content of files, one after the other, to a file that appears whole."""
    with replacing(target) as file:
        for source in sources:
            with open(source) as piece:
                shutil.copyfileobj(piece, file)


def remove(*paths: Path) -> None:
    """Deletes files; those that are not there are no error."""
    for path in paths:
        if is_remote(path):
            _remote().remove(os.fspath(path))
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_local(path))


def remove_tree(path: Path) -> None:
    """Deletes a folder with all that is in it; one that is not there is no error."""
    if is_remote(path):
        _remote().remove_tree(os.fspath(path))
    else:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(_local(path))
