# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Presets: the published values, files of the user, flags, and mistakes named in one line."""

import argparse
import importlib.resources
import pathlib
import re

import numpy as np
import pytest

from parti.pipelines.clean import rule_docs
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.deduplicate import duplicate_rules
from parti.pipelines.rules import evaluate, presets, rule, table

PUBLISHED = ("cc3m", "cc12m", "align", "fit400m", "laion400m", "coyo700m", "datacomp_basic")


def test_all_presets_are_there() -> None:
    assert presets.preset_names() == sorted([*PUBLISHED, "default", "none"])


@pytest.mark.parametrize("name", presets.preset_names())
def test_presets_load_and_say_where_they_are_from(name) -> None:
    settings = presets.load_preset(name, image_size=256)
    assert settings.preset == name and settings.title and settings.source
    assert set(settings.values) == {*table.SETTINGS, "image_size"}
    assert {row["name"] for row in settings.describe()} == {r.name for r in settings.active()}
    text = (
        importlib.resources.files("parti.pipelines.rules.preset_files") / f"{name}.yaml"
    ).read_text()
    assert name in ("default", "none") or re.search(r"20\d\d", text)
    assert all(row.title and row.why for row in settings.not_applied)


# What each published set says of a caption and of a picture.
DOG = "A brown dog sleeps on a green sofa"


@pytest.mark.parametrize(
    ("preset", "text", "metadata", "reason"),
    [
        ("cc3m", "a brown dog sleeps on a sofa", {}, "caption_small_first_letter"),
        ("cc3m", "Anna, profile photo", {}, "caption_boilerplate"),
        ("cc12m", "red dog", {}, "caption_too_few_words"),
        ("cc12m", "the dog and the cat and the cow", {}, "caption_repeats_words"),
        ("align", "word " * 21, {}, "caption_too_many_words"),
        ("fit400m", "red dog - stock photo", {}, "caption_too_few_words"),
        ("fit400m", "write to joe@example.org for more", {}, "caption_email"),
        ("fit400m", "ein brauner Hund schläft auf dem Sofa", {}, "caption_foreign"),
        ("fit400m", DOG, {"align_score": 0.2}, "score_similarity"),
        ("fit400m", DOG, {"nsfw": 0.71}, "score_nsfw"),
        ("laion400m", "dogs", {}, "caption_too_short"),
        ("laion400m", DOG, {"similarity": 0.299}, "score_similarity"),
        ("coyo700m", "a dog", {}, "caption_too_short"),
        ("coyo700m", DOG, {"nsfw_score_gantman": 0.6}, "score_nsfw"),
        ("datacomp_basic", "brown dog", {}, "caption_too_few_words"),
        ("datacomp_basic", "un chien brun dort sur le canapé", {}, "caption_foreign"),
    ],
)
def test_published_caption_rules(preset, text, metadata, reason) -> None:
    settings = presets.load_preset(preset)
    assert evaluate.check_caption(text, metadata, settings)[1][0] == reason
    good = {"similarity": 0.31, "align_score": 0.3}
    assert evaluate.check_caption(DOG, good, settings)[1] is None


def check_size(width, height, settings):
    return evaluate.check_image(rule.Image(width, height, 10_000, "", None), settings)


@pytest.mark.parametrize(
    ("preset", "good", "bad"),
    [  # (width, height)
        ("cc3m", (401, 802), [(400, 401), (401, 803)]),
        ("cc12m", (401, 1002), [(400, 401), (401, 1003)]),
        ("align", (201, 603), [(200, 201), (201, 604)]),
        ("coyo700m", (200, 600), [(199, 200), (200, 601)]),
        ("datacomp_basic", (200, 600), [(199, 200), (200, 601)]),
    ],
)
def test_published_picture_rules(preset, good, bad) -> None:
    settings = presets.load_preset(preset)
    assert check_size(*good, settings) is None
    assert all(check_size(*size, settings) for size in bad)


def test_a_score_that_is_absent_is_noted() -> None:
    _, rejection, notes = evaluate.check_caption(DOG, {}, presets.load_preset("laion400m"))
    assert rejection is None and notes == ("no_value:score_similarity",)


def test_not_applied_goes_when_a_file_makes_up_for_it(tmp_path) -> None:
    counts = tmp_path / "counts.txt"
    counts.write_text("dog 100\n")
    before = presets.load_preset("align")
    after = presets.load_preset("align", {"word_counts_file": str(counts)})
    gone = {row.title for row in before.not_applied} - {row.title for row in after.not_applied}
    assert gone == {"Rare tokens"}
    assert "caption_rare_word" in {rule.name for rule in after.active()}


