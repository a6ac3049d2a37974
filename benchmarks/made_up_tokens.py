# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Token shards and a vocabulary of made-up captions and codes, for benchmarks."""

import pathlib

import numpy as np

from parti.data.storage import records, shard_names, tfrecords
from parti.data.text import vocabularies

NUM_WORDS = 12
VOCABULARY_SIZE = 300
_WORDS = ("red", "green", "small", "large", "circle", "dog", "on", "under", "beside", "a", "the")


def caption(rng: np.random.Generator) -> str:
    """Returns a caption of NUM_WORDS words."""
    return " ".join(rng.choice(_WORDS, NUM_WORDS))


def write(
    folder: pathlib.Path, split: str, count: int, num_tokens: int, codebook_size: int, shards: int
) -> None:
    """Writes `count` records of `num_tokens` codes into a split's shards."""
    rng = np.random.default_rng(0)

    def record(i: int) -> bytes:
        row = rng.integers(0, codebook_size, num_tokens)
        return records.TokenizedPair(str(i), caption(rng), row).to_example()

    folder.mkdir(exist_ok=True)
    for shard in range(shards):
        path = folder / shard_names.shard_name(split, shard, shards)
        tfrecords.write(path, (record(i) for i in range(shard, count, shards)))


def write_vocabulary(path: pathlib.Path) -> None:
    """Trains a vocabulary of VOCABULARY_SIZE pieces on such captions."""
    rng = np.random.default_rng(1)
    settings = vocabularies.SentencePieceSettings(vocab_size=VOCABULARY_SIZE)
    vocabularies.train_sentencepiece((caption(rng) for _ in range(500)), path, settings)
