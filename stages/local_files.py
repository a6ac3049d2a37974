# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of this machine, by their path: what `files` does with a local address.

It needs neither Beam nor TensorFlow. `files` says what each function does.
"""

import builtins
import contextlib
import glob
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

PARTIAL_SUFFIX = ".partial"  # of a file that is being written


class Entry(NamedTuple):
    """A file that a pattern or a folder holds.

    Attributes:
      path: its address, as `files.open` takes it.
      num_bytes: its size.
    """

    path: str
    num_bytes: int


class Status(NamedTuple):
    """Tells whether a file is still what it was.

    Attributes:
      num_bytes: its size.
      modified: when it was last written, in seconds since 1970; 0.0 if its system does not say.
    """

    num_bytes: int
    modified: float


def partial_name(path: str) -> str:
    """Returns another name on each call, so that two writers never share a file."""
    return f"{path}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}"


def open(path: str, mode: str) -> Any:
    """Opens a file; text is UTF-8."""
    return builtins.open(path, mode, encoding=None if "b" in mode else "utf-8")


@contextlib.contextmanager
def replacing(path: str, sync: bool) -> Iterator[BinaryIO]:
    """Writes another file, and renames it when the block ends."""
    partial = partial_name(path)
    try:
        with builtins.open(partial, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def exists(path: str) -> bool:
    """Returns whether there is such a file or folder."""
    return os.path.exists(path)


def is_dir(path: str) -> bool:
    """Returns whether it is a folder."""
    return os.path.isdir(path)


def is_empty(folder: str) -> bool:
    """Returns whether nothing is in a folder, or there is no such folder."""
    return not os.path.isdir(folder) or not os.listdir(folder)


def status(path: str) -> Status:
    """Returns the size of a file and when it was last written."""
    found = os.stat(path)
    return Status(found.st_size, found.st_mtime)


def match(pattern: str) -> list[Entry]:
    """Returns the files that a glob names, sorted."""
    paths = [pattern] if os.path.isfile(pattern) else glob.iglob(pattern, recursive=True)
    return sorted(Entry(path, os.path.getsize(path)) for path in paths if os.path.isfile(path))


def list_folder(folder: str) -> list[Entry]:
    """Returns the files in a folder, not those deeper, sorted."""
    return match(os.path.join(glob.escape(folder), "*"))


def walk(folder: str) -> list[Entry]:
    """Returns all files below a folder, sorted."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    paths = (
        os.path.join(directory, name)
        for directory, _, names in os.walk(folder, onerror=fail)
        for name in names
    )
    return sorted(Entry(path, os.path.getsize(path)) for path in paths if os.path.isfile(path))


def make_dirs(path: str) -> None:
    """Makes a folder and those above it."""
    os.makedirs(path, exist_ok=True)


def rename(source: str, target: str) -> None:
    """Moves a file or a folder to a name that is free."""
    os.rename(source, target)


def copy(sources: Sequence[str], targets: Sequence[str]) -> None:
    """Copies files to new names."""
    for source, target in zip(sources, targets, strict=True):
        shutil.copyfile(source, target)


def remove(path: str) -> None:
    """Deletes a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_tree(path: str) -> None:
    """Deletes a folder with all that is in it, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
