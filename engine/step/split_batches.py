# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The validation split in batches on the devices, each example once."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from parti.engine.input import datasets
from parti.engine.step import train_step


def each_once(
    program: train_step.Program,
    source: datasets.SeqioSource,
    seed: int,
    converter: Any,
    num_examples: int | None = None,
) -> Iterator[tuple[int, dict[str, jax.Array]]]:
    """Yields (how many rows are examples, batch) of a task's split, in order.

    The rows that fill the last batch up are any others. Of a task whose rows are read each by
    itself a process reads its own; of others whole batches. `num_examples` are taken, by default
    all.
    """
    size = program.batch_size
    if batches := source.open_rows(datasets.VALIDATION, size, seed, converter):
        batches.keep_rows(program.rows())
        left = min(batches.num_examples, num_examples or batches.num_examples)
        for batch in itertools.islice(batches, -(-left // size)):
            yield min(size, left), program.place(batch)
            left -= size
        return
    examples = source.once(seed, converter)
    if num_examples:
        examples = examples.take(num_examples)
    for batch in examples.batch(size).as_numpy_iterator():
        count = len(next(iter(batch.values())))
        rows = np.minimum(np.arange(size), count - 1)
        yield count, program.place_whole({name: x[rows] for name, x in batch.items()})
