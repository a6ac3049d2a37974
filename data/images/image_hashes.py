# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Near-equal images: a 64-bit hash of the coarse shapes, and the colours of an 8 x 8 grid.

Two images are near when their hashes differ in few bits and their colours by little, everywhere.
The hash finds the pairs: `band_keys` gives near hashes at least one key in common, so that no
image need be compared with all others. The colours settle it: variants of one drawing that differ
in a colour only have nearly the same hash.

Both are made of a 32 x 32 thumbnail in whole numbers, so that equal pixels give equal hashes on
every machine.
"""

import dataclasses
import functools
import itertools
from typing import TypeVar

import numpy as np
import xxhash

from parti.data.images import images

NUM_BITS = 64
MAX_DISTANCE = 4  # bits; up to here `band_keys` finds every pair
MAX_COLOUR_DISTANCE = 9.0  # levels of 255, for images of 64 x 64 (see `colour_limit`)
REFERENCE_PIXELS = 64 * 64

THUMBNAIL_SIDE = 32  # pixels
_HALVE_FROM = 16 * THUMBNAIL_SIDE
_GRID = 8  # cells on a side of the colours
NUM_COLOURS = 3 * _GRID * _GRID  # bytes of the colours
_SCALE = 1 << 12  # of the whole-number cosines
_DEAD_ZONE = 12.0  # levels, in units of the orthonormal DCT: what smaller coefficients say is noise
BIT_THRESHOLD = int(_DEAD_ZONE * 1000 * _SCALE * _SCALE)  # of coefficients of `cosines`, of luma
# Luma, blue and red difference of RGB, in thousandths (Rec. 601, as JPEG has them).
YCC = np.array([[299, -169, 500], [587, -331, -419], [114, 500, -81]])

# 6 blocks of 10 or 11 bits, of which any 2 make a key: 4 wrong bits spoil at most 4 blocks.
_EDGES = tuple(round(NUM_BITS * i / 6) for i in range(7))
_KEY_BLOCKS = tuple(itertools.combinations(range(6), 2))
NUM_BANDS = len(_KEY_BLOCKS)
_Hash = TypeVar("_Hash", int, np.ndarray)


def pixel_hash(image: np.ndarray) -> bytes:
    """Returns 16 bytes that equal images [height, width, 3] uint8 share and others do not.

    Not a cryptographic hash, which would take a third of the time of decoding: an attacker can make
    two images share it, and gains only that one of them is dropped.
    """
    digest = xxhash.xxh3_128(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def fingerprint(image: np.ndarray, small: np.ndarray | None = None) -> tuple[int, bytes]:
    """Returns the perceptual hash, 64 bits, and 192 bytes of colours of [height, width, 3] uint8.

    The hash says where the image is lighter and darker, coarsely. Each bit is one of the 64 lowest
    frequencies of the thumbnail's luma (the mean left out): 1 if its DCT coefficient is clearly
    positive. Weak coefficients are 0, or noise would set them. The colours are the means of the
    cells of an 8 x 8 grid: row by row, red green blue. `small` is the `thumbnail`, if it is known.

    Source: the DCT hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash
    Functions", 2010, section 3.2, with a fixed threshold for its median.
    """
    small = thumbnail(image) if small is None else small
    basis, rows, columns = cosines()
    luma = small.astype(np.int64) @ YCC[:, 0]
    coefficients = (basis @ luma @ basis.T)[rows, columns]
    bits = coefficients > BIT_THRESHOLD
    cell = THUMBNAIL_SIDE // _GRID
    sums = small.reshape(_GRID, cell, _GRID, cell, 3).sum(axis=(1, 3), dtype=np.uint32)
    means = ((sums + cell * cell // 2) // (cell * cell)).astype(np.uint8)
    return int.from_bytes(np.packbits(bits).tobytes(), "big"), means.tobytes()


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Returns [32, 32, 3] uint8: means of equal areas, within a level or two.

    Halving is several times as fast as the rest, so a large image is halved first; the last row
    or column of an odd number is left out.
    """
    while min(image.shape[:2]) >= _HALVE_FROM:
        height, width = image.shape[0] // 2, image.shape[1] // 2
        image = images.resize(image[: 2 * height, : 2 * width], (height, width))
    return images.resize(image, THUMBNAIL_SIDE)


