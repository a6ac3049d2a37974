# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds rows whose picture is another's, mirrored, bordered, cropped or with a caption over it.

The hashes of the views of a picture (`data.images.image_sketches`) go to bands as that of a whole
picture does in `similarity`; views of one family meet only each other.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from parti.data.images import image_copies, image_hashes, image_sketches, near_hashes
from parti.pipelines.deduplicate import fingerprints

MAX_REPRESENTATIVES = 64  # rows of a bucket that all others are compared with
_MAX_HASHES = 1024  # under one key: with more, rows are compared without comparing hashes first
_NUM_BANDS = image_hashes.NUM_BANDS
_EQUAL = _NUM_BANDS * len(image_sketches.FAMILIES)  # the first band of equal hashes
_STRONG = 4  # bits that a hash may differ in, from which on its bands are not crowded
_PROBE = np.uint64(1)  # the last bit of a sketch: set for a probe, in place of that of the hash
_HASH_BYTES = 8 * image_sketches.NUM_VIEWS
_HEADER_BYTES = _HASH_BYTES + 4  # and the length of the sketch


@functools.cache
def _bands_of_limit() -> tuple[tuple[int, ...], ...]:
    """Returns, for each number of bits that may differ, the bands that bring such hashes together.

    Bands of separate blocks do for few bits: one more band than bits. Those for fewer bits are
    among those for more.
    """
    separate = image_hashes.separate_bands()
    few = tuple(separate[: limit + 1] for limit in range(len(separate)))
    rest = near_hashes.MAX_DISTANCE + 1 - len(few)
    return few + rest * (tuple(range(_NUM_BANDS)),)


def bands(limit: int) -> tuple[int, ...]:
    """Returns the bands of a hash that may differ from another in `limit` bits."""
    return _bands_of_limit()[limit]


@dataclasses.dataclass(frozen=True)
class ChangedCopies:
    """Pictures that are one, but for their frame.

    Attributes:
      same_caption: they count only if their captions are equal too.
    """

    same_caption: bool = False
    name: str = "changed pictures"
    reason: str = "near_duplicate"

    def points(self, row: fingerprints.Fingerprint) -> Iterator[tuple[int, int, int]]:
        """Yields the bands of the views of each family.

        Those of weak hashes are fewer, and crowded: such a hash goes to a band of equal ones too.
        """
        if not row.sketch:
            return
        salt = int.from_bytes(row.caption[:8], "little") if self.same_caption else 0
        hashes = image_sketches.hashes(row.sketch)
        keys = (np.stack(image_hashes.band_keys(hashes), axis=1) ^ np.uint64(salt)).tolist()
        limits = near_hashes.near_limits(hashes, hashes).tolist()
        has_frame = image_sketches.has_frame(row.sketch)
        for number, family in enumerate(image_sketches.FAMILIES):
            for view in family.views(has_frame):
                sketch = int(hashes[view]) & ~1 | (view in family.probes)
                if limits[view] < _STRONG:
                    yield _EQUAL + number, int(hashes[view]) ^ salt, sketch
                for band in bands(limits[view]):
                    yield number * _NUM_BANDS + band, keys[view][band], sketch

    def collisions(self, band: int, sketches: np.ndarray) -> np.ndarray:
        """Returns the rows whose view is near one that goes with it."""
        hashes, rows = np.unique(sketches, return_inverse=True)
        if len(hashes) > _MAX_HASHES:
            return np.arange(len(sketches))
        is_equal = band >= _EQUAL
        family = image_sketches.FAMILIES[band - _EQUAL if is_equal else band // _NUM_BANDS]
        near = np.asarray(near_hashes.is_near(hashes[:, None] & ~_PROBE, hashes & ~_PROBE))
        probes = (hashes & _PROBE).astype(bool)
        if family.is_between_different:
            near &= probes[:, None] != probes
        else:
            near &= probes[:, None] | probes
        return np.flatnonzero(np.any(near, axis=1)[rows])

    def features(self, row: fingerprints.Fingerprint) -> bytes:
        """Returns the hashes, the sketch, and the caption's hash if it counts."""
        sketch = row.sketch.ljust(image_sketches.MAX_BYTES, b"\0")
        hashes = image_sketches.hashes(row.sketch).astype("<u8").tobytes()
        length = len(row.sketch).to_bytes(4, "little")
        return hashes + length + sketch + row.caption * self.same_caption

    def distances(self, one: bytes, many: np.ndarray) -> np.ndarray:
        """Compares captions, hashes and colours; the distance is that of the colours, in levels."""
        found = np.full(len(many), np.inf)
        caption = np.frombuffer(one, np.uint8)[_HEADER_BYTES + image_sketches.MAX_BYTES :]
        theirs = many[:, _HEADER_BYTES + image_sketches.MAX_BYTES :]
        rows = np.flatnonzero((theirs == caption).all(axis=1))
        for index, copy in _compare(one, many[rows]).items():
            found[rows[index]] = copy.levels
        return found

    def measure(self, one: bytes, other: bytes) -> str:
        """Returns "mirrored, 2.1 levels"."""
        (found,) = _compare(one, np.frombuffer(other, np.uint8)[None]).values()
        return f"{found.change}, {found.levels:.1f} levels"


def _compare(one: bytes, many: np.ndarray) -> dict[int, image_copies.Found]:
    own = np.frombuffer(one, np.uint8)
    hashes = np.ascontiguousarray(many[:, :_HASH_BYTES]).view("<u8")
    sketches = _Sketches(many)
    own_hashes = np.frombuffer(one[:_HASH_BYTES], "<u8")
    return image_copies.compare(
        _Sketches(own[None])[0], own_hashes, sketches, near_hashes.Rows(hashes)
    )


class _Sketches:
    """The sketches in rows of features, read only where they are asked for."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def __getitem__(self, index: int) -> bytes:
        row = self._rows[index]
        length = int.from_bytes(row[_HASH_BYTES:_HEADER_BYTES].tobytes(), "little")
        return row[_HEADER_BYTES : _HEADER_BYTES + length].tobytes()
