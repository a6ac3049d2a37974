# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""GLUE's tasks of two classes, prepared by TFDS: what a text encoder is fine-tuned on.

Features: `inputs`, [length] int32, the ids of the one or two sentences with an EOS after each,
padded with 0; `targets`, [1] int32, the class. Batches: `TextClassConverter`.

Source: GLUE (arXiv 1804.07461); the six tasks of Parti's (arXiv 2206.10789) appendix G.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from parti.data.storage import records
from parti.data.text import vocabularies
from parti.stages import files
from parti.tasks import metrics, preprocessors, sources

NUM_CLASSES = 2
LABEL = "label"  # in TFDS


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """What TFDS calls a task's sentences, and the metrics by which GLUE compares models."""

    sentences: tuple[str, ...]
    metrics: tuple[type[seqio.metrics.Metric], ...]


TASKS = {
    "cola": GlueTask(("sentence",), (metrics.MatthewsCorrelation,)),
    "sst2": GlueTask(("sentence",), (metrics.Accuracy,)),
    "mrpc": GlueTask(("sentence1", "sentence2"), (metrics.F1, metrics.Accuracy)),
    "qqp": GlueTask(("question1", "question2"), (metrics.F1, metrics.Accuracy)),
    "qnli": GlueTask(("question", "sentence"), (metrics.Accuracy,)),
    "rte": GlueTask(("sentence1", "sentence2"), (metrics.Accuracy,)),
}


