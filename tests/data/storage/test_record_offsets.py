# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import itertools
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
        assert files.Ranges(path).read(int(start), int(end - start)) == tfrecords.frame(row)
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


@pytest.mark.parametrize("split", [[4], [1, 3], [0, 2, 0, 2], []])
def test_a_joined_shard_and_its_offsets(tmp_path: pathlib.Path, split: list[int]) -> None:
    rows, pieces = iter(ROWS), [str(tmp_path / f"{i}") for i in range(len(split))]
    for piece, count in zip(pieces, split, strict=True):
        tfrecords.write(piece, itertools.islice(rows, count))
    path = str(tmp_path / "joined.tfrecord")
    record_offsets.join(iter(pieces), path)
    kept = ROWS[: sum(split)]
    assert list(tfrecords.read(path)) == kept
    written = files.read_bytes(record_offsets.path_of(path))
    assert record_offsets.write_shard(tmp_path / "one.tfrecord", iter(kept)) == len(kept)
    assert files.read_bytes(tmp_path / "one.tfrecord") == files.read_bytes(path)
    assert files.read_bytes(tmp_path / ".one.tfrecord.offsets") == written
    assert written == record_offsets.scan(path).tobytes()


def test_a_damaged_piece_is_not_joined(tmp_path: pathlib.Path) -> None:
    piece = pathlib.Path(shard(tmp_path))
    piece.write_bytes(piece.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{piece}: cut off within a record"):
        record_offsets.join([piece], tmp_path / "joined.tfrecord")
    assert [entry.name for entry in tmp_path.iterdir()] == [piece.name]


@pytest.mark.parametrize("error", [PermissionError("read-only"), files.AccessError("gs://: 403")])
def test_a_folder_that_cannot_be_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

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
