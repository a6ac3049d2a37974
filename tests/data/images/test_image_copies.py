# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Changed copies are found, and drawings that differ a little are not taken for them."""

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from parti.data.images import image_copies, image_sketches, images, near_hashes
from parti.data.scenes import scenes


def photograph(seed: int, side: int = 160) -> np.ndarray:
    """Returns a made-up picture whose spectrum falls as that of photographs does."""
    noise = np.random.default_rng(seed).standard_normal((side, side, 3))
    rows = np.fft.fftfreq(side)[:, None, None] * side
    columns = np.fft.rfftfreq(side)[None, :, None] * side
    spectrum = np.fft.rfft2(noise, axes=(0, 1)) / np.maximum(1, np.hypot(rows, columns)) ** 1.2
    values = np.fft.irfft2(spectrum, s=(side, side), axes=(0, 1))
    return np.clip(120 + 50 * values / values.std(), 0, 255).astype(np.uint8)


def drawings(num: int) -> list[np.ndarray]:
    return [image for _, _, image, _ in scenes.generate("train", num, seed=3, size=64)]


def jpeg(image: np.ndarray, quality: int = 75) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return images.decode_image(buffer.getvalue())


def crop(image: np.ndarray, left: float = 0.05, top: float = 0.05) -> np.ndarray:
    height, width = image.shape[:2]
    y, x = round(top * height), round(left * width)
    return np.ascontiguousarray(image[y : y + round(0.9 * height), x : x + round(0.9 * width)])


def border(image: np.ndarray, level: int, rows: float = 0.05, columns: float = 0.05) -> np.ndarray:
    y, x = round(rows * image.shape[0]), round(columns * image.shape[1])
    return np.pad(image, ((y, y), (x, x), (0, 0)), constant_values=level)


def caption(image: np.ndarray, is_above: bool = False) -> np.ndarray:
    image = image.copy()
    height = image.shape[0]
    strip = slice(0, round(0.15 * height)) if is_above else slice(round(0.85 * height), height)
    image[strip] = 0
    image[strip][2:-2, 4:-4:3] = 255
    return image


def resized(image: np.ndarray) -> np.ndarray:
    return images.resize(crop(image), image.shape[:2])


# Change -> how it is called, of what share it is found at least, the copy.
CHANGES: dict[str, tuple[str, float, Callable[[np.ndarray], np.ndarray]]] = {
    "mirrored": ("mirrored", 0.99, lambda image: np.ascontiguousarray(image[:, ::-1])),
    "mirrored, JPEG": ("mirrored", 0.95, lambda image: jpeg(image[:, ::-1])),
    "black border": ("bordered", 0.95, lambda image: border(image, 0)),
    "white border": ("bordered", 0.95, lambda image: border(image, 255)),
    "border, JPEG": ("bordered", 0.85, lambda image: jpeg(border(image, 255))),
    "letterbox": ("bordered", 0.9, lambda image: border(image, 0, columns=0)),
    "caption below": ("overlaid", 0.95, caption),
    "caption above": ("overlaid", 0.95, lambda image: caption(image, is_above=True)),
    "crop": ("cropped", 0.9, crop),
    "crop of a corner": ("cropped", 0.8, lambda image: crop(image, 0.02, 0.08)),
}


def compare(a: np.ndarray, b: np.ndarray) -> image_copies.Found | None:
    one, other = image_sketches.sketch(a), image_sketches.sketch(b)
    hashes = near_hashes.Rows(image_sketches.hashes(other)[None])
    return image_copies.compare(one, image_sketches.hashes(one), [other], hashes).get(0)


@pytest.mark.parametrize("kind", ["drawings", "photographs"])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_both_ways(kind: str, change: str) -> None:
    name, share, function = CHANGES[change]
    originals = drawings(40) if kind == "drawings" else [photograph(i) for i in range(20)]
    for swapped in (False, True):
        found = []
        for image in originals:
            pair = (image, function(image)) if swapped else (function(image), image)
            found.append(compare(*pair))
        assert sum(copy is not None for copy in found) >= share * len(originals)
        # A picture with a border is one that is cropped, seen from the other side.
        called = [copy.change for copy in found if copy]
        names = {name} if name in ("mirrored", "overlaid") else {"bordered", "cropped"}
        assert sum(change in names for change in called) >= 0.9 * len(called)


