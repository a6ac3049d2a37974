# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import io
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from parti.data.images import image_hashes, images
from parti.data.scenes import scenes


@pytest.fixture
def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return coarse.repeat(20, axis=0).repeat(16, axis=1)


def test_a_fingerprint_is_the_hash_and_the_colours(picture: np.ndarray) -> None:
    phash, colours = image_hashes.fingerprint(picture)
    assert 0 < phash < 1 << 64 and len(colours) == image_hashes.NUM_COLOURS


def test_flat_pictures_hash_to_zero_and_differ_in_colour() -> None:
    grey, red = np.full((40, 50, 3), 128, np.uint8), np.full((40, 50, 3), (255, 0, 0), np.uint8)
    assert image_hashes.fingerprint(grey)[0] == image_hashes.fingerprint(red)[0] == 0
    assert image_hashes.fingerprint(red)[1] == bytes([255, 0, 0]) * 64
    a, b = image_hashes.fingerprint(grey)[1], image_hashes.fingerprint(red)[1]
    # RGB 127, -128, -128: luma -51.755; Cb -43.095, Cr 127.5.
    assert image_hashes.colour_distance(a, b) == pytest.approx(np.hypot(43.095, 127.5))
    assert not image_hashes.is_near(0, a, 0, b)


def test_colour_distance_is_the_largest_of_luma_and_of_blurred_chroma() -> None:
    def grid(*pixels: tuple[int, int, tuple[int, int, int]]) -> bytes:
        cells = np.full((8, 8, 3), 100, np.uint8)
        for row, column, colour in pixels:
            cells[row, column] = colour
        return cells.tobytes()

    base = grid()
    assert image_hashes.colour_distance(base, base) == 0.0
    # One cell lighter by 10 counts whole, however many cells are lighter by less.
    lighter = grid((3, 3, (110, 110, 110)), (5, 5, (104, 104, 104)))
    assert image_hashes.colour_distance(base, lighter) == pytest.approx(10.0)
    # Blue by 40 in one cell: luma 4.56; Cb 20, Cr -3.24, over four cells.
    bluer = grid((0, 0, (100, 100, 140)))
    assert image_hashes.colour_distance(base, bluer) == pytest.approx(np.hypot(20, 3.24) / 4)
    # The cells of two blocks do not add up, those of one do.
    two = (100, 100, 140)
    assert image_hashes.colour_distance(base, grid((0, 0, two), (0, 2, two))) < 5.1
    assert image_hashes.colour_distance(base, grid((0, 0, two), (0, 1, two))) > 10.0


def test_colour_limit_falls_with_the_size() -> None:
    limits = image_hashes.colour_limit(np.array([1, 32**2, 64**2, 256**2, 10**7]), 10.0)
    assert limits.tolist() == pytest.approx([25.0, 15.874, 10.0, 4.0, 4.0], abs=1e-3)
    assert image_hashes.colour_limit(64 * 64) == image_hashes.MAX_COLOUR_DISTANCE


def test_colours_are_means_of_cells() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:8, 8:16, 1] = 200  # the second cell of the first row
    image[60:, 56:, 2] = 100  # half of the last cell
    grid = np.frombuffer(image_hashes.fingerprint(image)[1], np.uint8).reshape(8, 8, 3)
    assert grid[0, 1].tolist() == [0, 200, 0] and grid[7, 7].tolist() == [0, 0, 50]
    assert int(grid.sum()) == 250


def test_hash_bits_are_coefficients_by_hand() -> None:
    # A half-cosine down the picture is the lowest vertical frequency; (0, 1) comes before (1, 0).
    wave = np.rint(128 + 100 * np.cos(np.pi * (np.arange(32) + 0.5) / 32)).astype(np.uint8)
    image = np.broadcast_to(wave[:, None, None], (32, 32, 3))
    assert image_hashes.fingerprint(image)[0] == 1 << 62
    assert image_hashes.fingerprint(image.swapaxes(0, 1))[0] == 1 << 63
    assert image_hashes.fingerprint(image[::-1])[0] == 0


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
    near = image_hashes.distances(7, phashes) <= 5
    near &= image_hashes.colour_distances(one, rows) <= 22.0
    expected = [
        image_hashes.is_near(7, one, int(p), row.tobytes(), 5, 22.0)
        for p, row in zip(phashes, rows, strict=True)
    ]
    assert near.tolist() == expected and near[4] and not near.all()
    assert image_hashes.distances(7, phashes).tolist() == list(range(9))


def test_index_is_stricter_with_large_pictures() -> None:
    index = image_hashes.NearIndex(max_colour_distance=10.0)
    index.add("large", 0, bytes([100] * 192), num_pixels=10**6)
    other = bytes([106] * 192)
    assert index.query(0, other, num_pixels=10**6) is None
    assert index.query(0, other, num_pixels=64 * 64) == image_hashes.Match("large", 0, 6.0)


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


def copies(image: np.ndarray) -> Iterator[np.ndarray]:
    """Yields an image at JPEG quality 50, and at half its size."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=50)
    yield images.decode_image(buffer.getvalue())
    yield images.resize(image, (image.shape[0] // 2, image.shape[1] // 2))


def test_copies_of_scenes_are_near_and_others_are_not() -> None:
    pictures = [image for _, _, image, _ in scenes.generate("train", 60, 0, 64)]
    prints = [image_hashes.fingerprint(image) for image in pictures]
    found = []
    for image, (phash, colours) in zip(pictures, prints, strict=True):
        for copy in copies(image):
            limit = float(image_hashes.colour_limit(copy.shape[0] * copy.shape[1]))
            other = image_hashes.fingerprint(copy)
            found.append(image_hashes.is_near(phash, colours, *other, max_colour_distance=limit))
            assert set(image_hashes.band_keys(phash)) & set(image_hashes.band_keys(other[0]))
    assert sum(found) >= len(found) - 1
    pairs = itertools.combinations(prints, 2)
    assert not any(image_hashes.is_near(*a, *b) for a, b in pairs)


def test_variants_that_differ_in_a_colour_are_not_near() -> None:
    image = np.full((256, 256, 3), 255, np.uint8)
    image[64:192, 64:192] = (224, 172, 105)
    other = image.copy()
    other[64:192, 64:192] = (198, 134, 66)  # the next darker skin
    a, b = image_hashes.fingerprint(image), image_hashes.fingerprint(other)
    assert a[0] == b[0] and not image_hashes.is_near(*a, *b)


@pytest.mark.parametrize("size", [(512, 700), (1025, 1027), (513, 3000)])
def test_large_pictures_keep_their_fingerprint(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8))
    image = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))
    a = image_hashes.fingerprint(image)
    b = image_hashes.fingerprint(images.resize(image, 256))
    assert image_hashes.distance(a[0], b[0]) <= 1
    assert image_hashes.colour_distance(a[1], b[1]) < 2.5
