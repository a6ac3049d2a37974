# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Copies that are changed in their frame: mirrored, bordered, cropped, or with a caption over them.

The hash of a whole image (`image_hashes`) misses these. Here an image has a *sketch*: a 32 x 32
thumbnail, the box inside its uniform frame, and a thumbnail of that box. From a sketch come hashes
of its *views*: the whole, the box, the mirror image, windows, the upper and the lower part.

Two images may be copies if two of their views that go together (`FAMILIES`) have near hashes. They
are copies if these views agree in their colours too, everywhere: a window is first moved and
stretched to where it fits best. Drawings that differ in a colour or in a part have near hashes and
other colours there.
"""

import dataclasses
import functools
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from parti.data.images import image_hashes

MAX_DISTANCE = 8  # bits
_FAR = image_hashes.NUM_BITS + 1
_BITS_PER_ERROR = 3  # a hash with few set bits, of an image of little detail, must be nearer

_SIDE = image_hashes.THUMBNAIL_SIDE
_GRID = 16  # cells on a side of a view whose colours are compared
_HEADER = struct.Struct("<4H2I")  # box in 65535ths, width, height
_UNIT = 65535
_THUMBNAIL_BYTES = 3 * _SIDE * _SIDE
MAX_BYTES = _HEADER.size + 2 * _THUMBNAIL_BYTES  # of a sketch
_YCC = image_hashes.YCC / 1000
_WHOLE_BOX = (0.0, 0.0, 1.0, 1.0)

# A line of pixels belongs to a uniform frame if most are near the median of the outermost line.
_FRAME_LEVELS, _FRAME_SHARE = 20, 0.97
_CLEAN_LEVELS = 2
_MIN_BOX = 0.2  # of a side

_STRIP = 0.22  # of the height, which a caption may cover
_WINDOWS_PER_SIDE = {0.95: 2, 0.9: 3, 0.85: 2}  # side of a window -> positions on an axis
_MAX_CROP = 0.975  # side of a window from which on it is the whole image
_CROP_LIMIT = 12.0  # levels; what resampling a thumbnail leaves at edges is within
_BORDER_LIMIT, _MIN_BORDER = 8.0, 0.03  # levels, at least; of the shorter side of the content
# The root mean square of what differs, of the contrast of a view.
_CROP_NOISE, _BORDER_NOISE, _NOISE = 0.2, 0.15, 0.1
_COARSE_LEVELS = 32.0  # for a quarter of a side, before a window is moved
_STEPS, _STEP, _MAX_STEP, _DAMPING = 3, 0.008, 0.04, 20.0
_MIRROR_SHARE = 0.7  # of the limit for whole images: drawings of left and right hands differ a bit
_CAPTION_LEVELS = 16.0  # by which a column of a view is changed under a caption
_BAR_COLUMNS, _CAPTION_COLUMNS = 14, 10  # of _GRID
_CAPTION_LIMIT = 0.75  # levels, of what a caption without a bar leaves
_MIN_CONTRAST = 1.0  # levels; in views of less nothing is to be compared
_MIN_ISOTROPY = 0.04  # see `_isotropy`


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
_WHOLE, _BOX, _MIRROR = 0, 1, 2
_VIEWS = (
    View(*_WHOLE_BOX),
    View(*_WHOLE_BOX),
    View(*_WHOLE_BOX, mirrored=True),
    *_windows(),
    View(0, 0, 1, 1 - _STRIP),
    View(0, _STRIP, 1, 1),
)
NUM_VIEWS = len(_VIEWS)
_UPPER, _LOWER = NUM_VIEWS - 2, NUM_VIEWS - 1


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
            if view != _BOX or has_frame:
                yield view


FAMILIES = (
    Family((_WHOLE,), tuple(range(_MIRROR, _UPPER))),
    Family((_BOX,), (_WHOLE, _BOX)),
    Family((_UPPER,), (_UPPER,)),
    Family((_LOWER,), (_LOWER,)),
)


class Sketches(Protocol):
    """Sketches by number; a list of them, or what reads them where they are asked for."""

    def __getitem__(self, index: int, /) -> bytes:
        """Returns a sketch."""


class Found(NamedTuple):
    """How an image was changed ("mirrored"), and where it differs most, in levels of 255."""

    change: str
    levels: float


def sketch(image: np.ndarray) -> bytes:
    """Returns the sketch of an image [height, width, 3] uint8: 3 KB, 6 with a uniform frame."""
    height, width = image.shape[:2]
    box = _inner_box(image)
    left, top, right, bottom = box
    header = (round(_UNIT * edge) for edge in (left / width, top / height))
    far = (round(_UNIT * edge) for edge in (right / width, bottom / height))
    parts = [_HEADER.pack(*header, *far, width, height)]
    parts.append(image_hashes.thumbnail(image).tobytes())
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
            own = np.median(some[0], axis=0).astype(np.int16)
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
    count, step = 0, 1
    while count < len(lines):  # few lines at first: most images have no frame
        some = np.abs(lines[count : count + step].astype(np.int16) - colour).max(axis=2)
        uniform = (some <= _FRAME_LEVELS).mean(axis=1) >= _FRAME_SHARE
        if not uniform.all():
            return count + int(np.argmin(uniform))
        count, step = count + step, step * 2
    return len(lines)


def _is_mixed(line: np.ndarray) -> bool:
    """Returns whether the last line of a frame is not quite uniform: JPEG mixed in the content."""
    return bool((line.max(axis=0) - line.min(axis=0)).max() > _CLEAN_LEVELS)


@functools.cache
def _bases() -> tuple[np.ndarray, np.ndarray]:
    """Returns whole-number DCT rows and columns of each view: [view, frequency, pixel] float64."""
    basis, _, _ = image_hashes.cosines()
    rows, columns = [], []
    for left, top, right, bottom, mirrored in _VIEWS:
        across = _cover(np.array([[left, right]]), _SIDE)[0]
        rows.append(basis @ _cover(np.array([[top, bottom]]), _SIDE)[0])
        columns.append(basis @ (across[::-1] if mirrored else across))
    return np.rint(rows), np.rint(columns)


def _cover(spans: np.ndarray, num: int) -> np.ndarray:
    """Returns by what share each of `num` cells of a span covers the pixels: [n, num, _SIDE].

    `spans` is [n, 2], beginning and end in [0, 1] of the thumbnail's side.
    """
    edges = spans[:, :1] + (spans[:, 1:] - spans[:, :1]) * np.arange(num + 1) / num
    edges = np.clip(edges, 0, 1)[:, :, None] * _SIDE
    pixels = np.arange(_SIDE)
    shares = np.minimum(edges[:, 1:], pixels + 1) - np.maximum(edges[:, :-1], pixels)
    shares = np.maximum(shares, 0)
    return shares / np.maximum(shares.sum(axis=2, keepdims=True), 1e-9)


def hashes(data: bytes) -> np.ndarray:
    """Returns the hashes of the views of a sketch, [NUM_VIEWS] uint64."""
    rows, columns = _bases()
    _, u, v = image_hashes.cosines()
    whole, inner = _thumbnails(data)
    lumas = np.stack([whole, inner]) @ image_hashes.YCC[:, 0]
    # Whole numbers under 2**53: equal on every machine, in whichever order they are added.
    lumas = np.rint(lumas / 1000)
    which = (np.arange(NUM_VIEWS) == _BOX).astype(int)
    coefficients = (rows @ lumas[which] @ columns.transpose(0, 2, 1))[:, u, v]
    bits = coefficients > image_hashes.BIT_THRESHOLD / 1000
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(">u8")[:, 0].astype(np.uint64)


def _thumbnails(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns the thumbnails of the whole and of the box, [_SIDE, _SIDE, 3] uint8."""
    pixels = np.frombuffer(data, np.uint8, offset=_HEADER.size).reshape(-1, _SIDE, _SIDE, 3)
    return pixels[0], pixels[-1]


