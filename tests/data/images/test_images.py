# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from parti.data.images import images


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
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(images.decode_image(data), expected)
    assert images.read_size(data) == expected.shape[1::-1]


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
    b'"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>'
)


def tiff(compression: str) -> dict[str, Any]:
    """Returns how a picture of an orientation is saved as TIFF."""
    return {
        "kind": "TIFF",
        "options": lambda o: {"compression": compression, "tiffinfo": {274: o}},
    }


ORIENTED: dict[str, dict[str, Any]] = {
    **{f"tiff-{name}": tiff(name) for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg")},
    "tiff-exif": {"kind": "TIFF", "options": lambda o: {"exif": exif_of(o)}},
    "png": {"kind": "PNG", "options": lambda o: {"exif": exif_of(o)}},
    "jpeg": {"kind": "JPEG", "options": lambda o: {"exif": exif_of(o), "quality": 95}},
    "jpeg-xmp": {"kind": "JPEG", "options": lambda o: {"xmp": XMP % o, "quality": 95}},
    "webp": {"kind": "WEBP", "options": lambda o: {"exif": exif_of(o), "lossless": True}},
    "mpo": {
        "kind": "MPO",
        "options": lambda o: {
            "exif": exif_of(o),
            "quality": 95,
            "save_all": True,
            "append_images": [Image.new("RGB", (48, 32))],
        },
    },
    "avif": {"kind": "AVIF", "options": lambda o: {"exif": exif_of(o), "quality": 95}},
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ORIENTED)
def test_orientation_is_applied_once_in_every_format(form: str, orientation: int) -> None:
    # Green above, red on the left, blue on the right, when upright: 48 wide and 32 high.
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:, :24], upright[:, 24:], upright[:12] = (220, 20, 20), (20, 20, 220), (20, 200, 20)
    turns = Image.Transpose
    stored = Image.fromarray(upright)
    inverse = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_90,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_270,
    }
    if orientation in inverse:
        stored = stored.transpose(inverse[orientation])
    kind, options = ORIENTED[form]["kind"], ORIENTED[form]["options"](orientation)
    data = encode(stored, kind, **options)
    decoded = images.decode(data)
    assert images.read_size(data) == (48, 32) == (decoded.width, decoded.height)
    assert decoded.pixels.shape == upright.shape
    for row, column in ((4, 24), (26, 6), (26, 42)):
        difference = decoded.pixels[row, column].astype(int) - upright[row, column]
        assert np.abs(difference).max() < 40, (row, column)


