# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scenes: what may be drawn, what is held out, and that captions and pictures tell the truth."""

import json
import random

import numpy as np
import pytest

from parti.data.scenes import glyphs, scenes
from parti.data.scenes import probe as scene_probe

WORLDS = tuple(scenes.WORLDS)


@pytest.fixture(scope="module")
def drawn() -> dict[tuple[str, str], list[scenes.Scene]]:
    """400 scenes of each world and split."""
    return {
        (name, split): [scenes.draw_scene(split, i, 0, world) for i in range(400)]
        for name, world in scenes.WORLDS.items()
        for split in ("train", "validation")
    }


def thing(
    shape: str, colour: str, extent: float = 0.3, cx: float = 0.5, cy: float = 0.5, size: str = ""
) -> scenes.SceneObject:
    return scenes.SceneObject(shape, colour, size, extent, cx, cy)


def test_the_issue_s_sizes() -> None:
    assert len(scenes.SHAPES) >= 12
    assert len(scenes.COLOURS) == 10
    assert set(scenes.RELATIONS) == {
        "left_of", "right_of", "above", "below", "inside", "overlapping",
    }  # fmt: skip


def test_a_scene_depends_on_seed_split_and_number_alone() -> None:
    [(key, scene, image, captions)] = scenes.generate("train", 1, seed=0, size=32)
    assert key == "train-00000000"
    assert captions[0] == "two cyan squares on a light blue background"
    later = list(scenes.generate("train", 2, seed=0, size=32, start=1))
    first = list(scenes.generate("train", 3, seed=0, size=32))
    assert [row[1] for row in later] == [row[1] for row in first[1:]]
    assert all(np.array_equal(a[2], b[2]) for a, b in zip(later, first[1:]))
    assert np.array_equal(image, first[0][2]) and scene == first[0][1]
    assert scenes.draw_scene("train", 0, 1, scenes.WORLDS["full"]) != scene


@pytest.mark.parametrize("world", WORLDS)
def test_splits_share_no_held_out_pair(world: str, drawn: dict) -> None:
    def pairs(scene: scenes.Scene) -> set[tuple[str, str]]:
        return {(thing.shape, thing.colour) for thing in scene.objects}

    train, validation = drawn[world, "train"], drawn[world, "validation"]
    assert not any(pairs(scene) & scenes.HELD_OUT_PAIRS for scene in train)
    assert all(pairs(scene) & scenes.HELD_OUT_PAIRS for scene in validation if not scene.text)
    assert not {scene.text for scene in train} & {scene.text for scene in validation} - {""}
    assert not any(map(scenes.is_held_out, train)) and all(map(scenes.is_held_out, validation))


@pytest.mark.parametrize("world", WORLDS)
def test_every_shape_and_colour_stays_in_train(world: str) -> None:
    chosen = scenes.WORLDS[world]
    held_out = {
        (shape, colour)
        for shape, colour in scenes.HELD_OUT_PAIRS
        if shape in chosen.shapes and colour in chosen.colours
    }
    assert 0.09 < len(held_out) / (len(chosen.shapes) * len(chosen.colours)) < 0.12
    for shape in chosen.shapes:
        assert sum(pair[0] == shape for pair in held_out) <= 2
    for colour in chosen.colours:
        assert sum(pair[1] == colour for pair in held_out) <= 3


@pytest.mark.parametrize("world", WORLDS)
def test_a_world_shows_all_that_it_says(world: str, drawn: dict) -> None:
    chosen, found = scenes.WORLDS[world], drawn[world, "train"]
    objects = [thing for scene in found for thing in scene.objects]
    assert {scene.challenge for scene in found} == set(chosen.challenges)
    assert {scene.background for scene in found} == set(chosen.backgrounds)
    assert {thing.shape for thing in objects} - {"sign"} == set(chosen.shapes)
    assert {thing.colour for thing in objects} == set(chosen.colours)
    assert {scene.relation for scene in found} - {""} == set(chosen.relations)
    counts = {len(scene.objects) for scene in found}
    assert counts == set(range(1, chosen.max_objects + 1))
    simple = [scene for scene in found if scene.challenge == "simple"]
    share = chosen.challenges["simple"] / sum(chosen.challenges.values())
    assert abs(len(simple) / len(found) - share) < 0.08


def test_objects_keep_their_distance(drawn: dict) -> None:
    for scene in drawn["full", "train"]:
        for i, a in enumerate(scene.objects):
            if a.shape != "sign":
                assert min(a.cx, a.cy, 1 - a.cx, 1 - a.cy) - a.extent / 2 > 0.03
            if scene.relation in ("inside", "overlapping"):
                continue
            for b in scene.objects[:i]:
                apart = max(abs(a.cx - b.cx), abs(a.cy - b.cy))
                assert apart > (a.extent + b.extent) / 2 + 0.06