def test_different_pictures_are_not_copies() -> None:
    pictures = drawings(150) + [photograph(i) for i in range(30)]
    sketches = [image_sketches.sketch(image) for image in pictures]
    hashes = np.stack([image_sketches.hashes(data) for data in sketches])
    for i, data in enumerate(sketches):
        found = image_copies.compare(data, hashes[i], sketches, near_hashes.Rows(hashes))
        assert not found.keys() - {i}


def variants() -> list[np.ndarray]:
    """Returns drawings of one series: the same figure in another colour, or with another part."""
    found = []
    for skin, shirt, hat, mouth in itertools.product(
        [(250, 200, 160), (200, 140, 100), (120, 80, 50)], [40, 160], [False, True], [6, 20]
    ):
        image = np.full((128, 128, 3), 255, np.uint8)
        rows, columns = np.mgrid[:128, :128]
        image[np.hypot(rows - 52, columns - 60) < 34] = skin
        image[(rows > 92) & (np.abs(columns - 60) < 48)] = (30, shirt, 120)
        image[60:68, 60 - mouth : 60 + mouth] = 20
        if hat:
            image[10:26, 30:90] = (180, 30, 30)
        found.append(image)
    return found


def test_drawings_of_a_series_are_not_copies() -> None:
    for a, b in itertools.combinations(variants(), 2):
        assert compare(a, b) is None
        assert compare(np.ascontiguousarray(a[:, ::-1]), b) is None
        assert compare(crop(a), b) is None
    for image in variants():
        assert compare(crop(image), image) and compare(caption(image), image)
        assert compare(np.ascontiguousarray(image[:, ::-1]), image)


def test_size_and_position_are_not_a_border_or_a_crop() -> None:
    """One square on white, large or small, here or there, is another drawing each time."""
    shapes = []
    for left, top, side in [(20, 20, 60), (30, 24, 60), (20, 20, 44), (40, 40, 44), (50, 26, 30)]:
        image = np.full((128, 128, 3), 255, np.uint8)
        image[top : top + side, left : left + side] = (200, 30, 30)
        image[top + 6 : top + side // 2, left + 6 : left + side // 3] = (30, 30, 200)
        shapes.append(image)
    for a, b in itertools.combinations(shapes, 2):
        assert compare(a, b) is None
    for image in shapes:  # but a border of the colour of the background is one
        found = compare(border(image, 255), image)
        assert found and found.change == "bordered"


def test_straight_edges_are_not_crops_of_each_other() -> None:
    rows, columns = np.mgrid[:128, :128]
    stripes = []
    for offset in (0, 3, 5):
        image = np.zeros((128, 128, 3), np.uint8)
        image[rows + columns > 120 + offset] = (200, 120, 60)
        stripes.append(image)
    for a, b in itertools.permutations(stripes, 2):
        found = compare(a, b)
        assert found is None or found.change != "cropped"


def test_flat_and_tiny_pictures() -> None:
    flat = [np.full((20, 30, 3), level, np.uint8) for level in (0, 128, 255)]
    tiny = [np.random.default_rng(i).integers(0, 256, (1, 1, 3)).astype(np.uint8) for i in range(3)]
    for a, b in itertools.combinations(flat + tiny, 2):
        assert compare(a, b) is None


def test_index_names_the_best() -> None:
    index = image_copies.CopyIndex()
    originals = drawings(30)
    assert index.query(image_sketches.sketch(originals[0])) is None
    for i, image in enumerate(originals):
        index.add(f"scene {i}", image_sketches.sketch(image))
    for i, image in enumerate(originals):
        found = index.query(image_sketches.sketch(border(image, 0)))
        assert found and found[0] == f"scene {i}"
    for image in scenes.generate("train", 20, seed=4, size=64):
        assert index.query(image_sketches.sketch(image[2])) is None


def test_faint_mirrored_copies_may_have_the_noise_of_jpeg() -> None:
    found = []
    for seed in range(20):
        image = photograph(seed)
        faint = (128 + (image.astype(float) - 120) * 0.08).astype(np.uint8)
        found.append(compare(jpeg(faint[:, ::-1]), faint))
        assert (
            compare(faint, (128 + (photograph(99)[:, ::-1] - 120.0) * 0.08).astype(np.uint8))
            is None
        )
    assert sum(copy is not None and copy.change == "mirrored" for copy in found) >= 19
