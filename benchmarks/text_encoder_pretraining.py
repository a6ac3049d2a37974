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
import statistics
import sys
from typing import Any

from scipy import stats

from parti.engine import train
from parti.engine.experiment import experiments

EXPERIMENTS = "t5x_configs/experiments"
FINISHED = "manifest.json"
WHOLE_SPLIT = 10**6  # batches, more than there are


def run(name: str, folder: pathlib.Path, settings: dict[str, Any]) -> dict[str, float]:
    """Trains unless it is done, and returns the last validation metrics."""
    if not (folder / FINISHED).exists():
        bindings = [f"{macro} = {value}" for macro, value in settings.items()]
        bindings.append(f"MODEL_DIR = {str(folder)!r}")
        train.train(experiments.load_experiment([f"{EXPERIMENTS}/{name}.gin"], bindings))
    rows = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row["split"] == "validation"][-1]


def measure(seed: int, flags: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns the metrics of the encoder, and of the generators `on` and `off`, for a seed."""
    root, output = pathlib.Path(flags.workdir).absolute(), pathlib.Path(flags.output).absolute()
    shared = {
        **dict(binding.split("=", 1) for binding in flags.gin),
        "VOCABULARY": repr(str(root / "vocabulary" / "vocabulary.model")),
        "RANDOM_SEED": seed,
        "DATA_SEED": seed,
        "CHECKPOINTS_TO_KEEP": 1,
        "EVAL_STEPS": WHOLE_SPLIT,
        "TENSORBOARD": False,
    }

    def steps(count: int) -> dict[str, int]:
        return {"TRAIN_STEPS": count, "EVAL_PERIOD": count, "CHECKPOINT_PERIOD": count}

    encoder = output / f"text_encoder-{seed}"
    found = {"text_encoder": {**shared, **steps(flags.encoder_steps)}}
    found["text_encoder"]["PAIRS_DIR"] = repr(str(root / "pairs"))
    for name, start in (("on", repr(str(encoder))), ("off", "None")):
        found[name] = {**shared, **steps(flags.generator_steps), "TEXT_ENCODER": start}
        found[name]["TOKENS_DIR"] = repr(str(root / "tokens"))
        found[name] |= dict(binding.split("=", 1) for binding in flags.generator_gin)
    metrics = {"text_encoder": run("text_encoder_tiny", encoder, found.pop("text_encoder"))}
    for name, settings in found.items():
        metrics[name] = run("text_to_image_tiny", output / f"generator-{name}-{seed}", settings)
    return metrics


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
    quantile = stats.t.ppf(0.975, flags.seeds - 1)
    told = ("masked_accuracy", "text_to_image_recall_at_1", "text_to_image_recall_at_10")
    record = {
        "benchmark": "text_encoder_pretraining",
        "unit": "nats per image token, validation",
        "encoder_steps": flags.encoder_steps,
        "generator_steps": flags.generator_steps,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **{name: [round(loss, 4) for loss in values] for name, values in losses.items()},
        "gain": round(statistics.mean(gains), 4),
        "interval": round(quantile * statistics.stdev(gains) / flags.seeds**0.5, 4),
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
