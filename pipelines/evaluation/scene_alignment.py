# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""How well images agree with the scenes of their prompts: from what was read of them to numbers.

Means over prompts: `best` is of rank 0, `random` any sample, `shuffled` the best of other prompts,
which is chance, `oracle` the sample that agrees most: what a perfect reranker chooses.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parti.data.scenes import probe as scene_probe
from parti.data.scenes import scenes
from parti.data.storage import records
from parti.pipelines.evaluation import bootstrap

OVERALL = "overall"
_SCENE = "scene"  # in the metadata of a prompt
_NUM_PERMUTATIONS = 8

Alignment = Mapping[str, float]  # score name -> agreement in [0, 1]


def has_scene(item: records.Generation) -> bool:
    """Returns whether a prompt's metadata has a `scene`, of whatever kind."""
    return item.metadata.get(_SCENE) is not None


def scene_of(item: records.Generation) -> scenes.Scene | None:
    """Returns the scene that a prompt describes; None if its metadata has none of ours."""
    try:
        return scenes.Scene.from_dict(item.metadata[_SCENE])
    except (KeyError, ValueError):
        return None


def alignment_metrics(
    groups: Sequence[Sequence[records.Generation]],  # the images of each prompt, in rank order
    found: Sequence[Mapping[str, Any]],  # what `evaluate.build` gives for each prompt
) -> dict[str, Any]:
    """Returns the estimates for prompts with a scene.

    "alignment" is {score name: {comparison: estimate}}, "alignment_by_challenge" the same of the
    overall score, by the challenge of the scene, "rerank_correlation" Spearman's between the
    reranker's scores and the alignments of a prompt's samples, if there are scores.
    """
    truths = [scenes.Scene.from_dict(group[0].metadata[_SCENE]) for group in groups]
    shuffled = _shuffled_alignments(found, truths)
    prompts = [_comparisons(row["alignments"], other) for row, other in zip(found, shuffled)]
    challenges = [truth.challenge for truth in truths]
    by_score = {
        name: [prompt[name] for prompt in prompts if name in prompt]
        for name in (OVERALL, *scene_probe.SCORES)
    }
    return {
        "alignment": {name: _estimate(rows) for name, rows in by_score.items() if rows},
        "alignment_by_challenge": {
            name: _estimate([p[OVERALL] for p, one in zip(prompts, challenges) if one == name])
            for name in sorted(set(challenges))
        },
        **_rerank_correlation(groups, found),
    }


def _comparisons(
    alignments: Sequence[Alignment], shuffled: Alignment | None
) -> dict[str, dict[str, float]]:
    """Returns {score name: {comparison: value}} of one prompt, whose images are in rank order."""
    result = {}
    for name, best in alignments[0].items():
        values = [alignment[name] for alignment in alignments]
        row = {"best": best, "random": float(np.mean(values)), "oracle": max(values)}
        row["best_minus_random"] = best - row["random"]
        if shuffled is not None:
            row["shuffled"] = shuffled[name]
            row["best_minus_shuffled"] = best - shuffled[name]
            row["random_minus_shuffled"] = row["random"] - shuffled[name]
        result[name] = row
    return result


def _rerank_correlation(
    groups: Sequence[Sequence[records.Generation]], found: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns {"rerank_correlation": estimate}; {} if no prompt's scores and alignments differ."""
    correlations = []
    for group, row in zip(groups, found):
        scores = [item.score for item in group if item.score is not None]
        overall = [alignment[OVERALL] for alignment in row["alignments"]]
        if len(scores) == len(overall):
            correlations.append(bootstrap.rank_correlation(scores, overall))
    known = [value for value in correlations if value is not None]
    return {"rerank_correlation": bootstrap.estimate_mean(known)} if known else {}


def _estimate(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    return {name: bootstrap.estimate_mean([row[name] for row in rows]) for name in sorted(rows[0])}


def _shuffled_alignments(
    found: Sequence[Mapping[str, Any]], truths: Sequence[scenes.Scene]
) -> list[dict[str, float] | None]:
    """Returns what the best images of other prompts score against each scene (the mean)."""
    if len(truths) < 2:
        return [None] * len(truths)
    views = []
    for best in (row["best"] for row in found):
        objects = tuple(scene_probe.SeenObject(**thing) for thing in best["objects"])
        views.append(scene_probe.View(best["background"], objects, best["text"]))
    permutations = bootstrap.derangements(len(truths), _NUM_PERMUTATIONS)
    return [
        scene_probe.mean_scores([scene_probe.compare(views[other], truth) for other in others])
        for truth, others in zip(truths, permutations.T)
    ]
