# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sketches of images, and hashes of their views, by which changed copies are found.

A *sketch* is a 32 x 32 thumbnail, the box inside the image's uniform frame, and a thumbnail of that
box. From it come hashes of *views*: the whole, the box, the mirror image, windows, the upper and
the lower part. Two images may be copies if two of their views that go together (`FAMILIES`) have
near hashes; `image_copies` compares their colours.
"""

import dataclasses
import functools
import struct
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from parti.data.images import image_hashes, view_alignment

_SIDE = image_hashes.THUMBNAIL_SIDE
_HEADER = struct.Struct("<4H2I")  # box in 65535ths, width, height
_UNIT = 65535
_LUMA = image_hashes.YCC[:, 0].astype(np.float64)
_THUMBNAIL_BYTES = 3 * _SIDE * _SIDE
MAX_BYTES = _HEADER.size + 2 * _THUMBNAIL_BYTES  # of a sketch

# A line of pixels belongs to a uniform frame if most are near the median of the outermost line.
_FRAME_LEVELS, _FRAME_SHARE = 20, 0.97
_CLEAN_LEVELS = 2
_MIN_BOX = 0.2  # of a side

_STRIP = 0.22  # of the height, which a caption may cover
_WINDOWS_PER_SIDE = {0.95: 2, 0.9: 3, 0.85: 2}  # side of a window -> positions on an axis


class View(NamedTuple):
    """A part of a thumbnail: left, top, right and bottom in [0, 1], and if it is mirrored."""

    left: float
    top: float
    right: float
    bottom: float
    mirrored: bool = False


def _windows() -> list[View]:
    found = []
    for side, num in _WINDOWS_PER_SIDE.items():
        steps = [(1 - side) * i / (num - 1) for i in range(num)]
        corners = [(x, y) for x in steps for y in steps]
        if num % 2 == 0:
            corners.append(((1 - side) / 2, (1 - side) / 2))
        found += [View(x, y, x + side, y + side) for x, y in corners]
    return found


# Columns of the hashes of a sketch. That of the box is the first of the box's own thumbnail.
WHOLE, BOX, MIRROR = 0, 1, 2
VIEWS = (
    View(0, 0, 1, 1),
    View(0, 0, 1, 1),
    View(0, 0, 1, 1, mirrored=True),
    *_windows(),
    View(0, 0, 1, 1 - _STRIP),
    View(0, _STRIP, 1, 1),
)
NUM_VIEWS = len(VIEWS)
UPPER, LOWER = NUM_VIEWS - 2, NUM_VIEWS - 1
WINDOWS = range(MIRROR + 1, UPPER)


@dataclasses.dataclass(frozen=True)
class Family:
    """Views whose hashes are compared: each of the `probes` with each of the `targets`.

    Both are columns of `hashes`.
    """

    probes: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def is_between_different(self) -> bool:
        """Returns whether no probe is a target too."""
        return not set(self.probes) & set(self.targets)

    def views(self, has_frame: bool) -> Iterable[int]:
        """Yields its columns, each once; that of the box only for an image that has a frame."""
        for view in dict.fromkeys(self.probes + self.targets):
            if view != BOX or has_frame:
                yield view


FAMILIES = (
    Family((WHOLE,), tuple(range(MIRROR, UPPER))),
    Family((BOX,), (WHOLE, BOX)),
    Family((UPPER,), (UPPER,)),
    Family((LOWER,), (LOWER,)),
)


def sketch(image: np.ndarray, thumbnail: np.ndarray | None = None) -> bytes:
    """Returns the sketch of an image [height, width, 3] uint8: 3 KB, 6 with a uniform frame.

    `thumbnail` is its `image_hashes.thumbnail`, if that is known.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = box = _inner_box(image)
    near = (round(_UNIT * edge) for edge in (left / width, top / height))
    far = (round(_UNIT * edge) for edge in (right / width, bottom / height))
    whole = image_hashes.thumbnail(image) if thumbnail is None else thumbnail
    parts = [_HEADER.pack(*near, *far, width, height), whole.tobytes()]
    if box != (0, 0, width, height):
        inner = np.ascontiguousarray(image[top:bottom, left:right])
        parts.append(image_hashes.thumbnail(inner).tobytes())
    return b"".join(parts)


