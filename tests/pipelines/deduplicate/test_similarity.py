# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Similarity rules: what collides, what is far, and that the shortcut never hides a near row."""

import numpy as np
import pytest

from parti.data.images import image_hashes
from parti.pipelines.deduplicate import fingerprints, similarity


def row(phash=0, colours=bytes(192), area=4096, caption=bytes(16), words=()):
    return fingerprints.Fingerprint(
        "id", "key", "train", b"", b"", phash, colours, caption, words, area, 1
    )


def features(rule, rows):
    data = b"".join(rule.features(row) for row in rows)
    return np.frombuffer(data, np.uint8).reshape(len(rows), -1)


@pytest.mark.parametrize("spread", [2, 20, 255])
def test_least_distance_is_a_lower_bound(spread):
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, image_hashes.NUM_COLOURS, np.uint8)
    noise = rng.integers(-spread, spread + 1, (2000, len(one)))
    rows = np.clip(one + noise, 0, 255).astype(np.uint8)
    least = similarity.least_distances(one.tobytes(), rows)
    true = image_hashes.colour_distances(one.tobytes(), rows)
    assert (least <= true).all()
    assert least.mean() > 0.4 * true.mean()


def test_distances_of_pictures():
    rule = similarity.ImageSimilarity(max_distance=2, max_colour_distance=9.0)
    light = bytes([8]) * image_hashes.NUM_COLOURS
    rows = [
        row(),
        row(3),
        row(7),
        row(0, light),
        row(caption=bytes([1]) * 16),
    ]
    found = rule.distances(rule.features(rows[0]), features(rule, rows))
    assert found.tolist() == [0, 0, np.inf, 8, 0]
    large = [row(area=10**6), row(0, light, 10**6)]
    found = rule.distances(rule.features(large[0]), features(rule, large))
    assert found.tolist() == [0, np.inf]
    rule = similarity.ImageSimilarity(same_caption=True)
    found = rule.distances(rule.features(rows[0]), features(rule, rows))
    assert found[-1] == np.inf and found[0] == 0
    nothing = rule.distances(rule.features(rows[0]), features(rule, rows)[:0])
    assert nothing.shape == (0,)


def test_collisions_are_named_in_one_band_only():
    """Every near pair meets in some band; a pair that an earlier band has is not named again."""
    rule = similarity.ImageSimilarity()
    rng = np.random.default_rng(1)
    for num_bits in range(5):
        first = int(rng.integers(0, 2**63))
        second = first
        for bit in rng.choice(64, num_bits, replace=False):
            second ^= 1 << int(bit)
        keys = [list(rule.keys(row(phash))) for phash in (first, second)]
        shared = [band for band, (a, b) in enumerate(zip(*keys)) if a == b]
        named = [
            band
            for band in shared
            if len(rule.collisions(band, np.array([first, second], np.uint64)))
        ]
        assert named == shared[:1] and named


def test_far_hashes_of_one_key_do_not_collide():
    rule = similarity.ImageSimilarity()
    # The last band is that of bits 43 to 63; the near pair differs in each of the other blocks.
    far = 2**43 - 1
    hashes = np.array([0, far, far ^ (1 | 1 << 11 | 1 << 21 | 1 << 32)], np.uint64)
    assert rule.collisions(15, hashes).tolist() == [1, 2]
    assert rule.collisions(15, hashes[:2]).tolist() == []


def test_captions_without_signature_have_no_keys():
    rule = similarity.CaptionSimilarity(0.5)
    assert list(rule.keys(row())) == []
    first, second = row(words=tuple(range(64))), row(words=(*range(40), *range(100, 124)))
    found = rule.distances(rule.features(first), features(rule, [first, second]))
    assert found.tolist() == [0, 0.375]
    assert rule.measure(rule.features(first), rule.features(second)) == "0.62 alike"
