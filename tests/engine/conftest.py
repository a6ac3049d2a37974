# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two small sets of image tokens, and a training on both."""

import pathlib
from collections.abc import Iterator

import pytest
import quick_jit
import token_sets
import toy_training


@pytest.fixture(scope="module")
def compiled_quickly() -> Iterator[None]:
    """All that this process compiles while a module's tests run; see `quick_jit.everywhere`."""
    with quick_jit.everywhere():
        yield


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder that `token_sets.write` fills."""
    root = tmp_path_factory.mktemp("sets")
    token_sets.write(root)
    return root


@pytest.fixture(scope="session")
def mixed_run(sets: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished training of four steps on both sets."""
    run = tmp_path_factory.mktemp("mixed") / "run"
    with quick_jit.everywhere():
        assert toy_training.run(token_sets.load(sets, run, token_sets.RATES)) == 0
    return run
