# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The input of the rules of `parti clean`: a caption with its metadata, or an image.

What several rules need is computed once: languages, fields by name, grey values.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from parti.data.text import languages

# LAION-400M says it in words; the numbers for them are ours.
_TAGS = {"unlikely": 0.0, "unsure": 0.5, "nsfw": 1.0}
_NUM_LANGUAGES = 5
_MAX_GREY_PIXELS = 65_536
# The first bytes of a file, and what it is.
_SIGNATURES = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
)


class Caption:
    """A caption in normal form and the metadata of its pair."""

    def __init__(self, text: str, metadata: Mapping[str, Any]) -> None:
        self.text, self._metadata = text, metadata

    @functools.cached_property
    def languages(self) -> tuple[tuple[str, float], ...]:
        """The likeliest languages as (code, confidence), the likeliest first."""
        return languages.candidates(self.text, _NUM_LANGUAGES)

    @functools.cached_property
    def _fields(self) -> dict[str, Any]:
        return {name.lower(): value for name, value in self._metadata.items()}

    def scores(self, names: Iterable[str]) -> list[float]:
        """Returns the numbers in the metadata under these names, in any case of letters."""
        found = (number(self._fields.get(name.lower())) for name in names)
        return [value for value in found if value is not None]


class Image:
    """An image: its size, that of its file, its format, and the pixels if it is decoded.

    Attributes:
      width: in pixels.
      height: in pixels.
      num_bytes: of the encoded image; 0 if not known.
      format: "jpeg", "png", ...; "" if not known.
      pixels: [height, width, 3] uint8, or None.
    """

    def __init__(
        self, width: int, height: int, num_bytes: int, format: str, pixels: np.ndarray | None
    ) -> None:
        self.width, self.height, self.num_bytes = width, height, num_bytes
        self.format, self.pixels = format, pixels

    @property
    def short_side(self) -> int:
        """The shorter side in pixels."""
        return min(self.width, self.height)

    @property
    def aspect_ratio(self) -> float:
        """The long side over the short side."""
        return max(self.width, self.height) / max(1, self.short_side)

    def deviation(self, enough: float) -> float | None:
        """Returns the largest standard deviation of a channel; None without pixels.

        One pixel in 64 is measured; all of them only if those have less than `enough`.
        """
        if self.pixels is None:
            return None
        some = _deviation(self.pixels[::8, ::8])
        return some if some >= enough else _deviation(self.pixels)

    @functools.cached_property
    def entropy(self) -> float | None:
        """The entropy of the grey values in bits, of at most 65,536 pixels; None without pixels."""
        if self.pixels is None:
            return None
        height, width, _ = self.pixels.shape  # less than the image's if decoded at less
        step = max(1, math.isqrt(width * height // _MAX_GREY_PIXELS))
        some = self.pixels[::step, ::step].astype(np.uint16)
        grey = (2 * some[..., 0] + 5 * some[..., 1] + some[..., 2]) >> 3
        counts = np.bincount(grey.ravel(), minlength=256)
        shares = counts[counts > 0] / grey.size
        return float(-(shares * np.log2(shares)).sum()) + 0.0


def number(value: Any) -> float | None:
    """Returns a value of the metadata as a number; None if it is none, or not finite."""
    if isinstance(value, str):
        value = _TAGS.get(value.strip().lower(), value)
    if value is None or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def image_format(data: bytes) -> str:
    """Returns "jpeg", "png", "gif", "webp", "bmp", "tiff" or "avif" by the first bytes, or ""."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    return next((name for start, name in _SIGNATURES if data.startswith(start)), "")


def _deviation(pixels: np.ndarray) -> float:
    """Returns the largest standard deviation of the channels of [height, width, 3] uint8."""
    return float(pixels.std(axis=(0, 1), dtype=np.float64).max())
