# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The rules of `parti clean` for captions and for scores in the metadata, in their order."""

from collections.abc import Callable

from parti.data.text import captions, word_lists
from parti.pipelines.rules import inputs as rule_inputs
from parti.pipelines.rules import settings as rule_settings

Rule = rule_settings.Rule
Settings = rule_settings.Settings
Caption = rule_inputs.Caption

STAGE, SCORES = "Good caption", "Good scores"
_FIT400M = "FIT400M data card, github.com/google-research/parti"
_CC3M = "Conceptual Captions, Sharma et al. 2018, section 3"
_CC12M = "Conceptual 12M, Changpinyo et al. 2021, section 2.2"
_ALIGN = "ALIGN, Jia et al. 2021, section 3"
_LAION = "LAION-400M, Schuhmann et al. 2021"
_COYO = "COYO-700M README"


def _foreign_confidence(caption: Caption, settings: Settings) -> float:
    """Returns the confidence of the likeliest language if it is not one of those to keep."""
    code, confidence = caption.languages[0]
    return 0.0 if code in settings["languages"] else confidence


def _language_confidence(caption: Caption, settings: Settings) -> float:
    """Returns the confidence that it is in one of the languages to keep."""
    return sum(share for code, share in caption.languages if code in settings["languages"])


def _languages(caption: Caption, settings: Settings) -> str:
    found = ", ".join(f"{code} at {confidence:.2f}" for code, confidence in caption.languages[:2])
    return f"{found}; kept: {', '.join(settings['languages'])}"


def _affix(caption: Caption, settings: Settings) -> str | None:
    found = captions.find_affix(caption.text, settings["drop_affixes"])
    return found and f"begins or ends with {found!r}"


def _small_first_letter(caption: Caption, settings: Settings) -> str | None:
    return "begins with a small letter" if caption.text[:1].islower() else None


def _unwanted_word(caption: Caption, settings: Settings) -> str | None:
    found = word_lists.load_words(settings["unwanted_words_file"]).find(caption.text)
    return found and f"holds {found!r}"


def _rare_word(caption: Caption, settings: Settings) -> str | None:
    path, least = settings["word_counts_file"], settings["min_word_count"]
    found = word_lists.load_frequencies(path, least).find_rare(caption.text)
    return found and f"{found!r} occurs less than {least} times"


def _lowest(fields: str) -> Callable[[Caption, Settings], float | None]:
    return lambda caption, settings: min(caption.scores(settings[fields]), default=None)


def _highest(fields: str) -> Callable[[Caption, Settings], float | None]:
    return lambda caption, settings: max(caption.scores(settings[fields]), default=None)


def _finder(
    find: Callable[[str], str | None],
) -> Callable[[Caption, Settings], str | None]:
    """Returns a rule's `find` for a finder of `data.captions`."""

    def found(caption: Caption, settings: Settings) -> str | None:
        part = find(caption.text)
        return part and f"holds {part[:80]!r}"

    return found


