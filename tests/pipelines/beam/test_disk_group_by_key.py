# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Grouping through files is Beam's grouping."""

import random

import apache_beam as beam
import pytest

from parti.pipelines.beam import disk_group_by_key, options, sharded_writers

PAIRS = [
    (random.Random(i).randbytes(i % 5), random.Random(-i).randbytes(i % 300)) for i in range(3000)
]
EXPECTED = {}
for _key, _value in PAIRS:
    EXPECTED.setdefault(_key.hex(), []).append(_value.hex())


def grouped(folder, output, *flags):
    """Returns {key: sorted values} of PAIRS, given as two collections."""

    def build(root):
        first = root | "First" >> beam.Create(PAIRS[:1000])
        second = root | "Second" >> beam.Create(PAIRS[1000:]) | beam.Reshuffle()
        groups = (first, second) | disk_group_by_key.GroupByKey()
        twice = groups | beam.MapTuple(lambda key, values: (key, [*values], [*values]))
        rows = twice | beam.MapTuple(
            lambda key, one, two: [key.hex(), *(sorted(v.hex() for v in g) for g in (one, two))]
        )
        rows | sharded_writers.CollectJson(output)

    _, beam_options = options.parse(options.make_parser("test", "Tests.", "test"), flags)
    beam_options.view_as(disk_group_by_key.ShuffleOptions).shuffle_dir = folder
    options.run_pipeline(build, beam_options)
    rows = sharded_writers.read_collected(output)
    assert all(one == two for _, one, two in rows), "a group can be read twice"
    assert len(rows) == len({key for key, *_ in rows})
    return {key: one for key, one, _ in rows}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("in_files", [False, True])
def test_groups_are_those_of_beam(in_files, workers, tmp_path):
    flags = [f"--direct_num_workers={workers}", "--direct_running_mode=multi_threading"]
    (tmp_path / "files").mkdir()
    folder = str(tmp_path / "files") if in_files else ""
    found = grouped(folder, tmp_path / "rows.json", *flags)
    assert found == {key: sorted(values) for key, values in EXPECTED.items()}
    assert bool(list((tmp_path / "files").iterdir())) == in_files


def test_large_partitions_are_split_and_hot_keys_are_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_group_by_key, "_MEMORY_BYTES", 2_000)
    monkeypatch.setattr(disk_group_by_key, "_FLUSH_BYTES", 1_000)
    hot = [(b"hot", bytes([i % 256]) * 9) for i in range(1000)]
    writer = disk_group_by_key._PartWriter(str(tmp_path), seed=0)
    parts = [part for key, value in PAIRS + hot for _, part in writer.add(key, value)]
    parts += [part for _, part in writer.flush()]
    groups = list(disk_group_by_key._groups(parts, str(tmp_path), level=0))
    assert len(groups) == len(EXPECTED) + 1
    found = {key.hex(): sorted(value.hex() for value in values) for key, values in groups}
    streamed = dict(groups)[b"hot"]
    assert isinstance(streamed, disk_group_by_key._Streamed) and len(list(streamed)) == 1000
    assert found.pop(b"hot".hex()) == sorted(value.hex() for _, value in hot)
    assert found == {key: sorted(values) for key, values in EXPECTED.items()}


def test_no_pairs_no_groups(tmp_path):
    def build(root):
        rows = root | beam.Create([]) | disk_group_by_key.GroupByKey()
        (
            rows
            | beam.MapTuple(lambda key, values: key.hex())
            | sharded_writers.CollectJson(tmp_path / "rows.json")
        )

    flags = [f"--shuffle_dir={tmp_path}"]
    _, beam_options = options.parse(options.make_parser("test", "Tests.", "test"), flags)
    options.run_pipeline(build, beam_options)
    assert sharded_writers.read_collected(tmp_path / "rows.json") == []
