# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fingerprint rows: a pair's hashes and sizes, by which it is compared with other pairs."""

import dataclasses
import json
import operator
import pickle
from collections.abc import Collection
from typing import Any, NamedTuple

# Namespace of Beam's counters, for the displays of remote runners; the report counts the output.
COUNTERS = "parti.clean"
_BYTES = ("content", "pixels", "colours", "caption", "sketch")


@dataclasses.dataclass(frozen=True, slots=True)
class Fingerprint:
    """The row of a pair that no rule for one pair alone rejected."""

    id: str  # unique in the run
    key: str  # the pair's
    split: str  # "train" or "validation"
    content: bytes  # 16-byte hash of the encoded source image
    pixels: bytes  # 16-byte hash of the decoded source image's size and pixels
    phash: int  # 64-bit perceptual hash of the source image (`data.images.image_hashes`)
    colours: bytes  # its 8 x 8 RGB means, 192 bytes (`data.images.image_hashes`)
    caption: bytes  # 16-byte hash of the caption's normal form (`data.text.text_hashes`)
    words: tuple[int, ...]  # min-hash signature of the caption; () unless near ones are searched
    area: int  # width times height of the source image, in pixels
    num_bytes: int  # of the encoded source image
    # `data.images.image_sketches`; empty if near images are not searched, or in old rows
    sketch: bytes = b""
    # Kept by an earlier run that this one extends; such a pair is not dropped for a new one
    known: bool = False

    @property
    def order(self) -> tuple[bool, int, int, str, str]:
        """Decides which copy is kept: the smallest is the best."""
        return (not self.known, -self.area, -self.num_bytes, self.key, self.id)

    def to_json(self, without: Collection[str] = ()) -> str:
        """Returns one line of JSON, `without` some fields."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in _BYTES:
            values[name] = values[name].hex()
        values["phash"] = f"{self.phash:016x}"
        for name in without:
            del values[name]
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str, **missing: Any) -> "Fingerprint":
        """Reads a line that `to_json` made; `missing` are fields that were left out of it."""
        values = {"sketch": ""} | json.loads(line) | missing
        for name in _BYTES:
            values[name] = bytes.fromhex(values[name])
        return cls(**values | {"phash": int(values["phash"], 16), "words": tuple(values["words"])})


_values = operator.attrgetter(*(field.name for field in dataclasses.fields(Fingerprint)))


def pack(row: Fingerprint) -> bytes:
    """Returns a row as bytes: smaller in a shuffle than the object, and faster."""
    return pickle.dumps(_values(row), protocol=5)


def unpack(data: bytes) -> Fingerprint:
    """Returns the row that `pack` was given."""
    return Fingerprint(*pickle.loads(data))


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """A pair that is dropped because of others."""

    id: str
    reason: str  # a short name, counted and reported
    measure: str  # the value that decided, as text
    group: str = ""  # key of the copy that stays; empty where there is none


@dataclasses.dataclass(frozen=True, slots=True)
class NewKey:
    """A pair that gets another key, since a pair of another file has its own."""

    id: str
    key: str


class Origin(NamedTuple):
    """The file, or folder of images, that a row is from; the smaller one keeps a key."""

    name: str  # of its first source: what the ids of its rows begin with, in the order of paths
    label: str = ""  # what goes before its keys where another origin has the same; unique
