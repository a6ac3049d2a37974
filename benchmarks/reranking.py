# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What ranking gains: best of N by each ranking, at random and by oracle; prints one JSON line.

    python benchmarks/reranking.py --workdir runs/demo
    python benchmarks/reranking.py --workdir runs/demo --rerankers runs/a runs/b runs/c

Ranks the generations of a finished workflow on scenes by several rerankers, trainings that differ
in their seed, say; by default the workflow's own. How well a picture agrees with its prompt is what
`parti evaluate` read from it (`evaluation/alignments.jsonl`): the oracle takes the sample that
agrees most, `random` sample 0, and `any` is the mean of all. A reranker sees what `parti generate`
shows it: the tokenizer's pictures, not yet upsampled. A prompt's values are averaged over the
rerankers before the bootstrap over prompts; `by_reranker` has the means of each.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from parti.data.storage import records, tfrecords
from parti.engine.inference import bundles, loaded_models
from parti.pipelines import generate
from parti.pipelines.beam import model_handlers
from parti.pipelines.evaluation import bootstrap, scene_alignment
from parti.pipelines.html import gallery

Samples = tuple[str, np.ndarray, np.ndarray]  # text, tokens [samples, length], agreement [samples]


def read_samples(workdir: pathlib.Path) -> list[Samples]:
    """Returns the prompts with a scene; ValueError: their agreement was not measured."""
    tokens = {}
    for data in tfrecords.read_pattern(workdir / "generations" / "tokens-*.tfrecord"):
        row = records.TokenizedPair.from_example(data)
        tokens[row.key] = np.asarray(row.image_tokens, np.int32)
    path = workdir / "evaluation" / "alignments.jsonl"
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    agreement = {line["image"]: line["alignment"][scene_alignment.OVERALL] for line in lines}
    groups = gallery.group_by_prompt(generate.read_generations(workdir / "generations"))
    samples = []
    for ranked in groups:
        group = sorted(ranked, key=lambda item: item.sample_index)
        if not all(item.image in agreement for item in group):
            continue
        keys = [f"{item.prompt_id}/{item.sample_index:03d}" for item in group]
        values = np.array([agreement[item.image] for item in group])
        samples.append((group[0].prompt, np.stack([tokens[key] for key in keys]), values))
    if not samples:
        raise ValueError(f"{path} measures no picture of {workdir / 'generations'}")
    return samples


def load_reranker(
    folder: pathlib.Path, bundle: bundles.Bundle
) -> tuple[loaded_models.LoadedModel, dict[str, Any]]:
    """Returns a reranker that reads texts as a bundle does, and what to say of it.

    Raises:
      ValueError: it was trained with another vocabulary.
    """
    reranker = bundles.load_part(folder, "reranker")
    reranker.vocabulary = bundle.vocabulary()
    trained_with = reranker.trained_on.get("vocabulary_fingerprint")
    if trained_with not in (None, reranker.vocabulary.fingerprint):
        raise ValueError(f"{folder} was trained with another vocabulary than the bundle's")
    about = {"fingerprint": reranker.fingerprint[:12], "name": folder.name}
    return reranker, about


def best(
    reranker: loaded_models.LoadedModel,
    samples: Sequence[Samples],
    pictures: Sequence[np.ndarray],
) -> dict[str, np.ndarray]:
    """Returns {ranking: agreement of the best sample of each prompt}."""
    found = {name: np.zeros(len(samples)) for name in model_handlers.rankings(reranker.model)}
    for index, ((text, _, agreement), pixels) in enumerate(zip(samples, pictures, strict=True)):
        for name, values in found.items():
            scores = model_handlers.score(reranker, text, pixels, name)
            values[index] = agreement[np.argmax(scores)]
    return found


def gains(agreement: np.ndarray, chance: np.ndarray, oracle: np.ndarray) -> dict[str, Any]:
    """Returns the mean agreement of a choice, what it gains over any sample, and of how much."""
    return {
        "agreement": bootstrap.estimate_mean(agreement),
        "gain": bootstrap.estimate_mean(agreement - chance),
        "share_of_perfect_gain": round(float((agreement - chance).mean() / oracle.mean()), 3),
    }


def measure(workdir: pathlib.Path, folders: Sequence[pathlib.Path]) -> Mapping[str, Any]:
    """Returns the line."""
    samples, bundle = read_samples(workdir), bundles.Bundle.open(workdir / "bundle")
    tokenizer = bundle.load("tokenizer")
    pictures = [model_handlers.decode(tokenizer, tokens) for _, tokens, _ in samples]
    rerankers, by_ranking = [], {}
    for folder in folders:
        reranker, about = load_reranker(folder, bundle)
        for name, agreement in best(reranker, samples, pictures).items():
            by_ranking.setdefault(name, []).append(agreement)
            about[name] = round(float(agreement.mean()), 4)
        rerankers.append(about)
    chance = np.array([agreement.mean() for _, _, agreement in samples])
    most = np.array([agreement.max() for _, _, agreement in samples])
    first = np.array([agreement[0] for _, _, agreement in samples])
    choices = {name: np.mean(rows, axis=0) for name, rows in by_ranking.items()}
    choices |= {"random": first, "oracle": most}
    return {
        "figure": f"agreement of the best of {len(samples[0][2])} with the scene of its prompt",
        "unit": "in [0, 1]",
        "num_prompts": len(samples),
        "any": bootstrap.estimate_mean(chance),
        **{name: gains(values, chance, most - chance) for name, values in choices.items()},
        "by_reranker": rerankers,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}",
    }


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="of a workflow")
    parser.add_argument("--rerankers", type=pathlib.Path, nargs="+", help="trainings")
    flags = parser.parse_args()
    folders = flags.rerankers or [flags.workdir / "reranker"]
    print(json.dumps(measure(flags.workdir, folders)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
