# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads a scene from pixels, at 64 a side, the palette and shapes known and the caption unknown.

`pixels` finds the things, `matching` the shape of each; a sign is read letter by letter.
"""

import dataclasses
import functools

import numpy as np
from scipy import ndimage

from parti.data.scenes import drawing, glyphs, matching, pixels

_MIN_SCORE = 0.55  # correlation below which a blob has no shape
_GOOD_SCORE = 0.95  # above it a shape counts as whole


@dataclasses.dataclass(frozen=True)
class SeenObject:
    """An object read from an image, as a `drawing.SceneObject`."""

    shape: str  # "" for a blob like none of them
    colour: str
    extent: float
    cx: float
    cy: float
    score: float = 1.0  # correlation with the shape's template, at most 1


@dataclasses.dataclass(frozen=True)
class View:
    """All that was read from an image."""

    background: str
    objects: tuple[SeenObject, ...]
    text: str = ""  # that a sign says; "" if there is none


def _fit_thing(
    segmentation: pixels.Segmentation, things: np.ndarray, thing: int, label: int
) -> matching.Fit:
    """Finds the shape of a thing, also when others are in it or on it."""
    component = things == thing
    mask = pixels.coverage(segmentation, label, component)
    fit = matching.match(mask)
    touching = things[pixels.grow(component, 2)]
    hiders = [other for other in np.unique(touching) if other not in (0, thing)]
    if not hiders:
        return fit
    filled = ndimage.binary_fill_holes(component)
    enclosed = [other for other in hiders if filled[things == other].all()]
    if enclosed:
        inside = pixels.grow(np.isin(things, enclosed)) & filled
        fit = max(fit, matching.match(np.where(inside, 1.0, mask)), key=matching.by_score)
    if fit.score < _GOOD_SCORE and np.isin(touching, hiders).sum() > 8:
        fit = max(fit, matching.match_hidden(mask, np.isin(things, hiders)), key=matching.by_score)
    return fit


def _find_sign(segmentation: pixels.Segmentation) -> tuple[str, matching.Fit] | None:
    for label, colour in enumerate(segmentation.colours, start=1):
        component = segmentation.labels == label
        if component.sum() < 400:
            continue
        blobs, _ = ndimage.label(component, np.ones((3, 3)))
        component = blobs == np.bincount(blobs[blobs > 0]).argmax()
        filled = ndimage.binary_fill_holes(component)
        width = filled.any(0).sum()
        if width < 0.6 * pixels.WORK_SIZE or (filled & ~component).sum() < 8:
            continue
        holes = pixels.shrink(filled)
        whole = np.where(holes, 1.0, pixels.coverage(segmentation, label, component))
        fit = matching.match(whole)
        if fit.shape == drawing.SIGN and fit.score > 0.85:
            return colour, fit
    return None


@functools.cache
def _glyph_bank(num_letters: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns templates of letters in a line of `num_letters`, and where a cell's pixels are.

    The templates [blur * letter, pixels] are unit vectors of mean 0. Rows [y] and columns [x] of a
    cell are from its corner, in glyph heights and widths: a little more than the glyph.
    """
    half = 0.45 * pixels.WORK_SIZE  # of a usual sign
    (_, field_width, field_height) = drawing.SIGN_FIELD
    width, height, _ = glyphs.text_layout(num_letters, field_width * half, field_height * half)
    columns, rows, pad = round(width), round(height), 1
    masks = np.pad(glyphs.glyph_masks(columns, rows), ((0, 0), (pad, pad), (pad, pad)))
    bank = [
        matching.unit(ndimage.gaussian_filter(masks, (0, blur, blur)).reshape(len(masks), -1))
        for blur in (0.3, 0.8, 1.3)
    ]
    ys = (np.arange(-pad, rows + pad) + 0.5) / rows
    xs = (np.arange(-pad, columns + pad) + 0.5) / columns
    return np.concatenate(bank).astype(np.float32), ys, xs


_SHIFTS = np.asarray((-0.6, 0.0, 0.6))