RULES = (
    Rule(
        "caption_empty",
        STAGE,
        "drop_empty",
        "Empty caption",
        "There is no text, or none is left when boilerplate is stripped.",
        find=lambda c, s: None if c.text else "no text",
    ),
    Rule(
        "caption_too_long",
        STAGE,
        "max_characters",
        "Too long",
        "A page of text, not a caption.",
        bound="max",
        measure=lambda c, s: len(c.text),
    ),
    Rule(
        "caption_too_short",
        STAGE,
        "min_characters",
        "Too few characters",
        "Too short to say what is in the picture.",
        _LAION,
        bound="min",
        measure=lambda c, s: len(c.text),
    ),
    Rule(
        "caption_no_letters",
        STAGE,
        "require_letters",
        "No letters",
        "Digits, signs or emoji alone.",
        find=lambda c, s: None if captions.has_letters(c.text) else "no letter",
    ),
    Rule(
        "caption_file_name",
        STAGE,
        "drop_file_names",
        "A file name",
        "What a camera or a web site called the file.",
        find=_finder(captions.find_file_name),
    ),
    Rule(
        "caption_too_few_words",
        STAGE,
        "min_words",
        "Too few words",
        "Too few words, after boilerplate is stripped. A Chinese or kana sign counts as one.",
        _FIT400M,
        bound="min",
        measure=lambda c, s: captions.num_words(c.text),
    ),
    Rule(
        "caption_too_many_words",
        STAGE,
        "max_words",
        "Too many words",
        "More words than a caption has.",
        _ALIGN,
        bound="max",
        measure=lambda c, s: captions.num_words(c.text),
    ),
    Rule(
        "caption_address",
        STAGE,
        "drop_web_addresses",
        "Holds an address",
        "A web address is in it.",
        find=_finder(captions.find_web_address),
    ),
    Rule(
        "caption_email",
        STAGE,
        "drop_emails",
        "Holds a mail address",
        "Somebody's mail address is in it.",
        _FIT400M,
        find=_finder(captions.find_email),
    ),
    Rule(
        "caption_phone",
        STAGE,
        "drop_phones",
        "Holds a telephone number",
        "Somebody's telephone number is in it.",
        _FIT400M,
        find=_finder(captions.find_phone),
    ),
    Rule(
        "caption_street_address",
        STAGE,
        "drop_street_addresses",
        "Holds a street address",
        "A street with a house number is in it (English forms).",
        _FIT400M,
        find=_finder(captions.find_street_address),
    ),
    Rule(
        "caption_mostly_digits",
        STAGE,
        "max_digit_share",
        "Mostly digits",
        "Digits make up most of its letters and digits.",
        _FIT400M,
        bound="max",
        measure=lambda c, s: captions.digit_share(c.text),
    ),
    Rule(
        "caption_boilerplate",
        STAGE,
        "drop_affixes",
        "Boilerplate",
        "It begins or ends as captions that say nothing of the picture do.",
        _CC3M,
        find=_affix,
    ),
    Rule(
        "caption_repetitive",
        STAGE,
        "max_top_word_share",
        "Repeats itself",
        "One word makes up too much of it (counted from six words on).",
        bound="max",
        measure=lambda c, s: captions.top_word_share(c.text),
    ),
    Rule(
        "caption_repeats_words",
        STAGE,
        "max_repeated_share",
        "Repeats words",
        "Too many of its words came before in it (counted from six words on).",
        _CC12M,
        bound="max",
        measure=lambda c, s: captions.repeated_share(c.text),
    ),
    Rule(
        "caption_capitals",
        STAGE,
        "max_capital_share",
        "Shouted",
        "Too many of its letters are capitals (counted from ten letters on).",
        bound="max",
        measure=lambda c, s: captions.capital_share(c.text),
    ),
    Rule(
        "caption_capitalized_words",
        STAGE,
        "max_capitalized_words",
        "Titles and names",
        "Too many of its words begin with a capital.",
        _CC3M,
        bound="max",
        measure=lambda c, s: captions.capitalized_word_share(c.text),
    ),
    Rule(
        "caption_small_first_letter",
        STAGE,
        "require_first_capital",
        "Begins small",
        "Its first letter is not a capital.",
        _CC3M,
        find=_small_first_letter,
    ),
    Rule(
        "caption_unwanted_word",
        STAGE,
        "unwanted_words_file",
        "Unwanted word",
        "It holds a word of the list that was given.",
        _COYO,
        find=_unwanted_word,
    ),
    Rule(
        "caption_rare_word",
        STAGE,
        "word_counts_file",
        "Rare word",
        "It holds a word, or two words in a row, that the given counts hardly know.",
        _ALIGN,
        find=_rare_word,
        reads=("min_word_count",),
    ),
    Rule(
        "caption_foreign",
        STAGE,
        "max_foreign_confidence",
        "Another language",
        "It is in a language that is not to be kept, at a higher confidence than that.",
        _FIT400M,
        bound="max",
        measure=_foreign_confidence,
        describe=_languages,
        reads=("languages",),
    ),
    Rule(
        "caption_language_unsure",
        STAGE,
        "min_language_confidence",
        "Language not sure",
        "It is not surely in a language that is to be kept; short captions seldom are.",
        bound="min",
        measure=_language_confidence,
        describe=_languages,
        reads=("languages",),
    ),
    Rule(
        "score_similarity",
        SCORES,
        "min_similarity",
        "Text does not fit the picture",
        "The image-text score in its metadata is too low.",
        _LAION,
        bound="min",
        measure=_lowest("similarity_fields"),
    ),
    Rule(
        "score_nsfw",
        SCORES,
        "max_nsfw",
        "Not safe for work",
        "The NSFW score in its metadata is too high.",
        _FIT400M,
        bound="max",
        measure=_highest("nsfw_fields"),
    ),
    Rule(
        "score_watermark",
        SCORES,
        "max_watermark",
        "Watermark",
        "The watermark score in its metadata is too high.",
        bound="max",
        measure=_highest("watermark_fields"),
    ),
    Rule(
        "score_aesthetic",
        SCORES,
        "min_aesthetic",
        "Not beautiful",
        "The aesthetic score in its metadata is too low.",
        bound="min",
        measure=_lowest("aesthetic_fields"),
    ),
)
