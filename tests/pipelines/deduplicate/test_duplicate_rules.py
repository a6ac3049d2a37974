# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Duplicates among fingerprint rows, compared with a plain search of all pairs."""

import dataclasses
import hashlib
import random

import apache_beam as beam
import pytest
from apache_beam.options import pipeline_options

from parti.data.images import image_hashes
from parti.data.text import text_hashes
from parti.pipelines.beam import options, sharded_writers
from parti.pipelines.deduplicate import duplicate_rules, fingerprints, near_duplicates, similarity

GREY = bytes([128]) * image_hashes.NUM_COLOURS


def digest(value):
    return hashlib.blake2b(repr(value).encode(), digest_size=16).digest()


def row(key, picture=None, text=None, area=4096, **more):
    """A row; those of one `picture` have equal pixels."""
    picture, text = key if picture is None else picture, f"text of {key}" if text is None else text
    phash = int.from_bytes(digest(picture)[:8], "little")
    values = {
        "content": digest((picture, "content")),
        "pixels": digest(picture),
        "phash": phash,
        "colours": GREY,
        "caption": text_hashes.caption_hash(text),
        "words": text_hashes.minhash(text),
        "num_bytes": 1000,
        "split": "train",
    }
    return fingerprints.Fingerprint(f"0:{key}", key, area=area, **(values | more))


def find(tmp_path, rows, flags=(), **settings):
    """Returns {key: (reason, group)} and the measures."""
    path = tmp_path / "decisions.json"

    def build(root):
        (
            root
            | beam.Create(rows)
            | beam.Reshuffle()
            | duplicate_rules.FindDuplicates(duplicate_rules.DuplicateSettings(**settings))
            | beam.Map(dataclasses.astuple)
            | sharded_writers.CollectJson(path)
        )

    result = options.run_pipeline(build, pipeline_options.PipelineOptions(list(flags)))
    found = [fingerprints.Decision(*values) for values in sharded_writers.read_collected(path)]
    keys = {row.id: row.key for row in rows}
    decisions = {keys[d.id]: (d.reason, d.group) for d in found}
    assert len(decisions) == len(found)
    counted = result.metrics().query()["counters"]
    counters = {item.key.metric.name: item.committed for item in counted}
    return decisions, {keys[d.id]: d.measure for d in found}, counters


def test_best_copy_stays(tmp_path):
    rows = [
        row("small", "sea", "a sea", area=50),
        row("b-large", "sea", "other words"),
        row("c-large", "sea", "A SEA!"),
        row("a-light", "sea", "other words", num_bytes=999),
        row("recoded", "sea", "more words", area=50, content=digest("another file")),
        row("alone"),
    ]
    decisions, measures, _ = find(tmp_path, rows)
    assert decisions == {
        "small": ("duplicate_image", "b-large"),
        "c-large": ("duplicate_image", "b-large"),
        "a-light": ("duplicate_pair", "b-large"),
        "recoded": ("duplicate_image", "b-large"),
    }
    assert measures["small"] == "same bytes, as b-large"
    assert measures["recoded"] == "same pixels, as b-large"
    assert find(tmp_path, rows, exact="none")[0] == {}
    only_pairs = {"a-light": ("duplicate_pair", "b-large"), "small": ("duplicate_pair", "c-large")}
    assert find(tmp_path, rows, exact="pair")[0] == only_pairs


def test_what_was_kept_before_stays(tmp_path):
    rows = [
        row("new", "sea", area=10_000),
        row("old", "sea", known=True),
        row("old-too", "sea", known=True),
        row("near-new", phash=row("", "sea").phash ^ 1, area=20_000),
        *(row(f"many{i}", text="a logo", known=i == 0) for i in range(4)),
    ]
    decisions, _, _ = find(tmp_path, rows, near="image", max_images_per_caption=3)
    assert decisions.pop("near-new") == ("near_duplicate", "old")
    assert decisions.pop("new") == ("duplicate_image", "old")
    assert decisions == {f"many{i}": ("caption_on_too_many_images", "") for i in (1, 2, 3)}


