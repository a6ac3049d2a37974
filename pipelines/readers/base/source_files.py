# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A source: what one worker reads in one go."""

import dataclasses
from collections.abc import Sequence

from parti.stages import files

FOLDER, TFRECORD = "folder", "tfrecord"  # formats that other rooms name
HTTP = ("http://", "https://")  # how the address of an image begins that is to be fetched
ROWS_PER_SOURCE = 10_000
# To begin in the middle of a compressed file or of a row group, all before must be read.
MAX_PIECES_WITHIN = 64


@dataclasses.dataclass(frozen=True, order=True)
class Source:
    """A tar, a TFRecord file, pairs of a folder by their images, or rows of a table."""

    format: str  # a key of `formats.FORMATS`
    paths: tuple[str, ...]  # the files; one except for a folder
    root: str = ""  # the folder that keys are relative to; empty for tars and TFRecords
    num_bytes: int = 0  # size of what is read, for the progress line
    # Of a folder, for each of `paths` the other files of its pair
    beside: tuple[tuple[str, ...], ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()  # (reason, path) of files that no source has
    # The rest is of tables only.
    start: int = 0  # the first row
    stop: int = -1  # the row after the last; -1 if all that follow belong to it
    offset: int = 0  # of text, where the first row begins, in bytes of the decompressed file
    line: int = 0  # of text, how many lines are before it
    names: tuple[str, ...] = ()  # the columns; empty for jsonl, where each row has its own
    columns: tuple[tuple[str, str], ...] = ()  # the (role, column) that the user has named
    separator: str = (
        ""  # of the cells of csv and tsv; a space after it if spaces before quotes are none of
    )
    # the text, or a tsv is quoted as csv is
    encoding: str = ""  # of text; empty for UTF-8
    line_end: str = ""  # of text, if it is neither a line feed nor ends with one
    image_root: str = ""  # the folder that paths are relative to; empty for the table's own
    num_rows: int = 0  # how many, as far as is known
    problem: str = ""  # why no row can be read, which the reader reports; else empty
    mistake: str = ""  # the problem with its path, if it may be a mistake of the user's

    @property
    def name(self) -> str:
        """The name of its first file, as UTF-8 can write it."""
        return files.text(files.name(self.paths[0]))


@dataclasses.dataclass(frozen=True)
class Found:
    """Files of one format below one folder, to be split into sources."""

    format: str
    root: str
    entries: Sequence[files.Entry]
    columns: tuple[tuple[str, str], ...] = ()  # as of `Source`
    # What else is in the folder; None if a glob names the files, not the folder that they are in
    others: Sequence[files.Entry] | None = None
    left_out: Sequence[tuple[str, str]] = ()  # as of `Source`
    separator: str = ""  # as of `Source`; empty to find it out
    encoding: str = ""  # the same
    quick: bool = False  # whether the number of rows is of no use

    def whole(self, entry: files.Entry) -> Source:
        """Returns a source of one whole table."""
        return Source(
            self.format,
            (entry.path,),
            self.root,
            entry.num_bytes,
            columns=self.columns,
            separator=self.separator,
            encoding=self.encoding,
        )


def one_for_each_file(found: Found) -> list[Source]:
    """Returns a source for each file, which is read from its beginning to its end."""
    return [Source(found.format, (e.path,), num_bytes=e.num_bytes) for e in found.entries]
