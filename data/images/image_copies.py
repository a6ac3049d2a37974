# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Copies that are changed in their frame: mirrored, bordered, cropped, or with a caption over them.

The hash of a whole image (`image_hashes`) misses these. Two images may be copies if two of their
views that go together have near hashes (`image_sketches`, `near_hashes`). They are copies if these
views agree in their colours too, everywhere: a window is first moved and stretched to where it fits
best (`view_alignment`). Drawings that differ in a colour or in a part have near hashes and other
colours there.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from parti.data.images import image_hashes, image_sketches, near_hashes, view_alignment

_MAX_CROP = 0.975  # side of a window from which on it is the whole image
_CROP_LIMIT = 12.0  # levels; what resampling a thumbnail leaves at edges is within
_BORDER_LIMIT, _MIN_BORDER = 8.0, 0.03  # levels, at least; of the shorter side of the content
# The root mean square of what differs, of the contrast of a view.
_CROP_NOISE, _BORDER_NOISE, _NOISE = 0.2, 0.15, 0.1
_COARSE_LEVELS, _COARSE_NOISE = 32.0, 1.0  # levels of a quarter of a side; before a window is moved
_MIRROR_SHARE = 0.7  # of the limit for whole images: drawings of left and right hands differ a bit
_FAINT_LEVELS, _FAINT_NOISE = 1.25, 0.3  # of mirrored images: JPEG leaves as much in faint ones
_CAPTION_LEVELS = 16.0  # by which a column of a view is changed under a caption
_BAR_COLUMNS, _CAPTION_COLUMNS = 14, 10  # of the grid
_CAPTION_LIMIT = 0.75  # levels, of what a caption without a bar leaves
_MIN_ISOTROPY = 0.055  # see `view_alignment.isotropy`

_GRID = view_alignment.GRID
_WHOLE_BOX = np.array([[0.0, 0.0, 1.0, 1.0]])


class Sketches(Protocol):
    """Sketches by number; a list of them, or what reads them where they are asked for."""

    def __getitem__(self, index: int, /) -> bytes:
        """Returns a sketch."""


class Found(NamedTuple):
    """How an image was changed ("mirrored"), and where it differs most, in levels of 255."""

    change: str
    levels: float


_Accepted = Iterator[tuple[int, Found]]


def compare(
    one: bytes, one_hashes: np.ndarray, many: Sketches, many_hashes: near_hashes.Rows
) -> dict[int, Found]:
    """Returns which of many images are changed copies of one, or it of them: index -> how.

    Args:
      one: a sketch.
      one_hashes: [NUM_VIEWS] uint64, its `image_sketches.hashes`.
      many: n sketches.
      many_hashes: their hashes.
    """
    found: dict[int, Found] = {}
    for index, copy in _Comparison(one, one_hashes, many, many_hashes).all():
        if index not in found or copy.levels < found[index].levels:
            found[index] = copy
    return found


