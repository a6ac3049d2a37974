# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A source to its pairs, and the Beam transform that reads all sources."""

from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

from parti.pipelines.beam import options
from parti.pipelines.readers import formats
from parti.pipelines.readers.base import rows
from parti.pipelines.readers.base.source_files import Source
from parti.pipelines.readers.http import fetching, originals


def read_source(
    source: Source,
    fetcher: fetching.Fetcher | None = None,
    wants: fetching.Wants = fetching.every,
    part: originals.Part | None = None,
) -> Iterator[rows.Row]:
    """Yields the pairs of a source, images undecoded, and what could not be read.

    Images by URL come from the fetcher; without one, from the process's own of default settings.
    `wants` and `part` are as of `fetching.Images`.
    """
    fetcher = fetcher or fetching.shared(fetching.FetchSettings())
    images = fetching.Images(fetcher, wants, part)
    yield from formats.FORMATS[source.format].read(source, images)


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
        if isinstance(row, rows.Rejected):
            options.tick(1)
            yield beam.pvalue.TaggedOutput("rejected", row)
            continue
        size = min(len(row.image), rest)
        rest -= size
        options.tick(1, size)
        yield row
    options.tick(0, rest)
