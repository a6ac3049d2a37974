# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The built-in data set: small drawn images with exact captions, of what a `World` may hold.

Scene `index` of a split is drawn from random numbers seeded by (seed, split, index) alone. Some
(shape, colour) pairs and some words are held out: they occur in the validation split only.
"""

import hashlib
import random
from collections.abc import Iterator

import numpy as np

from parti.data.scenes import captions as scene_captions
from parti.data.scenes import drawing as scene_drawing
from parti.data.scenes import sampling as scene_sampling
from parti.data.storage import records

Scene = scene_drawing.Scene
SceneObject = scene_drawing.SceneObject
SHAPES = scene_drawing.SHAPES
COLOURS = scene_drawing.COLOURS
BACKGROUNDS = scene_drawing.BACKGROUNDS
RELATIONS = scene_drawing.RELATIONS
CHALLENGES = scene_sampling.CHALLENGES
World = scene_sampling.World
render = scene_drawing.render
captions = scene_captions.captions
sample_scene = scene_sampling.sample_scene

# Chosen so that no shape or colour loses more than three of its pairs (one in the tiny world).
_HOLD_OUT_SALT = "parti-scenes-882"


WORLDS = {
    "full": World(
        shapes=tuple(SHAPES),
        colours=tuple(COLOURS),
        backgrounds=tuple(BACKGROUNDS),
        challenges={"simple": 0.25, "count": 0.2, "relation": 0.3, "text": 0.15, "complex": 0.1},
    ),
    # Easy to learn in minutes on a CPU: large objects, strong colours, light backgrounds.
    "tiny": World(
        shapes=("circle", "square", "triangle", "cross", "ring", "heart"),
        colours=("red", "orange", "yellow", "green", "blue", "purple", "black"),
        backgrounds=("white", "gray", "light blue"),
        challenges={"simple": 0.2, "relation": 0.8},
        relations=("left_of", "right_of", "above", "below"),
        max_objects=2,
        single_extent=(0.62, 0.76),
        pair_extent=(0.38, 0.43),
        jitter=0.07,
        num_captions=3,
    ),
}


def _hold_out(name: str) -> bool:
    digest = hashlib.sha256(f"{_HOLD_OUT_SALT}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 9 == 0


HELD_OUT_PAIRS = frozenset(
    (shape, colour) for shape in SHAPES for colour in COLOURS if _hold_out(f"{shape} {colour}")
)


def is_held_out(scene: Scene) -> bool:
    """Returns whether a scene belongs to validation: one of its pairs, or its text, is held out."""
    pairs = {(thing.shape, thing.colour) for thing in scene.objects}
    return bool(pairs & HELD_OUT_PAIRS) or bool(scene.text) and _hold_out(scene.text)


def find_world(name: str) -> World:
    """Returns a world by name; ValueError: there is none."""
    if name not in WORLDS:
        raise ValueError(f"No world {name!r}: choose one of {', '.join(WORLDS)}.")
    return WORLDS[name]


def draw_scene(
    split: str, index: int, seed: int, world: World, challenge: str | None = None
) -> Scene:
    """Draws scene number `index` of a split; ValueError: there is no such split or challenge."""
    if split not in records.SPLITS:
        raise ValueError(f"No split {split!r}: choose one of {', '.join(records.SPLITS)}.")
    rng = random.Random(f"{seed}/{split}/{index}")
    scene = sample_scene(rng, world, challenge and [challenge])
    # The challenge stays when a scene falls into the other split, so both have the same shares.
    while is_held_out(scene) != (split == "validation"):
        scene = sample_scene(rng, world, [scene.challenge])
    return scene


def scene_key(split: str, index: int) -> str:
    """Returns the key of scene number `index` of a split."""
    return f"{split}-{index:08d}"


def generate(
    split: str, num: int, seed: int, size: int, world: str = "full", start: int = 0
) -> Iterator[tuple[str, Scene, np.ndarray, list[str]]]:
    """Yields (key, scene, image [size, size, 3] uint8, captions) of scenes from `start` on."""
    chosen = find_world(world)
    for index in range(start, start + num):
        scene, key = draw_scene(split, index, seed, chosen), scene_key(split, index)
        yield key, scene, render(scene, size), captions(scene, chosen.num_captions)
