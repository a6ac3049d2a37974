# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Captions: one normal form, repair of broken text, and what can be measured or found in one.

A finder returns the part of the text that it found, or None. All take time linear in the text,
except `normalize_caption` for thousands of combining marks in a row.
"""

import collections
import functools
import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

# Characters that no caption needs: format characters, lone halves of surrogate pairs. The
# joiners (200C, 200D) stay: scripts and emoji need them.
_INVISIBLE = re.compile(
    "[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufffc\ufffd\ud800-\udfff]"
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_WEB = re.compile(r"https?://|\bwww\.\w", re.IGNORECASE)
# Every repetition has a bound, so that no text makes a search slow.
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,4}\.\w{2,24}")
_PHONE = re.compile(
    r"(?<![\w.])(?:\+?\d{1,3}[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?!\w)"
    r"|(?<!\w)\+\d{1,3}(?:[ ./-]{0,2}\(?\d{2,5}\)?){2,5}(?!\w)"
)
_STREET = re.compile(
    r"\b\d{1,5}[A-Za-z]?,? (?:[NSEW]\.? )?(?:[A-Z0-9][\w'.-]{0,30} ){1,3}"
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Sq|"
    r"Highway|Hwy|Parkway|Pkwy|Terrace)\b"
)
_FILE_NAME = re.compile(r"^\S+\.(jpe?g|png|gif|webp|bmp|tiff?|svg|heic|avif)$", re.IGNORECASE)
_CAMERA_NAME = re.compile(r"^(img|dsc|dscn|dscf|pict?|image|photo|p)[_ -]?\d{3,}$", re.IGNORECASE)
# What programs write where there is no text: what pandas reads as missing, and a few more.
_PLACEHOLDERS = frozenset(
    (
        *("nan", "nat", "none", "null", "nil", "undefined", "unknown", "missing"),
        *("na", "#na", "n/a", "#n/a", "#n/a_n/a", "n.a", r"n\a", r"\n", "1.#ind", "1.#qnan"),
        *("no_caption", "not_available", "not_applicable", "object_object"),
        *("no_description", "no_description_available", "no_title", "no_text", "no_alt_text"),
        *("untitled", "tbd", "void", "nul", "true", "false", "inf", "infinity"),
        *("#null", "#value", "#ref", "#name", "#div/0", "#num"),
    )
)
# What may stand around one.
_AROUND = " \t'\"`<>[](){}.:;,!?_/*~-\u2010\u2011\u2012\u2013\u2014\u2015\u2026"
# Scripts that do not put spaces between words: each of these characters counts as a word.
_NO_SPACES = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_TOKEN = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_SEPARATORS = " \t-\u2013\u2014|:;,.\u00b7\u2022>\u00bb*#"

_MIN_WORDS_TO_REPEAT = 6
_MIN_LETTERS_TO_SHOUT = 10
_PASSES = 4
_MAX_PLACEHOLDER = 24  # characters
_MAX_AFFIXES = 8


def normalize_caption(text: str) -> str:
    """Returns a caption in normal form: one line, NFC, without markup or invisible characters.

    HTML entities become characters, those that were escaped twice too, and tags vanish; every run
    of white space is one space. Letters keep their case and quotes their shape: SentencePiece has
    its own normalisation.
    """
    for _ in range(_PASSES):  # one pass can bring out what the next one removes: "&amp;lt;b&gt;"
        before = text
        text = html.unescape(text) if "&" in text else text
        if "<" in text and not find_placeholder(text):  # <NA> is no markup
            text = _TAG.sub(" ", text)
        text = _CONTROL.sub(" ", text)
        text = " ".join(unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).split())
        if text == before:
            break
    return text


def repair_caption(text: str) -> str:
    """Returns a caption whose wrongly decoded letters are put right: "cafÃ©" becomes "café".

    Quotes, ligatures and wide characters stay as they are. Source: ftfy (Speer 2019).
    """
    if text.isascii():
        return text
    import ftfy

    return ftfy.fix_text(text, _repairs())


@functools.cache
def _repairs() -> Any:
    import ftfy

    return ftfy.TextFixerConfig(
        unescape_html=False,  # `normalize_caption` does it
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        normalization=None,
        explain=False,
    )


def strip_affixes(text: str, prefixes: Iterable[str] = (), suffixes: Iterable[str] = ()) -> str:
    """Returns a caption without the given words at its ends: "Dog - Stock Photo" becomes "Dog".

    The caption is in normal form. A prefix is removed in any case of letters, where the text ends
    with it or goes on with no letter or digit; eight times at most. So is a suffix.
    """
    prefixes = sorted(map(_lower, prefixes), key=len, reverse=True)
    suffixes = sorted(map(_lower, suffixes), key=len, reverse=True)
    for _ in range(_MAX_AFFIXES):
        before = text
        text = _without_suffix(_without_prefix(text, prefixes), suffixes)
        if text == before:
            break
    return text


def _without_prefix(text: str, prefixes: Sequence[str]) -> str:
    folded = _lower(text)
    for prefix in prefixes:
        rest = text[len(prefix) :]
        if folded.startswith(prefix) and not rest[:1].isalnum():
            return rest.lstrip(_SEPARATORS)
    return text


def _without_suffix(text: str, suffixes: Sequence[str]) -> str:
    folded = _lower(text)
    for suffix in suffixes:
        rest = text[: len(text) - len(suffix)]
        if folded.endswith(suffix) and not rest[-1:].isalnum():
            return rest.rstrip(_SEPARATORS)
    return text


def _lower(text: str) -> str:
    """Returns a text in lower case that is as long as before: one dotted I would become two."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(c.lower()[0] for c in text)


