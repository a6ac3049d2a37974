# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pairs in a folder: image files with the caption beside each."""

import os
from collections.abc import Iterator, Sequence

from parti.pipelines.readers.base import pair_files, rows
from parti.pipelines.readers.base.source_files import FOLDER, Found, Source
from parti.stages import files

_FILES_PER_SOURCE = 256


def has_captions(names: Sequence[str]) -> bool:
    """Returns whether captions are among the files of a folder."""
    return any(name.endswith(pair_files.TEXT) for name in names)


def split(found: Found) -> list[Source]:
    """Returns sources of some image files each."""
    starts = range(0, len(found.entries), _FILES_PER_SOURCE)
    groups = [found.entries[start : start + _FILES_PER_SOURCE] for start in starts]
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
    key = pair_files.relative(stem, root)
    source = files.text(files.name(path))
    try:
        group: pair_files.Group = {suffix.lower(): pair_files.read(path)}
        for part in (pair_files.TEXT, pair_files.METADATA):
            if files.exists(stem + part):
                group[part] = pair_files.read(stem + part, part)
    except OSError as error:
        return rows.reject(key, "broken_file", rows.one_line(error), source=source)
    return pair_files.make_pair(key, group, source)
