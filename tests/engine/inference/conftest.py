# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What these tests share: tiny bundles with random parameters."""

import pathlib

import pytest
import tiny_models


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A bundle of all four parts: 16 px images of 4 x 4 tokens, upsampled to 32 px."""
    return tiny_models.write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A bundle without reranker and upsampler."""
    folder = tmp_path_factory.mktemp("small_bundle")
    return tiny_models.write_bundle(folder, "tokenizer", "generator")
