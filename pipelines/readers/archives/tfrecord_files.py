# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pairs in TFRecord files, as `parti clean` writes them."""

import dataclasses
from collections.abc import Iterator
from typing import IO

from parti.data.storage import records, tfrecords
from parti.pipelines.readers.base import rows


def read_tfrecord(file: IO[bytes], source: str) -> Iterator[rows.Row]:
    """Yields the pairs of a TFRecord file."""
    try:
        stream = tfrecords.read_stream(file, source, max_bytes=rows.MAX_RECORD_BYTES)
        for index, serialized in enumerate(stream):
            yield _pair(serialized, f"{source}#{index}", source)
    except (ValueError, OSError, MemoryError) as error:  # the file is damaged
        yield rows.reject(source, "broken_file", rows.one_line(error), source=source)


def _pair(serialized: bytes, name: str, source: str) -> rows.Row:
    try:
        pair = records.ImageTextPair.from_example(serialized)
        metadata = rows.json_safe(pair.metadata)
    except (ValueError, RecursionError) as error:
        return rows.reject(name, "not_a_pair", rows.one_line(error), source=source)
    row = rows.make_pair(pair.key, pair.image, pair.text, pair.source, metadata)
    if isinstance(row, rows.Rejected):
        return dataclasses.replace(row, source=source)
    return dataclasses.replace(pair, metadata=row.metadata)
