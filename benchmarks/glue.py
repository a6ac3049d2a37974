# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes text encoders on GLUE and compares them with the paper; prints one JSON line.

    python benchmarks/glue.py --glue_dir ~/tensorflow_datasets --vocabulary runs/vocabulary \
        --output runs/glue --model text_classifier_3b --encoder pretrained=runs/text_encoder \
        --encoder generator=runs/generator --encoder random=

An encoder is NAME=DIRECTORY, the training of a text encoder or of a generator; without a directory
it starts at random. Each is fine-tuned by `parti train` on each task with each seed, one after
another, below --output; a run that is there is not repeated, one that was interrupted goes on. A
value is that of the validation split after the last step, in percent, as the paper has them: the
Matthews correlation for CoLA, F1 for MRPC and QQP, accuracy for the rest. `paper` is Parti's
appendix G: BERT, and the 3B encoder after its pretraining, after text-to-image training with it,
and after text-to-image training without it.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax
import numpy as np

METRICS = {
    "cola": "matthews_correlation",
    "sst2": "accuracy",
    "rte": "accuracy",
    "mrpc": "f1",
    "qqp": "f1",
    "qnli": "accuracy",
}
PAPER = {
    "BERT": (54.6, 92.5, 62.5, 87.6, 87.4, 91.0),
    "pretrained": (55.2, 95.9, 59.0, 90.9, 88.5, 90.1),
    "generator, with pretraining": (20.4, 84.8, 53.4, 78.3, 76.7, 78.2),
    "generator, without": (15.7, 82.5, 49.5, 81.5, 76.8, 66.6),
}


def paper(task: str) -> dict[str, float]:
    """Returns {encoder: value} of a task in the paper."""
    column = list(METRICS).index(task)
    return {name: row[column] for name, row in PAPER.items()}


def command(
    flags: argparse.Namespace, task: str, source: str, seed: int, folder: pathlib.Path
) -> list[str]:
    """Returns the command of one fine-tuning."""
    texts = {"MODEL_DIR": folder, "GLUE_DIR": flags.glue_dir, "VOCABULARY": flags.vocabulary}
    bindings = [f"{macro}='{value}'" for macro, value in texts.items()]
    bindings += [f"RANDOM_SEED={seed}", f"DATA_SEED={seed}"]
    bindings += [f"TEXT_ENCODER='{source}'"] if source else []
    configs = [f"experiments/glue_{task}.gin", f"models/{flags.model}.gin"]
    return [
        *(sys.executable, "-m", "parti", "train"),
        *(f"--gin_file=t5x_configs/{name}" for name in configs),
        *(f"--gin.{binding}" for binding in (*bindings, *flags.set)),
    ]


def fine_tune(flags: argparse.Namespace, task: str, name: str, source: str, seed: int) -> float:
    """Returns the task's value, in percent, of one fine-tuning."""
    folder = pathlib.Path(flags.output, task, f"{name}-{seed}")
    subprocess.run(command(flags, task, source, seed, folder), check=True, stdout=sys.stderr)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["split"] == "validation"]
    return 100 * records[-1][METRICS[task]]


def summary(values: list[float]) -> dict[str, Any]:
    """Returns the mean over seeds, its standard error if there are several, and each value."""
    result: dict[str, Any] = {"mean": round(float(np.mean(values)), 2)}
    if len(values) > 1:
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        result["standard_error"] = round(float(error), 2)
    return result | {"seeds": [round(value, 2) for value in values]}


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Returns the line."""
    encoders = {name: source for name, _, source in (text.partition("=") for text in flags.encoder)}
    table = {}
    for task in flags.task or METRICS:
        table[task] = {"metric": METRICS[task], "paper": paper(task)}
        for name, source in encoders.items():
            seeds = range(flags.seeds)
            values = [fine_tune(flags, task, name, source, seed) for seed in seeds]
            table[task][name] = summary(values)
    return {
        "figure": f"GLUE, fine-tuned {flags.model}, validation split",
        "unit": "percent",
        "table": table,
        "encoders": encoders,
        "settings": flags.set,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}",
    }


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--glue_dir", required=True, help="TFDS's data_dir, which holds glue/")
    parser.add_argument("--vocabulary", required=True, help="of `parti vocab`: the encoders'")
    parser.add_argument("--output", required=True, help="folder for the fine-tunings")
    parser.add_argument("--model", default="text_classifier_3b", help="in t5x_configs/models")
    parser.add_argument("--encoder", action="append", required=True, metavar="NAME=DIRECTORY")
    parser.add_argument("--task", action="append", choices=list(METRICS), help="default: all six")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="a gin binding of all runs")
    flags = parser.parse_args()
    if wrong := [text for text in flags.encoder if text.find("=") < 1]:
        parser.error(f"--encoder {wrong[0]}: give NAME=DIRECTORY, or NAME= for a random one")
    print(json.dumps(measure(flags)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
