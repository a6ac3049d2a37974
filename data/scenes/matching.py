# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds the shape of a mask: the template, from the drawing code, that correlates best with it.

Moments bring both to one position and size first. Templates are of several sizes and blurs.
"""

import functools
import operator
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from parti.data.scenes import drawing, pixels

_GRID = 24  # side of the frame that a shape is matched in
_REACH = 2.1  # half of the frame's side, in radii of gyration of the shape


class Fit(NamedTuple):
    """A shape found in a mask."""

    shape: str  # one of `drawing.SHAPES` or `SIGN`; "" for none
    extent: float  # side of the shape's box in pixels
    cx: float  # middle of the box, counted from the middle of the first pixel; `cy` downwards
    cy: float
    score: float  # how well the shape agrees with the mask, at most 1


by_score = operator.attrgetter("score")


def moments(mask: np.ndarray) -> tuple[float, float, float]:
    """Returns (x, y, radius of gyration) of a mask [y, x], in pixels."""
    total = max(float(mask.sum()), 1e-6)
    columns, rows = mask.sum(0), mask.sum(1)
    xs, ys = np.arange(mask.shape[1]), np.arange(mask.shape[0])
    x, y = float(columns @ xs) / total, float(rows @ ys) / total
    square = float(columns @ (xs - x) ** 2 + rows @ (ys - y) ** 2) / total
    return x, y, max(np.sqrt(square), 1e-3)


def _weights(at: np.ndarray, size: int) -> np.ndarray:
    """Returns [len(at), size]: the weights that interpolate a row of pixels at some positions."""
    return np.maximum(1 - np.abs(at[:, None] - np.arange(size, dtype=np.float32)), 0)


def sample(mask: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Returns mask [y, x] at all (y, x) of two vectors, linearly interpolated; 0 outside."""
    return _weights(ys, mask.shape[0]) @ mask @ _weights(xs, mask.shape[1]).T


