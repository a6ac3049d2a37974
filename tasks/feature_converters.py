# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""From task features to the batches of the models; one converter per family.

B is the batch size, Lt the length of `inputs`, Li of `targets`, Lb of BERT's features, H and W
those of `image`, s the upsampler's factor. Everything is padded with 0 to its full length.

    Converter                  Batch feature           Shape            Dtype    Range
    -------------------------  ----------------------  ---------------  -------  -----------------
    TextToImageConverter       encoder_input_tokens    [B, Lt]          int32    text ids
                               decoder_input_tokens    [B, Li]          int32    image ids, first 0
                               decoder_target_tokens   [B, Li]          int32    image ids
                               decoder_loss_weights    [B, Li]          float32  0 or 1
    ImageTextConverter         text_tokens             [B, Lt]          int32    text ids
                               images                  [B, H, W, 3]     float32  [-1, 1]
    BertConverter              bert_input_tokens       [B, Lb]          int32    text ids
                               bert_target_tokens      [B, Lb]          int32    text ids
                               bert_loss_weights       [B, Lb]          float32  0 or 1
                               bert_segment_ids        [B, Lb]          int32    0 is padding
                               bert_positions          [B, Lb]          int32    [0, Lb)
    TextEncoderConverter       those of the two above
    ImageConverter             images                  [B, H, W, 3]     float32  [-1, 1]
    SuperResolutionConverter   images                  [B, sH, sW, 3]   float32  [-1, 1]
                               low_resolution_images   [B, H, W, 3]     float32  [-1, 1]
    TextClassConverter         text_tokens             [B, Lt]          int32    text ids
                               labels                  [B, 1]           int32    classes

Example: task features `inputs` [7, 8, 1] and `targets` [5, 3, 9] with lengths 5 and 3 become

    encoder_input_tokens   [7, 8, 1, 0, 0]
    decoder_input_tokens   [0, 5, 3]
    decoder_target_tokens  [5, 3, 9]
    decoder_loss_weights   [1, 1, 1]