def has_frame(data: bytes) -> bool:
    """Returns whether the image of a sketch has a uniform frame."""
    return len(data) > _HEADER.size + _THUMBNAIL_BYTES


def near_limits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns in how many bits hashes (uint64, broadcast) may differ."""
    bits = np.minimum(np.bitwise_count(a), np.bitwise_count(b))
    return np.clip(bits // _BITS_PER_ERROR, 1, MAX_DISTANCE)


def is_near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns whether hashes (uint64, broadcast) differ in no more bits than `near_limits`."""
    return _distances_within(a, b) <= MAX_DISTANCE


def compare(
    one: bytes, one_hashes: np.ndarray, many: Sketches, many_hashes: np.ndarray
) -> dict[int, Found]:
    """Returns which of many images are changed copies of one, or it of them: index -> how.

    Args:
      one: a sketch.
      one_hashes: [NUM_VIEWS] uint64, its `hashes`.
      many: n sketches.
      many_hashes: [n, NUM_VIEWS] uint64, theirs.
    """
    found: dict[int, Found] = {}
    for index, change, levels in _all_found(one, one_hashes, many, many_hashes):
        if index not in found or levels < found[index].levels:
            found[index] = Found(change, levels)
    return found


def _all_found(
    one: bytes, own: np.ndarray, many: Sketches, theirs: np.ndarray
) -> Iterable[tuple[int, str, float]]:
    yield from _find_mirrored(one, many, np.flatnonzero(is_near(own[_WHOLE], theirs[:, _MIRROR])))
    windows = slice(_MIRROR + 1, _UPPER)
    for near, is_one_smaller in (
        (_distances_within(own[_WHOLE], theirs[:, windows]), True),
        (_distances_within(theirs[:, _WHOLE, None], own[windows]), False),
    ):
        rows = np.flatnonzero(near.min(axis=1) <= MAX_DISTANCE)
        views = near[rows].argmin(axis=1) + windows.start
        yield from _find_cropped(one, many, rows, views, is_one_smaller)
    if has_frame(one):
        rows = np.flatnonzero(is_near(own[_BOX], theirs[:, _WHOLE]))
        yield from _find_bordered(one, many, rows, own_box=True, their_box=False)
        rows = _framed(many, np.flatnonzero(is_near(own[_BOX], theirs[:, _BOX])))
        rows = rows[[_is_wider_frame(one, many[int(row)]) for row in rows]] if len(rows) else rows
        yield from _find_bordered(one, many, rows, own_box=True, their_box=True)
    rows = _framed(many, np.flatnonzero(is_near(own[_WHOLE], theirs[:, _BOX])))
    yield from _find_bordered(one, many, rows, own_box=False, their_box=True)
    for view in (_UPPER, _LOWER):
        rows = np.flatnonzero(is_near(own[view], theirs[:, view]))
        yield from _find_overlaid(one, many, rows, view)


