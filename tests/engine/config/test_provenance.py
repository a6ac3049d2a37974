# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import pathlib

from parti.engine.config import provenance


def test_fingerprint_of_texts(tmp_path: pathlib.Path) -> None:
    """However the files are named; another file, or another size, is another fingerprint."""
    folder = tmp_path / "c4" / "en"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("red\n")

    def fingerprint(config: str) -> str | None:
        return provenance.data_fingerprints(config).get("texts_fingerprint")

    first = fingerprint(f"TEXTS = '{folder}'")
    assert first and len(first) == 64
    tfds = f"TEXTS = 'c4/en:3.1.0'\nTFDS_DATA_DIR = '{tmp_path}'"
    for same in (f"TEXTS = ['{folder}/*.txt']", f"TEXTS = '{folder}/a.txt'", tfds):
        assert fingerprint(same) == first
    for none in ("TEXTS = None", "", f"TEXTS = '{folder}/*.md'"):
        assert fingerprint(none) is None
    (folder / "a.txt").write_text("blue\n")
    second = fingerprint(tfds)
    (folder / "b.txt").write_text("red\n")
    assert len({first, second, fingerprint(tfds)}) == 3
