# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures how well picture hashes find copies and leave others alone; prints one JSON line a set.

    python benchmarks/near_pictures.py --input 'emoji/*.tar'

Of each picture a copy of each kind is made. Recall is the share of copies that are near their
original by `image_hashes.is_near`. False pairs are pairs of different originals that are near each
other; the figure is their number over the number of pictures. Originals with equal pixels do not
count. Without --input the pictures are scenes.
"""

import argparse
import glob
import io
import json
import os
import platform
import sys
import tarfile
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from parti.data.images import image_hashes, images
from parti.data.scenes import scenes


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Returns what is left of a picture after JPEG with halved colours."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return images.decode_image(buffer.getvalue())


def half(image: np.ndarray, method: Image.Resampling = Image.Resampling.BOX) -> np.ndarray:
    """Returns a picture at half its size."""
    height, width = image.shape[:2]
    return np.asarray(Image.fromarray(image).resize((width // 2, height // 2), method))


def crop(image: np.ndarray) -> np.ndarray:
    """Returns the middle 90% of a picture."""
    height, width = (round(side * 0.05) for side in image.shape[:2])
    return image[height : image.shape[0] - height, width : image.shape[1] - width]


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "jpeg_50": lambda image: jpeg(image, 50),
    "half": half,
    "half_bicubic": lambda image: half(image, Image.Resampling.BICUBIC),
    "jpeg_30": lambda image: jpeg(image, 30),
    "half_jpeg_50": lambda image: jpeg(half(image), 50),
    "crop_90": crop,
    "flip": lambda image: image[:, ::-1],
}


def read_tars(patterns: list[str]) -> Iterator[np.ndarray]:
    """Yields the pictures of tars."""
    for path in sorted(path for pattern in patterns for path in glob.glob(pattern)):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith((".png", ".jpg", ".webp")):
                    yield images.decode_image(tar.extractfile(member).read())  # type: ignore[union-attr]


def limit(*pictures: np.ndarray) -> float:
    """Returns the colour limit of two pictures."""
    return float(image_hashes.colour_limit(min(p.shape[0] * p.shape[1] for p in pictures)))


def measure(name: str, pictures: list[np.ndarray]) -> dict[str, object]:
    """Returns the line of one set of pictures."""
    found = dict.fromkeys(KINDS, 0)
    prints = []
    for image in pictures:
        original = image_hashes.fingerprint(image)
        prints.append(original)
        for kind, change in KINDS.items():
            copy = change(image)
            near = image_hashes.is_near(
                *original,
                *image_hashes.fingerprint(copy),
                max_colour_distance=limit(image, copy),
            )
            found[kind] += near
    false = _false_pairs(pictures, prints)
    return {
        "figure": f"near pictures, {name}",
        "value": round(min(found["jpeg_50"], found["half"]) / len(pictures), 4),
        "unit": "recall of jpeg_50 and of half, the smaller",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "pictures": len(pictures),
        "recall": {kind: round(count / len(pictures), 4) for kind, count in found.items()},
        "false_pairs": false,
        "false_pairs_per_picture": round(false / len(pictures), 5),
    }


def _false_pairs(pictures: list[np.ndarray], prints: list[tuple[int, bytes]]) -> int:
    """Returns how many pairs of pictures are near that have not the same pixels."""
    pixels = np.array([image_hashes.pixel_hash(image) for image in pictures])
    phashes = np.array([phash for phash, _ in prints], np.uint64)
    rows = np.frombuffer(b"".join(colours for _, colours in prints), np.uint8).reshape(-1, 192)
    sizes = np.array([image.shape[0] * image.shape[1] for image in pictures])
    count = 0
    for i, (phash, colours) in enumerate(prints):
        limits = image_hashes.colour_limit(np.minimum(sizes[i], sizes[i + 1 :]))
        near = image_hashes.distances(phash, phashes[i + 1 :]) <= image_hashes.MAX_DISTANCE
        near[near] = image_hashes.colour_distances(colours, rows[i + 1 :][near]) <= limits[near]
        count += int((near & (pixels[i + 1 :] != pixels[i])).sum())
    return count


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", nargs="+", help="tars; without it, scenes")
    parser.add_argument("--num", type=int, default=2000, help="scenes of each size")
    flags = parser.parse_args()
    if flags.input:
        print(json.dumps(measure("tars", list(read_tars(flags.input)))))
        return 0
    for size in (64, 128):
        drawn = scenes.generate("train", flags.num, 0, size)
        print(json.dumps(measure(f"scenes of {size} px", [image for _, _, image, _ in drawn])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
