# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import pytest

from parti.data.text import word_lists


def test_words_and_phrases_are_found_whole() -> None:
    found = word_lists.WordList.of(["Darn", "blue moon rising", "", "  "])
    assert found.longest == 3
    assert found.find("so darn, good") == "darn"
    assert found.find("a Blue-eyed blue MOON, rising") == "blue moon rising"
    assert found.find("darned; blue moon") is None
    assert found.find("") is None and word_lists.WordList.of([]).find("a") is None


def test_frequent_words() -> None:
    counted = [("a", 9), ("Dog", 9), ("rare", 2), ("too many words", 9), ("a dog", 9)]
    found = word_lists.FrequentWords.of(counted, 3)
    assert found.words.size == 2 and found.pairs.size == 1
    assert found.find_rare("A dog 2019") == "dog 2019"  # a pair with a word must be known
    assert found.find_rare("a dog") is None
    assert found.find_rare("a rare dog") == "rare"
    words_only = word_lists.FrequentWords.of(counted[:2], 3)
    assert words_only.find_rare("dog a 2019") is None and words_only.find_rare("") is None


def test_files_are_read_with_their_faults_named(tmp_path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# nothing\n\n")
    with pytest.raises(ValueError, match="words.txt: no words; give a file with"):
        word_lists.load_words(str(path))
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match="latin.txt: not UTF-8"):
        word_lists.load_words(str(latin))
    counts = tmp_path / "counts.txt"
    counts.write_text("dog\t12\n\ncat\n")
    with pytest.raises(ValueError, match="counts.txt, line 3: not a word and its count: 'cat'"):
        word_lists.load_frequencies(str(counts), 1)
    counts.write_text("dog\t12\n")
    with pytest.raises(ValueError, match="no word with a count of 20 or more"):
        word_lists.load_frequencies(str(counts), 20)
    with pytest.raises(FileNotFoundError):
        word_lists.load_words(str(tmp_path / "none.txt"))
