# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Offsets of records that are missing are found once by all processes of a training together."""

from collections.abc import Sequence

import numpy as np

from parti.data.storage import record_offsets
from parti.engine.distributed import multihost
from parti.stages import files


def of_shards(shards: Sequence[str]) -> list[np.ndarray]:
    """Returns the offsets [records + 1] uint64 of each shard; all processes call it together.

    They take 8 bytes of memory a record. Those that are not beside their shard are found, each by
    one process, which writes them there if it can and tells the others.

    Raises:
      ValueError: as `record_offsets.scan`, in all processes if one finds a shard damaged; or they
        have other shards.
    """
    multihost.check_equal("the list of shards", "\n".join(map(files.name, shards)))
    with multihost.failing_together():
        offsets = record_offsets.known(shards)
    is_known = multihost.gather(bytes(found is not None for found in offsets))
    missing = [i for i, known in enumerate(zip(*is_known, strict=True)) if not all(known)]
    parts = [missing[process :: len(is_known)] for process in range(len(is_known))]
    with multihost.failing_together():
        mine = record_offsets.find([shards[i] for i in parts[multihost.index()]])
    joined = multihost.gather(b"".join(found.tobytes() for found in mine))
    for part, data in zip(parts, joined, strict=True):
        numbers = np.frombuffer(data, np.uint64)
        # Offsets begin with 0, and no other is 0.
        for i, found in zip(part, np.split(numbers, np.flatnonzero(numbers == 0)[1:])):
            offsets[i] = found
    return [found for found in offsets if found is not None]
