# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Speed of the image tokenizer: training step and encoding, in one run; prints one JSON line.

    python benchmarks/tokenizer.py --experiment tokenizer_64 --batch_size 16
    python benchmarks/tokenizer.py --experiment tokenizer_small --batch_size 4 --set DTYPE=float32

The step is the engine's own (loss, gradients, AdamW, donated state) on pictures of noise. FLOPs are
XLA's count of the program before it is optimised, layers unrolled, with revival of codes at every
step but R1 at every 16th; utilisation is their rate over that of a large matrix product of the same
type, timed in the same run. A turn of training with a discriminator is the steps from one R1 to the
next. Memory is what XLA plans
(`memory_analysis`: state, batch and working space). The baseline encodes the same batch without
jit, an operation at a time. Calls are timed in turns; the best turn of each counts.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matrix_product
import numpy as np

from parti.engine.config import gin_config
from parti.engine.experiment import experiments
from parti.engine.input import datasets
from parti.engine.step import optimizers, train_step
from parti.models import base
from parti.models.adversarial import adversary, losses

MIB = 2**20


def load(flags: argparse.Namespace, *bindings: str) -> Any:
    """Returns the experiment's model."""
    include = f"include 't5x_configs/experiments/{flags.experiment}.gin'"
    return gin_config.model_from_config("\n".join([include, *flags.set, *bindings]) + "\n")


def prepare(model: Any, images: np.ndarray) -> train_step.Program:
    """Returns the engine's program for batches like `images`."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = experiments.Experiment(
            model=model,
            data_source=datasets.ArraySource({"images": images}, {"images": images}),
            optimizer=optimizers.adamw(1e-4, clip_norm=0.0),
            model_dir=folder,
            train_steps=1,
            batch_size=len(images),
        )
        spec = {"images": jax.ShapeDtypeStruct(images.shape, images.dtype)}
        return train_step.make_program(experiment, spec, jax.devices()[:1])


def lower(program: train_step.Program) -> Any:
    """Returns the lowered training step."""
    with program.context():
        return program.trace_step().lower()


def r1_flops(model: Any, program: train_step.Program, images: np.ndarray) -> float:
    """Returns the FLOPs of the R1 penalty and its gradient, which XLA counts at every step."""
    if model.adversary is None:
        return 0.0
    network = model.adversary.network

    def penalty(params: Any) -> jax.Array:
        return losses.r1_penalty(lambda x: network.apply({"params": params}, x), images)

    params = program.abstract.params[adversary.BRANCH]
    return jax.jit(jax.grad(penalty)).lower(params).cost_analysis()["flops"]


def seconds(function: Callable[[], Any]) -> float:
    """Returns how long a call and its result take."""
    began = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - began


def measure(flags: argparse.Namespace) -> dict[str, object]:
    """Returns the line."""
    model = load(flags)
    size = (flags.batch_size, model.image_size, model.image_size, 3)
    images = np.random.default_rng(1).uniform(-1, 1, size).astype(np.float32)
    program, rng = prepare(model, images), jax.random.PRNGKey(1)
    state = program.init(jax.random.PRNGKey(0), {})
    batch = program.place({"images": images})
    began = time.perf_counter()
    compiled = lower(program).compile()
    compile_seconds = time.perf_counter() - began
    plan = compiled.memory_analysis()
    constants = program.step.args[0]

    def step() -> jax.Array:
        nonlocal state
        state, metrics = compiled(constants, state, batch, rng)
        return metrics["loss"].total

    cycle = model.adversary.config.r1_interval if model.adversary else 1

    def steps() -> jax.Array:
        for _ in range(cycle - 1):
            step()
        return step()

    steps()
    variables = base.without_branches(
        {"params": state.params, **state.mutables}, model.training_only
    )
    variables = jax.tree.map(jnp.copy, variables)  # the step donates its state
    encode = jax.jit(model.encode)
    jax.block_until_ready(encode(variables, batch["images"]))

    def encode_plainly() -> jax.Array:
        with jax.disable_jit():
            return model.encode(variables, batch["images"])

    turns = [
        (
            seconds(steps) / cycle,
            seconds(lambda: encode(variables, batch["images"])),
            seconds(encode_plainly),
        )
        for _ in range(flags.turns)
    ]
    training, encoding, plain = (min(turn[i] for turn in turns) for i in range(3))
    unrolled = lower(
        prepare(load(flags, "network.ImageTokenizerConfig.scan_layers = False"), images)
    )
    flops = unrolled.cost_analysis()["flops"]
    flops -= (1 - 1 / cycle) * r1_flops(model, program, images)
    rate = matrix_product.rate(model.config.dtype)
    memory = plan.argument_size_in_bytes + plan.temp_size_in_bytes
    return {
        "figure": f"image tokenizer {flags.experiment}, {model.image_size} px",
        "value": round(flags.batch_size / training, 2),
        "unit": "training images/s",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}",
        "batch_size": flags.batch_size,
        "step_seconds": round(training, 4),
        "step_gflops": round(flops / 1e9, 2),
        "utilisation_of_matmul_rate": round(flops / training / rate, 3),
        "matmul_gflops_per_second": round(rate / 1e9, 1),
        "training_memory_mib": round(memory / MIB),
        "compile_seconds": round(compile_seconds, 1),
        "encode_images_per_second": round(flags.batch_size / encoding, 1),
        "encode_speed_over_unjitted": round(plain / encoding, 2),
        "settings": flags.set,
    }


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default="tokenizer_64", help="in t5x_configs/experiments")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a gin binding"
    )
    print(json.dumps(measure(parser.parse_args())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
