# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""One process of a small training: `train_process.py '<JSON of Settings>'`; see test_multihost."""

import dataclasses
import json
import pathlib
import sys
import time
from typing import Any

sys.path.extend(str(folder) for folder in pathlib.Path(__file__).parents[:2])

import fake_drawing
import fake_training
import numpy as np

from parti.engine import train
from parti.engine.checkpoints import checkpoint_manager
from parti.engine.distributed import multihost
from parti.engine.experiment import experiments
from parti.engine.input import datasets
from parti.engine.step import optimizers


@dataclasses.dataclass
class Settings:
    """What a process is told."""

    directory: str
    train_steps: int = 12
    checkpoint_period: int = 4
    batch_seconds: float = 0.0
    # Of the 30 in an epoch, one with a value that is not a number; then NAN_POLICY is 'rollback'.
    bad_batch: int | None = None
    # How long this process takes before it deletes checkpoints.
    late_seconds: float = 0.0
    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    config: str = ""
    bundle: str = ""


class _SlowDataset(datasets.ArrayDataset):
    def __init__(self, *args: Any, seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seconds = seconds

    def __next__(self) -> datasets.Batch:
        time.sleep(self._seconds)
        return super().__next__()


@dataclasses.dataclass
class SlowSource:
    """`fake_training.source()`, each batch after a while."""

    seconds: float
    bad_batch: int | None = None

    def open(self, split: str, batch_size: int, seed: int, model: Any) -> datasets.Batches:
        plain = fake_training.source(num_train=40 if self.bad_batch is None else 240)
        if split != datasets.TRAIN:
            return plain.open(split, batch_size, seed, model)
        if self.bad_batch is not None:
            order = np.random.default_rng((seed, 0)).permutation(240)
            plain.train["y"][order[self.bad_batch * batch_size]] = np.nan
        return _SlowDataset(plain.train, batch_size, seed, seconds=self.seconds)


def experiment(settings: Settings) -> experiments.Experiment:
    """Returns a training on a mesh of 2 x 2 devices, parameters divided over both axes."""
    draws = bool(settings.bundle)
    return experiments.Experiment(
        model=fake_drawing.DrawingRegressor() if draws else fake_training.Regressor(),
        samples=fake_drawing.drawn(pathlib.Path(settings.bundle)) if draws else None,
        data_source=SlowSource(settings.batch_seconds, settings.bad_batch),
        optimizer=optimizers.adamw(0.05),
        model_dir=settings.directory,
        train_steps=settings.train_steps,
        batch_size=8,
        mesh_shape=(2, 2),
        logical_axis_rules=(("batch", "data"), ("embed", "data"), ("mlp", "model")),
        checkpoint_period=settings.checkpoint_period,
        eval_period=6,
        eval_steps=2,
        log_period=1,
        ema_decay=0.9,
        tensorboard=False,
        config=settings.config,
        nan_policy="stop" if settings.bad_batch is None else "rollback",
        rollback_steps=5,
        checkpoints_to_keep=4,
    )


class _LateCheckpointManager(checkpoint_manager.CheckpointManager):
    seconds = 0.0

    def delete_after(self, step: int) -> None:
        time.sleep(self.seconds)
        super().delete_after(step)


def main() -> int:
    """Trains; returns the exit code of `train.train`."""
    settings = Settings(**json.loads(sys.argv[1]))
    multihost.HEARTBEAT_SECONDS = 10
    multihost.SHARED_SECONDS = 1.0
    _LateCheckpointManager.seconds = settings.late_seconds
    checkpoint_manager.CheckpointManager = _LateCheckpointManager  # type: ignore[misc]
    multihost.connect(settings.coordinator_address, settings.num_processes, settings.process_id)
    return train.train(experiment(settings))


if __name__ == "__main__":
    sys.exit(main())
