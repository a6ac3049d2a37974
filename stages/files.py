# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files by their address: the one storage layer, for local paths and remote systems.

`gs://`, `s3://`, `hdfs://`, `azfs://` and any scheme registered with Beam are for `remote_files`,
which is imported only then. A local path, also as `file:///...`, needs no Beam. Nothing here
compresses or decompresses. What is not there, or cannot be read, raises OSError.
"""

import builtins
import concurrent.futures
import contextlib
import glob
import itertools
import os
import posixpath
import re
import shutil
import tempfile
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Literal, TextIO, TypeVar, overload

from parti.stages import brace_patterns, file_entries, json_text
from parti.stages.file_entries import Entry, Named, Status

Path = str | os.PathLike[str]
Result = TypeVar("Result")

PARTIAL_SUFFIX = file_entries.PARTIAL_SUFFIX
AccessError = file_entries.AccessError
StoreError = file_entries.StoreError
LOCAL_SCHEME = "file://"
_MAX_TEXTS = 1_000_000  # for which braces stand
_AT_ONCE = 16  # remote files that are read at a time


def _local(path: Path) -> str:
    return os.fspath(path).removeprefix(LOCAL_SCHEME)


def _remote() -> types.ModuleType:
    from parti.stages import remote_files

    return remote_files


def is_remote(path: Path) -> bool:
    """Returns whether an address has a scheme other than `file://`."""
    text = os.fspath(path)
    return "://" in text and not text.startswith(LOCAL_SCHEME)


def is_object_store(path: Path) -> bool:
    """Returns whether folders there are only prefixes of names, which no rename moves at once."""
    return is_remote(path) and _remote().is_object_store(os.fspath(path))


def absolute(path: Path) -> str:
    """Returns an address that does not depend on the working directory, without a last slash."""
    if is_remote(path):
        return os.fspath(path).rstrip("/")
    return os.path.abspath(_local(path))


def is_utf8(path: Path) -> bool:
    """Returns whether a name can be written as UTF-8; of a local file it may be any bytes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in os.fspath(path))


def text(path: Path) -> str:
    """Returns a name as UTF-8 can write it: of a byte that is not UTF-8, `caf\\xe9`."""
    shown = re.sub("[\udc80-\udcff]", lambda m: f"\\x{ord(m[0]) & 0xFF:02x}", os.fspath(path))
    return json_text.utf8(shown)


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


class Ranges:
    """Reads ranges of a file, of several threads at a time; a local file is open as long as it."""

    def __init__(self, path: Path) -> None:
        """Opens a local file; a remote one is asked for at each range."""
        self._path = os.fspath(path) if is_remote(path) else ""
        self._file = -1 if self._path else os.open(_local(path), os.O_RDONLY)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if getattr(self, "_file", -1) >= 0:
            close(self._file)  # `os` may be gone when the process ends

    def read(self, start: int, num_bytes: int) -> bytes:
        """Returns bytes of the file from `start` on, fewer where it ends."""
        if self._path:
            return _remote().read_range(self._path, start, num_bytes)
        return os.pread(self._file, num_bytes, start)


def write_bytes(path: Path, data: bytes, sync: bool = False) -> None:
    """Writes a file that appears whole; see `replacing`."""
    with replacing(path, sync) as file:
        file.write(data)


def each(function: Callable[[str], Result], paths: Sequence[str]) -> Iterator[Result]:
    """Yields function(path) for each file, in order; of remote files several at a time."""
    if not any(map(is_remote, paths)):
        yield from map(function, paths)
        return
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            yield from pool.map(function, paths[start : start + _AT_ONCE])


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[str]:
    """Yields a path on this machine with the content of a file, for a library that opens it.

    Of a remote file it is a temporary copy, which is gone when the block ends.
    """
    if not is_remote(path):
        yield _local(path)
        return
    with tempfile.TemporaryDirectory(prefix="parti-") as folder:
        local = os.path.join(folder, name(path))
        with open(path) as source, builtins.open(local, "wb") as target:
            shutil.copyfileobj(source, target, 2**20)
        yield local


