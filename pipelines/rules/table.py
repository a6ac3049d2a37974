# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every rule of `parti clean` with its settings, in the order in which rules are applied.

A rule's threshold is the `Setting` of its row here, with its default: off, where none is given.
presets.py overrides it: by the value of a preset (preset_files/*.yaml; default.yaml if --preset is
not given), then by a flag (`--min_words 4`). docs/clean_rules.md follows from this table.
"""

import functools
from collections.abc import Callable

from parti.data.text import captions, word_lists
from parti.pipelines.rules import rule, splits
from parti.pipelines.rules.rule import Caption, Setting, Settings

# The kinds of rules, by what they read: the stages of the funnel.
SPLIT, CAPTION, SCORE = "To train on", "Good caption", "Good scores"
IMAGE, COPIES = "Good picture", "Only one of its kind"
_caption_rule = functools.partial(rule.Rule, CAPTION)
_image_rule = functools.partial(rule.Rule, IMAGE)
_pairs_rule = functools.partial(rule.Rule, COPIES)

_FIT400M = "FIT400M data card, github.com/google-research/parti"
_CC3M = "Conceptual Captions, Sharma et al. 2018, section 3"
_ALIGN = "ALIGN, Jia et al. 2021, section 3"
_LAION = "LAION-400M, Schuhmann et al. 2021"
_COYO = "COYO-700M README"


def _repair_letters(text: str, settings: Settings) -> str:
    repaired = captions.repair_caption(text)
    return text if repaired == text else captions.normalize_caption(repaired)


def _test_split(caption: Caption, settings: Settings) -> str | None:
    value = splits.value_of(caption.metadata)
    return f"split {value}" if splits.named_by(caption.metadata) == splits.TEST else None


def _foreign_confidence(caption: Caption, settings: Settings) -> float:
    """Returns the confidence of the likeliest language if it is not one of those to keep."""
    code, confidence = caption.languages[0]
    return 0.0 if code in settings["languages"] else confidence


def _language_confidence(caption: Caption, settings: Settings) -> float:
    """Returns the confidence that it is in one of the languages to keep."""
    return sum(share for code, share in caption.languages if code in settings["languages"])


def _describe_languages(caption: Caption, settings: Settings) -> str:
    found = ", ".join(f"{code} at {confidence:.2f}" for code, confidence in caption.languages[:2])
    return f"{found}; kept: {', '.join(settings['languages'])}"


def _quoted(found: str | None, how: str = "holds") -> str | None:
    return found and f"{how} {found!r}"


def _affix(caption: Caption, settings: Settings) -> str | None:
    found = captions.find_affix(caption.text, settings["drop_affixes"])
    return _quoted(found, "begins or ends with")


def _rare_word(caption: Caption, settings: Settings) -> str | None:
    path, least = settings["word_counts_file"], settings["min_word_count"]
    found = word_lists.load_frequencies(path, least).find_rare(caption.text)
    return found and f"{found!r} occurs less than {least} times"


def _finder(find: Callable[[str], str | None]) -> Callable[[Caption, Settings], str | None]:
    """Returns a rule's `find` for a finder of `data.text.captions`."""
    return lambda caption, settings: _quoted((find(caption.text) or "")[:80])


def _share(name: str, help: str, default: float | None = None) -> Setting:
    return Setting(name, "number", help, 0, 1, default=default)


def _copies(name: str, help: str) -> Setting:
    return Setting(name, "choice", help, choices=("image", "pair"))


def _score_rule(
    name: str, title: str, words: str, own: Setting, fields: tuple[str, ...], source: str = "ours"
) -> rule.Rule:
    """Returns a rule for a score in the metadata; if several fields have it, the worst counts."""
    worst = min if own.is_least else max
    wrong = "low" if own.is_least else "high"
    help = f"metadata fields of the {words} score"
    read = Setting(f"{name}_fields", "names", help, default=fields)
    return rule.Rule(
        *(SCORE, f"score_{name}", title, f"The {words} score in its metadata is too {wrong}."),
        *(own, source),
        measure=lambda caption, s: worst(caption.scores(s[read.name]), default=None),
        reads=(read,),
        histogram=name,
    )


# Two rules go by each of these.
_LANGUAGES = Setting("languages", "names", "codes of the languages to keep: en,de")
_EXACT = _copies(
    "exact_duplicates", "of equal pictures keep one pair (image), or one with each caption (pair)"
)

# Captions are repaired first, then checked.
REPAIRS = (
    rule.Repair(
        "caption_repaired",
        "Letters put right",
        (Setting("repair_text", "switch", "put wrongly decoded letters right (ftfy)"),),
        _repair_letters,
    ),
    rule.Repair(
        "caption_stripped",
        "Boilerplate removed",
        (
            Setting("strip_prefixes", "names", "words to remove where a caption begins with them"),
            Setting("strip_suffixes", "names", "words to remove where a caption ends with them"),
        ),
        lambda text, s: captions.strip_affixes(text, s["strip_prefixes"], s["strip_suffixes"]),
    ),
)

_RULES = (
    rule.Rule(
        SPLIT,
        "split_test",
        "Of a test split",
        "Its metadata name it a test pair, which no training is to see.",
        Setting("drop_test_split", "switch", "drop pairs of a test split; else they validate"),
        find=_test_split,
    ),
    _caption_rule(
        "caption_empty",
        "Empty caption",
        "There is no text, or none is left when boilerplate is stripped.",
        Setting("drop_empty", "switch", "drop captions without text"),
        find=lambda c, s: None if c.text else "no text",
    ),
    _caption_rule(
        "caption_placeholder",
        "Says that there is no caption",
        "Only nan, None, null, N/A, a dash or the like: what programs write for nothing.",
        Setting("drop_placeholders", "switch", "drop captions such as nan, None, N/A or -"),
        find=lambda c, s: _quoted(captions.find_placeholder(c.text), "is"),
    ),
    _caption_rule(
        "caption_too_long",
        "Too long",
        "A page of text, not a caption.",
        Setting("max_characters", "count", "most characters of a caption", 1, unit="characters"),
        measure=lambda c, s: len(c.text),
        histogram="characters",
    ),
    _caption_rule(
        "caption_too_short",
        "Too few characters",
        "Too short to say what is in the picture.",
        Setting("min_characters", "count", "fewest characters of a caption", 1, unit="characters"),
        _LAION,
        measure=lambda c, s: len(c.text),
        histogram="characters",
    ),
    _caption_rule(
        "caption_no_letters",
        "No letters",
        "Digits, signs or emoji alone.",
        Setting("require_letters", "switch", "drop captions without a letter"),
        find=lambda c, s: None if captions.has_letters(c.text) else "no letter",
    ),
    _caption_rule(
        "caption_file_name",
        "A file name",
        "What a camera or a web site called the file.",
        Setting("drop_file_names", "switch", "drop captions such as IMG_1234 or sunset.jpg"),
        find=_finder(captions.find_file_name),
    ),
    _caption_rule(
        "caption_too_few_words",
        "Too few words",
        "Too few words, after boilerplate is stripped. A Chinese or kana sign counts as one.",
        Setting("min_words", "count", "fewest words of a caption", 1, unit="words"),
        _FIT400M,
        measure=lambda c, s: captions.num_words(c.text),
        histogram="words",
    ),
    _caption_rule(
        "caption_too_many_words",
        "Too many words",
        "More words than a caption has.",
        Setting("max_words", "count", "most words of a caption", 1, unit="words"),
        _ALIGN,
        measure=lambda c, s: captions.num_words(c.text),
        histogram="words",
    ),
    _caption_rule(
        "caption_address",
        "Holds an address",
        "A web address is in it.",
        Setting("drop_web_addresses", "switch", "drop captions with http:// or www."),
        find=_finder(captions.find_web_address),
    ),
    _caption_rule(
        "caption_email",
        "Holds a mail address",
        "Somebody's mail address is in it.",
        Setting("drop_emails", "switch", "drop captions with a mail address"),
        _FIT400M,
        find=_finder(captions.find_email),
    ),
    _caption_rule(
        "caption_phone",
        "Holds a telephone number",
        "Somebody's telephone number is in it.",
        Setting("drop_phones", "switch", "drop captions with a telephone number"),
        _FIT400M,
        find=_finder(captions.find_phone),
    ),
    _caption_rule(
        "caption_street_address",
        "Holds a street address",
        "A street with a house number is in it (English forms).",
        Setting("drop_street_addresses", "switch", "drop captions with a street and number"),
        _FIT400M,
        find=_finder(captions.find_street_address),
    ),
    _caption_rule(
        "caption_mostly_digits",
        "Mostly digits",
        "Digits make up most of its letters and digits.",
        _share("max_digit_share", "digits among letters and digits"),
        _FIT400M,
        measure=lambda c, s: captions.digit_share(c.text),
    ),
    _caption_rule(
        "caption_boilerplate",
        "Boilerplate",
        "It begins or ends as captions that say nothing of the picture do.",
        Setting("drop_affixes", "names", "drop captions that begin or end with one of these"),
        _CC3M,
        find=_affix,
    ),
    _caption_rule(
        "caption_repetitive",
        "Repeats itself",
        "One word makes up too much of it (counted from six words on).",
        _share("max_top_word_share", "share of the most frequent word"),
        measure=lambda c, s: captions.top_word_share(c.text),
    ),
    _caption_rule(
        "caption_repeats_words",
        "Repeats words",
        "Too many of its words came before in it (counted from six words on).",
        _share("max_repeated_share", "share of words that came before"),
        "Conceptual 12M, Changpinyo et al. 2021, section 2.2",
        measure=lambda c, s: captions.repeated_share(c.text),
    ),
    _caption_rule(
        "caption_capitals",
        "Shouted",
        "Too many of its letters are capitals (counted from ten letters on).",
        _share("max_capital_share", "capitals among cased letters"),
        measure=lambda c, s: captions.capital_share(c.text),
    ),
    _caption_rule(
        "caption_capitalized_words",
        "Titles and names",
        "Too many of its words begin with a capital.",
        _share("max_capitalized_words", "share of words with a first capital"),
        _CC3M,
        measure=lambda c, s: captions.capitalized_word_share(c.text),
    ),
    _caption_rule(
        "caption_small_first_letter",
        "Begins small",
        "Its first letter is not a capital.",
        Setting("require_first_capital", "switch", "drop captions that begin with a small letter"),
        _CC3M,
        find=lambda c, s: "begins with a small letter" if c.text[:1].islower() else None,
    ),
    _caption_rule(
        "caption_unwanted_word",
        "Unwanted word",
        "It holds a word of the list that was given.",
        Setting("unwanted_words_file", "file", "drop captions with a word of this file"),
        _COYO,
        find=lambda c, s: _quoted(word_lists.load_words(s["unwanted_words_file"]).find(c.text)),
    ),
    _caption_rule(
        "caption_rare_word",
        "Rare word",
        "It holds a word, or two words in a row, that the given counts hardly know.",
        Setting("word_counts_file", "file", "words with counts, for --min_word_count"),
        _ALIGN,
        find=_rare_word,
        needs=(
            Setting(
                "min_word_count", "count", "least count of each word of a caption", 1, default=5
            ),
        ),
    ),
    _caption_rule(
        "caption_foreign",
        "Another language",
        "It is in a language that is not to be kept, at a higher confidence than that.",
        _share(
            "max_foreign_confidence", "drop what is in another language at a higher confidence", 0.5
        ),
        _FIT400M,
        measure=_foreign_confidence,
        describe=_describe_languages,
        needs=(_LANGUAGES,),
    ),
    _caption_rule(
        "caption_language_unsure",
        "Language not sure",
        "It is not surely in a language that is to be kept; short captions seldom are.",
        _share(
            "min_language_confidence", "drop what is in none of the languages at this confidence"
        ),
        measure=_language_confidence,
        describe=_describe_languages,
        needs=(_LANGUAGES,),
    ),
    _score_rule(
        "similarity",
        "Text does not fit the picture",
        "image-text",
        Setting("min_similarity", "number", "least image-text score in the metadata", -1, 1),
        ("similarity", "clip_similarity_vitb32", "clip_b32_similarity_score"),
        _LAION,
    ),
    _score_rule(
        "nsfw",
        "Not safe for work",
        "NSFW",
        _share("max_nsfw", "largest NSFW score in the metadata"),
        ("punsafe", "nsfw", "nsfw_score", "nsfw_score_opennsfw2", "nsfw_score_gantman"),
        _FIT400M,
    ),
    _score_rule(
        "watermark",
        "Watermark",
        "watermark",
        _share("max_watermark", "largest watermark score in the metadata"),
        ("pwatermark", "watermark_score"),
    ),
    _score_rule(
        "aesthetic",
        "Not beautiful",
        "aesthetic",
        Setting("min_aesthetic", "number", "least aesthetic score in the metadata", 0, 10),
        ("aesthetic", "aesthetic_score", "aesthetic_score_laion_v2"),
    ),
    _image_rule(
        "image_too_few_bytes",
        "Too small a file",
        "An icon, a placeholder or a picture of very low quality.",
        Setting("min_bytes", "count", "smallest picture file", 1, unit="bytes"),
        _LAION,
        measure=lambda i, s: i.num_bytes or None,
    ),
    _image_rule(
        "image_format",
        "Another format",
        "The file is not of a format that is to be kept.",
        Setting("image_formats", "names", "formats to keep: jpeg,png", choices=rule.IMAGE_FORMATS),
        _CC3M,
        find=lambda i, s: (
            f"{i.format}; kept: {', '.join(s['image_formats'])}"
            if i.format and i.format not in s["image_formats"]
            else None
        ),
    ),
    _image_rule(
        "image_too_small",
        "Too small",
        "The shorter side is under the least allowed.",
        Setting("min_side", "count", "shortest side that a picture may have", 1, unit="pixels"),
        "DataComp, Gadre et al. 2023, basic filtering",
        measure=lambda i, s: i.short_side,
        describe=lambda i, s: f"{i.size}; the shorter side must be {s['min_side']}",
        histogram="side",
    ),
    _image_rule(
        "image_would_grow",
        "Smaller than the output",
        "It would have to be enlarged, which blurs; --allow_upscale keeps it.",
        Setting("allow_upscale", "switch", "keep pictures smaller than --image_size"),
        find=lambda i, s: (
            f"{i.size}, to become {s['image_size']}" if i.short_side < s["image_size"] else None
        ),
        only=False,
    ),
    _image_rule(
        "image_aspect_ratio",
        "Too long or too tall",
        "The square crop would lose too much.",
        Setting("max_aspect_ratio", "number", "long side over short side", 1),
        _CC3M,
        measure=lambda i, s: i.aspect_ratio,
        describe=lambda i, s: f"{i.size} is {i.aspect_ratio:.2f} to 1",
        histogram="aspect",
    ),
    _image_rule(
        "image_blank",
        "One flat colour",
        "There is nothing to see.",
        Setting("min_deviation", "number", "least standard deviation of pixels (0-255)", 0, 128),
        measure=lambda i, s: i.deviation(s["min_deviation"]),
    ),
    _image_rule(
        "image_low_entropy",
        "Hardly anything to see",
        "A few flat colours: a logo, a chart, a page.",
        Setting("min_entropy", "number", "least entropy of the grey values", 0, 8, "bits"),
        measure=lambda i, s: i.entropy,
    ),
    _pairs_rule(
        "image_with_too_many_captions",
        "Picture with many captions",
        "A picture that many texts were put to is a logo or a placeholder.",
        Setting("max_captions_per_image", "count", "drop pictures with more captions", 1),
        _ALIGN,
    ),
    _pairs_rule(
        "caption_on_too_many_images",
        "Caption on many pictures",
        "A text that many pictures carry says little about any of them.",
        Setting("max_images_per_caption", "count", "drop captions on more pictures", 1),
        _ALIGN,
    ),
    _pairs_rule(
        "duplicate_pair",
        "Same picture, same caption",
        "Another pair is equal to it.",
        _EXACT,
        _LAION,
    ),
    _pairs_rule(
        "duplicate_image",
        "Same picture, other caption",
        "The best copy stays, with its own caption.",
        _EXACT,
        only="image",
    ),
    _pairs_rule(
        "near_duplicate",
        "Nearly the same picture",
        "The same picture saved again, in another size or quality. The best copy stays.",
        _copies("near_duplicates", "the same for pictures that are nearly equal"),
        _COYO,
    ),
    _pairs_rule(
        "near_caption",
        "Nearly the same caption",
        "Another pair says it in the same words.",
        Setting("near_captions", "number", "likeness from which captions count as one", 0.01, 1),
    ),
)

RULES: dict[str, rule.Rule] = {row.name: row for row in _RULES}
SETTINGS: dict[str, Setting] = {
    setting.name: setting for row in (*REPAIRS, *_RULES) for setting in row.settings
}
