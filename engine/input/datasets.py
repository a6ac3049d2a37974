# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches for training: seqio tasks, or arrays in memory; each knows its exact position.

A `Source` opens a split; what it opens is an iterator of batches (`Batches`) whose position can be
saved after any batch and restored. `prefetch.Prefetcher` reads ahead and keeps that exactness.

A process keeps the rows of each batch that its devices hold (`Batches.keep_rows`,
`Program.place`). Of tasks that make an example of each record it reads no others; of other tasks,
such as packed texts, it reads whole batches and takes its rows. Order and position of the data do
not depend on how many processes there are (`data/storage/row_order.py`).
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from parti.models import base

TRAIN, VALIDATION = "train", "validation"

# T5X's name for the position of one process.
_POSITION = "train_ds-000-of-001"

Batch = dict[str, np.ndarray]
Shard = tuple[int, int]  # which part of the examples, of how many


class Batches(Protocol):
    """An iterator of batches that can go on from a saved position."""

    @property
    def element_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each feature of a global batch."""

    def keep_rows(self, rows: np.ndarray) -> None:
        """Gives from now on only these rows [k] of each batch; at first they are all."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def save(self, path: pathlib.Path) -> None:
        """Writes the position, after the batches taken so far, into an existing folder."""

    def restore(self, path: pathlib.Path) -> None:
        """Goes to the position that `save` wrote into a folder."""


class Source(Protocol):
    """Where the splits of a data set come from."""

    def open(self, split: str, batch_size: int, seed: int, model: Any) -> Batches:
        """Opens a split: 'train' is shuffled and endless, 'validation' in order."""


def validation_sources(source: Source) -> dict[str, Source]:
    """Returns {name: source} of the data sets to validate on; the name of a single one is ''.

    Of a seqio mixture each of its tasks is one.
    """
    return source.validation_sources() if isinstance(source, SeqioSource) else {"": source}


class ArrayDataset:
    """Endless batches from arrays in memory; epochs are shuffled by seed and number.

    The last, incomplete batch of an epoch is left out. The position is the number of batches taken.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], batch_size: int, seed: int = 0, shuffle: bool = True
    ) -> None:
        """Takes arrays [examples, ...]; raises ValueError unless as many each, a batch at least."""
        lengths = {name: len(array) for name, array in arrays.items()}
        self._size = min(lengths.values(), default=0)
        if len(set(lengths.values())) > 1 or self._size < batch_size:
            raise ValueError(
                f"arrays need one length, at least the batch size {batch_size}; got {lengths}"
            )
        self._arrays, self._batch_size = dict(arrays), batch_size
        self._seed, self._shuffle, self._taken = seed, shuffle, 0
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))
        self._rows = np.arange(batch_size)

    def keep_rows(self, rows: np.ndarray) -> None:
        """Gives from now on only these rows of each batch."""
        self._rows = rows

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
        epoch, index = divmod(self._taken, self._size // self._batch_size)
        if self._order[0] != epoch:
            order = np.arange(self._size)
            if self._shuffle:
                order = np.random.default_rng((self._seed, epoch)).permutation(order)
            self._order = (epoch, order)
        rows = self._order[1][index * self._batch_size + self._rows]
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


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Splits held in memory: {feature: array [examples, ...]} each."""

    train: Mapping[str, np.ndarray]
    validation: Mapping[str, np.ndarray]

    def open(self, split: str, batch_size: int, seed: int, model: Any) -> Batches:
        """Opens 'train' (shuffled, endless) or 'validation' (in order, endless)."""
        del model  # The arrays are already what the model takes.
        arrays = self.train if split == TRAIN else self.validation
        return ArrayDataset(arrays, batch_size, seed, shuffle=split == TRAIN)


