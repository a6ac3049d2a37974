# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of words that captions are held against: unwanted words, and how frequent words are.

Words are compared as `captions.tokens`: lower case, without punctuation.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from parti.data.text import captions
from parti.stages import files

_MAX_LINE = 10_000  # bytes


@dataclasses.dataclass(frozen=True)
class WordList:
    """Words and phrases that a caption should not hold."""

    phrases: frozenset[tuple[str, ...]]  # each as its tokens
    longest: int  # tokens in the longest phrase

    @classmethod
    def of(cls, lines: Iterable[str]) -> "WordList":
        """Makes a list of words or phrases; empty ones are left out."""
        phrases = frozenset(tuple(captions.tokens(line)) for line in lines) - {()}
        return cls(phrases, max(map(len, phrases), default=0))

    def find(self, text: str) -> str | None:
        """Returns the first word or phrase of the list in a text, or None."""
        found = captions.tokens(text)
        for start in range(len(found)):
            for end in range(start + 1, min(start + self.longest, len(found)) + 1):
                if tuple(found[start:end]) in self.phrases:
                    return " ".join(found[start:end])
        return None


@dataclasses.dataclass(frozen=True)
class FrequentWords:
    """Words, and pairs of words, that are frequent enough; anything else is rare."""

    # [num_words] uint64, sorted hashes. 8 bytes for each, so that the 100 million unigrams and
    # bigrams of ALIGN need 0.8 GB.
    words: np.ndarray
    pairs: np.ndarray  # [num_pairs], the same of pairs of words; if empty, pairs are not checked

    @classmethod
    def of(cls, counted: Iterable[tuple[str, int]], min_count: int) -> "FrequentWords":
        """Makes it of (word or two words, count), of those that occur often enough."""
        hashes: tuple[list[np.uint64], list[np.uint64]] = ([], [])
        for entry, count in counted:
            found = captions.tokens(entry)
            if count >= min_count and 1 <= len(found) <= 2:
                hashes[len(found) - 1].append(_hash(" ".join(found)))
        words, pairs = (np.unique(np.array(values, np.uint64)) for values in hashes)
        return cls(words, pairs)

    def find_rare(self, text: str) -> str | None:
        """Returns the first word or pair of words that is not frequent; numbers never are rare."""
        found = captions.tokens(text)
        rare = _absent(self.words, [token for token in found if not token.isdigit()])
        if rare is None and self.pairs.size:
            both = [f"{a} {b}" for a, b in zip(found, found[1:]) if not (a + b).isdigit()]
            rare = _absent(self.pairs, both)
        return rare


@functools.lru_cache(maxsize=8)
def load_words(path: str) -> WordList:
    """Reads a word or phrase a line; what follows # is a comment. Kept for the process.

    ValueError: it holds no word, or is not UTF-8.
    """
    found = WordList.of(line.partition("#")[0] for line in _lines(path))
    if not found.phrases:
        raise ValueError(f"{path}: no words; give a file with a word or phrase on each line")
    return found


@functools.lru_cache(maxsize=8)
def load_frequencies(path: str, min_count: int) -> FrequentWords:
    """Reads lines of a word (or two words), a tab or space, and a count. Kept for the process.

    ValueError: a line is not of that form, no word occurs `min_count` times, or not UTF-8.
    """
    found = FrequentWords.of(_counted(path), min_count)
    if not found.words.size:
        raise ValueError(f"{path}: no word with a count of {min_count} or more")
    return found


def _counted(path: str) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            entry, _, count = line.strip().replace("\t", " ").rpartition(" ")
            if not entry or not count.isdigit():
                raise ValueError(f"{path}, line {number}: not a word and its count: {line[:80]!r}")
            yield entry, int(count)


def _lines(path: str) -> Iterator[str]:
    with files.open(path, "rb") as file:
        while line := file.readline(_MAX_LINE):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}: not UTF-8 text ({error.reason})") from error


def _hash(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()))


def _absent(known: np.ndarray, entries: list[str]) -> str | None:
    """Returns the first entry whose hash is not in `known` ([num] uint64, sorted)."""
    if not entries:
        return None
    hashes = np.array([_hash(entry) for entry in entries], np.uint64)
    indices = np.minimum(np.searchsorted(known, hashes), known.size - 1)
    missing = np.flatnonzero(known[indices] != hashes)
    return entries[missing[0]] if missing.size else None
