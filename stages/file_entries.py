# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What `files` and `remote_files` say of a file."""

import uuid
from typing import NamedTuple

PARTIAL_SUFFIX = ".partial"  # of a file that is being written


class Entry(NamedTuple):
    """A file that a pattern or a folder holds."""

    path: str
    num_bytes: int


class Named(NamedTuple):
    """What one part of an address of input names."""

    text: str  # the part, with its braces expanded
    folder: str  # the folder itself or that of the file; of a glob, what is before its wildcards
    entries: list[Entry] | None  # the file, or those of a glob; [] for nothing; None: a folder


class Status(NamedTuple):
    """Tells whether a file is still what it was."""

    num_bytes: int
    # When it was last written, in seconds since 1970; 0.0 if its system does not say
    modified: float


class AccessError(ValueError):
    """A store does not answer, or not to us: nothing is known of what is in it."""


class StoreError(OSError):
    """A store failed at a request, also when it was asked again; it is no fault of the data."""


def partial_name(path: str) -> str:
    """Returns another name on each call, so that two writers never share a file."""
    return f"{path}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}"
