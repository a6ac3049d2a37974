# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Examples of tasks by their places in the order of a training; see `data/storage/row_order`."""

import concurrent.futures
import functools
import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from parti.data.storage import record_offsets, row_order, tfrecords
from parti.stages import files
from parti.tasks import sources

_ENDLESS = 2**62  # batches
# Records read at a time: a call from TensorFlow costs as much as reading some dozens.
_CHUNK, _PARALLEL_CHUNKS = 256, 2
_REMOTE_THREADS = 64
_OPEN_FILES = 128  # at a time, of a data set
_BLOCK = 1024  # rows whose records are looked up at a time


def reads_rows(provider: Any) -> bool:
    """Returns whether the rows of a seqio task or mixture can be read each by itself.

    So it is where each task makes one example of each record: those that `sources.register` says
    so of. A user's task with preprocessors of its own over our source is not one.
    """
    tasks = seqio.get_subtasks(provider)
    return all(getattr(task.source, "row_task", None) == task.name for task in tasks)


class Records:
    """The records of TFRecord files, in the order of the files; each can be read by its index."""

    def __init__(self, shards: Sequence[str]) -> None:
        """Finds where the records are; raises as `record_offsets.of_shards`."""
        self._shards = list(shards)
        offsets = record_offsets.of_shards(self._shards)
        self._firsts = np.cumsum([0, *(len(of_shard) - 1 for of_shard in offsets)])
        # Each shard has one more than it has records: record i of all, in shard s, is from i + s.
        self._offsets = np.concatenate([np.zeros(0, np.uint64), *offsets]).view(np.int64)
        self._ranges = functools.lru_cache(_OPEN_FILES)(files.Ranges)
        is_remote = any(map(files.is_remote, self._shards))
        self._pool = concurrent.futures.ThreadPoolExecutor(_REMOTE_THREADS) if is_remote else None

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Returns the serialized records [k] object (bytes) at indices [k].

        Raises:
          ValueError: a record is damaged, or its shard was written again meanwhile.
        """
        shards = np.searchsorted(self._firsts, indices, side="right") - 1
        starts, ends = self._offsets[indices + shards], self._offsets[indices + shards + 1]
        paths = [self._shards[shard] for shard in shards.tolist()]
        run = self._pool.map if self._pool else map
        frames = list(run(self._read_range, paths, starts.tolist(), (ends - starts).tolist()))
        return np.array(tfrecords.unframe(frames, paths), object)

    def _read_range(self, path: str, start: int, num_bytes: int) -> bytes:
        return self._ranges(path).read(start, num_bytes)


class RowExamples:
    """The examples of a split of a task or mixture that `reads_rows`, by rows of batches."""

    def __init__(
        self,
        provider: Any,
        feature_lengths: Mapping[str, int],
        split: str,
        batch_size: int,
        seed: int,
        shuffle: bool,
    ) -> None:
        """Opens the shards of a split, of batches of `batch_size` examples.

        Shuffled, it is endless; else it is one epoch in order, of a single task, and the last batch
        is filled up from its beginning.

        Raises:
          ValueError: a set of a mixture has no records in this split, or as `Records`.
        """
        self._tasks, self._lengths = list(seqio.get_subtasks(provider)), dict(feature_lengths)
        is_mixture = not isinstance(provider, seqio.Task)
        self._rates = [float(provider.get_rate(t)) if is_mixture else 1.0 for t in self._tasks]
        self._split, self._batch_size, self._seed, self._shuffle = split, batch_size, seed, shuffle
        self._records = [Records(task.source.list_shards(split)) for task in self._tasks]
        if shuffle and (
            empty := [t.name for t, r in zip(self._tasks, self._records) if not len(r)]
        ):
            raise ValueError(f"the {split} split of {empty[0]} holds no records; give it data")
        self.num_examples = sum(map(len, self._records))
        self._num_batches = _ENDLESS if shuffle else -(-self.num_examples // batch_size)

    def dataset(self, rows: np.ndarray, start: int) -> tf.data.Dataset:
        """Returns the examples of rows [k] of each batch from number `start` on."""
        rows = np.asarray(rows, np.int64)
        in_block = -(-_BLOCK // len(rows))  # batches
        blocks = tf.data.Dataset.range(start, self._num_batches, in_block)
        functions = _Functions()

        def placed(first: int) -> tuple[np.ndarray, np.ndarray]:
            batches = np.arange(first, min(first + in_block, self._num_batches))
            places = batches[:, None] * self._batch_size + rows
            return row_order.members(places.ravel(), self._rates)

        def of_task(data_set: int) -> tf.data.Dataset:
            def looked_up(first: int) -> np.ndarray:
                which, numbers = placed(first)
                return self._look_up(data_set, numbers[which == data_set])

            found = _map(blocks, functions.add(looked_up), [None, 2])
            return self._task_dataset(data_set, found, functions.add(self._records[data_set].read))

        parts = [of_task(i) for i in range(len(self._tasks))]
        if len(parts) == 1:
            examples = parts[0]
        else:
            which = functions.add(lambda first: placed(first)[0])
            choices = _map(blocks, which, [None]).unbatch()
            examples = tf.data.Dataset.choose_from_datasets(parts, choices)
        options = tf.data.Options()
        # As of `sources.RecordSource`.
        options.autotune.enabled = False
        examples = examples.with_options(options)
        examples._parti_functions = functions  # as long as an iterator keeps the data set
        return examples

    def _look_up(self, data_set: int, numbers: np.ndarray) -> np.ndarray:
        """Returns index and seed, [k, 2] int64, of the n-th examples [k] of a set's order."""
        size = len(self._records[data_set])
        if self._shuffle:
            indices = row_order.indices(self._seed, data_set, numbers, size)
        else:
            indices = numbers % size
        return np.stack([indices, row_order.seeds(self._seed, data_set, numbers)], axis=1)

    def _task_dataset(
        self, data_set: int, looked_up: tf.data.Dataset, read: "_Function"
    ) -> tf.data.Dataset:
        """Returns the examples of a task whose indices and seeds are given, [k, 2] int64 each."""
        task = self._tasks[data_set]
        is_training = self._split == "train"

        def chunk(found: tf.Tensor) -> dict[str, tf.Tensor]:
            examples = read(found[:, 0], tf.string)
            return {
                sources.EXAMPLE: tf.ensure_shape(examples, [None]),
                sources.SEED: found[:, 1],
                sources.IS_TRAINING: tf.fill(tf.shape(found)[:1], is_training),
            }

        chunks = looked_up.rebatch(_CHUNK).map(chunk, num_parallel_calls=_PARALLEL_CHUNKS)
        by_row = seqio.Task(
            task.name,
            source=_Given(chunks, self._split),
            output_features=task.output_features,
            preprocessors=task.preprocessors,
            shuffle_buffer_size=None,
        )
        examples = by_row.get_dataset(
            self._lengths,
            split=self._split,
            shuffle=self._shuffle,
            num_epochs=1,
            use_cached=False,
            seed=self._seed,
            trim_output_features=False,
        )
        if len(self._tasks) == 1:
            return examples
        names = task.output_features
        return examples.map(
            lambda features: {name: features[name] for name in names},
            num_parallel_calls=tf.data.AUTOTUNE,
        )


