# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""AdamW, Adafactor and Muon on the tiny generator at equal steps; prints one JSON line.

    python benchmarks/optimizers.py --workdir runs/demo --steps 400 --seeds 3

`--workdir` is what `parti demo` left: tokens and vocabulary. Each optimizer trains with each of its
learning rates and seed 0, and with the best of them, by validation loss, with the other seeds too;
model, batches, warm-up, schedule and steps are the same. Its interval is the standard error over
seeds times the two-sided 95% quantile of Student's distribution.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile

from scipy import stats

from parti.engine import train
from parti.engine.experiment import experiments

EXPERIMENT = "t5x_configs/experiments/text_to_image_tiny.gin"
# Around what suits each: Adafactor's first moment is of steps, and starts at 0 uncorrected.
RATES = {
    "adamw": (1e-3, 2e-3, 4e-3),
    "adafactor": (2e-3, 4e-3, 8e-3),
    "muon": (2e-3, 4e-3, 8e-3),
}


def run(optimizer: str, rate: float, seed: int, flags: argparse.Namespace) -> dict[str, float]:
    """Trains once; returns the loss on the validation split and the median seconds of a step."""
    root = pathlib.Path(flags.workdir).absolute()
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "MODEL_DIR": repr(folder),
            "TOKENS_DIR": repr(str(root / "tokens")),
            "VOCABULARY": repr(str(root / "vocabulary" / "vocabulary.model")),
            "TRAIN_STEPS": flags.steps,
            "WARMUP_STEPS": flags.steps // 10,
            "LEARNING_RATE_PEAK": rate,
            "WEIGHT_DECAY": 0.01,
            "CLIP_NORM": 1.0,
            "RANDOM_SEED": seed,
            "DATA_SEED": seed,
            "CHECKPOINT_PERIOD": 10**9,
            "EVAL_PERIOD": flags.steps,
            "EVAL_STEPS": flags.eval_steps,
            "LOG_PERIOD": max(flags.steps // 10, 1),
            "TENSORBOARD": False,
        }
        bindings = [f"{name} = {value}" for name, value in settings.items()]
        files = [EXPERIMENT, f"t5x_configs/optimizers/{optimizer}.gin"]
        if code := train.train(experiments.load_experiment(files, bindings)):
            raise SystemExit(code)  # a signal ended it
        lines = pathlib.Path(folder, "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    seconds = [row["step_seconds"] for row in rows if "step_seconds" in row]
    (loss,) = (row["loss"] for row in rows if row["split"] == "validation")
    return {"loss": loss, "step_seconds": statistics.median(seconds)}


def measure(optimizer: str, flags: argparse.Namespace) -> dict[str, object]:
    """Returns what the line says of an optimizer."""
    tried = {rate: run(optimizer, rate, 0, flags) for rate in RATES[optimizer]}
    best = min(tried, key=lambda rate: tried[rate]["loss"])
    runs = [tried[best], *(run(optimizer, best, seed, flags) for seed in range(1, flags.seeds))]
    losses = [one["loss"] for one in runs]
    quantile = stats.t.ppf(0.975, flags.seeds - 1)
    return {
        "validation_loss": round(statistics.mean(losses), 4),
        "interval": round(quantile * statistics.stdev(losses) / flags.seeds**0.5, 4),
        "learning_rate": best,
        "losses_of_seeds": [round(loss, 4) for loss in losses],
        "losses_of_rates": {str(rate): round(one["loss"], 4) for rate, one in tried.items()},
        "step_seconds": round(statistics.median(one["step_seconds"] for one in runs), 4),
    }


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="the folder of `parti demo`")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3, help="2 or more")
    parser.add_argument("--eval_steps", type=int, default=16, help="batches of 16")
    flags = parser.parse_args()
    if flags.seeds < 2 or flags.steps < 10:
        parser.error("--seeds is at least 2, --steps at least 10")
    record = {
        "benchmark": "optimizers",
        "unit": "nats per image token, validation",
        "steps": flags.steps,
        "seeds": flags.seeds,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **{name: measure(name, flags) for name in RATES},
    }
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
