# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The labels of files: their names, with as many folders as are needed."""

from parti.pipelines import readers
from parti.pipelines.clean import filter_sources, origins


def works(*sources):
    return [filter_sources.Work(f"{i:06d}", source) for i, source in enumerate(sources)]


def test_labels_are_short_and_unique():
    given = works(
        readers.Source("webdataset", ("/x/a/0.tar",)),
        readers.Source("webdataset", ("/x/b/0.tar.gz",)),
        readers.Source("webdataset", ("/x/b/1.tar",)),
        readers.Source("csv", ("/x/c/t.csv.gz",), start=0, stop=5),
        readers.Source("csv", ("/x/c/t.csv.gz",), start=5),
        readers.Source("folder", ("/x/d/pics/1.jpg",), "/x/d/pics"),
        readers.Source("folder", ("/x/e/pics/1.jpg",), "/x/e/pics"),
    )
    known = filter_sources.Work("known", readers.Source("tfrecord", ("/p",)), hashes="h")
    found = origins.of_sources([*given, known], ["/x/old/1.tar"])
    assert {name: tuple(origin) for name, origin in found.items()} == {
        "000000": ("000000", "a/0"),
        "000001": ("000001", "b/0"),
        "000002": ("000002", "b/1"),
        "000003": ("000003", "t"),
        "000004": ("000003", "t"),
        "000005": ("000005", "d/pics"),
        "000006": ("000006", "e/pics"),
    }