def _frame(mask: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Returns a mask in the matching frame, as a unit vector of mean 0, and its moments."""
    x, y, radius = moments(mask)
    steps = np.linspace(-_REACH, _REACH, _GRID) * radius
    return unit(sample(mask, x + steps, y + steps).ravel()), (x, y, radius)


def unit(values: np.ndarray) -> np.ndarray:
    """Returns vectors [..., n] with mean 0 and length 1: their products are correlations."""
    values = values - values.mean(-1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-6)


@functools.cache
def _shape_masks(extent: int, blur: float) -> dict[str, np.ndarray]:
    """Returns {shape: coverage [y, x]}, the box being `extent` pixels in the middle."""
    scale = 8
    masks = {}
    for shape in (*drawing.SHAPES, drawing.SIGN):
        drawn = drawing.shape_mask(shape, extent * scale, (0.5, 0.5))
        side = extent + 8
        padded = Image.new("L", (side * scale, side * scale))
        padded.paste(drawn, (4 * scale, 4 * scale))
        mask = np.asarray(padded.reduce(scale), np.float32) / 255
        masks[shape] = ndimage.gaussian_filter(mask, blur) if blur else mask
    return masks


@functools.cache
def _templates() -> tuple[np.ndarray, list[str], np.ndarray]:
    """Returns templates [n, grid * grid], their shapes, and their boxes [n, 3].

    A box is (x, y) of its middle from the centre of mass, and its side, in radii of gyration.
    """
    vectors, shapes, boxes = [], [], []
    for extent in (12, 18, 36):
        for blur in (0.0, 0.7, 1.2, 1.6, 2.0):
            middle = (extent + 8) / 2 - 0.5
            for shape, mask in _shape_masks(extent, blur).items():
                # As in `pixels.coverage`: what is faint and far from the rest is not seen.
                seen = np.where(pixels.grow(mask > 0.5 * mask.max()), mask, 0)
                vector, (x, y, radius) = _frame(seen)
                vectors.append(vector)
                shapes.append(shape)
                boxes.append(((middle - x) / radius, (middle - y) / radius, extent / radius))
    return np.asarray(vectors, np.float32), shapes, np.asarray(boxes)


def match(mask: np.ndarray) -> Fit:
    """Finds the shape of a whole mask [y, x]."""
    vectors, shapes, boxes = _templates()
    vector, (x, y, radius) = _frame(mask)
    scores = vectors @ vector
    best = int(scores.argmax())
    dx, dy, extent = boxes[best] * radius
    return Fit(shapes[best], extent, x + dx, y + dy, float(scores[best]))


@functools.cache
def _tight_boxes() -> dict[str, tuple[float, float, float, float]]:
    """Returns {shape: (left, top, right, bottom)} of the ink, in [-1, 1] of the shape's box."""
    boxes = {}
    for shape in drawing.SHAPES:
        corners = np.concatenate([p for fill, p in drawing.outlines()[shape] if fill])
        boxes[shape] = (*corners.min(0).tolist(), *corners.max(0).tolist())
    return boxes


def match_hidden(mask: np.ndarray, hider: np.ndarray) -> Fit:
    """Finds the shape of a mask [y, x] of which `hider` (bool [y, x]) may cover a part.

    The visible sides say where the whole shape may be; pixels of the hider do not count.
    """
    solid = mask > 0.5
    if not solid.any():
        return Fit("", 1.0, 0.0, 0.0, 0.0)
    ys, xs = np.nonzero(solid)
    left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    # A side is known where what touches it is not at the hider's edge.
    at_edge = pixels.grow(hider) & solid
    free_left, free_right = (not at_edge[:, x].any() for x in (left, right - 1))
    free_top, free_bottom = (not at_edge[y].any() for y in (top, bottom - 1))
    visible = ~hider

    def fit(shape: str, half: float, dx: float) -> Fit:
        x0, y0, x1, y1 = _tight_boxes()[shape]
        x = dx + (left - x0 * half if free_left else right - x1 * half)
        y = top - y0 * half if free_top else bottom - y1 * half
        drawn = _shape_at(shape, half, x, y, mask.shape)[visible]
        seen = mask[visible]
        both = np.minimum(drawn, seen).sum()
        # Overlap in area falls faster than correlation does: the root brings them together.
        score = np.sqrt(both / max(np.maximum(drawn, seen).sum(), 1e-6))
        return Fit(shape, 2 * half, x - 0.5, y - 0.5, float(score))

    coarse = []
    for shape, (x0, y0, x1, y1) in _tight_boxes().items():
        by_width, by_height = (right - left) / (x1 - x0), (bottom - top) / (y1 - y0)
        if free_top and free_bottom:
            halves = [by_height]
        elif free_left and free_right:
            halves = [by_width]
        else:
            halves = [max(by_width, by_height) * factor for factor in (1.0, 1.15, 1.3, 1.5)]
        coarse.append(max((fit(shape, half, 0.0) for half in halves), key=by_score))
    fine = [
        fit(found.shape, found.extent / 2 * factor, dx)
        for found in sorted(coarse, key=by_score)[-3:]
        for factor in (0.94, 1.0, 1.06)
        for dx in (-0.7, 0.0, 0.7)
    ]
    return max(fine, key=by_score)


def _shape_at(shape: str, half: float, x: float, y: float, size: tuple[int, int]) -> np.ndarray:
    """Returns coverage [y, x] of a shape whose box of side 2 * half has its middle at (x, y)."""
    extent = 36
    mask = _shape_masks(extent, 0.7)[shape]
    middle, scale = (extent + 8) / 2 - 0.5, extent / 2 / half
    xs = (np.arange(size[1]) + 0.5 - x) * scale + middle
    ys = (np.arange(size[0]) + 0.5 - y) * scale + middle
    return sample(mask, xs, ys)
