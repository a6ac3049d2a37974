# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of input formats: a row says how files of a format are found, split and read."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from parti.pipelines.readers.archives import folders, tars, tfrecord_files
from parti.pipelines.readers.base import left_out, pair_files, rows, source_files
from parti.pipelines.readers.http import fetching
from parti.pipelines.readers.tables import delimited, pairs, parquet
from parti.stages import files

Source = source_files.Source
# Images are those by URL
Read = Callable[[Source, fetching.Images, left_out.LeftOut], Iterator[rows.Row]]
Split = Callable[[source_files.Found], list[Source]]


@dataclasses.dataclass(frozen=True)
class Format:
    """An input format."""

    name: str  # what --input_format takes
    description: str
    suffixes: tuple[str, ...]  # endings of its files, in lower case
    read: Read  # yields the pairs and rejected rows of a source; counts files that are left out
    split: Split = source_files.one_for_each_file  # returns the sources in files of this format
    files: str = ""  # what its files are called in messages; "<name> files" if empty
    # Whether a folder with these names of files, in lower case, is of this format although files
    # of others are there too; the first certain row of the table counts
    is_certain: Callable[[Sequence[str]], bool] = lambda names: True
    is_table: bool = False  # whether a row of it names columns

    def names_one_of(self, paths: Sequence[str]) -> bool:
        """Returns whether any of these paths, in lower case, has an ending of this format."""
        return any(path.endswith(self.suffixes) for path in paths)


def _stream(read: Callable[..., Iterator[rows.Row]], counts_files: bool = False) -> Read:
    def read_source(
        source: Source, images: fetching.Images, found: left_out.LeftOut
    ) -> Iterator[rows.Row]:
        name, more = source.name, [found] if counts_files else []
        try:
            file = files.open(source.paths[0])
        except OSError as error:
            yield rows.reject(name, "broken_file", rows.one_line(error), source=name)
            return
        with file:
            yield from read(file, name, *more)

    return read_source


def _table(
    name: str,
    description: str,
    suffixes: tuple[str, ...],
    split: Split,
    read_rows: pairs.ReadRows,
    **more: Any,
) -> Format:
    read = functools.partial(pairs.read_table, read_rows=read_rows, suffixes=suffixes)
    return Format(
        name,
        description,
        suffixes,
        lambda *given: read(*given[:2]),
        split,
        is_table=True,
        **more,
    )


_TABLE = (
    Format(
        source_files.TFRECORD,
        "image-text pairs as `parti clean` writes them",
        (".tfrecord",),
        _stream(tfrecord_files.read_tfrecord),
        files="TFRecord files",
    ),
    Format(
        "webdataset",
        "tar files in img2dataset layout: key.jpg|png|webp, key.txt, key.json",
        tars.SUFFIXES,
        _stream(tars.read_tar, counts_files=True),
        files="tar files",
    ),
    Format(
        source_files.FOLDER,
        "image files with the caption beside each, in a .txt of the same name",
        pair_files.IMAGE_SUFFIXES,
        lambda source, images, found: folders.read_folder(source, found),
        folders.split,
        files="image files",
        is_certain=folders.has_captions,  # else a table may hold them
    ),
    _table(
        "parquet",
        "tables with a caption and a picture's bytes, path or URL",
        (".parquet",),
        parquet.split,
        parquet.read_rows,
    ),
    *(
        _table(name, description, delimited.SUFFIXES[name], delimited.split, delimited.read_rows)
        for name, description in (
            (delimited.CSV, "the same as text, separated by commas, semicolons or bars"),
            (delimited.TSV, "separated by tabs"),
            (delimited.JSONL, "a JSON object in each line"),
        )
    ),
    _table(
        delimited.TXT,
        "tables of text of any of these forms, as Flickr8k's captions.txt",
        delimited.SUFFIXES[delimited.TXT],
        delimited.split,
        delimited.read_rows,
        # Elsewhere a .txt is a caption, or a note.
        is_certain=lambda names: all(n.endswith(delimited.SUFFIXES[delimited.TXT]) for n in names),
    ),
)
FORMATS = {row.name: row for row in _TABLE}


def check(input_format: str) -> None:
    """Raises ValueError unless it is a key of `FORMATS`, or "auto"."""
    if input_format != "auto" and input_format not in FORMATS:
        raise ValueError(
            f"--input_format={input_format}: unknown; choose from auto, {', '.join(FORMATS)}"
        )


def detect(pattern: str, paths: Sequence[str]) -> str:
    """Returns the name of the format of some files.

    Raises:
      ValueError: the format is not known; the message lists the formats.
    """
    names = [path.lower() for path in paths]
    found = [row for row in FORMATS.values() if row.names_one_of(names)]
    if not found:
        known = "; ".join(f"{row.name} ({row.description})" for row in FORMATS.values())
        raise ValueError(
            f"{pattern}: format not recognised; known are {known}. Name one with --input_format."
        )
    return next((row for row in found if row.is_certain(names)), found[0]).name
