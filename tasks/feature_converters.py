# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""From task features to the batches of the models; one converter per family.

B is the batch size, Lt the length of `inputs`, Li of `targets`, H and W those of `image`, s the
upsampler's factor. Everything is padded with 0 to its full length.

    Converter                  Batch feature           Shape            Dtype    Range
    -------------------------  ----------------------  ---------------  -------  -----------------
    TextToImageConverter       encoder_input_tokens    [B, Lt]          int32    text ids
                               decoder_input_tokens    [B, Li]          int32    image ids, first 0
                               decoder_target_tokens   [B, Li]          int32    image ids
                               decoder_loss_weights    [B, Li]          float32  0 or 1
    ImageTextConverter         text_tokens             [B, Lt]          int32    text ids
                               images                  [B, H, W, 3]     float32  [-1, 1]
    ImageConverter             images                  [B, H, W, 3]     float32  [-1, 1]
    SuperResolutionConverter   images                  [B, sH, sW, 3]   float32  [-1, 1]
                               low_resolution_images   [B, H, W, 3]     float32  [-1, 1]

Example: task features `inputs` [7, 8, 1] and `targets` [5, 3, 9] with lengths 5 and 3 become

    encoder_input_tokens   [7, 8, 1, 0, 0]
    decoder_input_tokens   [0, 5, 3]
    decoder_target_tokens  [5, 3, 9]
    decoder_loss_weights   [1, 1, 1]
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import seqio
import tensorflow as tf

from parti.data.storage import records
from parti.tasks import preprocessors

FeatureSpec: TypeAlias = seqio.FeatureConverter.FeatureSpec

_IDS = FeatureSpec(dtype=tf.int32)
_PIXELS = FeatureSpec(dtype=tf.float32, rank=3)


def _have_full_lengths(dataset: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> bool:
    """Returns whether each feature is known to have its length, as in the tasks of this package."""
    spec = dataset.element_spec
    return all(
        name in spec and spec[name].shape.rank and spec[name].shape[0] == length
        for name, length in task_feature_lengths.items()
    )


class _RenamingConverter(seqio.FeatureConverter):
    """Gives the task features the names of the batch; nothing is packed.

    What has not its full length is cut or padded. There are no checks of lengths besides: seqio's
    are two calls for each example.
    """

    # Batch feature -> task feature.
    RENAMED: ClassVar[Mapping[str, str]] = {}
    PACKING_FEATURE_DTYPES: ClassVar[Mapping[str, tf.DType]] = {}

    def __init__(
        self, pack: bool = False, use_custom_packing_ops: bool = False, **options: Any
    ) -> None:
        """Takes seqio's options.

        Raises:
          ValueError: `pack` or `use_custom_packing_ops`: a picture fills its sequence.
        """
        if pack or use_custom_packing_ops:
            raise ValueError(f"{type(self).__name__} does not pack; set pack=False.")
        options["apply_length_check"] = False
        super().__init__(pack=False, use_custom_packing_ops=False, **options)

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        if not _have_full_lengths(ds, task_feature_lengths):
            ds = self._pack_or_pad(ds, task_feature_lengths)
        return self._map(ds, self._convert)

    def _convert(self, features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {new: features[old] for new, old in self.RENAMED.items()}

    def _map(self, ds: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
        return ds.map(function, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
        """Returns the length of each batch feature (of pictures: the height)."""
        return {new: task_feature_lengths[old] for new, old in self.RENAMED.items()}

    def get_batch_shapes(
        self, task_feature_lengths: Mapping[str, int], batch_size: int
    ) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each batch feature, without any data; pictures are square."""
        lengths = self.get_model_feature_lengths(task_feature_lengths)
        is_picture = {name: spec.rank == 3 for name, spec in self.MODEL_FEATURES.items()}
        return {
            name: (batch_size, *((length, length, 3) if is_picture[name] else (length,)))
            for name, length in lengths.items()
        }


class TextToImageConverter(_RenamingConverter):
    """Batches of `text_to_image`: the decoder's input is its target, moved right by a 0."""

    TASK_FEATURES: ClassVar[Mapping[str, FeatureSpec]] = {
        preprocessors.INPUTS: _IDS,
        preprocessors.TARGETS: _IDS,
    }
    MODEL_FEATURES: ClassVar[Mapping[str, FeatureSpec]] = {
        "encoder_input_tokens": _IDS,
        "decoder_input_tokens": _IDS,
        "decoder_target_tokens": _IDS,
        "decoder_loss_weights": FeatureSpec(dtype=tf.float32),
    }
    RENAMED: ClassVar[Mapping[str, str]] = {
        "encoder_input_tokens": preprocessors.INPUTS,
        "decoder_input_tokens": preprocessors.TARGETS,
        "decoder_target_tokens": preprocessors.TARGETS,
        "decoder_loss_weights": preprocessors.TARGETS,
    }

    def _map(self, ds: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
        chunks = ds.batch(preprocessors.CHUNK)
        return chunks.map(function, num_parallel_calls=preprocessors.PARALLEL_CHUNKS).unbatch()

    def _convert(self, features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        targets = features[preprocessors.TARGETS]
        return super()._convert(features) | {
            "decoder_input_tokens": tf.pad(targets[:, :-1], [[0, 0], [1, 0]]),
            "decoder_loss_weights": seqio.non_padding_position(targets, tf.float32),
        }


class ImageTextConverter(_RenamingConverter):
    """Batches of `contrastive`: pictures and their captions."""

    TASK_FEATURES: ClassVar[Mapping[str, FeatureSpec]] = {
        preprocessors.INPUTS: _IDS,
        records.IMAGE: _PIXELS,
    }
    MODEL_FEATURES: ClassVar[Mapping[str, FeatureSpec]] = {"text_tokens": _IDS, "images": _PIXELS}
    RENAMED: ClassVar[Mapping[str, str]] = {
        "text_tokens": preprocessors.INPUTS,
        "images": records.IMAGE,
    }


class ImageConverter(_RenamingConverter):
    """Batches of `images`: pictures."""

    TASK_FEATURES: ClassVar[Mapping[str, FeatureSpec]] = {records.IMAGE: _PIXELS}
    MODEL_FEATURES: ClassVar[Mapping[str, FeatureSpec]] = {"images": _PIXELS}
    RENAMED: ClassVar[Mapping[str, str]] = {"images": records.IMAGE}


class SuperResolutionConverter(_RenamingConverter):
    """Batches of `super_resolution`: pictures and what the image tokenizer made of them."""

    TASK_FEATURES: ClassVar[Mapping[str, FeatureSpec]] = {
        records.IMAGE: _PIXELS,
        records.RECONSTRUCTION: _PIXELS,
    }
    MODEL_FEATURES: ClassVar[Mapping[str, FeatureSpec]] = {
        "images": _PIXELS,
        "low_resolution_images": _PIXELS,
    }
    RENAMED: ClassVar[Mapping[str, str]] = {
        "images": records.IMAGE,
        "low_resolution_images": records.RECONSTRUCTION,
    }
