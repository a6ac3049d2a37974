# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Views of thumbnails: means of cells, the box that fits, and how far colours are apart."""

import numpy as np

from parti.data.images import view_alignment

WHOLE = np.array([[0.0, 0.0, 1.0, 1.0]])


def smooth(seed: int, num: int = 1) -> np.ndarray:
    """Returns thumbnails [num, 3, 32, 32] of a few waves."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32] / 32
    waves = [np.sin(2 * np.pi * (rows * i + columns * j) + i) for i in range(3) for j in range(3)]
    return 128 + np.tensordot(rng.standard_normal((num, 3, 9)) * 20, waves, axes=(2, 0))


def test_cells_are_means() -> None:
    pixels = smooth(0, num=3)
    views = view_alignment.whole(pixels)
    np.testing.assert_allclose(views[1, 2, 3, 5], pixels[1, 2, 6:8, 10:12].mean())
    np.testing.assert_allclose(views, view_alignment.sample(pixels, WHOLE.repeat(3, axis=0)))
    half = view_alignment.sample(pixels, np.array([[0.5, 0.0, 1.0, 0.5]] * 3))
    np.testing.assert_allclose(half, pixels[:, :, :16, 16:])


def test_a_window_is_found_from_near_it() -> None:
    pixels = smooth(1, num=5)
    box = np.array([[0.03, 0.05, 0.94, 0.97]] * 5)
    target = view_alignment.sample(pixels, box)
    start = np.array([[0.05, 0.05, 0.95, 0.95]] * 5)
    found, views = view_alignment.fit(target, pixels, start)
    np.testing.assert_allclose(found, box, atol=0.002)
    np.testing.assert_array_equal(views, view_alignment.sample(pixels, found))
    one, _ = view_alignment.fit(target[:1], pixels[:1], start[:1])
    np.testing.assert_allclose(view_alignment.fit(target[:1], pixels, start)[0][0], one[0])


def test_levels() -> None:
    views = view_alignment.whole(smooth(2, num=2))
    levels, noise = view_alignment.levels(views, views)
    assert not levels.any() and not noise.any()
    other = views.copy()
    other[1, :, 4:6, 8:10] += 10  # grey: luma only
    levels, noise = view_alignment.levels(views, other)
    np.testing.assert_allclose(levels, [0, 10])
    assert 0 < noise[1] < 0.1
    flat = np.full((1, 3, 16, 16), 7.0)
    assert view_alignment.levels(flat, flat)[1] == np.inf


def test_isotropy_of_edges_and_corners() -> None:
    rows, columns = np.mgrid[:16, :16]
    views = np.zeros((2, 3, 16, 16))
    views[0] = 100 * (columns > 6)
    views[1] = 100 * ((rows > 8) & (columns > 8))
    straight, corner = view_alignment.isotropy(views)
    assert straight < 0.04 < corner
