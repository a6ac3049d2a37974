# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""BERT's objective: texts cut and packed into sequences, and some of their tokens masked.

The steps work on chunks (see `preprocessors.in_chunks`) and draw from the chunk's seed, so a run
can be repeated exactly. Example, with a length of 6 and texts of 2, 2 and 4 ids:

    pack_texts     bert_target_tokens   [11, 12, 1, 21, 22, 1]   [31, 32, 33, 34, 1, 0]
                   bert_segment_ids     [ 1,  1, 1,  2,  2, 2]   [ 1,  1,  1,  1, 1, 0]
                   bert_positions       [ 0,  1, 2,  0,  1, 2]   [ 0,  1,  2,  3, 4, 0]
    mask_tokens    bert_input_tokens    [11,  3, 1, 21, 22, 1]   [31, 32, 47, 34, 1, 0]
                   bert_loss_weights    [ 0,  1, 0,  0,  0, 0]   [ 0,  0,  1,  0, 0, 0]

Source: BERT (arXiv 1810.04805) section 3.1; whole words, its reference implementation's README.
"""

import numpy as np
import seqio
import tensorflow as tf

from parti.data.storage import records
from parti.tasks.preprocessors import Context, Features, Step

# The features of a task, and of a batch.
INPUT_TOKENS = "bert_input_tokens"  # some masked
TARGET_TOKENS = "bert_target_tokens"  # as they were
LOSS_WEIGHTS = "bert_loss_weights"  # 1 where a token is to be told
SEGMENT_IDS = "bert_segment_ids"  # 1, 2, ... for the texts of a sequence, 0 for padding
POSITIONS = "bert_positions"  # in the text, from 0
FEATURES = (INPUT_TOKENS, TARGET_TOKENS, LOSS_WEIGHTS, SEGMENT_IDS, POSITIONS)

# Of the tokens to be told, the shares that the mask, and that another token, stands for.
_MASKED, _REPLACED = 0.8, 0.1
_WORD_START = "\u2581"  # SentencePiece's mark


def pack_texts(features: Features, context: Context) -> Features:
    """Turns `text`, [texts] string, into packed sequences, [sequences, length] int32 each.

    A text longer than the length is cut into pieces. Each piece gets an EOS; as many as fit follow
    each other in a sequence, in order. Texts without a token are left out.

    Raises:
      ValueError: the length of a feature is not in TASK_FEATURE_LENGTHS, or they differ.
    """
    length = sequence_length(context)
    vocabulary = context.output_features[TARGET_TOKENS].vocabulary
    ids = tf.cast(vocabulary.encode_tf(features[records.TEXT]), tf.int32)
    pieces = _with_ends(_cut(ids, length - 1), vocabulary.eos_id)
    sizes = tf.cast(pieces.row_lengths(), tf.int32)
    starts = _first_pieces(sizes, length)
    rows = tf.RaggedTensor.from_row_starts(pieces, starts)
    numbers = tf.ragged.range(rows.row_lengths()).flat_values + 1  # of a piece in its sequence

    def dense(flat: tf.Tensor) -> tf.Tensor:
        ragged = rows.with_flat_values(tf.cast(flat, tf.int32))
        return ragged.merge_dims(1, 2).to_tensor(shape=[None, length])

    return {
        TARGET_TOKENS: dense(pieces.flat_values),
        SEGMENT_IDS: dense(tf.repeat(numbers, sizes)),
        POSITIONS: dense(tf.ragged.range(sizes).flat_values),
    }


def sequence_length(context: Context) -> int:
    """Returns the length of all features of BERT; raises as `pack_texts`."""
    found = {context.sequence_length.get(name, 0) for name in FEATURES}
    if len(found) > 1 or min(found) < 2:
        raise ValueError(
            f"TASK_FEATURE_LENGTHS must have one length of at least 2 for each of "
            f"{', '.join(FEATURES)}; got {dict(context.sequence_length)}"
        )
    return found.pop()


def _cut(ids: tf.RaggedTensor, size: int) -> tf.RaggedTensor:
    """Cuts texts [texts, (ids)] into pieces of at most `size` ids, in order."""
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    numbers = tf.ragged.range((lengths + size - 1) // size)
    sizes = tf.minimum(size, tf.expand_dims(lengths, 1) - numbers * size).flat_values
    return tf.RaggedTensor.from_row_lengths(ids.flat_values, sizes)


def _with_ends(pieces: tf.RaggedTensor, eos_id: int) -> tf.RaggedTensor:
    return tf.concat([pieces, tf.fill([pieces.nrows(), 1], eos_id)], axis=1)


def _first_pieces(sizes: tf.Tensor, length: int) -> tf.Tensor:
    """Returns the number of the first piece of each sequence, [sequences] int32.

    A sequence takes pieces until the next does not fit.
    """
    count = tf.size(sizes)
    ends = tf.cumsum(sizes)
    # Where the sequence after one that begins with a piece would begin.
    following = tf.searchsorted(ends, ends - sizes + length, side="right")

    def take(piece: tf.Tensor, found: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        return following[piece], found.write(found.size(), piece)

    found = tf.TensorArray(tf.int32, size=0, dynamic_size=True, element_shape=[])
    _, found = tf.while_loop(lambda piece, _: piece < count, take, [tf.constant(0), found])
    return found.stack()


def mask_tokens(
    mask_id: int, vocab_size: int, rate: float = 0.15, word_starts: np.ndarray | None = None
) -> Step:
    """Returns the step that masks packed sequences: it adds the inputs and the loss's weights.

    Each token with an id over `mask_id` (so neither padding nor the end of a text) is to be told
    with probability `rate`; of those 80% become the mask, 10% any id over the mask's, 10% stay.

    Args:
      word_starts: [vocab_size] bool, which pieces begin a word; then words are to be told as a
        whole, each with probability `rate`. None is tokens.

    Raises:
      ValueError: the rate is not in (0, 1).
    """
    if not 0 < rate < 1:
        raise ValueError(f"MASK_RATE is {rate}; it must be more than 0 and less than 1")

    def mask(features: Features, context: Context) -> Features:
        targets = features[TARGET_TOKENS]
        shape = tf.shape(targets)
        seeds = tf.random.experimental.stateless_split(context.seed, 3)
        shares = tf.random.stateless_uniform(shape, seeds[0])
        if word_starts is not None:
            shares = tf.gather(shares, _words(targets, features, word_starts), batch_dims=1)
        is_told = (shares < rate) & (targets > mask_id)
        kinds = tf.random.stateless_uniform(shape, seeds[1])
        others = tf.random.stateless_uniform(shape, seeds[2], mask_id + 1, vocab_size, tf.int32)
        changed = tf.where(kinds < _MASKED + _REPLACED, others, targets)
        changed = tf.where(kinds < _MASKED, mask_id, changed)
        return features | {
            INPUT_TOKENS: tf.where(is_told, changed, targets),
            LOSS_WEIGHTS: tf.cast(is_told, tf.float32),
        }

    return mask


def _words(targets: tf.Tensor, features: Features, word_starts: np.ndarray) -> tf.Tensor:
    """Returns the position at which the word of each token begins or, of words, their number."""
    starts = tf.gather(tf.constant(word_starts), targets) | (features[POSITIONS] == 0)
    return tf.maximum(tf.cumsum(tf.cast(starts, tf.int32), axis=1) - 1, 0)


def word_starts(vocabulary: seqio.SentencePieceVocabulary) -> np.ndarray:
    """Returns which pieces begin a word, [vocab_size] bool: those with SentencePiece's mark.

    So do padding, EOS and the like: the next token is of another word.
    """
    model = vocabulary.tokenizer
    return np.array(
        [
            model.id_to_piece(i).startswith(_WORD_START) or model.is_control(i)
            for i in range(vocabulary.vocab_size)
        ]
    )


def feature_lengths(length: int) -> dict[str, int]:
    """Returns the length of each feature, for TASK_FEATURE_LENGTHS."""
    return dict.fromkeys(FEATURES, length)


def output_features(vocabulary: seqio.Vocabulary) -> dict[str, seqio.Feature]:
    """Returns the features of a task of masked texts."""
    plain = seqio.PassThroughVocabulary(1)
    tokens = seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32)
    numbers = seqio.Feature(plain, add_eos=False, dtype=tf.int32)
    weights = seqio.Feature(plain, add_eos=False, dtype=tf.float32)
    kinds = (tokens, tokens, weights, numbers, numbers)
    return dict(zip(FEATURES, kinds, strict=True))