@pytest.mark.parametrize("world", WORLDS)
def test_relations_are_true(world: str, drawn: dict) -> None:
    for scene in drawn[world, "train"] + drawn[world, "validation"]:
        if scene.relation:
            a, b = scene_probe.perfect_view(scene).objects
            assert scene_probe.relation_holds(scene.relation, a, b), scene


def test_scenes_survive_json(drawn: dict) -> None:
    for scene in drawn["full", "validation"]:
        assert scenes.Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_captions_name_the_facts(drawn: dict) -> None:
    for scene in drawn["full", "train"]:
        captions = scenes.captions(scene)
        assert len(captions) == len(set(captions)) == 5
        assert f"{scene.background} background" in captions[0]
        for found in scene.objects:
            assert all(found.shape in caption for caption in captions)
            assert found.colour in captions[0] and found.size in captions[0]
        for caption in captions:
            assert scene.text in caption
            assert " a orange" not in f" {caption}" and " an red" not in f" {caption}"


def test_captions_by_hand() -> None:
    star = thing("star", "blue", 0.25, 0.2, size="small")
    square = thing("square", "orange", 0.5, 0.7, size="large")
    scene = scenes.Scene("white", (star, square), "left_of", challenge="relation")
    assert scenes.captions(scene)[:4] == [
        "a small blue star to the left of a large orange square on a white background",
        "a small blue star to the left of a large orange square",
        "a large orange square to the right of a small blue star",
        "a picture of a little blue star to the left of a big orange square",
    ]
    fish = tuple(thing("fish", "red", 0.2, x) for x in (0.2, 0.5, 0.8))
    cross = thing("cross", "black", 0.2, 0.5, 0.8)
    assert scenes.captions(scenes.Scene("beige", (*fish, cross)), limit=2) == [
        "three red fish and a black cross on a beige background",
        "a black cross and three red fish",
    ]
    sign = scenes.Scene("gray", (thing("sign", "green", 0.9),), text="HI", challenge="text")
    assert scenes.captions(sign)[1] == 'a sign that says "HI"'


def test_pictures_are_anti_aliased_and_alike_at_all_sizes() -> None:
    scene = scenes.Scene("white", (thing("circle", "red", 0.5),))
    small = scenes.render(scene, 64)
    assert small.shape == (64, 64, 3) and small.dtype == np.uint8
    assert small[0, 0].tolist() == [255, 255, 255]
    assert small[32, 32].tolist() == list(scenes.COLOURS["red"])
    mixed = (small != 255).any(-1) & (small != small[32, 32]).any(-1)
    assert 60 < mixed.sum() < 200  # the rim of a circle of 32 pixels
    for size in (32, 128, 256):
        large = scenes.render(scene, size).astype(float)
        ratio = max(size, 64) // min(size, 64)

        def shrink(image: np.ndarray, ratio: int) -> np.ndarray:
            side = len(image) // ratio
            return image.reshape(side, ratio, side, ratio, 3).mean((1, 3))

        pair = (shrink(large, ratio), small) if size > 64 else (large, shrink(small, ratio))
        assert np.abs(pair[0] - pair[1]).mean() < 1.0


def test_the_first_object_is_in_front() -> None:
    front, back = thing("circle", "red", 0.2), thing("square", "blue", 0.8)
    image = scenes.render(scenes.Scene("white", (front, back), "inside"), 64)
    assert image[32, 32].tolist() == list(scenes.COLOURS["red"])


def test_letters_differ() -> None:
    masks = glyphs.glyph_masks(10, 15).reshape(len(glyphs.LETTERS), -1)
    unit = masks - masks.mean(1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    alike = unit @ unit.T - np.eye(len(unit))
    assert len(glyphs.LETTERS) == 26 and alike.max() < 0.9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"background": "pink"}, "background 'pink'"),
        ({"background": "black"}, "the background's colour"),
        ({"relation": "inside"}, "of two objects"),
        ({"text": "HI"}, "a sign needs text"),
    ],
)
def test_impossible_scenes_are_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scenes.Scene(**{"background": "white", "objects": (thing("star", "black"),), **values})


def test_bad_names_are_refused() -> None:
    with pytest.raises(ValueError, match="'hexagon' is not one of"):
        thing("hexagon", "red")
    with pytest.raises(ValueError, match="Not a scene"):
        scenes.Scene.from_dict({"background": "white"})
    with pytest.raises(ValueError, match="choose one of full, tiny"):
        scenes.find_world("huge")
    with pytest.raises(ValueError, match="No split 'test'"):
        scenes.draw_scene("test", 0, 0, scenes.WORLDS["tiny"])
    with pytest.raises(ValueError, match="no challenge 'text'"):
        scenes.sample_scene(random.Random(0), scenes.WORLDS["tiny"], ["text"])
    with pytest.raises(ValueError, match="at least 16 pixels"):
        scenes.render(scenes.Scene("white", ()), 8)
    with pytest.raises(ValueError, match="1 to 4 letters"):
        scenes.Scene("white", (thing("sign", "red"),), text="PARTI")