@contextlib.contextmanager
def local_draft(path: Path) -> Iterator[str]:
    """Yields a path on this machine, for a library that writes a file there.

    When the block ends, the file appears whole at `path`; if the block fails, not at all.
    """
    if not is_remote(path):
        partial = file_entries.partial_name(_local(path))
        try:
            yield partial
            os.replace(partial, _local(path))
        finally:
            remove(partial)
        return
    with tempfile.TemporaryDirectory(prefix="parti-") as folder:
        local = os.path.join(folder, name(path))
        yield local
        concatenate([local], path)


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


def resolve(address: Path) -> list[Named]:
    """Returns what an address of input names; every command reads its inputs through this.

    A file or folder that exists is that one, whatever characters are in its name; so is a folder
    with which the address begins. Else `{0000..0012}` and `{a,b}` stand for each of their texts
    and `*`, `?`, `[ab]` and `**` are wildcards, which name files. Else commas separate parts, each
    of which is resolved in this way. A part that names nothing has no entries.

    Raises:
      ValueError: braces stand for more than a million texts.
    """
    return [named for part in parts(address) for named in _resolve_part(part)]


def entries_of(named: Named) -> list[Entry]:
    """Returns the files that a part of an address names: of a folder all below it (`walk`)."""
    return walk(named.folder) if named.entries is None else named.entries


def parts(address: Path) -> list[str]:
    """Returns the parts of a list with commas; an address alone if it names something as a whole.

    A comma within braces does not separate; raises as `resolve`.
    """
    text = os.fspath(address) if is_remote(address) else _local(address)
    found = brace_patterns.split(text)
    if len(found) < 2 or _resolve_part(text, may_be_list=True)[0].entries != []:
        return [text] if text else []
    return [inner for part in found for inner in parts(part)]


def _resolve_part(text: str, may_be_list: bool = False) -> list[Named]:
    """Resolves without commas; of what may be a list, only the first text if that is nothing."""
    if (named := _as_it_is(text)).entries != [] or not _has_special(text):
        return [named]
    folder = _literal_folder(text)
    rest = brace_patterns.expand(text[len(folder) :])
    texts = [folder + each for each in itertools.islice(rest, _MAX_TEXTS + 1)]
    if len(texts) > _MAX_TEXTS:
        raise ValueError(f"{text}: stands for more than {_MAX_TEXTS:,} names; give fewer at once")
    first = _glob(texts[0])
    if may_be_list and first.entries == []:
        return [first]
    if is_remote(text) and len(texts) > 1:
        # One listing rather than requests for each of many shards.
        pattern = re.sub(r"\{.*\}", "**", text[len(folder) :], flags=re.DOTALL)
        known = {entry.path: entry for entry in match(folder + pattern, folder)}
        if known.keys() >= set(texts):
            return [Named(each, parent(each), [known[each]]) for each in texts]
    return [first, *map(_glob, texts[1:])]


def _as_it_is(text: str) -> Named:
    """Returns the file or folder of exactly this address."""
    if is_dir(text):
        return Named(text, text.rstrip("/") or "/", None)
    is_file = exists(text) if is_remote(text) else os.path.isfile(text)
    return Named(text, parent(text), [Entry(text, size(text))] if is_file else [])


def _glob(text: str) -> Named:
    """Returns what exists, or the files of a glob."""
    if (named := _as_it_is(text)).entries != []:
        return named
    folder = _literal_folder(text)
    fixed = folder + re.split(r"[*?\[]", text[len(folder) :])[0]
    return Named(text, os.path.dirname(fixed), match(text, folder))


def _has_special(text: str) -> bool:
    return any(letter in text for letter in "*?[{,")