def _framed(many: Sketches, rows: np.ndarray) -> np.ndarray:
    return np.array([row for row in rows if has_frame(many[row])], int)


def _distances_within(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns in how many bits hashes differ; more than any limit for those that are not near."""
    bits = np.bitwise_count(a ^ b)
    found = np.full(bits.shape, _FAR, np.uint8)
    at = np.nonzero(bits <= MAX_DISTANCE)  # a few
    near = bits[at] <= near_limits(*(np.broadcast_to(x, bits.shape)[at] for x in (a, b)))
    found[at] = np.where(near, bits[at], _FAR)
    return found


def _pixels(many: Sketches, rows: np.ndarray, box: bool = False) -> np.ndarray:
    """Returns the thumbnails [n, _SIDE, _SIDE, 3] float64 of some sketches, whole or of the box."""
    found = np.zeros((len(rows), _SIDE, _SIDE, 3))
    for index, row in enumerate(rows):
        found[index] = _thumbnails(many[row])[int(box)]
    return found


def _sample(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the means of _GRID x _GRID cells of a box of each of n thumbnails.

    Args:
      pixels: [n, _SIDE, _SIDE, 3].
      boxes: [n, 4]: left, top, right and bottom in [0, 1].
    """
    n = len(pixels)
    rows, columns = _cover(boxes[:, 1::2], _GRID), _cover(boxes[:, ::2], _GRID)
    found = (rows @ pixels.reshape(n, _SIDE, -1)).reshape(n, _GRID, _SIDE, 3)
    return columns[:, None] @ found


def _boxes(num: int, view: Sequence[float] = _WHOLE_BOX) -> np.ndarray:
    return np.tile(np.array(view[:4], np.float64), (num, 1))


def _levels(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compares views [n, _GRID, _GRID, 3].

    Returns where each pair differs most, in levels, as `image_hashes.colour_distance` does; and
    the root mean square of the difference, as a share of the contrast of `a` (infinity where there
    is none).
    """
    difference = (a - b) @ _YCC
    n, height, width = difference.shape[:3]
    cells = difference[..., 0].reshape(n, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    blocks = difference[..., 1:].reshape(n, height // 4, 4, width // 4, 4, 2).mean(axis=(2, 4))
    luma = np.abs(cells).max(axis=(1, 2))
    chroma = np.sqrt(np.square(blocks).sum(axis=-1)).max(axis=(1, 2))
    # JPEG keeps colour at half the resolution, so it is compared in blocks.
    noise = np.square(difference[..., 0]).mean(axis=(1, 2))
    noise = np.sqrt(noise + np.square(blocks).mean(axis=(1, 2)).sum(axis=-1))
    contrast = np.sqrt((a @ _YCC).var(axis=(1, 2)).sum(axis=-1))
    noise = np.where(contrast >= _MIN_CONTRAST, noise / np.maximum(contrast, 1e-9), np.inf)
    return np.maximum(luma, chroma), noise


def _accept(
    a: np.ndarray, b: np.ndarray, rows: np.ndarray, limits: np.ndarray, noise: float, change: str
) -> Iterable[tuple[int, str, float]]:
    levels, share = _levels(a, b)
    for index in np.flatnonzero((levels <= limits) & (share <= noise)):
        yield int(rows[index]), change, float(levels[index])


def _limits(one: bytes, many: Sketches, rows: np.ndarray) -> np.ndarray:
    """Returns the `image_hashes.colour_limit` of the smaller of each pair."""
    sizes = np.array([_size(many[row]) for row in rows], np.int64).reshape(-1, 2).prod(axis=1)
    return image_hashes.colour_limit(np.minimum(sizes, np.prod(_size(one))))


def _size(data: bytes) -> tuple[int, int]:
    *_, width, height = _HEADER.unpack_from(data)
    return width, height


def _find_mirrored(
    one: bytes, many: Sketches, rows: np.ndarray
) -> Iterable[tuple[int, str, float]]:
    if len(rows):
        own = _sample(_pixels([one], np.zeros(len(rows), int)), _boxes(len(rows)))
        theirs = _sample(_pixels(many, rows), _boxes(len(rows)))[:, :, ::-1]
        limits = _MIRROR_SHARE * _limits(one, many, rows)
        yield from _accept(own, theirs, rows, limits, _NOISE, "mirrored")


def _find_bordered(
    one: bytes, many: Sketches, rows: np.ndarray, own_box: bool, their_box: bool
) -> Iterable[tuple[int, str, float]]:
    if len(rows):
        own = _pixels([one], np.zeros(len(rows), int), own_box)
        theirs = _pixels(many, rows, their_box)
        small, large = (own, theirs) if own_box else (theirs, own)
        target = _sample(small, _boxes(len(rows)))
        fitted = _sample(large, _fit(target, large, _boxes(len(rows))))
        limits = np.maximum(_limits(one, many, rows), _BORDER_LIMIT)
        yield from _accept(target, fitted, rows, limits, _BORDER_NOISE, "bordered")


def _is_wider_frame(one: bytes, other: bytes) -> bool:
    """Returns whether the frame of one of two images is that of the other and a border around it.

    Each of them has a frame and the same content, perhaps at another scale. Equal margins are added
    on the left and right, and above and below: or the content is at another position, or of
    another size, which is another drawing.
    """
    margins, tolerances = [], []
    for data in (one, other):
        left, top, right, bottom, width, height = _HEADER.unpack_from(data)
        across, down = (right - left) * width, (bottom - top) * height
        side = min(across, down)
        edges = (left * width, (_UNIT - right) * width, top * height, (_UNIT - bottom) * height)
        margins.append([edge / side for edge in edges])
        tolerances.append(0.02 + 1.5 * _UNIT / side)
    added = np.subtract(margins[0], margins[1])
    added = added if added.sum() >= 0 else -added
    tolerance = max(tolerances)
    return bool(
        added.max() >= max(_MIN_BORDER, tolerance)
        and added.min() >= -tolerance
        and abs(added[0] - added[1]) <= 2 * tolerance
        and abs(added[2] - added[3]) <= 2 * tolerance
    )


def _find_overlaid(
    one: bytes, many: Sketches, rows: np.ndarray, view: int
) -> Iterable[tuple[int, str, float]]:
    """Finds images that agree outside a strip, across which one of them has a caption.

    A caption is on a bar from edge to edge, or is most of the width of the image; then the
    rest must be equal: drawings of one series often differ in a hat, or in a shirt.
    """
    if not len(rows):
        return
    own = _sample(_pixels([one], np.zeros(len(rows), int)), _boxes(len(rows)))
    theirs = _sample(_pixels(many, rows), _boxes(len(rows)))
    height = _GRID // 4
    strip = slice(_GRID - height, _GRID) if view == _UPPER else slice(0, height)
    rest = slice(0, _GRID - height) if view == _UPPER else slice(height, _GRID)
    changed = np.abs((own - theirs)[:, strip] @ _YCC[:, 0]) > _CAPTION_LEVELS
    columns = changed.any(axis=1)
    is_bar = columns[:, 0] & columns[:, -1] & (columns.sum(axis=1) >= _BAR_COLUMNS)
    is_wide = columns.sum(axis=1) >= _CAPTION_COLUMNS
    limits = np.where(is_bar, _limits(one, many, rows), np.where(is_wide, _CAPTION_LIMIT, -1))
    yield from _accept(own[:, rest], theirs[:, rest], rows, limits, _NOISE, "overlaid")


def _find_cropped(
    one: bytes, many: Sketches, rows: np.ndarray, views: np.ndarray, is_one_smaller: bool
) -> Iterable[tuple[int, str, float]]:
    """Finds the images of which one is a window, or that are a window of it."""
    if not len(rows):
        return
    same, other = _pixels([one], np.zeros(len(rows), int)), _pixels(many, rows)
    small, large = (same, other) if is_one_smaller else (other, same)
    target = _sample(small, _boxes(len(rows)))
    boxes = np.array([_VIEWS[view][:4] for view in views])
    quarter = _GRID // 4
    coarse = ((target - _sample(large, boxes)) @ _YCC[:, 0]).reshape(-1, 4, quarter, 4, quarter)
    like = np.abs(coarse.mean(axis=(2, 4))).max(axis=(1, 2)) <= _COARSE_LEVELS
    rows, target, large, boxes = rows[like], target[like], large[like], boxes[like]
    if not len(rows):
        return
    boxes = _fit(target, large, boxes)
    sides = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    # What fits without being cropped is no window, and was compared as a whole.
    # Along a straight edge many windows fit, of any image that has such an edge.
    is_certain = (sides <= _MAX_CROP) & (_isotropy(target) >= _MIN_ISOTROPY)
    for index in np.flatnonzero(is_certain):
        pair = (one, many[rows[index]]) if is_one_smaller else (many[rows[index]], one)
        is_certain[index] = _shows_cut(*pair, boxes[index])
    limits = np.where(is_certain, _CROP_LIMIT, -1)
    fitted = _sample(large, boxes)
    yield from _accept(target, fitted, rows, limits, _CROP_NOISE, "cropped")


def _shows_cut(small: bytes, large: bytes, box: np.ndarray) -> bool:
    """Returns whether a window of an image can be told from another drawing of the same content.

    Content that is cut off at an edge shows it. With a margin on all sides the window must have
    the size of the other image's pixels.
    """
    left, top, right, bottom, width, height = _HEADER.unpack_from(small)
    if not (left > 0 and top > 0 and right < _UNIT and bottom < _UNIT):
        return True
    sides = np.array([box[2] - box[0], box[3] - box[1]]) * _size(large)
    return bool((np.abs(sides - (width, height)) <= 1 + 0.005 * sides).all())


def _isotropy(views: np.ndarray) -> np.ndarray:
    """Returns how much views [n, _GRID, _GRID, 3] change along an edge, compared with across it.

    It is the ratio of the eigenvalues of the structure tensor of luma: 0 for straight parallel
    edges, up to 1.
    """
    down, across = np.gradient(views @ _YCC[:, 0], axis=(1, 2))
    xx, yy = np.square(across).mean(axis=(1, 2)), np.square(down).mean(axis=(1, 2))
    xy = (across * down).mean(axis=(1, 2))
    root = np.sqrt(np.square(xx - yy) + 4 * np.square(xy))
    return (xx + yy - root) / np.maximum(xx + yy + root, 1e-9)


def _fit(target: np.ndarray, pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns boxes [n, 4] of thumbnails, moved and stretched to where they fit the targets best.

    Some steps of damped Gauss-Newton on the four edges; the best of each is taken.
    """
    best, least = boxes, np.full(len(boxes), np.inf)
    for number in range(_STEPS + 1):
        view = _sample(pixels, boxes)
        error = np.square(view - target).mean(axis=(1, 2, 3))
        better = error < least
        best, least = np.where(better[:, None], boxes, best), np.minimum(error, least)
        if number < _STEPS:
            boxes = np.clip(boxes + _step(target, pixels, boxes, view), 0, 1)
    return best


def _step(
    target: np.ndarray, pixels: np.ndarray, boxes: np.ndarray, view: np.ndarray
) -> np.ndarray:
    slopes = []
    for edge in range(4):
        moved = boxes.copy()
        moved[:, edge] += np.where(boxes[:, edge] < 0.5, _STEP, -_STEP)
        change = (moved - boxes)[:, edge, None]
        slopes.append((_sample(pixels, moved) - view).reshape(len(view), -1) / change)
    jacobian = np.stack(slopes, axis=2)  # [n, values, 4]
    transposed = jacobian.transpose(0, 2, 1)
    residual = (target - view).reshape(len(view), -1, 1)
    normal = transposed @ jacobian + _DAMPING * residual.shape[1] * np.eye(4)
    step = np.linalg.solve(normal, transposed @ residual)[..., 0]
    return np.clip(step, -_MAX_STEP, _MAX_STEP)


class CopyIndex:
    """Finds the changed copies of a set of images held in memory, 3 to 6 KB an image."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._sketches: list[bytes] = []
        self._hashes = np.zeros((0, NUM_VIEWS), np.uint64)

    def add(self, key: str, data: bytes) -> None:
        """Adds an image by its sketch."""
        self._keys.append(key)
        self._sketches.append(data)

    def query(self, data: bytes) -> tuple[str, Found] | None:
        """Returns the image that one is most like, by its sketch: changed, or changed from it."""
        if len(self._hashes) < len(self._keys):
            added = [hashes(data) for data in self._sketches[len(self._hashes) :]]
            self._hashes = np.concatenate([self._hashes, np.stack(added)])
        if not self._keys:
            return None
        found = compare(data, hashes(data), self._sketches, self._hashes)
        if not found:
            return None
        best = min(found, key=lambda index: (found[index].levels, index))
        return self._keys[best], found[best]
