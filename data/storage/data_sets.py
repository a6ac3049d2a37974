# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""PAIRS_DIR, TOKENS_DIR and RECONSTRUCTIONS_DIR: one folder, or several that are mixed by rate."""

import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from parti.stages import files

Folders = str | os.PathLike[str] | Mapping[str, float]  # a folder, or {folder: rate}


class DataSet(NamedTuple):
    """A folder that a stage has written, and how many of its examples are drawn."""

    folder: str
    rate: float  # relative to the rates of the others


def named(folders: Folders, macro: str) -> dict[str, DataSet]:
    """Returns {name: data set}, sorted by name; the name of a single one is ''.

    Others are called by their folders' names, with as much of the paths as tells them apart:
    {'/data/laion/tokens': 2, '/data/own/tokens': 1} are `laion_tokens` and `own_tokens`.

    Raises:
      ValueError: no folder, one folder twice, or a rate that is no number above 0.
    """
    if not isinstance(folders, Mapping):
        return {"": DataSet(os.fspath(folders), 1.0)}
    example = f"--gin.{macro}=\"{{'runs/laion': 0.7, 'runs/own': 0.3}}\""
    if not folders:
        raise ValueError(f"{macro} is {{}}; give a folder, or several with their rates: {example}")
    for folder, rate in folders.items():
        if not _is_rate(rate):
            raise ValueError(
                f"{macro} has the rate {rate!r} for {folder!r}; it must be a number above 0, such "
                f"as {example} (leave a folder out to read nothing of it)"
            )
    if len(folders) == 1:
        return {"": DataSet(next(iter(folders)), 1.0)}
    paths = [files.absolute(folder).rstrip("/") for folder in folders]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise ValueError(f"{macro} names the folder {twice[0]!r} twice; give it one rate")
    sets = (DataSet(folder, float(rate)) for folder, rate in folders.items())
    # gin's own text of a configuration does not keep the order of a dict.
    return dict(sorted(zip(_names(paths), sets, strict=True)))


def _is_rate(rate: Any) -> bool:
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    return is_number and 0 < rate < math.inf


def _names(paths: list[str]) -> list[str]:
    """Returns a short name for each of several paths, of letters, digits, `_` and `.`."""
    parts = [path.split("/") for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = [re.sub(r"[^A-Za-z0-9_.]+", "_", "_".join(p[-depth:])).strip("_") for p in parts]
        if len(set(names)) == len(names) and all(names):
            return names
    raise ValueError(
        f"the folders {', '.join(map(repr, paths))} differ in characters alone that no name of a "
        "data set can have; rename one"
    )
