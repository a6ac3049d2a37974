# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws scenes at random: what a world may hold, and where things stand in each challenge."""

import dataclasses
import random
from collections.abc import Callable, Sequence

from parti.data.scenes import drawing, glyphs

# Challenge -> its name in PartiPrompts, which prompt files use.
CHALLENGES = {
    "simple": "Simple Detail",
    "count": "Quantity",
    "relation": "Properties & Positioning",
    "text": "Writing & Symbols",
    "complex": "Complex",
}
_WORDS_BY_LENGTH = {
    2: "HI GO NO UP OK ME WE US TO ON IN BY",
    3: "YES CAT DOG SUN RUN FUN CAR BUS MAP TEA ICE ZOO BOX FOX SKY SEA RED BIG NEW OLD ONE TWO "
    "SIX TEN JAM KEY LOW HOT",
    4: "OPEN STOP EXIT SALE PARK TAXI FOOD HOME LOVE MOON STAR FISH BIRD TREE QUIZ JAZZ WAVE "
    "KIWI PLAY LEFT NEXT HELP WEST EAST SHOP",
}
WORDS = tuple(word for words in _WORDS_BY_LENGTH.values() for word in words.split())

# Extents of a named size. There are gaps between them, so that an image has one true answer.
SIZE_EXTENTS = {"small": (0.19, 0.27), "medium": (0.33, 0.40), "large": (0.47, 0.62)}
_COUNT_EXTENTS = {2: (0.26, 0.38), 3: (0.24, 0.32), 4: (0.22, 0.28), 5: (0.2, 0.25)}
# How large a box fits inside a shape, as a fraction of the shape's own box.
_CONTAINERS = {"circle": 0.6, "square": 0.75, "diamond": 0.36, "heart": 0.44}
_OVERLAPPING_SHAPES = ("circle", "square", "triangle", "heart", "house", "flower", "cross")
_MARGIN = 0.04  # free border of every image
_GAP = 0.07  # least distance of two objects that do not touch


@dataclasses.dataclass(frozen=True)
class World:
    """What may occur in a data set of scenes."""

    shapes: tuple[str, ...]  # names in `SHAPES`
    colours: tuple[str, ...]  # keys of `COLOURS`
    backgrounds: tuple[str, ...]  # keys of `BACKGROUNDS`
    challenges: dict[str, float]  # {name in `CHALLENGES`: its share of the scenes}
    relations: tuple[str, ...] = drawing.RELATIONS  # names in `RELATIONS`
    max_objects: int = 5  # the highest count
    # Extents of an object alone; None for the named sizes
    single_extent: tuple[float, float] | None = None
    # Extents of two objects side by side; None for the named sizes
    pair_extent: tuple[float, float] | None = None
    jitter: float = 0.5  # how far a lone object, or the line of a pair, may be from the middle
    num_captions: int | None = None  # phrasings of each scene; None for all


def _place(rng: random.Random, extent: float, jitter: float = 0.5) -> float:
    """Draws a centre along one axis that keeps the box within the margin."""
    reach = max(0.0, min(jitter, 0.5 - _MARGIN - extent / 2))
    return 0.5 + rng.uniform(-reach, reach)


def _scatter(rng: random.Random, extents: Sequence[float]) -> list[tuple[float, float, float]]:
    """Throws boxes (extent, cx, cy) onto the image so that none touch; shrinks them if need be."""
    shrink = 1.0
    while True:
        placed: list[tuple[float, float, float]] = []
        for extent in (shrink * value for value in extents):
            for _ in range(30):
                cx, cy = _place(rng, extent), _place(rng, extent)
                if all(
                    max(abs(cx - x), abs(cy - y)) >= (extent + other) / 2 + _GAP
                    for other, x, y in placed
                ):
                    placed.append((extent, cx, cy))
                    break
        if len(placed) == len(extents):
            return placed
        shrink *= 0.97


def _pick_kinds(rng: random.Random, world: World, num: int) -> tuple[str, list[tuple[str, str]]]:
    """Draws a background and `num` (shape, colour) pairs that share neither shape nor colour."""
    background = rng.choice(world.backgrounds)
    colours = rng.sample([colour for colour in world.colours if colour != background], num)
    return background, list(zip(rng.sample(world.shapes, num), colours))


