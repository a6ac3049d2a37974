# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shards that are written batch by batch: pieces of a shard, joined in order once all are there.

Whoever processes a batch, and how often, its piece is the same. A finished shard has a JSON report,
by which a resumed run skips it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from parti.stages import files, publishing

# In the folder of the shards: rows that could not be read.
REJECTED_FILE = "rejected.jsonl"
# In the folder that is written, until it is published.
_PIECES, _FINISHED = f"{publishing.SCRATCH}/pieces", f"{publishing.SCRATCH}/finished"

Join = Callable[[Iterable[files.Path], files.Path], None]  # writes a shard from its pieces


def pieces_dir(directory: str, folder: str, shard: str) -> str:
    """Returns the folder of the pieces of `directory`/`folder`/`shard`, until they are joined."""
    return files.join(directory, _PIECES, folder or "_", shard)


def write_piece(
    directory: str, folder: str, shard: str, index: int, parts: Iterable[bytes]
) -> None:
    """Writes the piece of batch `index`; see `pieces_dir`."""
    inside = pieces_dir(directory, folder, shard)
    files.make_dirs(inside)
    with files.replacing(_piece(inside, index)) as file:
        file.writelines(parts)


def _piece(inside: str, index: int) -> str:
    return files.join(inside, f"{index:06d}")


class JoinShard(beam.DoFn):
    """(shard, items) -> {"name", "count", "rejected": {key: reason}}; writes the shard.

    Items are (index, rows) of the pieces, {"key", "reason"} of rows that could not be read, and
    None, so that a shard without either is written too.
    """

    def __init__(
        self, directory: str, folders: Sequence[str] = ("",), join: Join = files.concatenate
    ) -> None:
        """Sets the folder that is written, and those in it that have a file for each shard."""
        self._directory, self._folders, self._join = directory, tuple(folders), join

    def process(
        self, element: tuple[str, Iterable[tuple[int, int] | dict[str, str] | None]]
    ) -> Iterator[dict[str, Any]]:
        """Joins the pieces of a shard in order, and notes that it is finished."""
        shard, given = element
        items = list(given)
        counts = dict(item for item in items if isinstance(item, tuple))
        rejected = {item["key"]: item["reason"] for item in items if isinstance(item, dict)}
        for folder in self._folders:
            inside = pieces_dir(self._directory, folder, shard)
            target = files.join(self._directory, *filter(None, [folder]))
            files.make_dirs(target)
            pieces = (_piece(inside, index) for index in range(len(counts)))
            self._join(pieces, files.join(target, shard))
        report = {"name": shard, "count": sum(counts.values()), "rejected": rejected}
        path = files.join(self._directory, _FINISHED, f"{shard}.json")
        files.write_bytes(path, json.dumps(report).encode())
        for folder in self._folders:
            files.remove_tree(pieces_dir(self._directory, folder, shard))
        yield report


def gather(
    root: beam.Pipeline,
    directory: str,  # exists; every worker must reach it
    shards: Sequence[str],  # their file names
    parts: Sequence[beam.PCollection],  # of (shard, item); see `JoinShard`
    folders: Sequence[str] = ("",),
    join: Join = files.concatenate,
) -> beam.PCollection:
    """Adds the joining of shards; gives what `JoinShard` does.

    Pieces of TFRecords are for `record_offsets.join`.
    """
    files.make_dirs(files.join(directory, _FINISHED))
    names = root | "Names" >> beam.Create([(shard, None) for shard in shards])
    return (
        (*parts, names)
        | beam.Flatten()
        | "Gather" >> beam.GroupByKey()
        | "Join" >> beam.ParDo(JoinShard(directory, folders, join))
    )


def reports(directory: str) -> list[dict[str, Any]]:
    """Returns what `JoinShard` gave for each finished shard, in the order of their names."""
    entries = files.list_folder(files.join(directory, _FINISHED))
    paths = [entry.path for entry in entries if entry.path.endswith(".json")]
    return [json.loads(text) for text in files.each(files.read_bytes, paths)]
