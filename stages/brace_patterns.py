# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Braces as shells and webdataset have them: `shard-{0000..0012}.tar`, `{train,val}.tar`.

A pair of braces that holds neither a comma nor a range stands for itself, as does a brace without
its partner. A backslash is a character like any other.
"""

import itertools
import re
from collections.abc import Iterable, Iterator

_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.(-?\d+))?")


def expand(text: str) -> Iterator[str]:
    """Yields the texts that a pattern stands for, in its order; a text without braces itself."""
    for start, end in _pairs(text):
        if (choices := _choices(text[start + 1 : end])) is not None:
            # The rest is read anew for each choice, so that nothing is held.
            for choice in choices:
                yield from (f"{text[:start]}{choice}{rest}" for rest in expand(text[end + 1 :]))
            return
    yield text


def split(text: str) -> list[str]:
    """Returns the parts of a list with commas; a comma within braces does not separate."""
    inside = {at for start, end in _pairs(text) for at in range(start, end)}
    cuts = [at for at, letter in enumerate(text) if letter == "," and at not in inside]
    edges = itertools.pairwise([-1, *cuts, len(text)])
    return [part for before, after in edges if (part := text[before + 1 : after].strip())]


def _pairs(text: str) -> list[tuple[int, int]]:
    """Returns where each brace and its partner are, in the order in which they open."""
    found, opened = [], []
    for at, letter in enumerate(text):
        if letter == "{":
            opened.append(at)
        elif letter == "}" and opened:
            found.append((opened.pop(), at))
    return sorted(found)


def _choices(inner: str) -> Iterable[str] | None:
    """Returns what stands between braces, one after the other; None: they stand for themselves."""
    if match := _NUMBERS.fullmatch(inner):
        first, last = match[1], match[2]
        is_padded = any(re.match(r"-?0\d", number) for number in (first, last))
        width = max(len(first), len(last)) if is_padded else 0
        numbers = _range(int(first), int(last), match[3])
        return (f"{number:0{width}d}" for number in numbers)
    if match := _LETTERS.fullmatch(inner):
        return map(chr, _range(ord(match[1]), ord(match[2]), match[3]))
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(inner):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            parts.append(inner[start:at])
            start = at + 1
    if not parts:
        return None
    return itertools.chain.from_iterable(map(expand, [*parts, inner[start:]]))


def _range(first: int, last: int, step: str | None) -> range:
    """Returns the numbers from one to the other, both included, in either direction."""
    by = abs(int(step or 1)) or 1
    return range(first, last + 1, by) if first <= last else range(first, last - 1, -by)