def texts(source: Source, ids: np.ndarray) -> list[str]:
    """Returns the texts of ids [rows, length] of the captions of a source, up to their ends.

    Of a source without a vocabulary, such as arrays, the ids themselves, padding left out.
    """
    if not isinstance(source, SeqioSource):
        return [" ".join(str(i) for i in row if i) for row in ids.tolist()]
    import seqio

    task = seqio.get_mixture_or_task(source.mixture_or_task_name)
    vocabulary = task.output_features["inputs"].vocabulary
    ends = [np.flatnonzero(np.isin(row, (0, vocabulary.eos_id))) for row in ids]
    return [
        vocabulary.decode(row[: e[0] if len(e) else None]) for row, e in zip(ids.tolist(), ends)
    ]


class RowDataset:
    """Batches of a seqio task of which each row can be read by itself (`row_source.reads_rows`).

    The position is the number of batches taken, and the same in all processes.
    """

    def __init__(
        self, build: Callable[[np.ndarray, int], Any], batch_size: int, num_examples: int
    ) -> None:
        """Takes what builds the `tf.data.Dataset` of rows [k] of the batches from a number on.

        `num_examples` are in an epoch of all data sets.
        """
        self._build, self._taken, self.num_examples = build, 0, num_examples
        self._rows = np.arange(batch_size)
        self._iterator: Iterator[Any] | None = None
        self._from_start = build(self._rows, 0)  # until other rows are kept: it takes a second
        self._spec = self._from_start.element_spec

    @property
    def element_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each feature of a global batch."""
        return {
            name: jax.ShapeDtypeStruct(tuple(spec.shape), spec.dtype.as_numpy_dtype)
            for name, spec in self._spec.items()
        }

    @property
    def taken(self) -> int:
        """How many batches were taken."""
        return self._taken

    def keep_rows(self, rows: np.ndarray) -> None:
        """Reads from now on only these rows of each batch."""
        if not np.array_equal(rows, self._rows):
            self._rows, self._from_start, self._iterator = np.asarray(rows), None, None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            opened = None if self._taken else self._from_start
            if opened is None:
                opened = self._build(self._rows, self._taken)
            self._iterator = iter(opened)
        batch = {name: tensor.numpy() for name, tensor in next(self._iterator).items()}
        self._taken += 1
        return batch

    def save(self, path: pathlib.Path) -> None:
        """Writes the number of batches taken."""
        write_position(path / _POSITION, self._taken)

    def restore(self, path: pathlib.Path) -> None:
        """Goes to a saved number of batches; raises ValueError if there is none."""
        self._taken, self._iterator = read_position(path), None


def write_position(path: pathlib.Path, batches_taken: int) -> None:
    """Writes the number of batches taken, of either engine."""
    path.write_text(json.dumps({"batches_taken": batches_taken}), encoding="utf-8")


def read_position(path: pathlib.Path) -> int:
    """Returns the number of batches taken that a folder of either engine holds.

    T5X with several processes leaves a file for each; they say the same.

    Raises:
      ValueError: there is none, or one of another pipeline.
    """
    found = sorted([*path.glob("train_ds-*"), *path.glob("process_*/train_ds-*")])
    remedy = "start a new MODEL_DIR from the parameters with INITIAL"
    if any(file.name.endswith(".index") for file in found):
        raise ValueError(
            f"{path} is a position in another order of the data: a Parti of before saved it, which "
            f"read whole batches in every process. Go on with that one, or {remedy}"
        )
    if not found:
        raise ValueError(f"{path} holds no position in the data; {remedy}")
    return int(json.loads(found[0].read_text(encoding="utf-8"))["batches_taken"])


class TfDataset:
    """Batches of a `tf.data.Dataset`; the position is the state of its iterator.

    Each process reads whole batches, and takes its rows of them.

    The position holds the content of shuffle buffers; our tasks keep encoded records there. It is
    not symbolic: with TensorFlow 2.21, symbolic positions crashed the process now and then. Its
    files have the names of T5X's data checkpoints.
    """

    def __init__(self, dataset: Any) -> None:
        """Takes a `tf.data.Dataset` of dicts of dense tensors, already batched."""
        import tensorflow as tf

        self._spec = dataset.element_spec
        self._rows: np.ndarray | slice = slice(None)
        self._iterator = iter(dataset)
        self._checkpoint = tf.train.Checkpoint(ds=self._iterator)

    @property
    def element_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each feature of a batch."""
        return {
            name: jax.ShapeDtypeStruct(tuple(spec.shape), spec.dtype.as_numpy_dtype)
            for name, spec in self._spec.items()
        }

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        return {name: tensor.numpy()[self._rows] for name, tensor in batch.items()}

    def keep_rows(self, rows: np.ndarray) -> None:
        """Gives from now on only these rows of each batch."""
        self._rows = rows

    def save(self, path: pathlib.Path) -> None:
        """Writes the iterator's state."""
        self._checkpoint.write(str(path / _POSITION))

    def restore(self, path: pathlib.Path) -> None:
        """Reads the iterator's state; raises ValueError if it is of another pipeline."""
        if not (path / f"{_POSITION}.index").is_file():
            raise ValueError(
                f"{path} holds no {_POSITION}: T5X with several processes leaves a position for "
                "each. Go on with T5X on as many, or start from the parameters (INITIAL)"
            )
        import tensorflow as tf

        try:
            self._checkpoint.read(str(path / _POSITION)).assert_consumed()
        except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError) as error:
            raise ValueError(
                f"{path} is a position in another data pipeline: Parti, seqio or TensorFlow has "
                "another version than when it was saved. Go on with that one, or start a new "
                "MODEL_DIR from the parameters with INITIAL"
            ) from error


