# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from parti.data.images import crops, images


def ramp(height: int, width: int) -> np.ndarray:
    """Returns a picture whose red is the column and whose green is the row."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(width), np.arange(height)[:, None]
    return image


def test_centre_is_the_middle_square() -> None:
    fitted = crops.fit(ramp(100, 200), 50)
    np.testing.assert_array_equal(fitted, images.resize(ramp(100, 200)[:, 50:150], 50))


def test_random_depends_on_key_and_seed_only() -> None:
    image = ramp(100, 200)
    a = crops.fit(image, 64, "random", "a")
    np.testing.assert_array_equal(a, crops.fit(image.copy(), 64, "random", "a"))
    assert (a != crops.fit(image, 64, "random", "b")).any()
    assert (a != crops.fit(image, 64, "random", "a", seed=1)).any()


def test_random_stays_within_the_listing() -> None:
    # Side 72 and over: resized to at most 72, cropped to 64 anywhere; square at 3/8 to 5/8.
    image = ramp(100, 180)  # slack 80: the square begins in columns 30 to 50
    lefts, rights = [], []
    for index in range(300):
        fitted = crops.fit(image, 64, "random", str(index))
        assert fitted.shape == (64, 64, 3)
        left, right = int(fitted[0, 0, 0]), int(fitted[0, -1, 0])
        assert left >= 30 and right <= 150
        lefts.append(left)
        rights.append(right - left)
    assert min(lefts) <= 33 and max(lefts) >= 55
    # 63/64 of the square when it is resized to 64, 63/72 of it when resized to 72.
    assert min(rights) in (87, 88) and max(rights) in (98, 99)


def test_random_of_a_small_picture_is_all_of_it() -> None:
    image = ramp(40, 40)
    np.testing.assert_array_equal(crops.fit(image, 40, "random", "a"), image)
    assert crops.fit(image, 64, "random", "a").shape == (64, 64, 3)


def test_unknown_policy() -> None:
    with pytest.raises(ValueError, match="centre, random"):
        crops.fit(ramp(4, 4), 2, "center")


def test_random_draws_the_ranges_of_the_listing() -> None:
    drawn = [crops.RandomCrop.draw(400, 256, str(index)) for index in range(2000)]
    offsets = [crop.offset for crop in drawn]
    assert 0.375 <= min(offsets) < 0.38 and 0.62 < max(offsets) <= 0.625
    sides = [crop.side for crop in drawn]
    assert set(sides) == set(range(256, 289))
    assert max(sides.count(side) for side in set(sides)) < 110  # 61 +- 8 each
    for name in ("top", "left"):
        starts = [getattr(crop, name) for crop in drawn]
        assert min(starts) == 0 and max(starts) == 32
        assert all(start <= crop.side - 256 for start, crop in zip(starts, drawn, strict=True))
    assert {crops.RandomCrop.draw(270, 256, str(i)).side for i in range(400)} == set(
        range(256, 271)
    )
    small = crops.RandomCrop.draw(100, 256, "a")
    assert (small.side, small.top, small.left) == (256, 0, 0)


def test_a_crop_in_full_lies_over_the_crop() -> None:
    # A smooth picture, so that a shift by a fraction of a pixel shows as a difference of colours.
    image = ramp(240, 255)
    for index in range(40):
        crop = crops.RandomCrop.draw(240, 64, str(index))
        full = crop.cut_in_full(image)
        side = 240 * 64 / crop.side
        assert full.shape == (round(side), round(side), 3)
        small = images.resize(full, 64).astype(int)
        # Half a pixel of the crop is 1.8 levels; rounding three times is less.
        assert np.abs(small - crop.cut(image)).max() <= 1


def test_a_crop_in_full_of_a_small_picture_is_its_square() -> None:
    crop = crops.RandomCrop.draw(20, 64, "a")
    image = ramp(20, 30)
    np.testing.assert_array_equal(crop.cut_in_full(image), images.square_crop(image, crop.offset))
