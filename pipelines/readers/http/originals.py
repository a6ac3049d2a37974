# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What was fetched, kept as it came, so that a later run asks only for what is missing.

    <folder>/settings.json           the settings that decide what may be taken from here
    <folder>/<name>-<id>.tfrecord    `records.Original`s: URL and image, or why there is none
    <folder>/<name>-<id>.index       the hash of each URL and where its record begins

`<folder>` is one for each such settings: what came with others (to another name of the crawler, or
from private networks) is not read. A local file grows record by record, so a kill loses nothing
that came; a remote one is written a piece at a time. A later run finds a record by its URL alone.
"""

import collections
import concurrent.futures
import dataclasses
import io
import json
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import xxhash

from parti.data.storage import records, tfrecords
from parti.pipelines.readers.base import rows
from parti.pipelines.readers.http import downloads
from parti.stages import files, json_text, manifests

# Besides failures that are tried again: these may pass too, or took no request.
_MAY_PASS = ("fetch_no_host", "fetch_tls", "fetch_failed", "fetch_refused")
_RECORDS, _INDEX, _SETTINGS = ".tfrecord", ".index", "settings.json"
_ROW_BYTES = 16  # of an index
_PIECE_BYTES, _PIECE_SECONDS = 64 * 2**20, 60.0  # of a remote file; whichever comes first
_MAX_OPEN = 4  # files that are read at a time
_REQUESTS = 32  # at a time, to a remote file system
_SIDES: tuple[Any, Any] = ("left", "right")


def is_final(answer: downloads.Answer) -> bool:
    """Returns whether an answer is the same tomorrow, as far as one can know."""
    reason = answer.content.reason if isinstance(answer.content, rows.Rejected) else ""
    return not (answer.redirect or answer.again or reason in _MAY_PASS)


def _deciding(settings: downloads.FetchSettings) -> dict[str, Any]:
    """Returns the settings that decide what a server gives and whether it may be taken.

    Those of time and retries decide only about failures that are not kept.
    """
    return {
        "crawler": downloads.crawler(settings.user_agent),
        "respect_opt_out": settings.respect_opt_out,
        "allow_private": settings.allow_private,
        "max_bytes": settings.max_bytes,
        "max_redirects": settings.max_redirects,
    }


@dataclasses.dataclass(frozen=True)
class Kept:
    """What was kept when a run began; workers open it as `Originals`."""

    folder: str  # to read from, and to add to
    names: tuple[str, ...]  # of the files there, without endings
    # A .npy of [3, URLs] uint64: hashes of URLs, sorted; the number of the file; the offset in it
    index: str

    @classmethod
    def find(
        cls, directory: files.Path, settings: downloads.FetchSettings, index: files.Path
    ) -> "Kept":
        """Gathers in the file `index` what of a directory can be read with these settings."""
        deciding = _deciding(settings)
        folder = files.join(directory, manifests.digest(deciding)[:16])
        files.make_dirs(folder)
        files.write_bytes(files.join(folder, _SETTINGS), json.dumps(deciding, indent=2).encode())
        paths = [path for path, _ in files.list_folder(folder) if path.endswith(_INDEX)]
        with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
            tables = list(pool.map(_read_index, paths, range(len(paths))))
        table = np.concatenate([np.zeros([3, 0], np.uint64), *tables], axis=1)
        content = io.BytesIO()
        np.save(content, table[:, np.argsort(table[0], kind="stable")])
        files.write_bytes(index, content.getvalue())
        names = (files.name(path).removesuffix(_INDEX) for path in paths)
        return cls(folder, tuple(names), str(index))

    def has_others(self) -> bool:
        """Returns whether what was kept before all came with other settings."""
        found = files.walk(files.parent(self.folder))
        return not self.names and any(entry.path.endswith(_INDEX) for entry in found)


def _read_index(path: str, number: int) -> np.ndarray:
    data = files.read_bytes(path)
    whole = len(data) // _ROW_BYTES * _ROW_BYTES  # without what a kill cut off
    urls, offsets = np.frombuffer(data[:whole], "<u8").reshape(-1, 2).T
    return np.stack([urls, np.full_like(urls, number), offsets])


class Originals:
    """What is kept, opened by a worker, which reads one source at a time."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        if files.is_remote(kept.index):
            self._index = np.load(io.BytesIO(files.read_bytes(kept.index)))
        else:
            self._index = np.load(kept.index, mmap_mode="r")
        self._open: collections.OrderedDict[str, IO[bytes]] = collections.OrderedDict()

    def get(self, url: str) -> bytes | rows.Rejected | None:
        """Returns the image of a URL, why there is none, or None if it is to be asked for."""
        wanted = np.uint64(_hash(url))
        first, last = (int(np.searchsorted(self._index[0], wanted, side)) for side in _SIDES)
        for number, offset in self._index[1:, first:last].T.tolist():
            if (found := self.read(self.kept.names[number], offset, url)) is not None:
                return found
        return None

    def read(self, name: str, offset: int, url: str) -> bytes | rows.Rejected | None:
        """Returns what a record says of a URL; None: it is damaged or of another URL."""
        try:
            return _content(self._file(name), offset, url)
        except OSError as error:  # it is gone
            rows.raise_if_of_store(error)
            return None

    def _file(self, name: str) -> IO[bytes]:
        if name not in self._open:
            path = files.join(self.kept.folder, name + _RECORDS)
            file: IO[bytes] = files.open(path)
            if files.is_remote(path):  # each seek there is a request
                with file:
                    file, source = tempfile.TemporaryFile(), file  # noqa: SIM115
                    while chunk := source.read(2**20):
                        file.write(chunk)
            self._open[name] = file
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(name)
        return self._open[name]


