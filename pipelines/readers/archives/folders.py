# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pairs in a folder: image files with the caption beside each."""

import collections
import os
from collections.abc import Iterator, Sequence

from parti.pipelines.readers.base import pair_files, rows
from parti.pipelines.readers.base.left_out import LeftOut
from parti.pipelines.readers.base.source_files import FOLDER, Found, Source
from parti.stages import files

_FILES_PER_SOURCE = 256


def has_captions(names: Sequence[str]) -> bool:
    """Returns whether captions are among the files of a folder."""
    kinds = pair_files.by_kind(names)
    keys = {pair_files.sample_key(name) for name in kinds.texts}
    return any(pair_files.sample_key(name) in keys for name in kinds.images)


def split(found: Found) -> list[Source]:
    """Returns sources of some image files each, with the files beside them."""
    sizes = {entry.path: entry.num_bytes for entry in found.entries}
    names = dict.fromkeys([*sizes, *_others(found)])
    stems: dict[str, list[str]] = collections.defaultdict(list)
    left_out: list[tuple[str, str]] = list(found.left_out)
    for name in names:
        if pair_files.suffix_of(name) in pair_files.SUFFIXES:
            stems[os.path.splitext(name)[0]].append(name)
        else:
            left_out.append(("other_ending", name))
    kinds = {stem: pair_files.by_kind(group) for stem, group in stems.items()}
    pairs: list[tuple[str, tuple[str, ...]]] = []
    for group in pair_files.keys_of_stems(kinds).values():
        of_key = pair_files.by_kind(name for stem in group for name in stems[stem])
        beside = (*of_key.images[1:], *of_key.texts, *of_key.metadata)
        if of_key.images:
            pairs.append((of_key.images[0], beside))
        else:
            left_out += [("side_file_alone", name) for name in beside]
    pairs.sort()
    if found.others is None:  # a glob: only what it names is counted
        left_out = list(found.left_out)
    starts = range(0, len(pairs), _FILES_PER_SOURCE)
    sources = []
    for number, start in enumerate(starts):
        some = pairs[start : start + _FILES_PER_SOURCE]
        paths = tuple(path for path, _ in some)
        sources.append(
            Source(
                FOLDER,
                paths,
                found.root,
                sum(sizes.get(path, 0) for path in paths),
                beside=tuple(beside for _, beside in some),
                left_out=tuple(left_out[number :: len(starts)]),
            )
        )
    return sources


def _others(found: Found) -> list[str]:
    """Returns the files beside the images; those of their folders, if a glob named the images."""
    if found.others is not None:
        return [entry.path for entry in found.others]
    folders = sorted({os.path.dirname(entry.path) for entry in found.entries})
    listed = (
        entry.path if folder else files.name(entry.path)
        for folder in folders
        for entry in files.list_folder(folder or ".")
    )
    return [path for path in listed if pair_files.suffix_of(path) in pair_files.SIDE_SUFFIXES]


def read_folder(source: Source, left_out: LeftOut) -> Iterator[rows.Row]:
    """Yields a pair for each image file, with the files beside it."""
    for reason, path in source.left_out:
        left_out.add(reason, pair_files.relative(path, source.root))
    for path, beside in zip(source.paths, source.beside, strict=True):
        yield _read_pair(path, beside, source.root, left_out)


def _read_pair(path: str, beside: Sequence[str], root: str, left_out: LeftOut) -> rows.Row:
    stems = {os.path.splitext(name)[0] for name in (path, *beside)}
    stem = min(stems) if len(stems) == 1 else pair_files.sample_key(path)
    key, source = pair_files.relative(stem, root), files.text(files.name(path))
    kinds = pair_files.by_kind((path, *beside))
    group: dict[str, bytes | rows.Rejected] = {name: b"" for name in kinds.images}
    try:
        suffix = pair_files.suffix_of(path)
        group[path] = pair_files.refusal(suffix) or pair_files.read(path)
        for name in kinds.texts:
            group[name] = pair_files.read(name, pair_files.TEXT)
        for name in kinds.metadata:
            group[name] = _read_metadata(name)
    except OSError as error:
        return rows.reject(key, "broken_file", rows.one_line(error), source=source)
    return pair_files.make_pair(key, group, source, left_out, root)


def _read_metadata(path: str) -> bytes | rows.Rejected:
    try:
        return pair_files.read(path, pair_files.METADATA)
    except OSError as error:
        return rows.refuse("broken_metadata", rows.one_line(error))