"""

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import seqio
import tensorflow as tf

from parti.data.storage import records
from parti.tasks import masking, preprocessors

FeatureSpec: TypeAlias = seqio.FeatureConverter.FeatureSpec

_IDS = FeatureSpec(dtype=tf.int32)
_FLOATS = FeatureSpec(dtype=tf.float32)
_PIXELS = FeatureSpec(dtype=tf.float32, rank=3)
_SPECS = {
    preprocessors.INPUTS: _IDS,
    preprocessors.TARGETS: _IDS,
    records.IMAGE: _PIXELS,
    records.RECONSTRUCTION: _PIXELS,
    **dict.fromkeys(masking.FEATURES, _IDS),
    masking.LOSS_WEIGHTS: _FLOATS,
}


class _RenamingConverter(seqio.FeatureConverter):
    """Renames task features to batch features; packs nothing.

    Features without their full length are cut or padded. seqio's checks of lengths are off: they
    are two calls for each example.
    """

    # Batch feature -> task feature, and the batch features of another type than that.
    RENAMED: ClassVar[Mapping[str, str]] = {}
    RETYPED: ClassVar[dict[str, FeatureSpec]] = {}
    PACKING_FEATURE_DTYPES: ClassVar[Mapping[str, tf.DType]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.TASK_FEATURES = {old: _SPECS[old] for old in cls.RENAMED.values()}
        cls.MODEL_FEATURES = {new: _SPECS[old] for new, old in cls.RENAMED.items()} | cls.RETYPED

    def __init__(
        self, pack: bool = False, use_custom_packing_ops: bool = False, **options: Any
    ) -> None:
        if pack or use_custom_packing_ops:
            raise ValueError(f"{type(self).__name__} does not pack; set pack=False.")
        options["apply_length_check"] = False
        super().__init__(pack=False, use_custom_packing_ops=False, **options)

    def to_batches(
        self, examples: tf.data.Dataset, task_feature_lengths: Mapping[str, int], batch_size: int
    ) -> tf.data.Dataset:
        """Returns the batches of a task's examples, without an incomplete last one.

        ValueError: names, dtypes or ranks are not those of TASK_FEATURES.
        """
        return self(examples, task_feature_lengths).batch(batch_size, drop_remainder=True)

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        """Converts single examples, for seqio's and T5X's own callers."""
        examples = self._to_full_lengths(ds, task_feature_lengths)
        return examples.map(self._convert, num_parallel_calls=tf.data.AUTOTUNE)

    def _to_full_lengths(
        self, examples: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        """Cuts or pads what is not known to have its full length, as in a user's own task."""
        shapes = {name: spec.shape for name, spec in examples.element_spec.items()}
        if all(shape.is_fully_defined() for shape in shapes.values()) and all(
            name in shapes and shapes[name].rank and shapes[name][0] == length
            for name, length in task_feature_lengths.items()
        ):
            return examples
        padded = self._pack_or_pad(examples, task_feature_lengths)
        return padded.map(lambda features: {name: features[name] for name in self.TASK_FEATURES})

    def _convert(self, features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {new: features[old] for new, old in self.RENAMED.items()}

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
        """Returns the length of each batch feature (of images: the height)."""
        return {new: task_feature_lengths[old] for new, old in self.RENAMED.items()}

    def get_batch_shapes(
        self, task_feature_lengths: Mapping[str, int], batch_size: int
    ) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each batch feature, without any data; images are square."""
        lengths = self.get_model_feature_lengths(task_feature_lengths)
        is_image = {name: spec.rank == 3 for name, spec in self.MODEL_FEATURES.items()}
        return {
            name: (batch_size, *((length, length, 3) if is_image[name] else (length,)))
            for name, length in lengths.items()
        }


class TextToImageConverter(_RenamingConverter):
    """Batches of `text_to_image`: the decoder's input is its target, moved right by a 0."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "encoder_input_tokens": preprocessors.INPUTS,
        "decoder_input_tokens": preprocessors.TARGETS,
        "decoder_target_tokens": preprocessors.TARGETS,
        "decoder_loss_weights": preprocessors.TARGETS,
    }
    RETYPED: ClassVar[dict[str, FeatureSpec]] = {"decoder_loss_weights": _FLOATS}

    def to_batches(
        self, examples: tf.data.Dataset, task_feature_lengths: Mapping[str, int], batch_size: int
    ) -> tf.data.Dataset:
        """Returns the same batches as seqio, but converts each as a whole.

        To call a function takes longer than to convert an example.
        """
        self(examples, task_feature_lengths)  # seqio's checks; nothing is read.
        examples = self._to_full_lengths(examples, task_feature_lengths)
        return examples.batch(batch_size, drop_remainder=True).map(self._convert)

    def _convert(self, features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        targets = features[preprocessors.TARGETS]
        return super()._convert(features) | {
            "decoder_input_tokens": tf.concat(
                [tf.zeros_like(targets[..., :1]), targets[..., :-1]], axis=-1
            ),
            "decoder_loss_weights": seqio.non_padding_position(targets, tf.float32),
        }


class ImageTextConverter(_RenamingConverter):
    """Batches of `contrastive`: images and their captions."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "text_tokens": preprocessors.INPUTS,
        "images": records.IMAGE,
    }


class BertConverter(_RenamingConverter):
    """Batches of `bert`: packed texts, some tokens masked."""

    RENAMED: ClassVar[Mapping[str, str]] = {name: name for name in masking.FEATURES}


class TextEncoderConverter(_RenamingConverter):
    """Batches of `text_encoder`: pairs, each beside a sequence of packed texts."""

    RENAMED: ClassVar[Mapping[str, str]] = {**BertConverter.RENAMED, **ImageTextConverter.RENAMED}


class ImageConverter(_RenamingConverter):
    """Batches of `images`: images."""

    RENAMED: ClassVar[Mapping[str, str]] = {"images": records.IMAGE}


class SuperResolutionConverter(_RenamingConverter):
    """Batches of `super_resolution`: images and what the image tokenizer made of them."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "images": records.IMAGE,
        "low_resolution_images": records.RECONSTRUCTION,
    }


class TextClassConverter(_RenamingConverter):
    """Batches of `glue`: texts and their classes."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "text_tokens": preprocessors.INPUTS,
        "labels": preprocessors.TARGETS,
    }
