# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Packing by hand, masking by its shares."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from parti.data.text import vocabularies
from parti.tasks import masking, preprocessors
from tests.tasks import conftest

MASK = 3


class Numbers(seqio.PassThroughVocabulary):
    """Texts of numbers: '11 12' is [11, 12]."""

    def __init__(self) -> None:
        super().__init__(100, eos_id=1)

    def _encode_tf(self, s: tf.Tensor) -> tf.RaggedTensor:
        return tf.strings.to_number(tf.strings.split(s), tf.int32)


def context(length: int, seed: int = 0) -> preprocessors.Context:
    features = {masking.TARGET_TOKENS: seqio.Feature(Numbers(), add_eos=False)}
    lengths = masking.feature_lengths(length)
    return preprocessors.Context(tf.constant([seed, 0]), lengths, features)


def pack(texts: list[str], length: int) -> dict[str, np.ndarray]:
    packed = masking.pack_texts({"text": tf.constant(texts, tf.string)}, context(length))
    return {name: value.numpy() for name, value in packed.items()}


def test_packing_by_hand() -> None:
    """A text of five ids is cut in two; an empty one is left out; what does not fit waits."""
    packed = pack(["11 12", "21 22", "", "31 32 33 34 35 36", "41"], 6)
    np.testing.assert_array_equal(
        packed[masking.TARGET_TOKENS],
        [[11, 12, 1, 21, 22, 1], [31, 32, 33, 34, 35, 1], [36, 1, 41, 1, 0, 0]],
    )
    np.testing.assert_array_equal(
        packed[masking.SEGMENT_IDS], [[1, 1, 1, 2, 2, 2], [1] * 6, [1, 1, 2, 2, 0, 0]]
    )
    np.testing.assert_array_equal(
        packed[masking.POSITIONS], [[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 0, 0]]
    )
    assert all(value.dtype == np.int32 for value in packed.values())


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_nothing_to_pack(texts: list[str]) -> None:
    assert {value.shape for value in pack(texts, 6).values()} == {(0, 6)}


def test_packing_keeps_every_token_once_and_in_order() -> None:
    rng = np.random.default_rng(0)
    texts = [rng.integers(4, 100, rng.integers(0, 30)).tolist() for _ in range(200)]
    packed = pack([" ".join(map(str, ids)) for ids in texts], 16)
    tokens, segments, positions = (
        packed[name] for name in (masking.TARGET_TOKENS, masking.SEGMENT_IDS, masking.POSITIONS)
    )
    seen = tokens[tokens > 1]
    np.testing.assert_array_equal(seen, np.concatenate(texts))
    # Plain next-fit: a sequence goes on until the next piece does not fit.
    pieces = [ids[i : i + 15] + [1] for ids in texts for i in range(0, len(ids), 15)]
    rows: list[list[list[int]]] = [[]]
    for piece in pieces:
        if sum(map(len, rows[-1])) + len(piece) > 16:
            rows.append([])
        rows[-1].append(piece)
    assert len(rows) == len(tokens)
    for row, got, segment, position in zip(rows, tokens, segments, positions, strict=True):
        size = sum(map(len, row))
        np.testing.assert_array_equal(got[:size], np.concatenate(row))
        owners = [number for number, piece in enumerate(row, 1) for _ in piece]
        np.testing.assert_array_equal(segment[:size], owners)
        np.testing.assert_array_equal(position[:size], [i for p in row for i in range(len(p))])
        assert not got[size:].any() and not segment[size:].any() and not position[size:].any()


def mask(rows: int, seed: int = 0, **options: object) -> dict[str, np.ndarray]:
    targets = np.tile([10, 11, 12, 13, 14, 15, 16, 1, 2, MASK, 0, 0], (rows, 5))
    positions = np.tile(np.arange(60), (rows, 1))
    features = {masking.TARGET_TOKENS: tf.constant(targets, tf.int32)}
    features[masking.POSITIONS] = tf.constant(positions, tf.int32)
    step = masking.mask_tokens(MASK, 400, **options)
    masked = step(features, context(60, seed))
    return {name: value.numpy() for name, value in masked.items()}


