# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""How well a SentencePiece model fits captions: pieces a word, characters without one, lengths.

Every figure weighs a caption by how many captions of the data it stands for: it describes the data,
not the sample.
"""

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from parti.pipelines.vocabulary import sampling as caption_sampling

ROWS_PER_LANGUAGE = 2_000  # captions of a language that are measured
MIN_ROWS = 20  # a language with fewer has no figures of its own
OTHER = "other"  # the languages with fewer, together
PERCENTILES = (50, 90, 99, 100)
NUM_BARS = 16  # of the histogram up to the length of the encoder; one more is for longer captions
_NUM_EXAMPLES = 3  # for each language
_NUM_LONG = 6
_NUM_UNCOVERED = 48
_EXAMPLE_TOKENS = 200
# Languages that write no spaces between words: pieces per word say nothing.
_WITHOUT_SPACES = frozenset(("bo", "dz", "ja", "km", "lo", "my", "th", "wuu", "yue", "zh"))
_SPACE = "▁"


def bounded(rows: Iterable[caption_sampling.Row]) -> list[caption_sampling.Row]:
    """Returns the first `ROWS_PER_LANGUAGE` rows of each language, which then stand for all of it.

    The rows are in random order, and are read once.
    """
    totals: collections.Counter[str] = collections.Counter()
    groups: dict[str, list[caption_sampling.Row]] = collections.defaultdict(list)
    for row in rows:
        totals[row.language] += row.occurrences  # type: ignore[assignment]
        if len(groups[row.language]) < ROWS_PER_LANGUAGE:
            groups[row.language].append(row)
    found = []
    for language, group in groups.items():
        scale = totals[language] / sum(row.occurrences for row in group)
        name = language if len(group) >= MIN_ROWS or not language else OTHER
        found += [row._replace(occurrences=row.occurrences * scale, language=name) for row in group]
    return found


class Measured:
    """Captions encoded by a model, and figures of them or of a part of them."""

    def __init__(self, model: Any, rows: Sequence[caption_sampling.Row], text_length: int) -> None:
        """Encodes captions with a SentencePieceProcessor; `text_length` counts the end mark."""
        self.rows, self.text_length, self._model = list(rows), text_length, model
        is_byte = np.array([model.is_byte(i) for i in range(model.get_piece_size())])
        ids = [np.asarray(model.encode(row.text), np.int64) for row in rows]
        self._weights = np.array([row.occurrences for row in rows])
        self._pieces = np.array([len(row) for row in ids])
        self._bytes = np.array([is_byte[row].sum() for row in ids])
        self._unknown = np.array([(row == model.unk_id()).sum() for row in ids])
        self._words = np.array([len(row.text.split()) for row in rows])
        self._characters = np.array([len(row.text) for row in rows])
        self._languages = np.array([row.language for row in rows])

    def languages(self) -> list[str]:
        """Returns the languages, those of most captions first."""
        names = np.unique(self._languages).tolist()
        return sorted(names, key=lambda n: -self._weights[self._languages == n].sum())

    def figures(self, language: str | None = None) -> dict[str, Any] | None:
        """Returns the figures of all captions or of one language; None if there are none.

        `byte_rate` and `unknown_rate` are shares of all pieces; lengths count the end mark.
        """
        part = np.full(len(self.rows), True) if language is None else self._languages == language
        if not part.any():
            return None
        weights, lengths = self._weights[part], self._pieces[part] + 1
        over = weights[lengths > self.text_length].sum()
        pieces, unknown, spelled, words, characters = (
            float(weights @ values[part])
            for values in (self._pieces, self._unknown, self._bytes, self._words, self._characters)
        )
        return {
            "captions": round(weights.sum()),  # that the measured ones stand for
            "measured": int(part.sum()),  # distinct captions
            "pieces_per_word": None if language in _WITHOUT_SPACES else round(pieces / words, 4),
            "pieces_per_character": round(pieces / characters, 4),
            "byte_rate": round(spelled / pieces, 6),
            "unknown_rate": round(unknown / pieces, 6),
            "length_percentiles": {
                str(q): percentile(lengths, weights, q / 100) for q in PERCENTILES
            },
            "over_length_rate": round(float(over / weights.sum()), 6),
        }

    def histogram(self) -> list[float]:
        """Returns shares of captions by length: `NUM_BARS` equal bins to `text_length`, longer."""
        bars = np.minimum(self._pieces * NUM_BARS // self.text_length, NUM_BARS)
        counts = np.bincount(bars, self._weights, NUM_BARS + 1)
        return [round(float(count / counts.sum()), 6) for count in counts]

    def uncovered(self) -> list[tuple[str, int]]:
        """Returns characters without a piece, and how many of a million captions have them."""
        found: collections.Counter[str] = collections.Counter()
        for index in np.flatnonzero(self._bytes + self._unknown):
            for character in set(self._spelled(self.rows[index].text)):
                found[character] += self._weights[index]
        scale = 1e6 / self._weights.sum()
        counts = [(character, round(value * scale)) for character, value in found.items()]
        return sorted(counts, key=lambda item: (-item[1], item[0]))[:_NUM_UNCOVERED]

    def _spelled(self, text: str) -> Iterator[str]:
        """Yields the characters of a text that are bytes or unknown to the model."""
        run = bytearray()
        for piece in self._model.encode(text, out_type=str):
            if self._model.is_byte(index := self._model.piece_to_id(piece)):
                run.append(int(piece[3:5], 16))
            elif index == self._model.unk_id():
                yield from piece
        yield from run.decode("utf-8", "ignore")

    def examples(self) -> list[dict[str, Any]]:
        """Returns some captions of each language with their pieces and ids."""
        return [
            self._example(index)
            for language in self.languages()
            for index in np.flatnonzero(self._languages == language)[:_NUM_EXAMPLES].tolist()
        ]

    def long_examples(self) -> list[dict[str, Any]]:
        """Returns the longest captions of those that are cut at `text_length`."""
        cut = np.flatnonzero(self._pieces + 1 > self.text_length).tolist()
        cut.sort(key=lambda index: (-self._pieces[index], self.rows[index].text))
        return [self._example(index) for index in cut[:_NUM_LONG]]

    def _example(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return {
            "text": row.text,
            "language": row.language,
            "num_tokens": int(self._pieces[index]) + 1,
            "ids": self._model.encode(row.text)[:_EXAMPLE_TOKENS],
            "pieces": self._model.encode(row.text, out_type=str)[:_EXAMPLE_TOKENS],
        }


def percentile(values: np.ndarray, weights: np.ndarray, share: float) -> int:
    """Returns the least value that at least `share` of the weight does not exceed.

    Rounding of the sums does not move it, as it would in `numpy.quantile` with weights.
    """
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    index = np.searchsorted(reached, share * reached[-1] * (1 - 1e-12))
    return int(values[order][index])


def piece_kinds(model: Any, num_symbols: int) -> dict[str, int]:
    """Returns how many pieces of a SentencePieceProcessor there are of each kind.

    The pieces from id 3 on are `num_symbols` symbols. A space counts with the word it begins.
    """
    kinds = dict.fromkeys(("special", "symbols", "bytes", "characters", "beginnings", "parts"), 0)
    for index in range(model.get_piece_size()):
        piece = model.id_to_piece(index)
        if model.is_byte(index):
            kind = "bytes"
        elif index < 3 + num_symbols:
            kind = "special" if index < 3 else "symbols"
        elif len(piece) == 1:
            kind = "characters"
        else:
            kind = "beginnings" if piece.startswith(_SPACE) else "parts"
        kinds[kind] += 1
    return kinds


def report(
    model: Any,
    num_symbols: int,
    train: Iterable[caption_sampling.Row],
    held_out: Iterable[caption_sampling.Row],
    text_length: int,
) -> dict[str, Any]:
    """Returns everything measured of a SentencePieceProcessor with `num_symbols`.

    Both kinds of rows are in random order and read once: those that it learnt from, at least one,
    and captions that it has not seen. All after `held_out` is of those that it learnt from;
    a language is "" where it is not clear, and `OTHER` with under `MIN_ROWS` captions.
    """
    seen = Measured(model, bounded(train), text_length)
    unseen = Measured(model, bounded(held_out), text_length)
    return {
        "text_length": text_length,
        "pieces": piece_kinds(model, num_symbols),
        "train": seen.figures(),
        "held_out": unseen.figures(),
        "languages": [{"language": n} | (seen.figures(n) or {}) for n in seen.languages()],
        "histogram": seen.histogram(),
        "strange": [list(item) for item in seen.uncovered()],
        "examples": seen.examples(),
        "long_examples": seen.long_examples(),
    }
