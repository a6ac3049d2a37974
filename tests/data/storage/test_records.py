# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from parti.data.storage import records

PAIR = records.ImageTextPair(
    "k1",
    b"\x89PNG\xff",
    "ein rotes Quadrat — 赤",
    width=3,
    height=2,
    source="s.tar",
    sha256="ab",
    phash="cd",
    metadata={"captions": ["a", "b", "a"], "scene": {"n": 1.5}},
)
TOKENS = records.TokenizedPair("k2", "a cat", np.array([0, 8191, 5], np.int64))
RECONSTRUCTED = records.ReconstructedPair("k3", "a cat", b"high", b"low")
GENERATION = records.Generation(
    "p00000-a-cat", "a cat", 3, 0, 0.25, 7, "images/x.png", {"top_k": 5}, {"scene": {}}
)


@pytest.mark.parametrize("record", [PAIR, TOKENS, RECONSTRUCTED], ids=lambda r: r.key)
def test_examples_round_trip(record: records.Record) -> None:
    again = type(record).from_example(record.to_example())
    assert again == record and hash(again) == hash(record)
    for field in dataclasses.fields(record):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(record, field.name))


def test_tokens_are_int32_codebook_indices() -> None:
    again = records.TokenizedPair.from_example(TOKENS.to_example())
    assert again.image_tokens.dtype == np.int32
    for wrong in ([[1, 2]], [-1], [0.5], [2**31]):
        with pytest.raises(ValueError, match="image_tokens of 'k'"):
            records.TokenizedPair("k", "", np.array(wrong))


def test_constants_name_fields() -> None:
    names = {f.name for kind in (PAIR, TOKENS, RECONSTRUCTED) for f in dataclasses.fields(kind)}
    assert {
        records.KEY,
        records.IMAGE,
        records.TEXT,
        records.METADATA,
        records.IMAGE_TOKENS,
        records.RECONSTRUCTION,
    } <= names


@pytest.mark.parametrize("record", [PAIR, TOKENS, RECONSTRUCTED], ids=lambda r: r.key)
def test_tensorflow_reads_the_bytes(record: records.Record) -> None:
    import tensorflow as tf

    example = tf.train.Example.FromString(record.to_example())
    fields = {f.name for f in dataclasses.fields(record)}
    extra = {records.CAPTIONS} if records.METADATA in fields else set()
    assert set(example.features.feature) == fields | extra
    parsed = tf.io.parse_single_example(record.to_example(), record.feature_spec())
    assert parsed[records.KEY].numpy().decode() == record.key
    # And the other way: bytes that TensorFlow wrote.
    assert type(record).from_example(example.SerializeToString()) == record


def test_captions_are_a_feature_without_the_text() -> None:
    import tensorflow as tf

    pair = records.ImageTextPair("k", b"", "b", metadata={records.CAPTIONS: ["a", "b", "c", "a"]})
    parsed = tf.io.parse_single_example(pair.to_example(), pair.feature_spec())
    assert parsed[records.CAPTIONS].numpy().tolist() == [b"a", b"c"]
    with pytest.raises(ValueError, match="list of texts"):
        records.ImageTextPair("k", b"", "b", metadata={records.CAPTIONS: "a"}).to_example()


def test_defaults_may_be_absent_and_required_features_may_not() -> None:
    bare = records.ReconstructedPair("k", "t", b"i", b"r").to_example()
    pair = records.ImageTextPair.from_example(bare)
    assert (pair.key, pair.image, pair.width, pair.metadata) == ("k", b"i", 0, {})
    with pytest.raises(ValueError, match="'image_tokens' is missing: expected a tokenized pair"):
        records.TokenizedPair.from_example(PAIR.to_example())


def test_wrong_kinds_are_refused() -> None:
    import tensorflow as tf

    example = tf.train.Example.FromString(PAIR.to_example())
    example.features.feature["width"].bytes_list.value.append(b"3")
    with pytest.raises(ValueError, match="'width' holds bytes_list, not int64_list"):
        records.ImageTextPair.from_example(example.SerializeToString())
    example = tf.train.Example.FromString(PAIR.to_example())
    example.features.feature["text"].bytes_list.value[0] = b"\xff"
    with pytest.raises(ValueError, match="'text'"):
        records.ImageTextPair.from_example(example.SerializeToString())
    with pytest.raises(ValueError, match="Not a tf.train.Example"):
        records.ImageTextPair.from_example(b"\x07garbage")


def test_generation_lines() -> None:
    line = GENERATION.to_json()
    assert "\n" not in line and records.Generation.from_json(line) == GENERATION
    unranked = dataclasses.replace(GENERATION, score=None)
    assert records.Generation.from_json(unranked.to_json()) == unranked
    cut = dataclasses.replace(GENERATION, is_truncated=True)
    assert records.Generation.from_json(cut.to_json()) == cut
    older = json.loads(line)
    assert older.pop("is_truncated") is False
    assert records.Generation.from_json(json.dumps(older)) == GENERATION
    for wrong in ("{", "[]", '{"prompt": "x"}', line[:-1] + ', "surprise": 1}'):
        with pytest.raises(ValueError, match="generations manifest"):
            records.Generation.from_json(wrong)
    with pytest.raises(ValueError, match="finite"):
        dataclasses.replace(GENERATION, score=float("nan")).to_json()


def test_no_tensorflow_to_write_records() -> None:
    code = (
        "import sys; from parti.data.images import images;"
        "from parti.data.storage import records, tfrecords;"
        "from parti.data.text import captions, prompt_files, vocabularies;"
        "records.ReconstructedPair('k', 't', b'', b'').to_example();"
        "sys.exit('tensorflow' in sys.modules or 'seqio' in sys.modules)"
    )
    root = pathlib.Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
