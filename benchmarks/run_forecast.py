# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run of the paper's size needs in machines, hours and storage: docs/clusters.md's table.

    python benchmarks/run_forecast.py
    python benchmarks/run_forecast.py --generator parti_3b --utilization 0.5 --pairs 1e9

A forecast, not a measurement: nothing is trained. FLOPs are counted in the traced programs, as
`parti compile` counts them; hours are these at a share of the peak rate that is assumed
(--utilization). Bytes of a record of tokens and of a checkpoint are those of real ones, bytes of a
pair those of FIT400M, the paper's data (10.83 TB, 400 million pairs). Prints the table in Markdown,
then one JSON line.
"""

import argparse
import json
import math
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import made_up_tokens

from parti.engine.experiment import experiments
from parti.engine.hardware import accelerators, flops
from parti.engine.pod_estimates import compile_step, device_memory
from parti.engine.step import train_step

EXPERIMENTS = "t5x_configs/experiments"
# What is rented -> the name that jax gives its devices, and how many there are.
MACHINES = {
    "128 TPU v4 (32 hosts)": ("TPU v4", 128),
    "64 H100 (8 hosts)": ("NVIDIA H100 80GB HBM3", 64),
    "8 H100 (1 host)": ("NVIDIA H100 80GB HBM3", 8),
}
PAIR_BYTES = 10.83e12 / 400e6
ENCODED = 64  # pictures in the program whose FLOPs are counted


def training(name: str) -> dict[str, Any]:
    """Returns FLOPs and bytes of a checkpoint of an experiment."""
    experiment, lengths = experiments.load_without_data(
        [f"{EXPERIMENTS}/{name}.gin"], ["MODEL_DIR='.'", "INITIAL=None", "MESH_SHAPE=None"]
    )
    spec = compile_step.element_spec(experiment, lengths)
    kinds = device_memory.state(train_step.make_program(experiment, spec, jax.devices()[:1]))
    kept = (device_memory.PARAMETERS, device_memory.OPTIMIZER, device_memory.OTHER_STATE)
    step = flops.train_step(experiment.model, spec)
    return {
        "what": f"training {name}",
        "steps": experiment.train_steps,
        "examples": experiment.train_steps * experiment.batch_size,
        "flops": step * experiment.train_steps,
        "checkpoint_bytes": sum(kinds[kind] for kind in kept),
    }


def encoding(name: str, num_pairs: int) -> dict[str, Any]:
    """Returns FLOPs of encoding pictures with an experiment's tokenizer."""
    experiment, lengths = experiments.load_without_data(
        [f"{EXPERIMENTS}/{name}.gin"], ["MODEL_DIR='.'", "INITIAL=None", "MESH_SHAPE=None"]
    )
    model: Any = experiment.model
    spec = compile_step.element_spec(experiment, lengths)
    program = train_step.make_program(experiment, spec, jax.devices()[:1])
    variables = {"params": program.abstract.params, **program.abstract.mutables}
    images = jax.ShapeDtypeStruct((ENCODED, model.image_size, model.image_size, 3), jnp.float32)
    each = flops.of(model.encode, variables, images) / ENCODED
    return {"what": f"tokenize with {name}", "examples": num_pairs, "flops": each * num_pairs}


def token_bytes() -> float:
    """Returns the bytes of a record of 1024 tokens of 8192 codes, with its caption."""
    with tempfile.TemporaryDirectory() as folder:
        made_up_tokens.write(pathlib.Path(folder), "train", 500, 1024, 8192, 1)
        return sum(path.stat().st_size for path in pathlib.Path(folder).glob("*.tfrecord*")) / 500


def main() -> None:
    """Prints the table and the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", default="parti_350m")
    parser.add_argument("--tokenizer", default="tokenizer_base")
    parser.add_argument("--pairs", type=float, default=400e6)
    parser.add_argument("--utilization", type=float, default=0.4, help="of the peak rate")
    flags = parser.parse_args()
    rows = [
        training(flags.tokenizer),
        encoding(flags.tokenizer, int(flags.pairs)),
        training(flags.generator),
    ]
    heads = ["what", "examples", "FLOPs", *(f"hours on {name}" for name in MACHINES)]
    print(f"| {' | '.join(heads)} |")
    print("| --- " * len(heads) + "|")
    for row in rows:
        row["hours"] = {}
        for name, (kind, count) in MACHINES.items():
            rate = count * (accelerators.peak_flops(kind, "bfloat16") or math.nan)
            row["hours"][name] = row["flops"] / (flags.utilization * rate) / 3600
        cells = [row["what"], f"{row['examples']:,}", f"{row['flops']:.2e}"]
        cells += [f"{hours:,.1f}" for hours in row["hours"].values()]
        print(f"| {' | '.join(cells)} |")
    storage = {
        "pairs_bytes": flags.pairs * PAIR_BYTES,
        "tokens_bytes": flags.pairs * token_bytes(),
        "checkpoint_bytes": {r["what"]: r["checkpoint_bytes"] for r in rows if "steps" in r},
    }
    report = {"utilization": flags.utilization, "pairs": flags.pairs, "rows": rows, **storage}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
