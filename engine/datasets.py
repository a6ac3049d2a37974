# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches for training: seqio tasks, or arrays in memory; each knows its exact position.

A `Source` opens a split; what it opens is an iterator of host batches (`Batches`) whose position
can be saved after any batch and restored. `Prefetcher` reads ahead and keeps that exactness.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

TRAIN, VALIDATION = "train", "validation"

Batch = dict[str, np.ndarray]


class Batches(Protocol):
    """An iterator of batches that can go on from a saved position."""

    @property
    def element_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each feature of a batch of this host."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def save(self, path: pathlib.Path) -> None:
        """Writes the position, after the batches taken so far, into an existing folder."""

    def restore(self, path: pathlib.Path) -> None:
        """Goes to the position that `save` wrote into a folder."""


class Source(Protocol):
    """Where the splits of a data set come from."""

    def open(self, split: str, batch_size: int, seed: int, model: Any) -> Batches:
        """Opens a split: 'train' is shuffled and endless, 'validation' in order and finite."""


class ArrayDataset:
    """Batches from arrays in memory; epochs are shuffled by seed and number. Needs no TensorFlow.

    The last, incomplete batch of an epoch is left out. The position is the number of batches taken.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        batch_size: int,
        seed: int = 0,
        *,
        shuffle: bool = True,
        repeat: bool = True,
    ) -> None:
        """Takes arrays of one length on their first axis.

        Raises:
          ValueError: lengths differ, or are shorter than a batch.
        """
        lengths = {name: len(array) for name, array in arrays.items()}
        self._size = min(lengths.values(), default=0)
        if len(set(lengths.values())) > 1 or self._size < batch_size:
            raise ValueError(
                f"arrays need one length, at least the batch size {batch_size}; got {lengths}"
            )
        self._arrays, self._batch_size, self._seed = dict(arrays), batch_size, seed
        self._shuffle, self._repeat = shuffle, repeat
        self._taken = 0
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    @property
    def element_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each feature of a batch."""
        return {
            name: jax.ShapeDtypeStruct((self._batch_size, *array.shape[1:]), array.dtype)
            for name, array in self._arrays.items()
        }

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        per_epoch = self._size // self._batch_size
        epoch, index = divmod(self._taken, per_epoch)
        if epoch and not self._repeat:
            raise StopIteration
        if self._order[0] != epoch:
            self._order = (epoch, self._epoch_order(epoch))
        rows = self._order[1][index * self._batch_size : (index + 1) * self._batch_size]
        self._taken += 1
        return {name: array[rows] for name, array in self._arrays.items()}

    def save(self, path: pathlib.Path) -> None:
        """Writes the number of batches taken."""
        position = {"batches_taken": self._taken}
        (path / "position.json").write_text(json.dumps(position), encoding="utf-8")

    def restore(self, path: pathlib.Path) -> None:
        """Goes to a saved number of batches."""
        text = (path / "position.json").read_text(encoding="utf-8")
        self._taken = int(json.loads(text)["batches_taken"])

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(self._size)
        return np.random.default_rng((self._seed, epoch)).permutation(self._size)


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Splits held in memory: {feature: array [examples, ...]} each."""

    train: Mapping[str, np.ndarray]
    validation: Mapping[str, np.ndarray]

    def open(self, split: str, batch_size: int, seed: int, model: Any) -> Batches:
        """Opens 'train' (shuffled, endless) or 'validation' (in order, once)."""
        del model  # The arrays are already what the model takes.
        training = split == TRAIN
        arrays = self.train if training else self.validation
        return ArrayDataset(arrays, batch_size, seed, shuffle=training, repeat=training)


class TfDataset:
    """Batches of a `tf.data.Dataset`; the position is the state of its iterator.

    Symbolic checkpointing keeps positions small: they hold where each stage stands, not the
    content of shuffle buffers. The files are those of T5X's data checkpoints.
    """

    def __init__(self, dataset: Any) -> None:
        """Takes a `tf.data.Dataset` of dicts of dense tensors, already batched."""
        import tensorflow as tf

        options = tf.data.Options()
        options.experimental_symbolic_checkpoint = True
        dataset = dataset.with_options(options)
        self._spec = dataset.element_spec
        self._iterator = iter(dataset)
        self._checkpoint = tf.train.Checkpoint(ds=self._iterator)

    @property
    def element_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each feature of a batch of this host."""
        return {
            name: jax.ShapeDtypeStruct(tuple(spec.shape), spec.dtype.as_numpy_dtype)
            for name, spec in self._spec.items()
        }

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return {name: tensor.numpy() for name, tensor in next(self._iterator).items()}

    def save(self, path: pathlib.Path) -> None:
        """Writes the iterator's state."""
        self._checkpoint.write(str(path / _shard_name()))

    def restore(self, path: pathlib.Path) -> None:
        """Reads the iterator's state."""
        self._checkpoint.read(str(path / _shard_name())).assert_consumed()


@dataclasses.dataclass(frozen=True)
class SeqioSource:
    """Splits of a registered seqio task or mixture, through the model's feature converter."""

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int]

    def open(self, split: str, batch_size: int, seed: int, model: Any) -> Batches:
        """Opens 'train' (shuffled, endless) or 'validation' (in order, once).

        Raises:
          ValueError: the batch size does not divide by the number of hosts.
        """
        import seqio

        hosts = jax.process_count()
        if batch_size % hosts:
            raise ValueError(f"BATCH_SIZE {batch_size} does not divide by the {hosts} hosts")
        training = split == TRAIN
        dataset = seqio.get_dataset(
            mixture_or_task_name=self.mixture_or_task_name,
            task_feature_lengths=dict(self.task_feature_lengths),
            dataset_split=split,
            shuffle=training,
            num_epochs=None if training else 1,
            feature_converter=model.FEATURE_CONVERTER_CLS(pack=False),
            shard_info=seqio.ShardInfo(index=jax.process_index(), num_shards=hosts),
            use_cached=False,
            seed=seed,
            batch_size=batch_size // hosts,
        )
        return TfDataset(dataset)


def _shard_name() -> str:
    return f"train_ds-{jax.process_index():03}-of-{jax.process_count():03}"
