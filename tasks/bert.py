# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts packed in sequences with some tokens masked: BERT's objective.

Features: those of `masking`, [length] each. Batches: `BertConverter`.
"""

import os

from parti.data.text import vocabularies
from parti.tasks import masking, preprocessors, sources, texts


def add_task(
    vocabulary_path: str | os.PathLike[str],
    text_files: texts.Patterns | None = None,
    validation_files: texts.Patterns | None = None,
    pairs_dir: str | os.PathLike[str] | None = None,
    text_field: str = "text",
    tfds_data_dir: str | os.PathLike[str] | None = None,
    mask_rate: float = 0.15,
    whole_words: bool = False,
) -> str:
    """Registers the task once and returns its name.

    The texts are those of `text_files` (see `texts.of_files`); with `tfds_data_dir` it is the name
    of a TFDS data set there, which has its own validation split; without `text_files` they are the
    captions of the pairs. `mask_rate` of the tokens, or with `whole_words` of the words, are to be
    told. Masks are others in each epoch, and in validation those of the seed.

    Raises:
      FileNotFoundError: no texts, or no vocabulary.
      ValueError: the vocabulary has no `<mask>`; a rate out of range; or texts that do not fit.
    """
    tokenizer = vocabularies.TextTokenizer(vocabulary_path)
    mask_id = _mask_id(tokenizer, vocabulary_path)
    found = _texts(text_files, validation_files, pairs_dir, text_field, tfds_data_dir)
    vocabulary = vocabularies.seqio_text_vocabulary(vocabulary_path)
    starts = masking.word_starts(vocabulary) if whole_words else None
    mask = masking.mask_tokens(mask_id, tokenizer.vocab_size, mask_rate, starts)
    steps = [preprocessors.in_chunks(*found.steps, masking.pack_texts, mask)]
    arguments = {
        "text_field": text_field,
        "mask_rate": mask_rate,
        "whole_words": whole_words,
        "vocabulary": [os.fspath(vocabulary_path), tokenizer.fingerprint],
    }
    features = masking.output_features(vocabulary)
    return sources.register("bert", found.shards, arguments, steps, features, source=found.source)


def _mask_id(tokenizer: vocabularies.TextTokenizer, path: str | os.PathLike[str]) -> int:
    try:
        return tokenizer.symbol_id(vocabularies.MASK_PIECE)
    except ValueError as error:
        raise ValueError(
            f"VOCABULARY {os.fspath(path)!r} has no {vocabularies.MASK_PIECE}, which BERT needs; "
            "make it anew with `parti vocab`, which reserves one, or set BERT_WEIGHT = 0"
        ) from error


def _texts(
    text_files: texts.Patterns | None,
    validation_files: texts.Patterns | None,
    pairs_dir: str | os.PathLike[str] | None,
    text_field: str,
    tfds_data_dir: str | os.PathLike[str] | None,
) -> texts.Texts:
    if not text_files:
        if validation_files or tfds_data_dir:
            raise ValueError("VALIDATION_TEXTS and TFDS_DATA_DIR belong to TEXTS, which is not set")
        if not pairs_dir:
            raise ValueError(
                "neither TEXTS nor PAIRS_DIR is set: name files of text or a TFDS data set in "
                "TEXTS, or pairs, for their captions, in PAIRS_DIR"
            )
        return texts.of_pairs(pairs_dir)
    if not tfds_data_dir:
        return texts.of_files(text_files, validation_files, text_field)
    if not isinstance(text_files, str) or validation_files:
        raise ValueError(
            "with TFDS_DATA_DIR, TEXTS is the name of one data set of TFDS, whose split "
            f"'validation' is taken, and VALIDATION_TEXTS is not set; TEXTS is {text_files!r}"
        )
    return texts.of_tfds(text_files, tfds_data_dir, text_field)