def test_shares_of_masked_tokens() -> None:
    """Of 105,000 tokens: 15% told; of these 80% masked, 10% another, 10% the same."""
    masked = mask(3_000)
    targets, inputs = masked[masking.TARGET_TOKENS], masked[masking.INPUT_TOKENS]
    is_told = masked[masking.LOSS_WEIGHTS] > 0
    assert set(np.unique(masked[masking.LOSS_WEIGHTS])) == {0.0, 1.0}
    assert not is_told[targets <= MASK].any(), "padding, EOS, the unknown piece and the mask itself"
    np.testing.assert_array_equal(inputs[~is_told], targets[~is_told])
    # Four standard deviations each.
    assert is_told[targets > MASK].mean() == pytest.approx(0.15, abs=0.0045)
    told = int(is_told.sum())
    error = 4 / np.sqrt(told)
    chosen, right = inputs[is_told], targets[is_told]
    assert (chosen == MASK).mean() == pytest.approx(0.8, abs=0.4 * error)
    # Of 396 ids one is the right one by chance.
    assert (chosen == right).mean() == pytest.approx(0.1, abs=0.3 * error)
    others = chosen[(chosen != MASK) & (chosen != right)]
    assert len(others) / told == pytest.approx(0.1, abs=0.3 * error)
    assert others.min() > MASK and others.max() < 400 and len(np.unique(others)) > 300


def test_masks_follow_the_seed() -> None:
    first, again, other = (mask(8, seed)[masking.INPUT_TOKENS] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    rare = mask(3_000, rate=0.05)
    is_word = rare[masking.TARGET_TOKENS] > MASK
    assert rare[masking.LOSS_WEIGHTS][is_word].mean() == pytest.approx(0.05, abs=0.003)


def test_whole_words() -> None:
    """Pieces 10 to 12 and 13 to 16 are words; each is told as a whole, or not at all."""
    starts = np.zeros(400, bool)
    starts[[0, 1, 2, 3, 10, 13]] = True
    masked = mask(3_000, word_starts=starts)
    is_told = masked[masking.LOSS_WEIGHTS].reshape(-1, 12) > 0
    for first, last in ((0, 3), (3, 7)):
        word = is_told[:, first:last]
        assert (word.all(1) == word.any(1)).all()
        assert word[:, 0].mean() == pytest.approx(0.15, abs=0.012)
    both = (is_told[:, 0] & is_told[:, 3]).mean()
    assert both == pytest.approx(0.15**2, abs=0.006), "words are drawn independently"
    kinds = masked[masking.INPUT_TOKENS].reshape(-1, 12)[is_told[:, 0], :3] == MASK
    assert (kinds.any(1) & ~kinds.all(1)).mean() > 0.2, "the mask is drawn for each token"
    tokens = mask(3_000)[masking.LOSS_WEIGHTS].reshape(-1, 12) > 0
    assert (tokens[:, :3].all(1) != tokens[:, :3].any(1)).any()


def test_a_packed_text_begins_a_word() -> None:
    starts = np.zeros(400, bool)
    features = {
        masking.TARGET_TOKENS: tf.fill([2_000, 4], 10),
        masking.POSITIONS: tf.tile([[0, 1, 0, 1]], [2_000, 1]),
    }
    masked = masking.mask_tokens(MASK, 400, 0.3, starts)(features, context(4))
    told = masked[masking.LOSS_WEIGHTS].numpy() > 0
    assert (told[:, 0] == told[:, 1]).all() and (told[:, 2] == told[:, 3]).all()
    assert (told[:, 0] != told[:, 2]).mean() == pytest.approx(0.42, abs=0.05)


def test_word_starts_of_a_vocabulary(stages: conftest.Stages) -> None:
    vocabulary = vocabularies.seqio_text_vocabulary(stages.vocabulary)
    starts = masking.word_starts(vocabulary)
    assert starts.shape == (vocabulary.vocab_size,)
    ids = vocabulary.encode("red blue 17")
    pieces = [vocabulary.tokenizer.id_to_piece(i) for i in ids]
    assert [starts[i] for i in ids] == [piece.startswith("\u2581") for piece in pieces]
    assert sum(starts[i] for i in ids) == 3 and starts[[0, 1]].all()


def test_mistakes_name_the_remedy() -> None:
    for rate in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=f"MASK_RATE is {rate}"):
            masking.mask_tokens(MASK, 400, rate)
    for lengths in ({}, {masking.TARGET_TOKENS: 4}, masking.feature_lengths(1)):
        given = context(4)
        wrong = preprocessors.Context(given.seed, lengths, given.output_features)
        with pytest.raises(ValueError, match="TASK_FEATURE_LENGTHS must have one length"):
            masking.sequence_length(wrong)
