# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Images and the image tokenizer's reconstructions of them: what the upsampler trains on.

Features: `image`, [image_size, image_size, 3], and `reconstruction`, [reconstruction_size,
reconstruction_size, 3], float32 in [-1, 1]. Batches: `SuperResolutionConverter`.
"""

import os

from parti.data.storage import records
from parti.tasks import image_preprocessors, preprocessors, sources


def add_task(
    reconstructions_dir: str | os.PathLike[str], image_size: int, reconstruction_size: int
) -> str:
    """Registers the task once and returns its name.

    Args:
      reconstructions_dir: `reconstructions/` in the output of `parti tokenize
        --write_reconstructions`; without `validation-*` shards the task has no validation split.
      image_size: the high-resolution side, in pixels; a multiple of `reconstruction_size`.
      reconstruction_size: the low-resolution side, in pixels.

    Raises:
      FileNotFoundError: no train shards.
      ValueError: the one size is not a multiple of the other.
    """
    if reconstruction_size < 1 or image_size % reconstruction_size:
        raise ValueError(
            f"image_size={image_size} is not a multiple of reconstruction_size="
            f"{reconstruction_size}; the upsampler multiplies sides by a whole number."
        )
    files = sources.split_files(reconstructions_dir, records.ReconstructedPair)
    return sources.register(
        "super_resolution",
        files,
        {"image_size": image_size, "reconstruction_size": reconstruction_size},
        [
            preprocessors.in_chunks(
                preprocessors.parse_records(
                    records.ReconstructedPair, records.IMAGE, records.RECONSTRUCTION
                )
            ),
            image_preprocessors.decode_image(records.IMAGE, image_size),
            image_preprocessors.decode_image(records.RECONSTRUCTION, reconstruction_size),
        ],
        {
            records.IMAGE: image_preprocessors.image_feature(),
            records.RECONSTRUCTION: image_preprocessors.image_feature(),
        },
    )
