# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""When two fingerprint rows are near: by their images, or by their captions."""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from parti.data.images import image_hashes
from parti.data.text import text_hashes
from parti.pipelines.deduplicate import fingerprints

# With more hashes under one key, rows are compared without first checking which hashes are near.
_MAX_HASHES = 1024
_CAPTION = 16 + image_hashes.NUM_COLOURS  # where it begins in the features of an image
_CELL_STEP = 5  # of the 8 x 8 cells, 13 from all rows and columns
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_ROUNDING = np.float32(0.01)


class SimilarityRule(Protocol):
    """Drops a row for a better one that is near, and says what "near" means."""

    @property
    def name(self) -> str:
        """Returns what the rule is called, unlike all others."""

    @property
    def reason(self) -> str:
        """Why a row is dropped for it: a short name, counted and reported."""

    def points(self, row: fingerprints.Fingerprint) -> Iterable[tuple[int, int, int]]:
        """Yields (band, key, sketch), all of a row; two near rows have a key in common in a band.

        A band is under 256, a key and a sketch have 64 bits; `collisions` compares the sketches.
        """

    def collisions(self, band: int, sketches: np.ndarray) -> np.ndarray:
        """Returns which of the rows of one key ([n] uint64) may be near another one: indices."""
        return np.arange(len(sketches))

    def features(self, row: fingerprints.Fingerprint) -> bytes:
        """Returns what `distances` compares; of the same length for all rows."""

    def distances(self, one: bytes, many: np.ndarray) -> np.ndarray:
        """Returns how far each of `many` ([n, length] uint8, features) is from `one`.

        The result is [n] float64; infinity for those that are not near.
        """

    def measure(self, one: bytes, other: bytes) -> str:
        """Returns in words how near two rows are."""


@dataclasses.dataclass(frozen=True)
class ImageSimilarity(SimilarityRule):
    """Images whose perceptual hashes and colours are near (see `data.images.image_hashes`)."""

    max_distance: int = image_hashes.MAX_DISTANCE  # bits in which the hashes may differ
    # Levels in which the colours may differ, at 64 x 64 pixels (`image_hashes.colour_limit`)
    max_colour_distance: float = image_hashes.MAX_COLOUR_DISTANCE
    same_caption: bool = False  # near images count only if their captions are equal too
    name: str = "near pictures"
    reason: str = "near_duplicate"

    def points(self, row: fingerprints.Fingerprint) -> Iterable[tuple[int, int, int]]:
        """Yields the hash itself and its bands, with the hash as sketch."""
        return ((band, key, row.phash) for band, key in enumerate(self.keys(row)))

    def keys(self, row: fingerprints.Fingerprint) -> Iterable[int]:
        """Returns the hash itself, so that its copies meet no other row, then its bands."""
        salt = int.from_bytes(row.caption[:8], "little") if self.same_caption else 0
        return [key ^ salt for key in _image_bands(row.phash)]

    def collisions(self, band: int, sketches: np.ndarray) -> np.ndarray:
        """Returns the rows with a near hash that no earlier band brings together."""
        hashes, rows = np.unique(sketches, return_inverse=True)
        if band == 0 or len(hashes) > _MAX_HASHES:
            return np.arange(len(sketches))
        bits = np.bitwise_count(hashes[:, None] ^ hashes)
        first, second = np.nonzero(np.triu(bits <= self.max_distance, k=1))
        if not len(first):
            return first
        near = np.union1d(first, second)
        keys = np.zeros((len(hashes), band), np.uint64)
        keys[near] = [_image_bands(int(phash))[:band] for phash in hashes[near]]
        new = (keys[first] != keys[second]).all(axis=1)
        meets = np.zeros(len(hashes), bool)
        meets[first[new]] = meets[second[new]] = True
        return np.flatnonzero(meets[rows])

    def features(self, row: fingerprints.Fingerprint) -> bytes:
        """Returns the hash, the size, the colours, and the caption's hash if it counts."""
        numbers = row.phash.to_bytes(8, "little") + row.area.to_bytes(8, "little")
        return numbers + row.colours + row.caption * self.same_caption

    def distances(self, one: bytes, many: np.ndarray) -> np.ndarray:
        """Compares captions and hashes; the distance is that of the colours."""
        phash, area, colours, caption = _parts(one)
        phashes, areas = np.ascontiguousarray(many[:, :16]).view("<u8").T
        near = image_hashes.distances(phash, phashes) <= self.max_distance
        near &= (many[:, _CAPTION:] == np.frombuffer(caption, np.uint8)).all(axis=1)
        rows = np.flatnonzero(near)
        smaller = np.minimum(areas[rows], area).astype(np.int64)
        limits = image_hashes.colour_limit(smaller, self.max_colour_distance)
        # Most rows of a hot bucket end here, for a tenth of the cost of their distance.
        possible = least_distances(colours, many[rows, 16:_CAPTION]) <= limits
        rows, limits = rows[possible], limits[possible]
        found = np.full(len(many), np.inf)
        if len(rows):
            levels = image_hashes.colour_distances(colours, many[rows, 16:_CAPTION])
            found[rows] = np.where(levels <= limits, levels, np.inf)
        return found

    def measure(self, one: bytes, other: bytes) -> str:
        """Returns "2 bits, 3.1 levels"."""
        (phash_a, _, colours_a, _), (phash_b, _, colours_b, _) = _parts(one), _parts(other)
        levels = image_hashes.colour_distance(colours_a, colours_b)
        return f"{image_hashes.distance(phash_a, phash_b)} bits, {levels:.1f} levels"


