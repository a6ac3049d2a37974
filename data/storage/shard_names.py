# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The names of files: shards when writing, patterns when reading."""

import os

from parti.stages import files


def shard_name(prefix: str, index: int, count: int, suffix: str = ".tfrecord") -> str:
    """Returns `train-00000-of-00004.tfrecord` for ("train", 0, 4); ValueError: no such index."""
    if not 0 <= index < count:
        raise ValueError(f"Shard index {index} of {count}: it must be in [0, {count}).")
    return f"{prefix}-{index:05d}-of-{count:05d}{suffix}"


def list_shards(
    folder: str | os.PathLike[str], prefix: str, suffix: str = ".tfrecord"
) -> list[str]:
    """Returns the files `<prefix>-*<suffix>` of a folder, sorted; its name is no pattern."""
    paths = (entry.path for entry in files.list_folder(folder))
    return [
        path
        for path in paths
        if files.name(path).startswith(f"{prefix}-") and path.endswith(suffix)
    ]


def expand_pattern(
    pattern: str | os.PathLike[str], what: str, suffixes: tuple[str, ...] = (".tfrecord",)
) -> list[str]:
    """Returns the files that an address names (see `files.resolve`), sorted, each once.

    A folder stands for the files in it that end in `suffixes`. `what` they hold is for the error
    message ("image-text pairs").

    Raises:
      FileNotFoundError: a part of the address names no file.
    """
    named = files.resolve(pattern)
    if not named:
        raise FileNotFoundError(f"No {what}: the pattern is empty; give a file, glob or directory.")
    found: set[str] = set()
    for text, folder, entries in named:
        if entries is None:
            inside = f" that end in {' or '.join(suffixes)} in the directory"
            paths = [f.path for f in files.list_folder(folder) if f.path.endswith(suffixes)]
        else:
            inside, paths = " match", [entry.path for entry in entries]
        if not paths:
            raise FileNotFoundError(
                f"No {what}: no files{inside} {text!r}; check the path, or "
                "run the stage that writes it (quote a glob so that the shell leaves it alone)."
            )
        found.update(paths)
    return sorted(found)
