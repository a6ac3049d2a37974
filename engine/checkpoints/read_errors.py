# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Errors of reading a checkpoint: it is corrupt, or unavailable at the moment.

`checksums` finds damage. A training passes over a corrupt one to an older one. So no failure counts
as corruption that may be over when the same command runs again: full memory, a lost file server,
too many open files, a lost process.
"""

import contextlib
import json
import re
import sys
from collections.abc import Iterator

import jax

from parti.engine.distributed import multihost
from parti.stages import files

# TensorStore's statuses for data that are wrong or missing.
_CORRUPT = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE")
_DETAILS = " [tensorstore_spec="
_STATUS = re.compile(r"([A-Z]+(?:_[A-Z]+)*): ")


class _CheckpointError(Exception):
    """A checkpoint cannot be read; `reason` says why."""

    message: str

    def __init__(self, folder: files.Path, reason: str) -> None:
        super().__init__(self.message.format(folder=folder, reason=reason))
        self.reason = reason


class CorruptCheckpointError(_CheckpointError, ValueError):
    """A checkpoint is incomplete or corrupt."""

    message = (
        "{folder} is incomplete or damaged ({reason}); name an older checkpoint, or run the "
        "training again: it goes on from the last good one"
    )


class UnavailableCheckpointError(_CheckpointError, RuntimeError):
    """A checkpoint could not be read for a reason outside of it."""

    message = (
        "{folder} could not be read ({reason}). That is no damage, and nothing was renamed or "
        "lost: run the same command again, once that is mended"
    )


@contextlib.contextmanager
def readable(folder: files.Path) -> Iterator[None]:
    """Turns any failure to read a checkpoint into one of the two errors above."""
    try:
        yield
    except Exception as error:
        causes = list(files.causes(error))
        # Orbax wraps TensorStore's errors; the innermost says most.
        reason = str(causes[-1]).split(_DETAILS)[0].strip() or type(causes[-1]).__name__
        corrupt = all(map(_may_be_corruption, causes))
        if files.is_remote(folder):
            corrupt = corrupt and _is_corruption(causes[-1])
        kind = CorruptCheckpointError if corrupt else UnavailableCheckpointError
        raise kind(folder, reason.splitlines()[0].replace(f"{folder}/", "")) from error


@contextlib.contextmanager
def readable_by_all(folder: files.Path) -> Iterator[None]:
    """`readable`, with one outcome in all processes; nothing inside may wait for the others.

    Corrupt is what is so in one of them, and unavailable in none.
    """
    failure: Exception | None = None
    try:
        with readable(folder):
            yield
    except (CorruptCheckpointError, UnavailableCheckpointError) as error:
        failure = error
        if not multihost.is_first():  # The first says it itself.
            text = f"[train] process {jax.process_index()}: {files.name(folder)}: {error.reason}"
            print(text, file=sys.stderr, flush=True)
    for kind in (UnavailableCheckpointError, CorruptCheckpointError):
        if not multihost.all_agree(not isinstance(failure, kind)):
            raise failure if isinstance(failure, kind) else kind(folder, "see the other logs")


def _may_be_corruption(error: BaseException) -> bool:
    """Returns whether an error is none of those that may be over next time."""
    if isinstance(error, FileNotFoundError):
        return True
    passing = (OSError, MemoryError, jax.errors.JaxRuntimeError, files.AccessError)
    if isinstance(error, passing):
        return False
    status = _STATUS.match(str(error))
    return status is None or status[1] in _CORRUPT


def _is_corruption(error: BaseException) -> bool:
    """Returns whether an error is known to say that data are wrong or missing.

    For a store that fails, its libraries have errors of kinds that nobody has counted.
    """
    known = (FileNotFoundError, KeyError, ValueError, json.JSONDecodeError, UnicodeDecodeError)
    return type(error) in known
