# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which column of a table is what: the names that published data sets use.

Some tables have the captions of some rows in one column and those of others in another, so a role
can have several; a row's value is in the first that has one.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from parti.pipelines.readers.base import pair_files, rows
from parti.pipelines.readers.base.source_files import Source
from parti.stages import files

IMAGE, URL, TEXT, KEY = "image", "url", "text", "key"

# In order of preference; upper and lower case are the same.
NAMES = {
    # Bytes, a path, or Hugging Face's {"bytes", "path"}.
    IMAGE: (
        *("image", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "img"),
        *("image_path", "img_path", "file_name", "filename", "filepath", "path", "file"),
        *("image_name", "file_path", "image_file"),
    ),
    URL: ("url", "image_url", "img_url"),
    TEXT: (*pair_files.CAPTION_FIELDS, "txt", "comment"),
    KEY: ("key", "__key__", "uid", "sample_id", "id"),
}

_ALIASES = frozenset(alias for aliases in NAMES.values() for alias in aliases)

Given = tuple[tuple[str, str], ...]
Roles = dict[str, tuple[str, ...]]
Cells = dict[str, Any]  # of a row, by the names of columns


def given(columns: Mapping[str, str] | None) -> Given:
    """Returns the user's choice of columns, hashable; ValueError: no such role, or no name."""
    for role, name in (columns or {}).items():
        if role not in NAMES:
            raise ValueError(f"--columns {role}={name}: choose from {', '.join(NAMES)}")
        if not name:
            raise ValueError(f"--columns {role}=: give the name of a column")
    return tuple(sorted((columns or {}).items()))


def candidates(names: Sequence[str], chosen: Given) -> Roles:
    """Returns {role: its columns, the preferred first} for the roles that a table has."""
    folded = ((name.casefold(), name) for name in reversed(names))
    known = {alias: name for alias, name in folded if alias in _ALIASES}
    found = {
        role: tuple(known[alias] for alias in aliases if alias in known)
        for role, aliases in NAMES.items()
        if not known.keys().isdisjoint(aliases)
    }
    return found | {role: (name,) for role, name in chosen}


def resolve(names: Sequence[str], chosen: Given) -> dict[str, str]:
    """Returns {role: its preferred column} for the roles that a table has."""
    return {role: columns[0] for role, columns in candidates(names, chosen).items()}


def columns_of_pairs(names: Sequence[str], chosen: Given) -> tuple[set[str], set[str]]:
    """Returns the columns that captions are in, and those that images, paths or URLs are in."""
    roles = candidates(names, chosen)
    return {*roles.get(TEXT, ())}, {*roles.get(IMAGE, ()), *roles.get(URL, ())}


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Returns names with `.1`, `.2` and so on at the end of those that were there before."""
    found: dict[str, None] = {}
    again: collections.Counter[str] = collections.Counter()
    for name in names:
        other = name
        while other in found:
            again[name] += 1
            other = f"{name}.{again[name]}"
        found[other] = None
    return tuple(found)


def check(names: tuple[str, ...], chosen: Given, where: str) -> None:
    """Raises ValueError unless a table has a column of captions, and one of images or URLs."""
    listed = ", ".join(names[:20]) or "none"
    for role, name in chosen:
        if name not in names:
            raise ValueError(f"--columns {role}={name}: {where} has only the columns {listed}")
    found = resolve(names, chosen)
    for role, what, roles in (
        (TEXT, "captions", {TEXT}),
        (IMAGE, "pictures, paths or URLs", {IMAGE, URL}),
    ):
        if not roles & found.keys():
            raise ValueError(
                f"{where}: no column is known to hold {what}, of {listed}; "
                f"name it with --columns {role}=NAME"
            )


def broken(table: Source, error: BaseException) -> list[Source]:
    """Returns a table none of whose rows can be read; a ValueError may be the user's mistake."""
    path, mistake = table.paths[0], str(error) if isinstance(error, ValueError) else ""
    if mistake:  # not where on this machine the table is
        error = ValueError(mistake.removeprefix(f"{path}: ").replace(path, files.name(path)))
    return [dataclasses.replace(table, problem=rows.one_line(error), mistake=mistake)]
