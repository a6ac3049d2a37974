# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of remote systems: what `files`, which describes each function, does with `gs://...`.

Through Beam's file systems: workers have them, and they take the pipeline's options (`--hdfs_host`,
credentials). Their errors are OSErrors; a store that does not answer, or not to us, is a ValueError
with the remedy. Beam's own tries would take minutes, so a store is first asked with a time limit.
"""

import contextlib
import copy as copies
import functools
import importlib.util
import io
import itertools
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from apache_beam.io import filesystem, filesystems
from apache_beam.options import pipeline_options

from parti.stages.file_entries import AccessError, Entry, Status, StoreError, partial_name

# A file of these appears when it is closed, never before; a rename there is a copy.
OBJECT_STORES = ("gs", "s3", "azfs")
# Scheme -> what Beam's file system imports (where it says so late), what brings it, and what opens
# a store that knows its users.
_EXTRAS = {
    "gs": (
        "",
        "pip install -c constraints.txt '.[gcp]' in Parti's folder",
        "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a "
        "key file, of an account that may use it",
    ),
    "s3": (
        "boto3",
        "pip install -c constraints.txt '.[aws]' in Parti's folder",
        "run `aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, of an account "
        "that may use it",
    ),
    "azfs": (
        "azure.storage.blob",
        "pip install 'apache-beam[azure]'",
        "set AZURE_STORAGE_CONNECTION_STRING, of an account that may use it",
    ),
    "hdfs": (
        "hdfs",
        "pip install 'apache-beam[hadoop]'",
        "check --hdfs_host, --hdfs_port and --hdfs_user",
    ),
}
_DENIED = re.compile(
    r"\b40[13]\b|(access|permission) ?denied|forbidden|unauthorized|credentials|anonymous caller|"
    r"InvalidAccessKeyId|SignatureDoesNotMatch|Authenticat|Authoriz",
    re.IGNORECASE,
)
_ABSENT = re.compile(r"\b404\b|\bnot ?found\b|NoSuchKey|does not exist", re.IGNORECASE)
_CHUNK = 2**20  # bytes of a file that are read at a time
_ANSWER_SECONDS = 15.0  # in which a store must answer the first time
_MEMORY_BYTES = 64 * 2**20  # of a file being written; beyond, a temporary file holds it
_BATCH = 100  # files in one request
_MENDING = threading.Lock()
_OF_THREAD = threading.local()
_WILDCARD = re.compile(r"[*?\[]")
_HIDDEN = re.compile(r"(^|/)\.[^/]")  # a part of an address that begins with a dot


def is_object_store(path: str) -> bool:
    """Returns whether folders there are only prefixes of names."""
    return path.partition("://")[0] in OBJECT_STORES or not _system(path).has_dirs()


def open(path: str, mode: str) -> Any:
    """Opens a file; text is UTF-8. Nothing is compressed or decompressed."""
    act = "open" if mode.startswith("r") else "create"
    binary = _ask(path, act, path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED)
    if act == "open":
        binary = io.BufferedReader(_Download(path, binary), _CHUNK)
    return binary if "b" in mode else io.TextIOWrapper(binary, encoding="utf-8", newline="")


class _Download(io.RawIOBase):
    """A file being read, whose errors are ours (`_errors_of`)."""

    def __init__(self, path: str, file: Any) -> None:
        self._path, self._file = path, file

    def readinto(self, buffer: Any) -> int:
        with _errors_of(self._path):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _errors_of(self._path):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def read_range(path: str, start: int, num_bytes: int) -> bytes:
    """Returns bytes of a file from `start` on, at least one, fewer where it ends."""
    scheme, _, rest = path.partition("://")
    own = type(_system(path)).__module__.startswith("apache_beam.")
    if scheme in _RANGES and own:
        _check_answers("/".join(path.split("/")[:3]))
        bucket, _, name = rest.partition("/")
        with _errors_of(path):
            return _RANGES[scheme](bucket, name, start, start + num_bytes - 1)
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(num_bytes)


def _gs_range(bucket: str, name: str, start: int, last: int) -> bytes:
    if not hasattr(_OF_THREAD, "gs"):  # a client is not for several threads at once
        _OF_THREAD.gs = _system("gs://")._gcsIO().client
    blob = _OF_THREAD.gs.bucket(bucket).blob(name)
    return blob.download_as_bytes(start=start, end=last, raw_download=True, checksum=None)


def _s3_range(bucket: str, name: str, start: int, last: int) -> bytes:
    wanted = {"Bucket": bucket, "Key": name, "Range": f"bytes={start}-{last}"}
    return _s3_client().get_object(**wanted)["Body"].read()


# Beam's own files there ask for 16 MiB at a time.
_RANGES = {"gs": _gs_range, "s3": _s3_range}


@functools.cache
def _s3_client() -> Any:
    """Returns boto3's client with Beam's options."""
    from apache_beam.io.aws import s3io

    return s3io.S3IO(options=_system("s3://")._options).client.client


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """Writes a temporary file of this machine, and uploads it when the block ends."""
    with tempfile.SpooledTemporaryFile(_MEMORY_BYTES) as content:
        yield content  # type: ignore[misc]
        content.seek(0)
        written = path if is_object_store(path) else partial_name(path)
        try:
            # An upload ends, and fails, when it is closed.
            with _errors_of(path), open(written, "wb") as file:
                shutil.copyfileobj(content, file, 2**20)
        except (KeyboardInterrupt, SystemExit):
            remove(written)  # closing has published what was sent
            raise
    if written != path:
        remove(path)  # a rename there does not replace
        rename(written, path)


def exists(path: str) -> bool:
    """Returns whether there is such a file, or folder where the system has folders."""
    return _ask(path, "exists", path)


def is_dir(path: str) -> bool:
    """Returns whether it is a folder; on an object store, whether any file is below it."""
    found = _list(path.rstrip("/"), limit=1)
    return bool(found) if is_object_store(path) else found is not None and exists(path)


def is_empty(folder: str) -> bool:
    """Returns whether nothing is in a folder, or there is no such folder."""
    return not _list(folder.rstrip("/"), limit=1)


def status(path: str) -> Status:
    """Returns the size of a file and when it was last written."""
    found = _ask(path, "metadata", path)
    return Status(found.size_in_bytes, found.last_updated_in_seconds or 0.0)


def match(pattern: str, limit: int | None = None) -> list[Entry]:
    """Returns the files that a glob names, sorted; at most `limit`, if the system can count."""
    results = _ask(pattern, "match", [pattern], [limit])
    return sorted({Entry(data.path, data.size_in_bytes) for data in results[0].metadata_list})


def match_below(folder: str, pattern: str) -> list[Entry]:
    """Returns the files that a glob names; in `folder`, with which it begins, nothing is special.

    Beam cannot quote wildcards, and lists where there are folders one level deep. As on a disk,
    hidden files are only those of a pattern that says so (`.*`).
    """
    rest = pattern[len(folder) :]
    if not _WILDCARD.search(folder) and ("**" not in rest or is_object_store(pattern)):
        found = match(pattern)
    else:
        wanted = re.compile(filesystem.FileSystem.translate_pattern(rest))
        top = os.path.dirname(folder + _WILDCARD.split(rest)[0])
        found = [entry for entry in walk(top) if wanted.match(entry.path[len(folder) :])]
    if _HIDDEN.search(rest):
        return found
    return [entry for entry in found if not _HIDDEN.search(entry.path[len(folder) :])]


def list_folder(folder: str) -> list[Entry]:
    """Returns the files in a folder, not those deeper, sorted."""
    start = len(folder.rstrip("/")) + 1
    return [entry for entry in walk(folder) if "/" not in entry.path[start:]]


def list_names(folder: str) -> list[str]:
    """Returns the names of the files and folders in a folder, sorted."""
    start = len(folder.rstrip("/")) + 1
    return sorted({entry.path[start:].split("/")[0] for entry in _list(folder.rstrip("/")) or []})


def walk(folder: str) -> list[Entry]:
    """Returns all files below a folder, sorted."""
    return sorted(_walk(folder.rstrip("/")))


def make_dirs(path: str) -> None:
    """Makes a folder and those above it; nothing on an object store."""
    if _system(path).has_dirs() and not exists(path):
        with contextlib.suppress(FileExistsError):
            _ask(path, "mkdirs", path)


def rename(source: str, target: str) -> None:
    """Moves a file, or a folder where the system has folders, to a name that is free."""
    if is_object_store(source) and not exists(source):
        raise ValueError(f"{source}: not a file; an object store cannot move a folder")
    _ask(source, "rename", [source], [target])


def copy(sources: Sequence[str], targets: Sequence[str]) -> None:
    """Copies files to new names of the same system, within it."""
    for start in range(0, len(sources), _BATCH):
        batch = slice(start, start + _BATCH)
        _ask(sources[0], "copy", list(sources[batch]), list(targets[batch]))


def remove(path: str) -> None:
    """Deletes a file, if it is there."""
    if exists(path):
        _ask(path, "delete", [path])


def remove_tree(path: str) -> None:
    """Deletes a folder with all that is in it, if it is there."""
    if _system(path).has_dirs():
        remove(path)
        return
    found = [entry.path for entry in walk(path)]
    for start in range(0, len(found), _BATCH):
        _ask(path, "delete", found[start : start + _BATCH])


@functools.cache
def _use_emulator() -> None:
    """Makes Beam go to STORAGE_EMULATOR_HOST without credentials: it would look for some, long."""
    from apache_beam.internal.gcp import auth

    auth._Credentials._credentials_init = True


@functools.cache
def _mend_s3() -> None:
    """Mends Beam's client of S3.

    Beam makes one for each request, which takes 0.3 s of a core: now those of the same options
    have one of boto3, which threads may share. And of an empty file it uploads no part, which S3
    refuses.
    """
    from apache_beam.io.aws.clients.s3 import boto3_client, messages

    class Client(boto3_client.Client):
        def complete_multipart_upload(self, request: Any) -> None:
            if not request.parts:
                where = request.bucket, request.object, request.upload_id
                part = self.upload_part(messages.UploadPartRequest(*where, 1, b""))
                request.parts.append({"ETag": part.etag, "PartNumber": part.part_number})
            super().complete_multipart_upload(request)

    made = functools.lru_cache(maxsize=4)(Client)

    def make(options: Any) -> Client:
        return copies.copy(made(options))  # What a client keeps of a download is its own.

    boto3_client.Client = make  # type: ignore[assignment, misc]


def _system(path: str) -> Any:
    """Returns Beam's file system for an address."""
    scheme = path.partition("://")[0]
    if scheme == "gs" and os.environ.get("STORAGE_EMULATOR_HOST"):
        _use_emulator()
    if scheme == "s3" and importlib.util.find_spec("boto3"):
        with _MENDING:
            _mend_s3()
    module, install, _ = _EXTRAS.get(scheme, ("", "", ""))
    if filesystems.FileSystems._pipeline_options is None:  # in a command that is no Beam job
        filesystems.FileSystems.set_options(pipeline_options.PipelineOptions([]))
    try:
        found = filesystems.FileSystems.get_filesystem(path)
        if module and type(found).__module__.startswith("apache_beam."):
            importlib.import_module(module)  # Beam would tell only when it is used
        return found
    except (ValueError, ImportError, filesystem.BeamIOError) as error:
        causes = [error, *(getattr(error, "exception_details", None) or {}).values()]
        is_missing = any(isinstance(cause, ImportError) for cause in causes)
        if not is_missing and "Unable to get filesystem" not in str(error):
            raise ValueError(f"{path}: {causes[-1]}") from error  # --hdfs_host is not set
        advice = install or f"known are {', '.join(_EXTRAS)}"
        raise ValueError(
            f"{path}: no file system for {scheme}:// is installed; {advice}"
        ) from error


