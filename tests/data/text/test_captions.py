# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import pytest

from parti.data.text import captions


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("  a  red\ncircle\t", "a red circle"),
        ("salt &amp; pepper", "salt & pepper"),
        ("<b>bold</b> <br/>text", "bold text"),
        ("a < b and c > d", "a < b and c > d"),
        ("cafe\u0301", "caf\u00e9"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("tab\x00null", "tab null"),
        ("family \U0001f468\u200d\U0001f469", "family \U0001f468\u200d\U0001f469"),
        ("valentine&amp;#39;s day", "valentine's day"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("half \ud800 a pair", "half a pair"),
        ("a\u200b\u0301", "\u00e1"),
        ("", ""),
    ],
)
def test_normal_form(raw: str, normal: str) -> None:
    assert captions.normalize_caption(raw) == normal
    assert captions.normalize_caption(normal) == normal


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("cafÃ©", "café"),
        ("donâ€™t", "don’t"),
        ("Ð½Ð°", "на"),
        ("plain", "plain"),
        ("“a” ﬁsh ＡＢＣ café", "“a” ﬁsh ＡＢＣ café"),
    ],
)
def test_repair(broken: str, mended: str) -> None:
    assert captions.repair_caption(broken) == mended
    assert captions.repair_caption(mended) == mended


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("Stock Photo: a dog", "a dog"),
        ("STOCK PHOTO stock photo a dog", "a dog"),
        ("a dog | stock photo.", "a dog | stock photo."),
        ("a dog – Stock Photo", "a dog"),
        ("stock photographer", "stock photographer"),
        ("livestock photo", "livestock photo"),
        ("stock photo", ""),
        ("İstock photo", "İstock photo"),
        ("Straße stock photo", "Straße"),
        ("", ""),
    ],
)
def test_affixes(text: str, stripped: str) -> None:
    assert captions.strip_affixes(text, ["stock photo"], ["stock photo"]) == stripped
    assert captions.strip_affixes(text) == text


def test_words_and_shares() -> None:
    assert captions.words("a  red 赤い circle") == ["a", "red", "赤", "い", "circle"]
    assert captions.tokens("The Dog’s, dog-house!") == ["the", "dog’s", "dog-house"]
    assert captions.num_words("") == 0
    assert captions.digit_share("ab 12") == 0.5 and captions.digit_share("!") == 0
    assert captions.capital_share("ABcdefghij") == 0.2
    assert captions.capital_share("NASA 123") == 0  # too short to shout
    assert captions.capitalized_word_share("The red Dog 7") == 0.5
    assert captions.top_word_share("a a a b c d") == 0.5
    assert captions.top_word_share("a a a") == captions.repeated_share("a a a") == 0
    assert captions.repeated_share("a a a b c d") == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "text",
    [
        "resolution 1920 x 1080",
        "World War 1939-1945",
        "ISBN 978-3-16-148410-0",
        "the years 2001, 2002 and 2003",
        "12:30-14:45 on 12.11.2020",
        "model 555-1234",
    ],
)
def test_numbers_that_are_no_telephones(text: str) -> None:
    assert captions.find_phone(text) is None
