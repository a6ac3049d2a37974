# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Small trainings in several processes; `train_process.py '<JSON of Settings>'` is one of them."""

import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

sys.path.extend(str(folder) for folder in pathlib.Path(__file__).parents[:2])

import fake_drawing
import fake_training
import numpy as np
import quick_jit
import tiny_models

from parti.data.images import images
from parti.data.storage import record_offsets, records, shard_names
from parti.engine import train
from parti.engine.checkpoints import checkpoint_manager
from parti.engine.distributed import multihost
from parti.engine.experiment import experiments
from parti.engine.input import datasets
from parti.engine.step import optimizers
from parti.stages import files

IMAGE_SIZE = 24  # of the tiny reranker
COUNTS = {"train": (17, 4), "validation": (5, 8)}  # pairs of each shard
VOCABULARY = "v.model"


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
    # What `write_pairs` wrote: a reranker trains on it.
    pairs: str = ""
    # Folder for `<process>.json`, how many records of each split the process read.
    reads: str = ""


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


def write_pairs(folder: files.Path) -> None:
    """Writes shards of pairs, and a vocabulary beside them."""
    rng = np.random.default_rng(0)
    for split, counts in COUNTS.items():
        for shard, count in enumerate(counts):
            pairs = (
                records.ImageTextPair(
                    f"{shard}-{i}",
                    images.encode_png(rng.integers(0, 256, (IMAGE_SIZE,) * 2 + (3,), np.uint8)),
                    f"a red square {i}",
                ).to_example()
                for i in range(count)
            )
            name = shard_names.shard_name(split, shard, len(counts))
            record_offsets.write_shard(files.join(folder, name), pairs)
    with files.local_draft(files.join(folder, VOCABULARY)) as path:
        tiny_models.write_vocabulary(pathlib.Path(path))


def _reranker(pairs: str) -> tuple[Any, datasets.Source]:
    """Returns a reranker and the pairs that it trains on."""
    from parti.tasks import contrastive

    vocabulary = files.join(pairs, VOCABULARY)
    name = contrastive.add_task(pairs, vocabulary, IMAGE_SIZE, max_shift=2)
    lengths = {"inputs": tiny_models.TEXT_LENGTH, "image": IMAGE_SIZE}
    return tiny_models.part("reranker").model, datasets.SeqioSource(name, lengths)


def experiment(settings: Settings) -> experiments.Experiment:
    """Returns a training on a mesh of 2 x 2 devices, parameters divided over both axes."""
    draws = bool(settings.bundle)
    model: Any = fake_drawing.DrawingRegressor() if draws else fake_training.Regressor()
    source: datasets.Source = SlowSource(settings.batch_seconds, settings.bad_batch)
    if settings.pairs:
        model, source = _reranker(settings.pairs)
    return experiments.Experiment(
        model=model,
        samples=fake_drawing.drawn(pathlib.Path(settings.bundle)) if draws else None,
        data_source=source,
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


@contextlib.contextmanager
def counting_reads(path: str) -> Iterator[None]:
    """Writes how many records of each split were read inside."""
    from parti.engine.input import row_source

    read, read_range = [], row_source.Records._read_range

    def counted(self: Any, path: str, *of_file: int) -> bytes:
        read.append(files.name(path).split("-")[0])
        return read_range(self, path, *of_file)

    row_source.Records._read_range = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        row_source.Records._read_range = read_range  # type: ignore[method-assign]
        pathlib.Path(path).write_text(json.dumps({s: read.count(s) for s in records.SPLITS}))


def run_one(settings: Settings, **options: Any) -> int:
    """Trains in this process; returns the exit code of `train.train`."""
    compiling = quick_jit.everywhere() if settings.pairs else contextlib.nullcontext()
    path = f"{settings.reads}/{settings.process_id or 0}.json"
    with compiling, counting_reads(path) if settings.reads else contextlib.nullcontext():
        return train.train(experiment(settings), **options)


def start(
    settings: Settings, count: int, others: Mapping[str, str] | None = None
) -> list[subprocess.Popen]:
    """Starts the processes of one training, on 4 devices; `others`: settings but of the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // count}",
    }
    if not files.is_remote(settings.directory):
        environment["PARTI_PROGRESS_FILE"] = f"{settings.directory}.progress"
    started = []
    for i in range(count):
        own = dataclasses.replace(
            settings,
            coordinator_address=f"127.0.0.1:{port}",
            num_processes=count,
            process_id=i,
            **(others or {} if i else {}),
        )
        command = [sys.executable, __file__, json.dumps(dataclasses.asdict(own))]
        started.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        )
    return started


def wait(started: list[subprocess.Popen], timeout: float = 150.0) -> tuple[list[int], list[str]]:
    """Returns exit codes and what was printed."""
    printed = [process.communicate(timeout=timeout)[1] for process in started]
    return [process.returncode for process in started], printed


def main() -> int:
    """Trains; returns the exit code of `train.train`."""
    settings = Settings(**json.loads(sys.argv[1]))
    multihost.HEARTBEAT_SECONDS = 10
    multihost.SHARED_SECONDS = 1.0
    _LateCheckpointManager.seconds = settings.late_seconds
    checkpoint_manager.CheckpointManager = _LateCheckpointManager  # type: ignore[misc]
    multihost.connect(settings.coordinator_address, settings.num_processes, settings.process_id)
    return run_one(settings)


if __name__ == "__main__":
    sys.exit(main())