def _parts(features: bytes) -> tuple[int, int, bytes, bytes]:
    phash, area = (int.from_bytes(features[i : i + 8], "little") for i in (0, 8))
    return phash, area, features[16:_CAPTION], features[_CAPTION:]


def least_distances(colours: bytes, rows: np.ndarray) -> np.ndarray:
    """Returns a lower bound of `image_hashes.colour_distances`, cheaply: some cells, luma only.

    `rows` is [n, 192] uint8; the result is [n] float32.
    """
    cells = rows.reshape(len(rows), image_hashes.NUM_COLOURS // 3, 3)[:, ::_CELL_STEP]
    own = np.frombuffer(colours, np.uint8).reshape(-1, 3)[::_CELL_STEP] @ _LUMA
    return np.abs(cells @ _LUMA - own).max(axis=1) - _ROUNDING


def _image_bands(phash: int) -> tuple[int, ...]:
    return (phash, *image_hashes.band_keys(phash))


@dataclasses.dataclass(frozen=True)
class CaptionSimilarity(SimilarityRule):
    """Captions whose signatures agree in a share of their values (see `data.text.text_hashes`).

    A band of a signature is selective enough to do without a sketch.
    """

    min_similarity: float = 0.8  # that share, in (0, 1]
    name: str = "near captions"
    reason: str = "near_caption"

    def points(self, row: fingerprints.Fingerprint) -> Iterable[tuple[int, int, int]]:
        """Yields the bands; their sketch is 0, for a band of a signature is selective enough."""
        return ((band, key, 0) for band, key in enumerate(self.keys(row)))

    def keys(self, row: fingerprints.Fingerprint) -> Iterable[int]:
        """Returns the bands of the signature; none if there is no signature."""
        for band in text_hashes.minhash_bands(row.words):
            yield int.from_bytes(hashlib.blake2b(band, digest_size=8).digest(), "little")

    def features(self, row: fingerprints.Fingerprint) -> bytes:
        """Returns the signature."""
        return np.array(row.words, "<u4").tobytes()

    def distances(self, one: bytes, many: np.ndarray) -> np.ndarray:
        """Compares signatures; the distance is the share of values that differ."""
        values = np.ascontiguousarray(many).view("<u4")
        similarity = (values == np.frombuffer(one, "<u4")).mean(axis=1)
        return np.where(similarity >= self.min_similarity, 1 - similarity, np.inf)

    def measure(self, one: bytes, other: bytes) -> str:
        """Returns "0.86 alike"."""
        equal = np.frombuffer(one, "<u4") == np.frombuffer(other, "<u4")
        return f"{equal.mean():.2f} alike"
