# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Resumable shards: pieces are joined in order, whoever wrote them when."""

import json
import pathlib

import apache_beam as beam
import pytest
from apache_beam.options import pipeline_options

from parti.pipelines.beam import options
from parti.pipelines.tokens import resumable_shards


def write(directory: pathlib.Path, shard: str, index: int, *rows: str) -> tuple:
    """Writes a piece and returns the item that says so."""
    data = (f"{row}\n".encode() for row in rows)
    resumable_shards.write_piece(directory, "", shard, index, data)
    return shard, (index, len(rows))


def test_pieces_are_joined_in_order_and_removed(tmp_path: pathlib.Path) -> None:
    items = [
        write(tmp_path, "a.jsonl", 1, "3"),
        ("a.jsonl", {"key": "k", "reason": "not an image"}),
        write(tmp_path, "a.jsonl", 0, "1", "2"),
        write(tmp_path, "b.jsonl", 0, "4"),
        write(tmp_path, "b.jsonl", 0, "4"),  # Beam did it again.
    ]
    names = ["a.jsonl", "b.jsonl", "empty.jsonl"]

    def build(root: beam.Pipeline) -> None:
        resumable_shards.gather(root, tmp_path, names, (root | "Items" >> beam.Create(items),))

    options.run_pipeline(build, pipeline_options.PipelineOptions([]))
    assert {name: (tmp_path / name).read_text() for name in names} == {
        "a.jsonl": "1\n2\n3\n",
        "b.jsonl": "4\n",
        "empty.jsonl": "",
    }
    assert resumable_shards.reports(tmp_path) == [
        {"name": "a.jsonl", "count": 3, "rejected": {"k": "not an image"}},
        {"name": "b.jsonl", "count": 1, "rejected": {}},
        {"name": "empty.jsonl", "count": 0, "rejected": {}},
    ]
    assert not list(tmp_path.glob(".scratch/pieces/*/*/*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".scratch", *names]


def test_a_missing_piece_leaves_no_shard(tmp_path: pathlib.Path) -> None:
    items = dict([write(tmp_path, "a.jsonl", 1, "late")])
    join = resumable_shards.JoinShard(tmp_path)
    with pytest.raises(FileNotFoundError):
        list(join.process(("a.jsonl", list(items.values()))))
    assert [path.name for path in tmp_path.iterdir()] == [".scratch"]


def test_what_is_known_of_a_shard_is_json(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".scratch" / "finished").mkdir(parents=True)
    [report] = resumable_shards.JoinShard(tmp_path).process(
        (write(tmp_path, "é.jsonl", 0, "x")[0], [(0, 1), None])
    )
    assert report == {"name": "é.jsonl", "count": 1, "rejected": {}}
    assert json.loads((tmp_path / ".scratch" / "finished" / "é.jsonl.json").read_text()) == report
