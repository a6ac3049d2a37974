# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Near duplicates grouped without comparing all pairs, in memory that does not grow with the input.

Near rows share at least one key of a band (locality-sensitive hashing). Most keys are one row's
alone, so rows travel to their keys only where it matters:

1. *Spread*: each row sends 24 bytes (key, sketch, hash of its id) to each of its bands, in blocks,
   by partition of the keys.
2. *Collide*: a partition is sorted by key; rows that meet a possible partner are named.
3. *Compare*: those rows go to the buckets of those keys. A bucket compares its rows with at most
   `max_representatives` of them, the best ones, so that a hot bucket costs time in proportion to
   its size. Pairs of rows that are near none of these are counted (`near_pairs_not_compared`).
4. *Link*: each row is linked to the nearest of the rows that are near it and better; of each bucket
   the best `_MAX_MET` of them are compared.
5. *Group* (`group_links`): links are followed to the copy that stays, which names the group.
"""

import hashlib
import heapq
import itertools
import math
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.transforms import window

from parti.pipelines.beam import disk_group_by_key
from parti.pipelines.deduplicate import fingerprints, similarity

NOT_COMPARED = "near_pairs_not_compared"

# 10**9 rows make partitions of 4 million, 94 MB each.
_NUM_PARTITIONS = 256
_FLUSH_BYTES = 8 * 2**20
_BATCH = 4096
_MAX_MET = 8
# Rounds of pointer jumping; each doubles the length of a link, to 2**7 = 128 steps.
_NUM_JUMPS = 7
# The first byte of what comes together under a handle.
_ROW, _BUCKET = b"r", b"b"

_POINT = np.dtype([("key", "<u8"), ("sketch", "<u8"), ("handle", "<u8")])
_PACK_POINT = struct.Struct("<QQQ").pack


class Link(NamedTuple):
    """A row, by its id, that another one, the target, replaces."""

    id: str
    reason: str
    measure: str
    target: str
    target_key: str


class FindNear(beam.PTransform):
    """Takes `Fingerprint` rows, returns a `Link` for each that has a better near one."""

    def __init__(self, rule: similarity.SimilarityRule, max_representatives: int) -> None:
        super().__init__(f"Find {rule.name}")
        self._rule, self._max_representatives = rule, max_representatives

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        """Returns the links."""
        rule, most = self._rule, self._max_representatives
        collisions = (
            rows
            | "Spread" >> beam.ParDo(_Spread(rule))
            | "Partitions" >> disk_group_by_key.GroupByKey()
            | "Collide" >> beam.FlatMap(lambda partition: _collide(partition, rule))
        )
        by_handle = rows | "Handles" >> beam.Map(
            lambda row: (_handle(row), _ROW + fingerprints.pack(row))
        )
        return (
            (by_handle, collisions)
            | "Rows of handles" >> disk_group_by_key.GroupByKey()
            | "To buckets" >> beam.FlatMap(_to_buckets)
            | "Buckets" >> disk_group_by_key.GroupByKey()
            | "Compare" >> beam.FlatMap(lambda bucket: _compare(bucket, rule, most))
            | "Of a row" >> disk_group_by_key.GroupObjects()
            | "Best" >> beam.MapTuple(lambda identity, found: _to_link(identity, min(found), rule))
        )


def _handle(row: fingerprints.Fingerprint) -> bytes:
    """Returns 8 bytes for a row. Two rows of one handle are compared where they need not be."""
    return hashlib.blake2b(row.id.encode("utf-8", "replace"), digest_size=8).digest()


class _Spread(beam.DoFn):
    """Yields (band and partition, block of points)."""

    def __init__(self, rule: similarity.SimilarityRule) -> None:
        self._rule = rule

    def start_bundle(self) -> None:
        self._blocks: dict[bytes, bytearray] = {}
        self._num_bytes = 0

    def process(self, row: fingerprints.Fingerprint) -> Iterator[tuple[bytes, bytes]]:
        handle = int.from_bytes(_handle(row), "little")
        for band, key, sketch in self._rule.points(row):
            partition = bytes((band, (key * 0x9E3779B97F4A7C15 >> 32) % _NUM_PARTITIONS))
            self._blocks.setdefault(partition, bytearray()).extend(_PACK_POINT(key, sketch, handle))
            self._num_bytes += _POINT.itemsize
        if self._num_bytes >= _FLUSH_BYTES:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(window.GlobalWindows.windowed_value, self._flush())

    def _flush(self) -> Iterator[tuple[bytes, bytes]]:
        blocks, self._blocks, self._num_bytes = self._blocks, {}, 0
        for partition, block in blocks.items():
            yield partition, bytes(block)


def _collide(
    partition: tuple[bytes, Iterable[bytes]], rule: similarity.SimilarityRule
) -> Iterator[tuple[bytes, bytes]]:
    """Yields (handle, bucket) for each row that may have a near one in the bucket."""
    (band, _), blocks = partition
    points = np.frombuffer(b"".join(blocks), _POINT)
    points = points[np.argsort(points["key"], kind="stable")]
    edges = np.flatnonzero(np.diff(points["key"])) + 1
    starts, ends = np.r_[0, edges], np.r_[edges, len(points)]
    for index in np.flatnonzero(ends - starts > 1):
        run = points[starts[index] : ends[index]]
        for point in run[rule.collisions(band, run["sketch"])]:
            yield point["handle"].tobytes(), _BUCKET + bytes([band]) + point["key"].tobytes()


def _to_buckets(element: tuple[bytes, Iterable[bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Yields (bucket, row) from the row and the buckets of one handle, a few in number."""
    rows, buckets = [], set()
    for data in element[1]:
        rows.append(data[1:]) if data[:1] == _ROW else buckets.add(data[1:])
    yield from itertools.product(buckets, rows)


