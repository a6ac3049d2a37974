# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The settings that a preset of `parti clean` can change, and the form of a rule.

A rule with a `measure` rejects what is below (`bound` "min") or above ("max") its setting; a rule
with a `find` rejects where something is found; one with neither needs other pairs (`duplicates`).

`check` takes a value from a YAML file or a flag and returns it in one form, or says what is wrong.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

Settings = Mapping[str, Any]  # a value for each of `SETTINGS`, and "image_size"
Kind = Literal["count", "number", "switch", "names", "file", "choice"]
_OFF = ("off", "none", "null", "")
_OFF_VALUES = {"switch": False, "names": (), "file": "", "choice": "none"}  # of others None
_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A value of a preset.

    Attributes:
      name: in a preset and, after --, on the command line.
      kind: "count" and "number" are off when None, "names" when (), "file" when "", "choice" when
        "none".
      help: one line.
      low: smallest value.
      high: largest value; None for no bound.
      unit: of the value, in words.
      initial: the value where a preset says nothing.
      choices: of kind "choice", beside "none"; of kind "names", if not every text is one.
    """

    name: str
    kind: Kind
    help: str
    low: float = 0
    high: float | None = None
    unit: str = ""
    initial: Any = None
    choices: tuple[str, ...] = ()

    @property
    def off(self) -> Any:
        """The value that switches it off."""
        return _OFF_VALUES.get(self.kind)


def _initial(name: str, help: str, *values: str) -> Setting:
    return Setting(name, "names", help, initial=values)


SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("repair_text", "switch", "put wrongly decoded letters right (ftfy)"),
        Setting("strip_prefixes", "names", "words to remove where a caption begins with them"),
        Setting("strip_suffixes", "names", "words to remove where a caption ends with them"),
        Setting("drop_empty", "switch", "drop captions without text"),
        Setting("max_characters", "count", "most characters of a caption", 1, unit="characters"),
        Setting("min_characters", "count", "fewest characters of a caption", 1, unit="characters"),
        Setting("max_words", "count", "most words of a caption", 1, unit="words"),
        Setting("min_words", "count", "fewest words of a caption", 1, unit="words"),
        Setting("require_letters", "switch", "drop captions without a letter"),
        Setting("max_digit_share", "number", "digits among letters and digits", 0, 1),
        Setting("drop_web_addresses", "switch", "drop captions with http:// or www."),
        Setting("drop_emails", "switch", "drop captions with a mail address"),
        Setting("drop_phones", "switch", "drop captions with a telephone number"),
        Setting("drop_street_addresses", "switch", "drop captions with a street and number"),
        Setting("drop_file_names", "switch", "drop captions such as IMG_1234 or sunset.jpg"),
        Setting("drop_affixes", "names", "drop captions that begin or end with one of these"),
        Setting("max_top_word_share", "number", "share of the most frequent word", 0, 1),
        Setting("max_repeated_share", "number", "share of words that came before", 0, 1),
        Setting("max_capital_share", "number", "capitals among cased letters", 0, 1),
        Setting("max_capitalized_words", "number", "share of words with a first capital", 0, 1),
        Setting("require_first_capital", "switch", "drop captions that begin with a small letter"),
        Setting("unwanted_words_file", "file", "drop captions with a word of this file"),
        Setting("word_counts_file", "file", "words with counts, for --min_word_count"),
        Setting("min_word_count", "count", "least count of each word of a caption", 1, initial=5),
        Setting("languages", "names", "codes of the languages to keep: en,de"),
        Setting(
            "max_foreign_confidence",
            "number",
            "drop what is in another language at a higher confidence",
            high=1,
            initial=0.5,
        ),
        Setting(
            "min_language_confidence",
            "number",
            "drop what is in none of the languages at this confidence",
            high=1,
        ),
        Setting("min_similarity", "number", "least image-text score in the metadata", -1, 1),
        _initial(
            "similarity_fields",
            "metadata fields of the image-text score",
            "similarity",
            "clip_similarity_vitb32",
            "clip_b32_similarity_score",
        ),
        Setting("max_nsfw", "number", "largest NSFW score in the metadata", 0, 1),
        _initial(
            "nsfw_fields",
            "metadata fields of the NSFW score",
            "punsafe",
            "nsfw",
            "nsfw_score",
            "nsfw_score_opennsfw2",
            "nsfw_score_gantman",
        ),
        Setting("max_watermark", "number", "largest watermark score in the metadata", 0, 1),
        _initial(
            "watermark_fields",
            "metadata fields of the watermark score",
            "pwatermark",
            "watermark_score",
        ),
        Setting("min_aesthetic", "number", "least aesthetic score in the metadata", 0, 10),
        _initial(
            "aesthetic_fields",
            "metadata fields of the aesthetic score",
            "aesthetic",
            "aesthetic_score",
            "aesthetic_score_laion_v2",
        ),
        Setting("min_bytes", "count", "smallest picture file", 1, unit="bytes"),
        Setting(
            "image_formats",
            "names",
            "formats to keep: jpeg,png",
            choices=("jpeg", "png", "gif", "webp", "bmp", "tiff", "avif"),
        ),
        Setting("min_side", "count", "shortest side that a picture may have", 1, unit="pixels"),
        Setting("allow_upscale", "switch", "keep pictures smaller than --image_size"),
        Setting("max_aspect_ratio", "number", "long side over short side", 1),
        Setting("min_deviation", "number", "least standard deviation of pixels (0-255)", 0, 128),
        Setting("min_entropy", "number", "least entropy of the grey values", 0, 8, "bits"),
        Setting("max_captions_per_image", "count", "drop pictures with more captions", 1),
        Setting("max_images_per_caption", "count", "drop captions on more pictures", 1),
        Setting(
            "exact_duplicates",
            "choice",
            "of equal pictures keep one pair (image), or one with each caption (pair)",
            choices=("image", "pair"),
        ),
        Setting(
            "near_duplicates",
            "choice",
            "the same for pictures that are nearly equal",
            choices=("image", "pair"),
        ),
        Setting("near_captions", "number", "likeness from which captions count as one", 0.01, 1),
    )
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """A reason to drop a pair.

    Attributes:
      name: the reason: in rejected rows, counters and the report.
      stage: of the funnel.
      setting: of `SETTINGS`; the rule is on when its value is not off.
      title: a short name to read.
      explanation: a sentence.
      source: where the rule comes from; the values of a preset have their source there.
      bound: "min" or "max", of what `measure` returns.
      measure: (subject, settings) -> number, or None where the pair has no such value.
      find: (subject, settings) -> what is wrong, or None.
      describe: puts the number into words where unit and bound do not say enough.
      reads: other settings that the rule needs.
      only: the value of the setting that switches the rule on, where not every one does.
    """

    name: str
    stage: str
    setting: str
    title: str
    explanation: str
    source: str = "ours"
    bound: Literal["", "min", "max"] = ""
    measure: Callable[[Any, Settings], float | None] | None = None
    find: Callable[[Any, Settings], str | None] | None = None
    describe: Callable[[Any, Settings], str] | None = None
    reads: tuple[str, ...] = ()
    only: Any = None

    def is_on(self, settings: Settings) -> bool:
        """Returns whether the rule is applied with these settings."""
        value = settings[self.setting]
        on = value == self.only if self.only is not None else value != SETTINGS[self.setting].off
        return on and all(settings[name] != SETTINGS[name].off for name in self.reads)


def check(name: str, value: Any) -> Any:
    """Returns the value of a setting in one form.

    Args:
      name: of `SETTINGS`.
      value: as YAML or a flag gives it. `off` (or null, or 0 where 0 is too small) switches a
        number off; names are a list, or one text with commas.

    Raises:
      ValueError: it does not fit; the message begins with the name.
    """
    setting = SETTINGS[name]
    if setting.kind == "switch":
        return _switch(setting, value)
    if setting.kind == "choice":
        found = "none" if value is None or value is False else str(value)
        if found not in ("none", *setting.choices):
            raise ValueError(f"{name}={value}: choose from {', '.join(setting.choices)}, none")
        return found
    if value is None or value is False or (isinstance(value, str) and value.lower() in _OFF):
        return setting.off
    if setting.kind == "names":
        return _names(setting, value)
    if setting.kind == "file":
        if not isinstance(value, str):
            raise ValueError(f"{name}={value}: give a file name, or off")
        return value
    return _number(setting, value)


def _switch(setting: Setting, value: Any) -> bool:
    found = value if isinstance(value, bool) else _SWITCHES.get(str(value).lower())
    if found is None:
        raise ValueError(f"{setting.name}={value}: give true or false")
    return found


def _names(setting: Setting, value: Any) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        # An unquoted `no` (Norwegian) is the truth value false to YAML.
        raise ValueError(f"{setting.name}={value}: give a list of texts, in quotes")
    found = tuple(name.strip() for name in names if name.strip())
    check_names(setting.name, found, setting.choices or found)
    return found


def check_names(setting: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Checks that each name is known.

    Raises:
      ValueError: one is not.
    """
    known = set(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{setting}={name}: {suggestion(name, known)}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns what to say of a name that is none of those known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"


def _number(setting: Setting, value: Any) -> float | None:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if setting.kind == "count" and not (math.isfinite(number) and number == int(number)):
        number = math.nan
    if number == 0 and setting.low > 0:
        return None
    if not setting.low <= number <= (math.inf if setting.high is None else setting.high):
        least = f"{setting.low:g}"
        allowed = f"at least {least}" if setting.high is None else f"{least} to {setting.high:g}"
        unit = f" {setting.unit}" if setting.unit else ""
        whole = ", a whole number" if setting.kind == "count" and math.isnan(number) else ""
        off = "0 for no limit" if setting.low > 0 else "off"
        raise ValueError(f"{setting.name}={value}: give {allowed}{unit}{whole}, or {off}")
    return int(number) if setting.kind == "count" else number
