# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Each rule drops what it names and keeps what is just inside its threshold."""

import pickle
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from parti.pipelines.rules import evaluate, presets, rule, splits, table

GOOD = "A brown dog sleeps on a green sofa in the living room"


def settings(**changes):
    return presets.load_preset("none", changes)


def caption_reason(text, metadata=None, **changes):
    return evaluate.check_caption(text, metadata or {}, settings(**changes))[1]


# (setting, its value, what is dropped, its reason, what is kept)
CAPTIONS = [
    ({"drop_empty": True}, " &nbsp; ", "caption_empty", "x"),
    *(
        ({"drop_placeholders": True}, text, "caption_placeholder", kept)
        for text, kept in (
            *(("nan", "Nana"), ("None", "None of them"), ("null", "nullify"), ("n/a", "a/n")),
            *(("N / A", "N or A"), ("<NA>", "a <b>nan</b> bread"), ("#N/A", "# 1"), ("-", "- 5")),
            *(
                ("nan, nan", "nan, bread"),
                ("Untitled", "Untitled #5 by Rothko"),
                ("True", "True love"),
            ),
            *(("undefined", "undefined shape"), ("(NULL)", "(a dog)"), ("\\N", "N"), ("--", "1")),
            *(("[object Object]", "object"), ("#DIV/0!", "#div"), ("NaN.", "naan"), ("…", "a…")),
        )
    ),
    ({"max_characters": 5}, "123456", "caption_too_long", "12345"),
    ({"min_characters": 5}, "1234", "caption_too_short", "12345"),
    ({"require_letters": True}, "123 !", "caption_no_letters", "赤"),
    ({"drop_file_names": True}, "DSC_0001", "caption_file_name", "image 7"),
    ({"drop_file_names": True}, "sunset-at-sea.JPG", "caption_file_name", "sunset .jpg at sea"),
    ({"min_words": 3}, "red dog", "caption_too_few_words", "a red dog"),
    ({"min_words": 3}, "赤い", "caption_too_few_words", "赤い丸"),
    ({"max_words": 3}, "a red dog runs", "caption_too_many_words", "a red dog"),
    ({"drop_web_addresses": True}, "see www.example.com", "caption_address", "awww. so nice"),
    ({"drop_emails": True}, "mail a.b+c@ex-ample.co.uk", "caption_email", "dinner @ eight"),
    ({"drop_emails": True}, "joe@example.org", "caption_email", "@joe at example.org"),
    ({"drop_phones": True}, "call (030) 123-4567 now", "caption_phone", "1920-1945 and 12-34"),
    ({"drop_phones": True}, "+49 30 1234 5678", "caption_phone", "+49 percent"),
    ({"drop_phones": True}, "1-800-555-0199", "caption_phone", "800 555 kilometres"),
    (
        {"drop_street_addresses": True},
        "our shop, 221B Baker Street",
        "caption_street_address",
        "2 Cats on a Street",
    ),
    ({"max_digit_share": 0.5}, "a1234", "caption_mostly_digits", "ab12"),
    ({"drop_affixes": ["profile photo"]}, "Anna - Profile Photo", "caption_boilerplate", "photo"),
    ({"max_top_word_share": 0.5}, "no no no no a b c", "caption_repetitive", "no no no a b c"),
    (
        {"max_repeated_share": 0.2},
        "a dog, a cat and a cow",
        "caption_repeats_words",
        "a dog and a cat there",
    ),
    ({"max_capital_share": 0.5}, "BIG SALE TODAY", "caption_capitals", "NASA and a moon"),
    ({"max_capitalized_words": 0.5}, "The Red Dog", "caption_capitalized_words", "The red dog"),
    ({"require_first_capital": True}, "a dog", "caption_small_first_letter", "A dog"),
    ({"languages": ["en"]}, "ein brauner Hund schläft", "caption_foreign", GOOD),
    ({"languages": "de"}, GOOD, "caption_foreign", "ein brauner Hund schläft"),
    (
        {"languages": "en", "max_foreign_confidence": 1, "min_language_confidence": 0.5},
        "ein brauner Hund schläft",
        "caption_language_unsure",
        GOOD,
    ),
]


@pytest.mark.parametrize(("changes", "dropped", "reason", "kept"), CAPTIONS)
def test_caption_rules(changes, dropped, reason, kept) -> None:
    found = caption_reason(dropped, **changes)
    assert found is not None and found[0] == reason and found[1]
    assert caption_reason(kept, **changes) is None
    assert caption_reason(dropped) is None  # without the setting


