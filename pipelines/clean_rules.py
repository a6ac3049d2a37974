# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The rules of `parti clean` that look at one pair, and the form of the pairs it writes.

A picture smaller than `image_size` is dropped unless `allow_upscale` is set: blurred pictures teach
the tokenizer to blur.
"""

import dataclasses
import hashlib
import io
from typing import Any

import numpy as np
from PIL import Image

from parti.data import captions, images, records
from parti.pipelines import readers, writers

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "none": {
        "min_side": 1,
        "max_aspect_ratio": 0.0,
        "allow_upscale": True,
        "drop_blank": False,
        "caption_rules": False,
        "drop_duplicates": False,
    },
}
IMAGE_FORMATS = ("png", "jpeg")
MAX_IMAGE_SIZE = 4096
JPEG_QUALITY = 95
ORIGINAL_SIZE = "original_size"  # in the metadata: [width, height] before crop and resize
# Standard deviation of pixel values under which a picture counts as one flat colour.
_BLANK_DEVIATION = 1.0


@dataclasses.dataclass(frozen=True)
class CleanSettings:
    """Everything that decides the bytes of the output, but the input.

    Attributes:
      image_size: side of the square pictures, in pixels.
      image_format: "png" or "jpeg" (quality 95).
      preset: the name that the rules started from.
      min_side: shortest side that a picture may have, in pixels.
      max_aspect_ratio: longest side over shortest; 0 allows all.
      allow_upscale: keep pictures smaller than `image_size` and enlarge them.
      drop_blank: drop pictures of one colour.
      caption_rules: apply `data.captions.RULES`.
      drop_duplicates: keep one pair of those with equal pixels.
      validation_fraction: share of the pairs that go to validation, in [0, 1).
      num_shards: files of the train split.
    """

    image_size: int = 256
    image_format: str = "png"
    preset: str = "default"
    min_side: int = 32
    max_aspect_ratio: float = 2.0
    allow_upscale: bool = False
    drop_blank: bool = True
    caption_rules: bool = True
    drop_duplicates: bool = True
    validation_fraction: float = 0.05
    num_shards: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= MAX_IMAGE_SIZE:
            raise ValueError(f"--image_size={self.image_size}: give 1 to {MAX_IMAGE_SIZE} pixels")
        if self.image_format not in IMAGE_FORMATS:
            raise ValueError(
                f"--image_format={self.image_format}: choose from {', '.join(IMAGE_FORMATS)}"
            )
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"--validation_fraction={self.validation_fraction}: give 0 or more, less than 1"
            )
        if self.min_side < 1:
            raise ValueError(f"--min_side={self.min_side}: give at least 1 pixel")
        if self.max_aspect_ratio and not self.max_aspect_ratio >= 1:
            raise ValueError(
                f"--max_aspect_ratio={self.max_aspect_ratio}: give at least 1, or 0 for no limit"
            )

    @property
    def num_validation_shards(self) -> int:
        """Files of the validation split."""
        return max(1, round(self.num_shards * self.validation_fraction))

    @property
    def num_rejected_shards(self) -> int:
        """Files of rejected rows."""
        return max(1, self.num_shards // 16)


@dataclasses.dataclass(frozen=True)
class CleanPair:
    """A pair that passed the rules.

    Attributes:
      pair: the record to write.
      pixels: hash of the decoded source pixels.
      split: "train" or "validation".
    """

    pair: records.ImageTextPair
    pixels: str
    split: str

    @property
    def order(self) -> tuple[str, ...]:
        """What decides which of equal pictures is kept: the smallest."""
        return (self.pair.key, self.pair.text, self.pair.source, self.pair.sha256)


def clean_pair(
    pair: records.ImageTextPair, settings: CleanSettings
) -> CleanPair | readers.Rejected:
    """Applies every rule that needs only this pair, then crops, resizes and encodes.

    Args:
      pair: as read; its image in any format.
      settings: the rules and the form of the output.

    Returns:
      The clean pair, or why it is rejected.
    """
    text = captions.normalize_caption(pair.text)

    def reject(reason: str, measure: str) -> readers.Rejected:
        return readers.Rejected(pair.key, reason, measure, text, pair.source)

    try:
        image = images.decode_image(pair.image)
    except ValueError as error:
        return reject("image_undecodable", str(error))
    if (failed := image_rejection(image, settings)) is not None:
        return reject(*failed)
    if settings.caption_rules and (failed := captions.rejection(text)) is not None:
        return reject(*failed)
    height, width = image.shape[:2]
    square = images.resize(images.square_crop(image), settings.image_size)
    metadata = dict(pair.metadata)
    if not _is_size(metadata.get(ORIGINAL_SIZE)):  # a pair may have been cleaned before
        metadata[ORIGINAL_SIZE] = [width, height]
    if records.CAPTIONS in metadata:
        more = metadata[records.CAPTIONS]
        # Whatever the .json had there, it becomes a list of texts: a record takes nothing else.
        texts = [c for c in (more if isinstance(more, list) else [more]) if isinstance(c, str)]
        metadata[records.CAPTIONS] = [c for c in map(captions.normalize_caption, texts) if c]
    split = str(metadata.get("split"))
    if split not in records.SPLITS:
        fraction = writers.hash_fraction(pair.key, "split")
        split = "validation" if fraction < settings.validation_fraction else "train"
    cleaned = records.ImageTextPair(
        key=pair.key,
        image=encode(square, settings.image_format),
        text=text,
        width=settings.image_size,
        height=settings.image_size,
        source=pair.source,
        sha256=hashlib.sha256(pair.image).hexdigest(),
        metadata=metadata,
    )
    return CleanPair(cleaned, pixel_hash(image), split)


def _is_size(value: Any) -> bool:
    """Returns whether a value of a .json is [width, height]."""
    return isinstance(value, list) and [type(side) for side in value] == [int, int]


def image_rejection(image: np.ndarray, settings: CleanSettings) -> tuple[str, str] | None:
    """Returns the first rule that rejects a picture ([height, width, 3] uint8) and its measure."""
    height, width = image.shape[:2]
    short, ratio = min(width, height), max(width, height) / min(width, height)
    size = f"{width} x {height}"
    if short < settings.min_side:
        return "image_too_small", f"{size}; the shorter side must be {settings.min_side}"
    if short < settings.image_size and not settings.allow_upscale:
        return "image_would_grow", f"{size}, to become {settings.image_size}"
    if settings.max_aspect_ratio and ratio > settings.max_aspect_ratio:
        return "image_aspect_ratio", f"{size} is {ratio:.2f} to 1"
    # One pixel in 64 clears nearly every picture; only the others are measured whole.
    if settings.drop_blank and _deviation(image[::8, ::8]) < _BLANK_DEVIATION:
        deviation = _deviation(image)
        if deviation < _BLANK_DEVIATION:
            return "image_blank", f"standard deviation {deviation:.2f}"
    return None


def _deviation(image: np.ndarray) -> float:
    """Returns the largest standard deviation of the channels of [height, width, 3] uint8."""
    return float(image.std(axis=(0, 1), dtype=np.float64).max())


def pixel_hash(image: np.ndarray) -> str:
    """Returns a hash of a picture's size and pixels ([height, width, 3] uint8)."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def encode(image: np.ndarray, image_format: str) -> bytes:
    """Encodes [height, width, 3] uint8 as "png" or "jpeg"."""
    if image_format == "png":
        return images.encode_png(image)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
