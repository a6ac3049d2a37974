# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import pytest

from parti.data import captions


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
        ("", ""),
    ],
)
def test_normal_form(raw: str, normal: str) -> None:
    assert captions.normalize_caption(raw) == normal
    assert captions.normalize_caption(normal) == normal


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "caption_empty"),
        ("123 - 456", "caption_no_letters"),
        ("word " * 500, "caption_too_long"),
        ("see https://example.org now", "caption_address"),
        ("write to someone@example.org", "caption_address"),
        ("IMG_20481", "caption_file_name"),
        ("sunset-at-sea.jpg", "caption_file_name"),
        ("buy buy buy buy now now", "caption_repetitive"),
    ],
)
def test_rejected(text: str, rule: str) -> None:
    found = captions.rejection(text)
    assert found is not None and found[0] == rule and found[1]


@pytest.mark.parametrize(
    "text", ["a red circle", "赤い丸", "no no no", "the cat, the dog and the bird", "Ω", "image 7"]
)
def test_kept(text: str) -> None:
    assert captions.rejection(text) is None


def test_rules_can_be_chosen() -> None:
    assert captions.rejection("", rules=["caption_too_long"]) is None
    with pytest.raises(ValueError, match="No caption rule 'x'"):
        captions.rejection("", rules=["x"])
