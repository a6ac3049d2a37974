# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import pathlib

import pytest

from parti.data.storage import shard_names


def test_shard_name() -> None:
    assert shard_names.shard_name("train", 0, 4) == "train-00000-of-00004.tfrecord"
    assert shard_names.shard_name("pairs", 11, 12, ".tar") == "pairs-00011-of-00012.tar"
    with pytest.raises(ValueError, match="index 4 of 4"):
        shard_names.shard_name("train", 4, 4)


def test_patterns_name_files_sorted_and_once(tmp_path: pathlib.Path) -> None:
    for name in ("b.tfrecord", "a.tfrecord", "c.json"):
        (tmp_path / name).touch()
    both = [str(tmp_path / "a.tfrecord"), str(tmp_path / "b.tfrecord")]
    assert shard_names.expand_pattern(tmp_path, "files") == both
    assert shard_names.expand_pattern(f"{tmp_path}/b*, {tmp_path}/*.tfrecord", "files") == both
    assert shard_names.expand_pattern(tmp_path, "files", suffixes=(".json",)) == [
        str(tmp_path / "c.json")
    ]


@pytest.mark.parametrize("pattern", ["", "nowhere-*.tar", "nowhere"])
def test_no_files_is_an_error_with_a_remedy(pattern: str) -> None:
    with pytest.raises(FileNotFoundError, match="No image-text pairs"):
        shard_names.expand_pattern(pattern, "image-text pairs")