def test_every_rule_of_captions_is_tested() -> None:
    tested = {reason for _, _, reason, _ in CAPTIONS} | {"caption_unwanted_word"}
    tested |= {"caption_rare_word"}
    assert tested == {name for name in table.RULES if name.startswith("caption_")} - {
        "caption_on_too_many_images"
    }


# (setting, its value, metadata that is dropped, reason, metadata that is kept)
SCORES = [
    ({"min_similarity": 0.3}, {"SIMILARITY": 0.29}, "score_similarity", {"similarity": 0.3}),
    ({"min_similarity": 0.3}, {"similarity": "0.2"}, "score_similarity", {"similarity": "0.31"}),
    ({"max_nsfw": 0.5}, {"punsafe": 0.51}, "score_nsfw", {"punsafe": 0.5}),
    ({"max_nsfw": 0.5}, {"NSFW": "NSFW"}, "score_nsfw", {"NSFW": "UNLIKELY"}),
    (  # the worse of two detectors decides
        {"max_nsfw": 0.5},
        {"nsfw_score_opennsfw2": 0.1, "nsfw_score_gantman": 0.9},
        "score_nsfw",
        {"nsfw_score_opennsfw2": 0.1, "nsfw_score_gantman": 0.2},
    ),
    ({"max_watermark": 0.8}, {"pwatermark": 0.9}, "score_watermark", {"pwatermark": 0.1}),
    (
        {"min_aesthetic": 5},
        {"aesthetic_score_laion_v2": 4.9},
        "score_aesthetic",
        {"aesthetic_score_laion_v2": 5.1},
    ),
]


@pytest.mark.parametrize(("changes", "dropped", "reason", "kept"), SCORES)
def test_scores_from_metadata(changes, dropped, reason, kept) -> None:
    assert caption_reason(GOOD, dropped, **changes)[0] == reason
    assert caption_reason(GOOD, kept, **changes) is None
    assert caption_reason(GOOD, dropped) is None


@pytest.mark.parametrize("value", [None, "", "?", True, float("nan"), 10**400, [0.1], {"a": 1}])
def test_a_score_that_is_no_number_is_not_applied(value) -> None:
    _, rejection, notes = evaluate.check_caption(
        GOOD, {"similarity": value}, settings(min_similarity=0.3)
    )
    assert rejection is None and notes == ("no_value:score_similarity",)


def test_fields_of_a_score_can_be_named() -> None:
    changes = {"min_similarity": 0.21, "similarity_fields": "align_score"}
    _, rejection, notes = evaluate.check_caption(GOOD, {"similarity": 0.1}, settings(**changes))
    assert rejection is None and notes  # a score of another model is not looked at
    assert caption_reason(GOOD, {"align_score": 0.1}, **changes)[0] == "score_similarity"


@pytest.mark.parametrize("value", ["test", "TEST", " Test ", "test2014", "test-1", "testing"])
@pytest.mark.parametrize("name", ["split", "Split", "SPLIT"])
def test_pairs_of_a_test_split(name, value) -> None:
    on = {"drop_test_split": True}
    assert caption_reason(GOOD, {name: value}, **on) == ("split_test", f"split {value}")
    assert caption_reason(GOOD, {name: value}) is None
    for kept in ("train", "val", "contest", "", None, 3, ["test"]):
        assert caption_reason(GOOD, {name: kept}, **on) is None


@pytest.mark.parametrize(
    ("value", "named"),
    [
        *(("train", "train"), ("restval", "train"), ("Train", "train"), ("train2017", "train")),
        *((name, "validation") for name in ("val", "VALID", "Validation", "dev", "val2014")),
        *(
            (name, "train")
            for name in ("train_extra", "train-other-500", "trainval", "Training set")
        ),
        *((name, "validation") for name in ("val_unseen", "dev-clean", "eval", "minival2014")),
        *(
            (name, "test")
            for name in ("test-dev2015", "testA", "test_unseen", "Test set", "TESTING")
        ),
        *((name, "unknown") for name in ("contest", "retrain", "tester", "2014", "_", "unsup")),
        *(("test", "test"), ("foo", "unknown"), (7, "unknown"), ("", ""), (None, "")),
    ],
)
def test_names_of_splits(value, named) -> None:
    assert splits.named_by({"split": value}) == named
    assert splits.named_by({"Split ": value}) == named
    assert splits.named_by({}) == ""


def noise(width=64, height=48):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def flat(value=9):
    return np.full((48, 64, 3), value, np.uint8)


def two_colours():
    image = flat()
    image[:, :32] = 200
    return image


