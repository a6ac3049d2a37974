# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import seqio
import tensorflow as tf

from parti.data.storage import records
from parti.data.text import vocabularies
from parti.tasks import preprocessors, sources
from tests.tasks import conftest


def captions(is_training: bool, count: int = 400) -> tf.data.Dataset:
    """Returns pairs with captions a; a and b; a, b and c; in turn, `count` of each."""
    pairs = [
        records.TokenizedPair("k", "a", np.zeros(1, np.int64), {records.CAPTIONS: list(more)})
        for more in ("", "b", "bc")
    ]
    element = {
        sources.EXAMPLE: tf.constant([pair.to_example() for pair in pairs]),
        sources.IS_TRAINING: tf.constant([is_training] * 3),
    }
    return tf.data.Dataset.from_tensor_slices(element).repeat(count)


def texts(dataset: tf.data.Dataset, *steps: preprocessors.Step, seed: int = 3) -> list[str]:
    """Returns the captions after `steps`."""
    parse = preprocessors.parse_records(records.TokenizedPair, records.TEXT)
    with seqio.map_seed_manager(seed):
        dataset = preprocessors.in_chunks(parse, *steps)(dataset)
    return [x[records.TEXT].decode() for x in dataset.as_numpy_iterator()]


def test_captions_are_chosen_evenly_in_training_only() -> None:
    choose = preprocessors.choose_caption()
    found = texts(captions(True), choose)
    assert len(found) == 1200 and set(found[::3]) == {"a"}
    assert set(found[1::3]) == {"a", "b"} and 160 < found[1::3].count("a") < 240  # 200 +- 10
    counts = [found[2::3].count(c) for c in "abc"]
    assert sum(counts) == 400 and min(counts) > 100  # 133 +- 9.4 each
    assert texts(captions(True), choose) == found
    assert texts(captions(True), choose, seed=4) != found
    assert set(texts(captions(False), choose)) == {"a"}
    # Chunks differ from one another.
    of_chunk = preprocessors.CHUNK * 3
    assert found[:of_chunk] != found[of_chunk : 2 * of_chunk]


def test_captions_are_chosen_by_weight() -> None:
    def shares(weights: tuple[float, ...], of: int) -> list[int]:
        found = texts(captions(True), preprocessors.choose_caption(weights))[of::3]
        return [found.count(c) for c in "abc"]

    # The last weight is also that of the third caption. 400 draws.
    assert shares((1, 3), 0) == [400, 0, 0]
    first, second, third = shares((1, 3), 1)
    assert third == 0 and 74 < first < 126 and first + second == 400  # 100 +- 8.7
    first, second, third = shares((1, 3), 2)
    assert 36 < first < 78 and min(second, third) > 140  # 57 +- 7; 171 +- 9.9
    # Weights past a pair's captions have no part in it.
    first, second, third = shares((1, 1, 6), 1)
    assert third == 0 and 160 < first < 240
    assert shares((0, 1), 0) == [400, 0, 0], "all of its captions weigh nothing: the first"
    assert shares((0, 1), 1) == [0, 400, 0]
    assert shares((1, 0), 2) == [400, 0, 0]
    assert set(texts(captions(False), preprocessors.choose_caption((0, 1)))) == {"a"}
    for weights in ((), (0, 0), (1, -1), "12", 3, ("1",)):
        with pytest.raises(ValueError, match="CAPTION_WEIGHTS is .* such as .1, 3."):
            preprocessors.choose_caption(weights)


def test_captions_are_dropped_in_training_only() -> None:
    drop = preprocessors.drop_caption
    found = texts(captions(True), drop(0.25))
    assert set(found) == {"", "a"} and 240 < found.count("") < 360  # 300 +- 15
    assert set(texts(captions(False), drop(0.25))) == {"a"}
    assert set(texts(captions(True), drop(0.0))) == {"a"}
    assert set(texts(captions(True), drop(1.0))) == {""}
    with pytest.raises(ValueError, match="text_drop_rate=1.5"):
        drop(1.5)