def _ask(path: str, method: str, *args: Any, **options: Any) -> Any:
    """Returns what a method of Beam's file system for an address gives; see `_errors_of`."""
    system = _system(path)
    _check_answers("/".join(path.split("/")[:3]))
    with _errors_of(path):
        return getattr(system, method)(*args, **options)


@contextlib.contextmanager
def _errors_of(path: str) -> Iterator[None]:
    """Gives errors of a store's own library the kinds of ours.

    Raises:
      AccessError: the store does not answer, or not to us; FileNotFoundError: there is no such
        file; StoreError: the store failed; what the system itself says of a call.
    """
    try:
        yield
    except AccessError:
        raise
    except Exception as error:
        causes = (getattr(error, "exception_details", None) or {}).values()
        why = " ".join(" ".join(map(str, (*causes, *(() if causes else (error,))))).split())
        # Names may hold such words, and the 403 of `run-403`.
        words = [word for word in why.replace(path, "").split() if "/" not in word]
        if _DENIED.search(" ".join(words)):
            raise AccessError(f"{path}: not allowed; {_remedy(path)} ({why[:200]})") from error
        is_own = isinstance(error, filesystem.BeamIOError) or type(error).__module__ == "builtins"
        is_network = isinstance(error, ConnectionError | TimeoutError)
        if is_own and isinstance(error, OSError | ValueError | ImportError) and not is_network:
            raise
        kind = FileNotFoundError if _ABSENT.search(" ".join(words)) else StoreError
        raise kind(f"{path}: {why[:200]}") from error  # of the store's own library


