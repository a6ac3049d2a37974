# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The labels of files: their names, with as many folders as are needed."""

from parti.pipelines import readers
from parti.pipelines.readers import origins


def test_labels_are_short_and_unique():
    given = (
        readers.Source("webdataset", ("/x/a/0.tar",)),
        readers.Source("webdataset", ("/x/b/0.tar.gz",)),
        readers.Source("webdataset", ("/x/b/1.tar",)),
        readers.Source("csv", ("/x/c/t.csv.gz",), start=0, stop=5),
        readers.Source("csv", ("/x/c/t.csv.gz",), start=5),
        readers.Source("folder", ("/x/d/pics/1.jpg",), "/x/d/pics"),
        readers.Source("folder", ("/x/e/pics/1.jpg",), "/x/e/pics"),
    )
    given += (
        *(readers.Source("csv", (f"/x/f/{name}",)) for name in ("u.csv", "u.csv.gz", "u.jsonl")),
        *(readers.Source("webdataset", (f"/x/f/caf{end}.tar",)) for end in ("\udce8", "\udce9")),
    )
    named = {f"{i:06d}": source for i, source in enumerate(given)}
    assert origins.of_sources(named, ["/x/old/1.tar"]) == {
        "000000": ("000000", "a/0"),
        "000001": ("000001", "b/0"),
        "000002": ("000002", "b/1"),
        "000003": ("000003", "t"),
        "000004": ("000003", "t"),
        "000005": ("000005", "d/pics"),
        "000006": ("000006", "e/pics"),
        "000007": ("000007", "u.csv"),
        "000008": ("000008", "u.csv.gz"),
        "000009": ("000009", "u.jsonl"),
        "000010": ("000010", r"caf\xe8"),
        "000011": ("000011", r"caf\xe9"),
    }
