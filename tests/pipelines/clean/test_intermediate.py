# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The pairs of a source come back by final shard, whole, however often they are written."""

import dataclasses

import pytest
from numbered_pairs import NUM_SHARDS, fingerprint, pair

from parti.data.storage import records
from parti.pipelines.beam import sharded_writers
from parti.pipelines.clean import intermediate
from parti.pipelines.deduplicate import fingerprints


def fill(folder, name="000000", numbers=range(40)):
    with intermediate.Writer(folder, name, NUM_SHARDS) as writer:
        for number in numbers:
            writer.add(pair(number).to_example(), fingerprint(pair(number)))
        return writer.finish({"read": len(numbers)})


def test_an_intermediate_shard_gives_back_what_was_put_in_by_shard(tmp_path):
    found = fill(tmp_path)
    seen = []
    for (split, index), some in found.ranges():
        for row, data in intermediate.read_ranges(tmp_path, [some]):
            read = records.ImageTextPair.from_example(data)
            number = int(read.key[3:])
            expected = fingerprint(pair(number))
            assert read == pair(number) and row.split == split == expected.split
            assert sharded_writers.shard_of(read.key, NUM_SHARDS[split]) == index
            assert intermediate.shard_of_id(row.id) == (split, index)
            assert row == fingerprints.Fingerprint.from_json(row.to_json())
            assert (row.content, row.phash, row.words) == (expected.content, 2**63 + 5, (1, 2**40))
            seen.append(number)
    assert sorted(seen) == list(range(40))
    rows = list(found.fingerprints())
    assert len({row.id for row in rows}) == 40 and found.notes == {"read": 40}


def test_the_order_of_reading_does_not_matter(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    fill(tmp_path / "a")
    fill(tmp_path / "b", numbers=list(reversed(range(40))))
    for suffix in ("tfrecord", "jsonl"):
        one, other = (next((tmp_path / f).glob(f"*.{suffix}")).read_bytes() for f in ("a", "b"))
        assert one == other


def test_each_shard_has_one_range_whatever_is_in_memory(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = fill(tmp_path / "a")
    monkeypatch.setattr(sharded_writers, "_MEMORY_BYTES", 300)
    spilled = fill(tmp_path / "b")
    assert [shard for shard, _ in spilled.ranges()] == [shard for shard, _ in whole.ranges()]
    assert len(list(spilled.ranges())) == sum(NUM_SHARDS.values())
    rows = [sorted(found.fingerprints(), key=lambda row: row.id) for found in (whole, spilled)]
    assert rows[0] == rows[1]
    ranges = [some for _, some in spilled.ranges()]
    read = list(intermediate.read_ranges(tmp_path / "b", reversed(ranges)))
    assert sorted(row.id for row, _ in read) == [row.id for row in rows[0]]
    assert all(records.ImageTextPair.from_example(data).key == row.key for row, data in read)
    assert len(list((tmp_path / "b").iterdir())) == 3  # no spill file is left


def test_nothing_is_left_of_a_writer_that_failed(tmp_path):
    with (
        pytest.raises(KeyError, match="test"),
        intermediate.Writer(tmp_path, "000000", NUM_SHARDS) as writer,
    ):
        row = dataclasses.replace(fingerprint(pair(1)), split="test")
        writer.add(pair(1).to_example(), row)
    assert list(tmp_path.iterdir()) == []


def test_two_workers_on_one_source_do_not_disturb_each_other(tmp_path):
    """What a source gives may differ from one time to the next: its pictures may come from URLs."""
    first = fill(tmp_path)
    ranges = dict(first.ranges()).values()
    fill(tmp_path, numbers=range(3, 20))
    rows = [row for row, _ in intermediate.read_ranges(tmp_path, ranges)]
    assert len(rows) == 40 and {row.key for row in first.fingerprints()} == {r.key for r in rows}
    assert len(list(intermediate.Intermediate.open(tmp_path, "000000").fingerprints())) == 17


def test_a_file_that_was_cut_off_is_no_end(tmp_path):
    found = fill(tmp_path)
    last = max((some for _, some in found.ranges()), key=lambda some: some.offset)
    path = next(tmp_path.glob("*.jsonl"))
    path.write_bytes(path.read_bytes()[: last.row_offset])
    with pytest.raises(ValueError, match="cut off"):
        list(intermediate.read_ranges(tmp_path, [last]))


def test_only_a_finished_one_is_opened(tmp_path):
    fill(tmp_path)
    assert list(intermediate.Intermediate.open(tmp_path, "000000").fingerprints())
    (tmp_path / "000000.json").unlink()
    assert intermediate.Intermediate.open(tmp_path, "000000") is None
