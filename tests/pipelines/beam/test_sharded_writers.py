# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shards depend on keys alone."""

import hashlib
import random

import apache_beam as beam
import pytest

from parti.pipelines.beam import options, sharded_writers

ROWS = [(f"key{i}", f"value{i}".encode()) for i in range(50)]


@pytest.fixture(scope="module", params=["by the runner", "through files"])
def written(request, tmp_path_factory):
    """One pipeline that writes everything the tests look at."""
    folder = tmp_path_factory.mktemp("shards")
    shuffle = str(tmp_path_factory.mktemp("shuffle")) if request.param == "through files" else ""

    def build(root):
        rows = root | "Rows" >> beam.Create(list(reversed(ROWS)))
        again = root | "Again" >> beam.Create([("key7", b"value7, again")])
        many = (rows, again) | sharded_writers.WriteLines(folder, "many", 3)
        rows | sharded_writers.WriteLines(folder, "one", 1)
        (root | "Few" >> beam.Create(ROWS[:1]) | sharded_writers.WriteLines(folder, "few", 2))
        many | sharded_writers.CollectJson(folder / "files.json")

    flags = [f"--shuffle_dir={shuffle}"]
    _, beam_options = options.parse(options.make_parser("test", "Tests.", "test"), flags)
    options.run_pipeline(build, beam_options)
    return folder


def read(folder, prefix, count):
    paths = [folder / f"{prefix}-{i:05d}-of-{count:05d}.jsonl" for i in range(count)]
    return [path.read_bytes().splitlines() for path in paths]


def key_of(line):
    return line.decode().split(",")[0].replace("value", "key")


def test_each_line_is_in_the_shard_of_its_key_and_sorted(written):
    shards = read(written, "many", 3)
    lines = [line for lines in shards for line in lines]
    assert sorted(lines) == sorted([*(data for _, data in ROWS), b"value7, again"])
    for index, lines in enumerate(shards):
        keys = list(map(key_of, lines))
        assert keys == sorted(keys) and len(keys) > 5
        assert {sharded_writers.shard_of(key, 3) for key in keys} == {index}
    assert read(written, "one", 1) == [[data for _, data in sorted(ROWS)]]


def test_files_are_reported(written):
    files = sharded_writers.read_collected(written / "files.json")
    assert [f["name"] for f in files] == [f"many-0000{i}-of-00003.jsonl" for i in range(3)]
    for file, lines in zip(files, read(written, "many", 3), strict=True):
        data = (written / file["name"]).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        assert (file["count"], file["num_bytes"], file["sha256"]) == (len(lines), len(data), digest)
    assert not (written / "files.json").exists()


def test_empty_shards_exist_and_nothing_is_left_over(written):
    assert sorted(map(len, read(written, "few", 2))) == [0, 1]
    assert not list(written.glob("*partial*"))


@pytest.mark.parametrize("memory", [10, 2**20])
def test_pieces_are_sorted_by_key(memory, tmp_path, monkeypatch):
    """In memory and through a spill file."""
    monkeypatch.setattr(sharded_writers, "_MEMORY_BYTES", memory)
    pieces = {(i // 3, str(i)): bytes([i]) * (i % 7) for i in range(100)}
    keys = list(pieces)
    random.Random(0).shuffle(keys)
    with sharded_writers.SortedFile() as file:
        for key in keys:
            file.add(key, pieces[key])
        for piece in (b"b", b"a", b"c"):  # of equal keys the first comes first
            file.add((99, ""), piece)
        written = file.write(tmp_path / "sorted")
    data = (tmp_path / "sorted").read_bytes()
    assert data == b"".join(pieces[key] for key in sorted(pieces)) + b"bac"
    digest = hashlib.sha256(data).hexdigest()
    assert written == {"name": "sorted", "count": 103, "num_bytes": len(data), "sha256": digest}


def test_num_shards():
    assert sharded_writers.parse_num_shards("auto", 0) == 4
    assert sharded_writers.parse_num_shards("auto", 40 * sharded_writers.TARGET_SHARD_BYTES) == 40
    assert sharded_writers.parse_num_shards("7", 0) == 7
    for value in ("0", "-1", "many", "100000"):
        with pytest.raises(ValueError, match=f"--num_shards={value}: give auto, or a number"):
            sharded_writers.parse_num_shards(value, 0)


def test_hashes_spread_evenly():
    counts = [0] * 10
    for i in range(5000):
        counts[sharded_writers.shard_of(str(i), 10)] += 1
    assert min(counts) > 400 and max(counts) < 600
    # The split of a key says nothing about its shard.
    both = sum(
        sharded_writers.hash_fraction(str(i), "split") < 0.5
        and sharded_writers.shard_of(str(i), 2) == 0
        for i in range(5000)
    )
    assert 1150 < both < 1350
