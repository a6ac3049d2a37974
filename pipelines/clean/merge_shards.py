# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Final shards of the pairs in spills: each gathers its stretches, without what was dropped."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam

from parti.data.storage import records, shard_names, tfrecords
from parti.pipelines.beam import disk_group_by_key, external_sort, sharded_writers
from parti.pipelines.clean import intermediate
from parti.pipelines.deduplicate import fingerprints
from parti.stages import files

COUNTS = "facts"
HASHES = "hashes"  # hashes-train-00000-of-00004.jsonl: the rows of a shard's pairs
_OF_THE_RUN = ("id", "known")  # what of a row means nothing in another run


class Merged(NamedTuple):
    """A pair of a spill, and what became of it.

    Attributes:
      pair: as it was spilled.
      row: its light row.
      decision: why it is dropped because of others; None if it is written.
    """

    pair: records.ImageTextPair
    row: fingerprints.Candidate
    decision: fingerprints.Decision | None


Describe = Callable[[Merged, Any], Iterable[beam.pvalue.TaggedOutput]]


class MergeSpills(beam.PTransform):
    """Writes `train-*.tfrecord`, `validation-*.tfrecord` and their hashes from spills.

    Takes a dict of `stretches` (shard, intermediate.Stretch), `decisions` (fingerprints.Decision)
    and `shown` (one list of the groups that `describe` shall show). The result has the outputs
    `files` (dict of a file: name, count, num_bytes, sha256), and whatever `describe` yields.
    """

    def __init__(
        self,
        spill_dir: files.Path,
        directory: files.Path,
        num_shards: Mapping[str, int],
        describe: Describe,
        tags: tuple[str, ...],
        folder: str = "",
    ) -> None:
        """Sets what is written.

        Args:
          spill_dir: where the spills are.
          directory: an existing folder for the shards; every worker must reach both.
          num_shards: split -> files.
          describe: called with each `Merged` and `shown`; yields tagged outputs. Those tagged
            `COUNTS`, (what, count), are added up for each shard.
          tags: of what `describe` yields.
          folder: see `disk_group_by_key.GroupByKey`.
        """
        super().__init__("Merge spills")
        self._writer = _WriteShard(str(spill_dir), str(directory), num_shards, describe)
        self._shards = [(split, i) for split, count in num_shards.items() for i in range(count)]
        self._tags, self._folder = tags, folder

    def expand(self, inputs: Mapping[str, beam.PCollection]) -> Any:
        """Returns the tagged outputs."""
        stretches = inputs["stretches"] | "Shard of stretch" >> beam.MapTuple(
            lambda shard, stretch: (_place(shard), stretch)
        )
        decisions = inputs["decisions"] | "Shard of decision" >> beam.Map(
            lambda decision: (_place(intermediate.shard_of_id(decision.id)), decision)
        )
        every = [(_place(shard), None) for shard in self._shards]
        return (
            (stretches, decisions, stretches.pipeline | "All shards" >> beam.Create(every))
            | "Gather shards" >> disk_group_by_key.GroupObjects(self._folder)
            | "Write shards"
            >> beam.ParDo(self._writer, beam.pvalue.AsSingleton(inputs["shown"])).with_outputs(
                *self._tags, main="files"
            )
        )


def _place(shard: intermediate.Shard) -> str:
    split, index = shard
    return f"{split} {index}"


class _WriteShard(beam.DoFn):
    def __init__(
        self, spill_dir: str, directory: str, num_shards: Mapping[str, int], describe: Describe
    ) -> None:
        self._spill_dir, self._directory = spill_dir, directory
        self._num_shards, self._describe = dict(num_shards), describe

    def process(
        self, element: tuple[str, Iterable[Any]], shown: Any
    ) -> Iterator[dict[str, Any] | beam.pvalue.TaggedOutput]:
        place, found = element
        split, number = place.split()
        index = int(number)
        decided = {row.id: row for row in found if isinstance(row, fingerprints.Decision)}
        stretches = sorted(row for row in found if isinstance(row, intermediate.Stretch))
        counts: collections.Counter[Any] = collections.Counter()
        with external_sort.Spool() as data, external_sort.Spool() as rows:
            for stretch in stretches:
                for row, serialized in intermediate.read_stretch(self._spill_dir, stretch):
                    decision = decided.get(row.id)
                    pair = records.ImageTextPair.from_example(serialized)
                    for output in self._describe(Merged(pair, row, decision), shown):
                        if output.tag == COUNTS:
                            counts[output.value[0]] += output.value[1]
                        else:
                            yield output
                    if decision is None:
                        rank = (sharded_writers.hash_fraction(row.key, "shard"), row.key, row.id)
                        data.add(rank, tfrecords.frame(serialized))
                        rows.add(rank, row.to_json(without=_OF_THE_RUN).encode() + b"\n")
            count = self._num_shards[split]
            yield self._write(shard_names.shard_name(split, index, count), data)
            hashes = shard_names.shard_name(f"{HASHES}-{split}", index, count, ".jsonl")
            yield self._write(hashes, rows)
        yield from (beam.pvalue.TaggedOutput(COUNTS, item) for item in counts.items())

    def _write(self, name: str, spool: external_sort.Spool) -> dict[str, Any]:
        pieces = (piece for _, piece in spool.sorted())
        written = sharded_writers.write_file(files.join(self._directory, name), pieces)
        return {**written, "count": len(spool)}
