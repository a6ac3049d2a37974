# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A sketch knows an image's frame, and its views have the hashes of the images that they show."""

import numpy as np
import pytest

from parti.data.images import image_hashes, image_sketches
from parti.data.scenes import scenes


@pytest.fixture(scope="module")
def drawing() -> np.ndarray:
    return next(scenes.generate("train", 1, seed=3, size=64))[2]


def test_frames() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8)
    plain = image_sketches.sketch(noise)
    assert not image_sketches.has_frame(plain)
    assert image_sketches.frame(plain) == (0, 0, 1, 1)
    framed = image_sketches.sketch(np.pad(noise, ((3, 7), (10, 0), (0, 0)), constant_values=90))
    assert image_sketches.has_frame(framed) and image_sketches.size(framed) == (50, 60)
    np.testing.assert_allclose(image_sketches.frame(framed), (0.2, 0.05, 1, 53 / 60), atol=1e-4)
    whole, inner = image_sketches.thumbnails(framed)
    np.testing.assert_array_equal(inner, image_hashes.thumbnail(noise))
    assert not np.array_equal(whole, inner)
    assert len(plain) < len(framed) == image_sketches.MAX_BYTES


def test_a_known_thumbnail_makes_the_same_sketch(drawing: np.ndarray) -> None:
    small = image_hashes.thumbnail(drawing)
    assert image_sketches.sketch(drawing, small) == image_sketches.sketch(drawing)
    assert image_hashes.fingerprint(drawing, small) == image_hashes.fingerprint(drawing)


def test_the_median_of_a_line_is_numpys() -> None:
    rng = np.random.default_rng(0)
    for length in range(1, 9):
        line = rng.integers(0, 256, (length, 3)).astype(np.uint8)
        expected = np.median(line, axis=0).astype(np.int16)
        np.testing.assert_array_equal(image_sketches._median(line), expected)


def test_hashes_of_views(drawing: np.ndarray) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    for image in (noise, drawing):
        hashes = image_sketches.hashes(image_sketches.sketch(image))
        phash, _ = image_hashes.fingerprint(image)
        assert (int(hashes[image_sketches.WHOLE]) ^ phash).bit_count() <= 1  # luma is rounded
        mirror = np.ascontiguousarray(image[:, ::-1])
        mirrored = image_sketches.hashes(image_sketches.sketch(mirror))
        assert mirrored[image_sketches.MIRROR] == hashes[image_sketches.WHOLE]
        assert mirrored[image_sketches.WHOLE] == hashes[image_sketches.MIRROR]
    framed = image_sketches.hashes(image_sketches.sketch(np.pad(noise, ((4, 4), (4, 4), (0, 0)))))
    assert framed[image_sketches.BOX] == image_sketches.hashes(image_sketches.sketch(noise))[0]
    assert framed[image_sketches.BOX] != framed[image_sketches.WHOLE]
