# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Three processes on the loopback find the records of shards together."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import train_process

from parti.data.storage import record_offsets, shard_names, tfrecords
from parti.engine.input import shared_offsets

COUNTS = (3, 0, 2, 1, 5, 1, 2)  # records of each shard
PROCESSES = 3
NAMES = [shard_names.shard_name("train", i, len(COUNTS)) for i in range(len(COUNTS))]
UNKNOWN = [*NAMES[:4], *NAMES[5:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Shards of which the first has offsets of another version, and one has its own."""
    folder = tmp_path_factory.mktemp("shards") / "read_only"
    folder.mkdir()
    for name, count in zip(NAMES, COUNTS, strict=True):
        tfrecords.write(folder / name, (bytes(n) for n in range(count)))
    record_offsets.write(folder / NAMES[0], np.array([0, 17]))
    record_offsets.find([str(folder / NAMES[4])])
    return folder


def hidden(names: list[str]) -> list[str]:
    return [f".{name}.offsets" for name in names]


def test_each_shard_is_read_by_one_process(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    root = tmp_path / "shards"
    shutil.copytree(folder, root / "damaged")
    damaged = root / "damaged" / NAMES[5]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    shutil.copytree(folder, root / "read_only")
    shutil.copytree(folder, root / "writable")
    (root / "writable_again").symlink_to(root / "writable")
    settings = train_process.Settings("unused", shards=str(root), reads=str(tmp_path))
    codes, printed = train_process.wait(train_process.start(settings, PROCESSES), timeout=60)
    assert codes == [0] * PROCESSES, printed
    found = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(PROCESSES)]

    # Unknown 4, counted from 0, is of process 1; nobody waits for it.
    message = f"{damaged}: cut off within a record; write it again"
    other = "process 1 has failed; its own line says why"
    assert [of["damaged"]["error"] for of in found] == [other, message, other]

    want = [record_offsets.scan(folder / name).tolist() for name in NAMES]
    for of in found:
        for name in ("read_only", "writable", "writable_again"):
            assert of[name]["offsets"] == want
    for i, of in enumerate(found):
        for name in ("read_only", "writable"):
            assert of[name]["opened"] == [*hidden([NAMES[0], NAMES[4]]), *UNKNOWN[i::PROCESSES]]
        assert of["writable_again"]["opened"] == hidden(NAMES)

    for of in found:
        assert of["of_first"][:2] == [0, 0.1] and np.isnan(of["of_first"][2])
    other = other.replace("1", "0")
    assert [of["refused"] for of in found] == [found[0]["refused"], other, other]
    assert "not a number" in found[0]["refused"]


def test_one_process_reads_what_is_missing(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "shards")
    shards = [str(tmp_path / "shards" / name) for name in NAMES]
    offsets = shared_offsets.of_shards(shards)
    assert [len(of) - 1 for of in offsets] == [*COUNTS]
    monkeypatch.setattr(record_offsets, "scan", None)
    for again, of in zip(shared_offsets.of_shards(shards), offsets, strict=True):
        np.testing.assert_array_equal(again, of)
