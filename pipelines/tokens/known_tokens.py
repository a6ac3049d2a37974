# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The tokens of an earlier run, so that of pairs that were added to only the new are encoded.

`parti clean` orders the pairs of a split by the hash of their keys, whatever the number of shards,
so a shard's pairs were in the few shards of the earlier run that have that range of hashes.
"""

import dataclasses
import re
from typing import Any, NamedTuple

import numpy as np

from parti.data.storage import records, shard_names, tfrecords
from parti.stages import files, manifests

_SHARD = re.compile(r"(\w+)-(\d+)-of-(\d+)\.tfrecord")


class _Part(NamedTuple):
    """A shard of a split, as its name says."""

    split: str
    number: int
    total: int

    @classmethod
    def of(cls, name: str) -> "_Part | None":
        found = _SHARD.fullmatch(name)
        return cls(found[1], int(found[2]), int(found[3])) if found else None

    def overlaps(self, other: "_Part") -> bool:
        """Returns whether some hash is in both."""
        starts_before = self.number * other.total < (other.number + 1) * self.total
        ends_after = (self.number + 1) * other.total > other.number * self.total
        return self.split == other.split and starts_before and ends_after


@dataclasses.dataclass(frozen=True)
class KnownTokens:
    """Token shards of an earlier run; every worker must reach them."""

    shards: tuple[str, ...]

    @classmethod
    def open(cls, tokens: str, pairs: str, settings: dict[str, Any]) -> "KnownTokens":
        """Opens the tokens of pairs that these were added to.

        `settings` are those of the manifest of the run that takes them.

        Raises:
          FileNotFoundError: no finished tokens or pairs there.
          ValueError: they were made in another way, or not of pairs that these extend.
        """
        found = manifests.read(tokens, "tokens")
        for name in sorted({*settings} - {"pairs_fingerprint", "write_reconstructions", "decoder"}):
            if (theirs := found["settings"].get(name)) != settings[name]:
                raise ValueError(
                    f"--extend={tokens}: made with {name}={theirs}, now it is {settings[name]}; "
                    "give the same tokenizer and flags, or tokenize all pairs"
                )
        _check_extends(pairs, tokens, found["settings"]["pairs_fingerprint"])
        return cls(
            tuple(path for s in records.SPLITS for path in shard_names.list_shards(tokens, s))
        )

    def of_shard(self, name: str) -> dict[str, np.ndarray]:
        """Returns {key of a row: image tokens [length] int32} for the pairs of a shard."""
        wanted = _Part.of(name)
        paths = [
            path
            for path in self.shards
            if wanted and (part := _Part.of(files.name(path))) and part.overlaps(wanted)
        ]
        rows = (
            records.TokenizedPair.from_example(r) for path in paths for r in tfrecords.read(path)
        )
        return {row.key: row.image_tokens for row in rows}


def _check_extends(pairs: str, tokens: str, fingerprint: str) -> None:
    """Raises ValueError unless pairs are, or extend, those of this fingerprint."""
    folder, manifest = pairs, manifests.read(pairs, "pairs")
    passed = set()
    while manifest["fingerprint"] != fingerprint:
        passed.add(files.absolute(folder))
        [earlier, *_] = manifest["inputs"].get("extend") or [""]
        is_gone = not files.exists(files.join(earlier, manifests.FILE_NAME))
        if not earlier or is_gone or files.absolute(earlier) in passed:  # it was overwritten
            where = f"{earlier} is gone" if earlier else f"{folder} extends no other pairs"
            raise ValueError(
                f"--extend={tokens}: not of pairs that {pairs} extends ({where}); tokenize all "
                "pairs"
            )
        folder, manifest = earlier, manifests.read(earlier, "pairs")
