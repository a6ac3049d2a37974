# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads a scene from pixels, knowing the palette and the shapes but not the caption.

The picture is brought to 64 pixels, so one set of templates serves all sizes. Then: the background
is what the border shows; each pixel goes to the background or to one of the colours that the
picture really contains; connected pixels of a colour are an object; its shape is the template that
correlates best with it after both are moved to one place and size; a sign is read letter by letter.
"""

import dataclasses
import functools

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from parti.data import glyphs, scene_drawing

WORK_SIZE = 64

_GRID = 24  # side of the frame that a shape is matched in
_REACH = 2.1  # half of the frame's side, in radii of gyration of the shape
_MIN_AREA = 16  # pixels; less is a speck
_MIN_SCORE = 0.55  # correlation below which a blob has no shape
_GOOD_SCORE = 0.95  # above it nobody asks whether something is hidden
_MIN_SEEDS = 5  # pixels that show a colour unmixed; less is noise
_PURE_DISTANCE = 35.0  # in RGB; what is further from the palette may be a mixture
_MIXTURE_DISTANCE = 45.0  # in RGB
_COLOUR_NAMES = (*scene_drawing.COLOURS, "white")
_PALETTE = np.asarray([*scene_drawing.COLOURS.values(), (255, 255, 255)], np.float32)
_ANY = np.ones((3, 3), bool)  # neighbours: all eight


@dataclasses.dataclass(frozen=True)
class SeenObject:
    """An object read from a picture.

    Attributes:
        shape: one of `scene_drawing.SHAPES` or `SIGN`; "" for a blob like none of them.
        colour: a key of `scene_drawing.COLOURS`.
        extent: side of its box, as a fraction of the picture's side.
        cx: middle of the box from the left, in [0, 1].
        cy: middle of the box from the top, in [0, 1].
        score: correlation with the shape's template, at most 1.
    """

    shape: str
    colour: str
    extent: float
    cx: float
    cy: float
    score: float = 1.0


@dataclasses.dataclass(frozen=True)
class View:
    """All that was read from a picture.

    Attributes:
        background: a key of `scene_drawing.BACKGROUNDS`.
        objects: what was seen, in no order.
        text: what a sign says; "" if there is none.
    """

    background: str
    objects: tuple[SeenObject, ...]
    text: str = ""


@dataclasses.dataclass
class _Picture:
    """A picture in work: pixels, and what each is taken for.

    `labels` is 0 for background and i + 1 for colours[i]; `distances` [1 + colours, y, x] says how
    far each pixel is from the background and from each colour, in RGB.
    """

    pixels: np.ndarray
    colours: list[str]
    labels: np.ndarray
    distances: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Fit:
    shape: str
    extent: float  # in pixels, as cx and cy
    cx: float
    cy: float
    score: float


def _noise(pixels: np.ndarray) -> float:
    """Returns the standard deviation of noise in [y, x, 3], from the empty border.

    Second differences of neighbours are 0 without noise.
    """
    lines = np.concatenate([pixels[:2], pixels[-2:], pixels[:, :2].swapaxes(0, 1)])
    return float(np.median(np.abs(lines[:, 2:] - 2 * lines[:, 1:-1] + lines[:, :-2]))) / 1.65


def _to_work_size(image: np.ndarray) -> np.ndarray:
    """Returns the picture as [64, 64, 3] float32, rid of strong noise."""
    picture = Image.fromarray(image)
    if picture.width > WORK_SIZE:
        picture = picture.resize((WORK_SIZE, WORK_SIZE), Image.Resampling.BOX)
    noise = _noise(np.asarray(picture, np.float32))
    blur = 0.6 if noise > 12 else 0.7 if noise > 3 else 0.0
    if picture.width < WORK_SIZE:
        # No median here: it would wipe out shapes that are 6 pixels wide.
        blur = min(noise / 40, 1.0) * WORK_SIZE / picture.width if noise > 3 else 0.0
        picture = picture.resize((WORK_SIZE, WORK_SIZE), Image.Resampling.BICUBIC)
    elif noise > 12:
        picture = picture.filter(ImageFilter.MedianFilter(3))
    pixels = np.asarray(picture, np.float32)
    return ndimage.gaussian_filter(pixels, (blur, blur, 0)) if blur else pixels


def _read_background(pixels: np.ndarray) -> tuple[str, np.ndarray]:
    """Returns the name and the RGB of the background."""
    border = np.concatenate([pixels[:2], pixels[-2:], pixels[:, :2].swapaxes(0, 1)])
    border = np.concatenate([border.reshape(-1, 3), pixels[:, -2:].reshape(-1, 3)])
    seen = np.median(border, axis=0)
    palette = np.asarray(list(scene_drawing.BACKGROUNDS.values()), np.float32)
    return list(scene_drawing.BACKGROUNDS)[int(_distance(seen, palette).argmin())], seen


def _distance(pixels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Returns [colour, ...]: Euclidean distances in RGB of [..., 3] pixels to [colour, 3]."""
    flat = pixels.reshape(-1, 3).T
    squares = (colours**2).sum(-1)[:, None] - 2 * colours @ flat + (flat**2).sum(0)
    return np.sqrt(np.maximum(squares, 0)).reshape(len(colours), *pixels.shape[:-1])