def _sample_simple(rng: random.Random, world: World) -> drawing.Scene:
    background, [(shape, colour)] = _pick_kinds(rng, world, 1)
    size = "" if world.single_extent else rng.choice(drawing.SIZES)
    extent = rng.uniform(*(world.single_extent or SIZE_EXTENTS[size]))
    cx, cy = _place(rng, extent, world.jitter), _place(rng, extent, world.jitter)
    thing = drawing.SceneObject(shape, colour, size, extent, cx, cy)
    return drawing.Scene(background, (thing,))


def _sample_groups(rng: random.Random, world: World, counts: Sequence[int]) -> drawing.Scene:
    background, kinds = _pick_kinds(rng, world, len(counts))
    low, high = _COUNT_EXTENTS[max(2, sum(counts))]
    boxes = _scatter(rng, [rng.uniform(low, high) for _ in range(sum(counts))])
    shapes = [kind for kind, count in zip(kinds, counts) for _ in range(count)]
    objects = tuple(drawing.SceneObject(*kind, "", *box) for kind, box in zip(shapes, boxes))
    return drawing.Scene(background, objects)


def _sample_complex(rng: random.Random, world: World) -> drawing.Scene:
    first = rng.randint(1, world.max_objects - 2)
    second = rng.randint(2 if first == 1 else 1, world.max_objects - first)
    return _sample_groups(rng, world, [first, second])


def _pair_sizes(rng: random.Random, world: World) -> list[tuple[str, float]]:
    """Draws (size, extent) of two objects that fit side by side."""
    if world.pair_extent:
        return [("", rng.uniform(*world.pair_extent)) for _ in range(2)]
    sizes = [*rng.choice((("small", "small"), ("medium", "medium"), ("small", "large")))]
    rng.shuffle(sizes)
    # Beside another the largest would not fit.
    extents = [min(rng.uniform(*SIZE_EXTENTS[size]), 0.55) for size in sizes]
    # Half of the captions say nothing about size.
    return list(zip(sizes if rng.random() < 0.5 else ("", ""), extents))


def _beside(
    rng: random.Random, a: float, b: float, jitter: float
) -> tuple[float, float, float, float]:
    """Places a before b on one axis, level on the other.

    Returns (along a, along b, across a, across b): their centres on the two axes.
    """
    free = 1 - 2 * _MARGIN - a - b - _GAP
    start, between = sorted((rng.uniform(0, free), rng.uniform(0, free)))
    along_a = _MARGIN + start + a / 2
    along_b = _MARGIN + between + a + _GAP + b / 2
    level = _place(rng, max(a, b), jitter)
    low, high = (min(a, b) / 2 + _MARGIN, 1 - min(a, b) / 2 - _MARGIN)
    offset = rng.uniform(-0.07, 0.07)
    shifted = min(max(level + offset, low), high)
    return (along_a, along_b, level, shifted) if a >= b else (along_a, along_b, shifted, level)


def _sample_beside(rng: random.Random, world: World, relation: str) -> drawing.Scene:
    background, kinds = _pick_kinds(rng, world, 2)
    (size_a, a), (size_b, b) = _pair_sizes(rng, world)
    if relation in ("left_of", "above"):
        along_a, along_b, across_a, across_b = _beside(rng, a, b, world.jitter)
    else:
        along_b, along_a, across_b, across_a = _beside(rng, b, a, world.jitter)
    centre_a, centre_b = (along_a, across_a), (along_b, across_b)
    if relation in ("above", "below"):
        centre_a, centre_b = centre_a[::-1], centre_b[::-1]
    objects = (
        drawing.SceneObject(*kinds[0], size_a, a, *centre_a),
        drawing.SceneObject(*kinds[1], size_b, b, *centre_b),
    )
    return drawing.Scene(background, objects, relation)