def test_the_orientation_of_a_png_may_follow_its_pixels() -> None:
    chunk = b"eXIf" + exif_of(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = encode(Image.new("RGB", (6, 4)))
    data = data[:-12] + chunk + data[-12:]
    assert images.decode_image(data).shape == (6, 4, 3)
    assert images.read_size(data) == (4, 6)


def png(depth: int, colour_type: int, samples: list[int], clear: bytes = b"") -> bytes:
    """Returns a PNG of one row, with `clear` as its tRNS; its palette is one of two colours."""
    bits = "".join(format(sample, f"0{depth}b") for sample in samples)
    bits += "0" * (-len(bits) % 8)
    width = len(samples) // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    header = struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", bytes([10, 20, 30, 40, 50, 60]))]
    chunks += [(b"tRNS", clear)] if clear else []
    row = int(bits, 2).to_bytes(len(bits) // 8, "big")
    chunks += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        if name != b"PLTE" or colour_type == 3:
            checksum = struct.pack(">I", zlib.crc32(name + content))
            data += struct.pack(">I", len(content)) + name + content + checksum
    return data


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white_at_every_depth(depth: int) -> None:
    most = (1 << depth) - 1
    for clear in {0, most // 2, most}:
        data = png(depth, 0, [0, most // 2, most], struct.pack(">H", clear))
        expected = [
            255 if value == clear else round(255 * value / most) for value in (0, most // 2, most)
        ]
        assert np.abs(images.decode_image(data)[0, :, 0].astype(int) - expected).max() <= 1


def test_transparency_is_over_white_in_every_kind_of_png() -> None:
    white, colour, half = [255] * 3, [10, 20, 30], [147, 152, 157]
    deep = [257 * value for value in (10, 20, 30)]
    cases = {
        "one colour of 8 bits": (
            png(8, 2, [1, 2, 3, *colour], struct.pack(">3H", 1, 2, 3)),
            colour,
        ),
        # 1, 2, 3 in their high bytes as well, but another colour: not transparent.
        "one colour of 16 bits": (
            png(16, 2, [256, 512, 768, 257, 512, 768], struct.pack(">3H", 256, 512, 768)),
            [1, 2, 3],
        ),
        **{f"palette of {n}": (png(n, 3, [0, 1], b"\0\x80"), half) for n in (1, 2, 4, 8)},
        "one of a palette": (png(8, 3, [0, 1], b"\0\xff"), [40, 50, 60]),
        "grey and alpha": (png(8, 4, [9, 0, 77, 255]), [77] * 3),
        "deep grey and alpha": (png(16, 4, [9, 0, 77 * 257, 65535]), [77] * 3),
        "colour and alpha": (png(8, 6, [9, 9, 9, 0, *colour, 255]), colour),
        "deep colour and alpha": (png(16, 6, [9, 9, 9, 0, *deep, 65535]), colour),
    }
    for name, (data, second) in cases.items():
        assert images.decode_image(data)[0].tolist() == [white, second], name


def test_transparency_is_over_white_in_every_mode() -> None:
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putalpha(Image.frombytes("L", (2, 1), b"\0\xff"))
    files = {"PA": (palette, [10, 20, 30])}
    for mode in ("LA", "RGBA"):
        image = Image.frombytes("LA", (2, 1), bytes([9, 0, 77, 255])).convert(mode)
        files[mode] = (image, [77] * 3)
    for mode, (image, second) in files.items():
        assert image.mode == mode
        assert images.decode_image(encode(image, "TIFF"))[0].tolist() == [[255] * 3, second], mode
    for mode in ("La", "RGBa", "PA"):
        assert np.asarray(images._to_rgb(Image.new(mode, (1, 1)), b"")).tolist() == [[[255] * 3]]
    half = Image.frombytes("RGBa", (1, 1), bytes([100, 0, 0, 128]))
    red, *others = images._to_rgb(half, b"").getpixel((0, 0))
    assert abs(red - 226) <= 1 and others == [127, 127]  # 199 of red at half, over white


def test_deep_grey_of_tiff() -> None:
    data = encode(Image.fromarray(np.array([[0, 65535, 1000]], np.uint16)), "TIFF")
    assert images.decode_image(data)[0, :, 0].tolist() == [0, 255, 4]
    at = data.index(struct.pack("<HHII", 262, 3, 1, 1))
    inverted = data[:at] + struct.pack("<HHII", 262, 3, 1, 0) + data[at + 12 :]
    assert images.decode_image(inverted)[0, :, 0].tolist() == [255, 0, 251]
    # 12 bits a sample: 0x000, 0xfff, 0x800 and 0 in 6 bytes.
    at = data.index(struct.pack("<HHII", 258, 3, 1, 16))
    narrow = data[:at] + struct.pack("<HHII", 258, 3, 1, 12) + data[at + 12 :]
    pixels = struct.unpack_from("<I", narrow, narrow.index(struct.pack("<HHI", 273, 4, 1)) + 8)[0]
    packed = bytes.fromhex("000fff800000")
    narrow = narrow[:pixels] + packed + narrow[pixels + len(packed) :]
    assert images.decode_image(narrow)[0, :, 0].tolist() == [0, 255, 128]
    with pytest.raises(ValueError, match="floating-point"):
        images.decode_image(encode(Image.new("F", (2, 2)), "TIFF"))


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
    with pytest.raises(ValueError, match="^not an image"):
        images.read_size(b"text")
    for data in (b"", b"text", good[: len(good) // 2], jpeg[: len(jpeg) // 2], good[:20], eps):
        with pytest.raises(ValueError, match="^not an image"):
            images.decode_image(data)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\2\0", "Video"),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ", "JPEG 2000"),
        (b"\xff\x0a\xf9\x1f", "JPEG XL"),
        (b'\n<?xml version="1.0"?>\n<!-- a drawing -->\n<svg width="1">', "SVG"),
        (b"<svg>", "SVG"),
        (b"8BPS\0\1", "PSD"),
        (b"%PDF-1.4", "PDF"),
        (b"\0\0\1\0\1\0", "ICO"),
    ],
)
def test_formats_that_are_not_read_are_named(data: bytes, name: str) -> None:
    message = f"not an image that is read: {name}; save it as JPEG"
    for read in (images.decode_image, images.read_size):
        with pytest.raises(images.UnsupportedError, match=message):
            read(data + bytes(100))
    with pytest.raises(ValueError, match="not an image"):
        images.read_size(b"<html><svg>")


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


def test_jpeg_keeps_colours() -> None:
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0] = 255  # one pixel wide: halved colour resolution would smear them
    data = images.encode_jpeg(stripes)
    assert Image.open(io.BytesIO(data)).format == "JPEG" and data == images.encode_jpeg(stripes)
    assert np.abs(images.decode_image(data).astype(int) - stripes).max() < 40
    assert len(images.encode_jpeg(stripes, 30)) < len(data)
    with pytest.raises(ValueError, match="1 to 100"):
        images.encode_jpeg(stripes, 0)


def test_draft_keeps_size_and_meaning() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 12, 3)).astype(np.uint8)
    picture = Image.fromarray(coarse).resize((600, 400), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = encode(picture, "JPEG", quality=95, exif=exif)
    full = images.decode(jpeg)
    assert (full.width, full.height) == (400, 600) and full.pixels.shape == (600, 400, 3)
    for draft_side, shape in ((100, (150, 100, 3)), (101, (300, 200, 3)), (201, (600, 400, 3))):
        draft = images.decode(jpeg, draft_side=draft_side)
        assert draft.pixels.shape == shape and (draft.width, draft.height) == (400, 600)
        difference = images.resize(draft.pixels, 50).astype(int) - images.resize(full.pixels, 50)
        assert np.abs(difference).mean() < 1.0
    # Formats without reduced scales come whole.
    assert images.decode_image(encode(picture), draft_side=50).shape == (400, 600, 3)


def test_progressive_bombs_are_refused(noise: np.ndarray) -> None:
    data = encode(Image.fromarray(noise), "JPEG", progressive=True)
    images.decode_image(data)
    head, scan = data.rsplit(b"\xff\xda", 1)
    bomb = head + (b"\xff\xda" + scan.removesuffix(b"\xff\xd9")) * 300 + b"\xff\xd9"
    with pytest.raises(ValueError, match="more than 200 scans"):
        images.decode_image(bomb)


def test_more_modes_become_rgb() -> None:
    deep = Image.fromarray(np.array([[0, 128, 65535 - 129, 65535]], np.uint16))
    assert images.decode_image(encode(deep))[0, :, 0].tolist() == [0, 0, 254, 255]
    with pytest.raises(ValueError, match="floating-point"):
        images.decode_image(encode(Image.new("F", (2, 2)), "TIFF"))
    ico = encode(Image.new("RGB", (16, 16)), "ICO")
    with pytest.raises(ValueError, match="not an image"):
        images.decode_image(ico)


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (1, 1)])
def test_odd_shapes(size: tuple[int, int]) -> None:
    pixels = images.decode_image(encode(Image.new("RGB", size, (1, 2, 3))))
    assert pixels.shape == (size[1], size[0], 3)
    assert (images.resize(pixels, 8) == [1, 2, 3]).all()


def test_resize_of_views(noise: np.ndarray) -> None:
    for view in (noise[::-1], noise[:, 3:30], noise.swapaxes(0, 1), np.asfortranarray(noise)):
        np.testing.assert_array_equal(
            images.resize(view, 5), images.resize(np.ascontiguousarray(view), 5)
        )


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150)
@given(st.data())
def test_damaged_files_give_a_picture_or_a_reason(data: st.DataObject) -> None:
    kind, options = data.draw(
        st.sampled_from(
            [
                ("PNG", {}),
                ("JPEG", {}),
                ("JPEG", {"progressive": True}),
                ("WEBP", {"lossless": True}),
                ("GIF", {}),
                ("TIFF", {"compression": "tiff_lzw"}),
                ("BMP", {}),
            ]
        )
    )
    mode = data.draw(st.sampled_from(["RGB", "L", "P"])) if kind != "WEBP" else "RGB"
    mode = "L" if mode == "P" and kind == "JPEG" else mode
    damaged = bytearray(
        encode(Image.linear_gradient("L").resize((9, 7)).convert(mode), kind, **options)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(len(damaged) // 2, len(damaged)))
    try:
        picture = images.decode(bytes(damaged[:end]), max_pixels=100_000, draft_side=4)
    except ValueError as error:
        assert str(error).startswith("not an image") and "\n" not in str(error)
    else:
        height, width, channels = picture.pixels.shape
        assert channels == 3 and height * width <= 100_000 and picture.pixels.dtype == np.uint8


def pattern(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a drawing and the same with a texture over it, for numbers frozen elsewhere."""
    y, x, channel = np.mgrid[:height, :width, :3]
    first = ((x * 7 + y * 3 + channel * 40 + x * y // 5) % 256).astype(np.uint8)
    noise = (x * 5 + y * 3 + channel) % 41 - 20
    return first, np.clip(first.astype(int) + noise, 0, 255).astype(np.uint8)


def test_ssim_is_that_of_scikit_image() -> None:
    # scikit-image 0.26.0: structural_similarity(data_range=255, channel_axis=-1,
    # gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    expected = {
        (11, 11): (0.5096817821550363, -0.5708505362476188),
        (16, 24): (0.8224309674351232, -0.6045328689391205),
        (40, 33): (0.8948635131212662, -0.6228788950576029),
    }
    for shape, (textured, inverted) in expected.items():
        first, second = pattern(*shape)
        assert images.ssim(first, second) == pytest.approx(textured, abs=1e-12)
        assert images.ssim(first, 255 - first) == pytest.approx(inverted, abs=1e-12)


def test_ssim_is_the_formula_written_out() -> None:
    first, second = pattern(13, 15)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(13 - 10):
        for left in range(15 - 10):
            for channel in range(3):
                x = first[top : top + 11, left : left + 11, channel].astype(float)
                y = second[top : top + 11, left : left + 11, channel].astype(float)
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                cov = (window * (x - mx) * (y - my)).sum()
                top_part = (2 * mx * my + c1) * (2 * cov + c2)
                values.append(top_part / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert images.ssim(first, second) == pytest.approx(np.mean(values), abs=1e-10)
    assert images.ssim(first, first) == pytest.approx(1.0, abs=1e-12)
    assert images.ssim(first, second) == pytest.approx(images.ssim(second, first), abs=1e-12)


def test_ssim_refuses_what_it_cannot_compare(noise: np.ndarray) -> None:
    with pytest.raises(ValueError, match="SSIM needs 11"):
        images.ssim(noise[:10], noise[:10])
    with pytest.raises(ValueError, match="one shape"):
        images.ssim(noise, noise[:20])
    with pytest.raises(ValueError, match="one shape"):
        images.ssim(noise, noise.astype(np.float32))
