# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The last step of `parti clean`: final shards, each from its ranges of the intermediate shards."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam

from parti.data.storage import record_offsets, records, shard_names, tfrecords
from parti.pipelines.beam import disk_group_by_key, sharded_writers
from parti.pipelines.clean import intermediate
from parti.pipelines.deduplicate import fingerprints
from parti.stages import files

COUNTS = "counts"
HASHES = "hashes"  # hashes-train-00000-of-00004.jsonl: the rows of a shard's pairs
_OF_THE_RUN = ("id", "known")  # fields of a row that mean nothing in another run
_RENAMED = "renamed-"  # how the names of intermediate shards of pairs with new keys begin


class Merged(NamedTuple):
    """A filtered pair, and what becomes of it."""

    pair: records.ImageTextPair
    row: fingerprints.Fingerprint
    decision: fingerprints.Decision | None  # why other pairs drop it; None: it is written
    is_new_key: bool = False  # whether its key was changed, since a pair of another file has it


SplitOf = Callable[[records.ImageTextPair], str]
Describe = Callable[[Merged, Any], Iterable[beam.pvalue.TaggedOutput]]


class MergeShards(beam.PTransform):
    """Writes `train-*.tfrecord`, `validation-*.tfrecord`, their offsets and their hashes.

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
        split_of: SplitOf,
    ) -> None:
        """Sets folders that exist and that every worker reaches, and split -> final shards.

        `describe` is called with each `Merged` and `shown`, and yields outputs with these tags.
        Those tagged `COUNTS`, (what, count), are added up for each shard. `split_of` returns the
        split of a pair, by its new key.
        """
        super().__init__("Merge shards")
        self._intermediate_dir, self._directory = str(intermediate_dir), str(directory)
        self._num_shards, self._describe, self._tags = dict(num_shards), describe, tags
        self._split_of = split_of

    def expand(self, inputs: Mapping[str, beam.PCollection]) -> Any:
        """Returns the tagged outputs."""
        ranges = inputs["ranges"] | "Shard of range" >> beam.MapTuple(
            lambda shard, found: ("{} {}".format(*shard), found)
        )
        decisions = inputs["decisions"] | "Shard of decision" >> beam.Map(
            lambda found: ("{} {}".format(*intermediate.shard_of_id(found.id)), found)
        )
        renamed = (
            (ranges, decisions)
            | "Gather renamed" >> disk_group_by_key.GroupObjects()
            | "Move renamed" >> beam.FlatMap(lambda group: self._move(*group))
        )
        every = [
            (f"{split} {index}", None)
            for split, count in self._num_shards.items()
            for index in range(count)
        ]
        return (
            (ranges, decisions, renamed, ranges.pipeline | "All shards" >> beam.Create(every))
            | "Gather shards" >> disk_group_by_key.GroupObjects()
            | "Write shards"
            >> beam.FlatMap(
                lambda group, shown: self._merge(group[0], group[1], shown),
                beam.pvalue.AsSingleton(inputs["shown"]),
            ).with_outputs(*self._tags, main="files")
        )

    def _move(self, key: str, found: Iterable[Any]) -> Iterator[tuple[str, intermediate.Range]]:
        """Writes a shard's pairs with new keys anew, by the shards of these; yields the ranges.

        Those that are dropped stay.
        """
        decisions, new_keys, ranges = _by_kind(found)
        new_keys = {
            identity: new for identity, new in new_keys.items() if identity not in decisions
        }
        if not new_keys:
            return
        name = _RENAMED + key.replace(" ", "-")
        with intermediate.Writer(self._intermediate_dir, name, self._num_shards) as writer:
            for row, serialized in intermediate.read_ranges(self._intermediate_dir, ranges):
                if new := new_keys.get(row.id):
                    pair = dataclasses.replace(
                        records.ImageTextPair.from_example(serialized), key=new
                    )
                    row = dataclasses.replace(row, key=new, split=self._split_of(pair))
                    writer.add(pair.to_example(), row)
            for shard, some in writer.finish({}).ranges():
                yield "{} {}".format(*shard), some

    def _merge(
        self, key: str, found: Iterable[Any], shown: Any
    ) -> Iterator[dict[str, Any] | beam.pvalue.TaggedOutput]:
        split, index = key.split()
        decisions, new_keys, ranges = _by_kind(found)
        counts: collections.Counter[Any] = collections.Counter()
        with sharded_writers.SortedFile(3 / 4) as pairs, sharded_writers.SortedFile(1 / 4) as rows:
            for row, serialized in intermediate.read_ranges(self._intermediate_dir, ranges):
                decision, new = decisions.get(row.id), new_keys.get(row.id)
                if new and decision is None:
                    continue  # it was moved
                pair = records.ImageTextPair.from_example(serialized)
                if new:
                    row = dataclasses.replace(row, key=new)
                    pair = dataclasses.replace(pair, key=new)
                is_new_key = bool(new) or row.id.startswith(_RENAMED)
                for output in self._describe(Merged(pair, row, decision, is_new_key), shown):
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
            path = files.join(self._directory, name)
            yield pairs.write(path)
            record_offsets.write(path, record_offsets.of_sizes(pairs.sizes()))
            name = shard_names.shard_name(f"{HASHES}-{split}", int(index), count, ".jsonl")
            yield rows.write(files.join(self._directory, name))
        yield from (beam.pvalue.TaggedOutput(COUNTS, item) for item in counts.items())


def _by_kind(
    found: Iterable[Any],
) -> tuple[dict[str, fingerprints.Decision], dict[str, str], list[intermediate.Range]]:
    """Returns decisions by id, new keys by id, and ranges."""
    decisions: dict[str, fingerprints.Decision] = {}
    new_keys: dict[str, str] = {}
    ranges: list[intermediate.Range] = []
    for item in found:
        if isinstance(item, fingerprints.Decision):
            decisions[item.id] = item
        elif isinstance(item, fingerprints.NewKey):
            new_keys[item.id] = item.key
        elif item is not None:
            ranges.append(item)
    return decisions, new_keys, ranges
