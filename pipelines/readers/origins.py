# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The names of files by which keys that several of them use are told apart."""

import collections
from collections.abc import Iterable, Mapping

from parti.pipelines.readers.base import decompression
from parti.pipelines.readers.base.source_files import FOLDER, Source
from parti.pipelines.readers.formats import FORMATS
from parti.stages import files


def of_sources(
    sources: Mapping[str, Source], more: Iterable[str] = ()
) -> dict[str, tuple[str, str]]:
    """Returns the origin of the rows of each source, both by name: its first source, its label.

    An origin is a file, or a folder of images; the pieces of a file have one. Its label is its name
    without ending (with it, where files differ in that alone), with as many folders before it as
    tell it from the others, and from `more`: absolute paths of files that an earlier run has read.
    """
    paths: dict[str, str] = {}  # name of a source -> address of its origin
    short = {path: _without_ending(path) for path in more}
    for name, source in sources.items():
        path = files.absolute(source.root if source.format == FOLDER else source.paths[0])
        paths[name], short[path] = path, _without_ending(path, source.format)
    counts = collections.Counter(short.values())
    named = {path: end if counts[end] == 1 else files.text(path) for path, end in short.items()}
    labels = _shortest_suffixes({*named.values()})
    first: dict[str, str] = {}
    return {
        name: (first.setdefault(path, name), labels[named[path]])
        for name, path in sorted(paths.items())
    }


def _without_ending(path: str, input_format: str = "") -> str:
    endings = [e for name, f in FORMATS.items() if name != FOLDER for e in f.suffixes]
    if input_format != FOLDER:
        for suffix in (*decompression.SUFFIXES, *sorted(endings, key=len, reverse=True)):
            if path.lower().endswith(suffix):
                path = path[: -len(suffix)]
    return files.text(path)


def _shortest_suffixes(paths: set[str]) -> dict[str, str]:
    """Returns of each path its last parts, as few as no other path ends in."""
    found: dict[str, str] = {}
    parts = {path: path.split("/") for path in paths}
    size = 1
    while parts:
        ends = {path: "/".join(names[-size:]) for path, names in parts.items()}
        counts = collections.Counter(ends.values())
        for path, end in ends.items():
            if counts[end] == 1 or size >= len(parts[path]):
                found[path] = end.lstrip("/")
        # Those that share this end go on among themselves: a path with a longer end has it too.
        parts = {path: names for path, names in parts.items() if path not in found}
        size += 1
    return found