def image_reason(pixels, num_bytes=1000, kind="", image_size=0, **changes):
    height, width = pixels.shape[:2]
    chosen = presets.load_preset("none", changes, image_size)
    image = rule.Image(width, height, num_bytes, kind, pixels)
    return evaluate.check_image(image, chosen)


def test_image_rules() -> None:
    def reason(*args, **changes):
        found = image_reason(*args, **changes)
        assert found is None or found[1]
        return found and found[0]

    assert reason(noise(), 999, min_bytes=1000) == "image_too_few_bytes"
    assert reason(noise(), 1000, min_bytes=1000) is None
    assert reason(noise(), 0, min_bytes=1000) is None  # not known
    assert reason(noise(), kind="png", image_formats="jpeg") == "image_format"
    assert reason(noise(), kind="jpeg", image_formats="jpeg,png") is None
    assert reason(noise(), kind="", image_formats="jpeg") is None  # not known
    assert reason(noise(), min_side=49) == "image_too_small"
    assert reason(noise(), min_side=48) is None
    assert reason(noise(), image_size=49, allow_upscale=False) == "image_would_grow"
    assert reason(noise(), image_size=49) is None
    assert reason(noise(), image_size=48, allow_upscale=False) is None
    assert reason(noise(97, 48), max_aspect_ratio=2) == "image_aspect_ratio"
    assert reason(noise(48, 97), max_aspect_ratio=2) == "image_aspect_ratio"
    assert reason(noise(96, 48), max_aspect_ratio=2) is None
    assert reason(flat(), min_deviation=1) == "image_blank"
    assert reason(two_colours(), min_deviation=1) is None
    assert reason(two_colours(), min_entropy=1.1) == "image_low_entropy"
    assert reason(two_colours(), min_entropy=1) is None  # two equal halves: one bit
    assert reason(noise(), min_entropy=6) is None
    assert reason(flat(), min_entropy=0.1) == "image_low_entropy"


def test_entropy_of_a_picture_decoded_at_less_than_its_size() -> None:
    pixels = noise()
    side = len(pixels)
    whole = rule.Image(side, side, 0, "png", pixels)
    drafted = rule.Image(64 * side, 64 * side, 0, "jpeg", pixels)
    assert drafted.entropy == whole.entropy


def test_a_dot_that_one_pixel_in_64_misses_is_seen() -> None:
    image = flat(0)
    image[1:8, 1:8] = 255
    assert image_reason(image, min_deviation=1) is None


def test_sizes_are_checked_before_decoding() -> None:
    chosen = settings(min_side=10, min_deviation=1, min_entropy=1)

    def check(width, height, chosen):
        return evaluate.check_image(rule.Image(width, height, 0, "", None), chosen)

    assert check(30_000, 9, chosen)[0] == "image_too_small"
    assert check(30_000, 30_000, chosen) is None
    assert check(1, 0, settings(max_aspect_ratio=2)) is None
    assert check(0, 9, settings(max_aspect_ratio=2)) is not None


def test_measures_are_told_and_how_near_they_are() -> None:
    chosen = settings(min_words=3, max_words=20, min_side=32, min_deviation=1)
    measures: dict[str, float] = {}
    assert evaluate.check_caption("a red dog", {}, chosen, measures)[1] is None
    assert evaluate.check_image(rule.Image(40, 32, 0, "", two_colours()), chosen, measures) is None
    assert measures.pop("image_blank") > 1
    assert measures == {
        "caption_too_few_words": 3,
        "caption_too_many_words": 3,
        "image_too_small": 32,
    }
    assert evaluate.closeness("caption_too_few_words", 3, chosen) == 0
    assert evaluate.closeness("caption_too_many_words", 19, chosen) == pytest.approx(0.05)


def test_measure_in_words() -> None:
    assert caption_reason("red dog", min_words=3)[1] == "2 words; at least 3 allowed"
    assert caption_reason("x" * 2001, max_characters=2000)[1].startswith("2,001 characters; at m")
    foreign = caption_reason("ein brauner Hund schläft", languages="en")[1]
    assert foreign.startswith("de at ") and foreign.endswith("kept: en")
    assert image_reason(noise(60, 24), max_aspect_ratio=2)[1] == "60 x 24 is 2.50 to 1"


