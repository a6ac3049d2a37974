# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The images that a report of reconstructions shows: the worst, the best, and some at random."""

import dataclasses
import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from parti.data.images import crops, images
from parti.data.storage import records, tfrecords
from parti.engine.inference import bundles
from parti.pipelines.beam import sharded_writers
from parti.pipelines.evaluation import reconstructions

NUM_EACH = 12
AMPLIFIED = 4  # what the difference of two images is multiplied with to be seen

# Path of a shard, and the row of an image of it.
Row = tuple[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """An image of the report, its caption, and what was measured."""

    row: Mapping[str, Any]
    text: str
    original: np.ndarray  # [size, size, 3] uint8, as the tokenizer saw it
    reconstruction: np.ndarray  # of the same shape

    @property
    def difference(self) -> np.ndarray:
        """Their absolute difference, `AMPLIFIED` and clipped, [size, size, 3] uint8."""
        apart = np.abs(self.original.astype(np.int16) - self.reconstruction)
        return np.minimum(apart * AMPLIFIED, 255).astype(np.uint8)


def choose(rows: Iterable[Row], num_images: int) -> dict[str, list[Row]]:
    """Returns the rows of the images to show; iterates over all rows more than once, holds none.

    "worst" and "best" are by PSNR, "random" by the hash of the key, `NUM_EACH` or fewer: of
    `num_images`, if they are few, only a third is called worst, or best.
    """
    number = min(NUM_EACH, -(-num_images // 3))

    def quality(item: Row) -> tuple[float, str]:
        return item[1]["psnr"], item[1]["key"]

    def chance(item: Row) -> float:
        return sharded_writers.hash_fraction(item[1]["key"], "reconstructions")

    return {
        "worst": heapq.nsmallest(number, rows, key=quality),
        "best": heapq.nlargest(number, rows, key=quality),
        "random": heapq.nsmallest(number, rows, key=chance),
    }


def show(
    groups: Mapping[str, Sequence[Row]], reference: reconstructions.Reference
) -> dict[str, list[Shown]]:
    """Reads the images of the rows again, and reconstructs them again."""
    wanted = {(shard, row["key"]) for group in groups.values() for shard, row in group}
    pairs = (
        (shard, records.ImageTextPair.from_example(row))
        for shard in dict.fromkeys(shard for group in groups.values() for shard, _ in group)
        for row in tfrecords.read(shard)
    )
    found = {(shard, pair.key): pair for shard, pair in pairs if (shard, pair.key) in wanted}
    decoded = (images.decode_image(pair.image) for pair in found.values())
    originals = np.stack([crops.fit(image, reference.image_size) for image in decoded])
    tokenizer = bundles.load_part(reference.model, "tokenizer")
    made = reconstructions.reconstruct(tokenizer, originals).images
    index = {item: number for number, item in enumerate(found)}

    def shown(shard: str, row: dict[str, Any]) -> Shown:
        item = shard, row["key"]
        return Shown(row, found[item].text, originals[index[item]], made[index[item]])

    return {name: [shown(*item) for item in group] for name, group in groups.items()}