# TensorFlow keeps what `numpy_function` is given for the life of the process: only `_call`, then.
_CALLED: weakref.WeakValueDictionary[int, Callable[..., np.ndarray]] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()


def _call(number: np.ndarray, argument: np.ndarray) -> np.ndarray:
    return _CALLED[int(number)](argument)


class _Functions:
    """Functions for TensorFlow to call, for as long as this object is kept."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def add(self, function: Callable[[Any], np.ndarray]) -> "_Function":
        """Returns the function as one of a tensor."""
        number, kept = next(_NUMBERS), functools.partial(function)
        _CALLED[number] = kept
        self._kept.append(kept)
        return functools.partial(_of_tensor, number)


_Function = Callable[[tf.Tensor, tf.DType], tf.Tensor]


def _of_tensor(number: int, argument: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    inputs = [tf.constant(number, tf.int64), argument]
    return tf.numpy_function(_call, inputs, dtype, stateful=False)


def _map(numbers: tf.data.Dataset, function: _Function, shape: list[int | None]) -> tf.data.Dataset:
    """Returns the int64 arrays of a shape that a function gives for each number."""
    return numbers.map(lambda number: tf.ensure_shape(function(number, tf.int64), shape))


class _Given(seqio.DataSource):
    """A data set of chunks of records, for the task's preprocessing (`in_chunks`)."""

    def __init__(self, dataset: tf.data.Dataset, split: str) -> None:
        self._dataset = dataset
        super().__init__([split], caching_permitted=False, performs_internal_shuffling=True)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """It is the part already."""
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        """Returns one."""
        return [split]

    def get_dataset(self, *args: Any, **options: Any) -> tf.data.Dataset:
        """Returns the data set, in its order."""
        del args, options
        return self._dataset
