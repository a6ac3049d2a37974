# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import copy
import itertools
import pathlib
import pickle

import fake_remote
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from parti.data.text import captions, vocabularies
from parti.stages import files

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
    "▁a ▁ red",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 ﬁne ｆｕｌｌ ½",
    "tab\tline\nend\0",
    "<extra_id_0> cross <extra_id_1>",
]


def settings(**changes: object) -> vocabularies.SentencePieceSettings:
    given = {"vocab_size": 1000, "num_sentinels": 2, **changes}
    return vocabularies.SentencePieceSettings(**given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("vocab") / "vocabulary.model"
    assert vocabularies.train_sentencepiece(CORPUS, path, settings()) > 260
    return path


@pytest.fixture(scope="module")
def no_bytes_path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("vocab") / "vocabulary.model"
    vocabularies.train_sentencepiece(CORPUS, path, settings(byte_fallback=False))
    return path


def test_training_is_repeatable(model_path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    again = tmp_path / "again.model"
    vocabularies.train_sentencepiece(CORPUS, again, settings())
    assert again.read_bytes() == model_path.read_bytes()
    vocabularies.train_sentencepiece(CORPUS, again, settings(model_type="unigram"))
    unigram = again.read_bytes()
    assert unigram != model_path.read_bytes()
    vocabularies.train_sentencepiece(CORPUS, again, settings(model_type="unigram"))
    assert again.read_bytes() == unigram


@pytest.mark.parametrize("model_type", vocabularies.MODEL_TYPES)
def test_a_count_stands_for_repeats(tmp_path: pathlib.Path, model_type: str) -> None:
    wanted = settings(model_type=model_type, vocab_size=290)
    paths = [tmp_path / name for name in ("counted", "repeated", "even")]
    counted = [(text, 1 + 20 * ("grey" in text)) for text in CORPUS]
    repeated = [text for text, count in counted for _ in range(count)]
    for path, sentences in zip(paths, (counted, repeated, CORPUS)):
        vocabularies.train_sentencepiece(sentences, path, wanted)
    texts = ["a grey circle", "a green circle", "a blue square above"]
    found = [
        [vocabularies.TextTokenizer(path).encode(text, 40).tolist() for text in texts]
        for path in paths
    ]
    # Unigram's first pieces are of distinct sentences, but their scores follow the counts.
    assert found[0] == found[1] or model_type == "unigram"
    assert found[0] != found[2]


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


def test_without_bytes_a_strange_character_is_lost(
    model_path: pathlib.Path, no_bytes_path: pathlib.Path
) -> None:
    with_bytes = vocabularies.TextTokenizer(model_path).encode("a 赤", 9)
    without = vocabularies.TextTokenizer(no_bytes_path).encode("a 赤", 9)
    assert vocabularies.UNK_ID not in with_bytes and vocabularies.UNK_ID in without
    sizes = [vocabularies.TextTokenizer(p).vocab_size for p in (model_path, no_bytes_path)]
    assert sizes[0] - sizes[1] == 256


def test_rare_characters_are_covered_as_asked(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "v.model"
    sentences = [("a red circle", 10_000), ("Ω", 1)]
    for coverage, is_covered in ((1.0, True), (0.999, False)):
        vocabularies.train_sentencepiece(sentences, path, settings(character_coverage=coverage))
        ids = vocabularies.TextTokenizer(path).encode("Ω", 9)
        assert (np.count_nonzero(ids) < 4) == is_covered  # else a space, two bytes, the end


def test_symbols_have_fixed_ids(model_path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tokenizer = vocabularies.TextTokenizer(model_path)
    assert tokenizer.symbol_id("<mask>") == 3 and 3 in tokenizer.encode("a <mask>", 8)
    assert [tokenizer.symbol_id(f"<extra_id_{i}>") for i in range(2)] == [4, 5]
    with pytest.raises(ValueError, match="no '<sep>'; make it with"):
        tokenizer.symbol_id("<sep>")
    path = tmp_path / "v.model"
    given = settings(symbols=("<sep>", "<style>"), num_sentinels=1, byte_fallback=False)
    vocabularies.train_sentencepiece(CORPUS, path, given)
    tokenizer = vocabularies.TextTokenizer(path)
    names = ("<mask>", "<sep>", "<style>", "<extra_id_0>")
    assert [tokenizer.symbol_id(name) for name in names] == [3, 4, 5, 6]
    assert 4 in tokenizer.encode("red<sep>blue", 12)
    # A caption cannot hold one: normal form takes such marks out.
    assert captions.normalize_caption(" ".join(names)) == ""


@pytest.mark.parametrize("path", ["model_path", "no_bytes_path"])
@pytest.mark.parametrize("text", TEXTS)
def test_same_ids_as_seqio(path: str, text: str, request: pytest.FixtureRequest) -> None:
    check_same_ids(request.getfixturevalue(path), text)


@hypothesis.settings(max_examples=100)
@hypothesis.given(strategies.text(max_size=60))
def test_any_text_has_the_same_ids_in_seqio(model_path: pathlib.Path, text: str) -> None:
    check_same_ids(model_path, captions.normalize_caption(text))


def check_same_ids(model_path: pathlib.Path, text: str) -> None:
    tokenizer = vocabularies.TextTokenizer(model_path)
    vocabulary = vocabularies.seqio_text_vocabulary(model_path)
    ids = tokenizer.encode(text, 512)
    expected = [*vocabulary.encode(text), vocabulary.eos_id]
    assert ids[: len(expected)].tolist() == expected and not ids[len(expected) :].any()
    assert vocabulary.encode_tf(text).numpy().tolist() == expected[:-1]
    assert vocabulary.vocab_size == tokenizer.vocab_size
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)


def test_a_vocabulary_of_a_store(
    model_path: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow knows no such addresses; gin copies what it is given."""
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    address = "store://bucket/v.model"
    files.concatenate([model_path], address)
    vocabulary = vocabularies.seqio_text_vocabulary(address)
    for found in (vocabulary, copy.deepcopy(vocabulary)):
        assert found.encode("a red circle") == vocabulary.encode("a red circle")
        assert found.encode_tf("a red circle").numpy().tolist() == found.encode("a red circle")
    assert len(vocabulary.encode("a red circle")) > 2


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
        vocabularies.train_sentencepiece(["", "  "], path, settings())
    with pytest.raises(ValueError, match="vocab_size=100 .*holds 262 special pieces"):
        vocabularies.train_sentencepiece(CORPUS, path, settings(vocab_size=100))
    assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0: give a positive number"),
        ({"model_type": "words"}, "model_type='words': it must be one of"),
        ({"character_coverage": 1.5}, "character_coverage=1.5: give a share"),
        ({"num_sentinels": -1}, "num_sentinels=-1: give 0 or more"),
        ({"symbols": ("[MASK]",)}, r"symbols='\[MASK\]': write <name>"),
        ({"symbols": ("<unk>",)}, "symbols='<unk>': write <name>"),
        ({"symbols": ("<mask>",)}, "symbols='<mask>': it is there twice"),
        ({"symbols": ("<extra_id_1>",)}, "symbols='<extra_id_1>': it is there twice"),
    ],
)
def test_settings_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


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
