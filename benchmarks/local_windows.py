# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a decoder's local window and its shift cost in quality, at equal steps; prints a JSON line.

    parti demo --workdir runs/demo
    parti train --gin_file=t5x_configs/experiments/tokenizer_tiny.gin --gin.IMAGE_SIZE=64 \
        --gin.PAIRS_DIR="'runs/demo/pairs'" --gin.MODEL_DIR="'runs/tokenizer_16'"
    parti tokenize --input runs/demo/pairs --model runs/tokenizer_16 --output runs/tokens_16
    python benchmarks/local_windows.py --workdir runs/demo --tokenizer runs/tokenizer_16 \
        --tokens runs/tokens_16 --output runs/windows

`--workdir` is a finished workflow, whose vocabulary and prompts are used; tokens and tokenizer are
of 16 x 16 tokens, where windows of 11, 7 and 5 leave something out. The generator of the
demonstration is trained with each window (0 is dense: all earlier tokens) and each shift, with
several seeds. Of each training: the loss of the whole validation split, and how well pictures of
the prompts agree with them, `--by scenes` in [0, 1], or `--by psnr` with the picture whose caption
the prompt is (emoji, say). Means over seeds have a 95% interval. `--output` keeps the trainings and
what was measured of each: the same command goes on.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

import numpy as np
import reranking
import trainings

from parti.data.images import images
from parti.data.scenes import probe, scenes
from parti.data.text import prompt_files, vocabularies
from parti.engine.inference import bundles, loaded_models, rendering, text_to_image
from parti.models.text_to_image import sampling
from parti.stages import manifests

EXPERIMENT = "t5x_configs/experiments/text_to_image_tiny.gin"
DENSE = 0
PROMPTS_PER_CALL = 8


def train(
    folder: pathlib.Path, window: int, shift: str, seed: int, flags: argparse.Namespace
) -> float:
    """Trains once, unless it is done; returns the loss of the whole validation split."""
    root = pathlib.Path(flags.workdir).absolute()
    tokens = manifests.read(flags.tokens, "tokens")
    vocabulary = root / "vocabulary" / "vocabulary.model"
    settings = {
        "TOKENS_DIR": repr(str(pathlib.Path(flags.tokens).absolute())),
        "VOCABULARY": repr(str(vocabulary)),
        "TEXT_VOCAB_SIZE": vocabularies.TextTokenizer(vocabulary).vocab_size,
        "CODEBOOK_SIZE": tokens["codebook_size"],
        "GRID_SIZE": tokens["grid_size"],
        "LOCAL_WINDOW": window,
        "SHIFT": repr(shift),
        "WARMUP_STEPS": flags.steps // 10,
        "LOG_PERIOD": flags.steps // 10,
    }
    return trainings.run([EXPERIMENT], folder, flags.steps, seed, settings)[-1]["loss"]


def agreement(folder: pathlib.Path, flags: argparse.Namespace) -> float:
    """Returns how well the pictures of a training agree with their prompts, on average."""
    root = pathlib.Path(flags.workdir)
    generator = loaded_models.LoadedModel.from_train_dir(folder)
    generator.vocabulary = vocabularies.TextTokenizer(root / "vocabulary" / "vocabulary.model")
    tokenizer = bundles.load_part(flags.tokenizer, "tokenizer")
    settings = sampling.SamplingSettings(guidance_scale=flags.guidance_scale)
    prompts = prompt_files.read_prompts(root / "prompts" / "prompts.jsonl")[: flags.num_prompts]
    known = reranking.read_pictures(root) if flags.by == "psnr" else {}
    requests = [text_to_image.Request(prompt.text, settings) for prompt in prompts]
    drawn = text_to_image.draw(generator, requests, flags.num_samples, PROMPTS_PER_CALL)
    values = []
    for prompt, tokens in zip(prompts, drawn, strict=True):
        pictures = rendering.decode(tokenizer, tokens)
        if flags.by == "scenes":
            scene = scenes.Scene.from_dict(prompt.metadata["scene"])
            values += [probe.alignment(picture, scene)["overall"] for picture in pictures]
        else:
            truth = images.resize(known[prompt.metadata["key"]], pictures.shape[1])
            values += [images.psnr(picture, truth) for picture in pictures]
    return float(np.mean(values))


def measure_once(window: int, shift: str, seed: int, flags: argparse.Namespace) -> dict[str, float]:
    """Returns {"validation_loss", "agreement"} of one training, kept in its folder."""
    folder = pathlib.Path(flags.output, f"window{window}-{shift}-{seed}")
    kept = folder / "local_windows.json"
    if not kept.exists():
        loss = train(folder, window, shift, seed, flags)
        kept.write_text(
            json.dumps({"validation_loss": loss, "agreement": agreement(folder, flags)})
        )
        print(f"{folder.name}: {kept.read_text()}", file=sys.stderr, flush=True)
    return json.loads(kept.read_text())


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Returns {variant: what the line says of it}."""
    variants = [(window, shift) for window in flags.windows for shift in ("raster", "row")]
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(flags.seeds):
        for window, shift in variants:
            name = f"{'dense' if window == DENSE else window}, {shift}"
            found.setdefault(name, []).append(measure_once(window, shift, seed, flags))
    return {
        name: {
            what: trainings.estimate_mean([row[what] for row in rows])
            for what in ("validation_loss", "agreement")
        }
        for name, rows in found.items()
    }


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--workdir", required=True, help="the folder of a finished workflow")
    add("--tokenizer", required=True, help="a training of an image tokenizer")
    add("--tokens", required=True, help="the pairs' tokens by that tokenizer")
    add("--output", required=True, help="where the trainings are kept")
    add("--by", choices=reranking.UNITS, default="scenes")
    add("--windows", type=int, nargs="+", default=[DENSE, 11, 7, 5])
    add("--steps", type=int, default=1200)
    add("--seeds", type=int, default=3, help="2 or more")
    add("--num_prompts", type=int, default=64)
    add("--num_samples", type=int, default=4)
    add("--guidance_scale", type=float, default=1.2)
    flags = parser.parse_args()
    trainings.check_flags(parser, flags)
    unit = f"nats per image token, validation; agreement {reranking.UNITS[flags.by]}"
    trainings.print_record("local_windows", unit, flags.steps, measure(flags))
    return 0


if __name__ == "__main__":
    sys.exit(main())
