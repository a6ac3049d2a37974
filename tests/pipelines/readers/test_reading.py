# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a row counts for in the progress of its source."""

import io
import json
import tarfile

import pytest

from parti.pipelines import readers
from parti.pipelines.readers import reading


def write_tar(path, num_pairs):
    with tarfile.open(path, "w") as file:
        for i in range(num_pairs):
            members = {"png": bytes(3000 + 40 * i), "txt": b"words", "json": b'{"a": 1}'}
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{i:04d}.{suffix}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))


def test_rows_of_a_table_or_a_folder_are_counted_exactly(tmp_path):
    """Whatever the sizes of the pictures."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(7):
        (folder / f"{i}.png").write_bytes(bytes(10**i % 10**5))
        (folder / f"{i}.txt").write_text("words")
    lines = [json.dumps({"url": f"http://a/{i}", "text": "t" * i}) for i in range(30)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    for path, count in ((folder, 7), (tmp_path / "t.jsonl", 30)):
        (source,) = readers.find_sources([str(path)])
        assert reading.num_rows(source) == count
        assert reading.share(source, [0], count) == 1
        assert reading.share(source, [10**9] * 3, count) == 3


@pytest.mark.parametrize("num_pairs", [40, 400])
def test_sizes_of_the_pairs_of_a_tar_add_up_to_its_size(tmp_path, num_pairs):
    write_tar(tmp_path / "a.tar", num_pairs)
    (source,) = readers.find_sources([str(tmp_path / "a.tar")])
    sizes = [reading.size(row) for row in readers.read_source(source)]
    assert len(sizes) == num_pairs
    assert reading.share(source, sizes, 1000) == pytest.approx(1000, rel=0.1)
