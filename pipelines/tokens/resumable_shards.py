# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shards that are written batch by batch: pieces of a shard, joined in order once all are there.

Whoever processes a batch, and how often, its piece is the same. A finished shard has a JSON report,
by which a resumed run skips it. Pieces concatenated must be a file of their format.
"""

import json
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from parti.stages import files

# In the folder of the shards: rows that could not be read.
REJECTED_FILE = "rejected.jsonl"
# Hidden in the folder that is written; `clear` removes them.
_PIECES, _FINISHED = ".pieces", ".finished"


def piece_path(directory: pathlib.Path, folder: str, shard: str, index: int) -> pathlib.Path:
    """Returns the file of batch `index` of `directory`/`folder`/`shard`, until that is joined."""
    return directory / _PIECES / (folder or "_") / shard / f"{index:06d}"


def write_piece(
    directory: pathlib.Path, folder: str, shard: str, index: int, parts: Iterable[bytes]
) -> None:
    """Writes the file of a batch; see `piece_path`."""
    path = piece_path(directory, folder, shard, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as file:
        file.writelines(parts)


class JoinShard(beam.DoFn):
    """(shard, items) -> {"name", "count", "rejected": {key: reason}}; writes the shard.

    Items are (index, rows) of the pieces, {"key", "reason"} of rows that could not be read, and
    None, so that a shard without either is written too.
    """

    def __init__(self, directory: pathlib.Path, folders: Sequence[str] = ("",)) -> None:
        """Sets the folder that is written, and those in it that have a file for each shard."""
        self._directory, self._folders = directory, tuple(folders)

    def process(
        self, element: tuple[str, Iterable[tuple[int, int] | dict[str, str] | None]]
    ) -> Iterator[dict[str, Any]]:
        """Joins the pieces of a shard in order, and notes that it is finished."""
        shard, given = element
        items = list(given)
        counts = dict(item for item in items if isinstance(item, tuple))
        rejected = {item["key"]: item["reason"] for item in items if isinstance(item, dict)}
        for folder in self._folders:
            pieces = [piece_path(self._directory, folder, shard, i) for i in range(len(counts))]
            (self._directory / folder).mkdir(parents=True, exist_ok=True)
            files.concatenate(pieces, self._directory / folder / shard)
        report = {"name": shard, "count": sum(counts.values()), "rejected": rejected}
        path = self._directory / _FINISHED / f"{shard}.json"
        files.write_bytes(path, json.dumps(report).encode())
        for folder in self._folders:
            shutil.rmtree(piece_path(self._directory, folder, shard, 0).parent, ignore_errors=True)
        yield report


def gather(
    root: beam.Pipeline,
    directory: pathlib.Path,  # exists; every worker must reach it
    shards: Sequence[str],  # their file names
    parts: Sequence[beam.PCollection],  # of (shard, item); see `JoinShard`
    folders: Sequence[str] = ("",),
) -> beam.PCollection:
    """Adds the joining of shards; gives what `JoinShard` does."""
    (directory / _FINISHED).mkdir(exist_ok=True)
    names = root | "Names" >> beam.Create([(shard, None) for shard in shards])
    return (
        (*parts, names)
        | beam.Flatten()
        | "Gather" >> beam.GroupByKey()
        | "Join" >> beam.ParDo(JoinShard(directory, folders))
    )


def is_finished(directory: pathlib.Path, shard: str) -> bool:
    """Returns whether a shard is written."""
    return (directory / _FINISHED / f"{shard}.json").exists()


def reports(directory: pathlib.Path) -> list[dict[str, Any]]:
    """Returns what `JoinShard` gave for each finished shard, in the order of their names."""
    paths = sorted((directory / _FINISHED).glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def clear(directory: pathlib.Path) -> None:
    """Removes what only an unfinished run needs."""
    for folder in (_PIECES, _FINISHED):
        shutil.rmtree(directory / folder, ignore_errors=True)
