# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Says how well an image agrees with a scene: `reader` reads it without knowing the scene.

Scores are in [0, 1] and give credit for parts; one that does not apply to a scene is left out.
"""

import numpy as np
from scipy import optimize

from parti.data.scenes import reader, scenes

View = reader.View
SeenObject = reader.SeenObject
read_scene = reader.read_scene

SCORES = ("shape", "colour", "size", "count", "relation", "background", "text")
# Extents that divide small from medium from large: the middles of the gaps in SIZE_EXTENTS.
_SMALL_BELOW, _LARGE_ABOVE = 0.30, 0.435


def perfect_view(scene: scenes.Scene) -> View:
    """Returns the view that a faultless reader has of a scene's image."""
    objects = tuple(
        SeenObject(one.shape, one.colour, one.extent, one.cx, one.cy) for one in scene.objects
    )
    return View(scene.background, objects, scene.text)


def relation_holds(relation: str, a: SeenObject, b: SeenObject) -> bool:
    """Returns whether `a` is in a relation to `b`."""
    dx, dy = b.cx - a.cx, b.cy - a.cy
    apart = max(abs(dx), abs(dy))
    inside = a.extent < 0.7 * b.extent and apart < 0.25 * b.extent
    if relation == "inside":
        return inside
    if relation == "overlapping":
        return not inside and apart < 0.45 * (a.extent + b.extent)
    along, across = (dx, dy) if relation in ("left_of", "right_of") else (dy, dx)
    if relation in ("right_of", "below"):
        along = -along
    return along > abs(across) and not inside


def _size_name(extent: float) -> str:
    return "small" if extent < _SMALL_BELOW else "large" if extent > _LARGE_ABOVE else "medium"


def _pair_up(view: View, scene: scenes.Scene) -> list[SeenObject | None]:
    """Returns what was seen of each true object, so that most shapes and colours agree."""
    seen: list[SeenObject | None] = [None] * len(scene.objects)
    if not view.objects:
        return seen

    def agreement(thing: scenes.SceneObject, other: SeenObject) -> float:
        # Shape decides ties, so that the result is the same for any order.
        return 1.01 * (thing.shape == other.shape) + (thing.colour == other.colour)

    table = [[agreement(thing, other) for other in view.objects] for thing in scene.objects]
    for row, column in zip(*optimize.linear_sum_assignment(table, maximize=True)):
        seen[row] = view.objects[column]
    return seen


def _count_score(view: View, scene: scenes.Scene) -> float:
    """Returns 1 for the right number of each colour, 0.5 if it is one off, else 0; the mean."""
    scores = []
    for (_, colour), count in scene.groups().items():
        found = sum(thing.colour == colour for thing in view.objects)
        off = abs(found - count)
        scores.append(1.0 if off == 0 else 0.5 if off == 1 and found else 0.0)
    return sum(scores) / len(scores)


def _relation_score(seen: list[SeenObject | None], scene: scenes.Scene) -> float:
    """Returns 1 if both objects are there, in shape or colour, and stand as they should."""
    for found, thing in zip(seen, scene.objects):
        if not found or (found.shape != thing.shape and found.colour != thing.colour):
            return 0.0
    a, b = (found for found in seen if found)
    return float(relation_holds(scene.relation, a, b))


def edit_distance(a: str, b: str) -> int:
    """Returns how many letters to insert, delete or replace to turn one text into the other."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != other))
    return row[-1]


def compare(view: View, scene: scenes.Scene) -> dict[str, float]:
    """Scores what was seen against the truth.

    Returns:
        {name of `SCORES` that applies to the scene: score in [0, 1]}, and `overall`, their mean.
        - shape, colour: the share of objects with the right one; those too many count against it.
        - size: the share of right sizes, among objects whose size the caption names.
        - count: if there are several objects and no relation; see `_count_score`.
        - relation, background: 1 or 0.
        - text: 1 less the edit distance over the longer length.
    """
    seen = _pair_up(view, scene)
    pairs = [(found, thing) for found, thing in zip(seen, scene.objects) if found]
    num = max(len(view.objects), len(scene.objects))
    scores = {
        "shape": sum(found.shape == thing.shape for found, thing in pairs) / num,
        "colour": sum(found.colour == thing.colour for found, thing in pairs) / num,
        "background": float(view.background == scene.background),
    }
    if named := sum(bool(thing.size) for thing in scene.objects):
        right = sum(_size_name(found.extent) == thing.size for found, thing in pairs if thing.size)
        scores["size"] = right / named
    if scene.relation:
        scores["relation"] = _relation_score(seen, scene)
    elif len(scene.objects) > 1:
        scores["count"] = _count_score(view, scene)
    if scene.text:
        longest = max(len(view.text), len(scene.text))
        scores["text"] = 1 - edit_distance(view.text, scene.text) / longest
    scores["overall"] = sum(scores.values()) / len(scores)
    return scores


def alignment(image: np.ndarray, scene: scenes.Scene) -> dict[str, float]:
    """Scores an image, [size, size, 3] uint8 of 32 pixels or more; raises as `read_scene`."""
    return compare(read_scene(image), scene)


def mean_scores(rows: list[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each score over the rows that have it, in the order of `SCORES`."""
    values = {name: [r[name] for r in rows if name in r] for name in (*SCORES, "overall")}
    return {name: sum(column) / len(column) for name, column in values.items() if column}
