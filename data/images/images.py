# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Images as arrays: decode, encode, crop, resize, and the only uint8 <-> [-1, 1] conversion."""

import dataclasses
import functools
import io
import re
import types
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError, features

# Readers for formats that run other programs (EPS), that hide a second image of another size
# (ICO), or that no data set uses stay closed.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")

# Endings of their files, in lower case; of two files of one name the first ending counts.
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif"),
    *(".jpe", ".jfif", ".mpo", ".apng", ".avifs", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
)
# Endings of images that `decode` does not take.
OTHER_SUFFIXES = (
    *(".heic", ".heif", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc", ".jxl", ".svg", ".psd"),
    *(".ico", ".icns", ".tga", ".dib", ".eps", ".qoi", ".dds", ".exr", ".hdr", ".raw", ".dng"),
    *(".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pcx", ".xcf", ".ai", ".wmf"),
    *(".hif", ".heics", ".pef", ".srw", ".nrw", ".x3f", ".jxr", ".wdp", ".psb", ".emf", ".sgi"),
)

# How files of formats begin that `decode` does not take; of AVIF, where Pillow is built without it.
_OTHER_FORMATS = {
    name: re.compile(beginning, re.DOTALL)
    for name, beginning in {
        "HEIC": rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)",
        "AVIF": rb"....ftypavi[fs]",
        "Video": rb"....ftyp|\x1aE\xdf\xa3",
        "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
        "JPEG XL": rb"\0\0\0\x0cJXL |\xff\x0a",
        "SVG": rb"\s*<(svg|(\?xml|!--|!DOCTYPE).{0,2000}?<svg)",
        "ICO": rb"\0\0\x01\0",
        "PSD": rb"8BPS",
        "PDF": rb"%PDF",
        "EPS": rb"%!PS|\xc5\xd0\xd3\xc6",
        "QOI": rb"qoif",
        "DDS": rb"DDS ",
        "OpenEXR": rb"v/1\x01",
        "Radiance HDR": rb"#\?RADIANCE",
    }.items()
}

MAX_PIXELS = 89_478_485  # Pillow's own limit: 256 MiB of RGB
JPEG_QUALITY = 95

_MAX_SCANS = 200  # of a progressive JPEG; cameras write about 10, a bomb as many as fit
_WHITE = (255, 255, 255)
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = 5  # from this orientation on, width and height are swapped
_PNG_DEPTH = 24  # byte of the file that holds the bits of a sample
# A PNG without any of these has no orientation. Pillow decodes all of it to find that out.
_PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_PHOTOMETRIC = 256, 257, 258, 262
SSIM_WINDOW = 11  # pixels; images are at least as large
_SSIM_SIGMA, _SSIM_K1, _SSIM_K2 = 1.5, 0.01, 0.03


class UnsupportedError(ValueError):
    """An image of a format that is not read; the message names it."""


@dataclasses.dataclass(frozen=True, slots=True)
class DecodedImage:
    """A decoded image."""

    pixels: np.ndarray  # [height, width, 3] uint8, upright, read-only
    width: int  # of the file, upright; larger than that of `pixels` if it was decoded at less
    height: int


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS, draft_side: int = 0) -> np.ndarray:
    """Returns the pixels of `decode`, [height, width, 3] uint8, read-only."""
    return decode(data, max_pixels, draft_side).pixels


def read_size(data: bytes) -> tuple[int, int]:
    """Returns (width, height) of an image, upright, in pixels, from its header alone.

    ValueError: `not an image ...`, as of `decode`, as far as the header tells.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if image.format == "TIFF":  # whose size some versions of Pillow give upright
                tags = _tiff_tags(image)
                width, height = tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]
            is_sideways = _SIDEWAYS <= _orientation(image, data) <= 8
            return (height, width) if is_sideways else (width, height)
    except Exception as error:  # noqa: BLE001 - a broken file can raise nearly anything
        raise _not_an_image(data, error) from error


def decode(data: bytes, max_pixels: int = MAX_PIXELS, draft_side: int = 0) -> DecodedImage:
    """Decodes an image of any common format to upright RGB.

    The orientation is applied, that of EXIF or of the TIFF itself; transparent parts become white;
    palette, grey, CMYK and 16 bits a sample become 8-bit RGB; of an animation the first frame is
    taken.

    With a `draft_side`, in pixels, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, in a
    fraction of the time, as long as both sides keep that. The pixels then are those of that size: a
    perceptual hash of them stays within a bit or two, but they are not equal to the pixels of a
    lossless copy, so give every image of a job the same `draft_side`. Twice the side that the
    image is resized to leaves no visible difference.

    Raises:
      ValueError: `not an image ...`: broken, truncated, of an unknown format, or of more than
        `max_pixels`, before it is decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ValueError(f"{width} x {height} is over the limit of {max_pixels} pixels")
            if image.format in ("JPEG", "MPO") and _count_scans(data) > _MAX_SCANS:
                raise ValueError(f"more than {_MAX_SCANS} scans")
            # Pillow turns a TIFF itself when it loads it.
            orientation = 1 if image.format == "TIFF" else _orientation(image, data)
            if draft_side:
                image.draft(None, (draft_side, draft_side))
            rgb = _to_rgb(image, data)
            if image.format == "TIFF":
                width, height = rgb.size
    except Exception as error:  # noqa: BLE001 - a broken file can raise nearly anything
        raise _not_an_image(data, error) from error
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
        if orientation >= _SIDEWAYS:
            width, height = height, width
    return DecodedImage(np.asarray(rgb), width, height)


