# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""From tokens to ranked pictures."""

import pathlib

import jax
import numpy as np
import tiny_models

from parti.data.images import images
from parti.engine.inference import bundles, rendering

TEXT = "a red circle"
TOKENS = np.random.default_rng(0).integers(0, 8, (3, 16)).astype(np.int32)


def test_the_best_samples_are_upsampled(bundle: pathlib.Path) -> None:
    rendered = rendering.Renderer.load(bundle).render(TEXT, TOKENS, num_upsampled=1)
    small = rendering.decode(bundles.load_part(bundle, "tokenizer"), TOKENS)
    scores = rendering.score(bundles.load_part(bundle, "reranker"), TEXT, small)
    np.testing.assert_array_equal(rendered.scores, scores)
    best, *others = rendered.best_first()
    assert best == np.argmax(scores) and rendered.images[best].shape == (32, 32, 3)
    for index in others:
        np.testing.assert_array_equal(rendered.images[index], small[index])


def test_scores_by_hand() -> None:
    """A caption's likelihood, and its sum with the cosine over the temperature."""
    reranker = tiny_models.part("reranker", num_multimodal_layers=1, num_caption_queries=2)
    reranker.vocabulary = _Words()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3)).astype(np.uint8)
    found = {name: rendering.score(reranker, "4 5 6", pixels, name) for name in rendering.RANKINGS}
    model, texts = reranker.model, np.tile(np.array([[4, 5, 6, 1, 0, 0, 0, 0]], np.int32), (3, 1))
    arrays = reranker.variables, images.to_float(pixels), texts
    likelihood = jax.jit(model.caption_log_likelihood)(*arrays)
    np.testing.assert_allclose(found["likelihood"], likelihood.total, rtol=1e-4)
    assert (found["likelihood"] < 0).all()
    np.testing.assert_allclose(found["contrast"], jax.jit(model.score)(*arrays), atol=1e-5)
    scale = np.exp(min(float(arrays[0]["params"]["log_logit_scale"]), np.log(100.0)))
    sums = scale * found["contrast"] + found["likelihood"]
    np.testing.assert_allclose(found["both"], sums, atol=1e-4)
    assert rendering.rankings(model) == ("contrast", "likelihood", "both")
    assert rendering.rankings(tiny_models.part("reranker").model) == ("contrast",)


class _Words:
    """A vocabulary of numbers."""

    def encode(self, text: str, length: int) -> np.ndarray:
        ids = [int(word) for word in text.split()] + [1]
        return np.pad(np.array(ids, np.int32), (0, length - len(ids)))


def test_without_reranker_and_upsampler(small_bundle: pathlib.Path) -> None:
    rendered = rendering.Renderer.load(small_bundle).render(TEXT, TOKENS)
    assert rendered.scores is None and rendered.best_first() == [0, 1, 2]
    assert {image.shape for image in rendered.images} == {(16, 16, 3)}


def test_equal_scores_stay_in_sample_order() -> None:
    scores = np.array([0.5, 0.75, 0.5, 0.75])
    samples = rendering.Samples(np.zeros((4, 16), np.int32), [np.zeros(1)] * 4, scores)
    assert samples.best_first() == [1, 3, 0, 2]
