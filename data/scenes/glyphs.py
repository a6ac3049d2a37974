# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A stroke font of the capitals A to Z, for signs in scenes.

All glyphs share one cell width, so that `reader` reads a line of text cell by cell.
"""

import functools

import numpy as np
from PIL import Image, ImageDraw

GLYPH_ASPECT = 1.5  # height over width of a glyph
PITCH = 1.3  # distance between the left edges of two glyphs, in glyph widths
STROKE = 0.28  # thickness of a stroke, in glyph widths
MAX_LENGTH = 4

_GRID_WIDTH, _GRID_HEIGHT = 4.0, 6.0

# Polylines separated by "|", points by blanks, "x,y" on the 4 x 6 grid.
_STROKES = {
    "A": "0,6 2,0 4,6|0.7,4 3.3,4",
    "B": "0,3 2.8,3 3.7,2.3 3.7,0.7 2.6,0 0,0 0,6 2.8,6 4,5.2 4,3.8 2.8,3",
    "C": "4,1 3,0 1,0 0,1 0,5 1,6 3,6 4,5",
    "D": "0,0 0,6 2.4,6 4,4.4 4,1.6 2.4,0 0,0",
    "E": "4,0 0,0 0,6 4,6|0,3 3,3",
    "F": "4,0 0,0 0,6|0,3 3,3",
    "G": "4,1 3,0 1,0 0,1 0,5 1,6 3,6 4,5 4,3.2 2.4,3.2",
    "H": "0,0 0,6|4,0 4,6|0,3 4,3",
    "I": "0.8,0 3.2,0|2,0 2,6|0.8,6 3.2,6",
    "J": "4,0 4,5 3,6 1,6 0,5 0,4.2",
    "K": "0,0 0,6|4,0 0,3.4|1.2,2.6 4,6",
    "L": "0,0 0,6 4,6",
    "M": "0,6 0,0 2,3 4,0 4,6",
    "N": "0,6 0,0 4,6 4,0",
    "O": "1,0 3,0 4,1 4,5 3,6 1,6 0,5 0,1 1,0",
    "P": "0,6 0,0 3,0 4,0.9 4,2.4 3,3.3 0,3.3",
    "Q": "1,0 3,0 4,1 4,5 3,6 1,6 0,5 0,1 1,0|2.2,4 4.2,6.4",
    "R": "0,6 0,0 3,0 4,0.9 4,2.4 3,3.3 0,3.3|1.8,3.3 4,6",
    "S": "4,1 3,0 1,0 0,1 0,2 1,3 3,3 4,4 4,5 3,6 1,6 0,5",
    "T": "0,0 4,0|2,0 2,6",
    "U": "0,0 0,5 1,6 3,6 4,5 4,0",
    "V": "0,0 2,6 4,0",
    "W": "0,0 0.9,6 2,2.5 3.1,6 4,0",
    "X": "0,0 4,6|4,0 0,6",
    "Y": "0,0 2,3 4,0|2,3 2,6",
    "Z": "0,0 4,0 0,6 4,6",
}
LETTERS = "".join(_STROKES)


@functools.cache
def strokes(letter: str) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Returns a letter as polylines in [0, 1] of width and height; ValueError: no such letter."""
    if letter not in _STROKES:
        raise ValueError(f"No glyph for {letter!r}: signs can be written in {LETTERS}.")
    lines = [[point.split(",") for point in line.split()] for line in _STROKES[letter].split("|")]
    return tuple(
        tuple((float(x) / _GRID_WIDTH, float(y) / _GRID_HEIGHT) for x, y in line) for line in lines
    )


def check_text(text: str) -> None:
    """Raises ValueError unless `text` is 1 to `MAX_LENGTH` letters of the font."""
    if not 1 <= len(text) <= MAX_LENGTH:
        raise ValueError(f"A sign takes 1 to {MAX_LENGTH} letters, not {text!r}.")
    for letter in text:
        strokes(letter)


def text_layout(num_letters: int, width: float, height: float) -> tuple[float, float, list[float]]:
    """Returns how a line of text fits into a field of a width and height in any unit.

    It is (glyph width, glyph height, left edge of each glyph from the middle of the field).
    """
    glyph_width = min(height / GLYPH_ASPECT, width / (PITCH * (num_letters - 1) + 1))
    line_width = glyph_width * (PITCH * (num_letters - 1) + 1)
    lefts = [index * PITCH * glyph_width - line_width / 2 for index in range(num_letters)]
    return glyph_width, glyph_width * GLYPH_ASPECT, lefts


def draw_text(
    canvas: ImageDraw.ImageDraw,
    text: str,
    centre: tuple[float, float],
    width: float,
    height: float,
    fill: int | tuple[int, int, int],
) -> None:
    """Draws a line of text, as large as a field allows, around the field's centre."""
    glyph_width, glyph_height, lefts = text_layout(len(text), width, height)
    radius = glyph_width * STROKE / 2
    # The grid's lines are the middle of a stroke: half a stroke of the glyph is around them.
    inner_width, inner_height = glyph_width - 2 * radius, glyph_height - 2 * radius
    top = centre[1] - glyph_height / 2 + radius
    for letter, left in zip(text, lefts):
        first = centre[0] + left + radius
        for line in strokes(letter):
            points = [(first + x * inner_width, top + y * inner_height) for x, y in line]
            canvas.line(points, fill=fill, width=max(1, round(2 * radius)))
            for x, y in points:
                canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


@functools.cache
def glyph_masks(width: int, height: int) -> np.ndarray:
    """Renders every letter of the font alone: [letter, height, width] float32 in [0, 1], in the
    order of `LETTERS`."""
    scale = 8
    masks = []
    for letter in LETTERS:
        image = Image.new("L", (width * scale, height * scale))
        centre = (image.width / 2, image.height / 2)
        draw_text(ImageDraw.Draw(image), letter, centre, image.width, image.height, 255)
        masks.append(np.asarray(image.reduce(scale), np.float32) / 255)
    return np.stack(masks)
