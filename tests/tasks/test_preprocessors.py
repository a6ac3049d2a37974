# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import seqio
import tensorflow as tf

from parti.data import images, records, vocabularies
from parti.tasks import preprocessors, sources
from tests.tasks import conftest


def captions(is_training: bool, count: int = 400) -> tf.data.Dataset:
    """Returns the same captioned element `count` times."""
    element = {
        records.TEXT: tf.constant("a"),
        records.CAPTIONS: tf.constant(["b", "c"]),
        sources.IS_TRAINING: tf.constant(is_training),
    }
    return tf.data.Dataset.from_tensors(element).repeat(count)


def texts(dataset: tf.data.Dataset) -> list[str]:
    return [x[records.TEXT].decode() for x in dataset.as_numpy_iterator()]


def test_captions_are_chosen_evenly_in_training_only() -> None:
    with seqio.map_seed_manager(3):
        found = texts(preprocessors.choose_caption(captions(True)))
    counts = [found.count(c) for c in "abc"]
    assert sum(counts) == 400 and min(counts) > 100  # 133 +- 9.4 each
    with seqio.map_seed_manager(3):
        assert texts(preprocessors.choose_caption(captions(True))) == found
    with seqio.map_seed_manager(4):
        assert texts(preprocessors.choose_caption(captions(True))) != found
    assert set(texts(preprocessors.choose_caption(captions(False)))) == {"a"}


def test_captions_are_dropped_in_training_only() -> None:
    with seqio.map_seed_manager(3):
        found = texts(preprocessors.drop_caption(0.25)(captions(True)))
    assert set(found) == {"", "a"} and 70 < found.count("") < 130  # 100 +- 8.7
    assert set(texts(preprocessors.drop_caption(0.25)(captions(False)))) == {"a"}
    assert set(texts(preprocessors.drop_caption(0.0)(captions(True)))) == {"a"}
    assert set(texts(preprocessors.drop_caption(1.0)(captions(True)))) == {""}
    with pytest.raises(ValueError, match="text_drop_rate=1.5"):
        preprocessors.drop_caption(1.5)


def shifted(is_training: bool, max_shift: int, count: int = 300) -> list[np.ndarray]:
    """Returns a picture [5, 7, 3] whose pixels say where they are, moved `count` times."""
    places = np.stack(np.meshgrid(np.arange(5), np.arange(7), indexing="ij"), -1)
    pixels = np.concatenate([places, 10 * places[..., :1] + places[..., 1:]], -1)
    element = {"image": pixels.astype(np.float32), sources.IS_TRAINING: tf.constant(is_training)}
    dataset = tf.data.Dataset.from_tensors(element).repeat(count)
    with seqio.map_seed_manager(5):
        moved = preprocessors.shift_image("image", max_shift)(dataset)
    assert moved.element_spec["image"].shape == (5, 7, 3)
    return [element["image"] for element in moved.as_numpy_iterator()]


def test_pictures_are_moved_in_training_only() -> None:
    (still,) = {image.tobytes() for image in shifted(False, 2)}
    assert {image.tobytes() for image in shifted(True, 0)} == {still}
    picture = np.frombuffer(still, np.float32).reshape(5, 7, 3)
    seen = set()
    for image in shifted(True, 2):
        down, right = (int(n) for n in image[2, 3, :2] - picture[2, 3, :2])
        seen.add((down, right))
        rows = np.clip(np.arange(5) + down, 0, 4)
        columns = np.clip(np.arange(7) + right, 0, 6)
        np.testing.assert_array_equal(image, picture[rows][:, columns])
    assert seen == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}
    with pytest.raises(ValueError, match="max_shift=-1: give 0 or more"):
        preprocessors.shift_image("image", -1)


@pytest.mark.parametrize("text", ["red 1", "", "red 1 blue 2 red 3 and more"])
@pytest.mark.parametrize("length", [1, 4, 32])
def test_ids_are_those_of_the_tokenizer(stages: conftest.Stages, text: str, length: int) -> None:
    vocabulary = vocabularies.seqio_text_vocabulary(stages.vocabulary)
    dataset = tf.data.Dataset.from_tensors({records.TEXT: text})
    output_features = {preprocessors.INPUTS: preprocessors.text_feature(vocabulary)}
    tokenized = preprocessors.tokenize_caption(
        dataset, output_features=output_features, sequence_length={preprocessors.INPUTS: length}
    )
    ids = next(iter(tokenized.as_numpy_iterator()))[preprocessors.INPUTS]
    expected = vocabularies.TextTokenizer(stages.vocabulary).encode(text, length)
    assert ids.dtype == np.int32 and ids[-1] == vocabularies.EOS_ID
    np.testing.assert_array_equal(ids, expected[: len(ids)])
    assert not expected[len(ids) :].any()


def decode(data: bytes, size: int, **kwargs: object) -> np.ndarray:
    dataset = tf.data.Dataset.from_tensors({"image": data})
    decoded = preprocessors.decode_image("image", size)(dataset, **kwargs)
    assert decoded.element_spec["image"].shape == (size, size, 3)
    return next(iter(decoded.as_numpy_iterator()))["image"]


def test_pictures_are_decoded_as_by_data_images() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    data = images.encode_png(noise)
    np.testing.assert_array_equal(decode(data, 12), images.to_float(noise))
    small = images.to_float(images.resize(noise, 5))
    assert np.abs(decode(data, 5) - small).max() <= 0.51 / 127.5


def test_long_sides_are_cut_evenly() -> None:
    wide = np.zeros((2, 6, 3), np.uint8)
    wide[:, 2:4] = 255
    np.testing.assert_array_equal(decode(images.encode_png(wide), 2), np.ones((2, 2, 3)))


def test_lengths_must_agree() -> None:
    data = images.encode_png(np.zeros((4, 4, 3), np.uint8))
    decode(data, 4, sequence_length={"image": 4})
    with pytest.raises(ValueError, match=r"TASK_FEATURE_LENGTHS\['image'\] is 2, .* has 4"):
        decode(data, 4, sequence_length={"image": 2})
    with pytest.raises(ValueError, match="Image size 0"):
        preprocessors.decode_image("image", 0)


def test_codebook_indices_become_ids() -> None:
    def targets(tokens: list[int]) -> list[int]:
        dataset = tf.data.Dataset.from_tensors({records.IMAGE_TOKENS: tf.constant(tokens, "int64")})
        dataset = preprocessors.image_tokens_to_targets(10, 3)(dataset)
        return next(iter(dataset.as_numpy_iterator()))[preprocessors.TARGETS].tolist()

    assert targets([0, 9, 4]) == [1, 10, 5]
    for wrong in ([0, 10, 4], [0, 1]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="another image tokenizer"):
            targets(wrong)