def _read_line(
    ink: np.ndarray, num: int, centre: tuple[float, float], width: float, height: float
) -> tuple[str, float, float]:
    """Reads `num` letters in a field of `ink` [y, x] in [0, 1]; centre and sides in pixels.

    Returns (letters, mean correlation with their glyphs, amount of ink in their cells).
    """
    bank, ys, xs = _glyph_bank(num)
    glyph_width, glyph_height, lefts = glyphs.text_layout(num, width, height)
    top = centre[1] - glyph_height / 2
    # All shifts in one product: [shift, y] by [shift, letter, x].
    rows = _SHIFTS[:, None] + top + ys * glyph_height
    columns = _SHIFTS[:, None, None] + centre[0] + np.asarray(lefts)[:, None] + xs * glyph_width
    cells = matching.sample(ink, columns.ravel(), rows.ravel())
    cells = cells.reshape(len(_SHIFTS), len(ys), len(_SHIFTS), num, len(xs))
    cells = cells.transpose(0, 2, 3, 1, 4).reshape(len(_SHIFTS) ** 2, num, -1)
    scores = matching.unit(cells).astype(np.float32) @ bank.T
    scores = scores.reshape(*scores.shape[:2], -1, len(glyphs.LETTERS)).max(2)
    totals = scores.max(-1).mean(-1)
    best = int(totals.argmax())
    letters = "".join(glyphs.LETTERS[index] for index in scores[best].argmax(-1))
    pixel = glyph_width * glyph_height * (xs[1] - xs[0]) * (ys[1] - ys[0])
    return letters, float(totals[best]), float(np.maximum(cells[best] - 0.2, 0).sum() * pixel)


def _read_text(segmentation: pixels.Segmentation, colour: str, sign: matching.Fit) -> str:
    """Reads a sign; the number of letters is the one whose glyphs explain most of the ink."""
    half = sign.extent / 2
    board = segmentation.distances[segmentation.colours.index(colour) + 1]
    written = pixels.distance(segmentation.pixels, np.asarray([drawing.ink(colour)], np.float32))[0]
    ink = board / np.maximum(board + written, 1e-3)
    ((x, y), width, height) = drawing.SIGN_FIELD
    centre, width, height = (sign.cx + x * half, sign.cy + y * half), width * half, height * half
    field = matching.sample(
        ink,
        centre[0] + np.linspace(-0.5, 0.5, 48) * width,
        centre[1] + np.linspace(-0.5, 0.5, 20) * height,
    )
    total = float(np.maximum(field - 0.2, 0).mean() * width * height)
    lines = (_read_line(ink, num, centre, width, height) for num in range(1, glyphs.MAX_LENGTH + 1))
    score, letters = max((s * min(1.0, n / max(total, 1e-6)), text) for text, s, n in lines)
    return letters if score > 0.4 else ""


def read_scene(image: np.ndarray) -> View:
    """Reads background, objects and text from [size, size, 3] uint8, about 32 pixels or more.

    An image of something else gives a view too, of the nearest shapes.

    Raises:
      ValueError: not a square RGB image of bytes.
    """
    if image.dtype != np.uint8 or image.shape != (len(image), len(image), 3):
        raise ValueError(
            f"A picture must be uint8 [size, size, 3], not {image.dtype} {list(image.shape)}."
        )
    background, segmentation = pixels.segment(pixels.to_work_size(image))
    objects, text = [], ""
    if sign := _find_sign(segmentation):
        colour, fit = sign
        text = _read_text(segmentation, colour, fit)
        objects.append(_seen(colour, fit))
    things, labels = pixels.group_blobs(segmentation)
    for thing in np.unique(things[things > 0]):
        label = labels[thing - 1]
        colour = segmentation.colours[label - 1]
        # White is the ink of signs; no object is white.
        if colour != "white" and not (sign and _is_within(things == thing, sign[1])):
            objects.append(_seen(colour, _fit_thing(segmentation, things, thing, label)))
    return View(background, tuple(objects), text)


def _seen(colour: str, fit: matching.Fit) -> SeenObject:
    return SeenObject(
        fit.shape if fit.score >= _MIN_SCORE else "",
        colour,
        float(fit.extent) / pixels.WORK_SIZE,
        float(fit.cx + 0.5) / pixels.WORK_SIZE,
        float(fit.cy + 0.5) / pixels.WORK_SIZE,
        fit.score,
    )


def _is_within(component: np.ndarray, sign: matching.Fit) -> bool:
    x, y, _ = matching.moments(component.astype(np.float32))
    return max(abs(x - sign.cx), abs(y - sign.cy)) < sign.extent / 2
