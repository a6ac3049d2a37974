# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Images alone: what the image tokenizer trains on.

Feature: `image`, [image_size, image_size, 3] float32 in [-1, 1]. Batches: `ImageConverter`.
"""

from parti.data.storage import data_sets, records
from parti.tasks import image_preprocessors, mixtures, preprocessors, sources


def add_task(pairs_dir: data_sets.Folders, image_size: int, augment: bool = False) -> str:
    """Registers the task, over outputs of `parti clean`, once and returns its name.

    Several folders, {folder: rate}, give a mixture of tasks (`mixtures.add`).
    With `augment` it trains on random crops, flipped or not (see `decode_random_crop`), instead of
    the middle square; pairs of 3/2 `image_size` or more leave it all its room.

    Raises:
      FileNotFoundError: no train shards.
      ValueError: the folders do not make a mixture.
    """
    decode = image_preprocessors.decode_random_crop if augment else image_preprocessors.decode_image
    arguments = {"image_size": image_size, "augment": augment}
    parse = preprocessors.parse_records(records.ImageTextPair, records.IMAGE)
    steps = [preprocessors.in_chunks(parse), decode(records.IMAGE, image_size)]
    features = {records.IMAGE: image_preprocessors.image_feature()}

    def add_one(kind: str, folder: str) -> str:
        files = sources.split_files(folder, records.ImageTextPair)
        return sources.register(kind, files, arguments, steps, features)

    return mixtures.add("images", pairs_dir, "PAIRS_DIR", add_one)
