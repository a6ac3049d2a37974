# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pairs in a folder: image files with the caption beside each."""

import os
import stat
from collections.abc import Iterator, Sequence

from parti.pipelines.readers.archives import tars
from parti.pipelines.readers.base import rows
from parti.pipelines.readers.base.source_files import FOLDER, Found, Source
from parti.stages import files

_FILES_PER_SOURCE = 256


def has_captions(names: Sequence[str]) -> bool:
    """Returns whether captions are among the files of a folder."""
    return any(name.endswith(".txt") for name in names)


def split(found: Found) -> list[Source]:
    """Returns sources of some image files each."""
    groups = [
        found.entries[i : i + _FILES_PER_SOURCE]
        for i in range(0, len(found.entries), _FILES_PER_SOURCE)
    ]
    return [
        Source(FOLDER, tuple(e.path for e in group), found.root, sum(e.num_bytes for e in group))
        for group in groups
    ]


def read_folder(source: Source, fetcher: object = None) -> Iterator[rows.Row]:
    """Yields a pair for each image file; its .txt and .json are beside it."""
    for path in source.paths:
        yield _read_image_file(path, source.root)


def _read_image_file(path: str, root: str) -> rows.Row:
    stem, suffix = os.path.splitext(path)
    key = relative(stem, root)
    source = rows.utf8(files.name(path))
    group: tars.Group = {}
    try:
        for part in (suffix, ".txt", ".json"):
            name = path if part == suffix else stem + part
            if part == suffix or files.exists(name):
                group[part.lower()] = read_file(name, *rows.limit_of(part))
    except OSError as error:
        return rows.reject(key, "broken_file", rows.one_line(error), source=source)
    return tars.pair_of_files(key, group, source)


def relative(path: str, root: str) -> str:
    """Returns a path below a folder, with `/` between its parts; UTF-8 can write it."""
    if files.is_remote(path):
        inner = path.removeprefix(root.rstrip("/") + "/") if root else files.name(path)
    else:
        inner = os.path.relpath(path, root or ".").replace(os.sep, "/")
    return rows.utf8(inner)


def read_file(
    path: str, limit: int = rows.MAX_IMAGE_BYTES, reason: str = "member_too_large"
) -> bytes | rows.Rejected:
    """Returns the content of a file, or why it is not read: `reason` if it has over `limit` bytes.
    An OSError says that it is not there, or cannot be read."""
    if not files.is_remote(path) and not stat.S_ISREG(os.stat(path).st_mode):
        return rows.refuse("not_a_file")  # opening a pipe would wait for ever
    with files.open(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        return rows.refuse(reason, f"over {limit:,} bytes")
    return data
