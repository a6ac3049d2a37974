# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import pathlib

import numpy as np
import pytest

from parti.data.storage import record_offsets, tfrecords
from parti.stages import files

ROWS = [b"", b"a", b"red circle", b"x" * 1000]


def shard(folder: pathlib.Path, rows: list[bytes] = ROWS) -> str:
    path = folder / "train-00000-of-00001.tfrecord"
    tfrecords.write(path, rows)
    return str(path)


def test_each_record_is_a_range(tmp_path: pathlib.Path) -> None:
    path = shard(tmp_path)
    (offsets,) = record_offsets.of_shards([path])
    for row, start, end in zip(ROWS, offsets[:-1], offsets[1:], strict=True):
        assert files.read_range(path, int(start), int(end - start)) == tfrecords.frame(row)
    sizes = (len(row) + tfrecords.FRAME_BYTES for row in ROWS)
    np.testing.assert_array_equal(record_offsets.of_sizes(sizes), offsets)


def test_offsets_are_written_once_and_again_for_another_shard(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard(tmp_path)
    (found,) = record_offsets.of_shards([path])
    assert pathlib.Path(record_offsets.path_of(path)).stat().st_size == 8 * (len(ROWS) + 1)
    with monkeypatch.context() as patch:
        patch.setattr(record_offsets, "scan", None)
        np.testing.assert_array_equal(record_offsets.of_shards([path])[0], found)
    shard(tmp_path, ROWS[:2])
    assert len(record_offsets.of_shards([path])[0]) == 3


def test_a_folder_that_cannot_be_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(record_offsets, "write", refuse)
    path = shard(tmp_path)
    for _ in range(2):
        assert len(record_offsets.of_shards([path])[0]) == len(ROWS) + 1
    assert [entry.name for entry in tmp_path.iterdir()] == [files.name(path)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-3], "cut off within a record"),
        (lambda data: b"x" + data[1:], "damaged, or not a TFRecord file"),
        (lambda data: data + b"1234", "cut off within a record"),
    ],
)
def test_a_damaged_shard_is_named(tmp_path: pathlib.Path, damage, message: str) -> None:
    path = shard(tmp_path)
    pathlib.Path(path).write_bytes(damage(pathlib.Path(path).read_bytes()))
    with pytest.raises(ValueError, match=f"{path}: {message}"):
        record_offsets.of_shards([path])
