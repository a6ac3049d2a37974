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
