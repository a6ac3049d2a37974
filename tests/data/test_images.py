# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import io

import numpy as np
import pytest
from PIL import Image

from parti.data import images


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (23, 37, 3)).astype(np.uint8)


def test_png_is_lossless_and_repeatable(noise: np.ndarray) -> None:
    data = images.encode_png(noise)
    np.testing.assert_array_equal(images.decode_image(data), noise)
    assert data == images.encode_png(np.asfortranarray(noise))


def test_all_values_survive_the_conversion() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    floats = images.to_float(values)
    assert floats.dtype == np.float32 and floats.min() == -1.0 and floats.max() == 1.0
    np.testing.assert_array_equal(images.to_uint8(floats), values)
    assert images.to_uint8(np.array([-7.0, 0.0, 7.0])).tolist() == [0, 128, 255]


def test_conversion_refuses_wrong_values() -> None:
    with pytest.raises(ValueError, match="NaN"):
        images.to_uint8(np.array([np.nan]))
    with pytest.raises(ValueError, match="floating point"):
        images.to_uint8(np.array([1]))
    with pytest.raises(ValueError, match="uint8"):
        images.to_float(np.array([1.0]))


def test_modes_become_rgb() -> None:
    grey = Image.new("L", (2, 2), 100)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    clear = palette.copy()
    clear.info["transparency"] = 1
    deep = Image.fromarray(np.full((2, 2), 200 * 257, np.uint16))
    cases = {
        (100, 100, 100): [encode(grey), encode(grey, "BMP"), encode(grey.convert("LA"))],
        (10, 20, 30): [encode(palette), encode(palette, "GIF")],
        (255, 255, 255): [
            encode(clear, transparency=1),
            encode(Image.new("RGBA", (2, 2), (9, 9, 9, 0))),
            encode(Image.new("1", (2, 2), 1)),
        ],
        (200, 200, 200): [encode(deep), encode(deep, "TIFF")],
        (255, 128, 128): [encode(Image.new("RGBA", (2, 2), (255, 0, 0, 127)))],
    }
    for colour, files in cases.items():
        for data in files:
            pixels = images.decode_image(data)
            assert pixels.shape == (2, 2, 3) and pixels.dtype == np.uint8
            assert np.abs(pixels.astype(int) - colour).max() <= 1, (colour, data[:8])


def test_cmyk_jpeg() -> None:
    data = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    red, green, blue = images.decode_image(data)[8, 8]
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    # As Pillow's own transpose, which this must agree with.
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0], pixels[0, 5], pixels[3, 0] = 255, (255, 0, 0), (0, 255, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(pixels), exif=exif)
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(images.decode_image(data), expected)


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    for kind in ("GIF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(images.decode_image(data)[0, 0], [255, 0, 0])


def test_broken_files_are_not_images(noise: np.ndarray) -> None:
    good = images.encode_png(noise)
    jpeg = encode(Image.fromarray(noise), "JPEG")
    eps = encode(Image.fromarray(noise), "EPS")
    for data in (b"", b"text", good[: len(good) // 2], jpeg[: len(jpeg) // 2], good[:20], eps):
        with pytest.raises(ValueError, match="^not an image"):
            images.decode_image(data)


def test_bombs_are_refused_before_decoding(noise: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not an image .* over the limit of 850 pixels"):
        images.decode_image(images.encode_png(noise), max_pixels=850)
    images.decode_image(images.encode_png(noise), max_pixels=851)
    huge = images.encode_png(np.zeros((8, 8, 3), np.uint8)).replace(
        (8).to_bytes(4, "big") * 2, (60_000).to_bytes(4, "big") * 2
    )
    with pytest.raises(ValueError, match="^not an image"):
        images.decode_image(huge)


def test_area_resize_by_hand() -> None:
    row = np.array([[[0] * 3, [90] * 3, [240] * 3]], np.uint8)
    # The middle pixel counts half in both: (0 + 45) / 1.5 and (45 + 240) / 1.5.
    assert images.resize(row, (1, 2))[0, :, 0].tolist() == [30, 190]
    assert images.resize(row, (1, 1))[0, 0, 0] == 110


@pytest.mark.parametrize("size", [(23, 20), (7, 11), (11, 37), (1, 1), (22, 36)])
def test_area_resize_equals_tensorflow(noise: np.ndarray, size: tuple[int, int]) -> None:
    import tensorflow as tf

    expected = tf.image.resize(noise, size, method="area").numpy()
    assert np.abs(images.resize(noise, size) - expected).max() <= 0.51


def test_growing_and_staying(noise: np.ndarray) -> None:
    assert images.resize(noise, (46, 20)).shape == (46, 20, 3)
    np.testing.assert_array_equal(images.resize(noise, (23, 37)), noise)
    flat = np.full((3, 3, 3), 77, np.uint8)
    np.testing.assert_array_equal(images.resize(flat, 8), np.full((8, 8, 3), 77, np.uint8))
    with pytest.raises(ValueError, match="at least 1 x 1"):
        images.resize(noise, 0)
    with pytest.raises(ValueError, match=r"\[height, width, 3\] uint8"):
        images.resize(noise.astype(np.float32), 4)


def test_square_crop() -> None:
    wide = np.arange(2 * 5).reshape(2, 5, 1)
    assert images.square_crop(wide, 0.0)[0, :, 0].tolist() == [0, 1]
    assert images.square_crop(wide, 1.0)[0, :, 0].tolist() == [3, 4]
    assert images.square_crop(wide.swapaxes(0, 1))[:, 0, 0].tolist() == [2, 3]
    with pytest.raises(ValueError, match="offset"):
        images.square_crop(wide, 1.5)


def test_psnr() -> None:
    a = np.zeros((2, 2, 3), np.uint8)
    assert images.psnr(a, a) == float("inf")
    assert images.psnr(a, a + 255) == pytest.approx(0.0)
    assert images.psnr(a, a + 16) == pytest.approx(20 * np.log10(255 / 16))
    with pytest.raises(ValueError, match="one shape"):
        images.psnr(a, a[:1])
