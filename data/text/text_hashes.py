# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Captions as hashes: equal captions by one hash, near captions by a min-hash signature.

A caption is compared in a form without case, punctuation and spacing. Two captions are near when
they share most of their runs of five characters: the share is their Jaccard similarity, and the
share of equal values in two signatures estimates it (Broder, "On the resemblance and containment
of documents", 1997). Runs of characters, not of words, because captions are short: a word changed
in the middle of ten leaves a similarity of 0.45 by runs of three words, and of 0.7 by these.
"""

import functools
import hashlib
import re
import unicodedata

import numpy as np

NUM_HASHES = 64
# 16 bands of 4 values: of two captions with similarity s, a band agrees with probability s**4, and
# one of 16 does with 1 - (1 - s**4)**16: 0.99 at s = 0.7, 0.9998 at 0.8, 0.12 at 0.3.
ROWS_PER_BAND = 4
RUN = 5  # characters
MAX_CHARACTERS = 4_096  # `minhash` ignores what follows

# Scripts that are written without spaces: each character counts as a word.
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff])"
)


class _FormTable(dict[int, str | None]):
    """What becomes of each character: itself, a space or nothing (see `str.translate`)."""

    def __missing__(self, code: int) -> str | None:
        char, kind = chr(code), unicodedata.category(chr(code))
        self[code] = " "
        # Apostrophes join ("don't", "dont"); variation selectors and joiners cannot be seen.
        if char in "'\u2018\u2019\u02bc\uff07" or kind == "Cf" or 0xFE00 <= code <= 0xFE0F:
            self[code] = None
        elif kind[0] in "LNM" or (kind[0] == "S" and code > 127):  # emoji are symbols
            self[code] = char
        return self[code]


_FORM_TABLE = _FormTable()


def caption_form(text: str) -> str:
    """Returns a caption as it is compared: case folded, no punctuation, one space between words.

    Digits, letters of all scripts and emoji stay. A caption of punctuation alone is itself.

    `"Don't  STOP -- it's 5:30!"` becomes `"dont stop its 5 30"`.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.translate(_FORM_TABLE).split()) or " ".join(text.split())


def caption_hash(text: str) -> bytes:
    """Returns 16 bytes that are equal for captions of the same `caption_form`."""
    return _digest(caption_form(text), 16)


def words(text: str) -> list[str]:
    """Returns the words of a caption's form; of scripts without spaces, the characters."""
    return _UNSPACED.sub(r" \1 ", caption_form(text)).split()


def ngram_hashes(text_words: list[str], size: int) -> list[int]:
    """Returns a 64-bit hash for each run of `size` words; one for all of them if they are fewer."""
    if not text_words:
        return []
    starts = range(max(1, len(text_words) - size + 1))
    runs = (" ".join(text_words[i : i + size]) for i in starts)
    return [int.from_bytes(_digest(run, 8), "little") for run in runs]


def minhash(text: str, num: int = NUM_HASHES) -> tuple[int, ...]:
    """Returns the min-hash signature of a caption: `num` numbers of 32 bits, () if it is empty.

    Deterministic on every machine. Value i is the smallest of the i-th hash over all runs of five
    characters of the caption's form, so two captions agree in it with the probability that is
    their Jaccard similarity.
    """
    codes = np.frombuffer(
        f" {' '.join(words(text[:MAX_CHARACTERS]))} ".encode("utf-32-le", "replace"), np.uint32
    )
    if len(codes) <= 2:
        return ()
    codes = np.pad(codes.astype(np.uint64), (0, max(0, RUN - len(codes))))
    runs = np.zeros(len(codes) - RUN + 1, np.uint64)
    for offset in range(RUN):
        runs = runs * _PRIME + codes[offset : offset + len(runs)]
    factors, terms = _permutations(num)
    hashes = _mix(runs)[:, None] * factors + terms
    return tuple((hashes.min(axis=0) >> np.uint64(32)).tolist())


def minhash_bands(signature: tuple[int, ...]) -> tuple[bytes, ...]:
    """Returns a key for each band of a signature; near captions share one (see `ROWS_PER_BAND`)."""
    data = np.array(signature, "<u4").tobytes()
    step = 4 * ROWS_PER_BAND
    return tuple(bytes([i // step]) + data[i : i + step] for i in range(0, len(data), step))


def jaccard(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """Returns the similarity of two captions, in [0, 1], estimated from their signatures.

    The standard error is sqrt(s (1 - s) / num): 0.05 at s = 0.8 and 64 hashes. ValueError: the
    signatures are empty or of different lengths.
    """
    if len(first) != len(second) or not first:
        raise ValueError(
            f"Signatures of {len(first)} and {len(second)} hashes: both must have the same number, "
            "and one at least."
        )
    return sum(a == b for a, b in zip(first, second)) / len(first)


def _digest(form: str, size: int) -> bytes:
    return hashlib.blake2b(form.encode("utf-8", "replace"), digest_size=size).digest()


_PRIME = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits spread evenly


def _mix(values: np.ndarray) -> np.ndarray:
    """Spreads every bit over all 64 (two rounds of xor-shift and multiply)."""
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        values = (values ^ (values >> np.uint64(31))) * np.uint64(factor)
    return values ^ (values >> np.uint64(29))


@functools.cache
def _permutations(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the factors (odd) and terms of `num` hash functions: [num] uint64 each."""
    seeds = _mix(np.arange(1, 2 * num + 1, dtype=np.uint64) * _PRIME)
    return seeds[::2] | np.uint64(1), seeds[1::2]
