# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures embedded in a page, within a budget of bytes; large ones as a smaller copy."""

import dataclasses
import io
from collections.abc import Iterator, Sequence

import PIL.Image

from parti.pipelines.html import templates
from parti.stages import files

# Widths in pixels of the copies that are tried, the first that is small enough is taken.
_WIDTHS = (384, 192)


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A picture in the page."""

    source: str  # a data URI
    width: int  # of the file, in pixels
    is_reduced: bool  # a copy with fewer pixels than the file, or compressed with loss


def embed(
    paths: Sequence[str],  # the most important first
    budget: int,  # bytes of all of them together, before base64
    share: int,  # bytes of one picture, from which on a smaller copy is tried
) -> Iterator[Thumbnail]:
    """Yields thumbnails of the first pictures, in order, until the budget is used up."""

    def read(path: str) -> tuple[int, str, bytes, bool]:
        data = files.read_bytes(path)
        with PIL.Image.open(io.BytesIO(data)) as image:
            kind, small = _reduced(image, data, share)
            return image.width, kind, small, small is not data

    for width, kind, data, is_reduced in files.each(read, paths):
        budget -= len(data)
        if budget < 0:
            return
        yield Thumbnail(templates.data_uri(data, kind), width, is_reduced)


def _reduced(image: PIL.Image.Image, data: bytes, share: int) -> tuple[str, bytes]:
    """Returns (image type, bytes): those of the file, or of a smaller copy as WebP."""
    kind, found = str(image.format).lower(), data
    for width in _WIDTHS:
        if image.width <= _WIDTHS[0] and len(found) <= share:
            break
        size = min(width, image.width)
        height = max(round(image.height * size / image.width), 1)
        small = image.convert("RGB").resize((size, height), PIL.Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "webp", quality=88, method=4)
        if buffer.tell() < len(found):
            kind, found = "webp", buffer.getvalue()
        if len(found) <= share:
            break
    return kind, found
