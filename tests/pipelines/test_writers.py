# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shards depend on keys alone."""

import apache_beam as beam
import pytest

from parti.data import tfrecords
from parti.pipelines import options, writers

ROWS = [(f"key{i}", f"value{i}".encode()) for i in range(50)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One pipeline that writes everything the tests look at."""
    folder = tmp_path_factory.mktemp("shards")

    def build(root):
        rows = root | "Rows" >> beam.Create([*reversed(ROWS), ("key7", b"zweiter")])
        train = rows | writers.WriteShards(folder, "train", 3)
        rows | writers.WriteShards(folder, "lines", 1, ".jsonl", unique=False)
        root | "Few" >> beam.Create(ROWS[:1]) | writers.WriteShards(folder, "few", 2)
        train.files | writers.CollectJson(folder / "files.json")
        (
            train.duplicates
            | beam.Map(lambda row: [row[0], row[1].decode()])
            | writers.CollectJson(folder / "duplicates.json")
        )

    _, beam_options = options.parse(options.make_parser("test", "Tests.", "test"), [])
    options.run_pipeline(build, beam_options)
    return folder


def test_each_record_is_in_the_shard_of_its_key_and_sorted(written):
    shards = [list(tfrecords.read(written / f"train-0000{i}-of-00003.tfrecord")) for i in range(3)]
    assert sorted(row for rows in shards for row in rows) == sorted(data for _, data in ROWS)
    for index, rows in enumerate(shards):
        keys = [data.decode().replace("value", "key") for data in rows]
        assert keys == sorted(keys) and len(keys) > 5
        assert {writers.shard_of(key, 3) for key in keys} == {index}


def test_files_and_duplicates_are_reported(written):
    files = writers.read_collected(written / "files.json")
    names = {f"train-0000{i}-of-00003.tfrecord" for i in range(3)}
    assert {f["name"] for f in files} == names
    assert sum(f["count"] for f in files) == 50
    assert not (written / "files.json").exists()
    assert writers.read_collected(written / "duplicates.json") == [["key7", "zweiter"]]


def test_empty_shards_exist_and_nothing_is_left_over(written):
    sizes = [(written / f"few-0000{i}-of-00002.tfrecord").stat().st_size for i in range(2)]
    assert sorted(map(bool, sizes)) == [False, True]
    assert not list(written.glob("*partial*"))


def test_lines_keep_rows_of_one_key(written):
    lines = (written / "lines-00000-of-00001.jsonl").read_bytes().splitlines()
    assert len(lines) == 51 and b"zweiter" in lines


def test_num_shards():
    assert writers.parse_num_shards("auto", 0) == 4
    assert writers.parse_num_shards("auto", 40 * writers.TARGET_SHARD_BYTES) == 40
    assert writers.parse_num_shards("7", 0) == 7
    for value in ("0", "-1", "many", "100000"):
        with pytest.raises(ValueError, match=f"--num_shards={value}: give auto, or a number"):
            writers.parse_num_shards(value, 0)


def test_hashes_spread_evenly():
    counts = [0] * 10
    for i in range(5000):
        counts[writers.shard_of(str(i), 10)] += 1
    assert min(counts) > 400 and max(counts) < 600
    # The split of a key says nothing about its shard.
    both = sum(
        writers.hash_fraction(str(i), "split") < 0.5 and writers.shard_of(str(i), 2) == 0
        for i in range(5000)
    )
    assert 1150 < both < 1350