@functools.cache
def cosines() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns whole-number DCT rows [frequency, pixel] and the row and column of each bit."""
    by_frequency = sorted(
        itertools.product(range(THUMBNAIL_SIDE), repeat=2), key=lambda uv: (sum(uv), uv)
    )
    rows, columns = np.array(by_frequency[1 : NUM_BITS + 1]).T
    frequency = np.arange(max(rows.max(), columns.max()) + 1)[:, None]
    basis = np.cos(np.pi * frequency * (2 * np.arange(THUMBNAIL_SIDE) + 1) / (2 * THUMBNAIL_SIDE))
    basis *= np.where(frequency == 0, np.sqrt(1 / THUMBNAIL_SIDE), np.sqrt(2 / THUMBNAIL_SIDE))
    return np.rint(basis * _SCALE).astype(np.int64), rows, columns


def distance(a: int, b: int) -> int:
    """Returns in how many bits two hashes differ."""
    return (a ^ b).bit_count()


def distances(phash: int, phashes: np.ndarray) -> np.ndarray:
    """Returns in how many bits a hash differs from each of [n] uint64; [n] uint8."""
    return np.bitwise_count(phashes ^ np.uint64(phash))


def colour_distance(a: bytes, b: bytes) -> float:
    """Returns how far apart the colours of two images are where they differ most, in levels of 255.

    It is the larger of two: the difference of luma in a cell, and the length of the difference of
    (Cb, Cr) in a block of 2 x 2 cells. JPEG keeps colour at half the resolution of luma, so in a
    single cell of a small image a re-encoded copy may have changed colour by much.
    """
    return float(colour_distances(a, np.frombuffer(b, np.uint8)[None])[0])


def colour_distances(colour: bytes, rows: np.ndarray) -> np.ndarray:
    """Returns the `colour_distance` of one image to each of many: [n] float64 of [n, 192] uint8."""
    difference = rows.astype(np.int64) - np.frombuffer(colour, np.uint8)
    ycc = difference.reshape(-1, _GRID, _GRID, 3) @ YCC
    luma = np.abs(ycc[..., 0]).max(axis=(1, 2))
    half = _GRID // 2
    chroma = ycc[..., 1:].reshape(-1, half, 2, half, 2, 2).sum(axis=(2, 4))
    chroma = np.sqrt(np.square(chroma).sum(axis=-1).max(axis=(1, 2))) / 4
    return np.maximum(luma, chroma) / 1000


def colour_limit(
    num_pixels: np.ndarray | int, max_colour_distance: float = MAX_COLOUR_DISTANCE
) -> np.ndarray:
    """Returns up to what colour distance, in levels, two images count as copies of each other.

    A cell of a large image averages the noise of re-encoding away, so the limit falls with the
    size: for JPEG quality 50 by about the cube root of the pixels, measured from 32 x 32 to
    256 x 256. It is 2.5 times the maximum for 16 x 16 or less, 0.4 times for 256 x 256 or more.
    `num_pixels`, a number or an array, is width times height of the smaller of the two;
    `max_colour_distance` is the limit at 64 x 64, in levels.
    """
    factor = np.cbrt(REFERENCE_PIXELS / np.maximum(1, num_pixels))
    return max_colour_distance * np.clip(factor, 0.4, 2.5)


def is_near(
    phash_a: int,
    colours_a: bytes,
    phash_b: int,
    colours_b: bytes,
    max_distance: int = MAX_DISTANCE,
    max_colour_distance: float = MAX_COLOUR_DISTANCE,
) -> bool:
    """Returns whether two images are near-equal: in their hashes and in their colours.

    Whose sizes are known should give `colour_limit` of the smaller as `max_colour_distance`.
    """
    near = distance(phash_a, phash_b) <= max_distance
    return near and colour_distance(colours_a, colours_b) <= max_colour_distance


def band_keys(phash: _Hash) -> tuple[_Hash, ...]:
    """Returns 15 keys of which hashes that differ in at most MAX_DISTANCE bits share at least one.

    The hash is cut into 6 blocks, and each 2 of them make a key of 21 or 22 bits: 4 bits that
    differ are in at most 4 blocks, and the other 2 are equal. Hashes that differ in more bits may
    share a key too. Keys are under 2**26; those of different blocks never meet. Of an array of
    uint64 each key is an array.

    Source: Manku, Jain, Das Sarma, "Detecting Near-Duplicates for Web Crawling", 2007, section 3.
    """
    edges = itertools.pairwise(_EDGES)
    blocks = [(phash >> low) & ((1 << (high - low)) - 1) for low, high in edges]
    pairs = enumerate(_KEY_BLOCKS)
    return tuple((band << 22) | (blocks[i] << 11) | blocks[j] for band, (i, j) in pairs)


def separate_bands() -> tuple[int, ...]:
    """Returns numbers of `band_keys` that have no block in common: one error spoils one of them."""
    return tuple(_KEY_BLOCKS.index((block, block + 1)) for block in range(0, 6, 2))


@dataclasses.dataclass(frozen=True, slots=True)
class Match:
    """A near-equal image of an index: its key, and its distances in bits and in levels."""

    key: str
    distance: int
    colour_distance: float


class NearIndex:
    """Finds the near-equal images of a set held in memory, about 500 bytes an image.

    A query compares with all of them, about a millisecond for a million: for evaluation sets that
    is less than a table of band keys costs.
    """

    def __init__(
        self, max_distance: int = MAX_DISTANCE, max_colour_distance: float = MAX_COLOUR_DISTANCE
    ) -> None:
        """Takes the limits: bits, and levels as of `colour_limit`."""
        self._max_distance, self._max_colour_distance = max_distance, max_colour_distance
        self.images: list[tuple[str, int, bytes, int]] = []  # key, hash, colours, number of pixels
        self._columns: tuple[np.ndarray, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def add(self, key: str, phash: int, colour: bytes, num_pixels: int = REFERENCE_PIXELS) -> None:
        """Adds an image; ValueError: `colour` has not `NUM_COLOURS` bytes."""
        if len(colour) != NUM_COLOURS:
            raise ValueError(f"{len(colour)} bytes of colours; they must be {NUM_COLOURS}.")
        self.images.append((key, phash, colour, num_pixels))
        self._columns = ()

    def query(self, phash: int, colour: bytes, num_pixels: int = REFERENCE_PIXELS) -> Match | None:
        """Returns the nearest of the near-equal images, the first added of equals, or None."""
        if not self.images:
            return None
        if not self._columns:
            _, hashes, colours, counts = zip(*self.images, strict=True)
            table = np.frombuffer(b"".join(colours), np.uint8).reshape(-1, NUM_COLOURS)
            self._columns = np.array(hashes, np.uint64), table, np.array(counts, np.int64)
        phashes, rows, sizes = self._columns
        bits = distances(phash, phashes)
        near = np.flatnonzero(bits <= self._max_distance)
        levels = colour_distances(colour, rows[near])
        smaller = np.minimum(num_pixels, sizes[near])
        within = levels <= colour_limit(smaller, self._max_colour_distance)
        near, levels = near[within], levels[within]
        if not len(near):
            return None
        best = np.lexsort((levels, bits[near]))[0]
        index = near[best]
        return Match(self.images[index][0], int(bits[index]), float(levels[best]))
