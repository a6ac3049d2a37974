# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Captions and image tokens: what the text-to-image model trains on.

Features: `inputs`, [length] int32, the caption's ids with an EOS, padded with 0; `targets`,
[num_tokens] int32, codebook index + 1 in raster order. Batches: `TextToImageConverter`.
"""

import os

import seqio

from parti.data.storage import records, tfrecords
from parti.data.text import vocabularies
from parti.tasks import preprocessors, sources


def add_task(
    tokens_dir: str | os.PathLike[str],
    vocabulary_path: str | os.PathLike[str],
    codebook_size: int,
    text_drop_rate: float = 0.1,
) -> str:
    """Registers the task once and returns its name.

    In training one of a pair's captions is drawn at random, and `text_drop_rate` of the captions
    are dropped for classifier-free guidance; validation has the first caption, always. The tokens
    are the output of `parti tokenize`, the vocabulary a SentencePiece model or that of `parti
    vocab`.

    Raises:
      FileNotFoundError: no train shards, or no vocabulary.
      ValueError: a rate out of range, or shards without records or of another kind.
    """
    files = sources.split_files(tokens_dir, records.TokenizedPair)
    fingerprint = vocabularies.TextTokenizer(vocabulary_path).fingerprint
    vocabulary = vocabularies.seqio_text_vocabulary(vocabulary_path)
    image_vocabulary = vocabularies.ImageTokenVocabulary(codebook_size)
    num_tokens = _num_tokens(files["train"], codebook_size)
    arguments = {
        "codebook_size": codebook_size,
        "num_tokens": num_tokens,
        "text_drop_rate": text_drop_rate,
        "vocabulary": [os.fspath(vocabulary_path), fingerprint],
    }
    steps = preprocessors.in_chunks(
        preprocessors.parse_records(records.TokenizedPair, records.TEXT, records.IMAGE_TOKENS),
        preprocessors.choose_caption,
        preprocessors.drop_caption(text_drop_rate),
        preprocessors.tokenize_caption,
        preprocessors.image_tokens_to_targets(codebook_size, num_tokens),
        preprocessors.keep_features(preprocessors.INPUTS, preprocessors.TARGETS),
    )
    image_ids = seqio.PassThroughVocabulary(image_vocabulary.vocab_size)
    features = {
        preprocessors.INPUTS: preprocessors.text_feature(vocabulary),
        preprocessors.TARGETS: seqio.Feature(image_ids, add_eos=False),
    }
    return sources.register("text_to_image", files, arguments, [steps], features)


def num_tokens(grid_size: int) -> int:
    """Returns how many tokens an image of grid_size x grid_size codes has."""
    return grid_size**2


def _num_tokens(files: list[str], codebook_size: int) -> int:
    """Returns the tokens of an image, by the first record; ValueError: one past the codebook."""
    first = next(r for path in files for r in tfrecords.read(path))
    tokens = records.TokenizedPair.from_example(first).image_tokens
    if tokens.size and tokens.max() >= codebook_size:
        raise ValueError(
            f"{files[0]!r} holds codebook index {tokens.max()}, but CODEBOOK_SIZE is "
            f"{codebook_size}; give the size of the image tokenizer that made the tokens."
        )
    return int(tokens.size)
