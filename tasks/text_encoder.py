# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the text encoder is pretrained on: packed texts (`bert`), pairs (`contrastive`), or both.

A task of both has the features of the two; each pair comes with a sequence of packed texts.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from parti.data.storage import data_sets, records
from parti.tasks import bert, contrastive, masking, metrics, mixtures, preprocessors, sources


def add_task(
    bert_weight: float,
    contrastive_weight: float,
    vocabulary_path: str,
    text_length: int,
    image_size: int,
    pairs_dir: Any = None,
    max_shift: int = 0,
    caption_weights: Sequence[float] | None = None,
    **text_arguments: Any,
) -> str:
    """Registers the task of the objectives whose weight is not 0, once, and returns its name.

    `text_arguments` are those of `bert.add_task`; for the others see `contrastive.add_task`. Of
    several folders of pairs each gives a task of both objectives, and these make the mixture;
    `text_files` are then divided among them in training, so that they are not read by each.

    Raises:
      FileNotFoundError: no train shards, texts or vocabulary.
      ValueError: as of the two tasks, or no pairs for the contrastive objective.
    """
    if contrastive_weight and not pairs_dir:
        raise ValueError(
            "PAIRS_DIR is not set, and the contrastive objective needs pairs; set it, or "
            "CONTRASTIVE_WEIGHT = 0 for BERT alone"
        )

    def add_bert(pairs: Any) -> str:
        return bert.add_task(
            vocabulary_path, pairs_dir=pairs, caption_weights=caption_weights, **text_arguments
        )

    def add_contrast(pairs: Any) -> str:
        return contrastive.add_task(pairs, vocabulary_path, image_size, max_shift, caption_weights)

    if not contrastive_weight:
        return add_bert(pairs_dir)
    if not bert_weight:
        return add_contrast(pairs_dir)
    lengths = feature_lengths(bert_weight, contrastive_weight, text_length, image_size)
    num_sets = len(data_sets.named(pairs_dir, "PAIRS_DIR"))
    num_parts = num_sets if text_arguments.get("text_files") else 1
    parts = itertools.cycle(seqio.ShardInfo(i, num_parts) for i in range(num_parts))

    def add_both(kind: str, folder: str) -> str:
        names, part = [add_bert(folder), add_contrast(folder)], next(parts)
        source = ZippedSource(names, lengths, {names[0]: part} if num_parts > 1 else {})
        features = {k: v for name in names for k, v in _task(name).output_features.items()}
        splits = {split: list(names) for split in source.splits}
        steps, measured = [_check_lengths(lengths)], [metrics.Retrieval]
        arguments = {"lengths": lengths, "part_of_texts": [part.index, part.num_shards]}
        return sources.register(kind, splits, arguments, steps, features, measured, source)

    return mixtures.add("text_encoder", pairs_dir, "PAIRS_DIR", add_both)


def feature_lengths(
    bert_weight: float, contrastive_weight: float, text_length: int, image_size: int
) -> dict[str, int]:
    """Returns TASK_FEATURE_LENGTHS of the objectives whose weight is not 0."""
    lengths = masking.feature_lengths(text_length) if bert_weight else {}
    if contrastive_weight:
        lengths |= {preprocessors.INPUTS: text_length, records.IMAGE: image_size}
    return lengths


class ZippedSource(seqio.DataSource):
    """Examples of several tasks side by side, each with the features of all.

    In training every task goes on without end, in an order of its own; otherwise it ends with the
    last task, and the others begin again as often as needed. The tasks' positions are in that of
    the whole, so it is as exact as theirs.
    """

    has_captions = True

    def __init__(
        self,
        names: Sequence[str],
        lengths: Mapping[str, int],
        parts: Mapping[str, seqio.ShardInfo] | None = None,
    ) -> None:
        """Takes registered tasks without a common feature, and the length of each feature.

        `parts` says which part of its training split a task reads; by default it is all.
        """
        self._names, self._lengths, self._parts = tuple(names), dict(lengths), dict(parts or {})
        splits = [split for split in records.SPLITS if all(split in _task(n).splits for n in names)]
        super().__init__(splits, caching_permitted=False, performs_internal_shuffling=True)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """The tasks see to it."""
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        """Returns the names of the tasks."""
        del split
        return self._names

    def captions(self, split: str) -> Iterator[tuple[str, str]]:
        """Yields (key, text) of the records of the last task, the pairs."""
        return _task(self._names[-1]).source.captions(split)

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """Returns a dataset of the features of all tasks."""

        def of_task(number: int, name: str) -> tf.data.Dataset:
            task = _task(name)
            is_once = split != "train" and number == len(self._names) - 1
            part = self._parts.get(name) if split == "train" else None
            return task.get_dataset(
                {k: v for k, v in self._lengths.items() if k in task.output_features},
                split=split,
                shuffle=shuffle,
                # Captions of pairs are not to come beside the very pairs.
                seed=None if seed is None else seed + number,
                shard_info=_part_of(shard_info, part),
                num_epochs=1 if is_once else None,
                trim_output_features=False,
            )

        parts = [of_task(number, name) for number, name in enumerate(self._names)]

        def merge(*examples: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {k: v for e in examples for k, v in e.items() if k in self._lengths}

        return tf.data.Dataset.zip(*parts).map(merge)


def _part_of(shard: seqio.ShardInfo | None, part: seqio.ShardInfo | None) -> seqio.ShardInfo | None:
    """Returns a host's shard of a part; None is all."""
    if shard is None or part is None:
        return shard or part
    index = shard.index * part.num_shards + part.index
    return seqio.ShardInfo(index, shard.num_shards * part.num_shards)


def _task(name: str) -> seqio.Task:
    return seqio.TaskRegistry.get(name)


def _check_lengths(lengths: Mapping[str, int]) -> Any:
    def check(
        dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None = None
    ) -> tf.data.Dataset:
        for name, length in lengths.items():
            remedy = "TEXT_LENGTH and IMAGE_SIZE set both; leave TASK_FEATURE_LENGTHS to them"
            preprocessors.check_length(name, length, sequence_length, remedy)
        return dataset

    return check