def _not_an_image(data: bytes, error: Exception) -> ValueError:
    if isinstance(error, UnidentifiedImageError) and (name := _other_format(data)):
        return UnsupportedError(not_read(name))
    # Pillow puts the address of the buffer into its message.
    reason = str(error).split(" <")[0] or type(error).__name__
    return ValueError(f"not an image ({len(data)} bytes): {reason}")


def not_read(name: str) -> str:
    """Returns what to do about an image of a format, or with an ending, that is not read."""
    return f"not an image that is read: {name}; save it as JPEG, PNG or WebP"


def _other_format(data: bytes) -> str:
    """Returns the name of the format of an image that is not read; "" if it is none of these."""
    found = (name for name, beginning in _OTHER_FORMATS.items() if beginning.match(data))
    name = next(found, "")
    return "" if name == "AVIF" and features.check("avif") else name


def _orientation(image: Image.Image, data: bytes) -> int:
    """Returns the orientation, 1 (upright) when there is none or what says it is broken."""
    if image.format == "PNG" and not any(mark in data for mark in _PNG_EXIF):
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - broken EXIF does not spoil a good image
        return 1


def _count_scans(data: bytes) -> int:
    """Returns how often a JPEG's marker for a scan occurs; in coded pixels it never does."""
    values = np.frombuffer(data, np.uint8)  # six times as fast as bytes.count
    return int(np.count_nonzero((values[:-1] == 0xFF) & (values[1:] == 0xDA)))


def _to_rgb(image: Image.Image, data: bytes) -> Image.Image:
    """Loads an image; returns it as 8-bit RGB, its transparent parts white."""
    image.load()
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if image.format == "PNG" and "transparency" in image.info:
        _clear_colour(image, data)
    if image.mode.startswith("I"):
        return _deep_grey(image).convert("RGB")
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", layer.size, _WHITE)
        white.paste(layer, (0, 0), layer)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    return image.tag_v2  # type: ignore[attr-defined]  # of TiffImageFile


