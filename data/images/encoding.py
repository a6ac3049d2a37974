# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Images as PNG, WebP or JPEG that carry what they were made with; equal calls give equal bytes.

The metadata is one line of JSON in ASCII: the text chunk `parti` of a PNG, the EXIF tag
ImageDescription of the others, which any reader of EXIF shows.
"""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from parti.data.images import images

PNG, WEBP, JPEG = "png", "webp", "jpeg"
FORMATS = (PNG, WEBP, JPEG)
LOSSY_QUALITY = images.JPEG_QUALITY  # unless another is given
# A segment of a JPEG, EXIF's too, holds 65,533 bytes; the rest of EXIF is under a hundred.
MAX_METADATA_BYTES = 65_000
MAX_TEXT = 2000  # characters of a text in the metadata: as escapes of 12 bytes, 24,000 bytes
_CHUNK = "parti"
_WEBP_METHOD = 4  # of 0, fast, to 6, small


def check_quality(kind: str, quality: int | None) -> int | None:
    """Returns the quality of a format: what is given, or its default; None for PNG.

    ValueError: no such format, or no such quality of it; the message begins with the name.
    """
    if kind not in FORMATS:
        raise ValueError(f"format={kind}: give one of {', '.join(FORMATS)}")
    if quality is None:
        return None if kind == PNG else LOSSY_QUALITY
    if kind == PNG:
        raise ValueError(f"quality={quality}: is of webp and jpeg; a PNG has all of the image")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality={quality}: give 1 to 100")
    return quality


def encode(
    image: np.ndarray,
    kind: str = PNG,
    quality: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """Encodes an image, with metadata that `read_metadata` returns.

    Texts of over `MAX_TEXT` characters are cut in it, at any depth, and end in `...`.

    Args:
      image: [height, width, 3] uint8.
      kind: one of `FORMATS`.
      quality: of WebP and JPEG, 1 to 100; None is `LOSSY_QUALITY`.
      metadata: JSON.

    Raises:
      ValueError: no such format or quality, another shape or dtype, or metadata that is no JSON or
        of over `MAX_METADATA_BYTES`.
    """
    quality = check_quality(kind, quality)
    text = "" if metadata is None else _text(metadata)
    if kind == PNG:
        chunks = PngImagePlugin.PngInfo()
        if text:
            chunks.add_text(_CHUNK, text)
        return images.encode_png(image, chunks)
    exif = Image.Exif()
    if text:
        exif[ExifTags.Base.ImageDescription] = text
    described = {"exif": exif.tobytes()} if text else {}
    if kind == JPEG:
        return images.encode_jpeg(image, quality or LOSSY_QUALITY, **described)
    return images.save(image, "WEBP", quality=quality, method=_WEBP_METHOD, **described)


def read_metadata(data: bytes) -> dict[str, Any] | None:
    """Returns the metadata of an image that `encode` wrote; None if it has none.

    ValueError: not a PNG, WebP or JPEG.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[name.upper() for name in FORMATS]) as image:
            is_png = image.format == PNG.upper()
            exif = {} if is_png else image.getexif()
            text = image.info.get(_CHUNK) or exif.get(ExifTags.Base.ImageDescription)
    except Exception as error:  # noqa: BLE001 - a broken file can raise nearly anything
        raise ValueError(f"no metadata: not a PNG, WebP or JPEG ({error})") from error
    try:
        found = json.loads(text or "")
    except (TypeError, ValueError, RecursionError):
        return None  # a description that is not ours
    return found if isinstance(found, dict) else None


def _text(metadata: Mapping[str, Any]) -> str:
    text = json.dumps(_shortened(dict(metadata)), sort_keys=True, allow_nan=False)
    if len(text) > MAX_METADATA_BYTES:
        raise ValueError(
            f"metadata of {len(text):,} bytes; an image holds at most {MAX_METADATA_BYTES:,}"
        )
    return text


def _shortened(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _shortened(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(item) for item in value]
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{value[: MAX_TEXT - 3]}..."
    return value
