# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the order of the epochs does to the tiny generator at equal steps; prints one JSON line.

    python benchmarks/data_order.py --workdir runs/demo --output runs/orders --seeds 1 2 3

`--workdir` is what `parti demo` left: tokens and vocabulary. It trains as the demonstration does,
3.6 epochs, with orders whose epochs are shuffled anew in 8 parts (`data/storage/row_order`), or in
1, as a whole. The losses are of the whole validation split after the last step, their mean over
seeds with a 95% interval. `--output` keeps the trainings: the same command goes on.
"""

import argparse
import json
import os
import pathlib
import platform
import unittest.mock
from typing import Any

import trainings

from parti.data.storage import row_order

EXPERIMENT = "t5x_configs/experiments/text_to_image_tiny.gin"
STEPS = 2400


def loss(parts: int, seed: int, flags: argparse.Namespace) -> float:
    """Trains with an order of so many parts; returns the validation loss."""
    root = pathlib.Path(flags.workdir).absolute()
    settings: dict[str, Any] = {
        "TOKENS_DIR": repr(str(root / "tokens")),
        "VOCABULARY": repr(str(root / "vocabulary" / "vocabulary.model")),
    }
    folder = flags.output / f"{parts}-{seed}"
    with unittest.mock.patch.object(row_order, "PARTS", parts):
        return trainings.run([EXPERIMENT], folder, flags.steps, seed, settings)[-1]["loss"]


def main() -> None:
    """Trains in turns and prints the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="the folder of `parti demo`")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="two or more")
    parser.add_argument("--parts", type=int, nargs="+", default=[1, row_order.PARTS])
    parser.add_argument("--steps", type=int, default=STEPS)
    flags = parser.parse_args()
    losses: dict[int, list[float]] = {parts: [] for parts in flags.parts}
    for seed in flags.seeds:
        for parts in flags.parts:
            losses[parts].append(loss(parts, seed, flags))
    found = {
        "name": "data_order",
        "steps": flags.steps,
        "validation_loss": {
            str(parts): trainings.estimate_mean(every) for parts, every in losses.items()
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
