# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti vocab`: a model of the train captions, the same for any workers and any order of pairs."""

import json
import pathlib

import fake_remote
import numpy as np
import pytest
import tiny_models

from parti.data.images import images
from parti.data.storage import records, shard_names, tfrecords
from parti.data.text import captions, vocabularies
from parti.engine.inference import bundles
from parti.pipelines import train_vocabulary
from parti.stages import files, manifests, publishing

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "white")
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "moon")
CAPTIONS = [f"a {c} {s} on the left of a {d}" for c in COLOURS for s in SHAPES for d in SHAPES]
HELD_OUT = ("\u00e9\u00e9\u00e9 caf\u00e9", "a red circle")
GERMAN = [
    f"Der kleine Hund l\u00e4uft mit Ball {i} durch den Garten hinter dem Haus" for i in range(30)
]


def write_pairs(folder, order=1):
    """Writes pairs as `parti clean` does; the validation captions hold a letter of their own."""
    texts = [*CAPTIONS, *GERMAN, *["photo"] * 100][::order]
    with publishing.OutputDirectory(folder, "pairs") as stage:
        for shard in range(2):
            rows = [
                records.ImageTextPair(
                    f"k{i}", b"", text, metadata={"captions": [f"{text} again", text]}
                ).to_example()
                for i, text in enumerate(texts)
                if i % 2 == shard
            ]
            tfrecords.write(
                pathlib.Path(stage.address) / shard_names.shard_name("train", shard, 2), rows
            )
        held = [records.ImageTextPair(f"v{i}", b"", t).to_example() for i, t in enumerate(HELD_OUT)]
        tfrecords.write(pathlib.Path(stage.address) / "validation-00000-of-00001.tfrecord", held)
        stage.publish(counts={})
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("raw") / "pairs")


@pytest.fixture(scope="module")
def vocabulary(pairs, tmp_path_factory):
    output = tmp_path_factory.mktemp("vocab") / "vocabulary"
    flags = [f"--input={pairs}", f"--output={output}", "--vocab_size=400", "--num_sentinels=2"]
    assert train_vocabulary.run([*flags, "--character_coverage=1"]) == 0
    return output


def pieces_of(folder):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "vocabulary.model"))
    return [model.id_to_piece(i) for i in range(model.get_piece_size())]


def test_published_folder(vocabulary):
    assert {path.name for path in vocabulary.iterdir()} == {
        "vocabulary.model",
        "report.json",
        "report.html",
        "manifest.json",
    }
    manifest = manifests.read(vocabulary, "vocabulary")
    tokenizer = vocabularies.TextTokenizer(vocabulary)
    # Two captions for each of 642 pairs: `text` and one of `captions` are the same.
    counts = {"captions": 2 * 642, "used": 2 * (512 + 30 + 1), "pieces": tokenizer.vocab_size}
    assert manifest["counts"] == counts
    assert manifest["settings"]["num_sentinels"] == 2 and manifest["settings"]["byte_fallback"]
    assert manifest["vocabulary_fingerprint"] == tokenizer.fingerprint
    text = "a red circle on the left of a star"
    assert tokenizer.decode(tokenizer.encode(text, 32)) == text
    assert [tokenizer.symbol_id(f"<extra_id_{i}>") for i in range(2)] == [4, 5]


def test_report(vocabulary):
    report = json.loads((vocabulary / "report.json").read_text())
    train, held_out = report["train"], report["held_out"]
    assert 1 <= train["pieces_per_word"] < 4 and train["captions"] == 2 * 642
    assert train["unknown_rate"] == 0 and train["byte_rate"] == 0
    lengths = train["length_percentiles"]
    # 100 of the 642 pairs say "photo" or "photo again".
    assert lengths["50"] > 8 and lengths["50"] <= lengths["90"] <= lengths["99"] < 64
    assert train["over_length_rate"] == 0 and sum(report["histogram"]) == pytest.approx(1, abs=1e-4)
    # Six times an e with an accent, that no training caption has: two bytes each.
    assert held_out["captions"] == 2 and held_out["byte_rate"] > 0.3
    rows = {row["language"]: row for row in report["languages"]}
    assert 30 <= rows["de"]["captions"] <= 60
    assert sum(row["captions"] for row in rows.values()) == train["captions"]
    assert any(e["language"] == "de" and "Hund" in e["text"] for e in report["examples"])
    assert "pieces for 1,284 captions" in (vocabulary / "report.html").read_text()


def test_validation_captions_are_not_seen(vocabulary):
    assert not any("\u00e9" in piece for piece in pieces_of(vocabulary))


@pytest.mark.parametrize("how", ["processes", "order"])
def test_same_bytes(pairs, vocabulary, tmp_path, how):
    if how == "order":
        pairs = write_pairs(tmp_path / "pairs", order=-1)
    workers = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    train_vocabulary.run(
        [
            f"--input={pairs}",
            f"--output={tmp_path / 'v'}",
            *("--vocab_size=400", "--num_sentinels=2", "--character_coverage=1"),
            *(workers if how == "processes" else []),
        ]
    )
    for path in vocabulary.iterdir():
        # The manifest says where the input was.
        if how == "processes" or path.name != "manifest.json":
            assert (tmp_path / "v" / path.name).read_bytes() == path.read_bytes(), path.name