def _deep_grey(image: Image.Image) -> Image.Image:
    """Returns grey of more than 8 bits as 8 bits, where Pillow's conversion would clip at 255."""
    values = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
    if image.format == "TIFF":
        tags = _tiff_tags(image)
        if tags.get(_TIFF_BITS) == (12,):
            values = (values * 65535 + 2047) // 4095
        if image.mode.startswith("I;16") and tags.get(_TIFF_PHOTOMETRIC) == 0:
            values = 65535 - values  # white is 0
    grey = ((values + 128) // 257).astype(np.uint8)
    if (clear := image.info.get("transparency")) is not None:
        grey[values == clear] = 255
    return Image.fromarray(grey)


def _clear_colour(image: Image.Image, data: bytes) -> None:
    """Makes the transparent colour of a loaded PNG, which has the file's depth, fit its pixels."""
    depth, clear = data[_PNG_DEPTH], image.info["transparency"]
    if image.mode == "L" and depth < 8:
        image.info["transparency"] = clear * 255 // ((1 << depth) - 1)
    elif image.mode == "RGB" and depth == 16:
        del image.info["transparency"]
        with Image.open(io.BytesIO(data), formats=("PNG",)) as other:
            # The pixels hold the high bytes of the samples; read as little-endian, the low ones.
            other.tile = [tile._replace(args="RGB;16L") for tile in other.tile]
            low = np.asarray(other).astype(np.uint16)
        equal = (np.asarray(image).astype(np.uint16) << 8 | low) == clear
        image.paste(_WHITE, mask=Image.fromarray(equal.all(axis=2)))


def encode_png(image: np.ndarray, chunks: PngImagePlugin.PngInfo | None = None) -> bytes:
    """Encodes [height, width, 3] uint8 as PNG; equal images and chunks give equal bytes.

    Only runs of equal bytes are searched for: half the time, and photographs and drawings grow by
    under 1%. ValueError: another shape or dtype.
    """
    return save(image, "PNG", compress_type=zlib.Z_RLE, pnginfo=chunks)


def encode_jpeg(image: np.ndarray, quality: int = JPEG_QUALITY, exif: bytes = b"") -> bytes:
    """Encodes [height, width, 3] uint8 as JPEG with colours at full resolution; deterministic.

    ValueError: a quality (libjpeg's) outside [1, 100], or another shape or dtype.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality {quality}: give 1 to 100.")
    return save(image, "JPEG", quality=quality, subsampling=0, exif=exif)


def save(image: np.ndarray, kind: str, **options: Any) -> bytes:
    """Encodes [height, width, 3] uint8 with Pillow's options; ValueError: other shape or dtype."""
    _check_uint8_rgb(image)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def resize(image: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resizes [height, width, 3] uint8 by area: each new pixel is the mean of what it covers.

    An image that grows on either axis is interpolated (bicubic) instead: the area method would
    only repeat pixels. `size` is the new side of a square, or (height, width), in pixels.

    Raises:
      ValueError: a size under 1, or another shape or dtype.
    """
    _check_uint8_rgb(image)
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"Size {height} x {width}: a picture has at least 1 x 1 pixels.")
    old_height, old_width, _ = image.shape
    if (height, width) == (old_height, old_width):
        return image
    if height > old_height or width > old_width:
        small = Image.fromarray(np.ascontiguousarray(image))
        return np.array(small.resize((width, height), Image.Resampling.BICUBIC))
    cv2 = _cv2()
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


@functools.cache
def _cv2() -> types.ModuleType:
    """Returns OpenCV, kept to one thread: a job runs one worker per core."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


def square_crop(image: np.ndarray, offset: float = 0.5) -> np.ndarray:
    """Returns a view of a square of the short side of [height, width, channels].

    `offset` is its position on the long side, in [0, 1], else a ValueError: 0 is left or top.
    """
    if not 0.0 <= offset <= 1.0:
        raise ValueError(f"offset={offset}: it must be in [0, 1].")
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = round((height - side) * offset), round((width - side) * offset)
    return image[top : top + side, left : left + side]


def to_float(image: np.ndarray) -> np.ndarray:
    """Returns pixels that must be uint8 as float32 in [-1, 1]; `to_uint8` gives them back."""
    if image.dtype != np.uint8:
        raise ValueError(f"Pixels are {image.dtype}; give uint8 in [0, 255].")
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Returns pixels in [-1, 1] as uint8, clipped; ValueError: not floats, or not finite."""
    values = np.asarray(image)
    if values.dtype.kind in "iub":
        raise ValueError(f"Pixels are {values.dtype}; give floating point in [-1, 1].")
    values = values.astype(np.float32)  # bfloat16 too
    if not np.isfinite(values).all():
        raise ValueError("Pixels hold NaN or infinity: the model that made them has diverged.")
    return np.rint(np.clip((values + 1.0) * 127.5, 0.0, 255.0)).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio of uint8 pixels of any shape in dB; inf when equal."""
    _check_alike(a, b)
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10.0 * np.log10(255.0**2 / error))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the structural similarity of two images [height, width, 3] uint8: 1 when equal.

    The mean over the channels red, green and blue, and over the positions where the whole window
    is inside the image; variances are those of the window's weights, for a data range of 255.

    Raises:
      ValueError: shapes differ, a dtype is not uint8, or a side is under `SSIM_WINDOW` pixels.

    Source: Z. Wang, A. Bovik, H. Sheikh, E. Simoncelli, "Image quality assessment: from error
    visibility to structural similarity" (IEEE TIP 2004), equation 13: an 11 x 11 Gaussian window of
    sigma 1.5, K1 = 0.01, K2 = 0.03.
    """
    _check_alike(a, b)
    _check_uint8_rgb(a)
    if min(a.shape[:2]) < SSIM_WINDOW:
        raise ValueError(
            f"Pictures of {a.shape[1]} x {a.shape[0]} px; SSIM needs {SSIM_WINDOW} on each side."
        )
    half = SSIM_WINDOW // 2
    weights = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * _SSIM_SIGMA**2))
    weights /= weights.sum()

    def mean(values: np.ndarray) -> np.ndarray:
        return _cv2().sepFilter2D(values, -1, weights, weights)[half:-half, half:-half]

    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (_SSIM_K1 * 255) ** 2, (_SSIM_K2 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float(np.mean(luminance * (2 * covariance + c2) / (variances + c2)))


def _check_alike(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(
            f"Got {a.dtype} {a.shape} and {b.dtype} {b.shape}; give uint8 pixels of one shape."
        )


def _check_uint8_rgb(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"Got {image.dtype} of shape {image.shape}; a picture is [height, width, 3] uint8."
        )
