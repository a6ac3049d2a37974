# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two small sets of image tokens, and an experiment that mixes them."""

import json
import pathlib
from collections.abc import Mapping

import numpy as np
import tiny_models

from parti.data.storage import records, shard_names, tfrecords
from parti.engine.experiment import experiments

GIN = f"""
from __gin__ import dynamic_registration
from parti.models.text_to_image import network
from parti.engine.step import optimizers
include 't5x_configs/models/parti.gin'
include 't5x_configs/tasks/text_to_image.gin'
include 't5x_configs/optimizers/adamw.gin'
TEXT_VOCAB_SIZE = {tiny_models.TEXT_VOCAB_SIZE}
TEXT_LENGTH = {tiny_models.TEXT_LENGTH}
CODEBOOK_SIZE = {tiny_models.CODEBOOK_SIZE}
GRID_SIZE = {tiny_models.GRID_SIZE}
LOCAL_WINDOW = 3
DROPOUT_RATE = 0.0
DTYPE = 'float32'
REMAT = 'none'
network.TextToImageConfig:
  emb_dim = 16
  num_heads = 2
  head_dim = 8
  mlp_dim = 32
  num_encoder_layers = 1
  num_decoder_layers = 1
LEARNING_RATE = 0.01
TRAIN_STEPS = 4
BATCH_SIZE = 8
CHECKPOINT_PERIOD = 2
EVAL_PERIOD = 4
EVAL_STEPS = 2
LOG_PERIOD = 1
TENSORBOARD = False
"""
NUM_TOKENS = tiny_models.GRID_SIZE**2
RATES = {"few": 3, "many": 1}
COUNTS = {"few": 5, "many": 25}  # records of either split
TOKENIZER = "t" * 12  # the fingerprint of the image tokenizer


def write(root: pathlib.Path) -> None:
    """Writes a vocabulary, an experiment, and two sets of tokens: one picture each."""
    tiny_models.write_vocabulary(root / "v.model")
    (root / "x.gin").write_text(GIN)
    for number, (name, count) in enumerate(COUNTS.items()):
        folder = root / name
        folder.mkdir()
        for split in records.SPLITS:
            rows = (
                records.TokenizedPair(f"{i}", "red", np.full(NUM_TOKENS, number)).to_example()
                for i in range(count)
            )
            tfrecords.write(folder / shard_names.shard_name(split, 0, 1), rows)
        write_manifest(folder)


def write_manifest(folder: pathlib.Path, **changes: str) -> None:
    """Writes the manifest of a set."""
    manifest = {"fingerprint": folder.name * 8, "tokenizer_fingerprint": TOKENIZER} | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))


def bindings(root: pathlib.Path, rates: Mapping[str, float] = RATES) -> list[str]:
    """Returns what names the data."""
    folders = {str(root / name): rate for name, rate in rates.items()}
    return [f"TOKENS_DIR = {folders!r}", f"VOCABULARY = '{root}/v.model'"]


def load(
    root: pathlib.Path, run: pathlib.Path, rates: Mapping[str, float], *changes: str
) -> experiments.Experiment:
    """Returns the experiment that trains in `run`."""
    given = [*bindings(root, rates), f"MODEL_DIR = '{run}'", *changes]
    return experiments.load_experiment([str(root / "x.gin")], given)
