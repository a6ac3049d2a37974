# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checksums: each file once, whoever summed it, divided evenly among who compares them."""

import json
import pathlib
import zlib

import pytest

from parti.engine.checkpoints import checksums


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Returns a folder of files of 1 to 6 bytes, named after their sizes."""
    for size, name in enumerate(("a/1", "a/2", "b/c/3", "b/c/4", "5", "6"), start=1):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(range(size)))
    return tmp_path


def read(folder: pathlib.Path) -> dict[str, list[int]]:
    return json.loads((folder / "checksums.json").read_text())


def test_sums_of_parts_are_taken_over(folder: pathlib.Path) -> None:
    checksums.write(folder / "b" / "c")
    assert read(folder / "b" / "c").keys() == {"3", "4"}
    (folder / "b" / "c" / "3").write_bytes(b"changed after it was summed")
    checksums.write(folder, without=["6"])
    crc32 = {size: zlib.crc32(bytes(range(size))) for size in range(1, 6)}
    names = {1: "a/1", 2: "a/2", 3: "b/c/3", 4: "b/c/4", 5: "5"}
    assert read(folder) == {names[size]: [size, crc32[size]] for size in names}
    assert not (folder / "b" / "c" / "checksums.json").exists()
    with pytest.raises(ValueError, match="b/c/3 has 27 bytes, not 3"):
        checksums.verify(folder)
    checksums.verify(folder, below="a")


def test_shares_are_of_like_size_and_leave_nothing_out(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checksums.write(folder)
    shares: list[list[int]] = []
    sum_file = checksums._sum

    def count(path: str) -> tuple[int, int]:
        shares[-1].append(int(pathlib.Path(path).name))
        return sum_file(path)

    monkeypatch.setattr(checksums, "_sum", count)
    for part in range(3):
        shares.append([])
        checksums.verify(folder, part, num_parts=3)
    assert [sorted(share) for share in shares] == [[3, 6], [2, 5], [1, 4]]


def test_a_folder_without_checksums_passes_but_no_half_one(folder: pathlib.Path) -> None:
    checksums.verify(folder)
    (folder / "checksums.json").write_text('{"a/1": [1, ')
    with pytest.raises(ValueError):
        checksums.verify(folder)