def _sample_inside(rng: random.Random, world: World) -> drawing.Scene:
    background, [(inner_shape, inner_colour), (_, outer_colour)] = _pick_kinds(rng, world, 2)
    outer_shape = rng.choice([shape for shape in _CONTAINERS if shape in world.shapes])
    outer = rng.uniform(0.64, 0.82)
    inner = rng.uniform(0.19, min(0.27, outer * _CONTAINERS[outer_shape]))
    cx, cy = _place(rng, outer), _place(rng, outer)
    size_a, size_b = ("small", "large") if rng.random() < 0.5 else ("", "")
    x, y = (centre + rng.uniform(-0.015, 0.015) for centre in (cx, cy))
    objects = (
        drawing.SceneObject(inner_shape, inner_colour, size_a, inner, x, y),
        drawing.SceneObject(outer_shape, outer_colour, size_b, outer, cx, cy),
    )
    return drawing.Scene(background, objects, "inside")


def _sample_overlapping(rng: random.Random, world: World) -> drawing.Scene:
    background, [(_, colour_a), (_, colour_b)] = _pick_kinds(rng, world, 2)
    shapes = rng.sample([shape for shape in _OVERLAPPING_SHAPES if shape in world.shapes], 2)
    a, b = rng.uniform(0.36, 0.48), rng.uniform(0.36, 0.48)
    dx = rng.choice((-1, 1)) * rng.uniform(0.62, 0.7) * (a + b) / 2
    dy = rng.uniform(-0.08, 0.08)
    # Where b may stand so that both boxes keep the margin.
    x, y = (
        rng.uniform(_MARGIN + max(b / 2, a / 2 - d), 1 - _MARGIN - max(b / 2, a / 2 + d))
        for d in (dx, dy)
    )
    objects = (
        drawing.SceneObject(shapes[0], colour_a, "", a, x + dx, y + dy),
        drawing.SceneObject(shapes[1], colour_b, "", b, x, y),
    )
    return drawing.Scene(background, objects, "overlapping")


def _sample_relation(rng: random.Random, world: World) -> drawing.Scene:
    relation = rng.choice(world.relations)
    if relation == "inside":
        return _sample_inside(rng, world)
    if relation == "overlapping":
        return _sample_overlapping(rng, world)
    return _sample_beside(rng, world, relation)


def _sample_text(rng: random.Random, world: World) -> drawing.Scene:
    background, [(_, colour)] = _pick_kinds(rng, world, 1)
    if rng.random() < 0.7:
        text = rng.choice(WORDS)
    else:
        text = "".join(rng.choice(glyphs.LETTERS) for _ in range(rng.randint(1, 3)))
    extent = rng.uniform(0.84, 0.94)
    # The sign's box is higher than the sign; both axes may use a slim margin.
    x, y = (0.5 + rng.uniform(-0.025, 0.025) for _ in range(2))
    sign = drawing.SceneObject(drawing.SIGN, colour, "", extent, x, y)
    return drawing.Scene(background, (sign,), text=text)


_SAMPLERS: dict[str, Callable[[random.Random, World], drawing.Scene]] = {
    "simple": _sample_simple,
    "count": lambda rng, world: _sample_groups(rng, world, [rng.randint(2, world.max_objects)]),
    "relation": _sample_relation,
    "text": _sample_text,
    "complex": _sample_complex,
}


def sample_scene(
    rng: random.Random, world: World, challenges: Sequence[str] | None = None
) -> drawing.Scene:
    """Draws a scene of a world, of either split; of these `challenges` only, if they are given.

    Raises:
      ValueError: a challenge is not one of the world's.
    """
    names = list(world.challenges if challenges is None else challenges)
    for name in names:
        if name not in world.challenges:
            allowed = ", ".join(world.challenges)
            raise ValueError(f"This world has no challenge {name!r}: choose from {allowed}.")
    [name] = rng.choices(names, [world.challenges[name] for name in names])
    scene = _SAMPLERS[name](rng, world)
    return dataclasses.replace(scene, objects=tuple(map(_rounded, scene.objects)), challenge=name)


def _rounded(thing: drawing.SceneObject) -> drawing.SceneObject:
    """Returns an object whose coordinates have four decimals, so that its JSON is short."""
    extent, cx, cy = (round(value, 4) for value in (thing.extent, thing.cx, thing.cy))
    return dataclasses.replace(thing, extent=extent, cx=cx, cy=cy)