@functools.cache
def _check_answers(store: str) -> None:
    """Raises AccessError unless a store answers in time, be it with an error."""
    answered = threading.Event()
    system, name = _system(store + "/"), f"{store}/parti"

    def ask() -> None:
        with contextlib.suppress(Exception):
            system.exists(name)
        answered.set()

    # It cannot be stopped, but does not hold up the end of the process.
    threading.Thread(target=ask, daemon=True).start()
    if not answered.wait(_ANSWER_SECONDS):
        seconds = f"{_ANSWER_SECONDS:g} seconds"
        raise AccessError(
            f"{store}: no answer in {seconds}; check the network and the name, or {_remedy(store)}"
        )


def _remedy(path: str) -> str:
    """Returns what opens a store."""
    *_, access = _EXTRAS.get(path.partition("://")[0], ("check who may use it",))
    return access


def _list(folder: str, limit: int | None = None) -> list[Entry] | None:
    """Returns the content of a folder (all depths on an object store); None: not a folder."""
    depth = "*" if _system(folder).has_dirs() else "**"
    try:
        if _WILDCARD.search(folder):  # which `match` cannot quote
            inside = folder if depth == "*" else f"{folder}/"
            listed = itertools.islice(_system(folder)._list(inside), limit)
            return sorted({Entry(data.path, data.size_in_bytes) for data in listed})
        return match(f"{folder}/{depth}", limit)
    except OSError:
        if depth == "**":
            raise
        exists(folder)  # raises too if the system cannot be reached: then nothing is known
        return None


def _walk(folder: str) -> Iterator[Entry]:
    nested = _system(folder).has_dirs()
    for entry in _list(folder) or []:
        # Beam does not tell folders from files; a folder has no size.
        inside = _list(entry.path) if nested and not entry.num_bytes else None
        if inside is None:
            yield entry
        else:
            yield from _walk(entry.path)
