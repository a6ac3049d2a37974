# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import seqio
import tensorflow as tf

from parti.tasks import feature_converters, masking

PIXELS = np.linspace(-1, 1, 2 * 2 * 3, dtype=np.float32).reshape(2, 2, 3)
BIG = np.linspace(-1, 1, 4 * 4 * 3, dtype=np.float32).reshape(4, 4, 3)


def convert(
    converter: seqio.FeatureConverter, example: dict[str, object], lengths: dict[str, int]
) -> dict[str, np.ndarray]:
    dataset = tf.data.Dataset.from_tensors({k: tf.constant(v) for k, v in example.items()})
    return next(iter(converter(dataset, lengths).as_numpy_iterator()))


def check(got: dict[str, np.ndarray], want: dict[str, object]) -> None:
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_text_to_image() -> None:
    got = convert(
        feature_converters.TextToImageConverter(pack=False),
        {"inputs": [7, 8, 1], "targets": [5, 3, 9]},
        {"inputs": 5, "targets": 3},
    )
    check(
        got,
        {
            "encoder_input_tokens": [7, 8, 1, 0, 0],
            "decoder_input_tokens": [0, 5, 3],
            "decoder_target_tokens": [5, 3, 9],
            "decoder_loss_weights": [1.0, 1.0, 1.0],
        },
    )
    dtypes = {name: array.dtype for name, array in got.items()}
    assert dtypes.pop("decoder_loss_weights") == np.float32
    assert set(dtypes.values()) == {np.dtype(np.int32)}


def test_padding_has_no_weight() -> None:
    got = convert(
        feature_converters.TextToImageConverter(),
        {"inputs": [1], "targets": [5, 3]},
        {"inputs": 2, "targets": 4},
    )
    check(
        got,
        {
            "encoder_input_tokens": [1, 0],
            "decoder_input_tokens": [0, 5, 3, 0],
            "decoder_target_tokens": [5, 3, 0, 0],
            "decoder_loss_weights": [1.0, 1.0, 0.0, 0.0],
        },
    )


def test_images() -> None:
    got = convert(feature_converters.ImageConverter(), {"image": PIXELS}, {"image": 2})
    check(got, {"images": PIXELS})


def test_images_and_texts() -> None:
    got = convert(
        feature_converters.ImageTextConverter(),
        {"inputs": [7, 1], "image": PIXELS, "ignored": [1]},
        {"inputs": 3, "image": 2},
    )
    check(got, {"text_tokens": [7, 1, 0], "images": PIXELS})


def test_super_resolution() -> None:
    got = convert(
        feature_converters.SuperResolutionConverter(),
        {"image": BIG, "reconstruction": PIXELS},
        {"image": 4, "reconstruction": 2},
    )
    check(got, {"images": BIG, "low_resolution_images": PIXELS})


ALL = [
    feature_converters.TextToImageConverter,
    feature_converters.ImageTextConverter,
    feature_converters.ImageConverter,
    feature_converters.SuperResolutionConverter,
    feature_converters.BertConverter,
    feature_converters.TextEncoderConverter,
]
BERT = {name: [1, 0] for name in masking.FEATURES} | {masking.LOSS_WEIGHTS: [1.0, 0.0]}


@pytest.mark.parametrize("converter", ALL)
def test_contract_of_converters(converter: type[seqio.FeatureConverter]) -> None:
    built = converter(pack=False, use_custom_packing_ops=False)
    lengths = dict.fromkeys(converter.TASK_FEATURES, 4)
    assert set(built.get_model_feature_lengths(lengths)) == set(converter.MODEL_FEATURES)
    for name in converter.MODEL_FEATURES:
        assert name in feature_converters.__doc__
    for options in ({"pack": True}, {"use_custom_packing_ops": True}):
        with pytest.raises(ValueError, match="pack=False"):
            converter(**options)


@pytest.mark.parametrize("converter", ALL)
def test_batch_shapes_are_those_of_the_data(converter: type[seqio.FeatureConverter]) -> None:
    examples = {"inputs": [7, 1], "targets": [5, 3], "image": BIG, "reconstruction": PIXELS}
    examples |= BERT
    lengths = {"inputs": 3, "targets": 4, "image": 4, "reconstruction": 2}
    lengths |= dict.fromkeys(BERT, 3)
    features = {name: examples[name] for name in converter.TASK_FEATURES}
    lengths = {name: lengths[name] for name in features}
    got = convert(converter(), features, lengths)
    shapes = converter().get_batch_shapes(lengths, 1)
    assert shapes == {name: (1, *value.shape) for name, value in got.items()}


def test_batches_are_checked_as_examples_are() -> None:
    features = {"inputs": [1, 0], "targets": tf.constant([2], tf.int64)}
    converter = feature_converters.TextToImageConverter()
    with pytest.raises(ValueError, match="incorrect type for feature 'targets'"):
        converter.to_batches(tf.data.Dataset.from_tensors(features), {"inputs": 2, "targets": 1}, 4)


def test_batches_leave_out_what_has_no_shape() -> None:
    """Another feature of a user's task, of another length in each example."""
    rows = tf.data.Dataset.from_generator(
        lambda: ({"inputs": [7, 1], "targets": [5, 3], "notes": [0] * i} for i in range(4)),
        output_signature={
            "inputs": tf.TensorSpec([2], tf.int32),
            "targets": tf.TensorSpec([2], tf.int32),
            "notes": tf.TensorSpec([None], tf.int32),
        },
    )
    batches = feature_converters.TextToImageConverter().to_batches(
        rows, {"inputs": 2, "targets": 2}, 4
    )
    (batch,) = batches.as_numpy_iterator()
    np.testing.assert_array_equal(batch["decoder_input_tokens"], [[0, 5]] * 4)
