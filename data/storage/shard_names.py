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


def expand_pattern(
    pattern: str | os.PathLike[str], what: str, suffixes: tuple[str, ...] = (".tfrecord",)
) -> list[str]:
    """Returns the files that a pattern names, sorted, each once.

    It is a file, a glob, a directory (which stands for the files in it that end in `suffixes`), or
    several of these with commas between; local, or an address that `stages.files` reads. `what`
    they hold is for the error message ("image-text pairs").

    Raises:
      FileNotFoundError: a part of the pattern names no file.
    """
    whole = os.fspath(pattern)
    parts = [whole] if os.path.exists(whole) else [p.strip() for p in whole.split(",") if p.strip()]
    if not parts:
        raise FileNotFoundError(f"No {what}: the pattern is empty; give a file, glob or directory.")
    found: set[str] = set()
    for part in parts:
        is_dir = files.is_dir(part)
        if is_dir:
            paths = [f.path for f in files.list_folder(part) if f.path.endswith(suffixes)]
        else:
            paths = files.expand(part)
        if not paths:
            inside = f" that end in {' or '.join(suffixes)} in the directory"
            raise FileNotFoundError(
                f"No {what}: no files{inside if is_dir else ' match'} {part!r}; check the path, or "
                "run the stage that writes it (quote a glob so that the shell leaves it alone)."
            )
        found.update(paths)
    return sorted(found)