def test_a_preset_of_the_user(tmp_path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("base: datacomp_basic\nrules:\n  min_words: 5\n  min_side: off\n")
    settings = presets.load_preset(str(path), {"max_words": "9", "languages": "de,fr"})
    assert settings.preset == str(path)
    chosen = {name: settings.values[name] for name in ("min_words", "min_side", "max_words")}
    assert chosen == {"min_words": 5, "min_side": None, "max_words": 9}
    assert settings.values["languages"] == ("de", "fr")
    assert settings.values["min_characters"] == 6  # of the base


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: {min_word: 3}", "my.yaml: min_word: did you mean min_words?"),
        ("rules: {zzz: 3}", "my.yaml: zzz: choose from aesthetic_fields, "),
        ("rules: {min_words: many}", "my.yaml: min_words=many: give at least 1 words, a whole"),
        ("rules: {max_nsfw: 2}", "my.yaml: max_nsfw=2: give 0 to 1, or off"),
        ("rules: {max_nsfw: .nan}", "my.yaml: max_nsfw=nan: give 0 to 1"),
        ("rules: {min_words: true}", "my.yaml: min_words=True: give at least 1"),
        ("rules: {languages: [no]}", "my.yaml: languages=[False]: give a list of texts, in quotes"),
        ("rules: {drop_empty: maybe}", "my.yaml: drop_empty=maybe: give true or false"),
        ("rules: {exact_duplicates: all}", "exact_duplicates=all: choose from image, pair, none"),
        ("rules: {languages: [eng]}", "--languages=eng: did you mean en?"),
        ("rules: {image_formats: jpg}", "image_formats=jpg: did you mean jpeg?"),
        ("ruls: {}", "my.yaml: ruls: did you mean rules?"),
        ("- a", "my.yaml: needs a line `rules:`"),
        ("rules: {a: [", "my.yaml, line 1: "),
        ("base: cc12n", "--preset=cc12n: did you mean cc12m?, or give a .yaml file"),
        ("not_applied: [x]", "my.yaml: not_applied: give a list of `what: ..., why: ...`"),
        ("rules: {min_language_confidence: 0.7}", "--min_language_confidence=off switches the"),
    ],
)
def test_mistakes_in_a_file(tmp_path, monkeypatch, text, message) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        presets.load_preset("my.yaml")
    assert "\n" not in str(raised.value)


def test_more_mistakes(tmp_path) -> None:
    with pytest.raises(ValueError, match="--preset=zzz: choose from align, cc12m, "):
        presets.load_preset("zzz")
    with pytest.raises(FileNotFoundError, match="my.yaml: no such file; check the path"):
        presets.load_preset(str(tmp_path / "my.yaml"))
    with pytest.raises(FileNotFoundError, match="--unwanted_words_file=gone: no such file"):
        presets.load_preset("none", {"unwanted_words_file": "gone"})
    loop = tmp_path / "loop.yaml"
    loop.write_text(f"base: {loop}\n")
    with pytest.raises(ValueError, match="a base of itself, or too many bases"):
        presets.load_preset(str(loop))
    loop.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        presets.load_preset(str(loop))


def parse(*argv):
    parser = argparse.ArgumentParser()
    presets.add_flags(parser)
    flags = parser.parse_args(argv)
    return presets.load_preset(flags.preset, presets.flag_changes(flags), image_size=64)


def test_flags() -> None:
    assert parse() == presets.load_preset("default", image_size=64)
    changed = parse("--preset=cc12m", "--allow_upscale", "--min_words=off", "--languages=en,de")
    assert changed.values["allow_upscale"] is True and changed.values["min_words"] is None
    assert changed.values["languages"] == ("en", "de")
    assert parse("--drop_emails=false").values["drop_emails"] is False
    assert parse("--max_aspect_ratio=0").values["max_aspect_ratio"] is None
    with pytest.raises(ValueError, match="--min_side=-1: give at least 1 pixels, or 0 for no lim"):
        parse("--min_side=-1")
    with pytest.raises(ValueError, match="--max_aspect_ratio=0.5: give at least 1, or 0 for no l"):
        parse("--max_aspect_ratio=0.5")
    small = np.zeros((32, 32, 3), np.uint8)
    assert evaluate.check_image(rule.Image(32, 32, 0, "", small), parse())[0] == "image_would_grow"
    undecoded = rule.Image(32, 32, 0, "", None)
    assert evaluate.check_image(undecoded, parse("--allow_upscale")) is None


def test_every_setting_belongs_to_a_rule_or_is_read() -> None:
    used = {setting.name for rule in table.RULES.values() for setting in rule.settings}
    used |= {"repair_text", "strip_prefixes", "strip_suffixes"}  # changes, no rules
    assert used == set(table.SETTINGS)


def test_settings_as_json_and_for_duplicates() -> None:
    settings = presets.load_preset("coyo700m")
    assert settings.to_dict()["nsfw_fields"] == ["nsfw_score_opennsfw2", "nsfw_score_gantman"]
    duplicates = clean_settings.CleanSettings(settings).duplicates
    assert duplicates == duplicate_rules.DuplicateSettings(
        exact="pair",
        near="pair",
        near_captions=0.0,
        max_captions_per_image=0,
        max_images_per_caption=10,
    )
    assert table.SETTINGS["near_duplicates"].parse(None) == "none"


def test_the_page_of_rules_is_up_to_date() -> None:
    page = pathlib.Path(__file__).resolve().parents[3] / "docs" / "clean_rules.md"
    renew = "run `python -m parti.pipelines.clean.rule_docs > docs/clean_rules.md`"
    assert page.read_text(encoding="utf-8") == rule_docs.page(), renew