def test_of_one_key_the_best_stays(tmp_path):
    rows = [row("a", area=area, num_bytes=area) for area in (50, 90, 70)] + [row("b")]
    rows = [dataclasses.replace(r, id=str(number)) for number, r in enumerate(rows)]

    def build(root):
        given = root | beam.Create(rows) | beam.Reshuffle()
        unique, dropped = duplicate_rules.one_per_key(given)
        kept = unique | "Ids" >> beam.Map(lambda r: r.id)
        kept | sharded_writers.CollectJson(tmp_path / "kept.json")
        rest = dropped | "Tuples" >> beam.Map(dataclasses.astuple)
        rest | sharded_writers.CollectJson(tmp_path / "dropped.json")

    options.run_pipeline(build, pipeline_options.PipelineOptions([]))
    assert sharded_writers.read_collected(tmp_path / "kept.json") == ["1", "3"]
    assert sharded_writers.read_collected(tmp_path / "dropped.json") == [
        ["0", "duplicate_key", "", "a"],
        ["2", "duplicate_key", "", "a"],
    ]


def share_keys(tmp_path, rows, origins):
    """Returns {id: key} of those that stay, and {id: key of the pair that stays} of the others."""

    def build(root):
        given = root | beam.Create(rows) | beam.Reshuffle()
        unique, others = duplicate_rules.one_per_key(given, origins)
        kept = unique | "Kept" >> beam.Map(lambda r: (r.id, r.key))
        kept | sharded_writers.CollectJson(tmp_path / "kept.json")
        rest = others | "Others" >> beam.Map(lambda o: (type(o).__name__, dataclasses.astuple(o)))
        rest | sharded_writers.CollectJson(tmp_path / "others.json")

    options.run_pipeline(build, pipeline_options.PipelineOptions([]))
    kept = dict(sharded_writers.read_collected(tmp_path / "kept.json"))
    others = sharded_writers.read_collected(tmp_path / "others.json")
    new = {values[0]: values[1] for kind, values in others if kind == "NewKey"}
    assert new == {id: key for id, key in kept.items() if new.get(id)}
    return kept, {values[0]: values[3] for kind, values in others if kind == "Decision"}


def test_keys_of_several_files_are_told_apart(tmp_path):
    origins = {name: fingerprints.Origin(name, f"tar{name}") for name in "0123"}
    origins["4"] = origins["3"]  # another piece of the same file

    def at(id, key, picture, **more):
        return dataclasses.replace(row(key, picture, picture, **more), id=id)

    rows = [
        *(at(f"{n}/a", "a", f"a of {n}") for n in "0123"),
        at("4/again", "a", "smaller", area=1),
        at("2/copy", "a", "a of 2", area=1),
        at("1/b", "b", "b of 1"),
        at("2/b", "b", "b of 1"),  # equal to it
        at("known-train-0/c", "c", "known", known=True),
        at("0/c", "c", "c of 0", area=10**6),
        at("1/c", "c", "known", area=10**6),
        at("0/d", "d", "d of 0"),
        at("1/d", "d", "d of 1"),
        at("2/d", "tar1/d", "what looks like a new key"),
    ]
    kept, dropped = share_keys(tmp_path, rows, origins)
    assert kept == {
        "0/a": "a",
        "1/a": "tar1/a",
        "2/a": "tar2/a",
        "3/a": "tar3/a",
        "1/b": "b",
        "known-train-0/c": "c",
        "0/c": "tar0/c",
        "0/d": "d",
        "2/d": "tar1/d",
    }
    assert dropped == {
        "4/again": "tar3/a",
        "2/copy": "tar2/a",
        "2/b": "b",
        "1/c": "c",
        "1/d": "d",
    }


def test_too_many(tmp_path):
    rows = [
        *(row(f"blank{i}", "blank", f"words {i}") for i in range(4)),
        *(row(f"logo{i}", f"logo {i}", "Our logo") for i in range(4)),
        *(row(f"copy{i}", "one picture", "a fine day") for i in range(6)),
        *(row(f"three{i}", "a picture", f"words {i}") for i in range(3)),
        # On four images, but one of them goes because of its captions.
        *(row(f"lake{i}", f"lake {i}", "a lake") for i in range(3)),
        row("blank-lake", "blank", "a lake"),
    ]
    decisions, measures, _ = find(
        tmp_path, rows, exact="none", max_captions_per_image=3, max_images_per_caption=3
    )
    blank = [f"blank{i}" for i in range(4)] + ["blank-lake"]
    assert decisions == {
        **{key: ("image_with_too_many_captions", "") for key in blank},
        **{f"logo{i}": ("caption_on_too_many_images", "") for i in range(4)},
    }
    assert (measures["blank0"], measures["logo1"]) == ("over 3 captions", "on over 3 images")


