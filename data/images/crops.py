# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""From an image of any shape to the square that is trained on."""

import dataclasses
import hashlib

import numpy as np
from PIL import Image

from parti.data.images import images

POLICIES = ("centre", "random")


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """The box of a random crop: a square of the short side is resized, and the crop is cut from it.

    Source: listing 2 (appendix B.2) of Ramesh et al., "Zero-Shot Text-to-Image Generation", 2021
    (arXiv 2102.12092), which Parti, section 4.1, follows.
    """

    offset: float  # of the square on the long side, in [3/8, 5/8) of the slack
    side: int  # that the square is resized to, in pixels
    top: int  # of the crop in the resized square, in pixels
    left: int  # likewise
    size: int  # of the crop, in pixels

    @classmethod
    def draw(cls, short_side: int, size: int, key: str, seed: int = 0) -> "RandomCrop":
        """Draws a crop that depends on the arguments only.

        The square is resized to a side between `size` and min(short_side, 9/8 `size`), of which a
        square of `size` is cut anywhere; each as likely. It is not flipped: it may show text. An
        image with a shorter side under `size` grows to it, and the crop is the whole square.
        """
        name = f"{seed} {key}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(name, digest_size=32).digest()
        # 53 bits: more would round up to 1.
        drawn = ((value >> 11) / 2**53 for value in np.frombuffer(digest, "<u8").tolist())
        slack, growth, down, right = drawn
        largest = max(size, min(short_side, round(size * 9 / 8)))
        side = size + int(growth * (largest - size + 1))
        top, left = (int(share * (side - size + 1)) for share in (down, right))
        return cls((3 + 2 * slack) / 8, side, top, left, size)

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Returns the crop, [size, size, 3] uint8, of an image of the short side of `draw`."""
        resized = images.resize(images.square_crop(image, self.offset), self.side)
        return resized[self.top : self.top + self.size, self.left : self.left + self.size]

    def cut_in_full(self, image: np.ndarray) -> np.ndarray:
        """Returns the same part of the image at its own resolution, [side, side, 3] uint8.

        The part begins between two pixels: it is interpolated (bicubic), so that the two crops
        cover each other exactly once the one is resized to the other's size.
        """
        square = images.square_crop(image, self.offset)
        pixel = len(square) / self.side
        top, left, length = (pixel * value for value in (self.top, self.left, self.size))
        sides = (max(1, round(length)),) * 2
        end = float(len(square))  # rounding must not lead past it
        box = (left, top, min(left + length, end), min(top + length, end))
        whole = Image.fromarray(np.ascontiguousarray(square))
        return np.array(whole.resize(sides, Image.Resampling.BICUBIC, box=box))


def fit(
    image: np.ndarray, size: int, policy: str = "centre", key: str = "", seed: int = 0
) -> np.ndarray:
    """Crops a square out of an image and resizes it by area to [size, size, 3] uint8.

    "centre": the middle square of the short side. "random": a `RandomCrop`, which depends on `key`
    and `seed` only. An image with a shorter side under `size` grows, whatever the policy.

    Raises:
      ValueError: an unknown policy or a size under 1.
    """
    if policy not in POLICIES:
        raise ValueError(f"crop {policy!r}: choose from {', '.join(POLICIES)}.")
    if policy == "centre":
        return images.resize(images.square_crop(image), size)
    return RandomCrop.draw(min(image.shape[:2]), size, key, seed).cut(image)
