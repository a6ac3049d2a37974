# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Captions and image tokens: what the text-to-image model trains on.

Features: `inputs`, [length] int32, the caption's ids with an EOS, padded with 0; `targets`,
[num_tokens] int32, codebook index + 1 in raster order. Batches: `TextToImageConverter`.
"""

import os
from collections.abc import Sequence

import seqio

from parti.data.storage import data_sets, records, tfrecords
from parti.data.text import vocabularies
from parti.stages import files as storage
from parti.stages import manifests
from parti.tasks import mixtures, preprocessors, sources


def add_task(
    tokens_dir: data_sets.Folders,
    vocabulary_path: str | os.PathLike[str],
    codebook_size: int,
    text_drop_rate: float = 0.1,
    caption_weights: Sequence[float] | None = None,
) -> str:
    """Registers the task once and returns its name.

    In training one of a pair's captions is drawn at random (`preprocessors.choose_caption`), and
    `text_drop_rate` of the captions are dropped for classifier-free guidance; validation has the
    first caption, always. The tokens are the output of `parti tokenize`; several, {folder: rate},
    give a mixture of tasks (`mixtures.add`). The vocabulary is a SentencePiece model or that of
    `parti vocab`.

    Raises:
      FileNotFoundError: no train shards, or no vocabulary.
      ValueError: a rate or weight out of range, shards without records or of another kind, or
        folders with tokens of several image tokenizers.
    """
    fingerprint = vocabularies.TextTokenizer(vocabulary_path).fingerprint
    vocabulary = vocabularies.seqio_text_vocabulary(vocabulary_path)
    image_vocabulary = vocabularies.ImageTokenVocabulary(codebook_size)
    image_ids = seqio.PassThroughVocabulary(image_vocabulary.vocab_size)
    features = {
        preprocessors.INPUTS: preprocessors.text_feature(vocabulary),
        preprocessors.TARGETS: seqio.Feature(image_ids, add_eos=False),
    }

    def add_one(kind: str, folder: str) -> str:
        files = sources.split_files(folder, records.TokenizedPair)
        num_tokens = _num_tokens(files["train"], codebook_size)
        arguments = {
            "codebook_size": codebook_size,
            "num_tokens": num_tokens,
            "text_drop_rate": text_drop_rate,
            "vocabulary": [os.fspath(vocabulary_path), fingerprint],
            **preprocessors.caption_arguments(caption_weights),
        }
        steps = preprocessors.in_chunks(
            preprocessors.parse_records(records.TokenizedPair, records.TEXT, records.IMAGE_TOKENS),
            preprocessors.choose_caption(caption_weights),
            preprocessors.drop_caption(text_drop_rate),
            preprocessors.tokenize_caption,
            preprocessors.image_tokens_to_targets(codebook_size, num_tokens, folder),
            preprocessors.keep_features(preprocessors.INPUTS, preprocessors.TARGETS),
        )
        return sources.register(kind, files, arguments, [steps], features)

    _check_one_tokenizer(tokens_dir)
    return mixtures.add("text_to_image", tokens_dir, "TOKENS_DIR", add_one)


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


def _check_one_tokenizer(tokens_dir: data_sets.Folders) -> None:
    """Raises ValueError if, by their manifests, several image tokenizers made the data sets."""
    makers: dict[str, str] = {}  # {fingerprint: the first folder with tokens of it}
    for _, (folder, _) in data_sets.named(tokens_dir, "TOKENS_DIR").items():
        path = storage.join(folder, manifests.FILE_NAME)
        manifest = manifests.read_json(path, "make the tokens again")
        if maker := manifest.get("tokenizer_fingerprint"):
            makers.setdefault(maker, folder)
    if len(makers) > 1:
        made = ", ".join(f"{folder!r} by {maker[:12]}" for maker, folder in makers.items())
        raise ValueError(
            f"the image tokens of TOKENS_DIR are of {len(makers)} tokenizers ({made}), and a code "
            "means another patch in each; tokenize all pairs with one: parti tokenize --model"
        )
