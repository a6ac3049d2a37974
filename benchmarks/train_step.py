# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Time of a training step of the text-to-image model; prints one JSON line.

    python benchmarks/train_step.py --experiment text_to_image_tiny --set BATCH_SIZE=64

In turns, in one process, the same model, optimizer, batch size and devices:
- `loop`: `parti train` itself, on made-up token shards: reading, prefetching, metrics, logs;
- `bare`: the same compiled step called again and again on one batch that lies on the device;
- `t5x`: T5X's trainer on the same batches, read by the same task, where T5X is installed
  (docs/t5x.md).
A turn is a number of steps. Each turn of the loop is compared with the turns of the others right
after it; the quartiles of these ratios are given. Utilisation is model FLOPs
(`engine/hardware/flops.py`) over the rate of a large matrix product of the model's type in the same
run.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import made_up_tokens
import matrix_product

from parti.engine import train
from parti.engine.config import gin_config
from parti.engine.experiment import experiments
from parti.engine.hardware import flops
from parti.engine.input import datasets
from parti.engine.loop import step_metrics
from parti.engine.step import train_step

NUM_RECORDS, NUM_SHARDS = 4096, 4


def load(flags: argparse.Namespace, folder: pathlib.Path) -> experiments.Experiment:
    """Returns the experiment on made-up data; a log is a turn."""
    file = f"t5x_configs/experiments/{flags.experiment}.gin"
    settings = {
        "MODEL_DIR": repr(str(folder / "run")),
        "TOKENS_DIR": repr(str(folder / "tokens")),
        "VOCABULARY": repr(str(folder / "vocabulary.model")),
        "EVAL_PERIOD": 0,
        "CHECKPOINT_PERIOD": 10**9,
        "TENSORBOARD": False,
        "LOG_PERIOD": flags.steps,
        "TRAIN_STEPS": flags.steps * (flags.turns + 1),
        "WARMUP_STEPS": 1,
    }
    bindings = [f"{name}={value}" for name, value in settings.items()]
    config = gin_config.model_from_config(f"include '{file}'\n").config
    sizes = (config.grid_size**2, config.codebook_size, NUM_SHARDS)
    made_up_tokens.write(folder / "tokens", "train", NUM_RECORDS, *sizes)
    made_up_tokens.write(folder / "tokens", "validation", NUM_SHARDS, *sizes)
    made_up_tokens.write_vocabulary(folder / "vocabulary.model")
    return experiments.load_experiment([file], [*bindings, *flags.set])


class Turns:
    """Runs `parti train`, and after each of its logs a turn of every other loop.

    So the turns that are compared are neighbours in time, on a machine whose speed changes.

    Attributes:
      seconds: loop -> seconds per step of each turn.
    """

    def __init__(self, others: Mapping[str, Callable[[int], float]], steps: int) -> None:
        """Takes the other loops and the number of steps of a turn."""
        self.seconds: dict[str, list[float]] = {name: [] for name in ("loop", *others)}
        self._others, self._steps = others, steps
        self._began: float | None = None  # The first turn compiles.
        self._write = step_metrics.StepMetrics.write

    def run(self, experiment: experiments.Experiment) -> None:
        """Trains from the beginning."""

        def logged(metrics: step_metrics.StepMetrics, step: int) -> None:
            self._write(metrics, step)
            if self._began is not None and step % self._steps == 0:
                self.seconds["loop"].append((time.perf_counter() - self._began) / self._steps)
                for name, turn in self._others.items():
                    self.seconds[name].append(turn(self._steps))
            metrics.restart_clock()
            self._began = time.perf_counter()

        with unittest.mock.patch.object(step_metrics.StepMetrics, "write", logged):
            code = train.train(experiment, overwrite=True, devices=jax.devices()[:1])
        assert code == 0, code

    def over(self, other: str) -> dict[str, float]:
        """Returns the quartiles of the loop's time over that of the next turn of another."""
        pairs = zip(self.seconds["loop"], self.seconds[other], strict=True)
        quarters = statistics.quantiles([mine / theirs for mine, theirs in pairs], n=4)
        return dict(zip(("quarter", "median", "three_quarters"), (round(q, 4) for q in quarters)))


