# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The tiny generator with and without a pretrained text encoder; prints one JSON line.

    python benchmarks/text_encoder_pretraining.py --workdir runs/demo --output runs/pretraining

`--workdir` is what `parti demo` or a workflow left: pairs, tokens and vocabulary. For each seed it
trains a text encoder (`text_encoder_tiny.gin`), and the generator twice with the same steps,
batches and seed: from that encoder, and from random parameters. The values are losses on the whole
validation split; `gain` is the mean over seeds of what the pretraining takes off the loss, with the
standard error times the two-sided 95% quantile of Student's distribution. `--gin NAME=VALUE` is for
all trainings, `--generator_gin` for the generators, such as the sizes of a workflow's. `--output`
keeps the trainings: the same command goes on, and `text_encoder_probes.py` reads them.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
from typing import Any

import trainings

EXPERIMENTS = "t5x_configs/experiments"


def measure(seed: int, flags: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Returns the metrics of the encoder, and of the generators `on` and `off`, for a seed."""
    root, output = pathlib.Path(flags.workdir).absolute(), pathlib.Path(flags.output).absolute()
    shared = {
        "VOCABULARY": repr(str(root / "vocabulary" / "vocabulary.model")),
        **dict(binding.split("=", 1) for binding in flags.gin),
    }

    def train(name: str, folder: pathlib.Path, steps: int, more: dict[str, Any]) -> dict[str, Any]:
        files = [f"{EXPERIMENTS}/{name}.gin"]
        return trainings.run(files, folder, steps, seed, shared | more)[-1]

    encoder, pairs = output / f"text_encoder-{seed}", {"PAIRS_DIR": repr(str(root / "pairs"))}
    found = {"text_encoder": train("text_encoder_tiny", encoder, flags.encoder_steps, pairs)}
    for name, start in (("on", repr(str(encoder))), ("off", "None")):
        settings = {"TEXT_ENCODER": start, "TOKENS_DIR": repr(str(root / "tokens"))}
        settings |= dict(binding.split("=", 1) for binding in flags.generator_gin)
        folder = output / f"generator-{name}-{seed}"
        found[name] = train("text_to_image_tiny", folder, flags.generator_steps, settings)
    return found


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="the folder of `parti demo`")
    parser.add_argument("--output", required=True, help="where the trainings are kept")
    parser.add_argument("--encoder_steps", type=int, default=600)
    parser.add_argument("--generator_steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=3, help="2 or more")
    for name in ("--gin", "--generator_gin"):
        parser.add_argument(name, action="append", default=[], metavar="NAME=VALUE")
    flags = parser.parse_args()
    if flags.seeds < 2 or not all("=" in given for given in flags.gin + flags.generator_gin):
        parser.error("--seeds is at least 2, --gin and --generator_gin are NAME=VALUE")
    found = [measure(seed, flags) for seed in range(flags.seeds)]
    losses = {name: [one[name]["loss"] for one in found] for name in ("on", "off")}
    gains = [off - on for on, off in zip(losses["on"], losses["off"], strict=True)]
    told = ("masked_accuracy", "text_to_image_recall_at_1", "text_to_image_recall_at_10")
    record = {
        "benchmark": "text_encoder_pretraining",
        "unit": "nats per image token, validation",
        "encoder_steps": flags.encoder_steps,
        "generator_steps": flags.generator_steps,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **{name: [round(loss, 4) for loss in values] for name, values in losses.items()},
        "gain": trainings.estimate_mean(gains),
        "text_encoder": {
            name: [round(one["text_encoder"][name], 4) for one in found]
            for name in told
            if name in found[0]["text_encoder"]
        },
    }
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
