# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from parti.tasks import metrics


def retrieval(images: np.ndarray, texts: np.ndarray) -> dict[str, float]:
    embeddings = {"image_embeddings": images, "text_embeddings": texts}
    cosines = np.sum(images * texts, axis=-1)
    return metrics.Retrieval.from_model_output([], (cosines, embeddings), {}).compute()


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = rng.normal(size=(count, 3))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_recall_is_that_of_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_ROWS", 7)
    rng = np.random.default_rng(0)
    images = unit(rng, 30)
    texts = images + rng.normal(scale=0.2, size=images.shape)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    found = retrieval(images, texts)
    for name, queries, candidates in (
        ("text_to_image", texts, images),
        ("image_to_text", images, texts),
    ):
        order = np.argsort(-(queries @ candidates.T), axis=1)
        for k in (1, 5, 10):
            share = np.mean([i in row[:k] for i, row in enumerate(order)])
            assert found[f"{name}_recall_at_{k}"] == pytest.approx(share)
    assert 0.2 < found["text_to_image_recall_at_1"] < 0.9
    assert len(found) == 6


def test_what_cannot_be_told_apart_is_drawn() -> None:
    same = np.tile(unit(np.random.default_rng(1), 1), (20, 1))
    found = retrieval(same, same)
    assert {name: round(value, 6) for name, value in found.items()} == {
        f"{way}_recall_at_{k}": k / 20
        for way in ("text_to_image", "image_to_text")
        for k in (1, 5, 10)
    }


def test_bleu_by_hand() -> None:
    """The example of 7 words with 1 of them wrong, worked out."""
    reference = [1, 2, 3, 4, 5, 6, 7]
    wrong = [1, 2, 3, 4, 5, 9, 7]
    # 6 of 7 words are right, 4 of 6 pairs, 3 of 5 triples, 2 of 4 quadruples.
    expected = (6 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25
    assert metrics.bleu([wrong], [reference]) == pytest.approx(expected)
    assert metrics.bleu([reference], [reference]) == pytest.approx(1.0)
    # Too short: all is right, but exp(1 - 7 / 5).
    assert metrics.bleu([reference[:5]], [reference]) == pytest.approx(np.exp(1 - 7 / 5))
    # A repeated word counts as often as the reference has it.
    clipped = metrics.bleu([[1, 2, 3, 4, 4]], [[1, 2, 3, 4, 5]])
    assert clipped == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    # Counts of all texts are summed before they are divided.
    both = metrics.bleu([wrong, reference], [reference, reference])
    assert both == pytest.approx((13 / 14 * 10 / 12 * 8 / 10 * 6 / 8) ** 0.25)
    assert metrics.bleu([[1, 2, 3]], [[1, 2, 3]]) == 0.0  # no four in a row
    assert metrics.bleu([[]], [[1, 2, 3, 4]]) == 0.0


def test_captions_by_hand() -> None:
    texts = np.array([[5, 6, 7, 8, 1, 0], [5, 6, 7, 9, 1, 0]], np.int32)
    found = {
        "captions": texts[[0, 0]],
        "text_tokens": texts,
        "caption_log_likelihood": np.log([0.5, 0.25]),
        "caption_num_correct": np.array([5, 4]),
    }
    captioning = metrics.Captioning.from_model_output([], (np.zeros(2), found), {})
    assert captioning.compute() == pytest.approx(
        {
            "caption_perplexity": 8**0.1,
            "caption_token_accuracy": 0.9,
            "caption_exact_match": 0.5,
            "caption_bleu_4": (7 / 8 * 5 / 6 * 3 / 4 * 1 / 2) ** 0.25,
        }
    )
    without = metrics.Captioning.from_model_output([], (np.zeros(2), {}), {})
    assert without.compute() == {}
