# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The files of a pair: an image, its caption in a .txt, its metadata in a .json of the same name.

What tars, folders and tables share: endings, bounds, safe paths, and the pair that files make.
"""

import os
import posixpath
import stat
from typing import Any

from parti.pipelines.readers.base import rows
from parti.stages import files

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
TEXT, METADATA = ".txt", ".json"
SUFFIXES = (*IMAGE_SUFFIXES, TEXT, METADATA)

Group = dict[str, bytes | rows.Rejected]  # the files of one key: {".jpg": ..., ".txt": ...}


def limit_of(suffix: str) -> tuple[int, str]:
    """Returns the most bytes of a file with this ending, and the reason if it has more."""
    if suffix == TEXT:
        return rows.MAX_CAPTION_BYTES, "caption_too_long"
    if suffix == METADATA:
        return rows.MAX_METADATA_BYTES, "metadata_too_large"
    return rows.MAX_IMAGE_BYTES, "member_too_large"


def read(path: str, suffix: str = "") -> bytes | rows.Rejected:
    """Returns the content of a file within the bound of its ending, or why it is not read.

    Raises:
      OSError: it is not there, or cannot be read.
    """
    if not files.is_remote(path) and not stat.S_ISREG(os.stat(path).st_mode):
        return rows.refuse("not_a_file")  # opening a pipe would wait for ever
    limit, reason = limit_of(suffix)
    with files.open(path) as file:
        data = file.read(limit + 1)
    return data if len(data) <= limit else rows.refuse(reason, f"over {limit:,} bytes")


def relative(path: str, root: str) -> str:
    """Returns a path below a folder, with `/` between its parts, as UTF-8 (see `files.text`)."""
    if files.is_remote(path):
        inner = path.removeprefix(root.rstrip("/") + "/") if root else files.name(path)
    else:
        inner = os.path.relpath(path, root or ".").replace(os.sep, "/")
    return files.text(inner)


def below(folder: str, path: str) -> str | rows.Rejected:
    """Returns the file in a folder that a path names, if the path does not lead out of it."""
    inside = path.removeprefix(folder.rstrip("/") + "/")
    inner = posixpath.normpath(inside)
    leads_out = "://" in inside or os.path.isabs(inner) or inner.split("/")[0] == ".."
    if leads_out or "\0" in path:
        shown = path[: rows.SHOWN_URL]
        return rows.refuse(
            "unsafe_name", f"{shown}; --image_root names the folder that paths lead to"
        )
    return files.join(folder, inner)


def make_pair(key: str, group: Group, source: str) -> rows.Row:
    """Returns the pair that the files of one key make."""
    for part in group.values():
        if isinstance(part, rows.Rejected):
            return part.of(key, source=source)
    content: dict[str, bytes] = group  # type: ignore[assignment]
    metadata: dict[str, Any] = {}
    if METADATA in content:
        try:
            metadata = rows.parse_metadata(content[METADATA])
        except ValueError as error:
            return rows.reject(key, "broken_metadata", rows.one_line(error), source=source)
    named = metadata.get("caption")
    text = content.get(TEXT, named if isinstance(named, str) else None)
    image = next((content[suffix] for suffix in IMAGE_SUFFIXES if suffix in content), None)
    return rows.make_pair(key, image, text, source, metadata)