def _hash(url: str) -> int:
    return xxhash.xxh3_64_intdigest(url.encode("utf-8", "replace"))


def _content(file: IO[bytes], offset: int, url: str) -> bytes | rows.Rejected | None:
    file.seek(offset)
    try:
        found = records.Original.from_example(next(tfrecords.read_stream(file, "")))
    except (ValueError, StopIteration):
        return None
    if found.url != url:
        return None
    return rows.refuse(found.reason, found.measure) if found.reason else found.image


class Part:
    """What is kept of the URLs of one source: gives what is there, and keeps what comes.

    `get` is for the thread that reads the source, `keep` for any.
    """

    def __init__(self, originals: Originals, name: str) -> None:
        """Sets what there is, and a plain file name; a file is made when something comes."""
        self._originals, self._name = originals, name
        self._folder = originals.kept.folder
        self._lock = threading.Lock()
        self._added: dict[str, tuple[str, int]] = {}  # URL -> file and offset
        self._writer: _Writer | None = None
        self._is_closed = False
        self.num_read = 0  # URLs that were not asked for again

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *error: Any) -> None:
        with self._lock:
            self._end()
            self._is_closed = True

    def get(self, url: str) -> bytes | rows.Rejected | None:
        """Returns as `Originals.get`, also what has come since."""
        url = json_text.utf8(url)
        found = self._get_added(url) if url in self._added else self._originals.get(url)
        self.num_read += found is not None
        return found

    def _get_added(self, url: str) -> bytes | rows.Rejected | None:
        name, offset = self._added[url]
        with self._lock:
            if self._writer is not None and self._writer.name == name:
                return self._writer.read(offset, url)
        return self._originals.read(name, offset, url)

    def keep(self, url: str, content: bytes | rows.Rejected) -> None:
        """Adds what a URL gave; RuntimeError: it cannot be written."""
        url = json_text.utf8(url)
        if isinstance(content, rows.Rejected):
            original = records.Original(url, reason=content.reason, measure=content.measure)
        else:
            original = records.Original(url, image=content)
        record = tfrecords.frame(original.to_example())
        with self._lock:
            if self._is_closed:  # the source was given up, by an error
                return
            try:
                self._add(url, record)
            except OSError as error:
                why = rows.one_line(error)
                raise RuntimeError(
                    f"{self._folder}: {why}; mend that, and the same command goes on"
                ) from error

    def _add(self, url: str, record: bytes) -> None:
        if self._writer is None:
            self._writer = _Writer(self._folder, f"{self._name}-{uuid.uuid4().hex}")
        self._added[url] = self._writer.name, self._writer.add(_hash(url), record)
        if self._writer.is_full():
            self._end()

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Writer:
    """A file of records and its index, which never names a record that is not whole."""

    def __init__(self, folder: str, name: str) -> None:
        self.name, self._paths = name, [files.join(folder, name + e) for e in (_RECORDS, _INDEX)]
        self._is_remote = files.is_remote(folder)
        self._began = time.monotonic()
        self._files: Sequence[IO[bytes]]
        if self._is_remote:
            self._files = [tempfile.SpooledTemporaryFile(_PIECE_BYTES), io.BytesIO()]  # noqa: SIM115
        else:
            self._files = [open(path, "w+b") for path in self._paths]  # noqa: SIM115

    def add(self, url_hash: int, record: bytes) -> int:
        """Writes a record; returns where it begins."""
        data, index = self._files
        offset = data.seek(0, io.SEEK_END)
        data.write(record)
        data.flush()  # a kill of this process leaves it whole
        index.write(np.array([url_hash, offset], "<u8").tobytes())
        index.flush()
        return offset

    def read(self, offset: int, url: str) -> bytes | rows.Rejected | None:
        return _content(self._files[0], offset, url)

    def is_full(self) -> bool:
        size, seconds = self._files[0].seek(0, io.SEEK_END), time.monotonic() - self._began
        return self._is_remote and (size > _PIECE_BYTES or seconds > _PIECE_SECONDS)

    def close(self) -> None:
        for file, path in zip(self._files, self._paths, strict=True):
            with file:
                if self._is_remote:
                    file.seek(0)
                    with files.replacing(path) as target:
                        while chunk := file.read(2**20):
                            target.write(chunk)