class GlueSource(seqio.TfdsDataSource):
    """Examples of a prepared data set, never downloaded, read in one order and then shuffled.

    So a saved position is exact and small. TFDS would shuffle files, whose order TensorFlow
    restores wrongly (see `sources.RecordSource`), and cache the examples; it writes them in the
    order of a hash, so a small buffer mixes them well.
    """

    def __init__(self, name: str, data_dir: str, features: Sequence[str]) -> None:
        """Takes a name of TFDS with a version, and the features to keep."""
        splits = list(records.SPLITS)
        super().__init__(name, data_dir, splits, caching_permitted=False, read_only=True)
        self._features = features

    @property
    def performs_internal_shuffling(self) -> bool:
        """Whether seqio need not shuffle the examples."""
        return True

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Whether there may be more hosts than files."""
        return True

    def num_input_examples(self, split: str) -> None:
        """Returns None, not known: seqio would cache under 10,000 examples in their first order."""

    def get_dataset(
        self,
        split: str | None = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """Returns a dataset of {feature: [] tensor}; repeated, its order differs by epoch."""
        config = tfds.ReadConfig(try_autocache=False, skip_prefetch=True)
        examples = self.tfds_dataset.builder.as_dataset(split=split, read_config=config)
        if shard_info:
            examples = examples.shard(shard_info.num_shards, shard_info.index)
        kept = examples.map(lambda example: {name: example[name] for name in self._features})
        if shuffle:
            kept = kept.shuffle(sources.SHUFFLE_BUFFER, seed=seed)
        return sources.with_exact_positions(kept)


def add_task(
    task: str,
    data_dir: str | os.PathLike[str],
    vocabulary_path: str | os.PathLike[str],
    version: str = "2.0.0",
) -> str:
    """Registers a task once and returns its name.

    Args:
      task: A key of `TASKS`.
      data_dir: Where TFDS keeps its data sets: it holds `glue/<task>/<version>`.
      vocabulary_path: A SentencePiece model or the output of `parti vocab`: the encoder's.
      version: That of TFDS's `glue`.

    Raises:
      FileNotFoundError: no such data set, or no vocabulary.
      ValueError: no such task, or the data set has other features.
    """
    if task not in TASKS:
        raise ValueError(f"No GLUE task {task!r}; choose one of {', '.join(TASKS)}.")
    names = TASKS[task].sentences
    source = _open(task, os.fspath(data_dir), version, (*names, LABEL))
    fingerprint = vocabularies.TextTokenizer(vocabulary_path).fingerprint
    vocabulary = vocabularies.seqio_text_vocabulary(vocabulary_path)
    key = [task, os.fspath(data_dir), version, os.fspath(vocabulary_path), fingerprint]
    digest = hashlib.sha256(json.dumps(key).encode("utf-8")).hexdigest()[:12]
    name = f"parti_glue_{task}_{digest}"
    if name not in seqio.TaskRegistry.names():
        classes = seqio.PassThroughVocabulary(NUM_CLASSES)
        seqio.TaskRegistry.add(
            name,
            source=source,
            preprocessors=[preprocessors.in_chunks(join_sentences(*names), label_to_targets)],
            output_features={
                preprocessors.INPUTS: preprocessors.text_feature(vocabulary),
                preprocessors.TARGETS: seqio.Feature(classes, add_eos=False, dtype=tf.int32),
            },
            shuffle_buffer_size=None,  # the source shuffles
            metric_objs=list(TASKS[task].metrics),
        )
    return name


def join_sentences(*names: str) -> preprocessors.Step:
    """Returns the step that makes `inputs` of one or two features [N] string.

    An EOS follows each sentence. What is too long loses its end, of two sentences the longer one
    first, as in BERT's `run_classifier.py`. With ids [5, 6, 7] and [8, 9] the `inputs` of length 8
    are [5, 6, 7, 1, 8, 9, 1, 0], those of length 6 [5, 6, 1, 8, 9, 1].
    """

    def join(
        features: preprocessors.Features, context: preprocessors.Context
    ) -> preprocessors.Features:
        vocabulary = context.output_features[preprocessors.INPUTS].vocabulary
        length = context.sequence_length.get(preprocessors.INPUTS)
        rows = [tf.cast(vocabulary.encode_tf(features[name]), tf.int32) for name in names]
        if length is not None:
            rows = _cut(rows, length - len(rows))
        ends = tf.fill([rows[0].nrows(), 1], vocabulary.eos_id)
        inputs = tf.concat([part for row in rows for part in (row, ends)], axis=1)
        if length is not None:
            inputs = inputs.to_tensor(shape=[None, length])
        return {LABEL: features[LABEL], preprocessors.INPUTS: inputs}

    return join


def _cut(rows: list[tf.RaggedTensor], room: int) -> list[tf.RaggedTensor]:
    """Cuts one or two [N, (length)] so that they have at most `room` tokens together."""
    if len(rows) == 1:
        return [rows[0][:, :room]]
    first, second = rows
    half = tf.cast((room + 1) // 2, first.row_lengths().dtype)
    kept = tf.minimum(first.row_lengths(), tf.maximum(room - second.row_lengths(), half))
    others = tf.minimum(second.row_lengths(), room - kept)
    return [_first(first, kept), _first(second, others)]


def _first(rows: tf.RaggedTensor, counts: tf.Tensor) -> tf.RaggedTensor:
    """Returns the first `counts` [N] values of each row of [N, (length)]."""
    numbers = tf.ragged.range(rows.row_lengths())
    return tf.ragged.boolean_mask(rows, numbers < tf.cast(counts, numbers.dtype)[:, None])


def label_to_targets(
    features: preprocessors.Features, context: preprocessors.Context
) -> preprocessors.Features:
    """Turns `label` [N] into `targets` [N, 1]; a label of no class, as in `test`, stops the run."""
    preprocessors.check_length(preprocessors.TARGETS, 1, context.sequence_length)
    labels = tf.cast(features[LABEL], tf.int32)
    message = f"GLUE labels must be in [0, {NUM_CLASSES}): is this a split without labels?"
    in_range = (labels >= 0) & (labels < NUM_CLASSES)
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(in_range), [message, labels])]):
        targets = tf.identity(labels)[:, None]
    return {
        preprocessors.INPUTS: features[preprocessors.INPUTS],
        preprocessors.TARGETS: targets,
    }


def _open(task: str, data_dir: str, version: str, features: Sequence[str]) -> GlueSource:
    """Returns the source; raises unless it is there with these features."""
    name = f"glue/{task}"
    base = files.absolute(data_dir)
    folder = files.join(base, *name.split("/"), version)
    if not files.exists(files.join(folder, "dataset_info.json")):
        raise FileNotFoundError(
            f"No data set of TFDS in {folder!r}: make it with `tfds build {name}:{version} "
            f"--data_dir {base}`, or set GLUE_DIR to the data_dir of TFDS that holds {name}"
        )
    source = GlueSource(f"{name}:{version}", base, features)
    info = source.tfds_dataset.info
    missing = [x for x in features if x not in info.features] + [
        x for x in source.splits if x not in info.splits
    ]
    if missing:
        raise ValueError(
            f"{folder!r} has no {missing[0]!r}: it is no {name} as TFDS prepares it; make it anew "
            f"with `tfds build {name}:{version} --data_dir DIRECTORY`"
        )
    return source
