# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The sample of captions: bounded, weighted, the same whatever the order."""

import random

import apache_beam as beam
import pytest
from apache_beam.options import pipeline_options

from parti.data.storage import records
from parti.pipelines.beam import options, sharded_writers
from parti.pipelines.vocabulary import sampling as caption_sampling

DATA = ["photo"] * 900 + [f"caption number {i}" for i in range(3000)] + ["twice", "twice"]


@pytest.fixture
def sample(tmp_path):
    """Returns the function texts, settings -> {text: row}, which also asks for another order."""

    def run(texts, *settings):
        found = []
        for seed in (0, 1):
            shuffled = random.Random(seed).sample(texts, len(texts))
            options.run_pipeline(
                lambda root, given=shuffled: (
                    root
                    | beam.Create(given)
                    | caption_sampling.SampleCaptions(*settings)
                    | beam.Map(list)
                    | sharded_writers.CollectJson(tmp_path / "rows.json")
                ),
                pipeline_options.PipelineOptions([]),
            )
            found.append(sharded_writers.read_collected(tmp_path / "rows.json"))
        assert found[0] == found[1]
        return {row[0]: caption_sampling.Row(*row) for row in found[0]}

    return run


def test_all_fit(sample):
    rows = sample(DATA, 5000, 0.5)
    assert len(rows) == 3002
    assert rows["photo"][1:3] == (16 * 30, 900)
    assert rows["twice"][1:3] == (round(16 * 2**0.5), 2)
    assert rows["caption number 7"] == ("caption number 7", 16, 1, "")


@pytest.mark.parametrize(
    ("power", "cap", "counts"), [(0, 0, (1, 1)), (1, 0, (900, 2)), (1, 10, (10, 2)), (1, 1, (1, 1))]
)
def test_weights(power, cap, counts):
    assert tuple(caption_sampling.weight(n, power, cap) for n in (900, 2)) == counts


def test_a_sample_is_bounded_and_stands_for_all(sample):
    rows = sample(DATA, 500, 1.0)
    assert 490 <= len(rows) <= 500
    # The frequent one is always in, with its own weight; a rare one stands for about six.
    assert rows["photo"].occurrences == 900
    rare = rows.keys() - {"photo", "twice"}
    each = {rows[text].occurrences for text in rare}
    assert len(each) == 1 and 5.5 < each.pop() < 6.8
    total = sum(row.occurrences for row in rows.values())
    assert abs(total - len(DATA)) < 3 * 6 * 500**0.5
    ratio = rows["photo"].times / rows[min(rare)].times
    assert ratio == pytest.approx(900 / rows[min(rare)].occurrences, rel=0.05)


def test_thresholds():
    bins = [(0, 5), (3, 4), (9, 1)]
    assert [caption_sampling.threshold_bin(bins, n) for n in (10, 9, 5, 4, 1)] == [0, 3, 3, 9, 9]
    assert (
        caption_sampling.threshold_bin([(9, 2)], 1) == 10
        and caption_sampling.threshold_bin([], 1) == 0
    )


def test_captions_of_a_pair():
    metadata = {"captions": ["a  cat", "a&amp;b", 7, "", None, "\ud800x", "y" * 9000]}
    pair = records.ImageTextPair("k", b"", " a cat\n", metadata=metadata)
    assert list(caption_sampling.pair_captions(pair)) == ["a cat", "a&b", "x", "y" * 2000]
    pair = records.ImageTextPair("k", b"", " \n", metadata={"captions": "none"})
    assert not list(caption_sampling.pair_captions(pair))


def test_rows_travel_as_lines():
    row = caption_sampling.Row("naïve \u2028 赤\ud83d", 16, 1.5, "en")
    assert caption_sampling.Row.from_json(row.to_json().decode()) == row
    assert b"\n" not in row.to_json()
