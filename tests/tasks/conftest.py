# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Small outputs of stages, with pictures that tell which record they are."""

import dataclasses
import pathlib

import numpy as np
import pytest

from parti.data.images import images
from parti.data.storage import records, shard_names, tfrecords
from parti.data.text import vocabularies

TRAIN, VALIDATION, NUM_SHARDS = 22, 8, 2
CODEBOOK_SIZE, NUM_TOKENS = 50, 4
HIGH, LOW = 16, 8


@dataclasses.dataclass(frozen=True)
class Stages:
    """The directories of a small world; see `write_split`."""

    pairs: pathlib.Path
    tokens: pathlib.Path
    reconstructions: pathlib.Path
    vocabulary: pathlib.Path


def solid(index: int, size: int) -> bytes:
    """Returns a picture of one colour: (index, 2 * index, 255)."""
    return images.encode_png(np.full((size, size, 3), (index, 2 * index, 255), np.uint8))


def write_split(stages: Stages, split: str, count: int) -> None:
    """Writes `count` records of each kind; record i has the tokens i, i + 1, i + 2, i + 3."""
    for shard in range(NUM_SHARDS):
        name = shard_names.shard_name(split, shard, NUM_SHARDS)
        indices = range(shard, count, NUM_SHARDS)
        pairs, tokens, reconstructions = [], [], []
        for i in indices:
            key, text = f"{split}-{i}", f"red {i}"
            metadata = {records.CAPTIONS: [text, f"blue {i}"]}
            pairs.append(records.ImageTextPair(key, solid(i, HIGH), text, metadata=metadata))
            row = np.arange(i, i + NUM_TOKENS)
            tokens.append(records.TokenizedPair(key, text, row, metadata))
            reconstructions.append(
                records.ReconstructedPair(key, text, solid(i, HIGH), solid(i, LOW))
            )
        for folder, rows in (
            (stages.pairs, pairs),
            (stages.tokens, tokens),
            (stages.reconstructions, reconstructions),
        ):
            tfrecords.write(folder / name, (row.to_example() for row in rows))


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    root = tmp_path_factory.mktemp("stages")
    stages = Stages(
        root / "pairs", root / "tokens", root / "reconstructions", root / "vocabulary.model"
    )
    for folder in (stages.pairs, stages.tokens, stages.reconstructions):
        folder.mkdir()
    write_split(stages, "train", TRAIN)
    write_split(stages, "validation", VALIDATION)
    corpus = (f"{colour} {i}" for colour in ("red", "blue") for i in range(TRAIN))
    settings = vocabularies.SentencePieceSettings(vocab_size=400)
    vocabularies.train_sentencepiece(corpus, stages.vocabulary, settings)
    return stages
