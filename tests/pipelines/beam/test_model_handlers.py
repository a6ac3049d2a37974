# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Handlers: what they load, how often, and what they predict without Beam."""

import pathlib
import threading
import time

import apache_beam as beam
import jax
import numpy as np
import pytest
import tiny_models
from apache_beam.options import pipeline_options
from apache_beam.testing import util as testing

from parti.data.images import images
from parti.engine.inference import bundles
from parti.models.text_to_image import sampling
from parti.pipelines.beam import model_handlers, options

TEXTS = ["a red circle", "a blue square", "green star"]


def sample(bundle: pathlib.Path, texts: list[str], batch_size: int = 2) -> np.ndarray:
    """Returns [prompts, 3, length] tokens."""
    settings = sampling.SamplingSettings(guidance_scale=1.5)
    handler = model_handlers.sample_handler(bundle, num_samples=3, batch_size=batch_size)
    requests = [model_handlers.Request(text, settings) for text in texts]
    return handler.predict(requests, handler.load_model())


def test_only_the_half_that_is_used_stays_in_memory(bundle: pathlib.Path) -> None:
    def branches(handler: model_handlers.Handler) -> set[str]:
        return set(handler.load_model().variables["params"])

    assert branches(model_handlers.encode_handler(bundle, 4)) == {"encoder", "codebook"}
    assert branches(model_handlers.decode_handler(bundle)) == {"codebook", "decoder"}
    both = model_handlers.encode_handler(bundle, 4, reconstruct=True)
    assert branches(both) == {"encoder", "codebook", "decoder"}


def test_samples_depend_on_their_text_only(bundle: pathlib.Path) -> None:
    whole = sample(bundle, TEXTS)
    assert whole.shape == (3, 3, 16) and len(np.unique(whole.reshape(9, 16), axis=0)) == 9
    np.testing.assert_array_equal(sample(bundle, TEXTS[::-1], batch_size=3), whole[::-1])
    np.testing.assert_array_equal(sample(bundle, TEXTS[1:2]), whole[1:2])


def test_the_best_samples_are_upsampled(bundle: pathlib.Path) -> None:
    [tokens] = sample(bundle, TEXTS[:1])
    rendered = model_handlers.Renderer(bundle, num_upsampled=1).render(TEXTS[0], tokens)
    small = model_handlers.decode(bundles.load_part(bundle, "tokenizer"), tokens)
    scores = model_handlers.score(bundles.load_part(bundle, "reranker"), TEXTS[0], small)
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
    found = {
        name: model_handlers.score(reranker, "4 5 6", pixels, name)
        for name in model_handlers.RANKINGS
    }
    model, texts = reranker.model, np.tile(np.array([[4, 5, 6, 1, 0, 0, 0, 0]], np.int32), (3, 1))
    arrays = reranker.variables, images.to_float(pixels), texts
    likelihood = jax.jit(model.caption_log_likelihood)(*arrays)
    np.testing.assert_allclose(found["likelihood"], likelihood.total, rtol=1e-4)
    assert (found["likelihood"] < 0).all()
    np.testing.assert_allclose(found["contrast"], jax.jit(model.score)(*arrays), atol=1e-5)
    scale = np.exp(min(float(arrays[0]["params"]["log_logit_scale"]), np.log(100.0)))
    sums = scale * found["contrast"] + found["likelihood"]
    np.testing.assert_allclose(found["both"], sums, atol=1e-4)
    assert model_handlers.rankings(model) == ("contrast", "likelihood", "both")
    assert model_handlers.rankings(tiny_models.part("reranker").model) == ("contrast",)


class _Words:
    """A vocabulary of numbers."""

    def encode(self, text: str, length: int) -> np.ndarray:
        ids = [int(word) for word in text.split()] + [1]
        return np.pad(np.array(ids, np.int32), (0, length - len(ids)))


def test_without_reranker_and_upsampler(small_bundle: pathlib.Path) -> None:
    [tokens] = sample(small_bundle, TEXTS[:1])
    rendered = model_handlers.Renderer(small_bundle, num_upsampled=3).render(TEXTS[0], tokens)
    assert rendered.scores is None and rendered.best_first() == [0, 1, 2]
    assert {image.shape for image in rendered.images} == {(16, 16, 3)}


def test_equal_scores_stay_in_sample_order() -> None:
    scores = np.array([0.5, 0.75, 0.5, 0.75])
    samples = model_handlers.Samples(np.zeros((4, 16), np.int32), [np.zeros(1)] * 4, scores)
    assert samples.best_first() == [1, 3, 0, 2]


def test_a_tokenizer_has_no_text_vocabulary(bundle: pathlib.Path) -> None:
    loaded = bundles.load_part(bundle, "tokenizer")
    with pytest.raises(ValueError, match="tokenizer has no text vocabulary; load it from a bundle"):
        loaded.encode_texts(TEXTS)


def test_threads_of_a_process_share_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    load, loads, threads = model_handlers.Handler.load_model, [], set()

    def load_slowly(handler: model_handlers.Handler) -> object:
        loads.append(handler)
        time.sleep(0.5)
        return load(handler)

    def predict(handler: model_handlers.Handler, example: int, model: set) -> int:
        threads.add(threading.get_ident())
        time.sleep(0.05)
        return example + 1

    monkeypatch.setattr(model_handlers.Handler, "load_model", load_slowly)
    monkeypatch.setattr(model_handlers.Handler, "predict", predict)
    handler = model_handlers.Handler("next", set, max)
    flags = ["--direct_running_mode=multi_threading", "--direct_num_workers=4"]

    def build(root: beam.Pipeline) -> None:
        found = (
            root
            | beam.Create([(key, key) for key in range(40)])
            | model_handlers.infer("Next", handler)
        )
        testing.assert_that(found, testing.equal_to([(key, key + 1) for key in range(40)]))

    options.run_pipeline(build, pipeline_options.PipelineOptions(flags))
    assert len(loads) == 1 and len(threads) > 1
