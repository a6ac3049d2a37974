# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Images alone: what the image tokenizer trains on.

Feature: `image`, [image_size, image_size, 3] float32 in [-1, 1]. Batches: `ImageConverter`.
"""

import os

from parti.data.storage import records
from parti.tasks import image_preprocessors, preprocessors, sources


def add_task(pairs_dir: str | os.PathLike[str], image_size: int, augment: bool = False) -> str:
    """Registers the task, over the output of `parti clean`, once and returns its name.

    With `augment` it trains on random crops, flipped or not (see `decode_random_crop`), instead of
    the middle square; pairs of 3/2 `image_size` or more leave it all its room.

    Raises:
      FileNotFoundError: no train shards.
    """
    decode = image_preprocessors.decode_random_crop if augment else image_preprocessors.decode_image
    files = sources.split_files(pairs_dir, records.ImageTextPair)
    arguments = {"image_size": image_size, "augment": augment}
    parse = preprocessors.parse_records(records.ImageTextPair, records.IMAGE)
    steps = [preprocessors.in_chunks(parse), decode(records.IMAGE, image_size)]
    features = {records.IMAGE: image_preprocessors.image_feature()}
    return sources.register("images", files, arguments, steps, features)
