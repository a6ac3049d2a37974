# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The names of files: shards when writing, patterns when reading."""

import glob
import os
import pathlib


def shard_name(prefix: str, index: int, count: int, suffix: str = ".tfrecord") -> str:
    """Returns `train-00000-of-00004.tfrecord` for ("train", 0, 4).

    Raises:
      ValueError: `index` is not in [0, count).
    """
    if not 0 <= index < count:
        raise ValueError(f"Shard index {index} of {count}: it must be in [0, {count}).")
    return f"{prefix}-{index:05d}-of-{count:05d}{suffix}"


def expand_pattern(
    pattern: str | os.PathLike[str], what: str, suffixes: tuple[str, ...] = (".tfrecord",)
) -> list[str]:
    """Returns the files that a pattern names, sorted, each once.

    Args:
      pattern: a file, a glob, a directory, or several of these with commas between. Addresses with
        a scheme (`gs://...`) are resolved by TensorFlow.
      what: what the files hold, for the error message ("image-text pairs").
      suffixes: a directory stands for the files in it that end so.

    Raises:
      FileNotFoundError: a part of the pattern names no file.
    """
    whole = os.fspath(pattern)
    parts = [whole] if os.path.exists(whole) else [p.strip() for p in whole.split(",") if p.strip()]
    if not parts:
        raise FileNotFoundError(f"No {what}: the pattern is empty; give a file, glob or directory.")
    found: set[str] = set()
    for part in parts:
        files, is_dir = _glob(part, suffixes)
        if not files:
            inside = (
                f" that end in {' or '.join(suffixes)} in the directory" if is_dir else " match"
            )
            raise FileNotFoundError(
                f"No {what}: no files{inside} {part!r}; check the path, or run the stage that "
                "writes it (quote a glob so that the shell leaves it alone)."
            )
        found.update(files)
    return sorted(found)


def _glob(part: str, suffixes: tuple[str, ...]) -> tuple[list[str], bool]:
    """Returns the files of one part of a pattern and whether it is a directory."""
    if "://" in part:
        import tensorflow as tf

        if tf.io.gfile.isdir(part):
            names = tf.io.gfile.listdir(part)
            return [os.path.join(part, n) for n in names if n.endswith(suffixes)], True
        return tf.io.gfile.glob(part), False
    if os.path.isdir(part):
        paths = sorted(pathlib.Path(part).iterdir())
        return [str(p) for p in paths if p.is_file() and p.name.endswith(suffixes)], True
    if os.path.isfile(part):
        return [part], False
    return [p for p in glob.glob(part, recursive=True) if os.path.isfile(p)], False
