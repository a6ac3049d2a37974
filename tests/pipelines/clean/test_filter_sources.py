# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A source to its intermediate shard, its rejected rows, counts and samples."""

import pytest
from numbered_pairs import NUM_SHARDS, make_filter, pair

from parti.data.storage import tfrecords
from parti.pipelines import readers
from parti.pipelines.clean import filter_sources, intermediate, statistics


@pytest.fixture
def sources(tmp_path):
    (tmp_path / "raw").mkdir()
    for index in range(2):
        rows = [pair(n).to_example() for n in range(index * 25, index * 25 + 25)]
        tfrecords.write(tmp_path / "raw" / f"raw-{index}.tfrecord", rows)
    return readers.find_sources([str(tmp_path / "raw")])


def start_worker(directory):
    do = filter_sources.FilterSource(make_filter, directory, NUM_SHARDS)
    do.setup()
    return do


def test_a_source_is_written_once_and_told_each_time(sources, tmp_path, monkeypatch):
    work = filter_sources.Work("000000", sources[0])
    first = list(start_worker(tmp_path).process(work))
    monkeypatch.setattr(readers, "read_source", None)  # it is not read again
    again = list(start_worker(tmp_path).process(work))
    tagged = [[(o.tag, o.value) for o in found if hasattr(o, "tag")] for found in (first, again)]
    assert tagged[0] == tagged[1]
    assert sum(not hasattr(output, "tag") for output in again) == 23
    counts = dict(value for tag, value in tagged[1] if tag == "counts")
    assert counts[statistics.Count("rejected", "seven")] == 2
    assert counts[statistics.Count("read")] == 25
    assert [row.key for tag, row in tagged[1] if tag == "rejected"] == ["key007", "key017"]


def test_only_wanted_rows_are_read(sources, tmp_path):
    """With the keys that they had before; all of them, or none."""
    do = start_worker(tmp_path)
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