def words(text: str) -> list[str]:
    """Returns the words of a text: what stands between spaces, and each Chinese or kana sign."""
    if _NO_SPACES.search(text):
        text = _NO_SPACES.sub(lambda sign: f" {sign.group()} ", text)
    return text.split()


def tokens(text: str) -> list[str]:
    """Returns the words of a text in lower case without punctuation, for word lists."""
    return _TOKEN.findall(text.casefold())


def num_words(text: str) -> int:
    """Returns the number of `words`."""
    return len(words(text))


def digit_share(text: str) -> float:
    """Returns the share of digits among letters and digits, in [0, 1]."""
    digits = sum(map(str.isdigit, text))
    signs = sum(map(str.isalnum, text))
    return digits / signs if signs else 0.0


def capital_share(text: str) -> float:
    """Returns the share of capitals among cased letters, in [0, 1]; 0 under ten letters."""
    capitals, small = sum(map(str.isupper, text)), sum(map(str.islower, text))
    return capitals / (capitals + small) if capitals + small >= _MIN_LETTERS_TO_SHOUT else 0.0


def capitalized_word_share(text: str) -> float:
    """Returns the share of words that begin with a capital, in [0, 1]."""
    begun = [word[0].isupper() for word in words(text)]
    return sum(begun) / len(begun) if begun else 0.0


def top_word_share(text: str) -> float:
    """Returns the share of the most frequent word, in [0, 1]; 0 under six words."""
    found = text.lower().split()
    if len(found) < _MIN_WORDS_TO_REPEAT:
        return 0.0
    return collections.Counter(found).most_common(1)[0][1] / len(found)


def repeated_share(text: str) -> float:
    """Returns the share of words that came before in the text, in [0, 1]; 0 under six words."""
    found = tokens(text)
    if len(found) < _MIN_WORDS_TO_REPEAT:
        return 0.0
    return 1 - len(set(found)) / len(found)


def has_letters(text: str) -> bool:
    """Returns whether there is a letter of any script."""
    return any(map(str.isalpha, text))


def find_web_address(text: str) -> str | None:
    """Finds http://, https:// or www."""
    return _found(_WEB, text)


def find_email(text: str) -> str | None:
    """Finds a mail address."""
    return _found(_EMAIL, text) if "@" in text else None


def find_phone(text: str) -> str | None:
    """Finds a telephone number: 3-3-4 digits with separators, or + and a country's number."""
    found = (match.group() for match in _PHONE.finditer(text))
    return next((number for number in found if sum(map(str.isdigit, number)) >= 8), None)


def find_street_address(text: str) -> str | None:
    """Finds an English street address: "221B Baker Street"."""
    return _found(_STREET, text)


def find_file_name(text: str) -> str | None:
    """Finds a file name that stands for a caption (`IMG_1234`, `sunset.jpg`)."""
    return text if _FILE_NAME.match(text) or _CAMERA_NAME.match(text) else None


def find_placeholder(text: str) -> str | None:
    """Finds a text that only says that there is none: `nan`, `None`, `<NA>`, `-`."""
    if len(text) > _MAX_PLACEHOLDER:
        return None
    core = "_".join(text.casefold().replace(" / ", "/").strip(_AROUND).split())
    is_none = core in _PLACEHOLDERS or {*re.split(r"[_,;|]+", core)} <= _PLACEHOLDERS  # nan, nan
    return text if text and (not core or is_none) else None


def find_affix(text: str, affixes: Sequence[str]) -> str | None:
    """Finds the first of some texts that the caption begins or ends with, in any case."""
    folded = text.casefold()
    for affix in map(str.casefold, affixes):
        if folded.startswith(affix) or folded.endswith(affix):
            return affix
    return None


def _found(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found.group() if found else None
