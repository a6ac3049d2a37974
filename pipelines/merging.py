# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Final shards of the pairs in spills: each gathers its stretches, without what was dropped."""

import collections
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam

from parti.data import file_names, files, records, tfrecords
from parti.pipelines import candidates, spills, writers

COUNTS = "facts"
_MEMORY_BYTES = 64 * 2**20
HASHES = "hashes"  # hashes-train-00000-of-00004.jsonl: the rows of a shard's pairs


class Kept(NamedTuple):
    """A pair that was written."""

    pair: records.ImageTextPair
    row: candidates.Candidate


class Dropped(NamedTuple):
    """A pair that was dropped because of others."""

    pair: records.ImageTextPair
    row: candidates.Candidate
    decision: candidates.Decision


Describe = Callable[[Kept | Dropped, Any], Iterable[beam.pvalue.TaggedOutput]]


class MergeSpills(beam.PTransform):
    """Writes `train-*.tfrecord`, `validation-*.tfrecord` and their hashes from spills.

    Takes a dict of `stretches` (shard, spills.Stretch), `decisions` (candidates.Decision) and
    `shown` (one list of the groups that `describe` shall show). The result has the outputs `files`
    (dict of a file: name, count, num_bytes, sha256), and whatever `describe` yields.
    """

    def __init__(
        self,
        spill_dir: files.Path,
        directory: files.Path,
        num_shards: Mapping[str, int],
        describe: Describe,
        tags: tuple[str, ...],
    ) -> None:
        """Sets what is written.

        Args:
          spill_dir: where the spills are.
          directory: an existing folder for the shards; every worker must reach both.
          num_shards: split -> files.
          describe: called with each `Kept` and `Dropped`, and `shown`; yields tagged outputs. Those
            tagged `COUNTS`, (what, count), are added up for each shard.
          tags: of what `describe` yields.
        """
        super().__init__("Merge spills")
        self._writer = _WriteShard(str(spill_dir), str(directory), num_shards, describe)
        self._shards = [(split, i) for split, count in num_shards.items() for i in range(count)]
        self._tags = tags

    def expand(self, inputs: Mapping[str, beam.PCollection]) -> Any:
        """Returns the tagged outputs."""
        stretches = inputs["stretches"]
        decisions = inputs["decisions"] | "Shard of decision" >> beam.Map(
            lambda decision: (spills.shard_of_id(decision.id), decision)
        )
        every = stretches.pipeline | "All shards" >> beam.Create([(s, 0) for s in self._shards])
        return (
            {"stretches": stretches, "decisions": decisions, "shards": every}
            | "Gather shards" >> beam.CoGroupByKey()
            | "Write shards"
            >> beam.ParDo(self._writer, beam.pvalue.AsSingleton(inputs["shown"])).with_outputs(
                *self._tags, main="files"
            )
        )


class _WriteShard(beam.DoFn):
    def __init__(
        self, spill_dir: str, directory: str, num_shards: Mapping[str, int], describe: Describe
    ) -> None:
        self._spill_dir, self._directory = spill_dir, directory
        self._num_shards, self._describe = dict(num_shards), describe

    def process(
        self, element: tuple[spills.Shard, Mapping[str, Iterable[Any]]], shown: Any
    ) -> Iterator[dict[str, Any] | beam.pvalue.TaggedOutput]:
        (split, index), groups = element
        decided = {decision.id: decision for decision in groups["decisions"]}
        counts: collections.Counter[Any] = collections.Counter()
        with _Spool() as data, _Spool() as rows:
            for stretch in sorted(groups["stretches"]):
                for row, serialized in spills.read_stretch(self._spill_dir, stretch):
                    decision = decided.get(row.id)
                    pair = records.ImageTextPair.from_example(serialized)
                    known = Dropped(pair, row, decision) if decision else Kept(pair, row)
                    for output in self._describe(known, shown):
                        if output.tag == COUNTS:
                            counts[output.value[0]] += output.value[1]
                        else:
                            yield output
                    if decision is None:
                        place = (writers.hash_fraction(row.key, "shard"), row.key, row.id)
                        data.add(place, tfrecords.frame(serialized))
                        rows.add(place, _line(row))
            yield self._write(split, index, ".tfrecord", data)
            yield self._write(f"{HASHES}-{split}", index, ".jsonl", rows, split)
        yield from (beam.pvalue.TaggedOutput(COUNTS, item) for item in counts.items())

    def _write(
        self, prefix: str, index: int, suffix: str, spool: "_Spool", split: str = ""
    ) -> dict[str, Any]:
        name = file_names.shard_name(prefix, index, self._num_shards[split or prefix], suffix)
        written = writers.write_file(files.join(self._directory, name), spool.sorted())
        return {**written, "count": len(spool)}


class _Spool:
    """Pieces of bytes to be sorted: only their places are in memory when they are many."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115
        self._pieces: list[tuple[tuple[float, str, str], int, int]] = []

    def __enter__(self) -> "_Spool":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._pieces)

    def add(self, place: tuple[float, str, str], piece: bytes) -> None:
        """Adds a piece; `place` is what it is sorted by."""
        self._pieces.append((place, self._file.tell(), len(piece)))
        self._file.write(piece)

    def sorted(self) -> Iterator[bytes]:
        """Yields the pieces in order."""
        for _, offset, num_bytes in sorted(self._pieces):
            self._file.seek(offset)
            yield self._file.read(num_bytes)


def _line(row: candidates.Candidate) -> bytes:
    """Returns the line of a kept pair's row; the id meant something in that run only."""
    values = json.loads(row.to_json())
    del values["id"], values["known"]
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
