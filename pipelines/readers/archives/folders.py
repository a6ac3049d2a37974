# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pairs in a folder: image files with the caption beside each."""

import os
import stat

from parti.pipelines.readers.archives import tars
from parti.pipelines.readers.base import rows
from parti.stages import files

_LIMITS = {
    ".txt": (rows.MAX_CAPTION_BYTES, "caption_too_long"),
    ".json": (rows.MAX_METADATA_BYTES, "metadata_too_large"),
}


def read_image_file(path: str, root: str) -> rows.Row:
    """Reads an image file, and the .txt and .json beside it.

    Args:
      path: of the image.
      root: the folder that the key is relative to.
    """
    stem, suffix = os.path.splitext(path)
    key = relative(stem, root)
    source = rows.utf8(files.name(path))
    group: tars.Group = {}
    try:
        for part in (suffix, ".txt", ".json"):
            name = path if part == suffix else stem + part
            if part == suffix or files.exists(name):
                limit = _LIMITS.get(part, (rows.MAX_IMAGE_BYTES, "member_too_large"))
                group[part.lower()] = read_file(name, *limit)
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
) -> bytes | tars.Refused:
    """Returns the content of a file, or why it is not read.

    Args:
      path: of the file.
      limit: in bytes.
      reason: if it is larger.

    Raises:
      OSError: there is no such file, or it cannot be read.
    """
    if not files.is_remote(path) and not stat.S_ISREG(os.stat(path).st_mode):
        return tars.Refused("not_a_file")  # opening a pipe would wait for ever
    with files.open(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        return tars.Refused(reason, f"over {limit:,} bytes")
    return data