def _inner_box(image: np.ndarray) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of what is inside a frame of one colour, in pixels."""
    height, width = image.shape[:2]
    colour: np.ndarray | None = None
    sides: list[int] = []
    rows = columns = slice(None)
    for _ in range(2):  # rows, then columns
        part = image[rows, columns]
        lines = part if not sides else part.transpose(1, 0, 2)
        for some in (lines, lines[::-1]):
            own = _median(some[0])
            is_other = colour is not None and np.abs(own - colour).max() > _FRAME_LEVELS
            count = 0 if is_other else _frame_lines(some, own)
            if count:
                colour = own if colour is None else colour
                count = min(count + _is_mixed(some[count - 1]), len(lines) - 1)
            sides.append(count)
        if sum(sides[-2:]) > (1 - _MIN_BOX) * len(lines):
            return 0, 0, width, height
        rows = slice(sides[0], height - sides[1])
    return sides[2], sides[0], width - sides[3], height - sides[1]


def _frame_lines(lines: np.ndarray, colour: np.ndarray) -> int:
    """Returns how many of [n, length, 3], from the first on, are of a colour."""
    low = np.maximum(colour - _FRAME_LEVELS, 0).astype(np.uint8)
    high = np.minimum(colour + _FRAME_LEVELS, 255).astype(np.uint8)
    count, step = 0, 1
    while count < len(lines):  # few lines at first: most images have no frame
        some = lines[count : count + step]
        like = (low <= some) & (some <= high)
        uniform = (like[..., 0] & like[..., 1] & like[..., 2]).mean(axis=1) >= _FRAME_SHARE
        if not uniform.all():
            return count + int(np.argmin(uniform))
        count, step = count + step, step * 8
    return len(lines)


def _median(line: np.ndarray) -> np.ndarray:
    """Returns the median colour of [n, 3] uint8, rounded down: `np.median` takes much longer."""
    low, high = (len(line) - 1) // 2, len(line) // 2
    middle = np.partition(line, (low, high), axis=0)[[low, high]]
    return middle.sum(axis=0, dtype=np.int16) // 2


def _is_mixed(line: np.ndarray) -> bool:
    """Returns whether the last line of a frame is not quite uniform: JPEG mixed in the content."""
    return bool((line.max(axis=0) - line.min(axis=0)).max() > _CLEAN_LEVELS)


@functools.cache
def _bases() -> tuple[np.ndarray, np.ndarray]:
    """Returns whole-number DCT rows and columns of each view: [view, frequency, pixel] float64."""
    basis, _, _ = image_hashes.cosines()
    views = np.array(VIEWS, np.float64)
    across = view_alignment.cover(views[:, [0, 2]], _SIDE)
    across[MIRROR] = across[MIRROR, ::-1]
    return np.rint(basis @ view_alignment.cover(views[:, [1, 3]], _SIDE)), np.rint(basis @ across)


def hashes(data: bytes) -> np.ndarray:
    """Returns the hashes of the views of a sketch, [NUM_VIEWS] uint64."""
    rows, columns = _bases()
    _, u, v = image_hashes.cosines()
    # Whole numbers under 2**53: equal on every machine, in whichever order they are added.
    lumas = [np.rint(pixels @ _LUMA / 1000) for pixels in thumbnails(data)]
    down = (rows.reshape(-1, _SIDE) @ lumas[0]).reshape(rows.shape)
    if has_frame(data):
        down[BOX] = rows[BOX] @ lumas[1]
    bits = (down @ columns.transpose(0, 2, 1))[:, u, v] > image_hashes.BIT_THRESHOLD / 1000
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(">u8")[:, 0].astype(np.uint64)


def thumbnails(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns the thumbnails of the whole and of the box, [side, side, 3] uint8."""
    pixels = np.frombuffer(data, np.uint8, offset=_HEADER.size).reshape(-1, _SIDE, _SIDE, 3)
    return pixels[0], pixels[-1]


def has_frame(data: bytes) -> bool:
    """Returns whether the image of a sketch has a uniform frame."""
    return len(data) > _HEADER.size + _THUMBNAIL_BYTES


def frame(data: bytes) -> tuple[float, float, float, float]:
    """Returns the box inside the frame: left, top, right and bottom in [0, 1]."""
    left, top, right, bottom, _, _ = _HEADER.unpack_from(data)
    return left / _UNIT, top / _UNIT, right / _UNIT, bottom / _UNIT


def size(data: bytes) -> tuple[int, int]:
    """Returns width and height of the image of a sketch."""
    *_, width, height = _HEADER.unpack_from(data)
    return width, height
