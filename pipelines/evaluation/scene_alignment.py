# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""From measured pictures to the numbers of an evaluation; pure, no Beam.

Comparisons, each a mean over prompts with its interval: `best` is the picture of rank 0, `random`
any sample (the mean over a prompt's samples), `shuffled` the best pictures of other prompts, which
is chance, `oracle` the sample that agrees most with the scene: what a perfect reranker chooses.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parti.data.scenes import probe as scene_probe
from parti.data.scenes import scenes
from parti.data.storage import records
from parti.pipelines.evaluation import bootstrap

SCENE = "scene"
OVERALL = "overall"
_NUM_PERMUTATIONS = 8


def alignment_metrics(
    groups: Sequence[list[records.Generation]], found: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns the estimates for prompts with a scene.

    Args:
      groups: the images of each prompt, in rank order.
      found: what `evaluate.build` gave, in any order.

    Returns:
      "alignment": {score name: {comparison: estimate}}; "alignment_by_challenge": the same for
      `overall`, by the challenge of the scene; "rerank_correlation": Spearman's between the
      reranker's scores and the alignments of a prompt's samples, if there are scores.
    """
    by_id = {row["prompt_id"]: row for row in found}
    rows = [by_id[group[0].prompt_id] for group in groups]
    truths = [scenes.Scene.from_dict(group[0].metadata[SCENE]) for group in groups]
    shuffled = _shuffled_alignments([_view(row["best"]) for row in rows], truths)
    prompts = [_comparisons(row["alignments"], other) for row, other in zip(rows, shuffled)]
    names = [name for name in (OVERALL, *scene_probe.SCORES) if any(name in p for p in prompts)]
    result: dict[str, Any] = {
        "alignment": {
            name: _estimate([prompt[name] for prompt in prompts if name in prompt])
            for name in names
        }
    }
    challenges = sorted({truth.challenge for truth in truths})
    result["alignment_by_challenge"] = {
        challenge: _estimate(
            [p[OVERALL] for p, t in zip(prompts, truths) if t.challenge == challenge]
        )
        for challenge in challenges
    }
    correlations = []
    for group, row in zip(groups, rows):
        scores = [item.score for item in group if item.score is not None]
        overall = [alignment[OVERALL] for alignment in row["alignments"]]
        if len(scores) == len(overall):
            correlations.append(bootstrap.rank_correlation(scores, overall))
    known = [value for value in correlations if value is not None]
    if known:
        result["rerank_correlation"] = bootstrap.bootstrap(known).to_dict()
    return result


def _comparisons(
    alignments: Sequence[Mapping[str, float]], shuffled: Mapping[str, float] | None
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


def _estimate(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Returns {comparison: estimate} over prompts."""
    return {
        name: bootstrap.bootstrap([row[name] for row in rows]).to_dict() for name in sorted(rows[0])
    }


def _shuffled_alignments(
    views: Sequence[scene_probe.View], truths: Sequence[scenes.Scene]
) -> list[dict[str, float] | None]:
    """Returns what the best pictures of other prompts score against each scene (the mean)."""
    if len(truths) < 2:
        return [None] * len(truths)
    permutations = bootstrap.derangements(len(truths), _NUM_PERMUTATIONS)
    return [
        scene_probe.mean_scores([scene_probe.compare(views[other], truth) for other in others])
        for truth, others in zip(truths, permutations.T)
    ]


def _view(values: Mapping[str, Any]) -> scene_probe.View:
    objects = tuple(scene_probe.SeenObject(**thing) for thing in values["objects"])
    return scene_probe.View(values["background"], objects, values["text"])
