# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What these tests share: tiny bundles with random parameters."""

import pathlib

import pytest
import tiny_models

from parti.engine.inference import bundles


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A bundle of all four parts: 16 px images of 4 x 4 tokens, upsampled to 32 px."""
    folder = tmp_path_factory.mktemp("bundle")
    vocabulary = tiny_models.write_vocabulary(folder / "v.model")
    bundles.write_bundle(folder / "bundle", tiny_models.parts(), vocabulary)
    return folder / "bundle"


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A bundle without reranker and upsampler."""
    folder = tmp_path_factory.mktemp("small_bundle")
    vocabulary = tiny_models.write_vocabulary(folder / "v.model")
    parts = tiny_models.parts("tokenizer", "generator")
    bundles.write_bundle(folder / "bundle", parts, vocabulary)
    return folder / "bundle"