@dataclasses.dataclass(frozen=True)
class SeqioSource:
    """Splits of a registered seqio task or mixture, through the model's feature converter."""

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int]
    validation_split: str = VALIDATION  # of the task; what 'validation' opens

    def open(self, split: str, batch_size: int, seed: int, model: Any) -> Batches:
        """Opens 'train' (shuffled, endless) or 'validation' (in order, once).

        The last batch of the validation split is filled up from its beginning. Raises ValueError
        as `check_vocabulary` does.
        """
        self.check_vocabulary(model)
        converter = model.FEATURE_CONVERTER_CLS
        by_rows = self.open_rows(split, batch_size, seed, converter)
        return by_rows or TfDataset(self.dataset(split, batch_size, seed, converter))

    def open_rows(
        self, split: str, batch_size: int, seed: int, converter: Any
    ) -> "RowDataset | None":
        """Returns the batches of a split if their rows can be read each by itself.

        `seed` is of the order and of random preprocessors; `converter` is the model's class.
        """
        import seqio

        from parti.engine.input import row_source

        provider = seqio.get_mixture_or_task(self.mixture_or_task_name)
        lengths, is_training = dict(self.task_feature_lengths), split == TRAIN
        is_task = isinstance(provider, seqio.Task)
        # Sets of a mixture are validated one by one; see `validation_sources`.
        if not row_source.reads_rows(provider) or not (is_training or is_task):
            return None
        of_task = TRAIN if is_training else self.validation_split
        examples = row_source.RowExamples(
            provider, lengths, of_task, batch_size, seed, shuffle=is_training
        )

        def build(rows: np.ndarray, start: int) -> Any:
            found = examples.dataset(rows, start)
            return converter(pack=False).to_batches(found, lengths, len(rows))

        return RowDataset(build, batch_size, examples.num_examples)

    def dataset(
        self, split: str, batch_size: int, seed: int, converter: Any, shard: Shard = (0, 1)
    ) -> Any:
        """Returns the `tf.data.Dataset` of a split's batches.

        It is for tasks whose rows cannot be read each by itself. T5X reads it too: a position is
        one of a pipeline, and each engine goes on from the other's (`t5x_bridge.get_dataset`).
        `seed` and `converter` are as of `open_rows`.
        """

        def examples(num_epochs: int | None) -> Any:
            return self._examples(split, num_epochs, seed, shard)

        if split == TRAIN:
            dataset = examples(None)
        else:
            dataset = examples(1).concatenate(examples(None).take(batch_size - 1))
        lengths = dict(self.task_feature_lengths)
        return converter(pack=False).to_batches(dataset, lengths, batch_size)

    def captions(self) -> Iterator[tuple[str, str]] | None:
        """Returns (key, text) of each example of 'validation'; None if they are of no record."""
        import seqio

        source = seqio.TaskRegistry.get(self.mixture_or_task_name).source
        has_captions = getattr(source, "has_captions", False)
        return source.captions(self.validation_split) if has_captions else None

    def once(self, seed: int, converter: Any) -> Any:
        """Returns a `tf.data.Dataset` of the examples of 'validation', each once, in order."""
        examples = self._examples(VALIDATION, 1, seed, (0, 1))
        return converter(pack=False)(examples, dict(self.task_feature_lengths))

    def task_examples(self) -> Iterator[dict[str, Any]]:
        """Yields the examples of 'validation', each once, in order, before they are converted."""
        import tensorflow_datasets as tfds

        return iter(tfds.as_numpy(self._examples(VALIDATION, 1, 0, (0, 1))))

    def _examples(self, split: str, num_epochs: int | None, seed: int, shard: Shard) -> Any:
        import seqio

        return seqio.get_mixture_or_task(self.mixture_or_task_name).get_dataset(
            dict(self.task_feature_lengths),
            split=TRAIN if split == TRAIN else self.validation_split,
            shuffle=split == TRAIN,
            num_epochs=num_epochs,
            shard_info=seqio.ShardInfo(*shard),
            use_cached=False,
            seed=seed,
            trim_output_features=False,  # The converter does, if anything is too long.
        )

    def validation_sources(self) -> dict[str, Source]:
        """Returns {name: source} of a mixture's tasks, or {'': itself}.

        Raises ValueError if one has no validation split.
        """
        import seqio

        from parti.tasks import mixtures

        split = self.validation_split
        provider = seqio.get_mixture_or_task(self.mixture_or_task_name)
        tasks: dict[str, Any] = {"": provider}
        if not (is_task := isinstance(provider, seqio.Task)):
            tasks = {mixtures.set_name(task.name): task for task in provider.tasks}
        if without := [name for name, task in tasks.items() if split not in task.splits]:
            of = "" if is_task else f" in {', '.join(without)} of {', '.join(tasks)}"
            raise ValueError(
                f"no {split} split{of}; make one (of `parti clean`, a larger "
                "--validation_fraction; of TEXTS, VALIDATION_TEXTS), or train with EVAL_PERIOD = 0"
            )
        return {
            name: dataclasses.replace(self, mixture_or_task_name=task.name)
            for name, task in tasks.items()
        }

    def check_vocabulary(self, model: base.Model) -> None:
        """Raises ValueError unless the model has embeddings for all pieces of the vocabulary."""
        import seqio

        size = model.text_vocab_size
        task = seqio.get_mixture_or_task(self.mixture_or_task_name)
        for name, feature in task.output_features.items():
            vocabulary = feature.vocabulary
            if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
                continue
            if size is None:
                raise ValueError(
                    f"{type(model).__name__}.text_vocab_size is None, but the task gives text, "
                    f"{name!r}, of a vocabulary of {vocabulary.vocab_size} pieces; let the model "
                    "say how many text ids it has embeddings for"
                )
            # Past the last embedding jax.numpy.take gives NaN, and says nothing.
            if vocabulary.vocab_size > size:
                raise ValueError(
                    f"TEXT_VOCAB_SIZE is {size}, but the vocabulary of {name!r} has "
                    f"{vocabulary.vocab_size} pieces; set TEXT_VOCAB_SIZE to "
                    f"{vocabulary.vocab_size} or more, or give a smaller VOCABULARY"
                )