def test_chain_of_links_leads_to_the_copy_that_stays(tmp_path):
    """Each link is near the next, five bits from the one after; exact copies hang on each."""
    phash, rows = 0, []
    for i in range(12):
        rows.append(row(f"c{i:02d}", phash=phash, area=1000 - i))
        rows.append(row(f"copy{i:02d}", f"c{i:02d}", phash=phash, area=1))
        for bit in range(3):
            phash ^= 1 << (3 * i + bit)
    decisions, _, _ = find(tmp_path, rows, near="image")
    assert {group for _, group in decisions.values()} == {"c00"}
    assert len(decisions) == 23
    assert decisions["copy05"] == ("duplicate_image", "c00")
    assert decisions["c11"] == ("near_duplicate", "c00")


def test_colours_and_captions_must_agree(tmp_path):
    red = bytes([200, 0, 0]) * 64
    rows = [
        row("a", text="a cat"),
        row("b", text="a dog", phash=row("a").phash ^ 3, area=90),
        row("red", text="a cat", phash=row("a").phash, colours=red, area=80),
        row("c", text="A cat.", phash=row("a").phash ^ 5, area=70),
    ]
    assert find(tmp_path, rows, near="image")[0] == {
        "b": ("near_duplicate", "a"),
        "c": ("near_duplicate", "a"),
    }
    decisions, measures, _ = find(tmp_path, rows, near="pair")
    assert decisions == {"c": ("near_duplicate", "a")}
    assert measures == {"c": "2 bits, 0.0 levels, as a"}
    assert find(tmp_path, rows, near="image", max_distance=1)[0] == {}


def test_colours_are_compared_more_closely_in_large_pictures(tmp_path):
    lighter = bytes([134]) * image_hashes.NUM_COLOURS
    for area, is_near in ((64 * 64, True), (256 * 256, False)):
        first = row("a", area=area)
        second = row("b", phash=first.phash, colours=lighter, area=area)
        larger = row("c", area=10**9)
        assert (find(tmp_path, [first, second, larger], near="image")[0] != {}) == is_near


def test_near_captions(tmp_path):
    long = "The old lighthouse stands on a rock above the grey sea at the end of a long winter day"
    rows = [
        row("a", text=long),
        row("b", text=long.replace("grey", "green"), area=50),
        row("c", text="A dog runs on the beach", area=50),
        row("same", "a", text="quite different words", area=50),
        row("no words", words=()),
        row("none either", words=()),
    ]
    assert find(tmp_path, rows, near_captions=0.7)[0] == {
        "b": ("near_caption", "a"),
        "same": ("duplicate_image", "a"),
    }


