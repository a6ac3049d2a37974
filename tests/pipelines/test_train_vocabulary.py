# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti vocab`: a model of the train captions, the same for any workers."""

import json

import pytest

from parti.data import file_names, records, tfrecords, vocabularies
from parti.engine import manifests
from parti.pipelines import staging, train_vocabulary

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "white")
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "moon")


def write_pairs(folder):
    """Writes pairs as `parti clean` does; the validation captions hold a letter of their own."""
    captions = [f"a {c} {s} on the left of a {d}" for c in COLOURS for s in SHAPES for d in SHAPES]
    with staging.Staging(folder, "pairs") as stage:
        for shard in range(2):
            rows = [
                records.ImageTextPair(
                    f"k{i}", b"", text, metadata={"captions": [f"{text} again", text]}
                ).to_example()
                for i, text in enumerate(captions)
                if i % 2 == shard
            ]
            tfrecords.write(stage.path / file_names.shard_name("train", shard, 2), rows)
        held = records.ImageTextPair("v", b"", "\u00e9\u00e9\u00e9 caf\u00e9")
        tfrecords.write(stage.path / "validation-00000-of-00001.tfrecord", [held.to_example()])
        stage.publish(counts={})
    return len(captions)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "pairs"
    write_pairs(folder)
    return folder


@pytest.fixture(scope="module")
def vocabulary(pairs, tmp_path_factory):
    output = tmp_path_factory.mktemp("vocab") / "vocabulary"
    flags = [f"--input={pairs}", f"--output={output}", "--vocab_size=320"]
    assert train_vocabulary.run(flags) == 0
    return output


def test_published_folder(vocabulary):
    assert {path.name for path in vocabulary.iterdir()} == {
        "vocabulary.model",
        "report.json",
        "manifest.json",
    }
    manifest = manifests.read(vocabulary, "vocabulary")
    tokenizer = vocabularies.TextTokenizer(vocabulary)
    # Two captions for each of 512 pairs: `text` and one of `captions` are the same.
    assert manifest["counts"] == {"captions": 1024, "used": 1024, "pieces": tokenizer.vocab_size}
    assert manifest["vocabulary_fingerprint"] == tokenizer.fingerprint
    text = "a red circle on the left of a star"
    assert tokenizer.decode(tokenizer.encode(text, 32)) == text


def test_report(vocabulary):
    report = json.loads((vocabulary / "report.json").read_text())
    assert 1 <= report["pieces_per_word"] < 4
    assert report["unknown_rate"] == 0 and report["byte_rate"] == 0
    lengths = report["length_percentiles"]
    assert 10 < lengths["50"] <= lengths["90"] <= lengths["99"] <= lengths["100"] < 64
    assert report["over_length_rate"] == 0
    assert len(report["examples"]) == 8


def test_validation_captions_are_not_seen(vocabulary):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary / "vocabulary.model"))
    pieces = {model.id_to_piece(i) for i in range(model.get_piece_size())}
    assert not any("\u00e9" in piece for piece in pieces)


def test_same_model_for_any_number_of_workers(pairs, vocabulary, tmp_path):
    train_vocabulary.run(
        [
            f"--input={pairs}",
            f"--output={tmp_path / 'v'}",
            "--vocab_size=320",
            "--direct_num_workers=2",
            "--direct_running_mode=multi_processing",
        ]
    )
    for path in vocabulary.iterdir():
        assert (tmp_path / "v" / path.name).read_bytes() == path.read_bytes(), path.name


def test_sample_is_bounded(pairs, tmp_path):
    flags = [f"--input={pairs}", f"--output={tmp_path / 'v'}", "--vocab_size=300"]
    train_vocabulary.run([*flags, "--max_sentences=200"])
    counts = manifests.read(tmp_path / "v", "vocabulary")["counts"]
    assert counts["captions"] == 1024 and 140 < counts["used"] < 260


def test_messages(pairs, tmp_path):
    output = f"--output={tmp_path / 'v'}"
    with pytest.raises(FileNotFoundError, match="no such file"):
        train_vocabulary.run([f"--input={tmp_path / 'none'}", output])
    (tmp_path / "half.unfinished").mkdir()
    with pytest.raises(FileNotFoundError, match="`parti clean` has not finished; run it again"):
        train_vocabulary.run([f"--input={tmp_path / 'half'}", output])
    with pytest.raises(ValueError, match="--vocab_size=0: give a positive number"):
        train_vocabulary.run([f"--input={pairs}", output, "--vocab_size=0"])
    with pytest.raises(ValueError, match="vocab_size=10 "):
        train_vocabulary.run([f"--input={pairs}", output, "--vocab_size=10"])
    assert not (tmp_path / "v").exists() and not (tmp_path / "v.unfinished").exists()
