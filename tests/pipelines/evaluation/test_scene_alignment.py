# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers of an evaluation from what was read of images, in a case worked by hand."""

import dataclasses
import random
from typing import Any

import pytest

from parti.data.scenes import probe as scene_probe
from parti.data.scenes import scenes
from parti.data.storage import records
from parti.pipelines.evaluation import scene_alignment


def generation(prompt: int, rank: int, score: float | None, **metadata: Any) -> records.Generation:
    return records.Generation(
        prompt_id=f"p{prompt}",
        prompt="",
        sample_index=rank,
        rank=rank,
        score=score,
        seed=0,
        image="",
        metadata=metadata,
    )


def test_estimates_of_two_prompts() -> None:
    rng, world = random.Random(0), scenes.find_world("tiny")
    truths = [scenes.sample_scene(rng, world) for _ in range(2)]
    views = [scene_probe.perfect_view(truth) for truth in truths]
    groups = [
        [generation(i, rank, 1.0 - rank, scene=truth.to_dict()) for rank in range(2)]
        for i, truth in enumerate(truths)
    ]
    found = []
    for i, second in enumerate((0.5, 1.0)):
        first = scene_probe.compare(views[i], truths[i])
        alignments = [first, dict.fromkeys(first, second)]
        found.append({"alignments": alignments, "best": dataclasses.asdict(views[i])})
    metrics = scene_alignment.alignment_metrics(groups, found)
    overall = {name: value["mean"] for name, value in metrics["alignment"]["overall"].items()}
    # Each best image is right; of two prompts the other prompt's image is the only other one.
    chance = [scene_probe.compare(views[1 - i], truths[i])["overall"] for i in range(2)]
    assert overall["best"] == overall["oracle"] == 1
    assert overall["random"] == pytest.approx((0.75 + 1.0) / 2)
    assert overall["best_minus_random"] == pytest.approx(1 - overall["random"])
    assert overall["shuffled"] == pytest.approx(sum(chance) / 2, abs=1e-6)
    assert overall["best_minus_shuffled"] == pytest.approx(1 - sum(chance) / 2, abs=1e-6)
    # The second prompt's samples agree alike, so only the first has a correlation.
    assert metrics["rerank_correlation"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "count": 1}
    counts = [row["best"]["count"] for row in metrics["alignment_by_challenge"].values()]
    assert sum(counts) == 2


def test_metadata_without_a_scene_of_ours() -> None:
    for metadata in ({}, {"scene": {"place": "a beach"}}):
        assert scene_alignment.scene_of(generation(0, 0, None, **metadata)) is None
