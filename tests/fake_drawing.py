# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Regressors that also draw: tokens that depend on parameters, captions and keys."""

import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import fake_training
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from parti.data.text import prompt_files
from parti.engine.experiment import sample_settings
from parti.engine.inference import bundles, layouts, rendering
from parti.pipelines import generate
from parti.pipelines.beam import options

PROMPTS = ("a red circle", "a blue star")


class Draws:
    """Makes a `base.Generator` of a regressor."""

    text_length, text_vocab_size = tiny_models.TEXT_LENGTH, tiny_models.TEXT_VOCAB_SIZE
    grid_size, codebook_size = tiny_models.GRID_SIZE, tiny_models.CODEBOOK_SIZE

    @property
    def unrolled(self) -> Any:
        return self

    def num_steps(self, settings: Any, num_samples: int) -> int:
        return 1

    def sample(self, variables: Any, text_tokens: Any, keys: Any, settings: Any) -> Any:
        own = jnp.abs(100 * jnp.sum(variables["params"]["dense"]["bias"])).astype(jnp.uint32)
        rows = keys[..., :1] + text_tokens[:, :1, None].astype(jnp.uint32) + own
        tokens = rows + jnp.arange(self.grid_size**2, dtype=jnp.uint32)
        return (tokens % self.codebook_size).astype(jnp.int32)


class Drawing(Draws, fake_training.PlainRegressor):
    """Without mutable collections."""


class DrawingRegressor(Draws, fake_training.Regressor):
    """With them."""


def write_bundle(folder: pathlib.Path) -> pathlib.Path:
    """Writes the tiny tokenizer, and its vocabulary, that turn the tokens into pictures."""
    return tiny_models.write_bundle(folder, "tokenizer", "generator")


def drawn(bundle: pathlib.Path, **changes: Any) -> sample_settings.SampleSettings:
    """Returns SAMPLES of that bundle."""
    vocabulary = str(bundle / "vocabulary.model")
    return sample_settings.SampleSettings(
        PROMPTS, str(bundle), vocabulary, **{"num_samples": 3, **changes}
    )


def draw_blank(patch: pytest.MonkeyPatch) -> None:
    """Lets `parti generate` write blank images, without a pipeline and without a model."""

    def build(
        root: None,
        batches: Sequence[Sequence[prompt_files.Prompt]],
        bundle: bundles.Bundle,
        settings: generate.GenerateSettings,
        directory: str,
        prompts_per_batch: int,
        upsample_tile: int,
        layout: layouts.Layout | None,
        truncated: Collection[str],
    ) -> None:
        pathlib.Path(directory, ".scratch", "parts").mkdir(parents=True, exist_ok=True)
        num = settings.num_samples
        samples = rendering.Samples(
            np.zeros((num, 4), np.int32), [np.zeros((4, 4, 3), np.uint8)] * num, None
        )
        made_with = generate.generation_settings(bundle, settings)
        write = generate._WritePrompt(directory, made_with, truncated)
        for prompt in (prompt for batch in batches for prompt in batch):
            assert list(write.process((prompt, samples))) == [prompt.id]

    patch.setattr(generate, "build", build)
    patch.setattr(options, "run_pipeline", lambda build, *more: build(None))