def _grow(mask: np.ndarray, steps: int = 1) -> np.ndarray:
    """Returns a bool mask [y, x] with all eight neighbours of its pixels, `steps` times."""
    for _ in range(steps):
        wide = mask.copy()
        wide[1:] |= mask[:-1]
        wide[:-1] |= mask[1:]
        mask = wide.copy()
        mask[:, 1:] |= wide[:, :-1]
        mask[:, :-1] |= wide[:, 1:]
    return mask


def _shrink(mask: np.ndarray) -> np.ndarray:
    """Returns a bool mask [y, x] without the pixels that have a neighbour outside."""
    return ~_grow(~mask)


def _between(pixels: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the distances in RGB of [n, 3] pixels to the mixtures of two colours."""
    way = b - a
    share = np.clip(((pixels - a) @ way) / max(float(way @ way), 1.0), 0, 1)
    return np.sqrt(((pixels - a - share[:, None] * way) ** 2).sum(-1))


def _segment(pixels: np.ndarray) -> tuple[str, _Picture]:
    """Finds the colours in a picture and gives each pixel to one of them.

    Seeds are pixels that show a colour unmixed: no neighbour is much further from the background.
    A seed may still lie on the edge of two objects, which looks like a third colour.
    """
    background, seen = _read_background(pixels)
    away = np.sqrt(((pixels - seen) ** 2).sum(-1))
    border = np.concatenate([away[:2].ravel(), away[-2:].ravel()])
    seeds = (away > np.clip(5.5 * np.median(border), 45, 90)) & (
        away >= 0.85 * ndimage.maximum_filter(away, 3)
    )
    spots = pixels[seeds]
    votes = _distance(spots, _PALETTE)
    if background in _COLOUR_NAMES:
        votes[_COLOUR_NAMES.index(background)] = np.inf
    nearest = votes.argmin(0)
    spread = (
        ndimage.maximum_filter(pixels, (3, 3, 1)) - ndimage.minimum_filter(pixels, (3, 3, 1))
    )[seeds].max(-1)
    seed_map = np.full(seeds.shape, -1)
    seed_map[seeds] = nearest
    mixed = _mixed(spots, nearest, spread > 70, seed_map, seen)
    seed_map[seeds] = np.where(mixed, -1, nearest)
    counts = np.bincount(nearest[~mixed], minlength=len(_PALETTE))
    present = np.flatnonzero(counts >= _MIN_SEEDS)
    shades = [np.median(pixels[seed_map == index], axis=0) for index in present]
    distances = _distance(pixels, np.asarray([seen, *shades], np.float32))
    reachable = distances.copy()
    for i, index in enumerate(present):
        near = _grow(seed_map == index, 2)
        reachable[i + 1][~near] = np.inf
    colours = [_COLOUR_NAMES[index] for index in present]
    return background, _Picture(pixels, colours, reachable.argmin(0), distances)


def _mixed(
    spots: np.ndarray,
    nearest: np.ndarray,
    on_edge: np.ndarray,
    seed_map: np.ndarray,
    seen: np.ndarray,
) -> np.ndarray:
    """Finds seeds that only look like a colour, being a mixture of what lies beside them.

    Args:
        spots: [n, 3] the seeds' RGB.
        nearest: [n] the palette's colour nearest to each.
        on_edge: [n] whether the picture changes much around it.
        seed_map: [y, x] `nearest` where a seed is, else -1.
        seen: RGB of the background.

    Returns:
        [n] bool: on an edge, and between two neighbours, or between one and the background.
    """
    counts = np.bincount(nearest, minlength=len(_PALETTE))
    common = [int(index) for index in np.flatnonzero(counts >= _MIN_SEEDS)]
    beside = {index: _grow(seed_map == index, 2)[seed_map >= 0] for index in common}
    mixed = np.zeros(len(spots), bool)
    for i, a in enumerate(common):
        for b in (-1, *common[i + 1 :]):
            other = seen if b < 0 else _PALETTE[b]
            asked = on_edge & (nearest != a) & (nearest != b) & beside[a]
            if b >= 0:
                asked &= beside[b]
            mixed[asked] |= _between(spots[asked], _PALETTE[a], other) < _MIXTURE_DISTANCE
    return mixed


def _coverage(picture: _Picture, label: int, component: np.ndarray) -> np.ndarray:
    """Returns [y, x] in [0, 1]: how much of each pixel the component covers."""
    around = _grow(component)
    others = [other for other in np.unique(picture.labels[around]) if other != label]
    mine = picture.distances[label]
    other = picture.distances[others or [0]].min(0)
    share = other / np.maximum(mine + other, 1e-3)
    return np.where(around & ((picture.labels == label) | (share < 0.5)), share, 0)


def _moments(mask: np.ndarray) -> tuple[float, float, float]:
    """Returns (x, y, radius of gyration) of a mask [y, x], in pixels."""
    total = max(float(mask.sum()), 1e-6)
    columns, rows = mask.sum(0), mask.sum(1)
    xs, ys = np.arange(mask.shape[1]), np.arange(mask.shape[0])
    x, y = float(columns @ xs) / total, float(rows @ ys) / total
    square = float(columns @ (xs - x) ** 2 + rows @ (ys - y) ** 2) / total
    return x, y, max(np.sqrt(square), 1e-3)


def _weights(at: np.ndarray, size: int) -> np.ndarray:
    """Returns [len(at), size]: the weights that interpolate a row of pixels at some places."""
    return np.maximum(1 - np.abs(at[:, None] - np.arange(size, dtype=np.float32)), 0)


def _sample(mask: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Returns mask [y, x] at all (y, x) of two vectors, linearly interpolated; 0 outside."""
    return _weights(ys, mask.shape[0]) @ mask @ _weights(xs, mask.shape[1]).T


def _frame(mask: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Returns a mask in the matching frame, as a unit vector of mean 0, and its moments."""
    x, y, radius = _moments(mask)
    steps = np.linspace(-_REACH, _REACH, _GRID) * radius
    return _unit(_sample(mask, x + steps, y + steps).ravel()), (x, y, radius)


def _unit(values: np.ndarray) -> np.ndarray:
    values = values - values.mean(-1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-6)


@functools.cache
def _shape_masks(extent: int, blur: float) -> dict[str, np.ndarray]:
    """Returns {shape: coverage [y, x]}, the box being `extent` pixels in the middle."""
    scale = 8
    masks = {}
    for shape in (*scene_drawing.SHAPES, scene_drawing.SIGN):
        drawn = scene_drawing.shape_mask(shape, extent * scale, (0.5, 0.5))
        side = extent + 8
        padded = Image.new("L", (side * scale, side * scale))
        padded.paste(drawn, (4 * scale, 4 * scale))
        mask = np.asarray(padded.reduce(scale), np.float32) / 255
        masks[shape] = ndimage.gaussian_filter(mask, blur) if blur else mask
    return masks


@functools.cache
def _templates() -> tuple[np.ndarray, list[str], np.ndarray]:
    """Returns templates [n, grid * grid], their shapes, and where the box lies [n, 3].

    The box is (x offset, y offset, extent), of the box's middle from the centre of mass and of the
    box's side, in radii of gyration.
    """
    vectors, shapes, boxes = [], [], []
    for extent in (12, 18, 36):
        for blur in (0.0, 0.7, 1.2, 1.6, 2.0):
            middle = (extent + 8) / 2 - 0.5
            for shape, mask in _shape_masks(extent, blur).items():
                # As in `_coverage`: what is faint and far from the rest is not seen.
                vector, (x, y, radius) = _frame(np.where(_grow(mask > 0.5 * mask.max()), mask, 0))
                vectors.append(vector)
                shapes.append(shape)
                boxes.append(((middle - x) / radius, (middle - y) / radius, extent / radius))
    return np.asarray(vectors, np.float32), shapes, np.asarray(boxes)


def _match(mask: np.ndarray) -> _Fit:
    """Finds the shape of a whole mask [y, x]."""
    vectors, shapes, boxes = _templates()
    vector, (x, y, radius) = _frame(mask)
    scores = vectors @ vector
    best = int(scores.argmax())
    dx, dy, extent = boxes[best] * radius
    return _Fit(shapes[best], extent, x + dx, y + dy, float(scores[best]))


@functools.cache
def _tight_boxes() -> dict[str, tuple[float, float, float, float]]:
    """Returns {shape: (left, top, right, bottom)} of the ink, in [-1, 1] of the shape's box."""
    boxes = {}
    for shape in scene_drawing.SHAPES:
        corners = np.concatenate([p for fill, p in scene_drawing.outlines()[shape] if fill])
        low, high = corners.min(0), corners.max(0)
        boxes[shape] = (*low.tolist(), *high.tolist())
    return boxes


def _match_hidden(mask: np.ndarray, hider: np.ndarray) -> _Fit:
    """Finds the shape of a mask [y, x] of which `hider` (bool [y, x]) may cover a part.

    The visible sides say where the whole shape may lie; pixels of the hider do not count.
    """
    solid, near = mask > 0.5, _grow(hider)
    if not solid.any():
        return _Fit("", 1.0, 0.0, 0.0, 0.0)
    ys, xs = np.nonzero(solid)
    left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    # A side is known where what touches it is not at the hider's edge.
    free_left, free_right = (not (near & solid)[:, x].any() for x in (left, right - 1))
    free_top, free_bottom = (not (near & solid)[y].any() for y in (top, bottom - 1))
    visible = ~hider

    def fit(shape: str, half: float, dx: float) -> _Fit:
        x0, y0, x1, y1 = _tight_boxes()[shape]
        x = dx + (left - x0 * half if free_left else right - x1 * half)
        y = top - y0 * half if free_top else bottom - y1 * half
        drawn = _shape_at(shape, half, x, y, mask.shape)[visible]
        seen = mask[visible]
        both = np.minimum(drawn, seen).sum()
        # Overlap in area falls faster than correlation does: the root brings them together.
        score = np.sqrt(both / max(np.maximum(drawn, seen).sum(), 1e-6))
        return _Fit(shape, 2 * half, x - 0.5, y - 0.5, float(score))

    coarse = []
    for shape, (x0, y0, x1, y1) in _tight_boxes().items():
        by_width, by_height = (right - left) / (x1 - x0), (bottom - top) / (y1 - y0)
        if free_top and free_bottom:
            halves = [by_height]
        elif free_left and free_right:
            halves = [by_width]
        else:
            halves = [max(by_width, by_height) * factor for factor in (1.0, 1.15, 1.3, 1.5)]
        coarse.append(max((fit(shape, half, 0.0) for half in halves), key=_score))
    fine = [
        fit(found.shape, found.extent / 2 * factor, dx)
        for found in sorted(coarse, key=_score)[-3:]
        for factor in (0.94, 1.0, 1.06)
        for dx in (-0.7, 0.0, 0.7)
    ]
    return max(fine, key=_score)


def _score(fit: _Fit) -> float:
    return fit.score


def _shape_at(shape: str, half: float, x: float, y: float, size: tuple[int, int]) -> np.ndarray:
    """Returns coverage [y, x] of a shape whose box of side 2 * half has its middle at (x, y)."""
    extent = 36
    mask = _shape_masks(extent, 0.7)[shape]
    middle, scale = (extent + 8) / 2 - 0.5, extent / 2 / half
    xs = (np.arange(size[1]) + 0.5 - x) * scale + middle
    ys = (np.arange(size[0]) + 0.5 - y) * scale + middle
    return _sample(mask, xs, ys)


def _group_blobs(picture: _Picture) -> tuple[np.ndarray, list[int]]:
    """Finds the things in a picture: connected pixels of one colour.

    Returns:
        A map [y, x], 0 where nothing is and i + 1 for thing i, and the label of each thing. A small
        piece that another thing cuts off from a larger one of its colour is part of the larger.
    """
    things = np.zeros(picture.labels.shape, int)
    labels: list[int] = []
    for label in range(1, len(picture.colours) + 1):
        blobs, num = ndimage.label(picture.labels == label, _ANY)
        areas = np.bincount(blobs.ravel(), minlength=num + 1)
        for index in range(1, num + 1):
            if areas[index] >= _MIN_AREA:
                labels.append(label)
                things[blobs == index] = len(labels)
    if len(set(labels)) > 1:
        for index in np.argsort(np.bincount(things.ravel())[1:], kind="stable"):
            _give_edge_back(picture, things, labels, int(index) + 1)
        areas = np.bincount(things.ravel(), minlength=len(labels) + 1)
        for piece in np.argsort(areas[1:], kind="stable") + 1:
            if not areas[piece]:
                continue
            whole = _cut_off_from(things, labels, areas, int(piece))
            if whole:
                things[things == piece] = whole
    return things, labels


def _give_edge_back(picture: _Picture, things: np.ndarray, labels: list[int], thing: int) -> None:
    """Dissolves a thing that is only the blurred edge of a larger one beside it.

    Such an edge has a colour of its own, but not even its purest pixels come near to the palette.
    """
    mine = things == thing
    areas = np.bincount(things[_grow(mine, 3)], minlength=len(labels) + 1)
    areas[[0, thing]] = 0
    larger = int(areas.argmax())
    area = int(mine.sum())
    if (things == larger).sum() < area or not areas[larger]:
        return
    colour = _PALETTE[_COLOUR_NAMES.index(picture.colours[labels[thing - 1] - 1])]
    away = np.sqrt(((picture.pixels[mine] - colour) ** 2).sum(-1))
    if np.sort(away)[: max(4, area // 4)].mean() < _PURE_DISTANCE:
        return
    label = labels[larger - 1]
    joins = mine & (picture.distances[label] < picture.distances[0])
    things[mine], picture.labels[mine] = 0, 0
    things[joins], picture.labels[joins] = larger, label


def _cut_off_from(things: np.ndarray, labels: list[int], areas: np.ndarray, piece: int) -> int:
    """Returns the thing that a piece is a part of, or 0."""
    label = labels[piece - 1]
    larger = [
        other + 1
        for other, its_label in enumerate(labels)
        if its_label == label and areas[piece] < 0.35 * areas[other + 1]
    ]
    if not larger:
        return 0
    mine = things == piece
    rim = things[_grow(mine) & ~mine]
    foreign = [thing for thing in np.unique(rim) if thing and labels[thing - 1] != label]
    if np.isin(rim, foreign).mean() < 0.3:
        return 0
    beside = things[_grow(np.isin(things, foreign), 2)]
    return next((thing for thing in larger if thing in beside), 0)


def _fit_thing(picture: _Picture, things: np.ndarray, thing: int, label: int) -> _Fit:
    """Finds the shape of a thing, also when others lie in it or on it."""
    component = things == thing
    mask = _coverage(picture, label, component)
    fit = _match(mask)
    touching = things[_grow(component, 2)]
    hiders = [other for other in np.unique(touching) if other not in (0, thing)]
    if not hiders:
        return fit
    filled = ndimage.binary_fill_holes(component)
    enclosed = [other for other in hiders if filled[things == other].all()]
    if enclosed:
        inside = _grow(np.isin(things, enclosed)) & filled
        fit = max(fit, _match(np.where(inside, 1.0, mask)), key=_score)
    if fit.score < _GOOD_SCORE and np.isin(touching, hiders).sum() > 8:
        fit = max(fit, _match_hidden(mask, np.isin(things, hiders)), key=_score)
    return fit


def _find_sign(picture: _Picture) -> tuple[str, _Fit] | None:
    """Returns the colour and place of a sign, or None."""
    for label, colour in enumerate(picture.colours, start=1):
        component = picture.labels == label
        if component.sum() < 400:
            continue
        blobs, _ = ndimage.label(component, _ANY)
        component = blobs == np.bincount(blobs[blobs > 0]).argmax()
        filled = ndimage.binary_fill_holes(component)
        width = filled.any(0).sum()
        if width < 0.6 * WORK_SIZE or (filled & ~component).sum() < 8:
            continue
        holes = _shrink(filled)
        whole = np.where(holes, 1.0, _coverage(picture, label, component))
        fit = _match(whole)
        if fit.shape == scene_drawing.SIGN and fit.score > 0.85:
            return colour, fit
    return None


@functools.cache
def _glyph_bank(num_letters: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns templates of letters in a line of `num_letters`, and where a cell's pixels are.

    Returns:
        (templates [blur * letter, pixels] as unit vectors of mean 0, rows [y] and columns [x] of a
        cell's pixels from its corner, in glyph heights and widths: a little more than the glyph).
    """
    half = 0.45 * WORK_SIZE  # of a usual sign
    (_, field_width, field_height) = scene_drawing.SIGN_FIELD
    width, height, _ = glyphs.text_layout(num_letters, field_width * half, field_height * half)
    columns, rows, pad = round(width), round(height), 1
    masks = np.pad(glyphs.glyph_masks(columns, rows), ((0, 0), (pad, pad), (pad, pad)))
    bank = [
        _unit(ndimage.gaussian_filter(masks, (0, blur, blur)).reshape(len(masks), -1))
        for blur in (0.3, 0.8, 1.3)
    ]
    ys = (np.arange(-pad, rows + pad) + 0.5) / rows
    xs = (np.arange(-pad, columns + pad) + 0.5) / columns
    return np.concatenate(bank).astype(np.float32), ys, xs


_SHIFTS = np.asarray((-0.6, 0.0, 0.6))


def _read_line(
    ink: np.ndarray, num: int, centre: tuple[float, float], width: float, height: float
) -> tuple[str, float, float]:
    """Reads a line of `num` letters.

    Args:
        ink: [y, x] how much of each pixel is ink, in [0, 1].
        num: how many letters to look for.
        centre: (x, y) of the field's middle in pixels.
        width: of the field, in pixels.
        height: of the field, in pixels.

    Returns:
        (letters, mean correlation with their glyphs, amount of ink in their cells).
    """
    bank, ys, xs = _glyph_bank(num)
    glyph_width, glyph_height, lefts = glyphs.text_layout(num, width, height)
    top = centre[1] - glyph_height / 2
    # All shifts in one product: [shift, y] by [shift, letter, x].
    rows = _SHIFTS[:, None] + top + ys * glyph_height
    columns = _SHIFTS[:, None, None] + centre[0] + np.asarray(lefts)[:, None] + xs * glyph_width
    cells = _sample(ink, columns.ravel(), rows.ravel())
    cells = cells.reshape(len(_SHIFTS), len(ys), len(_SHIFTS), num, len(xs))
    cells = cells.transpose(0, 2, 3, 1, 4).reshape(len(_SHIFTS) ** 2, num, -1)
    scores = _unit(cells).astype(np.float32) @ bank.T
    scores = scores.reshape(*scores.shape[:2], -1, len(glyphs.LETTERS)).max(2)
    totals = scores.max(-1).mean(-1)
    best = int(totals.argmax())
    letters = "".join(glyphs.LETTERS[index] for index in scores[best].argmax(-1))
    pixel = glyph_width * glyph_height * (xs[1] - xs[0]) * (ys[1] - ys[0])
    return letters, float(totals[best]), float(np.maximum(cells[best] - 0.2, 0).sum() * pixel)


def _read_text(picture: _Picture, colour: str, sign: _Fit) -> str:
    """Reads a sign; the number of letters is the one whose glyphs explain most of the ink."""
    half = sign.extent / 2
    board = picture.distances[picture.colours.index(colour) + 1]
    written = _distance(picture.pixels, np.asarray([scene_drawing.ink(colour)], np.float32))[0]
    ink = board / np.maximum(board + written, 1e-3)
    ((x, y), width, height) = scene_drawing.SIGN_FIELD
    centre, width, height = (sign.cx + x * half, sign.cy + y * half), width * half, height * half
    field = _sample(
        ink,
        centre[0] + np.linspace(-0.5, 0.5, 48) * width,
        centre[1] + np.linspace(-0.5, 0.5, 20) * height,
    )
    total = float(np.maximum(field - 0.2, 0).mean() * width * height)
    found = []
    for num in range(1, glyphs.MAX_LENGTH + 1):
        letters, score, amount = _read_line(ink, num, centre, width, height)
        found.append((score * min(1.0, amount / max(total, 1e-6)), letters))
    score, letters = max(found)
    return letters if score > 0.4 else ""


def read_scene(image: np.ndarray) -> View:
    """Reads background, objects and text from a picture.

    Args:
        image: [size, size, 3] uint8; about 32 pixels a side or more.

    Returns:
        What was seen. A picture of something else gives a view too, of whatever looks nearest.

    Raises:
        ValueError: not a square RGB picture of bytes.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"A picture must be uint8 [size, size, 3], not {image.dtype} {list(image.shape)}."
        )
    background, picture = _segment(_to_work_size(image))
    objects, text = [], ""
    sign = _find_sign(picture)
    if sign:
        colour, fit = sign
        text = _read_text(picture, colour, fit)
        objects.append(_seen(colour, fit))
    things, labels = _group_blobs(picture)
    for thing in np.unique(things[things > 0]):
        label = labels[thing - 1]
        colour = picture.colours[label - 1]
        # White is the ink of signs; no object is white.
        if colour != "white" and not (sign and _within(things == thing, sign[1])):
            objects.append(_seen(colour, _fit_thing(picture, things, thing, label)))
    return View(background, tuple(objects), text)


def _seen(colour: str, fit: _Fit) -> SeenObject:
    return SeenObject(
        fit.shape if fit.score >= _MIN_SCORE else "",
        colour,
        float(fit.extent) / WORK_SIZE,
        float(fit.cx + 0.5) / WORK_SIZE,
        float(fit.cy + 0.5) / WORK_SIZE,
        fit.score,
    )


def _within(component: np.ndarray, sign: _Fit) -> bool:
    """Returns whether a component's middle lies in a sign's box."""
    x, y, _ = _moments(component.astype(np.float32))
    return max(abs(x - sign.cx), abs(y - sign.cy)) < sign.extent / 2
