# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts packed in sequences with some tokens masked: BERT's objective.

Features: those of `masking`, [length] each. Batches: `BertConverter`.
"""

import os
from collections.abc import Sequence

from parti.data.storage import data_sets
from parti.data.text import vocabularies
from parti.tasks import masking, mixtures, preprocessors, sources, texts


def add_task(
    vocabulary_path: str | os.PathLike[str],
    text_files: texts.Patterns | None = None,
    validation_files: texts.Patterns | None = None,
    pairs_dir: data_sets.Folders | None = None,
    text_field: str = "text",
    tfds_data_dir: str | os.PathLike[str] | None = None,
    mask_rate: float = 0.15,
    whole_words: bool = False,
    caption_weights: Sequence[float] | None = None,
) -> str:
    """Registers the task once and returns its name.

    The texts are those of `text_files` (see `texts.of_files`); with `tfds_data_dir` it is the name
    of a TFDS data set there, which has its own validation split. Without `text_files` they are the
    captions of the pairs, drawn with `caption_weights` (`preprocessors.choose_caption`); several
    folders, {folder: rate}, give a mixture of tasks (`mixtures.add`). `mask_rate` of the tokens, or
    with `whole_words` of the words, are to be told. Masks are others in each epoch, and in
    validation those of the seed.

    Raises:
      FileNotFoundError: no texts, or no vocabulary.
      ValueError: the vocabulary has no `<mask>`, or not before its pieces of text; a rate out of
        range; or texts that do not fit.
    """
    tokenizer = vocabularies.TextTokenizer(vocabulary_path)
    mask_id = _mask_id(tokenizer, vocabulary_path)
    vocabulary = vocabularies.seqio_text_vocabulary(vocabulary_path)
    before = (vocabulary.tokenizer.id_to_piece(i) for i in range(mask_id))
    if text := [piece for piece in before if not piece.startswith("<")]:
        raise ValueError(
            f"VOCABULARY {os.fspath(vocabulary_path)!r} has {vocabularies.MASK_PIECE} behind "
            f"{text[0]!r}, but tokens to be told are taken of those behind the mask; make it anew "
            "with `parti vocab`"
        )
    starts = masking.word_starts(vocabulary) if whole_words else None
    mask = masking.mask_tokens(mask_id, tokenizer.vocab_size, mask_rate, starts)
    arguments = {
        "text_field": text_field,
        "mask_rate": mask_rate,
        "whole_words": whole_words,
        "vocabulary": [os.fspath(vocabulary_path), tokenizer.fingerprint],
    }
    features = masking.output_features(vocabulary)

    def add(kind: str, found: texts.Texts, more: dict[str, list[float]]) -> str:
        steps = [preprocessors.in_chunks(*found.steps, masking.pack_texts, mask)]
        return sources.register(
            kind, found.shards, arguments | more, steps, features, source=found.source
        )

    def add_captions(kind: str, folder: str) -> str:
        more = preprocessors.caption_arguments(caption_weights)
        return add(kind, texts.of_pairs(folder, caption_weights), more)

    found = _texts(text_files, validation_files, text_field, tfds_data_dir)
    if found:
        return add("bert", found, {})
    if not pairs_dir:
        raise ValueError(
            "neither TEXTS nor PAIRS_DIR is set: name files of text or a TFDS data set in "
            "TEXTS, or pairs, for their captions, in PAIRS_DIR"
        )
    return mixtures.add("bert", pairs_dir, "PAIRS_DIR", add_captions)


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
    text_field: str,
    tfds_data_dir: str | os.PathLike[str] | None,
) -> texts.Texts | None:
    """Returns the texts of TEXTS, if it is set."""
    if not text_files:
        if validation_files or tfds_data_dir:
            raise ValueError("VALIDATION_TEXTS and TFDS_DATA_DIR belong to TEXTS, which is not set")
        return None
    if not tfds_data_dir:
        return texts.of_files(text_files, validation_files, text_field)
    if not isinstance(text_files, str) or validation_files:
        raise ValueError(
            "with TFDS_DATA_DIR, TEXTS is the name of one data set of TFDS, whose split "
            f"'validation' is taken, and VALIDATION_TEXTS is not set; TEXTS is {text_files!r}"
        )
    return texts.of_tfds(text_files, tfds_data_dir, text_field)
