# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Changed copies among fingerprint rows: what is near meets in a band, and the job finds it."""

import dataclasses

import numpy as np

from parti.data.images import image_hashes, image_sketches, near_hashes
from parti.data.scenes import scenes
from parti.pipelines.deduplicate import changed_copies, fingerprints
from tests.pipelines.deduplicate.test_duplicate_rules import find, row

CHANGES = {
    "mirrored": lambda image: image[:, ::-1],
    "bordered": lambda image: np.pad(image, ((4, 4), (4, 4), (0, 0))),
    "cropped": lambda image: image[3:61, 3:61],
    "overlaid": lambda image: np.concatenate([image[:54], np.full((10, 64, 3), 200, np.uint8)]),
}


def row_of(key, image, **more):
    image = np.ascontiguousarray(image)
    phash, colours = image_hashes.fingerprint(image)
    values = {"area": image.shape[0] * image.shape[1], "phash": phash, "colours": colours}
    return row(key, sketch=image_sketches.sketch(image), **(values | more))


def test_the_job_finds_changed_copies(tmp_path):
    originals = [image for _, _, image, _ in scenes.generate("train", 40, seed=3, size=64)]
    rows = [row_of(f"scene {i}", image, num_bytes=2000) for i, image in enumerate(originals)]
    for number, (change, function) in enumerate(CHANGES.items()):
        for i in range(number, 40, len(CHANGES)):
            rows.append(row_of(f"{change} {i}", function(originals[i])))
    decisions, measures, _ = find(tmp_path, rows, near="image")
    pairs = []
    for key, (reason, group) in decisions.items():
        assert reason == "near_duplicate"
        pairs.append((key.split()[1], group.split()[1]))
    assert all(one == other for one, other in pairs)
    assert len(pairs) >= 38
    assert measures["mirrored 0"].startswith("mirrored, 0.0 levels, as scene 0")
    assert find(tmp_path, rows[::-1], near="image")[:2] == (decisions, measures)
    assert not find(tmp_path, rows)[0]
    assert not find(tmp_path, rows, near="pair")[0]  # all captions differ
    same = [dataclasses.replace(r, caption=bytes(16)) for r in rows]
    assert find(tmp_path, same, near="pair")[0] == decisions


def test_known_rows_and_rows_of_an_earlier_version(tmp_path):
    image = next(scenes.generate("train", 1, seed=3, size=64))[2]
    rows = [row_of("new", image), row_of("old", image[:, ::-1], known=True)]
    assert find(tmp_path, rows, near="image")[0] == {"new": ("near_duplicate", "old")}
    rows[1] = dataclasses.replace(rows[1], sketch=b"")
    assert find(tmp_path, rows, near="image")[0] == {}
    line = rows[0].to_json(without=["sketch"])
    assert fingerprints.Fingerprint.from_json(line) == dataclasses.replace(rows[0], sketch=b"")
    assert fingerprints.Fingerprint.from_json(rows[0].to_json()) == rows[0]


def test_near_views_meet_in_a_band():
    """Hashes that differ in as many bits as they may, up to 4, share a band, weak ones too."""
    rule = changed_copies.ChangedCopies()
    rng = np.random.default_rng(0)
    for num_set in range(65):
        a = np.uint64(sum(1 << int(bit) for bit in rng.permutation(64)[:num_set]))
        for _ in range(5):
            b = int(a)
            for bit in rng.permutation(64)[: int(near_hashes.near_limits(a, a))][:4]:
                b ^= 1 << int(bit)
            limits = [int(near_hashes.near_limits(h, h)) for h in (a, np.uint64(b))]
            if (int(a) ^ b).bit_count() > min(limits):
                continue
            bands = [
                {(n, image_hashes.band_keys(int(h))[n]) for n in changed_copies.bands(limit)}
                for h, limit in zip((a, b), limits)
            ]
            assert bands[0] & bands[1]
    assert list(rule.points(row("no sketch"))) == []


def test_a_crowded_key_costs_in_proportion():
    """More hashes under one key than are compared: all its rows go on."""
    rule = changed_copies.ChangedCopies()
    sketches = np.arange(4000, dtype=np.uint64) << np.uint64(20)
    assert len(rule.collisions(0, sketches)) == 4000
    far = np.array([0xFFFF << 40, 0xFFFF << 2], np.uint64) | np.uint64(1)
    assert not len(rule.collisions(0, far))


def test_weak_hashes_go_to_a_band_of_equal_ones():
    """Flat pictures crowd the other bands of a faint one, which has few set bits."""
    columns, faint = np.arange(48), np.full((48, 48, 3), 128.0)
    faint += (5 * np.sin(columns / 9 + 1))[:, None, None]
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3))
    rule = changed_copies.ChangedCopies()
    for image, is_weak in ((faint, True), (noise, False)):
        one = row_of("a picture", image.astype(np.uint8))
        mirror = image_sketches.hashes(one.sketch)[image_sketches.MIRROR]
        equal = [key for band, key, _ in rule.points(one) if band >= changed_copies._EQUAL]
        assert (int(mirror) in equal) == is_weak
        assert all(band < 256 for band, _, _ in rule.points(one))
