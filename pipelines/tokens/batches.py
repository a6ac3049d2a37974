# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shards of pairs as batches of images at the image tokenizer's size, cut in order.

With `augment`, a train shard is read that many times, each time for one random crop of each image,
a row with a key of its own (`crop_key`): memory holds a batch or two, as without.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import apache_beam as beam
import numpy as np

from parti.data.images import crops, images
from parti.data.storage import records, tfrecords
from parti.pipelines.tokens import known_tokens
from parti.stages import files


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """How pairs become batches."""

    image_size: int  # of the tokenizer, in pixels; images of another size are resized by area
    batch_size: int = 64
    augment: int = 0  # random crops of each train image; 0 takes the middle square, once
    seed: int = 0
    # Whether the pairs that travel with a batch hold the random crop as PNG, at its own
    # resolution, instead of the whole image.
    crop_pairs: bool = False

    def is_random(self, split: str) -> bool:
        """Returns whether the crops of a split are random."""
        return bool(self.augment) and split == "train"

    def num_passes(self, split: str) -> int:
        """Returns how many rows each image of a split becomes."""
        return self.augment if self.is_random(split) else 1


_MAX_KNOWN = 1024  # rows with known tokens in a batch

PairT = TypeVar("PairT", records.ImageTextPair, records.TokenizedPair)


@dataclasses.dataclass(frozen=True)
class Batch(Generic[PairT]):
    """Rows of a shard that one call of the model takes; the key of a RunInference example."""

    shard: str  # its file name
    index: int  # of the batch in its shard, from 0
    pairs: tuple[PairT, ...]  # in the order of the shard
    # Image tokens of an earlier run, of the rows that it had: {position in `pairs`: [length] int32}
    known: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)


class ReadBatches(beam.DoFn):
    """Path of a shard -> (Batch, images [new rows, size, size, 3] uint8), and `rejected` rows.

    New are the rows without known tokens; a batch without any goes to the output `known`, alone.
    """

    def __init__(
        self,
        settings: BatchSettings,
        limit: int | None = None,
        known: known_tokens.KnownTokens | None = None,
    ) -> None:
        """Sets how to cut, how many records are read of a shard (None for all), what is known."""
        self._settings, self._limit, self._known = settings, limit, known

    def process(self, name: bytes) -> Iterator[Any]:
        """Yields the batches of a shard in order; its path is bytes, as it need not be UTF-8."""
        path = os.fsdecode(name)
        shard = files.name(path)
        known = self._known.of_shard(shard) if self._known else {}
        pairs: list[records.ImageTextPair] = []
        pixels: list[np.ndarray] = []
        old: dict[int, np.ndarray] = {}  # of `pairs`
        index = 0
        for number in range(self._settings.num_passes(split_of(shard))):
            for serialized in itertools.islice(tfrecords.read(path), self._limit):
                pair = records.ImageTextPair.from_example(serialized)
                key = self._row_key(pair.key, split_of(shard), number)
                if key in known:
                    old[len(pairs)] = known[key]
                    pairs.append(dataclasses.replace(pair, key=key, image=b""))
                    if len(old) == _MAX_KNOWN:
                        yield _batch(shard, index, pairs, pixels, old)
                        pairs, pixels, old, index = [], [], {}, index + 1
                    continue
                try:
                    pair, image = self._crop(pair, split_of(shard), number)
                except ValueError as error:
                    if number == 0:
                        # For the displays of remote runners; others count what was written.
                        beam.metrics.Metrics.counter("parti.tokenize", "rejected").inc()
                        row = {"key": pair.key, "reason": str(error)}
                        yield beam.pvalue.TaggedOutput("rejected", (shard, row))
                    continue
                pairs.append(pair)
                pixels.append(image)
                if len(pixels) == self._settings.batch_size:
                    yield _batch(shard, index, pairs, pixels, old)
                    pairs, pixels, old, index = [], [], {}, index + 1
        if pairs:
            yield _batch(shard, index, pairs, pixels, old)

    def _row_key(self, key: str, split: str, number: int) -> str:
        return crop_key(key, number) if self._settings.is_random(split) else key

    def _crop(
        self, pair: records.ImageTextPair, split: str, number: int
    ) -> tuple[records.ImageTextPair, np.ndarray]:
        """Returns the pair as it travels on, and its image at the tokenizer's size."""
        settings = self._settings
        decoded = images.decode_image(pair.image)
        if not settings.is_random(split):
            return pair, crops.fit(decoded, settings.image_size)
        key = crop_key(pair.key, number)
        side = min(decoded.shape[:2])
        crop = crops.RandomCrop.draw(side, settings.image_size, key, settings.seed)
        image = images.encode_png(crop.cut_in_full(decoded)) if settings.crop_pairs else pair.image
        return dataclasses.replace(pair, key=key, image=image), crop.cut(decoded)


def _batch(
    shard: str,
    index: int,
    pairs: Sequence[records.ImageTextPair],
    pixels: Sequence[np.ndarray],
    old: Mapping[int, np.ndarray],
) -> Any:
    """Returns what `ReadBatches` yields of these rows."""
    batch = Batch(shard, index, tuple(pairs), old)
    return (batch, np.stack(pixels)) if pixels else beam.pvalue.TaggedOutput("known", batch)


def crop_key(key: str, number: int) -> str:
    """Returns the key of a random crop of a pair, `<key>#crop<number>`.

    Different pairs and numbers give different keys; seed and key decide the crop.
    """
    return f"{key}#crop{number}"


def split_of(shard: str) -> str:
    """Returns the split of a shard: `train` of `train-00000-of-00004.tfrecord`."""
    return shard.split("-")[0]
