# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pairs go through intermediate to final shards, whole and in one order, however work is cut."""

import hashlib
import json

import apache_beam as beam
import pytest

from parti.data.storage import records, tfrecords
from parti.pipelines import readers
from parti.pipelines.beam import options, sharded_writers
from parti.pipelines.clean import (
    filter_pair,
    filter_sources,
    intermediate,
    merge_shards,
    statistics,
)
from parti.pipelines.deduplicate import fingerprints

NUM_SHARDS = {"train": 3, "validation": 1}


def pair(number):
    return records.ImageTextPair(f"key{number:03d}", bytes([number]) * 50, f"caption {number}")


def fingerprint(of, split="train"):
    digest = hashlib.sha256(of.key.encode()).digest()
    return fingerprints.Fingerprint(
        *("", of.key, split, digest[:16], digest[16:], 2**63 + 5, bytes(192), digest[:16]),
        words=(1, 2**40),
        area=100,
        num_bytes=len(of.image),
    )


def fill(folder, name="000000", numbers=range(40)):
    with intermediate.Writer(folder, name, NUM_SHARDS) as writer:
        for number in numbers:
            row = fingerprint(pair(number), "train" if number % 5 else "validation")
            writer.add(pair(number).to_example(), row)
        return writer.finish({"read": len(numbers)})


def test_an_intermediate_shard_gives_back_what_was_put_in_by_shard(tmp_path):
    found = fill(tmp_path)
    seen = []
    for (split, index), some in found.ranges():
        for row, data in intermediate.read_ranges(tmp_path, [some]):
            read = records.ImageTextPair.from_example(data)
            number = int(read.key[3:])
            expected = fingerprint(pair(number), "train" if number % 5 else "validation")
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


def test_blocks_change_no_row(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = fill(tmp_path / "a")
    monkeypatch.setattr(intermediate, "_BLOCK_BYTES", 300)
    blocks = fill(tmp_path / "b")
    assert len(list(blocks.ranges())) > 20 > len(list(whole.ranges()))
    rows = [sorted(found.fingerprints(), key=lambda row: row.id) for found in (whole, blocks)]
    assert rows[0] == rows[1]
    ranges = [some for _, some in blocks.ranges()]
    read = list(intermediate.read_ranges(tmp_path / "b", reversed(ranges)))
    assert sorted(row.id for row, _ in read) == [row.id for row in rows[0]]
    assert all(records.ImageTextPair.from_example(data).key == row.key for row, data in read)


def test_nothing_is_left_of_a_writer_that_failed(tmp_path):
    with (
        pytest.raises(KeyError, match="test"),
        intermediate.Writer(tmp_path, "000000", NUM_SHARDS) as writer,
    ):
        writer.add(pair(1).to_example(), fingerprint(pair(1), "test"))
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


def split_of(of):
    return "train" if int(of.key[3:]) % 5 else "validation"


def filter_key(of):
    """Rejects keys that end in 7; the others pass."""
    if of.key.endswith("7"):
        result = readers.Rejected(of.key, "seven", "7", of.text)
    else:
        result = filter_pair.Passed(
            of, fingerprint(of, "train" if int(of.key[3:]) % 5 else "validation")
        )
    return filter_pair.Filtered(result, [statistics.Count("before", "length", len(of.text))])


def make_filter():
    return filter_key


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
            | filter_sources.FilterSources(make_filter, intermediate_dir, NUM_SHARDS)
        )
        inputs = {
            "ranges": filtered.ranges,
            "decisions": filtered.fingerprints | "Drop" >> beam.FlatMap(drop),
        }
        inputs["shown"] = root | "Shown" >> beam.Create([["a group"]])
        merge = merge_shards.MergeShards(
            intermediate_dir, output, NUM_SHARDS, describe, ("described", merge_shards.COUNTS)
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


def test_only_wanted_rows_are_read(sources, tmp_path):
    """With the keys that they had before; all of them, or none."""
    do = filter_sources.FilterSources(make_filter, tmp_path, NUM_SHARDS)._do
    do.setup()
    work = filter_sources.Work("part", sources[1], in_part=True)
    intermediate.write_wanted(tmp_path, "part", {1: "key026", 2: "raw/key027"})
    shard = do.write(work)
    assert [row.key for row in shard.fingerprints()] == ["key026"]
    path = sources[1].paths[0]
    found = [(row["address"], row["row"], row["key"]) for row in shard.notes["rejected"]]
    tally = filter_sources.Tally.from_json(shard.notes)
    assert tally.counts[statistics.Count("read")] == 2 and found == [(path, 2, "raw/key027")]
    for wanted in ({1: "key026", 2: "key028"}, {2: "key027", 25: "key050"}):
        intermediate.write_wanted(tmp_path, "part", wanted)
        with pytest.raises(ValueError, match=f"{path}: row .* is not there now"):
            do.write(work)


def test_same_bytes_for_any_size_of_blocks(sources, merged, tmp_path, monkeypatch):
    monkeypatch.setattr(intermediate, "_BLOCK_BYTES", 300)
    again = run(sources, tmp_path / "intermediate", tmp_path / "out")
    for path in [*merged.glob("*.tfrecord"), *merged.glob("hashes-*")]:
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_same_bytes_for_any_number_of_workers(sources, merged, tmp_path):
    flags = ["--direct_running_mode=multi_threading", "--direct_num_workers=2"]
    again = run(sources, tmp_path / "intermediate", tmp_path / "out", *flags)
    for path in [*merged.glob("*.tfrecord"), *merged.glob("hashes-*")]:
        assert (again / path.name).read_bytes() == path.read_bytes()
