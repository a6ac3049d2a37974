# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Divides the pixels of an image among the things in it, as the first step of `reader`.

The background is what the border shows; connected pixels of a colour are a thing.
"""

import dataclasses

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from parti.data.scenes import drawing

WORK_SIZE = 64  # side that every image is brought to

_MIN_AREA = 16  # pixels; less is a speck
_MIN_SEEDS = 5  # pixels that show a colour unmixed; less is noise
_PURE_DISTANCE = 35.0  # in RGB; what is further from the palette may be a mixture
_MIXTURE_DISTANCE = 45.0  # in RGB
_COLOUR_NAMES = (*drawing.COLOURS, "white")
_PALETTE = np.asarray([*drawing.COLOURS.values(), (255, 255, 255)], np.float32)
_ANY = np.ones((3, 3), bool)  # neighbours: all eight


@dataclasses.dataclass
class Segmentation:
    """The pixels of an image, and the background or colour that each is given to."""

    pixels: np.ndarray  # [y, x, 3]
    colours: list[str]
    labels: np.ndarray  # [y, x]: 0 for background, i + 1 for colours[i]
    distances: np.ndarray  # [1 + colours, y, x], in RGB, from the background and from each colour


def _noise(pixels: np.ndarray) -> float:
    """Returns the standard deviation of noise in [y, x, 3], from the empty border.

    Second differences of neighbours are 0 without noise.
    """
    lines = np.concatenate([pixels[:2], pixels[-2:], pixels[:, :2].swapaxes(0, 1)])
    return float(np.median(np.abs(lines[:, 2:] - 2 * lines[:, 1:-1] + lines[:, :-2]))) / 1.65


def to_work_size(image: np.ndarray) -> np.ndarray:
    """Returns the image as [64, 64, 3] float32, rid of strong noise."""
    resized = Image.fromarray(image)
    if resized.width > WORK_SIZE:
        resized = resized.resize((WORK_SIZE, WORK_SIZE), Image.Resampling.BOX)
    noise = _noise(np.asarray(resized, np.float32))
    blur = 0.6 if noise > 12 else 0.7 if noise > 3 else 0.0
    if resized.width < WORK_SIZE:
        # No median here: it would wipe out shapes that are 6 pixels wide.
        blur = min(noise / 40, 1.0) * WORK_SIZE / resized.width if noise > 3 else 0.0
        resized = resized.resize((WORK_SIZE, WORK_SIZE), Image.Resampling.BICUBIC)
    elif noise > 12:
        resized = resized.filter(ImageFilter.MedianFilter(3))
    pixels = np.asarray(resized, np.float32)
    return ndimage.gaussian_filter(pixels, (blur, blur, 0)) if blur else pixels


def _read_background(pixels: np.ndarray) -> tuple[str, np.ndarray]:
    border = np.concatenate([pixels[:2], pixels[-2:], pixels[:, :2].swapaxes(0, 1)])
    border = np.concatenate([border.reshape(-1, 3), pixels[:, -2:].reshape(-1, 3)])
    seen = np.median(border, axis=0)
    palette = np.asarray(list(drawing.BACKGROUNDS.values()), np.float32)
    return list(drawing.BACKGROUNDS)[int(distance(seen, palette).argmin())], seen


def distance(pixels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Returns [colour, ...]: Euclidean distances in RGB of [..., 3] pixels to [colour, 3]."""
    flat = pixels.reshape(-1, 3).T
    squares = (colours**2).sum(-1)[:, None] - 2 * colours @ flat + (flat**2).sum(0)
    return np.sqrt(np.maximum(squares, 0)).reshape(len(colours), *pixels.shape[:-1])


def grow(mask: np.ndarray, steps: int = 1) -> np.ndarray:
    """Returns a bool mask [y, x] with all eight neighbours of its pixels, `steps` times."""
    return ndimage.maximum_filter(mask, 2 * steps + 1)


def shrink(mask: np.ndarray) -> np.ndarray:
    """Returns a bool mask [y, x] without the pixels that have a neighbour outside."""
    return ndimage.minimum_filter(mask, 3)


