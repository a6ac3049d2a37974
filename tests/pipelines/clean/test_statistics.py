# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Counts and samples of a job do not depend on how rows fall to workers."""

import random

import apache_beam as beam
import pytest

from parti.pipelines.beam import options, sharded_writers
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.clean import statistics
from parti.pipelines.deduplicate import fingerprints
from parti.pipelines.rules import presets

NEAR = statistics.SampleName("near", "s")


def test_a_sample_does_not_depend_on_the_order_of_twins():
    def best(texts):
        sampler, rows = statistics.Sampler(1), []
        for text in texts:
            rows += sampler.offer(NEAR, "key", text, "", b"")
        return min(rows)

    assert best(["a", "b"]) == best(["b", "a"])


def test_what_a_sampler_offers_holds_the_first_of_all():
    def first(keys, num_workers):
        samplers = [statistics.Sampler(5) for _ in range(num_workers)]
        rows = []
        for index, key in enumerate(keys):
            rows += samplers[index % num_workers].offer(NEAR, key, "text", "", b"")
        return sorted(rows)[:5]

    keys = [f"k{i}" for i in range(200)]
    shuffled = random.Random(0).sample(keys, len(keys))
    assert first(keys, 1) == first(shuffled, 3)


@pytest.mark.parametrize(
    ("name", "salt"),
    [
        (("dropped", "caption_empty"), "caption_empty"),
        (("kept",), "kept"),
        (("near", "image_blank"), "near:image_blank"),
        (("group:kept", "a/b"), "group:kept:a/b"),
    ],
)
def test_the_salt_of_a_sample(name, salt):
    """It decides which rows are shown, so reports change with it."""
    assert statistics.SampleName(*name).salt == salt


def test_bins_of_a_pair():
    settings = clean_settings.CleanSettings(presets.load_preset("none"))
    metadata = {"NSFW": "unlikely", "aesthetic": "none"}
    found = statistics.caption_counts("before", "a red dog", metadata, settings)
    assert [(count.kind, count.name) for count in found] == [
        ("before", "words"),
        ("before", "characters"),
        ("before", "nsfw"),
    ]
    found = statistics.image_counts("kept", 40, 20, 1_000)
    assert [count.name for count in found] == ["side", "aspect", "kilobytes"]


def test_what_is_collected_comes_back(tmp_path):
    def build(root):
        def create(label, *values):
            return root | label >> beam.Create(values)

        read = statistics.Count("read")
        blank = statistics.Count("rejected", "image_blank")
        group = [fingerprints.Decision(str(i), "duplicate_pair", "", "best") for i in range(3)]
        statistics.collect(
            tmp_path,
            written=(create("Written", {"name": "a"}), create("More", {"name": "b"})),
            counts=(create("Counts", (read, 2), (blank, 1)), create("Others", (read, 3))),
            samples=(create("Some", (NEAR, (2, "b"))), create("Rest", (NEAR, (1, "a")))),
            captions=create("Captions", "x", "y", "x"),
            groups=create("Decisions", *group) | statistics.CountGroups(),
        )

    _, beam_options = options.parse(options.make_parser("test", "Tests.", "test"), [])
    found = statistics.read_collected(tmp_path, options.run_pipeline(build, beam_options))
    assert found.files == [{"name": "a"}, {"name": "b"}]
    assert found.counts == {("read", "", 0): 5, ("rejected", "image_blank", 0): 1}
    assert found.samples == {NEAR: [[1, "a"], [2, "b"]]}
    assert found.captions == {"distinct": 2, "top": [["x", 2], ["y", 1]]}
    assert found.groups == {
        "num_groups": 1,
        "num_dropped": 3,
        "sizes": {"best": 4},
        "skipped": 0,
    }
    assert sharded_writers.files.is_empty(tmp_path)