class _Comparison:
    """One image and many; its methods yield the index of each copy and how it was changed."""

    def __init__(
        self, one: bytes, hashes: np.ndarray, many: Sketches, many_hashes: near_hashes.Rows
    ) -> None:
        self._one, self._hashes, self._many, self._many_hashes = one, hashes, many, many_hashes

    def all(self) -> _Accepted:
        whole, box, mirror = image_sketches.WHOLE, image_sketches.BOX, image_sketches.MIRROR
        yield from self._mirrored(self._near(whole, mirror))
        yield from self._cropped()
        if image_sketches.has_frame(self._one):
            yield from self._bordered(self._near(box, whole), own_box=True, their_box=False)
            rows = self._framed(self._near(box, box), is_wider=True)
            yield from self._bordered(rows, own_box=True, their_box=True)
        rows = self._framed(self._near(whole, box), is_wider=False)
        yield from self._bordered(rows, own_box=False, their_box=True)
        for view in (image_sketches.UPPER, image_sketches.LOWER):
            yield from self._overlaid(self._near(view, view), view)

    def _near(self, own: int, their: int) -> np.ndarray:
        return self._many_hashes.nearest(self._hashes[[own]], range(their, their + 1))[0]

    def _framed(self, rows: np.ndarray, is_wider: bool) -> np.ndarray:
        """Returns the rows that have a frame; if asked, of which one is a wider one around it."""
        found = []
        for row in rows:
            other = self._many[row]
            if image_sketches.has_frame(other) and not (
                is_wider and not _is_wider_frame(self._one, other)
            ):
                found.append(row)
        return np.array(found, int)

    def _own(self, box: bool = False) -> np.ndarray:
        return _pixels([self._one], [0], box)

    def _theirs(self, rows: np.ndarray, box: bool = False) -> np.ndarray:
        return _pixels(self._many, rows, box)

    def _limits(self, rows: np.ndarray) -> np.ndarray:
        """Returns the `image_hashes.colour_limit` of the smaller of each pair."""
        sizes = [np.prod(image_sketches.size(self._many[row])) for row in rows]
        own = np.prod(image_sketches.size(self._one))
        return image_hashes.colour_limit(np.minimum(np.array(sizes, np.int64), own))

    def _mirrored(self, rows: np.ndarray) -> _Accepted:
        if len(rows):
            own = view_alignment.whole(self._own())
            theirs = view_alignment.whole(self._theirs(rows))[..., ::-1]
            limits = _MIRROR_SHARE * self._limits(rows)
            yield from _accept(own, theirs, rows, limits, _NOISE, "mirrored")
            limits = np.minimum(limits, _FAINT_LEVELS)
            yield from _accept(own, theirs, rows, limits, _FAINT_NOISE, "mirrored")

    def _bordered(self, rows: np.ndarray, own_box: bool, their_box: bool) -> _Accepted:
        if len(rows):
            own, theirs = self._own(own_box), self._theirs(rows, their_box)
            small, large = (own, theirs) if own_box else (theirs, own)
            target = view_alignment.whole(small)
            _, fitted = view_alignment.fit(target, large, _WHOLE_BOX.repeat(len(rows), axis=0))
            limits = np.maximum(self._limits(rows), _BORDER_LIMIT)
            yield from _accept(target, fitted, rows, limits, _BORDER_NOISE, "bordered")

    def _overlaid(self, rows: np.ndarray, view: int) -> _Accepted:
        """Finds images that agree outside a strip, across which one of them has a caption.

        A caption is on a bar from edge to edge, or is most of the width of the image; then the
        rest must be equal: drawings of one series often differ in a hat, or in a shirt.
        """
        if not len(rows):
            return
        own = view_alignment.whole(self._own())
        theirs = view_alignment.whole(self._theirs(rows))
        height = _GRID // 4
        is_below = view == image_sketches.UPPER
        strip = slice(_GRID - height, _GRID) if is_below else slice(0, height)
        rest = slice(0, _GRID - height) if is_below else slice(height, _GRID)
        difference = view_alignment.luma((own - theirs)[:, :, strip])
        columns = (np.abs(difference) > _CAPTION_LEVELS).any(axis=1)
        is_bar = columns[:, 0] & columns[:, -1] & (columns.sum(axis=1) >= _BAR_COLUMNS)
        is_wide = columns.sum(axis=1) >= _CAPTION_COLUMNS
        limits = np.where(is_bar, self._limits(rows), np.where(is_wide, _CAPTION_LIMIT, -1))
        own, theirs = own[:, :, rest], theirs[:, :, rest]
        yield from _accept(own, theirs, rows, limits, _NOISE, "overlaid")

    def _cropped(self) -> _Accepted:
        """Finds the images of which one is a window, and those that are a window of it."""
        windows, whole = image_sketches.WINDOWS, image_sketches.WHOLE
        large_rows, _, views = self._many_hashes.nearest(self._hashes[[whole]], windows)
        own = self._hashes[windows.start : windows.stop]
        small_rows, own_views, _ = self._many_hashes.nearest(own, range(whole, whole + 1))
        rows = np.concatenate([large_rows, small_rows])
        if not len(rows):
            return
        is_small = np.arange(len(rows)) < len(large_rows)  # one is
        same, other = self._own(), self._theirs(rows)
        small = np.where(is_small[:, None, None, None], same, other)
        large = np.where(is_small[:, None, None, None], other, same)
        columns = np.concatenate([views, own_views + windows.start])
        boxes = np.array(image_sketches.VIEWS)[columns, :4]
        target = view_alignment.whole(small)
        quarter = _GRID // 4
        views = view_alignment.sample(large, boxes)
        coarse = view_alignment.luma(target - views)
        coarse = coarse.reshape(-1, 4, quarter, 4, quarter).mean(axis=(2, 4))
        # Along a straight edge many windows fit, of any image that has such an edge.
        like = np.abs(coarse).max(axis=(1, 2)) <= _COARSE_LEVELS
        like &= view_alignment.levels(target, views)[1] <= _COARSE_NOISE
        like &= view_alignment.isotropy(target) >= _MIN_ISOTROPY
        if not like.any():
            return
        rows, is_small, target = rows[like], is_small[like], target[like]
        boxes, fitted = view_alignment.fit(target, large[like], boxes[like])
        sides = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        # What fits without being cropped is no window, and was compared as a whole.
        is_certain = sides <= _MAX_CROP
        for index in np.flatnonzero(is_certain):
            pair = (self._one, self._many[rows[index]])
            is_certain[index] = _shows_cut(*(pair if is_small[index] else pair[::-1]), boxes[index])
        limits = np.where(is_certain, _CROP_LIMIT, -1)
        yield from _accept(target, fitted, rows, limits, _CROP_NOISE, "cropped")


