# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Captions: one normal form, and the named reasons for rejecting one.

A rule takes a caption in normal form and returns why it is rejected, with the measure that decided,
or None. `RULES` names them; the names are the counters and the rows of the cleaning report.
"""

import collections
import html
import re
import unicodedata
from collections.abc import Callable, Iterable

Rule = Callable[[str], str | None]

# Format characters without a place in a caption. The joiners (200C, 200D) stay: scripts and emoji
# need them.
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufffc\ufffd]")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_ADDRESS = re.compile(r"https?://|www\.\w|\b[\w.+-]+@[\w-]+\.\w+", re.IGNORECASE)
_FILE_NAME = re.compile(r"^\S+\.(jpe?g|png|gif|webp|bmp|tiff?|svg)$", re.IGNORECASE)
_CAMERA_NAME = re.compile(r"^(img|dsc|dscn|dscf|pict?|image|photo|p)[_ -]?\d{3,}$", re.IGNORECASE)

MAX_CHARACTERS = 2_000
MAX_REPEATS = 0.5
_MIN_WORDS_TO_REPEAT = 6


def normalize_caption(text: str) -> str:
    """Returns a caption in normal form: one line, NFC, without markup or invisible characters.

    HTML entities become characters and tags vanish; every run of white space is one space. Letters
    keep their case and quotes their shape: SentencePiece has its own normalisation.
    """
    text = unicodedata.normalize("NFC", html.unescape(text))
    text = _INVISIBLE.sub("", _TAG.sub(" ", text))
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
    return " ".join(text.split())


def empty(text: str) -> str | None:
    """Rejects a caption without a character."""
    return None if text else "no text"


def no_letters(text: str) -> str | None:
    """Rejects a caption without a letter of any script."""
    return None if any(c.isalpha() for c in text) else "no letter"


def too_long(text: str) -> str | None:
    """Rejects a caption that is a page of text."""
    return f"{len(text)} characters" if len(text) > MAX_CHARACTERS else None


def address(text: str) -> str | None:
    """Rejects a caption that holds a web or mail address."""
    found = _ADDRESS.search(text)
    return f"holds {found.group()!r}" if found else None


def file_name(text: str) -> str | None:
    """Rejects a file name in a caption's place (`IMG_1234`, `sunset.jpg`)."""
    return "a file name" if _FILE_NAME.match(text) or _CAMERA_NAME.match(text) else None


def repetitive(text: str) -> str | None:
    """Rejects a caption of six words or more in which one word makes over half."""
    words = text.lower().split()
    if len(words) < _MIN_WORDS_TO_REPEAT:
        return None
    word, count = collections.Counter(words).most_common(1)[0]
    return (
        f"{word!r} is {count} of {len(words)} words" if count > MAX_REPEATS * len(words) else None
    )


RULES: dict[str, Rule] = {
    "caption_empty": empty,
    "caption_no_letters": no_letters,
    "caption_too_long": too_long,
    "caption_address": address,
    "caption_file_name": file_name,
    "caption_repetitive": repetitive,
}


def rejection(text: str, rules: Iterable[str] = tuple(RULES)) -> tuple[str, str] | None:
    """Returns the first rule that rejects a caption and its measure, or None.

    Args:
      text: a caption in normal form.
      rules: names of `RULES`, in the order of asking.

    Raises:
      ValueError: no such rule.
    """
    for name in rules:
        if name not in RULES:
            raise ValueError(f"No caption rule {name!r}; there are {sorted(RULES)}.")
        measure = RULES[name](text)
        if measure is not None:
            return name, measure
    return None
