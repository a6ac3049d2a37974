# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import itertools
import pathlib
import pickle

import numpy as np
import pytest

from parti.data import vocabularies

CORPUS = [
    f"a {colour} {shape} {relation} a {other} cross"
    for colour, shape, relation, other in itertools.product(
        ["red", "blue"], ["circle", "square"], ["left of", "above"], ["grey", "green"]
    )
]
TEXTS = [
    "a red circle left of a green cross",
    "",
    "zebra Ünïcödé 赤 \U0001f600",
    "  spaced   out ",
    "A RED CIRCLE",
    "a <mask> circle",
]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("vocab") / "vocabulary.model"
    assert vocabularies.train_sentencepiece(iter(CORPUS), path, 1000) > 260
    return path


def test_training_is_repeatable(model_path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    again = tmp_path / "again.model"
    vocabularies.train_sentencepiece(iter(CORPUS), again, 1000)
    assert again.read_bytes() == model_path.read_bytes()
    vocabularies.train_sentencepiece(iter(CORPUS), again, 1000, model_type="unigram")
    assert again.read_bytes() != model_path.read_bytes()


def test_words_of_a_small_world_are_pieces(model_path: pathlib.Path) -> None:
    tokenizer = vocabularies.TextTokenizer(model_path)
    ids = tokenizer.encode("a red circle", 8)
    assert ids.dtype == np.int32
    assert (ids != 0).sum() == 4 and ids[3] == vocabularies.EOS_ID
    assert tokenizer.vocab_size < 1000  # a small corpus gives fewer pieces than asked for


def test_lengths_and_null_caption(model_path: pathlib.Path) -> None:
    tokenizer = vocabularies.TextTokenizer(model_path)
    assert tokenizer.encode("", 4).tolist() == [1, 0, 0, 0]
    full = tokenizer.encode(CORPUS[0], 64)
    short = tokenizer.encode(CORPUS[0], 4)
    assert short.tolist() == [*full[:3], 1]
    assert tokenizer.encode(CORPUS[0], 1).tolist() == [1]
    with pytest.raises(ValueError, match="length=0"):
        tokenizer.encode("a", 0)


@pytest.mark.parametrize("text", [CORPUS[0], "zebra Ünïcödé 赤", ""])
def test_decode_inverts_encode(model_path: pathlib.Path, text: str) -> None:
    tokenizer = vocabularies.TextTokenizer(model_path)
    assert tokenizer.decode(tokenizer.encode(text, 64)) == text


def test_mask_is_reserved(model_path: pathlib.Path) -> None:
    tokenizer = vocabularies.TextTokenizer(model_path)
    assert tokenizer.mask_id == 3 and tokenizer.mask_id in tokenizer.encode("a <mask>", 8)


@pytest.mark.parametrize("text", TEXTS)
def test_same_ids_as_seqio(model_path: pathlib.Path, text: str) -> None:
    tokenizer = vocabularies.TextTokenizer(model_path)
    vocabulary = vocabularies.seqio_text_vocabulary(model_path)
    ids = tokenizer.encode(text, 128)
    expected = [*vocabulary.encode(text), vocabulary.eos_id]
    assert ids[: len(expected)].tolist() == expected and not ids[len(expected) :].any()
    assert vocabulary.encode_tf(text).numpy().tolist() == expected[:-1]
    assert vocabulary.vocab_size == tokenizer.vocab_size
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)


def test_a_tokenizer_travels_to_workers(model_path: pathlib.Path) -> None:
    tokenizer = vocabularies.TextTokenizer(model_path.parent)  # the directory stands for the file
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.fingerprint == tokenizer.fingerprint and len(again.fingerprint) == 64
    np.testing.assert_array_equal(again.encode("a red", 6), tokenizer.encode("a red", 6))


def test_errors_name_the_remedy(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="parti vocab"):
        vocabularies.TextTokenizer(tmp_path / "absent.model")
    (tmp_path / "bad.model").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        vocabularies.TextTokenizer(tmp_path / "bad.model")
    path = tmp_path / "v.model"
    with pytest.raises(ValueError, match="No captions"):
        vocabularies.train_sentencepiece(iter(["", "  "]), path, 300)
    with pytest.raises(ValueError, match="vocab_size=100"):
        vocabularies.train_sentencepiece(iter(CORPUS), path, 100)
    with pytest.raises(ValueError, match="model_type"):
        vocabularies.train_sentencepiece(iter(CORPUS), path, 300, model_type="words")
    assert not path.exists()


def test_image_ids() -> None:
    vocabulary = vocabularies.ImageTokenVocabulary(8192)
    assert vocabulary.vocab_size == 8320  # 65 * 128, the first multiple of 128 over 8193
    assert vocabularies.ImageTokenVocabulary(127).vocab_size == 128
    assert vocabularies.ImageTokenVocabulary(128).vocab_size == 256
    tokens = np.array([0, 8191])
    assert vocabulary.to_ids(tokens).tolist() == [1, 8192]
    np.testing.assert_array_equal(vocabulary.to_tokens(vocabulary.to_ids(tokens)), tokens)
    with pytest.raises(ValueError, match="codebook_size=0"):
        vocabularies.ImageTokenVocabulary(0)
