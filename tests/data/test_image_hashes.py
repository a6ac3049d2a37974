# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest

from parti.data import image_hashes


@pytest.fixture
def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return coarse.repeat(20, axis=0).repeat(16, axis=1)


def test_a_fingerprint_is_the_hash_and_the_colours(picture: np.ndarray) -> None:
    phash, colours = image_hashes.fingerprint(picture)
    assert phash == image_hashes.perceptual_hash(picture) and 0 < phash < 1 << 64
    assert colours == image_hashes.colours(picture) and len(colours) == image_hashes.NUM_COLOURS


def test_flat_pictures_hash_to_zero_and_differ_in_colour() -> None:
    grey, red = np.full((40, 50, 3), 128, np.uint8), np.full((40, 50, 3), (255, 0, 0), np.uint8)
    assert image_hashes.perceptual_hash(grey) == image_hashes.perceptual_hash(red) == 0
    assert image_hashes.colours(red) == bytes([255, 0, 0]) * 64
    a, b = image_hashes.colours(grey), image_hashes.colours(red)
    # 127, -128 and -128 levels.
    assert image_hashes.colour_distance(a, b) == pytest.approx(127.67, abs=0.01)
    assert not image_hashes.is_near(0, a, 0, b)


def test_colours_are_means_of_cells() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:8, 8:16, 1] = 200  # the second cell of the first row
    image[60:, 56:, 2] = 100  # half of the last cell
    grid = np.frombuffer(image_hashes.colours(image), np.uint8).reshape(8, 8, 3)
    assert grid[0, 1].tolist() == [0, 200, 0] and grid[7, 7].tolist() == [0, 0, 50]
    assert int(grid.sum()) == 250


def test_hash_bits_are_coefficients_by_hand() -> None:
    # A half-cosine down the picture is the lowest vertical frequency; (0, 1) comes before (1, 0).
    wave = np.rint(128 + 100 * np.cos(np.pi * (np.arange(32) + 0.5) / 32)).astype(np.uint8)
    image = np.broadcast_to(wave[:, None, None], (32, 32, 3))
    assert image_hashes.perceptual_hash(image) == 1 << 62
    assert image_hashes.perceptual_hash(image.swapaxes(0, 1)) == 1 << 63
    assert image_hashes.perceptual_hash(image[::-1]) == 0


def flip(phash: int, bits: tuple[int, ...]) -> int:
    for bit in bits:
        phash ^= 1 << bit
    return phash


def test_band_keys_meet_for_all_near_hashes() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        phash = int(rng.integers(0, 1 << 64, dtype=np.uint64))
        bits = tuple(rng.choice(64, image_hashes.MAX_DISTANCE, replace=False).tolist())
        a, b = image_hashes.band_keys(phash), image_hashes.band_keys(flip(phash, bits))
        assert len(set(a)) == image_hashes.NUM_BANDS and max(a) < 1 << 26
        assert set(a) & set(b)
    # The worst case: one wrong bit in each of 4 blocks, whichever they are.
    for blocks in itertools.combinations(range(6), 4):
        other = flip(0, tuple(11 * block for block in blocks))
        assert set(image_hashes.band_keys(0)) & set(image_hashes.band_keys(other))


def test_band_keys_rarely_meet_for_others() -> None:
    rng = np.random.default_rng(2)
    hashes = rng.integers(0, 1 << 64, 300, dtype=np.uint64).tolist()
    keys = [set(image_hashes.band_keys(h)) for h in hashes]
    assert sum(bool(a & b) for a, b in itertools.combinations(keys, 2)) < 5


def test_many_at_once_equal_one_by_one() -> None:
    rng = np.random.default_rng(3)
    phashes = np.array([flip(7, tuple(range(n))) for n in range(9)], np.uint64)
    rows = rng.integers(90, 130, (9, 192)).astype(np.uint8)
    one = rows[4].tobytes()
    near = image_hashes.are_near(7, one, phashes, rows, 5, 22.0)
    expected = [
        image_hashes.is_near(7, one, int(p), row.tobytes(), 5, 22.0)
        for p, row in zip(phashes, rows, strict=True)
    ]
    assert near.tolist() == expected and near[4] and not near.all()
    assert image_hashes.distances(7, phashes).tolist() == list(range(9))


def test_index_gives_the_nearest() -> None:
    index = image_hashes.NearIndex(max_distance=4, max_colour_distance=10.0)
    grey, dark = bytes([100] * 192), bytes([50] * 192)
    assert index.query(0, grey) is None
    index.add("far", 0b111111, grey)
    index.add("three", 0b111, grey)
    assert index.query(0, grey) == image_hashes.Match("three", 3, 0.0)
    index.add("other colour", 0, dark)
    index.add("one", 0b1, bytes([104] * 192))
    index.add("one again", 0b10, bytes([104] * 192))
    assert index.query(0, grey) == image_hashes.Match("one", 1, 4.0)
    assert index.query(0, bytes([200] * 192)) is None
    assert len(index) == 5
    with pytest.raises(ValueError, match="192"):
        index.add("short", 0, b"abc")


def test_pixel_hash_is_of_shape_and_pixels(picture: np.ndarray) -> None:
    expected = image_hashes.pixel_hash(picture)
    assert len(expected) == 16
    assert image_hashes.pixel_hash(np.asfortranarray(picture)) == expected
    changed = picture.copy()
    changed[-1, -1, -1] ^= 1
    other_shape = picture.reshape(picture.shape[1], picture.shape[0], 3)
    assert expected not in (image_hashes.pixel_hash(changed), image_hashes.pixel_hash(other_shape))
