# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Handlers: what they load, how often, and what they predict without Beam."""

import pathlib
import threading
import time

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options import pipeline_options
from apache_beam.testing import util as testing

from parti.engine.inference import bundles, text_to_image
from parti.models.text_to_image import sampling
from parti.pipelines.beam import model_handlers, options

TEXTS = ["a red circle", "a blue square", "green star"]


def sample(bundle: pathlib.Path, texts: list[str], batch_size: int = 2) -> np.ndarray:
    """Returns [prompts, 3, length] tokens."""
    settings = sampling.SamplingSettings(guidance_scale=1.5)
    handler = model_handlers.sample_handler(bundle, num_samples=3, batch_size=batch_size)
    requests = [text_to_image.Request(text, settings) for text in texts]
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
