# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Small data sets of GLUE, written by TFDS itself, in the features of its `glue` 2.0.0."""

import pathlib
import random

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_info

from parti.tasks import glue

# As in tensorflow_datasets/text/glue.py
CLASSES = {
    "cola": ["unacceptable", "acceptable"],
    "sst2": ["negative", "positive"],
    "mrpc": ["not_equivalent", "equivalent"],
    "qqp": ["not_duplicate", "duplicate"],
    "qnli": ["entailment", "not_entailment"],
    "rte": ["entailment", "not_entailment"],
}
COLOURS, SHAPES = ("red", "blue", "green", "orange"), ("circle", "square", "star")
COUNTS = {"train": 96, "validation": 21, "test": 5}


def write(data_dir: pathlib.Path, task: str) -> dict[str, list[dict]]:
    """Prepares a task; returns its examples by split, as written.

    Of one sentence the class is its word order; of two whether they have the same shape.
    """
    rng = random.Random(task)
    names = glue.TASKS[task].sentences

    def example(split: str, number: int) -> dict:
        label = rng.randrange(2)
        colour, shape = rng.choice(COLOURS), rng.choice(SHAPES)
        other = shape if label else rng.choice([s for s in SHAPES if s != shape])
        if len(names) == 1:
            texts = [f"a {colour} {shape}" if label else f"{shape} that is {colour}"]
        else:
            texts = [f"a {colour} {shape}", f"{other} that is {rng.choice(COLOURS)}"]
        known = split != "test"
        return dict(zip(names, texts)) | {"label": label if known else -1, "idx": number}

    rows = {split: [example(split, i) for i in range(n)] for split, n in COUNTS.items()}
    folder = data_dir / "glue" / task / "2.0.0"
    folder.mkdir(parents=True)
    identity = dataset_info.DatasetIdentity(
        name="glue",
        config_name=task,
        version="2.0.0",
        data_dir=str(folder),
        module_name="tensorflow_datasets.text.glue",
    )
    features = {
        **{name: tfds.features.Text() for name in names},
        "label": tfds.features.ClassLabel(names=CLASSES[task]),
        "idx": np.int32,
    }
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=40)
    writer.initialize_splits(list(rows))
    writer.add_examples(rows)
    writer.close_all()
    return rows
