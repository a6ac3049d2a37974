# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures as arrays: decode, encode, crop, resize, and the only uint8 <-> [-1, 1] conversion."""

import io

import numpy as np
from PIL import Image

# Readers for formats that run other programs (EPS) or that nobody means stay closed.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "AVIF")

MAX_PIXELS = 89_478_485  # Pillow's own limit: 256 MiB of RGB

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


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a picture of any common format to upright RGB.

    The EXIF orientation is applied; transparent parts lie over white; palette, grey, CMYK and
    16-bit grey become 8-bit RGB; of an animation the first frame is taken.

    Args:
      data: the encoded picture.
      max_pixels: a picture of more pixels is refused before it is decoded.

    Returns:
      [height, width, 3] uint8.

    Raises:
      ValueError: `not an image ...`: broken, truncated, too large or of an unknown format.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ValueError(f"{width} x {height} is over the limit of {max_pixels} pixels")
            orientation = _orientation(image)
            rgb = _to_rgb(image)
    except Exception as error:  # noqa: BLE001 - a broken file can raise nearly anything
        # Pillow puts the address of the buffer into its message.
        reason = str(error).split(" <")[0] or type(error).__name__
        raise ValueError(f"not an image ({len(data)} bytes): {reason}") from error
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return np.array(rgb, np.uint8)


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 (upright) when there is none or EXIF is broken."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - broken EXIF does not spoil a good picture
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Returns the decoded picture in mode RGB."""
    image.load()
    if image.mode.startswith("I"):
        # 16 bits a pixel; Pillow's own conversion would clip at 255.
        grey = np.clip(np.asarray(image).astype(np.float64) / 257.0, 0, 255)
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if "A" in image.getbands() or "transparency" in image.info or image.mode in ("La", "RGBa"):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def encode_png(image: np.ndarray) -> bytes:
    """Encodes a picture as PNG; equal pictures give equal bytes.

    Args:
      image: [height, width, 3] uint8.

    Raises:
      ValueError: another shape or dtype.
    """
    _check_uint8_rgb(image)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def resize(image: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resizes by area: each new pixel is the mean of what it covers.

    A picture that grows on either axis is interpolated (bicubic) instead: the area method would
    only repeat pixels.

    Args:
      image: [height, width, 3] uint8.
      size: the new side of a square, or (height, width), in pixels.

    Returns:
      [new height, new width, 3] uint8.

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
        picture = Image.fromarray(np.ascontiguousarray(image))
        return np.array(picture.resize((width, height), Image.Resampling.BICUBIC))
    shrunk = _area_mean(image, height)
    mean = _area_mean(shrunk.swapaxes(0, 1), width).swapaxes(0, 1)
    return np.clip(np.rint(mean), 0, 255).astype(np.uint8)


def _area_mean(values: np.ndarray, new_size: int) -> np.ndarray:
    """Returns the means over `new_size` equal stretches of the first axis.

    A value that lies on the edge of two stretches counts in each by its share. For [a, b, c] and
    two stretches: [(a + b/2) / 1.5, (b/2 + c) / 1.5].

    Args:
      values: [size, ...], `size` at least `new_size`.
      new_size: stretches.

    Returns:
      [new_size, ...] float64.
    """
    size = values.shape[0]
    edges = np.linspace(0.0, size, new_size + 1)
    firsts = np.minimum(edges.astype(np.int64), size - 1)
    shares = (edges - firsts).reshape(-1, *([1] * (values.ndim - 1)))
    cut = shares * values[firsts]  # what lies before each edge of the value it cuts
    whole = np.add.reduceat(values, firsts[:-1], axis=0, dtype=np.float64)
    # The last stretch of reduceat runs to the end; the others stop before the value that is cut.
    whole[:-1] += cut[1:-1]
    return (whole - cut[:-1]) * (new_size / size)


def square_crop(image: np.ndarray, offset: float = 0.5) -> np.ndarray:
    """Crops a square of the short side.

    Args:
      image: [height, width, channels].
      offset: where the square lies on the long side, in [0, 1]: 0 is left or top, 0.5 the middle.

    Returns:
      [side, side, channels], a view.

    Raises:
      ValueError: `offset` out of range.
    """
    if not 0.0 <= offset <= 1.0:
        raise ValueError(f"offset={offset}: it must be in [0, 1].")
    height, width = image.shape[:2]
    side = min(height, width)
    top = round((height - side) * offset)
    left = round((width - side) * offset)
    return image[top : top + side, left : left + side]


def to_float(image: np.ndarray) -> np.ndarray:
    """Returns uint8 pixels as float32 in [-1, 1]; `to_uint8` gives the same pixels back.

    Raises:
      ValueError: not uint8.
    """
    if image.dtype != np.uint8:
        raise ValueError(f"Pixels are {image.dtype}; give uint8 in [0, 255].")
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Returns pixels in [-1, 1] as uint8; values outside are clipped.

    Raises:
      ValueError: not a floating-point array, or a value is not finite.
    """
    values = np.asarray(image)
    if values.dtype.kind in "iub":
        raise ValueError(f"Pixels are {values.dtype}; give floating point in [-1, 1].")
    values = values.astype(np.float32)  # bfloat16 too
    if not np.isfinite(values).all():
        raise ValueError("Pixels hold NaN or infinity: the model that made them has diverged.")
    return np.rint(np.clip((values + 1.0) * 127.5, 0.0, 255.0)).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio of two pictures (or batches) in dB; inf when equal.

    Args:
      a: uint8 pixels of any shape.
      b: uint8 pixels of the same shape.

    Raises:
      ValueError: shapes differ or a dtype is not uint8.
    """
    if a.shape != b.shape or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(
            f"Got {a.dtype} {a.shape} and {b.dtype} {b.shape}; give uint8 pixels of one shape."
        )
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10.0 * np.log10(255.0**2 / error))


def _check_uint8_rgb(image: np.ndarray) -> None:
    """Raises ValueError unless `image` is [height, width, 3] uint8."""
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"Got {image.dtype} of shape {image.shape}; a picture is [height, width, 3] uint8."
        )
