# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Remote file systems for tests, kept in the local folder that PARTI_FAKE_REMOTE names.

`store://` behaves as an object store does (no folders; an object appears when it is closed, under
one request), `tree://` as HDFS does (folders, listings one level deep that do not tell files from
folders, no rename onto another file). Worker processes see the same files: Beam tells them to
import this module.
"""

import io
import os
import pathlib
import shutil
import urllib.parse

from apache_beam.io import filesystem

ROOT = "PARTI_FAKE_REMOTE"


class _Upload(io.BytesIO):
    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self._path = path

    def close(self) -> None:
        if not self.closed:
            partial = self._path.with_name(f"~{os.getpid()}{self._path.name[-80:]}")
            partial.write_bytes(self.getvalue())
            os.replace(partial, self._path)
        super().close()


class _Fake(filesystem.FileSystem):
    """What both have in common; `_place` says where the content of an address is kept."""

    @classmethod
    def scheme(cls):
        return "fake"

    def _place(self, path):
        raise NotImplementedError

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        head, _, tail = path.rpartition("/")
        return head, tail

    def create(self, path, mime_type="", compression_type="auto"):
        assert compression_type == filesystem.CompressionTypes.UNCOMPRESSED
        return _Upload(self._place(path))

    def open(self, path, mime_type="", compression_type="auto"):
        assert compression_type == filesystem.CompressionTypes.UNCOMPRESSED
        return open(self._place(path), "rb")

    def exists(self, path):
        return self._place(path).exists()

    def size(self, path):
        return self.metadata(path).size_in_bytes

    def last_updated(self, path):
        return self._place(path).stat().st_mtime

    def metadata(self, path):
        if not self.exists(path):
            raise filesystem.BeamIOError(f"{path} not found")
        place = self._place(path)
        size = place.stat().st_size if place.is_file() else 0
        return filesystem.FileMetadata(path, size, place.stat().st_mtime)

    def copy(self, source_file_names, destination_file_names):
        for source, target in zip(source_file_names, destination_file_names, strict=True):
            with self.create(target, compression_type="uncompressed") as file:
                file.write(self._place(source).read_bytes())


class Store(_Fake):
    """An object store: names are flat."""

    @classmethod
    def scheme(cls):
        return "store"

    def _place(self, path):
        return pathlib.Path(os.environ[ROOT], urllib.parse.quote(path, safe=""))

    def has_dirs(self):
        return False

    def mkdirs(self, path):
        pass

    def _list(self, dir_or_prefix):
        for place in sorted(pathlib.Path(os.environ[ROOT]).iterdir()):
            name = urllib.parse.unquote(place.name)
            if name.startswith(dir_or_prefix):
                yield filesystem.FileMetadata(name, place.stat().st_size)

    def rename(self, source_file_names, destination_file_names):
        self.copy(source_file_names, destination_file_names)
        self.delete(source_file_names)

    def delete(self, paths):
        for path in paths:
            self._place(path).unlink()


class Tree(_Fake):
    """A file system with folders."""

    @classmethod
    def scheme(cls):
        return "tree"

    def _place(self, path):
        return pathlib.Path(os.environ[ROOT], "tree", path.removeprefix("tree://"))

    def has_dirs(self):
        return True

    def mkdirs(self, path):
        self._place(path).mkdir(parents=True)

    def _list(self, dir_or_prefix):
        place = self._place(dir_or_prefix)
        if not place.is_dir():
            what = "is not a directory" if place.exists() else "does not exist"
            raise filesystem.BeamIOError(f"{dir_or_prefix} {what}")
        for found in sorted(place.iterdir()):
            size = found.stat().st_size if found.is_file() else 0
            yield filesystem.FileMetadata(f"{dir_or_prefix}/{found.name}", size)

    def rename(self, source_file_names, destination_file_names):
        for source, target in zip(source_file_names, destination_file_names, strict=True):
            if self.exists(target):
                raise filesystem.BeamIOError(f"{target} already exists")
            self._place(source).rename(self._place(target))

    def delete(self, paths):
        for path in paths:
            place = self._place(path)
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink()
