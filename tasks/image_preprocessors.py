# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""seqio preprocessors of images: from encoded bytes to pixels, one example at a time.

The random ones draw from seqio's seed (`num_seeds=1`), so a run can be repeated exactly, and act in
the train split only. Only the image tokenizer's own images are flipped: the text in them would
turn.
"""

from collections.abc import Callable, Mapping

import seqio
import tensorflow as tf

from parti.tasks import preprocessors, sources
from parti.tasks.preprocessors import Features


def image_feature() -> seqio.Feature:
    """Returns the seqio feature of an image: [height, width, 3] float32 in [-1, 1]."""
    return seqio.Feature(seqio.PassThroughVocabulary(1), add_eos=False, dtype=tf.float32, rank=3)


# What to do about a length that is not the size.
_SIZES = (
    "Set IMAGE_SIZE (of reconstructions RECONSTRUCTION_SIZE): t5x_configs/tasks takes both from it."
)


def decode_image(name: str, size: int) -> Callable:
    """Returns the preprocessor that turns the encoded image `name` into pixels.

    [] string becomes [size, size, 3] float32 in [-1, 1]. The middle square is taken and resized by
    area, unless it has the size already. Images come from `parti clean`, so they are PNG or JPEG,
    upright and RGB. TASK_FEATURE_LENGTHS must have the same size, in pixels, of at least 1.
    """
    check_size(size)

    @seqio.map_over_dataset
    def decode(features: Features, sequence_length: Mapping[str, int] | None = None) -> Features:
        preprocessors.check_length(name, size, sequence_length, _SIZES)
        return dict(features) | {name: _to_float(_square(_decoded(features[name]), size))}

    return decode


def decode_random_crop(name: str, size: int) -> Callable:
    """Returns the preprocessor that crops the image `name` at random in training.

    Of the short side s: a square of s anywhere, resized by area to a side from min(s, 9/8 `size`)
    to min(s, 3/2 `size`), of which a square of `size` is cropped anywhere, and flipped left to
    right every second time; each as likely. An image with a shorter side under `size` grows to it.
    Outside training this is `decode_image`, with the same shapes and error.

    Source: listing 1 (appendix A.2) of Ramesh et al., "Zero-Shot Text-to-Image Generation", 2021
    (arXiv 2102.12092), where `size` is 256 and the sides go from 288 to 384.
    """
    check_size(size)

    @seqio.map_over_dataset(num_seeds=1)
    def decode(
        features: Features, seed: tf.Tensor, sequence_length: Mapping[str, int] | None = None
    ) -> Features:
        preprocessors.check_length(name, size, sequence_length, _SIZES)
        seed = _own_seed(features, seed)
        pixels = _decoded(features[name])
        pixels = tf.cond(
            features[sources.IS_TRAINING],
            lambda: _random_crop(pixels, size, seed),
            lambda: _square(pixels, size),
        )
        return dict(features) | {name: _to_float(pixels)}

    return decode


def _own_seed(features: Features, seed: tf.Tensor) -> tf.Tensor:
    """Returns the example's own seed, [2] int32, or the one given if it has none."""
    if sources.SEED not in features:
        return seed
    return tf.bitcast(features[sources.SEED], tf.int32)


def _random_crop(pixels: tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns [size, size, 3] float32 in [0, 255] of [height, width, 3] uint8; see above."""
    shares = tf.random.stateless_uniform([6], seed)

    def draw(index: int, low: tf.Tensor | int, high: tf.Tensor) -> tf.Tensor:
        return low + tf.cast(shares[index] * tf.cast(high - low + 1, tf.float32), tf.int32)

    height, width = tf.unstack(tf.shape(pixels)[:2])
    short = tf.minimum(height, width)
    offset = [draw(0, 0, height - short), draw(1, 0, width - short), 0]
    square = tf.slice(pixels, offset, [short, short, 3])
    least, most = (tf.minimum(short, round(size * ratio)) for ratio in (9 / 8, 3 / 2))
    side = draw(2, tf.maximum(least, size), tf.maximum(most, size))
    resized = tf.image.resize(square, [side, side], method="area")
    offset = [draw(3, 0, side - size), draw(4, 0, side - size), 0]
    crop = tf.slice(resized, offset, [size, size, 3])
    return tf.cond(shares[5] < 0.5, lambda: tf.reverse(crop, [1]), lambda: crop)


def _decoded(data: tf.Tensor) -> tf.Tensor:
    """Returns [height, width, 3] uint8 of an encoded image."""
    pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
    pixels.set_shape([None, None, 3])
    return pixels


def _to_float(pixels: tf.Tensor) -> tf.Tensor:
    """Returns the same numbers as `data.images.to_float`."""
    return pixels / 127.5 - 1.0


def _square(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """Returns [size, size, 3] float32 in [0, 255] of [height, width, 3] uint8."""
    shape = tf.shape(pixels)
    side = tf.minimum(shape[0], shape[1])
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    square = tf.slice(pixels, [top, left, 0], [side, side, 3])
    resized = tf.cond(
        tf.equal(side, size),
        lambda: tf.cast(square, tf.float32),
        lambda: tf.image.resize(square, [size, size], method="area"),
    )
    return tf.ensure_shape(resized, [size, size, 3])


def shift_image(name: str, max_shift: int) -> Callable:
    """Returns the preprocessor that moves the image `name` in training by a few pixels.

    [height, width, 3]; each axis by its own random number, from -max_shift to max_shift, each as
    likely; what comes into view repeats the edge. ValueError: `max_shift` is negative.
    """
    if max_shift < 0:
        raise ValueError(f"max_shift={max_shift}: give 0 or more pixels.")
    if max_shift == 0:
        return lambda dataset: dataset

    @seqio.map_over_dataset(num_seeds=1)
    def shift(features: Features, seed: tf.Tensor) -> Features:
        seed = _own_seed(features, seed)
        drawn = tf.random.stateless_uniform([2], seed, -max_shift, max_shift + 1, tf.int32)
        offsets = tf.where(features[sources.IS_TRAINING], drawn, 0)
        pixels = features[name]
        for axis in (0, 1):
            last = tf.shape(pixels)[axis] - 1
            index = tf.clip_by_value(tf.range(last + 1) + offsets[axis], 0, last)
            pixels = tf.gather(pixels, index, axis=axis)
        return features | {name: tf.ensure_shape(pixels, features[name].shape)}

    return shift


def check_size(size: int) -> None:
    """Raises ValueError if an image cannot have this side."""
    if size < 1:
        raise ValueError(f"Image size {size}: it must be at least 1 pixel.")
