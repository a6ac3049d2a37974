# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What ranking gains: best of N by each ranking, at random and by oracle; prints one JSON line.

    python benchmarks/reranking.py --workdir runs/demo
    python benchmarks/reranking.py --workdir runs/demo --rerankers runs/a runs/b runs/c
    python benchmarks/reranking.py --workdir runs/emoji --by psnr

Ranks the generations of a finished workflow by several rerankers, trainings that differ in their
seed, say; by default the workflow's own. How well a picture agrees with its prompt is what `parti
evaluate` read from it (`--by scenes`: `evaluation/alignments.jsonl`), or the PSNR with the picture
of the validation split whose caption the prompt is (`--by psnr`: pictures that a caption all but
determines, emoji say). The oracle takes the sample that agrees most, `random` sample 0, and `any`
is the mean of all. A reranker sees what `parti generate` shows it: the tokenizer's pictures, not
yet upsampled; PSNR is of those too. A prompt's values are averaged over the rerankers before the
bootstrap over prompts; `by_reranker` has the means of each.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from parti.data.images import images
from parti.data.storage import records, tfrecords
from parti.engine.inference import bundles, loaded_models, rendering
from parti.pipelines import generate
from parti.pipelines.evaluation import bootstrap, scene_alignment
from parti.pipelines.html import gallery

UNITS = {"scenes": "in [0, 1]", "psnr": "dB"}


class Samples(NamedTuple):
    """The samples of one prompt."""

    text: str
    pictures: np.ndarray  # [samples, height, width, 3] uint8, of the tokenizer
    agreement: np.ndarray  # [samples]


def read_samples(
    workdir: pathlib.Path, by: str, tokenizer: loaded_models.LoadedModel
) -> list[Samples]:
    """Returns the prompts that agreement is known of; ValueError: there are none."""
    tokens = {}
    for data in tfrecords.read_pattern(workdir / "generations" / "tokens-*.tfrecord"):
        row = records.TokenizedPair.from_example(data)
        tokens[row.key] = np.asarray(row.image_tokens, np.int32)
    known = read_scenes(workdir) if by == "scenes" else read_pictures(workdir)
    samples = []
    for ranked in gallery.group_by_prompt(generate.read_generations(workdir / "generations")):
        group = sorted(ranked, key=lambda item: item.sample_index)
        keys = [f"{item.prompt_id}/{item.sample_index:03d}" for item in group]
        pictures = rendering.decode(tokenizer, np.stack([tokens[key] for key in keys]))
        key = group[0].metadata.get("key")  # of the pair whose caption the prompt is
        if by == "scenes" and all(item.image in known for item in group):
            agreement = np.array([known[item.image] for item in group])
        elif by == "psnr" and key in known:
            truth = images.resize(known[key], pictures.shape[1])
            agreement = np.array([images.psnr(picture, truth) for picture in pictures])
        else:
            continue
        samples.append(Samples(group[0].prompt, pictures, agreement))
    if not samples:
        raise ValueError(f"agreement by {by} is known of no picture of {workdir / 'generations'}")
    return samples


def read_scenes(workdir: pathlib.Path) -> dict[str, float]:
    """Returns {image of a generation: its agreement with the scene of its prompt}."""
    path = workdir / "evaluation" / "alignments.jsonl"
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["image"]: line["alignment"][scene_alignment.OVERALL] for line in lines}


def read_pictures(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns {key: picture} of the validation split."""
    rows = tfrecords.read_pattern(workdir / "pairs" / "validation-*.tfrecord")
    pairs = map(records.ImageTextPair.from_example, rows)
    return {pair.key: images.decode_image(pair.image) for pair in pairs}


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


def best(reranker: loaded_models.LoadedModel, samples: Sequence[Samples]) -> dict[str, np.ndarray]:
    """Returns {ranking: agreement of the best sample of each prompt}."""
    found = {name: np.zeros(len(samples)) for name in rendering.rankings(reranker.model)}
    for index, (text, pictures, agreement) in enumerate(samples):
        for name, values in found.items():
            scores = rendering.score(reranker, text, pictures, name)
            values[index] = agreement[np.argmax(scores)]
    return found


def gains(agreement: np.ndarray, chance: np.ndarray, oracle: np.ndarray) -> dict[str, Any]:
    """Returns the mean agreement of a choice, what it gains over any sample, and of how much."""
    return {
        "agreement": bootstrap.estimate_mean(agreement),
        "gain": bootstrap.estimate_mean(agreement - chance),
        "share_of_perfect_gain": round(float((agreement - chance).mean() / oracle.mean()), 3),
    }


def measure(workdir: pathlib.Path, folders: Sequence[pathlib.Path], by: str) -> Mapping[str, Any]:
    """Returns the line."""
    bundle = bundles.Bundle.open(workdir / "bundle")
    samples = read_samples(workdir, by, bundle.load("tokenizer"))
    rerankers, by_ranking = [], {}
    for folder in folders:
        reranker, about = load_reranker(folder, bundle)
        for name, agreement in best(reranker, samples).items():
            by_ranking.setdefault(name, []).append(agreement)
            about[name] = round(float(agreement.mean()), 4)
        rerankers.append(about)
    chance = np.array([row.agreement.mean() for row in samples])
    most = np.array([row.agreement.max() for row in samples])
    first = np.array([row.agreement[0] for row in samples])
    choices = {name: np.mean(rows, axis=0) for name, rows in by_ranking.items()}
    choices |= {"random": first, "oracle": most}
    return {
        "figure": f"agreement, by {by}, of the best of {len(samples[0].agreement)} with its prompt",
        "unit": UNITS[by],
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
    parser.add_argument("--by", choices=UNITS, default="scenes", help="what agreement is")
    flags = parser.parse_args()
    folders = flags.rerankers or [flags.workdir / "reranker"]
    print(json.dumps(measure(flags.workdir, folders, flags.by)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