def test_steps_draw_independently() -> None:
    """What a step drops says nothing about what the next one drops."""
    drop = preprocessors.drop_caption(0.5)

    def mark(features: preprocessors.Features, context: object) -> preprocessors.Features:
        lost = features[records.TEXT] == ""
        return features | {"first": lost, records.TEXT: tf.fill(tf.shape(lost), "a")}

    parse = preprocessors.parse_records(records.TokenizedPair, records.TEXT)
    with seqio.map_seed_manager(3):
        dataset = preprocessors.in_chunks(parse, drop, mark, drop)(captions(True))
    pairs = [(x["first"], x[records.TEXT] == b"") for x in dataset.as_numpy_iterator()]
    for kind in [(a, b) for a in (False, True) for b in (False, True)]:
        assert 240 < pairs.count(kind) < 360  # 300 +- 15


def tokenize(stages: conftest.Stages, texts: list[str], length: int | None) -> list[np.ndarray]:
    vocabulary = vocabularies.seqio_text_vocabulary(stages.vocabulary)
    dataset = tf.data.Dataset.from_tensor_slices({records.TEXT: texts})
    tokenized = preprocessors.in_chunks(preprocessors.tokenize_caption)(
        dataset,
        output_features={preprocessors.INPUTS: preprocessors.text_feature(vocabulary)},
        sequence_length=None if length is None else {preprocessors.INPUTS: length},
    )
    spec = tokenized.element_spec[preprocessors.INPUTS]
    assert spec == tf.TensorSpec([length], tf.int32)
    return [x[preprocessors.INPUTS] for x in tokenized.as_numpy_iterator()]


TEXTS = ["red 1", "", "red 1 blue 2 red 3 and more"]


@pytest.mark.parametrize("length", [1, 4, 32])
def test_ids_are_those_of_the_tokenizer(stages: conftest.Stages, length: int) -> None:
    tokenizer = vocabularies.TextTokenizer(stages.vocabulary)
    expected = [tokenizer.encode(text, length) for text in TEXTS]
    np.testing.assert_array_equal(tokenize(stages, TEXTS, length), expected)


def test_without_a_length_ids_are_whole(stages: conftest.Stages) -> None:
    tokenizer = vocabularies.TextTokenizer(stages.vocabulary)
    for text, ids in zip(TEXTS, tokenize(stages, TEXTS, None), strict=True):
        assert ids[-1] == vocabularies.EOS_ID
        np.testing.assert_array_equal(ids, tokenizer.encode(text, len(ids)))
        np.testing.assert_array_equal(
            tokenizer.encode(text, len(ids) + 1), [*ids, vocabularies.PAD_ID]
        )


def test_codebook_indices_become_ids() -> None:
    def targets(*rows: list[int]) -> list[list[int]]:
        pairs = [records.TokenizedPair("k", "", np.array(row)).to_example() for row in rows]
        dataset = tf.data.Dataset.from_tensor_slices(
            {sources.EXAMPLE: pairs, sources.IS_TRAINING: [True] * len(pairs)}
        )
        dataset = preprocessors.in_chunks(
            preprocessors.parse_records(records.TokenizedPair, records.IMAGE_TOKENS),
            preprocessors.image_tokens_to_targets(10, 3, "tokens"),
        )(dataset)
        assert dataset.element_spec[preprocessors.TARGETS] == tf.TensorSpec([3], tf.int32)
        return [x[preprocessors.TARGETS].tolist() for x in dataset.as_numpy_iterator()]

    assert targets([0, 9, 4], [1, 1, 1]) == [[1, 10, 5], [2, 2, 2]]
    for wrong in ([0, 10, 4], [0, 1], [0, 1, 2, 3]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="another image tokenizer"):
            targets([0, 9, 4], wrong)
    # Records of ours have none: a negative index would be padding, or a row from the table's end.
    negative = {records.IMAGE_TOKENS: tf.ragged.constant([[0, -1, 4]], dtype=tf.int64)}
    context = preprocessors.Context(tf.zeros(2, tf.int32), {}, {})
    with pytest.raises(tf.errors.InvalidArgumentError, match="another image tokenizer"):
        preprocessors.image_tokens_to_targets(10, 3, "tokens")(negative, context)
