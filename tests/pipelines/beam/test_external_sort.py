# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pieces come back in the order of their keys, from memory and from a spill file."""

import random

import pytest

from parti.pipelines.beam import external_sort


@pytest.mark.parametrize("memory", [10, 2**20])
def test_pieces_are_sorted_by_key(memory, monkeypatch):
    monkeypatch.setattr(external_sort, "_MEMORY_BYTES", memory)
    pieces = {(i // 3, str(i)): bytes([i]) * (i % 7) for i in range(100)}
    keys = list(pieces)
    random.Random(0).shuffle(keys)
    with external_sort.ExternalSort() as found:
        for key in keys:
            found.add(key, pieces[key])
        assert len(found) == 100
        assert list(found.sorted()) == [pieces[key] for key in sorted(pieces)]


def test_of_equal_keys_the_first_comes_first():
    with external_sort.ExternalSort() as found:
        for piece in (b"b", b"a", b"c"):
            found.add(0, piece)
        assert list(found.sorted()) == [b"b", b"a", b"c"]


def test_nothing_in_nothing_out():
    with external_sort.ExternalSort() as found:
        assert list(found.sorted()) == [] and len(found) == 0
