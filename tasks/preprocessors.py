# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""seqio preprocessors of records: parse them, choose and tokenize captions, shift image tokens.

`in_chunks` makes one seqio preprocessor of several steps, which work on chunks of records: tf.data
takes longer to call a function than the steps take for one record. A step gets and returns features
whose first axis is the chunk's. Random steps draw from the chunk's seed: chunks are the same in
every run, so a run can be repeated exactly. They act in the train split only.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from parti.data.storage import records, row_order
from parti.data.text import vocabularies
from parti.tasks import sources

CHUNK = 64  # records
# Chunks worked on at a time: enough for any reader, and few enough for what is saved as a position.
PARALLEL_CHUNKS = 4

Features = dict[str, tf.Tensor]

# The features of captions and images.
INPUTS = "inputs"  # the caption's ids
TARGETS = "targets"  # the image tokens' ids


@dataclasses.dataclass(frozen=True)
class Context:
    """A chunk's context: a [2] int32 seed, another for each chunk and step, and seqio's settings.

    `sequence_length` is TASK_FEATURE_LENGTHS; empty if the features keep their lengths. `number` is
    the step's.
    """

    seed: tf.Tensor
    sequence_length: Mapping[str, int]
    output_features: Mapping[str, seqio.Feature]
    number: int = 0


Step = Callable[[Features, Context], Features]


def in_chunks(*steps: Step) -> Callable:
    """Returns the preprocessor that applies `steps`, in order, to chunks of CHUNK elements.

    It takes and gives single elements; a ragged feature has its own length in each. Records that
    come in chunks, as from `engine/input/row_source`, are left in these.
    """

    @seqio.map_over_dataset(num_seeds=1, num_parallel_calls=PARALLEL_CHUNKS)
    def apply(
        features: Features,
        seed: tf.Tensor,
        sequence_length: Mapping[str, int] | None = None,
        output_features: Mapping[str, seqio.Feature] | None = None,
    ) -> Features:
        features = dict(features)
        for number, step in enumerate(steps):
            own = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), number)
            settings = sequence_length or {}, output_features or {}
            features = step(features, Context(own, *settings, number))
        return features

    def preprocess(
        dataset: tf.data.Dataset,
        sequence_length: Mapping[str, int] | None = None,
        output_features: Mapping[str, seqio.Feature] | None = None,
    ) -> tf.data.Dataset:
        example = dataset.element_spec.get(sources.EXAMPLE)
        is_chunked = example is not None and example.shape.rank == 1
        chunks = apply(
            dataset if is_chunked else dataset.batch(CHUNK),
            sequence_length=sequence_length,
            output_features=output_features,
        )
        elements = chunks.unbatch()
        if any(isinstance(spec, tf.RaggedTensorSpec) for spec in elements.element_spec.values()):
            # Rows of ragged tensors are plain tensors, but only `map` says so in the spec.
            elements = elements.map(dict, num_parallel_calls=tf.data.AUTOTUNE)
        return elements

    return preprocess


def text_feature(vocabulary: seqio.Vocabulary) -> seqio.Feature:
    """Returns the seqio feature of a caption: [length] int32, an EOS at the end."""
    return seqio.Feature(vocabulary, add_eos=True, dtype=tf.int32)


def parse_records(record: type[records.Record], *names: str) -> Step:
    """Returns the step that reads `names` out of serialized records.

    A record with metadata also gives `captions`, where `text` is asked for. Arrays are ragged.
    """
    schema = record.feature_spec()
    if records.TEXT in names and records.CAPTIONS in schema:
        names = (*names, records.CAPTIONS)
    spec = {name: schema[name] for name in names}

    def parse(features: Features, context: Context) -> Features:
        del context
        parsed = tf.io.parse_example(features[sources.EXAMPLE], spec)
        kept = {sources.IS_TRAINING, sources.SEED} & features.keys()
        return parsed | {name: features[name] for name in kept}

    return parse


def uniform(features: Features, context: Context) -> tf.Tensor:
    """Returns a random number in [0, 1) for each `text` of a chunk, [N] float32.

    It comes from the example's own seed, so that it is the same in whatever chunk; without one,
    from the chunk's.
    """
    if sources.SEED not in features:
        return tf.random.stateless_uniform(tf.shape(features[records.TEXT]), context.seed)
    bits = tf.bitcast(features[sources.SEED], tf.uint64)
    step = tf.constant(row_order.mix(context.number)[0], tf.uint64)
    bits = tf.bitwise.bitwise_xor(bits, step)
    for shift, factor in row_order.MIXING:
        shifted = tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint64))
        bits = tf.bitwise.bitwise_xor(bits, shifted) * tf.constant(factor, tf.uint64)
    top = tf.bitwise.right_shift(bits, tf.constant(40, tf.uint64))
    return tf.cast(top, tf.float32) * 2.0**-24


def choose_caption(weights: Sequence[float] | None = None) -> Step:
    """Returns the step that in training replaces `text` by one of `text` and `captions`.

    The features have [N] string `text` and, if there are more captions, [N, (count)] string
    `captions`, which are dropped.

    Args:
      weights: how likely a caption is, by its place, next to the others of its pair: `text` first,
        the last weight for all that follow. (1, 3) takes the first of two captions in a quarter
        of the cases. Of a pair whose captions all weigh 0 it is the first. None: each as likely.

    Raises:
      ValueError: a weight below 0, or none above it.
    """
    _check_weights(weights)

    def choose(features: Features, context: Context) -> Features:
        captions = features.pop(records.CAPTIONS, None)
        if captions is None:
            return features
        text = features[records.TEXT]
        every = tf.concat([text[:, None], captions], axis=1)
        counts = tf.cast(every.row_lengths(), tf.int32)
        shares = uniform(features, context)
        if weights is None:
            drawn = tf.cast(shares * tf.cast(counts, tf.float32), tf.int32)
        else:
            drawn = _weighted(shares, counts, tf.constant(weights, tf.float32))
        drawn = tf.where(features[sources.IS_TRAINING], tf.minimum(drawn, counts - 1), 0)
        rows = tf.cast(every.row_starts(), tf.int32)
        return features | {records.TEXT: tf.gather(every.flat_values, rows + drawn)}

    return choose


