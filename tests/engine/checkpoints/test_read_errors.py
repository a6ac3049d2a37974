# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What counts as damage of a checkpoint, and what may be over when the command runs again."""

import pathlib

import jax
import pytest

from parti.engine.checkpoints import read_errors
from parti.stages import files


def caused(cause: Exception) -> Exception:
    """Returns the error that Orbax makes of TensorStore's."""
    error = Exception("Encountered error while reading array index: (). See <bound method")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        PermissionError("params"),
        TimeoutError("params"),
        OSError(5, "Input/output error"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out"),
        ValueError("PERMISSION_DENIED: Error opening params"),
        ValueError("UNAVAILABLE: Error opening params"),
        caused(ValueError("UNKNOWN: Error reading params: Input/output error")),
    ],
    ids=repr,
)
def test_what_may_be_over_is_no_damage(error: Exception) -> None:
    message = "checkpoint_1 could not be read .* nothing was renamed or lost: run the same command"
    with (
        pytest.raises(read_errors.UnavailableCheckpointError, match=message) as caught,
        read_errors.readable(pathlib.Path("checkpoint_1")),
    ):
        raise error
    assert caught.value.__cause__ is error


class ServiceUnavailable(Exception):  # noqa: N818 (google.api_core's name)
    """Stands for the errors of a store's own library."""


@pytest.mark.parametrize(
    "error", [ServiceUnavailable("503"), files.AccessError("not allowed"), caused(RuntimeError())]
)
def test_no_failure_of_a_store_is_damage(error: Exception) -> None:
    with (
        pytest.raises(read_errors.UnavailableCheckpointError),
        read_errors.readable("gs://bucket/checkpoint_1"),
    ):
        raise error


@pytest.mark.parametrize("folder", ["checkpoint_1", "gs://bucket/checkpoint_1"])
@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("params are missing"),
        ValueError("params has 3 bytes, not 4"),
        KeyError("params"),
        ValueError("DATA_LOSS: Error decoding params"),
        caused(ValueError("OUT_OF_RANGE: Error reading params")),
    ],
    ids=repr,
)
def test_what_stays_wrong_is_damage(error: Exception, folder: str) -> None:
    with (
        pytest.raises(
            read_errors.CorruptCheckpointError, match="checkpoint_1 is incomplete or"
        ) as caught,
        read_errors.readable(folder),
    ):
        raise error
    assert "params" in caught.value.reason, "the innermost error says what is wrong"
