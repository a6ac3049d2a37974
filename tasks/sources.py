# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Registers seqio tasks over the output directory of a stage; all `add_task` share it."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from parti.data.storage import records, shard_names, tfrecords
from parti.stages import files

# Of one element of a `RecordSource`.
EXAMPLE = "example"  # [] string, the serialized record
IS_TRAINING = "is_training"  # [] bool, whether the split is `train`
# [] int64, of what is drawn for the example; only where rows are read by themselves (`row_source`).
SEED = "seed"

# Records, still encoded. Stages order records by a hash of their key, so this only has to mix a
# little; every saved data position holds the buffer.
SHUFFLE_BUFFER = 1_000


@dataclasses.dataclass(frozen=True, eq=False)
class _Captioned(records.Record):
    """What all records have."""

    key: str
    text: str


class RecordSource(seqio.FileDataSource):
    """Serialized records of TFRecord files, or of other shards, shuffled before they are decoded.

    seqio shuffles what the preprocessors return. Of images that would be floats: at 256 px a
    buffer of 1,000 is 0.8 GB. Here the buffer holds the encoded records.

    A saved position is exact: files are read in one order in all epochs, because TensorFlow
    restores the wrong order of the next epoch when it saves after a shuffled list of files ran out
    while records remain in the buffer.
    """

    def __init__(
        self,
        split_to_files: Mapping[str, Sequence[str]],
        read: Callable[[tf.Tensor], tf.data.Dataset] = tf.data.TFRecordDataset,
        cycle_length: int = 16,
        has_captions: bool = False,
        row_task: str = "",
    ) -> None:
        """Takes the shards of each split; `read` gives the [] strings of one.

        Shuffled, records of `cycle_length` shards are read in turn. `has_captions` says that a task
        makes one example of each, and that they are records of `data/storage/records.py`;
        `row_task` names the task that makes one example of each TFRecord, whatever the others are.
        """
        self._split_to_files, self.has_captions = split_to_files, has_captions
        self.row_task = row_task
        super().__init__(
            read_file_fn=read,
            split_to_filepattern=split_to_files,
            caching_permitted=False,
            cycle_length=cycle_length,
            performs_internal_shuffling=True,
        )

    def list_shards(self, split: str) -> Sequence[str]:
        """Returns the files as they are; seqio would read their names as globs."""
        return self._split_to_files[split]

    def captions(self, split: str) -> Iterator[tuple[str, str]]:
        """Yields (key, text) of the records of a split, in the order of `get_dataset`.

        If they are of a `row_task` that is shard after shard.
        """
        for element in self.get_dataset(split, shuffle=False).as_numpy_iterator():
            record = _Captioned.from_example(element[EXAMPLE])
            yield record.key, record.text

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """Returns a dataset of {`EXAMPLE`, `IS_TRAINING`}; repeated, its order differs by epoch."""
        if self.row_task and not shuffle:
            # One shard after the other, as rows are numbered (`row_source.Records`).
            dataset = self._in_order(split, shard_info)
        else:
            dataset = super().get_dataset(split, shuffle=False, seed=seed, shard_info=shard_info)
        if shuffle:
            dataset = dataset.shuffle(SHUFFLE_BUFFER, seed=seed)
        # Not by `map`: its call takes longer than all else that is done for a record here.
        is_training = tf.data.Dataset.from_tensors(split == "train").repeat()
        dataset = tf.data.Dataset.zip({EXAMPLE: dataset, IS_TRAINING: is_training})
        options = tf.data.Options()
        # Restoring the fused operation was seen to hang and to crash (TensorFlow 2.21).
        options.experimental_optimization.shuffle_and_repeat_fusion = False
        # Without it AUTOTUNE means the number of cores, at most 16. With it, the end of a busy
        # process was seen to wait up to a minute for the thread that tunes (TensorFlow 2.21).
        options.autotune.enabled = False
        return dataset.with_options(options)

    def _in_order(self, split: str, shard_info: seqio.ShardInfo | None) -> tf.data.Dataset:
        """Returns the records of a split, file after file."""
        part = slice(shard_info.index, None, shard_info.num_shards) if shard_info else slice(None)
        shards = list(self._split_to_files[split])[part]
        if not any(map(files.is_remote, shards)):
            return tf.data.TFRecordDataset(shards)

        def read() -> Iterator[bytes]:
            return (row for shard in shards for row in tfrecords.read(shard))

        return tf.data.Dataset.from_generator(read, output_signature=tf.TensorSpec([], tf.string))


