# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import itertools
import random

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from parti.data.text import text_hashes

WORDS = [
    "a",
    "cat",
    "dog",
    "red",
    "blue",
    "house",
    "under",
    "big",
    "tree",
    "river",
    "stone",
    "walks",
]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Don't  STOP -- it's 5:30!", "dont stop its 5 30"),
        ("A red circle; above a blue-grey square.", "a red circle above a blue grey square"),
        ("Stra\u00dfe", "strasse"),
        ("caf\u00e9", "cafe\u0301"),
        ("\uff21\uff22\uff23 \u2460", "abc 1"),
        ("zero\u200bwidth", "zerowidth"),
        ("I \u2764\ufe0f NY", "i \u2764 ny"),
        ("\u8d64\u3044\u4e38\u3002", "\u8d64\u3044\u4e38"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940"),
        ("#1 | 2 + 2", "1 2 2"),
        ("  ?! ", "?!"),
        ("", ""),
    ],
)
def test_caption_form(text: str, form: str) -> None:
    assert text_hashes.caption_form(text) == text_hashes.caption_form(form)
    if text.isascii():
        assert text_hashes.caption_form(text) == form


def test_caption_hash_tells_captions_apart() -> None:
    same = {text_hashes.caption_hash(t) for t in ("A cat.", "a  CAT", "\u201ca cat\u201d")}
    assert len(same) == 1 and len(same.pop()) == 16
    different = ("a cat", "two cats", "?", "!", "", "\U0001f44d\U0001f3fb", "\U0001f44d\U0001f3ff")
    assert len({text_hashes.caption_hash(t) for t in different}) == len(different)


@hypothesis.given(strategies.text(max_size=60))
def test_any_text(text: str) -> None:
    form = text_hashes.caption_form(text)
    assert text_hashes.caption_form(form) == form
    assert len(text_hashes.caption_hash(text)) == 16
    signature = text_hashes.minhash(text)
    assert len(signature) == (text_hashes.NUM_HASHES if form else 0)
    assert signature == text_hashes.minhash(form)


def test_words_of_scripts_without_spaces() -> None:
    assert text_hashes.words("A cat, \u8d64\u3044\u4e38!") == [
        "a",
        "cat",
        "\u8d64",
        "\u3044",
        "\u4e38",
    ]


def test_ngram_hashes() -> None:
    first = text_hashes.ngram_hashes(list("abcde"), 3)
    assert len(first) == 3 and all(0 <= h < 2**64 for h in first)
    assert first[1:] == text_hashes.ngram_hashes(list("bcde"), 3)
    assert text_hashes.ngram_hashes(["a", "b"], 3) == text_hashes.ngram_hashes(["a", "b"], 2)
    assert text_hashes.ngram_hashes([], 3) == []


def runs(text: str) -> set[str]:
    padded = f" {' '.join(text_hashes.words(text))} "
    return {padded[i : i + 5] for i in range(len(padded) - 4)}


def test_signatures_estimate_similarity() -> None:
    rng = random.Random(0)
    errors = []
    for _ in range(200):
        first = [rng.choice(WORDS) for _ in range(12)]
        second = list(first)
        for place in rng.sample(range(12), rng.randint(0, 6)):
            second[place] = rng.choice(WORDS)
        a, b = " ".join(first), " ".join(second)
        true = len(runs(a) & runs(b)) / len(runs(a) | runs(b))
        errors.append(text_hashes.jaccard(text_hashes.minhash(a), text_hashes.minhash(b)) - true)
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 0.08  # 0.0625 at similarity 1/2


def test_near_captions_share_a_band() -> None:
    rng = random.Random(1)
    found = tried = 0
    for _ in range(200):
        first = [rng.choice(WORDS) for _ in range(20)]
        second = list(first)
        second[rng.randrange(20)] = "different"
        a, b = (text_hashes.minhash(" ".join(words)) for words in (first, second))
        if text_hashes.jaccard(a, b) >= 0.7:
            tried += 1
            bands = map(set, (text_hashes.minhash_bands(a), text_hashes.minhash_bands(b)))
            found += not set.isdisjoint(*bands)
    assert tried > 50 and found >= 0.98 * tried
    bands = text_hashes.minhash_bands(text_hashes.minhash("a cat"))
    assert len(set(bands)) == text_hashes.NUM_HASHES // text_hashes.ROWS_PER_BAND
    # Bands at other places never meet, though their values are equal.
    assert len(set(text_hashes.minhash_bands((7,) * 64))) == 16


def test_captions_that_differ_are_not_near() -> None:
    texts = [
        f"{a} and {b}"
        for a, b in itertools.combinations(
            [
                "a lighthouse at dusk",
                "two dogs in the snow",
                "portrait of an old sailor",
                "\u6d77\u3068\u5c71\u306e\u5730\u56f3",
            ],
            2,
        )
    ]
    far = text_hashes.jaccard(text_hashes.minhash(texts[0]), text_hashes.minhash(texts[-1]))
    assert far < 0.2
    with pytest.raises(ValueError, match="Signatures of 64 and 0 hashes"):
        text_hashes.jaccard(text_hashes.minhash("a"), ())


def test_long_captions_cost_no_memory() -> None:
    assert len(text_hashes.minhash("word " * 10**6)) == text_hashes.NUM_HASHES
