# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The last step of `parti clean`: final shards, each from its ranges of the intermediate shards."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam

from parti.data.storage import records, shard_names, tfrecords
from parti.pipelines.beam import disk_group_by_key, sharded_writers
from parti.pipelines.clean import intermediate
from parti.pipelines.deduplicate import fingerprints
from parti.stages import files

COUNTS = "counts"
HASHES = "hashes"  # hashes-train-00000-of-00004.jsonl: the rows of a shard's pairs
_OF_THE_RUN = ("id", "known")  # fields of a row that mean nothing in another run


class Merged(NamedTuple):
    """A filtered pair, and what becomes of it."""

    pair: records.ImageTextPair
    row: fingerprints.Fingerprint
    decision: fingerprints.Decision | None  # why other pairs drop it; None: it is written
    is_new_key: bool = False  # whether its key was changed, since a pair of another file has it


Describe = Callable[[Merged, Any], Iterable[beam.pvalue.TaggedOutput]]


class MergeShards(beam.PTransform):
    """Writes `train-*.tfrecord`, `validation-*.tfrecord` and their hashes.

    Takes a dict of `ranges` (shard, intermediate.Range), `decisions` (fingerprints.Decision,
    fingerprints.NewKey) and `shown` (one list of the groups that `describe` shall show). The result
    has the outputs `files` (dict of a file: name, count, num_bytes, sha256), and what `describe`
    yields.
    """

    def __init__(
        self,
        intermediate_dir: files.Path,
        directory: files.Path,
        num_shards: Mapping[str, int],
        describe: Describe,
        tags: tuple[str, ...],
    ) -> None:
        """Sets folders that exist and that every worker reaches, and split -> final shards.

        `describe` is called with each `Merged` and `shown`, and yields outputs with these tags.
        Those tagged `COUNTS`, (what, count), are added up for each shard.
        """
        super().__init__("Merge shards")
        self._intermediate_dir, self._directory = str(intermediate_dir), str(directory)
        self._num_shards, self._describe, self._tags = dict(num_shards), describe, tags

    def expand(self, inputs: Mapping[str, beam.PCollection]) -> Any:
        """Returns the tagged outputs."""
        ranges = inputs["ranges"] | "Shard of range" >> beam.MapTuple(
            lambda shard, found: ("{} {}".format(*shard), found)
        )
        decisions = inputs["decisions"] | "Shard of decision" >> beam.Map(
            lambda found: ("{} {}".format(*intermediate.shard_of_id(found.id)), found)
        )
        every = [
            (f"{split} {index}", None)
            for split, count in self._num_shards.items()
            for index in range(count)
        ]
        return (
            (ranges, decisions, ranges.pipeline | "All shards" >> beam.Create(every))
            | "Gather shards" >> disk_group_by_key.GroupObjects()
            | "Write shards"
            >> beam.FlatMap(
                lambda group, shown: self._merge(group[0], group[1], shown),
                beam.pvalue.AsSingleton(inputs["shown"]),
            ).with_outputs(*self._tags, main="files")
        )

    def _merge(
        self, key: str, found: Iterable[Any], shown: Any
    ) -> Iterator[dict[str, Any] | beam.pvalue.TaggedOutput]:
        split, index = key.split()
        decisions = {item.id: item for item in found if isinstance(item, fingerprints.Decision)}
        new_keys = {item.id: item.key for item in found if isinstance(item, fingerprints.NewKey)}
        ranges = [item for item in found if isinstance(item, intermediate.Range)]
        counts: collections.Counter[Any] = collections.Counter()
        with sharded_writers.SortedFile(3 / 4) as pairs, sharded_writers.SortedFile(1 / 4) as rows:
            for row, serialized in intermediate.read_ranges(self._intermediate_dir, ranges):
                decision = decisions.get(row.id)
                pair = records.ImageTextPair.from_example(serialized)
                if row.id in new_keys:
                    row = dataclasses.replace(row, key=new_keys[row.id])
                    pair = dataclasses.replace(pair, key=row.key)
                    serialized = pair.to_example()
                for output in self._describe(
                    Merged(pair, row, decision, row.id in new_keys), shown
                ):
                    if output.tag == COUNTS:
                        counts[output.value[0]] += output.value[1]
                    else:
                        yield output
                if decision is None:
                    rank = (sharded_writers.hash_fraction(row.key, "shard"), row.key, row.id)
                    pairs.add(rank, tfrecords.frame(serialized))
                    rows.add(rank, row.to_json(without=_OF_THE_RUN).encode() + b"\n")
            count = self._num_shards[split]
            name = shard_names.shard_name(split, int(index), count)
            yield pairs.write(files.join(self._directory, name))
            name = shard_names.shard_name(f"{HASHES}-{split}", int(index), count, ".jsonl")
            yield rows.write(files.join(self._directory, name))
        yield from (beam.pvalue.TaggedOutput(COUNTS, item) for item in counts.items())