def check_scheme(address: str | os.PathLike[str], remedy: str = "") -> None:
    """Raises ValueError, with the remedy, for an address that TensorFlow cannot read."""
    text = os.fspath(address)
    scheme = text.partition("://")[0]
    if files.is_remote(text) and scheme not in tf.io.gfile.get_registered_schemes():
        raise ValueError(
            f"{text!r}: TensorFlow, which reads it, has no file system for {scheme}://; copy it to "
            f"a file system, or to gs://{remedy}"
        )


def split_files(directory: str | os.PathLike[str], record: type[records.Record]) -> dict[str, list]:
    """Returns the shards of a stage's output: `train-*`, and `validation-*` where there are any.

    Without the latter a task has no validation split.

    Raises:
      FileNotFoundError: no train shards; the message names the stage.
      ValueError: the shards hold no record, or the first one is of another kind; or the name of the
        folder is not UTF-8.
    """
    base = os.path.abspath(directory) if "://" not in str(directory) else str(directory)
    if not files.is_utf8(base):
        raise ValueError(
            f"{base!r}: a name that is not UTF-8, which TensorFlow needs; rename the folder, or "
            "give a symbolic link to it"
        )
    found: dict[str, list[str]] = {}
    for split in records.SPLITS:
        if shards := shard_names.list_shards(base, split):
            found[split] = shards
    if "train" not in found:
        raise FileNotFoundError(
            f"No train-*.tfrecord in {base!r}; {record.MADE_BY} makes them, {record.KIND} a record "
            "(its --output is the directory to give here)."
        )
    first = next((r for path in found["train"] for r in tfrecords.read(path)), None)
    if first is None:
        raise ValueError(f"{found['train'][0]!r} and the other train shards hold no records.")
    try:
        record.from_example(first)
    except ValueError as error:
        raise ValueError(f"{found['train'][0]!r}: {error}") from error
    return found


def find_tfds(
    name: str, data_dir: str | os.PathLike[str], absent: str
) -> tuple[Any, dict[str, list[str]]]:
    """Returns what TFDS says of a data set that is prepared in a folder, and the files of SPLITS.

    Nothing is downloaded, and no code of the data set is needed.

    Raises:
      FileNotFoundError: it is not there; the message is `absent`.
      ValueError: its files are no TFRecord files, or TensorFlow cannot read the folder.
    """
    import tensorflow_datasets as tfds

    check_scheme(data_dir)
    try:
        info = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir).info
    except tfds.core.registered.DatasetNotFoundError as error:
        raise FileNotFoundError(absent) from error
    if (suffix := info.file_format.file_suffix) != "tfrecord":
        raise ValueError(
            f"{name} in {os.fspath(data_dir)!r} has files of {suffix}; prepare it as tfrecord"
        )
    there = [split for split in records.SPLITS if split in info.splits]
    return info, {split: list(map(os.fspath, info.splits[split].filepaths)) for split in there}


def register(
    kind: str,
    split_to_files: Mapping[str, Sequence[str]],
    arguments: Mapping[str, Any],
    preprocessors: Sequence[Callable],
    output_features: Mapping[str, seqio.Feature],
    metrics: Sequence[type[seqio.metrics.Metric]] = (),
    source: seqio.DataSource | None = None,
    has_captions: bool = True,
) -> str:
    """Registers a task once and returns its name, `parti_<kind>_<hash>`.

    The hash is of the files of each split and the arguments, JSON values that tell two tasks apart:
    equal ones give an equal name, also in another process. The `source` is by default the files'
    records, each of which is one example, whatever the others are; `has_captions` says whether they
    are records of `data/storage/records.py`.
    """
    text = json.dumps([kind, dict(split_to_files), dict(arguments)], sort_keys=True)
    name = f"parti_{kind}_{hashlib.sha256(text.encode('utf-8')).hexdigest()[:12]}"
    if name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(
            name,
            source=source or RecordSource(split_to_files, has_captions=has_captions, row_task=name),
            preprocessors=list(preprocessors),
            output_features=dict(output_features),
            shuffle_buffer_size=None,  # the source shuffles
            metric_objs=list(metrics),
        )
    return name
