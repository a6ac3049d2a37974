# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a scene is, and how it is drawn: palette, shapes, anti-aliased rendering.

Shapes are polygons in [-1, 1] x [-1, 1], y downwards, of which some are cut out again.
"""

import collections
import dataclasses
import functools
import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from parti.data.scenes import glyphs

# Far apart in RGB, and no colour is between two others (`reader` relies on it).
COLOURS = {
    "red": (220, 30, 35),
    "orange": (255, 140, 0),
    "yellow": (250, 225, 30),
    "green": (30, 150, 55),
    "cyan": (0, 205, 225),
    "blue": (30, 65, 225),
    "purple": (125, 35, 165),
    "pink": (255, 110, 190),
    "brown": (125, 70, 25),
    "black": (15, 15, 15),
}
BACKGROUNDS = {
    "white": (255, 255, 255),
    "gray": (165, 165, 165),
    "black": (15, 15, 15),
    "beige": (240, 215, 170),
    "light blue": (180, 210, 250),
    "light green": (180, 240, 190),
}
SIZES = ("small", "medium", "large")
RELATIONS = ("left_of", "right_of", "above", "below", "inside", "overlapping")
SIGN = "sign"
# The field of a sign that text is fitted into, in the sign's box: centre, width, height.
SIGN_FIELD = ((0.0, -0.22), 1.72, 0.68)

_SUPERSAMPLING = 4
_Points = list[tuple[float, float]]


def _ellipse(x: float, y: float, rx: float, ry: float) -> _Points:
    """Returns an ellipse as a polygon of 72 corners."""
    turns = [2 * math.pi * i / 72 for i in range(72)]
    return [(x + rx * math.cos(turn), y + ry * math.sin(turn)) for turn in turns]


def _rectangle(left: float, top: float, right: float, bottom: float) -> _Points:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _star() -> _Points:
    radii = (1.05, 0.45)
    turns = [math.pi * (i / 5 - 0.5) for i in range(10)]
    return [
        (radii[i % 2] * math.cos(turn), 0.08 + radii[i % 2] * math.sin(turn))
        for i, turn in enumerate(turns)
    ]


def _heart() -> _Points:
    points = []
    for i in range(72):
        t = 2 * math.pi * i / 72
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3, -(y + 2.5) / 15.5))
    return points


def _flower() -> list[tuple[int, _Points]]:
    turns = [2 * math.pi * i / 5 - math.pi / 2 for i in range(5)]
    petals = [(1, _ellipse(0.6 * math.cos(t), 0.6 * math.sin(t), 0.4, 0.4)) for t in turns]
    return [*petals, (1, _ellipse(0, 0, 0.4, 0.4)), (0, _ellipse(0, 0, 0.24, 0.24))]


@functools.cache
def outlines() -> dict[str, list[tuple[int, _Points]]]:
    """Returns {shape: [(1 to fill, 0 to cut out; polygon in [-1, 1]^2)]}, `SIGN` included."""
    plus = 0.34
    return {
        "circle": [(1, _ellipse(0, 0, 0.95, 0.95))],
        "square": [(1, _rectangle(-0.88, -0.88, 0.88, 0.88))],
        "triangle": [(1, [(0, -0.9), (1, 0.85), (-1, 0.85)])],
        "diamond": [(1, [(0, -1), (0.75, 0), (0, 1), (-0.75, 0)])],
        "star": [(1, _star())],
        "heart": [(1, _heart())],
        "cross": [(1, _rectangle(-1, -plus, 1, plus)), (1, _rectangle(-plus, -1, plus, 1))],
        "ring": [(1, _ellipse(0, 0, 1, 1)), (0, _ellipse(0, 0, 0.55, 0.55))],
        "moon": [(1, _ellipse(0, 0, 1, 1)), (0, _ellipse(0.52, -0.1, 0.82, 0.82))],
        "arrow": [(1, _rectangle(-1, -0.3, 0.1, 0.3)), (1, [(0, -0.9), (1, 0), (0, 0.9)])],
        "house": [
            (1, [(0, -1), (1, -0.15), (-1, -0.15)]),
            (1, _rectangle(-0.78, -0.16, 0.78, 0.95)),
            (0, _rectangle(-0.24, 0.25, 0.24, 0.96)),
        ],
        "tree": [
            (1, [(0, -1), (0.62, -0.1), (-0.62, -0.1)]),
            (1, [(0, -0.45), (0.85, 0.55), (-0.85, 0.55)]),
            (1, _rectangle(-0.17, 0.5, 0.17, 1)),
        ],
        "fish": [
            (1, _ellipse(-0.25, 0, 0.75, 0.52)),
            (1, [(0.15, 0), (1, -0.62), (1, 0.62)]),
            (0, _ellipse(-0.6, -0.12, 0.12, 0.12)),
        ],
        "flower": _flower(),
        "mug": [
            (1, _ellipse(0.5, 0, 0.5, 0.5)),
            (0, _ellipse(0.5, 0, 0.24, 0.24)),
            (1, _rectangle(-0.9, -0.8, 0.45, 0.8)),
        ],
        "boat": [
            (1, [(-1, 0.35), (1, 0.35), (0.6, 0.9), (-0.6, 0.9)]),
            (1, _rectangle(-0.07, -0.95, 0.07, 0.4)),
            (1, [(0.07, -0.95), (0.85, 0.2), (0.07, 0.2)]),
        ],
        SIGN: [(1, _rectangle(-1, -0.76, 1, 0.32)), (1, _rectangle(-0.1, 0.3, 0.1, 0.9))],
    }


SHAPES = tuple(shape for shape in outlines() if shape != SIGN)


def ink(colour: str) -> tuple[int, int, int]:
    """Returns the RGB of text on a sign: white on dark boards, black on light ones."""
    red, green, blue = COLOURS[colour]
    is_bright = 0.299 * red + 0.587 * green + 0.114 * blue > 130
    return (15, 15, 15) if is_bright else (255, 255, 255)


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One thing in a scene."""

    shape: str  # one of `SHAPES`, or `SIGN`
    colour: str  # a key of `COLOURS`
    size: str  # the size that captions name: one of `SIZES`; "" where they name none
    extent: float  # side of the box that the shape is drawn in, as a fraction of the image's side
    cx: float  # middle of the box from the left, likewise; `cy` from the top
    cy: float

    def __post_init__(self) -> None:
        for field, value, allowed in (
            ("shape", self.shape, (*SHAPES, SIGN)),
            ("colour", self.colour, tuple(COLOURS)),
            ("size", self.size, (*SIZES, "")),
        ):
            if value not in allowed:
                raise ValueError(f"Scene object: {field} {value!r} is not one of {allowed}.")


