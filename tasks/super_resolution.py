# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Images and the image tokenizer's reconstructions of them: what the upsampler trains on.

Features: `image`, [image_size, image_size, 3], and `reconstruction`, [reconstruction_size,
reconstruction_size, 3], float32 in [-1, 1]. Batches: `SuperResolutionConverter`.
"""

from parti.data.storage import data_sets, records
from parti.tasks import image_preprocessors, mixtures, preprocessors, sources


def add_task(
    reconstructions_dir: data_sets.Folders, image_size: int, reconstruction_size: int
) -> str:
    """Registers the task once and returns its name.

    The directory is `reconstructions/` in the output of `parti tokenize --write_reconstructions`;
    several, {folder: rate}, give a mixture of tasks (`mixtures.add`).

    Raises:
      FileNotFoundError: no train shards.
      ValueError: the one size is not a multiple of the other, or the folders make no mixture.
    """
    if reconstruction_size < 1 or image_size % reconstruction_size:
        raise ValueError(
            f"image_size={image_size} is not a multiple of reconstruction_size="
            f"{reconstruction_size}; the upsampler multiplies sides by a whole number."
        )
    arguments = {"image_size": image_size, "reconstruction_size": reconstruction_size}
    sizes = {records.IMAGE: image_size, records.RECONSTRUCTION: reconstruction_size}
    parse = preprocessors.parse_records(records.ReconstructedPair, *sizes)
    decode = [image_preprocessors.decode_image(name, size) for name, size in sizes.items()]
    steps = [preprocessors.in_chunks(parse), *decode]
    features = {name: image_preprocessors.image_feature() for name in sizes}

    def add_one(kind: str, folder: str) -> str:
        files = sources.split_files(folder, records.ReconstructedPair)
        return sources.register(kind, files, arguments, steps, features)

    return mixtures.add("super_resolution", reconstructions_dir, "RECONSTRUCTIONS_DIR", add_one)