def caption_arguments(weights: Sequence[float] | None) -> dict[str, list[float]]:
    """Returns what `weights` add to a task's arguments: by default nothing."""
    return {} if weights is None else {"caption_weights": [float(w) for w in weights]}


def _check_weights(weights: Any) -> None:
    if weights is None:
        return
    is_list = isinstance(weights, Sequence) and not isinstance(weights, str)
    numbers = [w for w in weights if isinstance(w, int | float) and w >= 0] if is_list else []
    if not is_list or len(numbers) < len(weights) or not any(numbers):
        raise ValueError(
            f"CAPTION_WEIGHTS is {weights!r}; it must be None or numbers of 0 or more, one for a "
            "pair's first caption and so on, such as (1, 3)"
        )


def _weighted(shares: tf.Tensor, counts: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns indices [N] int32, drawn by weight.

    `shares` are [N] in [0, 1), `counts` [N] how many there are to draw from, `weights` those of the
    first ones.
    """
    more = tf.maximum(tf.reduce_max(counts) - tf.size(weights), 0)
    ends = tf.cumsum(tf.concat([weights, tf.fill([more], weights[-1])], axis=0))
    totals = tf.gather(ends, counts - 1)
    drawn = tf.searchsorted(ends, shares * totals, side="right")
    return tf.where(totals > 0, drawn, 0)


def drop_caption(rate: float) -> Step:
    """Returns the step that empties `text` in training with probability `rate`, in [0, 1].

    The empty caption is the null caption of classifier-free guidance.
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"text_drop_rate={rate}: it is a probability, so in [0, 1].")

    def drop(features: Features, context: Context) -> Features:
        text = features[records.TEXT]
        is_dropped = uniform(features, context) < rate
        is_dropped = is_dropped & features[sources.IS_TRAINING]
        return features | {records.TEXT: tf.where(is_dropped, "", text)}

    return drop


def tokenize_caption(features: Features, context: Context) -> Features:
    """Turns `text` into `inputs`: ids cut to the length less one, an EOS, and padding with 0.

    With ids [7, 8, 9] and length 3 the `inputs` are [7, 8, 1], with length 5 [7, 8, 9, 1, 0]; an
    empty text gives [1, 0, 0]. Without a length in TASK_FEATURE_LENGTHS nothing is cut or padded.
    """
    vocabulary = context.output_features[INPUTS].vocabulary
    length = context.sequence_length.get(INPUTS)
    ids = tf.cast(vocabulary.encode_tf(features.pop(records.TEXT)), tf.int32)
    if length is not None:
        ids = ids[:, : length - 1]
    ends = tf.fill([ids.nrows(), 1], vocabulary.eos_id)
    inputs = tf.concat([ids, ends], axis=1)
    return features | {INPUTS: inputs if length is None else inputs.to_tensor(shape=[None, length])}


def image_tokens_to_targets(codebook_size: int, num_tokens: int, folder: str) -> Step:
    """Returns the step that turns `image_tokens` into `targets`: index c becomes id c + 1.

    An index outside [0, codebook_size) stops the run, as does an image of other than `num_tokens`;
    TASK_FEATURE_LENGTHS must say the same. `folder` is what the messages name.
    """
    vocabulary = vocabularies.ImageTokenVocabulary(codebook_size)

    def to_targets(features: Features, context: Context) -> Features:
        remedy = (
            f"{folder} was made by an image tokenizer of {num_tokens} tokens an image: set "
            f"GRID_SIZE to {math.isqrt(num_tokens)}, or give tokens of another tokenizer"
        )
        check_length(TARGETS, num_tokens, context.sequence_length, remedy)
        tokens = features.pop(records.IMAGE_TOKENS)
        message = (
            f"{folder}: image tokens must be {num_tokens} indices in [0, {codebook_size}): were "
            "these made by another image tokenizer?"
        )
        length, size = tf.constant(num_tokens, tf.int64), tf.constant(codebook_size, tf.int64)
        checks = [
            tf.debugging.assert_equal(tokens.row_lengths(), length, message),
            tf.debugging.assert_less(tokens.flat_values, size, message),
            tf.debugging.assert_non_negative(tokens.flat_values, message),
        ]
        with tf.control_dependencies(checks):
            targets = vocabulary.to_ids(tf.cast(tokens.flat_values, tf.int32))
        return features | {TARGETS: tf.reshape(targets, [-1, num_tokens])}

    return to_targets


def keep_features(*names: str) -> Step:
    """Returns the step that drops every feature except `names`."""

    def keep(features: Features, context: Context) -> Features:
        del context
        return {name: features[name] for name in names}

    return keep


def check_length(
    name: str, length: int, sequence_length: Mapping[str, int] | None, remedy: str
) -> None:
    """Raises ValueError for another length in TASK_FEATURE_LENGTHS; seqio would cut it silently."""
    if sequence_length and sequence_length.get(name, length) != length:
        raise ValueError(
            f"TASK_FEATURE_LENGTHS[{name!r}] is {sequence_length[name]}, but the task has "
            f"{length}. {remedy}"
        )
