# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures alone: what the image tokenizer trains on.

Feature: `image`, [image_size, image_size, 3] float32 in [-1, 1]. Batches: `ImageConverter`.
"""

import os

from parti.data import records
from parti.tasks import preprocessors, sources


def add_task(pairs_dir: str | os.PathLike[str], image_size: int) -> str:
    """Registers the task once and returns its name.

    Args:
      pairs_dir: the output of `parti clean`; without `validation-*` shards the task has no
        validation split.
      image_size: the side, in pixels.

    Raises:
      FileNotFoundError: no train shards.
    """
    files = sources.split_files(pairs_dir, records.ImageTextPair)
    return sources.register(
        "images",
        files,
        {"image_size": image_size},
        [
            preprocessors.parse_records(records.ImageTextPair, records.IMAGE),
            preprocessors.decode_image(records.IMAGE, image_size),
            preprocessors.keep_features(records.IMAGE),
        ],
        {records.IMAGE: preprocessors.image_feature()},
    )
