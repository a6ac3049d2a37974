# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Figures of a vocabulary, worked by hand, and the page that shows them."""

import numpy as np
import pytest

from parti.data.text import vocabularies
from parti.pipelines.vocabulary import report as vocabulary_report
from parti.pipelines.vocabulary import sampling as caption_sampling
from parti.pipelines.vocabulary import statistics as vocabulary_statistics

Row = caption_sampling.Row
LENGTH = 8
TRAIN = [
    Row("a red cat", 16, 6.0, "en"),
    Row("a red cat a red cat a red cat", 16, 2.0, "en"),
    Row("a <b> 赤", 16, 2.0, ""),
]


def model(byte_fallback=True, **changes):
    import sentencepiece

    settings = vocabularies.SentencePieceSettings(
        vocab_size=290, byte_fallback=byte_fallback, symbols=("<b>",), **changes
    )
    return settings, lambda path: (
        vocabularies.train_sentencepiece(["a red cat"] * 9, path, settings),
        sentencepiece.SentencePieceProcessor(model_file=str(path)),
    )[1]


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return model()[1](tmp_path_factory.mktemp("v") / "v.model")


def test_figures(processor, monkeypatch):
    monkeypatch.setattr(vocabulary_statistics, "MIN_ROWS", 1)
    report = vocabulary_statistics.report(processor, 2, TRAIN, [], LENGTH)
    english, unclear = report["languages"]
    # Each word is one piece: 3 pieces for 6 captions, 9 for 2; with the end mark 4 and 10 tokens.
    assert english == {
        "language": "en",
        "captions": 8,
        "measured": 2,
        "pieces_per_word": 1.0,
        "pieces_per_character": round((6 * 3 + 2 * 9) / (6 * 9 + 2 * 29), 4),
        "byte_rate": 0,
        "unknown_rate": 0,
        "length_percentiles": {"50": 4, "90": 10, "99": 10, "100": 10},
        "over_length_rate": 0.25,
    }
    # "▁a", "▁", "<b>", "▁" and three bytes.
    assert unclear["language"] == "" and unclear["length_percentiles"]["50"] == 8
    assert unclear["byte_rate"] == pytest.approx(3 / 7, abs=1e-6)
    assert report["train"]["captions"] == 10 and report["held_out"] is None
    assert report["train"]["over_length_rate"] == 0.2
    assert report["strange"] == [["赤", 200_000]]
    # 16 bars for 8 tokens: 4 tokens are in the bar that ends with 4, that is the 7th.
    histogram = report["histogram"]
    assert histogram[6] == 0.6 and histogram[-1] == 0.2 and sum(histogram) == pytest.approx(1)
    assert [row["num_tokens"] for row in report["long_examples"]] == [10]
    kinds = report["pieces"]
    assert kinds["special"] == 3 and kinds["symbols"] == 2 and kinds["bytes"] == 256
    assert sum(kinds.values()) == processor.get_piece_size()


def test_unknown_characters(tmp_path):
    settings, make = model(byte_fallback=False)
    report = vocabulary_statistics.report(make(tmp_path / "v.model"), 2, TRAIN, TRAIN[:1], LENGTH)
    assert report["train"]["byte_rate"] == 0 and report["train"]["unknown_rate"] > 0
    assert report["held_out"]["unknown_rate"] == 0
    assert report["pieces"]["bytes"] == 0
    facts = {"captions": 10, "used_captions": 3, "settings": {"byte_fallback": False}}
    assert "unknown" in vocabulary_report.summary(facts | report)


def test_captions_of_a_language_are_bounded(monkeypatch):
    monkeypatch.setattr(vocabulary_statistics, "ROWS_PER_LANGUAGE", 30)
    rows = [Row(f"de {i}", 16, 2.0, "de") for i in range(100)] + [Row("fi", 16, 5.0, "fi")]
    found = vocabulary_statistics.bounded(rows)
    assert [row.language for row in found] == ["de"] * 30 + [vocabulary_statistics.OTHER]
    assert sum(row.occurrences for row in found) == pytest.approx(205)


def test_percentiles():
    values, weights = np.array([5, 1, 9]), np.array([1.0, 8.0, 1.0])
    found = [vocabulary_statistics.percentile(values, weights, q) for q in (0.5, 0.8, 0.81, 0.9, 1)]
    assert found == [1, 1, 5, 5, 9]


def test_a_language_without_spaces_has_no_words(processor):
    rows = [Row("赤い丸", 16, 1.0, "ja")] * 30
    report = vocabulary_statistics.report(processor, 2, rows, [], LENGTH)
    assert report["languages"][0]["pieces_per_word"] is None
    assert report["languages"][0]["pieces_per_character"] > 3


def test_page(processor, tmp_path):
    rows = [*TRAIN, Row("<script>alert(1)</script> a red", 16, 1.0, "")]
    facts = {
        "captions": 1234,
        "used_captions": 4,
        "settings": {
            "vocab_size": 290,
            "model_type": "bpe",
            "character_coverage": 0.9995,
            "byte_fallback": True,
            "symbols": ["<b>"],
            "num_sentinels": 2,
            "frequency_power": 0.5,
            "frequency_cap": 7,
        },
    }
    report = facts | vocabulary_statistics.report(processor, 2, rows, TRAIN[:1], LENGTH)
    vocabulary_report.write(str(tmp_path), report)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "pieces for 1,234 captions" in page and "Validation" in page and "over 8" in page
    assert "&lt;extra_id_0&gt; to &lt;extra_id_1&gt;" in page and "U+8D64" in page
    assert "&lt;" in page and "<script>alert" not in page
    assert "http" not in page and "src=" not in page
