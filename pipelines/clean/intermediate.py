# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Spills: the pairs of one source on disk, grouped by the shard that they will be written to.

    <name>-<attempt>.tfrecord    the pairs; those of one shard lie together, sorted by hash of key
    <name>-<attempt>.jsonl       their `Candidate` rows, in the same order
    <name>.json                  which attempt, where each shard's stretch begins, notes; last
    <name>.wanted                of a source that is read in part, which rows; from before the run

So pictures never go through a shuffle of the runner: only the rows do, and each final shard reads
its stretch of every spill. A spill with its .json is finished work, whatever becomes of the run.
Two workers on one source write two attempts; what either tells the runner stays readable.
"""

import dataclasses
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from parti.data.storage import records, tfrecords
from parti.pipelines.beam import external_sort, sharded_writers
from parti.pipelines.deduplicate import fingerprints
from parti.stages import files

Shard = tuple[str, int]  # split, index
Wanted = dict[int, str]  # the number of a row in its source -> its key


class Stretch(NamedTuple):
    """The pairs of one spill for one shard.

    Attributes:
      name: of the attempt.
      num_pairs: how many they are.
      offset: where they begin in its .tfrecord, in bytes.
      row_offset: where their rows begin in its .jsonl, in bytes.
    """

    name: str
    num_pairs: int
    offset: int
    row_offset: int


def write_wanted(directory: files.Path, name: str, wanted: Wanted) -> None:
    """Says which rows are to be read of the source whose spill has this name."""
    text = json.dumps(list(wanted.items()), ensure_ascii=False)
    files.write_bytes(files.join(directory, f"{name}.wanted"), text.encode("utf-8", "replace"))


def read_wanted(directory: files.Path, name: str) -> Wanted:
    """Returns what `write_wanted` was given."""
    return dict(json.loads(files.read_bytes(files.join(directory, f"{name}.wanted"))))


def _candidate_id(name: str, shard: Shard, place: int) -> str:
    """Returns the id of the pair at a place of a spill; it says to which shard it goes."""
    return f"{name}/{shard[0]}/{shard[1]}/{place}"


def shard_of_id(identity: str) -> Shard:
    """Returns the shard that a candidate's id names."""
    _, split, index, _ = identity.rsplit("/", 3)
    return split, int(index)


class SpillWriter:
    """Collects the pairs of one source; `finish` writes them."""

    def __init__(self, directory: files.Path, name: str, num_shards: Mapping[str, int]) -> None:
        """Opens an empty spill.

        Args:
          directory: where spills go; it exists.
          name: of the source's spill; a plain file name without suffix.
          num_shards: split -> files that it will have.
        """
        self._path, self._name = files.join(directory, name), name
        self._num_shards = dict(num_shards)
        self._spool = external_sort.Spool()
        self._rows: list[fingerprints.Candidate] = []

    def add(self, pair: records.ImageTextPair, candidate: fingerprints.Candidate) -> None:
        """Adds a pair; the candidate's id is given by `finish`."""
        shard = (
            candidate.split,
            sharded_writers.shard_of(pair.key, self._num_shards[candidate.split]),
        )
        rank = sharded_writers.hash_fraction(pair.key, "shard")
        place = (shard, rank, pair.key, len(self._rows))
        self._rows.append(candidate)
        self._spool.add(place, tfrecords.frame(pair.to_example()))

    def finish(self, notes: Mapping[str, Any]) -> "Spill":
        """Writes the files, the .json last.

        Args:
          notes: what else to keep of the source; JSON.
        """
        stretches: dict[Shard, list[int]] = {}
        attempt = f"{self._name}-{uuid.uuid4().hex}"
        path = files.join(files.parent(self._path), attempt)
        with (
            self._spool as spool,
            files.replacing(f"{path}.tfrecord") as data,
            files.replacing(f"{path}.jsonl") as lines,
        ):
            for place, ((shard, _, _, number), piece) in enumerate(spool.sorted()):
                stretch = stretches.setdefault(shard, [0, data.tell(), lines.tell()])
                stretch[0] += 1
                data.write(piece)
                identity = _candidate_id(self._name, shard, place)
                line = dataclasses.replace(self._rows[number], id=identity).to_json()
                lines.write(line.encode("utf-8", "replace") + b"\n")
        content = {
            "attempt": attempt,
            "stretches": [[*shard, *stretch] for shard, stretch in stretches.items()],
            "notes": notes,
        }
        text = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
        files.write_bytes(f"{self._path}.json", text)
        return Spill(self._path, content)


class Spill:
    """A finished spill.

    Attributes:
      notes: what `SpillWriter.finish` was given.
    """

    def __init__(self, path: str, content: Mapping[str, Any]) -> None:
        self._path, self._content = path, content
        self.notes: dict[str, Any] = content["notes"]

    @classmethod
    def open(cls, directory: files.Path, name: str) -> "Spill | None":
        """Returns a spill of that name, or None if there is no finished one."""
        path = files.join(directory, name)
        if not files.exists(f"{path}.json"):
            return None
        return cls(path, json.loads(files.read_bytes(f"{path}.json")))

    def candidates(self) -> Iterator[fingerprints.Candidate]:
        """Yields the rows of the pairs."""
        folder = files.parent(self._path)
        with files.open(files.join(folder, f"{self._content['attempt']}.jsonl")) as lines:
            for line in lines:
                yield fingerprints.Candidate.from_json(line.decode())

    def stretches(self) -> Iterator[tuple[Shard, Stretch]]:
        """Yields where the pairs of each shard lie."""
        for split, index, *numbers in self._content["stretches"]:
            yield (split, index), Stretch(self._content["attempt"], *numbers)


def read_stretch(
    directory: files.Path, stretch: Stretch
) -> Iterator[tuple[fingerprints.Candidate, bytes]]:
    """Yields the row and the serialized pair of each pair of a stretch.

    Raises:
      ValueError: the files are not as long as the stretch says.
    """
    path = files.join(directory, stretch.name)
    with files.open(f"{path}.jsonl") as lines, files.open(f"{path}.tfrecord") as data:
        lines.seek(stretch.row_offset)
        data.seek(stretch.offset)
        stream = tfrecords.read_stream(data, f"{path}.tfrecord")
        for _ in range(stretch.num_pairs):
            line, serialized = lines.readline(), next(stream, None)
            if not line or serialized is None:
                raise ValueError(f"{path}: cut off; delete this folder and run the command again")
            yield fingerprints.Candidate.from_json(line.decode()), serialized