@dataclasses.dataclass(frozen=True)
class Scene:
    """An image in words and numbers."""

    background: str  # a key of `BACKGROUNDS`, never the colour of an object
    objects: tuple[SceneObject, ...]  # what is drawn; the first is in front
    relation: str = ""  # one of `RELATIONS`, of objects[0] to objects[1]; "" for none
    text: str = ""  # letters on the sign, which is then the only object; "" for none
    challenge: str = "simple"  # what the scene tests: a name of `scenes.CHALLENGES`

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS:
            raise ValueError(
                f"Scene: background {self.background!r} is not one of {tuple(BACKGROUNDS)}."
            )
        if any(thing.colour == self.background for thing in self.objects):
            raise ValueError(f"Scene: an object has the background's colour, {self.background!r}.")
        if self.relation and (self.relation not in RELATIONS or len(self.objects) != 2):
            raise ValueError(
                f"Scene: relation {self.relation!r} must be one of {RELATIONS}, of two objects."
            )
        if bool(self.text) != (SIGN in (thing.shape for thing in self.objects)):
            raise ValueError("Scene: text needs a sign to stand on, and a sign needs text.")
        if self.text:
            glyphs.check_text(self.text)

    def groups(self) -> dict[tuple[str, str], int]:
        """Returns {(shape, colour): how many}, in the order of the objects."""
        return dict(collections.Counter((thing.shape, thing.colour) for thing in self.objects))

    def to_dict(self) -> dict[str, Any]:
        """Returns the scene as JSON values."""
        values = dataclasses.asdict(self)
        return {**values, "objects": list(values["objects"])}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Scene":
        """Reads what `to_dict` wrote; ValueError: fields are missing, unknown or out of range."""
        try:
            objects = tuple(SceneObject(**thing) for thing in values["objects"])
            if not objects or not isinstance(values.get("challenge", ""), str):
                raise TypeError("no objects, or a challenge that is no text")
            return cls(**{**values, "objects": objects})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"Not a scene as Scene.to_dict writes it: {error}") from error


def shape_mask(shape: str, extent: float, offset: tuple[float, float] = (0.0, 0.0)) -> Image.Image:
    """Draws a shape, or a sign without text, alone: a mask of 255 inside, else 0, not smoothed.

    The box of the shape has sides of `extent` pixels, its corner is at `offset`, in [0, 1) pixels.
    """
    side = math.ceil(extent) + 2
    mask = Image.new("L", (side, side))
    canvas = ImageDraw.Draw(mask)
    half = extent / 2
    # Pillow counts from pixel centres, the scene from pixel corners.
    dx, dy = offset[0] + half - 0.5, offset[1] + half - 0.5
    for filled, points in outlines()[shape]:
        canvas.polygon([(x * half + dx, y * half + dy) for x, y in points], fill=255 * filled)
    return mask


def render(scene: Scene, size: int) -> np.ndarray:
    """Draws a scene, [size, size, 3] uint8, anti-aliased; ValueError: under 16 pixels a side."""
    if size < 16:
        raise ValueError(f"A scene needs at least 16 pixels a side, not {size}.")
    side = size * _SUPERSAMPLING
    image = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    for thing in reversed(scene.objects):
        extent = thing.extent * side
        left, top = thing.cx * side - extent / 2, thing.cy * side - extent / 2
        corner = (math.floor(left), math.floor(top))
        mask = shape_mask(thing.shape, extent, (left - corner[0], top - corner[1]))
        image.paste(COLOURS[thing.colour], corner, mask)
        if thing.shape == SIGN:
            (x, y), width, height = SIGN_FIELD
            half = extent / 2
            centre = (thing.cx * side + x * half - 0.5, thing.cy * side + y * half - 0.5)
            fill = ink(thing.colour)
            canvas = ImageDraw.Draw(image)
            glyphs.draw_text(canvas, scene.text, centre, width * half, height * half, fill)
    return np.asarray(image.reduce(_SUPERSAMPLING))
