# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Raw image-text pairs from webdataset tars, folders, TFRecords, and tables with paths or URLs.

    sources = readers.find_sources(["raw/*.tar"])
    read = root | readers.ReadPairs(sources)      # read.pairs, read.rejected

A row that cannot be read is a `Rejected` record with its reason (`REASONS`), never an exception.

    formats.py     the table of formats: how each is found, split and read
    sources.py     which files there are, in pieces of work
    reading.py     a source to pairs, and the Beam transform
    origins.py     the names of files by which keys that several use are told apart
    tables/        tables of captions and images, paths or URLs: delimited text, Parquet
    http/          images by URL
    archives/      the formats that hold images themselves: tars, folders, TFRecord files
    base/          what a row may be, with bounds and reasons; the files of a pair; decompression
"""

from parti.pipelines.readers.archives.tars import read_tar
from parti.pipelines.readers.base.rows import REASONS, Rejected, parse_metadata
from parti.pipelines.readers.base.source_files import Source
from parti.pipelines.readers.formats import FORMATS
from parti.pipelines.readers.formats import check as check_format
from parti.pipelines.readers.reading import ReadPairs, read_source
from parti.pipelines.readers.sources import detect_format, find_sources
from parti.pipelines.readers.tables.column_roles import given as check_columns
from parti.pipelines.readers.tables.delimited import check_text

__all__ = [
    "FORMATS",
    "REASONS",
    "ReadPairs",
    "Rejected",
    "Source",
    "check_columns",
    "check_format",
    "check_text",
    "detect_format",
    "find_sources",
    "parse_metadata",
    "read_source",
    "read_tar",
]
