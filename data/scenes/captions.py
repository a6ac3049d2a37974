# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Captions of scenes: several true phrasings, the fullest first."""

from parti.data.scenes import drawing

_NUMBERS = ("no", "a", "two", "three", "four", "five")
_PLURALS = {"fish": "fish", "cross": "crosses"}
_SIZE_WORDS = {"small": "small ", "medium": "medium-sized ", "large": "large ", "": ""}
_OTHER_SIZE_WORDS = {**_SIZE_WORDS, "small": "little ", "large": "big "}
_RELATION_WORDS = {
    "left_of": "{a} to the left of {b}",
    "right_of": "{a} to the right of {b}",
    "above": "{a} above {b}",
    "below": "{a} below {b}",
    "inside": "{a} inside {b}",
    "overlapping": "{a} overlapping {b}",
}
# The same fact, told from the other object.
_CONVERSE_WORDS = {
    "left_of": "{b} to the right of {a}",
    "right_of": "{b} to the left of {a}",
    "above": "{b} below {a}",
    "below": "{b} above {a}",
    "inside": "{b} with {a} inside it",
    "overlapping": "{b} partly covered by {a}",
}


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _thing(thing: drawing.SceneObject, size_words: dict[str, str] = _SIZE_WORDS) -> str:
    return _with_article(f"{size_words[thing.size]}{thing.colour} {thing.shape}")


def _group(shape: str, colour: str, count: int) -> str:
    if count == 1:
        return _with_article(f"{colour} {shape}")
    return f"{_NUMBERS[count]} {colour} {_PLURALS.get(shape, shape + 's')}"


def _things(scene: drawing.Scene, place: str) -> list[str]:
    if len(scene.objects) == 1:
        things = second = _thing(scene.objects[0])
        third = last = _thing(scene.objects[0], _OTHER_SIZE_WORDS)
    else:
        groups = [_group(*kind, count) for kind, count in scene.groups().items()]
        things = last = " and ".join(groups)
        second = third = " and ".join(reversed(groups))
    return [
        f"{things} on {place}",
        second,
        f"a picture of {things} on {place}",
        f"{place} with {third} on it",
        f"a drawing of {last}",
    ]


def _relation(scene: drawing.Scene, place: str) -> list[str]:
    a, b = (_thing(thing) for thing in scene.objects)
    other_a, other_b = (_thing(thing, _OTHER_SIZE_WORDS) for thing in scene.objects)
    words, converse = _RELATION_WORDS[scene.relation], _CONVERSE_WORDS[scene.relation]
    return [
        f"{words.format(a=a, b=b)} on {place}",
        words.format(a=a, b=b),
        converse.format(a=a, b=b),
        f"a picture of {words.format(a=other_a, b=other_b)}",
        f"{place} with {converse.format(a=other_a, b=other_b)}",
    ]


def _text(scene: drawing.Scene, place: str) -> list[str]:
    colour, text = scene.objects[0].colour, scene.text
    sign = _with_article(f"{colour} sign")
    return [
        f'{sign} that says "{text}" on {place}',
        f'a sign that says "{text}"',
        f'a picture of {sign} that says "{text}" on {place}',
        f'"{text}" written on {sign}',
        f'{place} with {sign} reading "{text}"',
    ]


def captions(scene: drawing.Scene, limit: int | None = None) -> list[str]:
    """Describes a scene in several ways, all true; in `limit` ways at most.

    The first names everything that `probe.alignment` scores; the others may leave out size or
    background, or tell a relation from the other side.
    """
    place = f"{_with_article(scene.background)} background"
    describe = _text if scene.text else _relation if scene.relation else _things
    return describe(scene, place)[:limit]
