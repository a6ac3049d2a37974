# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A source: what one worker reads in one go."""

import dataclasses
from collections.abc import Sequence

from parti.stages import files

FOLDER, TFRECORD = "folder", "tfrecord"  # formats that other rooms name
ROWS_PER_SOURCE = 10_000
# To begin in the middle of a compressed file or of a row group, all before must be read.
MAX_PIECES_WITHIN = 64


@dataclasses.dataclass(frozen=True, order=True)
class Source:
    """A tar, a TFRecord file, files of a folder, or rows of a table."""

    format: str  # a key of `formats.FORMATS`
    paths: tuple[str, ...]  # the files; one except for a folder
    root: str = ""  # the folder that keys are relative to; empty for tars and TFRecords
    num_bytes: int = 0  # size of what is read, for the progress line
    start: int = 0  # of a table, the first row
    stop: int = -1  # of a table, the row after the last; -1 if all that follow belong to it
    # Of a table as text, where the first row begins, in bytes of the decompressed file
    offset: int = 0
    names: tuple[str, ...] = ()  # of a table's columns; empty for jsonl, where each row has its own
    # Of a table, the (role, column) that the user has named
    columns: tuple[tuple[str, str], ...] = ()
    image_root: str = ""  # of a table, the folder that its paths are relative to; empty for its own
    num_rows: int = 0  # of a table, how many, as far as is known
    problem: str = ""  # of a table, why no row can be read, which its reader reports; else empty
    mistake: str = ""  # of a table, the problem with its path, if it may be a mistake of the user's


@dataclasses.dataclass(frozen=True)
class Found:
    """Files of one format below one folder, to be split into sources."""

    format: str
    root: str
    entries: Sequence[files.Entry]
    # Of tables, the (role, column) that the user has named
    columns: tuple[tuple[str, str], ...] = ()


def one_for_each_file(found: Found) -> list[Source]:
    """Returns a source for each file, which is read from its beginning to its end."""
    return [Source(found.format, (e.path,), num_bytes=e.num_bytes) for e in found.entries]