def _between(pixels: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the distances in RGB of [n, 3] pixels to the mixtures of two colours."""
    way = b - a
    share = np.clip(((pixels - a) @ way) / max(float(way @ way), 1.0), 0, 1)
    return np.sqrt(((pixels - a - share[:, None] * way) ** 2).sum(-1))


def segment(pixels: np.ndarray) -> tuple[str, Segmentation]:
    """Finds the colours in an image and gives each pixel to one of them.

    Seeds are pixels that show a colour unmixed: no neighbour is much further from the background.
    A seed may still be on the edge of two objects, which looks like a third colour.
    """
    background, seen = _read_background(pixels)
    away = np.sqrt(((pixels - seen) ** 2).sum(-1))
    border = np.concatenate([away[:2].ravel(), away[-2:].ravel()])
    seeds = (away > np.clip(5.5 * np.median(border), 45, 90)) & (
        away >= 0.85 * ndimage.maximum_filter(away, 3)
    )
    spots = pixels[seeds]
    votes = distance(spots, _PALETTE)
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
    distances = distance(pixels, np.asarray([seen, *shades], np.float32))
    reachable = distances.copy()
    for i, index in enumerate(present):
        reachable[i + 1][~grow(seed_map == index, 2)] = np.inf
    colours = [_COLOUR_NAMES[index] for index in present]
    return background, Segmentation(pixels, colours, reachable.argmin(0), distances)


def _mixed(
    spots: np.ndarray,  # [n, 3] the seeds' RGB
    nearest: np.ndarray,  # [n] the palette's colour nearest to each
    on_edge: np.ndarray,  # [n] whether the image changes much around it
    seed_map: np.ndarray,  # [y, x] `nearest` where a seed is, else -1
    seen: np.ndarray,  # RGB of the background
) -> np.ndarray:
    """Returns bool [n]: whether a seed is on an edge, of a colour between those beside it."""
    counts = np.bincount(nearest, minlength=len(_PALETTE))
    common = [int(index) for index in np.flatnonzero(counts >= _MIN_SEEDS)]
    near = {index: grow(seed_map == index, 2)[seed_map >= 0] for index in common}
    mixed = np.zeros(len(spots), bool)
    for i, a in enumerate(common):
        for b in (-1, *common[i + 1 :]):
            other = seen if b < 0 else _PALETTE[b]
            between = on_edge & (nearest != a) & (nearest != b) & near[a]
            if b >= 0:
                between &= near[b]
            mixed[between] |= _between(spots[between], _PALETTE[a], other) < _MIXTURE_DISTANCE
    return mixed


def coverage(segmentation: Segmentation, label: int, component: np.ndarray) -> np.ndarray:
    """Returns [y, x] in [0, 1]: how much of each pixel the component covers."""
    around = grow(component)
    others = np.setdiff1d(segmentation.labels[around], label)
    mine = segmentation.distances[label]
    other = segmentation.distances[others if others.size else [0]].min(0)
    share = other / np.maximum(mine + other, 1e-3)
    return np.where(around & ((segmentation.labels == label) | (share < 0.5)), share, 0)


def group_blobs(segmentation: Segmentation) -> tuple[np.ndarray, list[int]]:
    """Finds the things in an image: connected pixels of one colour.

    Returns a map [y, x], 0 where nothing is and i + 1 for thing i, and the label of each thing. A
    small piece that another thing cuts off from a larger one of its colour is part of the larger.
    """
    things = np.zeros(segmentation.labels.shape, int)
    labels: list[int] = []
    for label in range(1, len(segmentation.colours) + 1):
        blobs, num = ndimage.label(segmentation.labels == label, _ANY)
        areas = np.bincount(blobs.ravel(), minlength=num + 1)
        for index in range(1, num + 1):
            if areas[index] >= _MIN_AREA:
                labels.append(label)
                things[blobs == index] = len(labels)
    if len(set(labels)) > 1:
        for index in np.argsort(np.bincount(things.ravel())[1:], kind="stable"):
            _give_edge_back(segmentation, things, labels, int(index) + 1)
        areas = np.bincount(things.ravel(), minlength=len(labels) + 1)
        for piece in np.argsort(areas[1:], kind="stable") + 1:
            if areas[piece] and (whole := _cut_off_from(things, labels, areas, int(piece))):
                things[things == piece] = whole
    return things, labels


def _give_edge_back(
    segmentation: Segmentation, things: np.ndarray, labels: list[int], thing: int
) -> None:
    """Dissolves a thing that is only the blurred edge of a larger neighbour.

    Such an edge has a colour of its own, but not even its purest pixels come near to the palette.
    """
    mine = things == thing
    areas = np.bincount(things[grow(mine, 3)], minlength=len(labels) + 1)
    areas[[0, thing]] = 0
    larger = int(areas.argmax())
    area = int(mine.sum())
    if (things == larger).sum() < area or not areas[larger]:
        return
    colour = _PALETTE[_COLOUR_NAMES.index(segmentation.colours[labels[thing - 1] - 1])]
    away = np.sqrt(((segmentation.pixels[mine] - colour) ** 2).sum(-1))
    if np.sort(away)[: max(4, area // 4)].mean() < _PURE_DISTANCE:
        return
    label = labels[larger - 1]
    joins = mine & (segmentation.distances[label] < segmentation.distances[0])
    things[mine], segmentation.labels[mine] = 0, 0
    things[joins], segmentation.labels[joins] = larger, label


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
    rim = things[grow(mine) & ~mine]
    foreign = [thing for thing in np.unique(rim) if thing and labels[thing - 1] != label]
    if np.isin(rim, foreign).mean() < 0.3:
        return 0
    neighbours = things[grow(np.isin(things, foreign), 2)]
    return next((thing for thing in larger if thing in neighbours), 0)
