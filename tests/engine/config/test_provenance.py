# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of the data that a configuration names."""

import pathlib

import fake_remote
import pytest

from parti.engine.config import provenance
from parti.stages import manifests


def test_fingerprint_of_texts(tmp_path: pathlib.Path) -> None:
    """However the files are named; another file, or another size, is another fingerprint."""
    folder = tmp_path / "c4" / "en" / "3.1.0"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("red\n")

    def fingerprint(config: str) -> str | None:
        return provenance.data_fingerprints(config).get("texts_fingerprint")

    first = fingerprint(f"TEXTS = '{folder}'")
    assert first and len(first) == 64
    tfds = f"TEXTS = 'c4/en:3.1.0'\nTFDS_DATA_DIR = '{tmp_path}'"
    latest = tfds.replace(":3.1.0", "")
    for same in (f"TEXTS = ['{folder}/*.txt']", f"TEXTS = '{folder}/a.txt'", tfds, latest):
        assert fingerprint(same) == first
    for none in ("TEXTS = None", "", f"TEXTS = '{folder}/*.md'"):
        assert fingerprint(none) is None
    (folder / "a.txt").write_text("blue\n")
    second = fingerprint(tfds)
    (folder / "b.txt").write_text("red\n")
    assert len({first, second, fingerprint(tfds)}) == 3
    # Another version beside it is another data set.
    third = fingerprint(tfds)
    (folder.parent / "3.2.0").mkdir()
    (folder.parent / "3.2.0" / "a.txt").write_text("red\n")
    assert fingerprint(tfds) == third != fingerprint(latest)


def test_fingerprint_of_glue(tmp_path: pathlib.Path) -> None:
    for task, version in (("cola", "2.0.0"), ("cola", "1.0.0"), ("rte", "2.0.0")):
        folder = tmp_path / "glue" / task / version
        folder.mkdir(parents=True)
        (folder / "glue-train.tfrecord").write_text(task + version)

    def prints(task: str, version: str = "2.0.0") -> dict[str, str]:
        macros = {"GLUE_TASK": task, "GLUE_DIR": str(tmp_path), "GLUE_VERSION": version}
        return provenance.data_fingerprints("\n".join(f"{k} = {v!r}" for k, v in macros.items()))

    first = prints("cola")
    assert first.keys() == {"glue_fingerprint"}
    assert prints("rte") != first and not prints("sst2")
    (tmp_path / "glue" / "cola" / "1.0.0" / "more").write_text("another version")
    assert prints("cola") == first != prints("cola", "1.0.0")
    (tmp_path / "glue" / "cola" / "2.0.0" / "glue-train.tfrecord").write_text("made again")
    assert prints("cola").keys() == first.keys() and prints("cola") != first


def test_manifests_at_remote_addresses(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the one above a folder of reconstructions."""
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    manifests.write_json("store://bucket/tokens/manifest.json", {"fingerprint": "a"})
    config = "TOKENS_DIR = 'store://bucket/tokens'\n"
    config += "RECONSTRUCTIONS_DIR = 'store://bucket/tokens/reconstructions'\n"
    config += "PAIRS_DIR = 'store://bucket/none'\n"
    names = ("tokens_fingerprint", "reconstructions_fingerprint")
    assert provenance.data_fingerprints(config) == dict.fromkeys(names, "a")
