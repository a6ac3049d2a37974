# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a picture of any shape to the square that is trained on."""

import hashlib

import numpy as np

from parti.data import images

POLICIES = ("centre", "random")


def check_policy(policy: str) -> None:
    """Raises ValueError if there is no such policy."""
    if policy not in POLICIES:
        raise ValueError(f"crop {policy!r}: choose from {', '.join(POLICIES)}.")


def fit(
    image: np.ndarray, size: int, policy: str = "centre", key: str = "", seed: int = 0
) -> np.ndarray:
    """Crops a square out of a picture and resizes it by area.

    "centre": the middle square of the short side s, resized to `size`.

    "random": a square of the short side s that lies at 3/8 to 5/8 of the slack, resized to a side
    between `size` and min(s, 9/8 `size`), of which a square of `size` is cropped anywhere. It is
    not flipped: there may be text in it. What is random here depends on `key` and `seed` only.

    A picture with a shorter side under `size` grows, whatever the policy.

    Args:
      image: [height, width, 3] uint8.
      size: of the result, in pixels.
      policy: one of POLICIES.
      key: of the picture.
      seed: another one gives other crops.

    Returns:
      [size, size, 3] uint8.

    Raises:
      ValueError: an unknown policy or a size under 1.

    Source: "random" is listing 2 (appendix B.2) of Ramesh et al., "Zero-Shot Text-to-Image
    Generation", 2021, which Parti, section 4.1, follows.
    """
    check_policy(policy)
    if policy == "centre":
        return images.resize(images.square_crop(image), size)
    slack, growth, down, right = _uniform(f"{seed} {key}", 4)
    square = images.square_crop(image, offset=(3 + 2 * slack) / 8)
    largest = max(size, min(square.shape[0], round(size * 9 / 8)))
    side = size + int(growth * (largest - size + 1))
    resized = images.resize(square, side)
    top, left = (int(share * (side - size + 1)) for share in (down, right))
    return resized[top : top + size, left : left + size]


def _uniform(name: str, count: int) -> list[float]:
    """Returns `count` (up to 8) numbers in [0, 1) that depend on `name` only."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8 * count).digest()
    # 53 bits: more would round up to 1.
    return [(value >> 11) / 2**53 for value in np.frombuffer(digest, "<u8").tolist()]
