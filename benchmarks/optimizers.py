# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""AdamW, Adafactor and Muon on the tiny generator at equal steps; prints one JSON line.

    python benchmarks/optimizers.py --workdir runs/demo --output runs/optimizers --steps 400

`--workdir` is what `parti demo` left: tokens and vocabulary. Each optimizer trains with each of its
learning rates and seed 0, and with the best of them, by validation loss, with the other seeds too;
model, batches, warm-up, schedule and steps are the same. The loss is that of the whole validation
split, its mean over seeds with a 95% interval. The optimizers take turns, so that they see the same
load of the machine; `step_seconds` are the least, the median and the most of the trainings, of each
the median. `--output` keeps the trainings: the same command goes on.
"""

import argparse
import pathlib
import statistics
import sys

import trainings

EXPERIMENT = "t5x_configs/experiments/text_to_image_tiny.gin"
# Around what suits each: Adafactor's first moment is of steps, and starts at 0 uncorrected.
RATES = {
    "adamw": (1e-3, 2e-3, 4e-3),
    "adafactor": (2e-3, 4e-3, 8e-3),
    "muon": (2e-3, 4e-3, 8e-3),
}


def run(optimizer: str, rate: float, seed: int, flags: argparse.Namespace) -> tuple[float, float]:
    """Trains once; returns the loss on the validation split and the median seconds of a step."""
    root = pathlib.Path(flags.workdir).absolute()
    settings = {
        "TOKENS_DIR": repr(str(root / "tokens")),
        "VOCABULARY": repr(str(root / "vocabulary" / "vocabulary.model")),
        "WARMUP_STEPS": flags.steps // 10,
        "LEARNING_RATE_PEAK": rate,
        "WEIGHT_DECAY": 0.01,
        "CLIP_NORM": 1.0,
        "LOG_PERIOD": flags.steps // 10,
    }
    files = [EXPERIMENT, f"t5x_configs/optimizers/{optimizer}.gin"]
    folder = pathlib.Path(flags.output, f"{optimizer}-{rate}-{seed}")
    rows = trainings.run(files, folder, flags.steps, seed, settings)
    seconds = [row["step_seconds"] for row in rows if "step_seconds" in row]
    return rows[-1]["loss"], statistics.median(seconds)


def measure(flags: argparse.Namespace) -> dict[str, dict[str, object]]:
    """Returns what the line says of each optimizer."""
    tried: dict[str, dict[float, tuple[float, float]]] = {name: {} for name in RATES}
    for rates in zip(*RATES.values(), strict=True):
        for name, rate in zip(RATES, rates, strict=True):
            tried[name][rate] = run(name, rate, 0, flags)
    best = {name: min(runs, key=lambda rate: runs[rate][0]) for name, runs in tried.items()}
    seeds = {name: [tried[name][rate]] for name, rate in best.items()}
    for seed in range(1, flags.seeds):
        for name, rate in best.items():
            seeds[name].append(run(name, rate, seed, flags))
    table: dict[str, dict[str, object]] = {}
    for name, runs in seeds.items():
        seconds = [second for _, second in [*tried[name].values(), *runs[1:]]]
        of_step = (min(seconds), statistics.median(seconds), max(seconds))
        table[name] = {
            "learning_rate": best[name],
            "validation_loss": trainings.estimate_mean([loss for loss, _ in runs]),
            "losses_of_rates": {str(rate): round(one[0], 4) for rate, one in tried[name].items()},
            "step_seconds": [round(second, 4) for second in of_step],
        }
    return table


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="the folder of `parti demo`")
    parser.add_argument("--output", required=True, help="where the trainings are kept")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3, help="2 or more")
    flags = parser.parse_args()
    trainings.check_flags(parser, flags)
    unit = "nats per image token, validation"
    trainings.print_record("optimizers", unit, flags.steps, measure(flags))
    return 0


if __name__ == "__main__":
    sys.exit(main())
