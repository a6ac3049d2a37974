# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A source to its pairs, and the Beam transform that reads all sources."""

from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

from parti.pipelines.beam import options
from parti.pipelines.readers import sources, tables
from parti.pipelines.readers.archives import folders, tars, tfrecord_files
from parti.pipelines.readers.base import rows
from parti.pipelines.readers.http import fetching
from parti.stages import files

_STREAMS = {sources.WEBDATASET: tars.read_tar, sources.TFRECORD: tfrecord_files.read_tfrecord}


def read_source(
    source: sources.Source, fetcher: fetching.Fetcher | None = None
) -> Iterator[rows.Row]:
    """Yields the pairs of a source, images undecoded, and what could not be read.

    Args:
      source: from `find_sources`.
      fetcher: for tables with URLs; None makes one with the default settings. A process that reads
        several sources shares one, so that its limits for a host hold.
    """
    if source.format == sources.FOLDER:
        for path in source.paths:
            yield folders.read_image_file(path, source.root)
    elif source.format in _STREAMS:
        yield from _read_stream(source)
    elif fetcher is not None:
        yield from tables.read_table(source, fetcher)
    else:
        own = fetching.Fetcher(fetching.FetchSettings())
        try:
            yield from tables.read_table(source, own)
        finally:
            own.close()


def _read_stream(source: sources.Source) -> Iterator[rows.Row]:
    name = rows.utf8(files.name(source.paths[0]))
    try:
        file = files.open(source.paths[0])
    except OSError as error:
        yield rows.reject(name, "broken_file", rows.one_line(error), source=name)
        return
    with file:
        yield from _STREAMS[source.format](file, name)


class ReadPairs(beam.PTransform):
    """Reads sources; the result has the outputs `pairs` and `rejected`."""

    def __init__(
        self,
        sources: Sequence[sources.Source],
        fetch: fetching.FetchSettings | None = None,
    ) -> None:
        """Sets what to read, and how to fetch the pictures of URLs."""
        super().__init__()
        self._sources = list(sources)
        self._fetch = fetch or fetching.FetchSettings()

    def expand(self, root: beam.Pipeline) -> Any:
        """Returns the tagged outputs: `pairs` (ImageTextPair), `rejected` (Rejected)."""
        return (
            root
            | beam.Create(self._sources)
            | beam.Reshuffle()  # so that workers share the files
            | beam.ParDo(_ReadPairs(self._fetch)).with_outputs("rejected", main="pairs")
        )


class _ReadPairs(beam.DoFn):
    def __init__(self, fetch: fetching.FetchSettings) -> None:
        self._settings = fetch

    def setup(self) -> None:
        self._fetcher = fetching.shared(self._settings)

    def process(self, source: sources.Source) -> Iterator[Any]:
        rest = source.num_bytes
        for row in read_source(source, self._fetcher):
            size = 0 if isinstance(row, rows.Rejected) else min(len(row.image), rest)
            rest -= size
            options.tick(1, size)
            is_rejected = isinstance(row, rows.Rejected)
            yield beam.pvalue.TaggedOutput("rejected", row) if is_rejected else row
        options.tick(0, rest)
