# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti eval`: the metrics of a checkpoint over a split, printed and written as JSON.

They are those of the evaluations of a training, over the whole split by default. (`parti evaluate`
measures generated pictures.)
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import jax

from parti.engine import train
from parti.engine.distributed import multihost
from parti.engine.experiment import checkpoint_use, experiments
from parti.engine.loop import data_lineage, setup, validation
from parti.stages import files, manifests

METRICS = "metrics.json"
USAGE = """\
usage: parti eval --gin_file=FILE [--gin_file=FILE ...] --gin.CHECKPOINT_PATH="'DIR'"
                  --gin.EVAL_OUTPUT_DIR="'DIR'" [--gin.NAME=VALUE ...] [--overwrite]

Measures a checkpoint over a split, and writes metrics.json.

  --gin_file=FILE       the experiment; t5x_configs/... resolves from any folder
  CHECKPOINT_PATH       a training, a checkpoint_<N> of either engine, or a bundle's part
  SPLIT, NUM_EXAMPLES   'validation' and None, which is all of it, by default
  --overwrite           replaces an earlier metrics.json

example: parti eval --gin_file=t5x_configs/experiments/text_to_image_tiny.gin \\
             --gin.CHECKPOINT_PATH="'runs/generator'" --gin.EVAL_OUTPUT_DIR="'runs/measured'" \\
             --gin.TOKENS_DIR="'runs/tokens'" --gin.VOCABULARY="'runs/vocabulary/vocabulary.model'"
"""


def main(argv: Sequence[str]) -> int:
    """Runs `parti eval`; raises ValueError if a flag or a value is wrong."""

    def run(experiment: experiments.Experiment, flags: argparse.Namespace) -> int:
        evaluate(experiment, overwrite=flags.overwrite)
        return 0

    return train.run_command(argv, USAGE, run, ("--overwrite",), checkpoint_use.EVAL_RUN_FILE)


def evaluate(
    experiment: experiments.Experiment,
    *,
    overwrite: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, float]:
    """Measures the checkpoint of an experiment; returns, prints and writes the metrics.

    Raises:
      ValueError, FileNotFoundError: as `checkpoint_use.of` and `setup.open_checkpoint`, or there is
        a metrics.json already.
    """
    use = checkpoint_use.of(experiment)
    path = files.join(use.output, METRICS)
    if files.exists(path) and not overwrite:
        raise ValueError(f"{path} is there already; --overwrite, or choose another EVAL_OUTPUT_DIR")
    training, state = setup.open_checkpoint(use.limit(experiment), use.path, devices)
    with training.program.context():
        values, _ = validation.measure(training, state)
    write(experiment, use, values)
    return values


def write(
    experiment: experiments.Experiment, use: checkpoint_use.CheckpointUse, values: dict[str, float]
) -> None:
    """Prints metrics and writes them, with what they are of."""
    record: dict[str, Any] = {
        "checkpoint": use.path,
        "checkpoint_fingerprint": checkpoint_use.fingerprint(use),
        "split": use.split,
        "num_examples": use.num_examples,
        "data": data_lineage.fingerprints(experiment, with_initial=False),
        "metrics": values,
    }
    if multihost.is_first():
        files.make_dirs(use.output)
        manifests.write_json(files.join(use.output, METRICS), record)
        width = max(map(len, values))
        for name, value in values.items():
            print(f"{name:<{width}}  {value:.6g}")
        print(f"wrote {files.join(use.output, METRICS)}", file=sys.stderr)