def waiting_share(experiment: experiments.Experiment) -> float:
    """Returns the median share of the loop's time that it waited for data."""
    lines = pathlib.Path(experiment.model_dir, "metrics.jsonl").read_text().splitlines()
    shares = [row["data_wait_share"] for row in map(json.loads, lines) if "data_wait_share" in row]
    return statistics.median(shares)


def open_batches(experiment: experiments.Experiment) -> datasets.Batches:
    """Opens the training split."""
    size, seed = experiment.batch_size, experiment.data_seed
    return experiment.data_source.open(datasets.TRAIN, size, seed, experiment.model)


def bare_turns(experiment: experiments.Experiment) -> Callable[[int], float]:
    """Returns a function that takes steps in a bare loop; it gives seconds per step."""
    batches = open_batches(experiment)
    program = train_step.make_program(experiment, batches.element_spec, jax.devices()[:1])
    rng, batch = jax.random.PRNGKey(1), program.place(next(batches))
    with program.context():
        state = program.init(jax.random.PRNGKey(0), {})

    def turn(steps: int) -> float:
        nonlocal state
        with program.context():
            began = time.perf_counter()
            for _ in range(steps):
                state, metrics = program.step(state, batch, rng)
            jax.block_until_ready((state, metrics))
            return (time.perf_counter() - began) / steps

    turn(1)
    return turn


def t5x_turns(experiment: experiments.Experiment) -> Callable[[int], float]:
    """Returns a function that takes steps with T5X's trainer; it gives seconds per step."""
    from t5x import trainer as trainers

    from parti.engine import t5x_bridge

    batches = open_batches(experiment)
    shapes = {name: spec.shape for name, spec in batches.element_spec.items()}
    types = {name: spec.dtype for name, spec in batches.element_spec.items()}
    model = t5x_bridge.Model(dataclasses.replace(experiment, tensorboard=True))  # it writes none
    partitioner = t5x_bridge.MeshPartitioner((1,), ("data",), None)
    initializer = t5x_bridge.TrainStateInitializer(
        model.optimizer_def, model.get_initial_variables, shapes, partitioner, types
    )
    trainer = trainers.Trainer(
        model,
        initializer.from_scratch(jax.random.PRNGKey(0)),
        partitioner,
        eval_names=[],
        summary_dir=None,
        train_state_axes=initializer.train_state_axes,
        rng=jax.random.PRNGKey(1),
        learning_rate_fn=t5x_bridge.learning_rate_fn(experiment.learning_rate),
        num_microbatches=None,
        weight_metrics_computer=t5x_bridge.Norms(),
    )

    def placed() -> Iterator[dict[str, Any]]:
        for batch in batches:
            yield {name: jnp.asarray(array) for name, array in batch.items()}

    iterator = placed()

    def turn(steps: int) -> float:
        began = time.perf_counter()
        trainer.train(iterator, steps).result()
        jax.block_until_ready(trainer.train_state)
        return (time.perf_counter() - began) / steps

    for _ in range(2):  # T5X compiles twice
        turn(1)
    return turn


def measure(flags: argparse.Namespace, folder: pathlib.Path) -> dict[str, object]:
    """Returns the line."""
    experiment = load(flags, folder)
    others = {"bare": bare_turns(experiment)}
    if importlib.util.find_spec("t5x"):
        others["t5x"] = t5x_turns(experiment)
    turns = Turns(others, flags.steps)
    turns.run(experiment)
    seconds = statistics.median(turns.seconds["loop"])
    spec = open_batches(experiment).element_spec
    rate = matrix_product.rate(experiment.model.config.dtype)
    operations = flops.train_step(experiment.model, spec)
    return {
        "figure": f"training step, {flags.experiment}",
        "value": round(seconds, 5),
        "unit": "seconds/step",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}",
        "batch_size": experiment.batch_size,
        "turns": f"{len(turns.seconds['loop'])} of {flags.steps} steps",
        "over_bare_loop": turns.over("bare"),
        "over_t5x": turns.over("t5x") if "t5x" in others else None,
        "data_wait_share": round(waiting_share(experiment), 4),
        "model_gflops": round(operations / 1e9, 2),
        "utilisation_of_matmul_rate": round(operations / seconds / rate, 3),
        "settings": flags.set,
    }


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default="text_to_image_tiny")
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("--turns", type=int, default=20, help="at least 2")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a gin binding"
    )
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(flags, pathlib.Path(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
