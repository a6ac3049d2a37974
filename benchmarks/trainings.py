# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trainings that a benchmark compares, kept in folders; the mean of a value over their seeds."""

import argparse
import json
import os
import pathlib
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from parti.engine import train
from parti.engine.experiment import experiments

WHOLE_SPLIT = 10**6  # batches, more than there are


def run(
    files: Sequence[str], folder: pathlib.Path, steps: int, seed: int, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Trains in `folder` unless that is done; returns the rows of its metrics.

    The last is of the whole validation split after the last step. Settings are macros and values as
    gin reads them. Raises SystemExit if a signal ended the training.
    """
    periods = ("TRAIN_STEPS", "EVAL_PERIOD", "CHECKPOINT_PERIOD")
    settings = {
        "MODEL_DIR": repr(str(folder.absolute())),
        "RANDOM_SEED": seed,
        "DATA_SEED": seed,
        "CHECKPOINTS_TO_KEEP": 1,
        "EVAL_STEPS": WHOLE_SPLIT,
        "TENSORBOARD": False,
        **dict.fromkeys(periods, steps),
        **settings,
    }
    bindings = [f"{macro} = {value}" for macro, value in settings.items()]
    if code := train.train(experiments.load_experiment(files, bindings)):
        raise SystemExit(code)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    print(f"{folder.name}: {lines[-1]}", file=sys.stderr)
    return [json.loads(line) for line in lines]


def estimate_mean(values: Sequence[float]) -> dict[str, Any]:
    """Returns the mean over seeds, two or more, its 95% interval, and the values.

    The interval is the standard error times the two-sided quantile of Student's distribution.
    """
    error = statistics.stdev(values) / len(values) ** 0.5
    return {
        "mean": round(statistics.mean(values), 4),
        "interval": round(stats.t.ppf(0.975, len(values) - 1) * error, 4),
        "seeds": [round(value, 4) for value in values],
    }


def check_flags(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> None:
    """Ends the command unless --seeds give an interval and --steps a training."""
    if flags.seeds < 2 or flags.steps < 10:
        parser.error("--seeds is at least 2, --steps at least 10")


def print_record(benchmark: str, unit: str, steps: int, found: Mapping[str, Any]) -> None:
    """Prints what a benchmark found as its line of JSON."""
    record = {
        "benchmark": benchmark,
        "unit": unit,
        "steps": steps,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **found,
    }
    print(json.dumps(record))
