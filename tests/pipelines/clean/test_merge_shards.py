# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pairs go to final shards whole and in one order, however the work is cut."""

import hashlib
import json
import tempfile

import apache_beam as beam
import pytest
from numbered_pairs import NUM_SHARDS, make_filter, pair

from parti.data.storage import records, tfrecords
from parti.pipelines import readers
from parti.pipelines.beam import options, sharded_writers
from parti.pipelines.clean import filter_sources, merge_shards
from parti.pipelines.deduplicate import fingerprints


def describe(row, shown):
    assert shown == ["a group"]
    kind = "kept" if row.decision is None else row.decision.reason
    yield beam.pvalue.TaggedOutput("described", (kind, row.pair.key))


def drop(row):
    """Drops keys that end in 3."""
    if row.key.endswith("3"):
        yield fingerprints.Decision(row.id, "three", "3", "key000")


def run(sources, intermediate_dir, output, *flags):
    intermediate_dir.mkdir(exist_ok=True)
    output.mkdir()

    def build(root):
        named = [filter_sources.Work(f"{i:06d}", s) for i, s in enumerate(sources)]
        filtered = (
            root
            | beam.Create(named)
            | beam.ParDo(
                filter_sources.FilterSource(make_filter, intermediate_dir, NUM_SHARDS)
            ).with_outputs(*filter_sources.TAGS, main="fingerprints")
        )
        inputs = {
            "ranges": filtered.ranges,
            "decisions": filtered.fingerprints | "Drop" >> beam.FlatMap(drop),
        }
        inputs["shown"] = root | "Shown" >> beam.Create([["a group"]])
        merge = merge_shards.MergeShards(
            *(intermediate_dir, output, NUM_SHARDS, describe, ("described", merge_shards.COUNTS)),
            lambda pair: "train",
        )
        merged = inputs | merge
        merged.files | sharded_writers.CollectJson(output / "files.json")
        merged.described | "Described" >> sharded_writers.CollectJson(output / "described.json")
        (
            filtered.rejected
            | "Keys" >> beam.Map(lambda r: r.key)
            | "Rejected" >> sharded_writers.CollectJson(output / "rejected.json")
        )
        counts = filtered.counts | beam.CombinePerKey(sum) | beam.Map(lambda f: [*f[0], f[1]])
        counts | "Counts" >> sharded_writers.CollectJson(output / "counts.json")
        (
            filtered.samples
            | beam.Map(lambda s: [*s[0], s[1][2]])
            | "Sam" >> sharded_writers.CollectJson(output / "samples.json")
        )

    _, beam_options = options.parse(options.make_parser("test", "Tests.", "test"), flags)
    options.run_pipeline(build, beam_options)
    return output


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    for index in range(4):
        rows = [pair(n).to_example() for n in range(index * 25, index * 25 + 25)]
        tfrecords.write(folder / f"raw-{index}.tfrecord", rows)
    return readers.find_sources([str(folder)])


@pytest.fixture(scope="module")
def merged(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged")
    return run(sources, folder / "intermediate", folder / "out")


def keys(output):
    return {
        path.name: [records.ImageTextPair.from_example(d).key for d in tfrecords.read(path)]
        for path in sorted(output.glob("*.tfrecord"))
    }


def test_shards_hold_what_passed_and_was_not_dropped(merged):
    found = keys(merged)
    assert list(found) == [
        *(f"train-0000{i}-of-00003.tfrecord" for i in range(3)),
        "validation-00000-of-00001.tfrecord",
    ]
    expected = {f"key{n:03d}" for n in range(100) if n % 10 not in (3, 7)}
    assert sorted(k for row in found.values() for k in row) == sorted(expected)
    for name, row in found.items():
        ranks = [sharded_writers.hash_fraction(key, "shard") for key in row]
        assert ranks == sorted(ranks) and len(row) > 5
        assert all((int(key[3:]) % 5 == 0) == name.startswith("validation") for key in row)


def test_hashes_lie_beside_each_shard(merged):
    for name, row in keys(merged).items():
        lines = (merged / f"hashes-{name.replace('tfrecord', 'jsonl')}").read_text().splitlines()
        values = [json.loads(line) for line in lines]
        assert [value["key"] for value in values] == row
        assert "id" not in values[0] and len(bytes.fromhex(values[0]["colours"])) == 192


def test_everything_is_told(merged):
    files = sharded_writers.read_collected(merged / "files.json")
    assert len(files) == 8
    for file in files:
        content = (merged / file["name"]).read_bytes()
        assert file["num_bytes"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    described = sharded_writers.read_collected(merged / "described.json")
    assert sum(kind == "kept" for kind, _ in described) == 80
    assert sum(kind == "three" for kind, _ in described) == 10
    sevens = [f"key{n:03d}" for n in range(7, 100, 10)]
    assert sharded_writers.read_collected(merged / "rejected.json") == sevens
    counts = [["before", "length", 10, 90], ["before", "length", 9, 10], ["read", "", 0, 100]]
    counts.append(["rejected", "seven", 0, 10])
    assert sharded_writers.read_collected(merged / "counts.json") == counts
    samples = sharded_writers.read_collected(merged / "samples.json")
    assert samples == [["dropped", "seven", key] for key in sevens]


def test_finished_sources_are_not_read_again(sources, merged, tmp_path):
    """Half of the sources are gone after they were filtered: the rest is read now."""
    run(sources[:2], tmp_path / "intermediate", tmp_path / "half")
    missing = [readers.Source(s.format, ("/nowhere",)) for s in sources[:2]]
    again = run([*missing, *sources[2:]], tmp_path / "intermediate", tmp_path / "out")
    for path in merged.glob("*.tfrecord"):
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_same_bytes_however_much_is_in_memory(sources, merged, tmp_path, monkeypatch):
    monkeypatch.setattr(sharded_writers, "_MEMORY_BYTES", 300)
    again = run(sources, tmp_path / "intermediate", tmp_path / "out")
    for path in [*merged.glob("*.tfrecord"), *merged.glob("hashes-*")]:
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_what_a_worker_sorts_at_a_time_is_bounded(sources, tmp_path, monkeypatch):
    """The pairs and the rows of a shard share the memory."""
    bounds, spooled = [], tempfile.SpooledTemporaryFile

    def record(max_size, **options):
        bounds.append(max_size)
        return spooled(max_size, **options)

    monkeypatch.setattr(sharded_writers.tempfile, "SpooledTemporaryFile", record)
    run(sources[:1], tmp_path / "intermediate", tmp_path / "out")
    of_shards = bounds[1:]  # the first is of the source
    assert len(of_shards) == 2 * sum(NUM_SHARDS.values())
    for pairs_and_rows in zip(of_shards[::2], of_shards[1::2], strict=True):
        assert sum(pairs_and_rows) <= bounds[0] == sharded_writers._MEMORY_BYTES


def test_same_bytes_for_any_number_of_workers(sources, merged, tmp_path):
    flags = ["--direct_running_mode=multi_threading", "--direct_num_workers=2"]
    again = run(sources, tmp_path / "intermediate", tmp_path / "out", *flags)
    for path in [*merged.glob("*.tfrecord"), *merged.glob("hashes-*")]:
        assert (again / path.name).read_bytes() == path.read_bytes()