def _pixels(sketches: Sketches, rows: "np.ndarray | list[int]", box: bool) -> np.ndarray:
    """Returns the thumbnails of some sketches, whole or of the box, for `view_alignment`."""
    side = image_hashes.THUMBNAIL_SIDE
    found = np.zeros((len(rows), 3, side, side))
    for index, row in enumerate(rows):
        found[index] = image_sketches.thumbnails(sketches[row])[int(box)].transpose(2, 0, 1)
    return found


def _accept(
    a: np.ndarray, b: np.ndarray, rows: np.ndarray, limits: np.ndarray, noise: float, change: str
) -> _Accepted:
    levels, share = view_alignment.levels(a, b)
    for index in np.flatnonzero((levels <= limits) & (share <= noise)):
        yield int(rows[index]), Found(change, float(levels[index]))


def _is_wider_frame(one: bytes, other: bytes) -> bool:
    """Returns whether the frame of one of two images is that of the other and a border around it.

    Each of them has a frame and the same content, perhaps at another scale. Equal margins are added
    on the left and right, and above and below: or the content is at another position, or of
    another size, which is another drawing.
    """
    margins, tolerances = [], []
    for data in (one, other):
        (left, top, right, bottom), (width, height) = (
            image_sketches.frame(data),
            image_sketches.size(data),
        )
        side = min((right - left) * width, (bottom - top) * height)
        edges = (left * width, (1 - right) * width, top * height, (1 - bottom) * height)
        margins.append([edge / side for edge in edges])
        tolerances.append(0.02 + 1.5 / side)
    added = np.subtract(margins[0], margins[1])
    added = added if added.sum() >= 0 else -added
    tolerance = max(tolerances)
    return bool(
        added.max() >= max(_MIN_BORDER, tolerance)
        and added.min() >= -tolerance
        and abs(added[0] - added[1]) <= 2 * tolerance
        and abs(added[2] - added[3]) <= 2 * tolerance
    )


def _shows_cut(small: bytes, large: bytes, box: np.ndarray) -> bool:
    """Returns whether a window of an image can be told from another drawing of the same content.

    Content that is cut off at an edge shows it. With a margin on all sides the window must have
    the size of the other image's pixels.
    """
    left, top, right, bottom = image_sketches.frame(small)
    if not (left > 0 and top > 0 and right < 1 and bottom < 1):
        return True
    sides = np.array([box[2] - box[0], box[3] - box[1]]) * image_sketches.size(large)
    return bool((np.abs(sides - image_sketches.size(small)) <= 1 + 0.005 * sides).all())


class CopyIndex:
    """Finds the changed copies of a set of images held in memory, 3 to 6 KB an image."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._sketches: list[bytes] = []
        self._hashes: near_hashes.Rows | None = None

    def add(self, key: str, data: bytes) -> None:
        """Adds an image by its sketch."""
        self._keys.append(key)
        self._sketches.append(data)
        self._hashes = None

    def query(self, data: bytes) -> tuple[str, Found] | None:
        """Returns the image that one is most like, by its sketch: changed, or changed from it."""
        if not self._keys:
            return None
        if self._hashes is None:
            rows = np.stack([image_sketches.hashes(sketch) for sketch in self._sketches])
            self._hashes = near_hashes.TabledRows(rows)
        found = compare(data, image_sketches.hashes(data), self._sketches, self._hashes)
        if not found:
            return None
        best = min(found, key=lambda index: (found[index].levels, index))
        return self._keys[best], found[best]
