# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Boxes of thumbnails: sampled on a grid, moved to where they fit best, compared in their colours.

Thumbnails are [n, 3, side, side], views [n, 3, GRID, GRID]: float64, channels first.
"""

import numpy as np

from parti.data.images import image_hashes

GRID = 16  # cells on a side of a view
_SIDE = image_hashes.THUMBNAIL_SIDE
_YCC = image_hashes.YCC.T / 1000
_STEPS, _STEP, _MAX_STEP, _DAMPING = 3, 0.008, 0.04, 20.0
_MIN_CONTRAST = 1.0  # levels; in views of less nothing is to be compared


def cover(spans: np.ndarray, num: int) -> np.ndarray:
    """Returns by what share each of `num` cells of a span covers the pixels: [n, num, side].

    `spans` is [n, 2], beginning and end in [0, 1] of the thumbnail's side.
    """
    edges = spans[:, :1] + (spans[:, 1:] - spans[:, :1]) * np.arange(num + 1) / num
    edges = np.clip(edges, 0, 1)[:, :, None] * _SIDE
    pixels = np.arange(_SIDE)
    shares = np.minimum(edges[:, 1:], pixels + 1) - np.maximum(edges[:, :-1], pixels)
    shares = np.maximum(shares, 0)
    return shares / np.maximum(shares.sum(axis=2, keepdims=True), 1e-9)


def whole(pixels: np.ndarray) -> np.ndarray:
    """Returns the views of whole thumbnails."""
    cell = _SIDE // GRID
    return pixels.reshape(-1, 3, GRID, cell, GRID, cell).mean(axis=(3, 5))


def sample(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the views of a box of each thumbnail, or of one thumbnail.

    `boxes` is [n, 4]: left, top, right and bottom in [0, 1].
    """
    rows, columns = cover(boxes[:, 1::2], GRID), cover(boxes[:, ::2], GRID)
    return rows[:, None] @ pixels @ columns.transpose(0, 2, 1)[:, None]


def luma(views: np.ndarray) -> np.ndarray:
    """Returns the luma [n, GRID, GRID] of views."""
    return np.tensordot(views, _YCC[0], axes=(1, 0))


def levels(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compares views.

    Returns where each pair differs most, in levels, as `image_hashes.colour_distance` does; and
    the root mean square of the difference, as a share of the contrast of `a` (infinity where there
    is none). JPEG keeps colour at half the resolution, so it is compared in blocks.
    """
    difference = _ycc(a - b)
    n, _, height, width = difference.shape
    cells = difference[:, 0].reshape(n, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    blocks = difference[:, 1:].reshape(n, 2, height // 4, 4, width // 4, 4).mean(axis=(3, 5))
    chroma = np.square(blocks).sum(axis=1)
    noise = np.square(difference[:, 0]).mean(axis=(1, 2)) + chroma.mean(axis=(1, 2))
    contrast = np.sqrt(_ycc(a).var(axis=(2, 3)).sum(axis=1))
    noise = np.sqrt(noise) / np.maximum(contrast, 1e-9)
    noise = np.where(contrast >= _MIN_CONTRAST, noise, np.inf)
    most = np.maximum(np.abs(cells).max(axis=(1, 2)), np.sqrt(chroma.max(axis=(1, 2))))
    return most, noise


def _ycc(views: np.ndarray) -> np.ndarray:
    n, _, height, width = views.shape
    return (_YCC @ views.reshape(n, 3, -1)).reshape(n, 3, height, width)


def isotropy(views: np.ndarray) -> np.ndarray:
    """Returns how much views change along an edge, compared with across it: [n].

    It is the ratio of the eigenvalues of the structure tensor of luma: 0 for straight parallel
    edges, up to 1.
    """
    down, across = np.gradient(luma(views), axis=(1, 2))
    xx, yy = np.square(across).mean(axis=(1, 2)), np.square(down).mean(axis=(1, 2))
    xy = (across * down).mean(axis=(1, 2))
    root = np.sqrt(np.square(xx - yy) + 4 * np.square(xy))
    return (xx + yy - root) / np.maximum(xx + yy + root, 1e-9)


def fit(target: np.ndarray, pixels: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves and stretches boxes [n, 4] of thumbnails to where they fit the targets best.

    Some steps of damped Gauss-Newton on the four edges; the best of each is taken. Returns the
    boxes, and their views.
    """
    best, least = boxes, np.full(len(boxes), np.inf)
    best_views = np.zeros((len(boxes), 3, GRID, GRID))
    for number in range(_STEPS + 1):
        views, slopes = _slopes(pixels, boxes) if number < _STEPS else (sample(pixels, boxes), None)
        residual = (target - views).reshape(len(boxes), -1, 1)
        error = np.square(residual).sum(axis=(1, 2))
        better = error < least
        best, least = np.where(better[:, None], boxes, best), np.minimum(error, least)
        best_views[better] = views[better]
        if slopes is not None:
            normal = slopes @ slopes.transpose(0, 2, 1)
            normal += _DAMPING * residual.shape[1] * np.eye(4)
            step = np.linalg.solve(normal, slopes @ residual)[..., 0]
            boxes = np.clip(boxes + np.clip(step, -_MAX_STEP, _MAX_STEP), 0, 1)
    return best, best_views


def _slopes(pixels: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the views of boxes, and how they change with each edge: [n, 4, values]."""
    steps = np.where(boxes < 0.5, _STEP, -_STEP)
    spans = np.broadcast_to(boxes, (3, *boxes.shape)).copy()
    spans[1, :, :2] += steps[:, :2]  # left and top
    spans[2, :, 2:] += steps[:, 2:]
    shape = (3, len(boxes), 1, GRID, _SIDE)
    rows = cover(spans[..., 1::2].reshape(-1, 2), GRID).reshape(shape)
    columns = cover(spans[..., ::2].reshape(-1, 2), GRID).reshape(shape).swapaxes(-1, -2)
    views, left, right = rows[0] @ pixels @ columns
    top, bottom = rows[1:] @ (pixels @ columns[0])
    moved = np.stack([left, top, right, bottom], axis=1) - views[:, None]
    return views, moved.reshape(len(boxes), 4, -1) / steps[..., None]