def _literal_folder(text: str) -> str:
    """Returns the longest beginning of a pattern that names a folder without any wildcard."""
    end = text.index("://") + 3 if "://" in text else 0
    while (slash := text.find("/", end) + 1) and (
        not _has_special(text[end:slash]) or is_dir(text[: slash - 1])
    ):
        end = slash
    return text[:end]


def match(pattern: Path, folder: str = "") -> list[Entry]:
    """Returns the files that a glob names, sorted; `**` stands for any number of folders.

    It begins with `folder`, in which no character is a wildcard. Addresses that a user gives are
    for `resolve`.
    """
    text = os.fspath(pattern)
    if is_remote(text):
        return _remote().match_below(folder, text)
    folder, text = _local(folder), _local(text)
    if os.path.isfile(text):
        return _entries([text])
    return _entries({*_glob_names(glob.escape(folder) + text[len(folder) :])})


def _glob_names(pattern: str) -> Iterator[str]:
    """Yields what a local glob names; for `**` each folder is read once, so loops of links end."""
    found = re.fullmatch(r"(|.*?/)\*\*(?:/(.*))?", pattern, re.DOTALL)
    if not found:
        yield from glob.iglob(pattern)
        return
    start, rest = found[1], found[2] or "*"
    for top in glob.iglob(start) if start else [os.curdir]:
        for inner, _ in _walk_links(top, lambda error: None, set()):
            here = os.path.relpath(inner, top)
            if here == os.curdir:
                yield from _glob_names(glob.escape(start and top) + rest)
            elif not re.search(r"(^|/)\.", here):
                yield from _glob_names(glob.escape(os.path.join(start and top, here, "")) + rest)


def list_folder(folder: Path) -> list[Entry]:
    """Returns the files in a folder, not those deeper, sorted; [] if there is no such folder."""
    if is_remote(folder):
        return _remote().list_folder(os.fspath(folder))
    local = _local(folder)
    return match(os.path.join(local, "*"), os.path.join(local, ""))


def list_names(folder: Path) -> list[str]:
    """Returns the names of all that is in a folder, sorted; [] if there is no such folder."""
    if is_remote(folder):
        return _remote().list_names(os.fspath(folder))
    return sorted(os.listdir(_local(folder))) if os.path.isdir(_local(folder)) else []


def walk(folder: Path) -> list[Entry]:
    """Returns all files below a folder at any depth, sorted; [] if there is no such folder.

    Links are followed; a folder that several lead to is read once.
    """
    return walk_all(folder)[0]


def walk_all(folder: Path) -> tuple[list[Entry], list[str]]:
    """Returns as `walk`, and what else is there: links to nothing, pipes, devices, sorted."""
    if is_remote(folder):
        return _remote().walk(os.fspath(folder)), []

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    folders = _walk_links(_local(folder), fail, set())
    paths = [os.path.join(inner, name) for inner, names in folders for name in names]
    found = _entries(paths)
    return found, sorted({*paths} - {entry.path for entry in found})


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


def copy_tree(source: Path, target: Path) -> None:
    """Copies all files below a folder into another one, on any two systems."""
    if not is_remote(source) and not is_remote(target):
        shutil.copytree(
            _local(source), _local(target), copy_function=shutil.copy, dirs_exist_ok=True
        )
        return
    root = absolute(source)

    def copy_one(path: str) -> None:
        copied = join(target, path[len(root) + 1 :])
        make_dirs(parent(copied))
        concatenate([path], copied)

    for _ in each(copy_one, [entry.path for entry in walk(root)]):
        pass


@contextlib.contextmanager
def local_folder(path: Path) -> Iterator[str]:
    """Yields a folder of this machine with the files below a folder, for a library that reads it.

    Of a remote one it is a temporary copy, which is gone when the block ends.
    """
    if not is_remote(path):
        yield _local(path)
        return
    with tempfile.TemporaryDirectory(prefix="parti-") as folder:
        copy_tree(path, folder)
        yield folder


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
