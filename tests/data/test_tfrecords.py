# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Our TFRecord files are TensorFlow's, and damage is noticed."""

import numpy as np
import pytest

from parti.data import records, tfrecords

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
    tfrecords.write(tmp_path / "ours", rows())
    records.write_tfrecords(tmp_path / "theirs", rows())
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert list(tfrecords.read(tmp_path / "theirs")) == rows()


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
