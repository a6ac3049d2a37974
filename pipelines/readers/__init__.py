# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Raw image-text pairs from webdataset tars, folders, TFRecords, and tables with paths or URLs.

    sources = readers.find_sources(["raw/*.tar"])
    read = root | readers.ReadPairs(sources)      # read.pairs, read.rejected

A row that cannot be read is a `Rejected` record with its reason (`REASONS`), never an exception.

    sources.py     which files there are, and their formats
    reading.py     a source to pairs, and the Beam transform
    tables.py      rows of a table to pairs, by the names of columns
    text_tables/   the formats of tables: delimited text, Parquet
    http/          images by URL
    archives/      the formats that hold images themselves: tars, folders, TFRecord files
    base/          what a row may be, with its bounds and reasons; decompression with a bound
"""

from parti.pipelines.readers.archives.tars import read_tar
from parti.pipelines.readers.base.rows import REASONS, Rejected, parse_metadata
from parti.pipelines.readers.reading import ReadPairs, read_source
from parti.pipelines.readers.sources import (
    FORMATS,
    Source,
    check_columns,
    check_format,
    detect_format,
    find_sources,
)

__all__ = [
    "FORMATS",
    "REASONS",
    "ReadPairs",
    "Rejected",
    "Source",
    "check_columns",
    "check_format",
    "detect_format",
    "find_sources",
    "parse_metadata",
    "read_source",
    "read_tar",
]
