# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fingerprint rows: a pair's hashes and sizes, by which it is compared with other pairs."""

import dataclasses
import json
import operator
import pickle
from collections.abc import Collection
from typing import Any

# Namespace of Beam's counters, for the displays of remote runners; the report counts the output.
COUNTERS = "parti.clean"
_BYTES = ("content", "pixels", "colours", "caption", "sketch")


@dataclasses.dataclass(frozen=True, slots=True)
class Fingerprint:
    """The row of a pair that no rule for one pair alone rejected.

    Attributes:
      id: unique in the run.
      key: the pair's key.
      split: "train" or "validation".
      content: 16-byte hash of the encoded source image.
      pixels: 16-byte hash of the decoded source image's size and pixels.
      phash: 64-bit perceptual hash of the source image (see `data.images.image_hashes`).
      colours: 8 x 8 RGB means of the source image, 192 bytes (see `data.images.image_hashes`).
      caption: 16-byte hash of the caption's normal form (see `data.text.text_hashes`).
      words: min-hash signature of the caption; () unless near captions are searched for.
      area: width times height of the source image, in pixels.
      num_bytes: size of the encoded source image, in bytes.
      sketch: of the source image (see `data.images.image_copies`); empty unless near pictures are
        searched for, and in rows of an earlier version.
      known: kept by an earlier run that this one extends; such a pair is not dropped for a new one.
    """

    id: str
    key: str
    split: str
    content: bytes
    pixels: bytes
    phash: int
    colours: bytes
    caption: bytes
    words: tuple[int, ...]
    area: int
    num_bytes: int
    sketch: bytes = b""
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
    """A pair that is dropped because of others.

    Attributes:
      reason: a short name, counted and reported.
      measure: the value that decided, as text.
      group: key of the copy that stays; empty where there is none.
    """

    id: str
    reason: str
    measure: str
    group: str = ""
