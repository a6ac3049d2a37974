# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains an image tokenizer in several variants and measures each; prints one JSON line.

    python benchmarks/tokenizer_quality.py --pairs pairs --output runs/variants \
        --experiment tokenizer_64 --set IMAGE_SIZE=32 --set TRAIN_STEPS=1000 \
        --variant l2:losses.LossWeights.perceptual=0.0 --variant perceptual:

A variant is NAME:BINDING,BINDING. Each is `parti train` and then `parti evaluate --reconstructions`
on the validation split, one after another, with the same seeds. `perceptual_distance` is the mean
of the in-house filters' distance (models/perceptual/filters.py), whatever a variant was trained on.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np

from parti.data.images import images
from parti.data.storage import records, shard_names, tfrecords
from parti.engine.inference import loaded_models
from parti.models.perceptual import filters

PARTI = [sys.executable, "-m", "parti"]


def run(*command: str) -> float:
    """Runs a command of parti; returns its seconds."""
    began = time.monotonic()
    subprocess.run([*PARTI, *command], check=True, stdout=sys.stderr)
    return time.monotonic() - began


def perceptual_distance(pairs: str, directory: pathlib.Path) -> float:
    """Returns the mean distance of the validation pictures from their reconstructions."""
    tokenizer = loaded_models.LoadedModel.from_train_dir(directory)
    size, pictures = tokenizer.model.image_size, []
    for path in shard_names.expand_pattern(pairs, "image-text pairs"):
        if pathlib.Path(path).name.startswith("validation-"):
            for serialized in tfrecords.read(path):
                pair = records.ImageTextPair.from_example(serialized)
                picture = images.square_crop(images.decode_image(pair.image))
                pictures.append(images.to_float(images.resize(picture, size)))
    originals = np.stack(pictures)
    tokens = tokenizer.call("encode", originals, batch_size=32)
    decoded = tokenizer.call("decode", tokens, batch_size=32)
    distance = jax.jit(filters.distance)
    pairs_of_one = zip(originals[:, None], decoded[:, None], strict=True)
    return float(np.mean([distance(filters.make_variables(), *pair)[0] for pair in pairs_of_one]))


def measure(flags: argparse.Namespace, name: str, bindings: list[str]) -> dict[str, Any]:
    """Trains and measures one variant."""
    folder = pathlib.Path(flags.output, name)
    macros = [f"MODEL_DIR='{folder / 'model'}'", f"PAIRS_DIR='{flags.pairs}'"]
    config = f"--gin_file=t5x_configs/experiments/{flags.experiment}.gin"
    gin = [f"--gin.{binding}" for binding in (*macros, *flags.set, *bindings)]
    seconds = run("train", config, *gin, "--overwrite")
    places = ["--reference", flags.pairs, "--model", str(folder / "model")]
    run("evaluate", "--reconstructions", *places, "--output", str(folder / "report"), "--overwrite")
    report = json.loads((folder / "report" / "metrics.json").read_text())
    return {
        "variant": name,
        "settings": bindings,
        "training_seconds": round(seconds),
        "tokenizer": report["tokenizer"],
        "codebook": report["codebook"],
        "perceptual_distance": round(perceptual_distance(flags.pairs, folder / "model"), 5),
    }


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", required=True, help="the output of `parti clean`")
    parser.add_argument("--output", required=True, help="folder for trainings and reports")
    parser.add_argument("--experiment", default="tokenizer_64", help="in t5x_configs/experiments")
    parser.add_argument("--set", action="append", default=[], help="a gin binding of all variants")
    parser.add_argument("--variant", action="append", required=True, help="NAME:BINDING,BINDING")
    flags = parser.parse_args()
    variants = [text.partition(":") for text in flags.variant]
    runs = [measure(flags, name, [b for b in more.split(",") if b]) for name, _, more in variants]
    line = {
        "figure": f"reconstructions of {flags.experiment} by variant",
        "runs": runs,
        "settings": flags.set,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}",
    }
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
