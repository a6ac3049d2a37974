# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""GLUE's tasks of two classes, prepared by TFDS: what a text encoder is fine-tuned on.

Features: `inputs`, [length] int32, the ids of the one or two sentences with an EOS after each,
padded with 0; `targets`, [1] int32, the class. Batches: `TextClassConverter`.

Source: GLUE (arXiv 1804.07461); the six tasks of Parti's (arXiv 2206.10789) appendix G.
"""

import dataclasses
import os
from collections.abc import Sequence

import seqio
import tensorflow as tf

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


def add_task(
    task: str,
    data_dir: str | os.PathLike[str],
    vocabulary_path: str | os.PathLike[str],
    version: str = "2.0.0",
) -> str:
    """Registers a task once and returns its name.

    Args:
      task: A key of `TASKS`.
      data_dir: Where TFDS keeps its data sets: it holds `glue/<task>/<version>`. Nothing is
        downloaded.
      vocabulary_path: A SentencePiece model or the output of `parti vocab`: the encoder's.
      version: That of TFDS's `glue`.

    Raises:
      FileNotFoundError: no such data set, or no vocabulary.
      ValueError: no such task, or the data set has other features or splits, or another format.
    """
    if task not in TASKS:
        raise ValueError(f"No GLUE task {task!r}; choose one of {', '.join(TASKS)}.")
    names = TASKS[task].sentences
    shards = _shards(task, data_dir, version, names)
    fingerprint = vocabularies.TextTokenizer(vocabulary_path).fingerprint
    vocabulary = vocabularies.seqio_text_vocabulary(vocabulary_path)
    arguments = {"task": task, "vocabulary": [os.fspath(vocabulary_path), fingerprint]}
    steps = preprocessors.in_chunks(_parse(names), join_sentences(*names), label_to_targets)
    classes = seqio.PassThroughVocabulary(NUM_CLASSES)
    features = {
        preprocessors.INPUTS: preprocessors.text_feature(vocabulary),
        preprocessors.TARGETS: seqio.Feature(classes, add_eos=False, dtype=tf.int32),
    }
    kind, measures = f"glue_{task}", TASKS[task].metrics
    return sources.register(
        kind, shards, arguments, [steps], features, measures, has_captions=False
    )


def _shards(
    task: str, data_dir: str | os.PathLike[str], version: str, sentences: Sequence[str]
) -> dict[str, list[str]]:
    """Returns the files of each split of a prepared data set; raises as `add_task`."""
    name, base = f"glue/{task}:{version}", files.absolute(data_dir)
    remedy = f"make it with `tfds build {name} --data_dir {base}`"
    absent = (
        f"{base!r} holds no data set {name} of TFDS: {remedy}, or set GLUE_DIR to the data_dir "
        "where it is"
    )
    info, shards = sources.find_tfds(name, base, absent)
    missing = [x for x in (*sentences, LABEL) if x not in info.features]
    missing += [x for x in records.SPLITS if x not in shards]
    if missing:
        raise ValueError(f"{name} in {base!r} has no {missing[0]!r}, as TFDS's has: {remedy}")
    return shards


def _parse(sentences: Sequence[str]) -> preprocessors.Step:
    """Returns the step that reads the sentences, [N] string, and `label`, [N] int64."""
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in sentences}
    spec[LABEL] = tf.io.FixedLenFeature([], tf.int64)

    def parse(
        features: preprocessors.Features, context: preprocessors.Context
    ) -> preprocessors.Features:
        del context
        return tf.io.parse_example(features[sources.EXAMPLE], spec)

    return parse


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
    if (length := context.sequence_length.get(preprocessors.TARGETS, 1)) != 1:
        raise ValueError(
            f"TASK_FEATURE_LENGTHS['targets'] is {length}; a text has 1 class: set it to 1"
        )
    labels = tf.cast(features[LABEL], tf.int32)
    message = f"GLUE labels must be in [0, {NUM_CLASSES}): is this a split without labels?"
    in_range = (labels >= 0) & (labels < NUM_CLASSES)
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(in_range), [message, labels])]):
        targets = tf.identity(labels)[:, None]
    return {
        preprocessors.INPUTS: features[preprocessors.INPUTS],
        preprocessors.TARGETS: targets,
    }