def test_repair_and_boilerplate() -> None:
    chosen = presets.load_preset("default")
    check = lambda text: evaluate.check_caption(text, {}, chosen)  # noqa: E731
    assert check("Dog on a beach - Stock Photo") == (
        "Dog on a beach",
        None,
        ("caption_stripped", "no_value:score_nsfw"),
    )
    assert check("the cafÃ© in MÃ¼nchen")[::2] == (
        "the café in München",
        ("caption_repaired", "no_value:score_nsfw"),
    )
    text, rejection, _ = check("Stock photo")
    assert text == "" and rejection == ("caption_empty", "no text")
    assert check("Stock photo of a dog")[0] == "a dog"
    assert check("stock photography studio with lamps")[0] == "stock photography studio with lamps"
    # A caption that is right is left as it is: quotes, ligatures, wide signs, accents.
    for text in ("“a dog’s ﬁsh”", "赤い丸。ＡＢＣ", "naïve façade", "Ω ≈ 3", "👩‍👧 at home"):
        assert check(text)[0] == text


def test_a_huge_caption_is_rejected_unread() -> None:
    started = time.monotonic()
    text, rejection, _ = evaluate.check_caption("<" * 10_000_000, {}, settings())
    assert rejection[0] == "caption_too_long" and len(text) <= 1_000
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "piece",
    [
        "a.",
        "1 ",
        "+1 ",
        "a@",
        "<a",
        "&",
        "(555) ",
        "1 A ",
        "Ã",
        "\u0301",
        "\ud800",
        "A ",
        "\u0323\u0301",
    ],
)
def test_no_caption_takes_long(piece) -> None:
    """The longest caption passes every rule in well under a second, whatever repeats in it."""
    every = {name: True for name, setting in table.SETTINGS.items() if setting.kind == "switch"} | {
        "languages": "en",
        "strip_prefixes": piece.strip() or "a",
        "max_repeated_share": 1,
    }
    chosen = settings(**every, drop_affixes="zz", min_words=1, max_digit_share=1)
    started = time.process_time()
    evaluate.check_caption((piece * evaluate.MAX_CAPTION)[: evaluate.MAX_CAPTION], {}, chosen)
    assert time.process_time() - started < 2


EVERY = {
    **{name: True for name, s in table.SETTINGS.items() if s.kind == "switch"},
    "strip_prefixes": ["stock photo", "a"],
    "strip_suffixes": ["stock photo", "ß"],
    "languages": "en",
    "min_similarity": 0.1,
    "max_nsfw": 0.5,
}


@hypothesis.settings(max_examples=150)
@hypothesis.given(
    strategies.text(max_size=60),
    strategies.dictionaries(
        strategies.sampled_from(["similarity", "NSFW", "x"]),
        strategies.one_of(strategies.none(), strategies.floats(), strategies.text(max_size=5)),
    ),
)
def test_any_caption_is_checked(text, metadata) -> None:
    first, _, _ = evaluate.check_caption(text, metadata, settings(**EVERY))
    first.encode()  # no half of a surrogate pair is left
    assert first == " ".join(first.split()) and "\x00" not in first
    assert evaluate.repair(first, settings())[0] == first  # the normal form is stable


def test_word_files(tmp_path) -> None:
    (tmp_path / "bad.txt").write_text("# a list\ndarn\nblue moon\n")
    changes = {"unwanted_words_file": str(tmp_path / "bad.txt")}
    assert caption_reason("a DARN thing", **changes) == ("caption_unwanted_word", "holds 'darn'")
    assert caption_reason("The Blue, Moon", **changes)[0] == "caption_unwanted_word"
    assert caption_reason("darned blue", **changes) is None
    (tmp_path / "counts.tsv").write_text("a\t900\nred\t20\ndog\t19\n")
    changes = {"word_counts_file": str(tmp_path / "counts.tsv"), "min_word_count": 20}
    assert caption_reason("a red, dog 7", **changes)[0] == "caption_rare_word"
    assert caption_reason("A red 7", **changes) is None
    # With pairs of words in the file, pairs must be known too.
    (tmp_path / "pairs.tsv").write_text("a 9\nred 9\ndog 9\na red 9\nred dog 9\n")
    changes = {"word_counts_file": str(tmp_path / "pairs.tsv")}
    assert caption_reason("a red dog", **changes) is None
    assert caption_reason("a dog", **changes) == (
        "caption_rare_word",
        "'a dog' occurs less than 5 times",
    )


def test_formats_by_first_bytes() -> None:
    assert rule.image_format(b"\xff\xd8\xff\xe0") == "jpeg"
    assert rule.image_format(b"\x89PNG\r\n\x1a\n...") == "png"
    assert rule.image_format(b"RIFF....WEBPVP8 ") == "webp"
    assert rule.image_format(b"") == rule.image_format(b"<html>") == ""


def test_settings_travel_to_workers() -> None:
    chosen = presets.load_preset("fit400m", {"min_words": 4}, image_size=256)
    again = pickle.loads(pickle.dumps(chosen))
    assert again == chosen and again.active() == chosen.active()