def random_rows(rng, num):
    """Rows in clusters: hashes a few bits from a centre, in three colours."""
    centres = [rng.getrandbits(64) for _ in range(num // 6)]
    rows = []
    for i in range(num):
        phash = rng.choice(centres)
        for bit in rng.sample(range(64), rng.choice([0, 0, 1, 2, 3, 6])):
            phash ^= 1 << bit
        colour = bytes([rng.choice([100, 110, 160])]) * image_hashes.NUM_COLOURS
        picture = rng.randrange(num) if rng.random() < 0.3 else (i, "own")
        area, known = rng.choice([10, 4096, 65536]), rng.random() < 0.1
        rows.append(row(f"k{i:04d}", picture, phash=phash, colours=colour, area=area, known=known))
    # Equal pixels have equal hashes.
    first = {}
    for r in rows:
        first.setdefault(r.pixels, r)
    return [
        dataclasses.replace(r, phash=first[r.pixels].phash, colours=first[r.pixels].colours)
        for r in rows
    ]


def search_all_pairs(rows):
    """The decisions of exact="image", near="image", by comparing each row with each other."""
    target = {}
    kept = []
    for r in sorted(rows, key=lambda r: r.order):
        better = [k for k in kept if k.pixels == r.pixels]
        if better and not r.known:
            target[r.key] = better[0].key
        else:
            kept.append(r)
    for i, r in enumerate(kept):
        near = []
        for better in kept[:i]:
            same = (better.phash, better.colours, r.phash, r.colours)
            limit = float(image_hashes.colour_limit(min(r.area, better.area)))
            if image_hashes.is_near(*same, max_colour_distance=limit):
                levels = image_hashes.colour_distance(better.colours, r.colours)
                near.append((levels, better.order, better.key))
        if near and not r.known:
            target[r.key] = min(near)[2]
    groups = {}
    for key, group in target.items():
        while group in target:
            group = target[group]
        groups[key] = group
    return groups


@pytest.mark.parametrize("seed", [0, 1])
def test_as_a_search_of_all_pairs(tmp_path, seed):
    rng = random.Random(seed)
    rows = random_rows(rng, 300)
    wanted = search_all_pairs(rows)
    assert 50 < len(wanted) < 250
    rng.shuffle(rows)
    decisions, _, counters = find(tmp_path, rows, near="image")
    assert {key: group for key, (_, group) in decisions.items()} == wanted
    assert not counters.get(near_duplicates.NOT_COMPARED)


def test_hot_bucket(tmp_path, monkeypatch):
    """Rows of one hash in many colours: compared with the best eight only, and counted."""
    monkeypatch.setattr(near_duplicates, "_BATCH", 16)
    colours = [bytes([50 * (i % 5), 50 * (i // 5 % 5), 50 * (i // 25)]) * 64 for i in range(100)]
    rows = [row(f"k{i:03d}", phash=7, colours=colours[i], area=1000 - i) for i in range(100)]
    rows += [row(f"near{i}", phash=7, colours=colours[i], area=1) for i in (2, 60)]
    rng = random.Random(0)
    for _ in range(2):
        rng.shuffle(rows)
        decisions, _, counters = find(tmp_path, rows, near="image", max_representatives=8)
        assert decisions == {"near2": ("near_duplicate", "k002")}
        assert counters[near_duplicates.NOT_COMPARED] == 93 * 92 // 2
    assert find(tmp_path, rows, near="image")[0]["near60"] == ("near_duplicate", "k060")


def test_hot_key_of_different_hashes(tmp_path, monkeypatch):
    """Too many hashes under one key to be told apart first; still all near pairs are found."""
    monkeypatch.setattr(similarity, "_MAX_HASHES", 20)
    rng = random.Random(0)
    # The lowest two of six blocks are equal, so that one key holds them all.
    hashes = [rng.getrandbits(40) << 24 for _ in range(60)]
    rows = [row(f"k{i:02d}", phash=phash, area=1000 - i) for i, phash in enumerate(hashes)]
    rows += [row(f"near{i}", phash=hashes[i] ^ (15 << 40), area=1) for i in (7, 42)]
    wanted = {"near7": ("near_duplicate", "k07"), "near42": ("near_duplicate", "k42")}
    decisions, _, counters = find(tmp_path, rows, near="image")
    assert decisions == wanted
    assert not counters.get(near_duplicates.NOT_COMPARED)


def test_workers_do_not_matter(tmp_path):
    rows = random_rows(random.Random(3), 120)
    alone = find(tmp_path, rows, near="image", near_captions=0.9)
    flags = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    assert find(tmp_path, rows[::-1], flags, near="image", near_captions=0.9)[:2] == alone[:2]


def test_no_rules_no_decisions(tmp_path):
    rows = [row("a", "same"), row("b", "same")]
    assert find(tmp_path, rows, exact="none")[0] == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"near": "images"}, "near=images: choose from image, pair, none"),
        ({"max_distance": 5}, "max_distance=5: give 0 to 4"),
        ({"near_captions": 1.5}, "near_captions=1.5: give 0 to 1"),
        ({"max_representatives": 0}, "max_representatives=0: give 1 to 100000"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        duplicate_rules.DuplicateSettings(**settings)


def test_packed_row_comes_back():
    first = row("a", phash=2**64 - 1, known=True)
    assert fingerprints.unpack(fingerprints.pack(first)) == first
