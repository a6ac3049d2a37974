# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Images and their captions: what CoCa trains on.

Features: `image`, [image_size, image_size, 3] float32 in [-1, 1]; `inputs`, [up to length] int32,
the caption's ids with an EOS. Batches: `ImageTextConverter`.
"""

import os
from collections.abc import Sequence

from parti.data.storage import data_sets, records
from parti.data.text import vocabularies
from parti.tasks import image_preprocessors, metrics, mixtures, preprocessors, sources


def add_task(
    pairs_dir: data_sets.Folders,
    vocabulary_path: str | os.PathLike[str],
    image_size: int,
    max_shift: int = 0,
    caption_weights: Sequence[float] | None = None,
) -> str:
    """Registers the task once and returns its name.

    In training one of a pair's captions is drawn at random (`preprocessors.choose_caption`), and
    the image is moved by up to `max_shift` pixels; in validation the caption is the first, and the
    image as it is. The pairs are the output of `parti clean`; several, {folder: rate}, give a
    mixture of tasks (`mixtures.add`). The vocabulary is a SentencePiece model or that of
    `parti vocab`.

    Raises:
      FileNotFoundError: no train shards, or no vocabulary.
      ValueError: the folders do not make a mixture, or a weight is out of range.
    """
    fingerprint = vocabularies.TextTokenizer(vocabulary_path).fingerprint
    vocabulary = vocabularies.seqio_text_vocabulary(vocabulary_path)
    arguments = {
        "image_size": image_size,
        "max_shift": max_shift,
        "vocabulary": [os.fspath(vocabulary_path), fingerprint],
        **preprocessors.caption_arguments(caption_weights),
    }
    steps = [
        preprocessors.in_chunks(
            preprocessors.parse_records(records.ImageTextPair, records.IMAGE, records.TEXT),
            preprocessors.choose_caption(caption_weights),
            preprocessors.tokenize_caption,
        ),
        image_preprocessors.decode_image(records.IMAGE, image_size),
        image_preprocessors.shift_image(records.IMAGE, max_shift),
    ]
    features = {
        preprocessors.INPUTS: preprocessors.text_feature(vocabulary),
        records.IMAGE: image_preprocessors.image_feature(),
    }
    measures = [metrics.Retrieval, metrics.Captioning]

    def add_one(kind: str, folder: str) -> str:
        files = sources.split_files(folder, records.ImageTextPair)
        return sources.register(kind, files, arguments, steps, features, measures)

    return mixtures.add("contrastive", pairs_dir, "PAIRS_DIR", add_one)
