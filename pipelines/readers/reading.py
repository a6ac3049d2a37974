# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A source to its pairs, and the Beam transform that reads all sources."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

from parti.pipelines.beam import options
from parti.pipelines.readers import formats
from parti.pipelines.readers.base import rows
from parti.pipelines.readers.base.left_out import LeftOut
from parti.pipelines.readers.base.source_files import FOLDER, Source
from parti.pipelines.readers.http import fetching, originals
from parti.stages import files

_TAR_BLOCK = 512


def read_source(
    source: Source,
    fetcher: fetching.Fetcher | None = None,
    left_out: LeftOut | None = None,
    wants: fetching.Wants = fetching.every,
    part: originals.Part | None = None,
) -> Iterator[rows.Row]:
    """Yields the pairs of a source, images undecoded, and what could not be read.

    Images by URL come from the fetcher; without one, from the process's own of default settings.
    `wants` and `part` are as of `fetching.Images`. Files that are no part of a pair go to
    `left_out`, some of them only at the end.
    """
    fetcher = fetcher or fetching.shared(fetching.FetchSettings())
    images = fetching.Images(fetcher, wants, part)
    left_out = LeftOut() if left_out is None else left_out
    if source.format != FOLDER:
        for reason, path in source.left_out:
            left_out.add(reason, files.text(files.name(path)))
    yield from formats.FORMATS[source.format].read(source, images, left_out)


def num_rows(source: Source) -> int:
    """Returns how many rows a source has; 0: not known before it is read."""
    return len(source.paths) if source.format == FOLDER else source.num_rows


def size(row: rows.Row) -> int:
    """Returns about the bytes of a row in its file, which is taken for a tar of small members."""
    if isinstance(row, rows.Rejected):
        return 0
    sizes = [len(row.image), len(row.text)]
    sizes += [len(json.dumps(row.metadata))] if row.metadata else []
    return sum(sizes) + len(sizes) * 3 * _TAR_BLOCK // 2  # a header, and half a block to fill one


def share(source: Source, sizes: Sequence[int], whole: int) -> int:
    """Returns the part of `whole`, a source's weight in the progress, for rows of these sizes."""
    count = num_rows(source)
    return whole * len(sizes) // count if count else whole * sum(sizes) // max(1, source.num_bytes)


class ReadPairs(beam.PTransform):
    """Reads sources; the result has the outputs `pairs` and `rejected`."""

    def __init__(self, sources: Sequence[Source]) -> None:
        super().__init__()
        self._sources = list(sources)

    def expand(self, root: beam.Pipeline) -> Any:
        """Returns the tagged outputs: `pairs` (ImageTextPair), `rejected` (Rejected)."""
        return (
            root
            | beam.Create(self._sources)
            | beam.Reshuffle()  # so that workers share the files
            | beam.FlatMap(_read).with_outputs("rejected", main="pairs")
        )


def _read(source: Source) -> Iterator[Any]:
    rest = source.num_bytes
    for row in read_source(source):
        weight = min(share(source, [size(row)], source.num_bytes), rest)
        rest -= weight
        options.tick(1, weight)
        is_pair = not isinstance(row, rows.Rejected)
        yield row if is_pair else beam.pvalue.TaggedOutput("rejected", row)
    options.tick(0, rest)