def _compare(
    bucket: tuple[bytes, Iterable[bytes]], rule: similarity.SimilarityRule, max_representatives: int
) -> Iterator[tuple[str, tuple[float, tuple[Any, ...], str]]]:
    """Yields (id, (distance, order of the near row, measure)) for the rows that have one."""
    _, packed = bucket
    rows = map(fingerprints.unpack, packed)
    best = heapq.nsmallest(max_representatives, rows, key=lambda row: row.order)
    features = [rule.features(row) for row in best]
    ranks = {row.id: rank for rank, row in enumerate(best)}
    num_left = 0
    rows = map(fingerprints.unpack, packed)  # the second time that the group is read
    while batch := list(itertools.islice(rows, _BATCH)):
        # A row is compared with those before it; what an earlier run kept, it keeps.
        ends = [0 if row.known else ranks.get(row.id, len(best)) for row in batch]
        own = [rule.features(row) for row in batch]
        nearest, distances = _nearest(rule, own, np.array(ends), features)
        num_left += sum(
            row.id not in ranks and not math.isfinite(distance)
            for row, distance in zip(batch, distances)
        )
        for index in np.flatnonzero(np.isfinite(distances)):
            rank = nearest[index]
            measure = rule.measure(features[rank], own[index])
            yield batch[index].id, (float(distances[index]), best[rank].order, measure)
    if num_left > 1:
        counter = beam.metrics.Metrics.counter(fingerprints.COUNTERS, NOT_COMPARED)
        counter.inc(num_left * (num_left - 1) // 2)


def _nearest(
    rule: similarity.SimilarityRule, batch: list[bytes], ends: np.ndarray, best: list[bytes]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the index in `best` of each row's nearest, and its distance; infinity for none.

    `batch` and `best` are features. Both results are [n], as `ends`: each row is compared with the
    best ones up to there.
    """
    many = np.frombuffer(b"".join(batch), np.uint8).reshape(len(batch), -1)
    nearest, distances = np.zeros(len(batch), np.int64), np.full(len(batch), np.inf)
    met = np.zeros(len(batch), np.int64)
    for rank, one in enumerate(best):
        rows = np.flatnonzero((ends > rank) & (met < _MAX_MET))
        if not len(rows):
            break
        found = rule.distances(one, many[rows])
        met[rows] += np.isfinite(found)
        nearer = found < distances[rows]
        nearest[rows[nearer]], distances[rows[nearer]] = rank, found[nearer]
    return nearest, distances


def _to_link(
    identity: str, nearest: tuple[float, tuple[Any, ...], str], rule: similarity.SimilarityRule
) -> Link:
    _, (*_, key, target), measure = nearest
    return Link(identity, rule.reason, measure, target, key)


def group_links(links: beam.PCollection, follow: bool = True) -> beam.PCollection:
    """Makes a `Decision` of each link, with the key of the copy that stays as its group.

    A link may lead to a row that is itself dropped for a better one. In each round every link is
    replaced by one that is twice as long (pointer jumping). A Beam graph is fixed before it runs,
    so the number of rounds cannot depend on the links. Without `follow`, links lead to such copies.
    """
    links |= "As tuples" >> beam.Map(tuple)
    for number in range(_NUM_JUMPS if follow else 0):
        links = (
            links
            | f"Key by target {number}" >> beam.FlatMap(_key_by_target)
            | f"Join {number}" >> disk_group_by_key.GroupObjects()
            | f"Jump {number}" >> beam.FlatMap(_jump)
        )
    # The measure too says which copy stays, for the rejected rows.
    return links | "Decide" >> beam.MapTuple(
        lambda id, reason, measure, _, group: fingerprints.Decision(
            id, reason, f"{measure}, as {group}", group
        )
    )


def _key_by_target(link: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields a link's target under the row it is of, and the link under its target."""
    yield link[0], link[3:]
    yield link[3], link


def _jump(group: tuple[str, Iterable[tuple[str, ...]]]) -> Iterator[tuple[str, ...]]:
    """Yields the links to a row, moved on to the target of the row's own link."""
    onward = next((value for value in group[1] if len(value) == 2), None)
    for link in group[1]:
        if len(link) != 2:
            yield (*link[:3], *onward) if onward else link
