# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whole trainings of the toy of `fake_training`: made, run, and read again."""

import dataclasses
import json
import pathlib
from typing import Any

import fake_training
import jax
import numpy as np
import optax

from parti.engine import train
from parti.engine.checkpoints import checkpoints
from parti.engine.experiment import experiments

ONE_DEVICE = jax.devices()[:1]

GIN = """
from __gin__ import dynamic_registration
import fake_training
import optax
MODEL = @fake_training.Regressor()
DATA_SOURCE = @fake_training.source()
TRAIN_STEPS = 10
BATCH_SIZE = 8
OPTIMIZER = @optax.adam()
optax.adam.learning_rate = 0.05
CHECKPOINT_PERIOD = 4
EVAL_PERIOD = 5
LOG_PERIOD = 2
EMA_DECAY = 0.9
TENSORBOARD = False
"""


def make(directory: pathlib.Path, **changes: Any) -> experiments.Experiment:
    base = experiments.Experiment(
        model=fake_training.Regressor(),
        data_source=fake_training.source(),
        optimizer=optax.adam(0.05),
        model_dir=str(directory),
        train_steps=10,
        batch_size=8,
        checkpoint_period=4,
        eval_period=5,
        eval_steps=1,
        log_period=2,
        ema_decay=0.9,
        tensorboard=False,
    )
    return dataclasses.replace(base, **changes)


def run(experiment: experiments.Experiment, **options: Any) -> int:
    return train.train(experiment, devices=ONE_DEVICE, **options)


def everything(directory: pathlib.Path) -> list[np.ndarray]:
    """Returns all leaves of the newest checkpoint."""
    folder = checkpoints.find(directory)
    tree = checkpoints.read_leaves(folder, checkpoints.leaves(folder))
    return [tree[key] for key in sorted(tree)]


def assert_same(one: pathlib.Path, other: pathlib.Path) -> None:
    leaves = everything(one)
    assert len(leaves) > 8
    for a, b in zip(leaves, everything(other), strict=True):
        np.testing.assert_array_equal(a, b)


def log(directory: pathlib.Path, split: str = "train") -> list[dict[str, Any]]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]