def test_same_bytes_in_an_object_store(pairs, vocabulary, tmp_path, monkeypatch):
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    for path in pairs.iterdir():
        files.write_bytes(f"store://in/pairs/{path.name}", path.read_bytes())
    flags = ["--vocab_size=400", "--num_sentinels=2", "--character_coverage=1"]
    output = "store://out/vocabulary"
    train_vocabulary.run(["--input=store://in/pairs", f"--output={output}", *flags])
    names = {files.name(entry.path) for entry in files.walk("store://out")}
    assert names == {path.name for path in vocabulary.iterdir()}
    for name in names - {"manifest.json"}:
        assert files.read_bytes(f"{output}/{name}") == (vocabulary / name).read_bytes(), name


def test_sample_is_bounded_and_settings_count(pairs, tmp_path):
    flags = [f"--input={pairs}", f"--output={tmp_path / 'v'}", "--vocab_size=250"]
    flags += ["--no_byte_fallback", "--symbols", "<sep>", "<style>", "--model_type=unigram"]
    train_vocabulary.run([*flags, "--max_captions=200", "--frequency_power=1"])
    counts = manifests.read(tmp_path / "v", "vocabulary")["counts"]
    assert counts["captions"] == 2 * 642 and 190 <= counts["used"] <= 200
    pieces = pieces_of(tmp_path / "v")
    assert pieces[:6] == ["<pad>", "</s>", "<unk>", "<mask>", "<sep>", "<style>"]
    assert not any(piece.startswith("<0x") for piece in pieces)
    report = json.loads((tmp_path / "v" / "report.json").read_text())
    assert report["held_out"]["unknown_rate"] > 0
    # The sample stands for all captions.
    assert abs(report["train"]["captions"] - 2 * 642) < 200


def test_messages(pairs, tmp_path):
    output = f"--output={tmp_path / 'v'}"
    with pytest.raises(FileNotFoundError, match="no such file"):
        train_vocabulary.run([f"--input={tmp_path / 'none'}", output])
    (tmp_path / "half.unfinished").mkdir()
    with pytest.raises(FileNotFoundError, match="`parti clean` has not finished; run it again"):
        train_vocabulary.run([f"--input={tmp_path / 'half'}", output])
    (tmp_path / "table.csv").write_text("url,caption\nhttp://localhost/a.png,a cat\n")
    with pytest.raises(ValueError, match="table.csv: a table, .* with `parti clean`"):
        train_vocabulary.run([f"--input={tmp_path / 'table.csv'}", output])
    for flag, message in (
        ("--vocab_size=0", "--vocab_size=0: give a positive number"),
        ("--max_captions=0", "--max_captions=0: give a positive number"),
        ("--frequency_power=2", "--frequency_power=2.0: give a value from 0 to 1"),
        ("--frequency_cap=-1", "--frequency_cap=-1: give 0"),
        ("--symbols=MASK", "--symbols='MASK': write <name>"),
        ("--vocab_size=10", "vocab_size=10 "),
    ):
        with pytest.raises(ValueError, match=message):
            train_vocabulary.run([f"--input={pairs}", output, flag])
    assert not (tmp_path / "v").exists() and not (tmp_path / "v.unfinished").exists()


# What users write, and what `parti clean` makes of it in the pairs.
RAW = [
    "a red circle on the left of a star",
    "  A Red&nbsp;circle\nabove a <b>ring</b> ",
    "a <mask> circle <extra_id_0> star",
    "caf\u00e9 cafe\u0301 \u0152uvre stra\u00dfe",
    "\u8d64\u3044\u5186 \uff21\uff22\uff23 \ufb01ne \u00bd",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f600",
    "\u0645\u0631\u0628\u0639 \u05e2\u05d1\u05e8\u05d9\u05ea \u0939\u093f\u0928\u094d\u0926\u0940",
    "\u2581 under\u2581score \u2581",
    "one\u2028two\tthree\0four\ufeff",
    "word " * 200,
    "",
]
TEXT_LENGTH = 16


def test_same_ids_in_job_training_and_generation(vocabulary, tmp_path):
    """The job's report, the seqio task that trains, and the handler that generates agree."""
    import seqio

    from parti.tasks import contrastive

    size = vocabularies.TextTokenizer(vocabulary).vocab_size
    part = tiny_models.part("generator", text_vocab_size=size, text_length=TEXT_LENGTH)
    bundles.write_bundle(
        tmp_path / "bundle",
        {"tokenizer": tiny_models.part("tokenizer"), "generator": part},
        vocabulary,
    )
    bundled = bundles.load_part(tmp_path / "bundle", "generator")
    generated = bundled.encode_texts(RAW)
    assert generated.shape == (len(RAW), TEXT_LENGTH) and len(np.unique(generated, axis=0)) > 9

    picture = images.encode_png(np.zeros((4, 4, 3), np.uint8))
    clean = [captions.normalize_caption(text) for text in RAW]
    rows = [records.ImageTextPair(str(i), picture, t).to_example() for i, t in enumerate(clean)]
    folder = tmp_path / "pairs"
    folder.mkdir()
    for split in ("train", "validation"):
        tfrecords.write(folder / shard_names.shard_name(split, 0, 1), rows)
    task = seqio.get_mixture_or_task(contrastive.add_task(folder, vocabulary, 4))
    lengths = {"inputs": TEXT_LENGTH, "image": 4}
    dataset = task.get_dataset(lengths, "validation", shuffle=False)
    trained = [np.trim_zeros(row["inputs"], "b").tolist() for row in dataset.as_numpy_iterator()]
    assert trained == [np.trim_zeros(row, "b").tolist() for row in generated]

    report = json.loads((vocabulary / "report.json").read_text())
    for example in report["examples"]:
        ids = bundled.vocabulary.encode(example["text"], len(example["ids"]) + 1)
        assert ids.tolist() == [*example["ids"], vocabularies.EOS_ID]
        assert example["num_tokens"] == len(ids)
