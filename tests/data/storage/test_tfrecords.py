# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Our TFRecord files are TensorFlow's, and damage is noticed."""

import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

from parti.data.storage import shard_names, tfrecords

LENGTHS = [0, 1, 3, 4, 5, 7, 8, 63, 64, 65, 1000, 4097, 70_001]


def rows():
    rng = np.random.default_rng(0)
    return [rng.bytes(length) for length in LENGTHS] + [b"\0" * 100, b"\xff" * 100]


def test_known_values():
    # RFC 3720, appendix B.4, and the usual check value.
    assert tfrecords.crc32c(b"\0" * 32) == 0x8A9136AA
    assert tfrecords.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert tfrecords.crc32c(bytes(range(32))) == 0x46DD794E
    assert tfrecords.crc32c(b"123456789") == 0xE3069283


def test_files_are_tensorflows(tmp_path):
    import tensorflow as tf

    tfrecords.write(tmp_path / "ours", rows())
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for row in rows():
            writer.write(row)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert list(tfrecords.read(tmp_path / "theirs")) == rows()
    assert list(tfrecords.read(f"file://{tmp_path}/theirs")) == rows()  # as gs:// is read


@pytest.mark.parametrize("offset", [3, 9, 14, -2])
def test_a_changed_byte_is_noticed(tmp_path, offset):
    path = tmp_path / "file"
    tfrecords.write(path, [b"hello world"])
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        list(tfrecords.read(path))


@pytest.mark.parametrize("length", [5, 12, 20, -1])
def test_a_cut_is_noticed(tmp_path, length):
    path = tmp_path / "file"
    tfrecords.write(path, [b"hello world"])
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="cut off"):
        list(tfrecords.read(path))


def test_files_of_records(tmp_path: pathlib.Path) -> None:
    for index, values in enumerate(([b"a", b"b"], [], [b"c"])):
        path = tmp_path / shard_names.shard_name("train", index, 3)
        assert tfrecords.write(path, values) == len(values)
    (tmp_path / "manifest.json").write_text("{}")
    assert list(tfrecords.read_pattern(tmp_path)) == [b"a", b"b", b"c"]
    assert list(tfrecords.read_pattern(f"{tmp_path}/train-00002*, {tmp_path}/train-00000*")) == [
        b"a",
        b"b",
        b"c",
    ]
    (tmp_path / "bad.tfrecord").write_bytes(b"not a TFRecord file at all")
    with pytest.raises(ValueError, match="damaged"):
        list(tfrecords.read_pattern(tmp_path / "bad.tfrecord"))


def test_an_interrupted_file_does_not_appear(tmp_path: pathlib.Path) -> None:
    def stop() -> Iterator[bytes]:
        yield b"a"
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        tfrecords.write(tmp_path / "train.tfrecord", stop())
    assert not (tmp_path / "train.tfrecord").exists()


def test_many_checksums_at_once_are_those_of_each() -> None:
    random = np.random.default_rng(0)
    pieces = [random.bytes(n) for n in (0, 1, 3, 4, 5, 7, 8, 63, 64, 65, 127, 1000, 4096, 5000)]
    many = tfrecords.crc32cs(pieces)
    assert many.tolist() == [tfrecords.crc32c(piece) for piece in pieces]
    assert tfrecords.crc32c(b"123456789") == 0xE3069283


def test_frames_are_checked() -> None:
    rows = [b"", b"abc", b"red circle" * 10]
    frames = [tfrecords.frame(row) for row in rows]
    names = ["a", "b", "c"]
    assert tfrecords.unframe(frames, names) == rows
    for index in (0, 9, 12, 50, len(frames[2]) - 1):
        damaged = bytearray(frames[2])
        damaged[index] ^= 1
        with pytest.raises(ValueError, match="c: a record is damaged"):
            tfrecords.unframe([*frames[:2], bytes(damaged)], names)
    for cut in (frames[2][:-1], frames[2] + b"x", b"", b"1234"):
        with pytest.raises(ValueError, match="c: a record is damaged"):
            tfrecords.unframe([*frames[:2], cut], names)
