# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Compiling what a test runs once."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax


def once(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Returns the jitted function, compiled without optimisation: for functions that run once.

    That takes a third of the time of compiling it well (an initialisation of 8 px models: 2.9 of
    9.9 CPU seconds), and a small part of that of the same operations one by one. A step that runs
    often is slower by a factor of ten or more: use `jax.jit`.
    """
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)


@contextlib.contextmanager
def everywhere() -> Iterator[None]:
    """Compiles all without optimisation: for trainings of a few steps."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
