# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Who writes a training directory on an object store: of two trainings, the one that began last.

An object store has no locks. So a training leaves its mark when it begins, and looks before each
save whether it is still there: one whose machine was taken for dead stops then, and has written
nothing over the other's. On a disk, as before, nothing is checked.
"""

import datetime
import socket
import uuid

from parti.engine.distributed import multihost
from parti.stages import files, manifests

MARK = ".writer.json"
_REMEDY = "remove it"


class LostError(RuntimeError):
    """Another training has begun in this one's directory."""


class Ownership:
    """The mark of this training in its directory."""

    def __init__(self, directory: files.Path) -> None:
        """Leaves the mark, of the first process, in a directory on an object store."""
        self._directory, self._writer = directory, uuid.uuid4().hex
        self._mark = files.join(directory, MARK)
        self._is_needed = files.is_remote(directory)
        if self._is_needed and multihost.is_first():
            began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            mark = {"writer": self._writer, "host": socket.gethostname(), "began": began}
            manifests.write_json(self._mark, mark)

    def is_held(self) -> bool:
        """Returns, in the first process, whether no other training has begun here since."""
        if not self._is_needed or not multihost.is_first():
            return True
        return manifests.read_json(self._mark, _REMEDY).get("writer") == self._writer

    def check(self) -> None:
        """Raises LostError, in all processes, if another training has begun here since."""
        if not self._is_needed or multihost.all_agree(self.is_held()):
            return
        mark = manifests.read_json(self._mark, _REMEDY)
        raise LostError(
            f"another training has begun in {self._directory} ({mark.get('host', 'unknown host')}, "
            f"{mark.get('began', 'unknown time')}); this one stops, and leaves it what is saved"
        )
