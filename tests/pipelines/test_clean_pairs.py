# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti clean` over a small hostile collection: every reason, both splits, the same bytes."""

import collections
import io
import json
import os
import re
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from parti.data.images import images
from parti.data.storage import record_offsets, records, tfrecords
from parti.pipelines import clean_pairs, readers
from parti.pipelines.beam import options, sharded_writers
from parti.pipelines.clean import (
    filter_pair,
    filter_sources,
    incremental,
    intermediate,
    last_lines,
)
from parti.pipelines.clean import reasons as clean_reasons
from parti.pipelines.clean import report as clean_report
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.rules import presets
from parti.stages import manifests

SIZE = 16
NUM_GOOD = 60


def picture(seed, width=24, height=24, kind="PNG"):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def flat():
    return images.encode_png(np.full((24, 24, 3), 9, np.uint8))


def collection():
    """Returns {key: (image, caption, metadata)} and {key: the reason that it must meet}."""
    rows = {f"good{i:03d}": (picture(i), f"picture number {i}", {}) for i in range(NUM_GOOD)}
    rows["good000"] = (picture(0), "  a &amp; b ", {"captions": ["one ", "", 3], "keywords": ["k"]})
    rows["held"] = (picture(1000), "a held-out scene", {"split": "validation", "scene": {"n": 1}})
    bad = {
        "broken": ((b"\x89PNG nothing", "a caption", {}), "image_undecodable"),
        "tiny": ((picture(1, 4, 4), "a caption", {}), "image_too_small"),
        "small": ((picture(2, 12, 12), "a caption", {}), "image_would_grow"),
        "long": ((picture(3, 60, 24), "a caption", {}), "image_aspect_ratio"),
        "flat": ((flat(), "a caption", {}), "image_blank"),
        "mute": ((picture(4), " \n", {}), "caption_empty"),
        "digits": ((picture(5), "12345", {}), "caption_no_letters"),
        "page": ((picture(6), "word and " * 300, {}), "caption_too_long"),
        "web": ((picture(7), "see www.example.com", {}), "caption_address"),
        "camera": ((picture(8), "IMG_1234", {}), "caption_file_name"),
        "again": ((picture(9), "buy buy buy buy buy now", {}), "caption_repetitive"),
        "unsafe": ((picture(12), "a caption", {"punsafe": 0.9}), "score_nsfw"),
        "same": ((picture(10), "Picture number 10", {}), "duplicate_pair"),
        "small_copy": ((picture(11), "in other words", {}), "duplicate_image"),
    }
    # The same pixels in a larger file are the better copy.
    rows["good011"] = (picture(11, kind="BMP"), "picture number 11", {})
    rows |= {key: row for key, (row, _) in bad.items()}
    reasons = {key: reason for key, (_, reason) in bad.items()}
    return rows, reasons


def write_tar(path, rows, extra=()):
    with tarfile.open(path, "w") as tar:
        members = list(extra)
        for key, (image, text, metadata) in rows.items():
            members += [(f"{key}.png", image), (f"{key}.txt", text.encode())]
            members += [(f"{key}.json", json.dumps(metadata).encode())] if metadata else []
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


HOSTILE = [("../up.png", b"x"), ("alone.png", picture(77)), ("wordless.txt", b"words")]
# A smaller picture under a key of the same tar.
HOSTILE += [("good002.png", picture(89, 16, 16)), ("good002.txt", b"a second one")]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    rows, reasons = collection()
    keys = list(rows)
    write_tar(folder / "0.tar", {key: rows[key] for key in keys[::2]}, HOSTILE)
    write_tar(folder / "1.tar", {key: rows[key] for key in keys[1::2]})
    # Another picture under a key of another tar, in a file that ends too early.
    write_tar(folder / "2.tar", {"good003": (picture(88), "a second one", {}), "cut": rows["held"]})
    data = (folder / "2.tar").read_bytes()
    (folder / "2.tar").write_bytes(data[: 4 * 512 + 600])
    reasons |= {"../up": "unsafe_name", "alone": "missing_caption", "wordless": "missing_image"}
    reasons |= {"2.tar": "broken_file", "good002": "duplicate_key"}
    return folder, reasons


def arguments(raw, output, *more):
    return [
        f"--input={raw[0]}/*.tar",
        f"--output={output}",
        f"--image_size={SIZE}",
        "--min_side=8",
        "--validation_fraction=0.2",
        "--num_shards=3",
        *more,
    ]


@pytest.fixture(scope="module")
def cleaned(raw, tmp_path_factory):
    output = tmp_path_factory.mktemp("clean") / "pairs"
    assert clean_pairs.run(arguments(raw, output)) == 0
    return output


def pairs(output, split):
    return [
        records.ImageTextPair.from_example(example)
        for path in sorted(output.glob(f"{split}-*.tfrecord"))
        for example in tfrecords.read(path)
    ]


def rejected_lines(output):
    """Returns the rejected rows, with whole addresses if the output is finished."""
    root = manifests.read_json(output / "manifest.json", "").get("inputs", {}).get("root", "")
    lines = [
        json.loads(line)
        for path in sorted(output.glob("rejected-*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return [row | ({"address": root + row["address"]} if row["address"] else {}) for row in lines]


def rejected(output):
    return {row["key"]: row for row in rejected_lines(output)}


def test_every_reason_is_met(raw, cleaned):
    rows = rejected(cleaned)
    assert {key: row["reason"] for key, row in rows.items()} == raw[1]
    assert {row["reason"] for row in rows.values()} <= set(clean_reasons.REASONS)
    assert rows["long"]["measure"] == "60 x 24 is 2.50 to 1"
    assert "good011" in rows["small_copy"]["measure"]
    assert rows["small_copy"]["group"] == "good011" and rows["long"]["group"] == ""


def test_kept_pairs(cleaned):
    train, validation = pairs(cleaned, "train"), pairs(cleaned, "validation")
    by_key = {pair.key: pair for pair in train + validation}
    assert len(by_key) == len(train) + len(validation) == NUM_GOOD + 2
    assert by_key["good003"].source == "1.tar" and by_key["2/good003"].source == "2.tar"
    assert {pair.key for pair in validation} >= {"held"}
    assert 3 <= len(validation) <= 25
    assert by_key["held"].metadata["scene"] == {"n": 1}
    first = by_key["good000"]
    assert first.text == "a & b"
    assert first.metadata == {"captions": ["one"], "keywords": ["k"], "original_size": [24, 24]}
    assert images.decode_image(first.image).shape == (SIZE, SIZE, 3)
    assert (first.width, first.height, first.source) == (SIZE, SIZE, "0.tar")


def test_published_folder_is_complete(raw, cleaned):
    names = {path.name for path in cleaned.iterdir()}
    shards = [f"train-0000{i}-of-00003.tfrecord" for i in range(3)]
    shards.append("validation-00000-of-00001.tfrecord")
    assert names == {
        *shards,
        *(f".{name}.offsets" for name in shards),
        *(f"hashes-train-0000{i}-of-00003.jsonl" for i in range(3)),
        "hashes-validation-00000-of-00001.jsonl",
        "rejected-00000-of-00001.jsonl",
        "report.json",
        "report.html",
        "run.json",
        "manifest.json",
    }
    assert [path.name for path in cleaned.parent.iterdir()] == ["pairs"]
    for name in shards:
        (written,) = record_offsets.known([str(cleaned / name)])
        np.testing.assert_array_equal(written, record_offsets.scan(cleaned / name))
    manifest = manifests.read(cleaned, "pairs")
    report = json.loads((cleaned / "report.json").read_text())
    assert report["kept"] == NUM_GOOD + 2
    rules = {rule["name"]: rule for rule in report["rules"]}
    assert {rule["name"] for rule in report["rules"] if rule["dropped"]} == set(raw[1].values())
    assert rules["image_blank"]["dropped"] == 1
    assert rules["image_blank"]["seen"] > rules["duplicate_pair"]["seen"]
    assert report["rules"][0]["seen"] == report["read"]
    assert report["copies"]["num_dropped"] == 2
    assert manifest["counts"] == {
        "read": NUM_GOOD + 2 + len(raw[1]),
        "rejected": len(raw[1]),
        **report["splits"],
    }
    assert manifest["settings"]["image_size"] == SIZE


def test_report_page(raw, cleaned):
    page = (cleaned / "report.html").read_text()
    assert "{{" not in page
    for reason in set(raw[1].values()):
        assert f"<code>{reason}</code>" in page
    assert "data:image/jpeg;base64," in page


def test_same_bytes_for_any_number_of_workers(raw, cleaned, tmp_path):
    workers = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    clean_pairs.run(arguments(raw, tmp_path / "pairs", *workers))
    for path in cleaned.iterdir():
        if path.name not in ("run.json", "report.html"):  # they tell how long it took
            assert (tmp_path / "pairs" / path.name).read_bytes() == path.read_bytes(), path.name


def test_finished_output_is_not_replaced(raw, cleaned):
    with pytest.raises(ValueError, match="already finished; pass --overwrite"):
        clean_pairs.run(arguments(raw, cleaned))


def test_preset_none_keeps_what_can_be_used():
    settings = clean_settings.CleanSettings(presets.load_preset("none", {}, SIZE), image_size=SIZE)
    rows, reasons = collection()
    for key, (image, text, metadata) in rows.items():
        pair = records.ImageTextPair(key, image, text, metadata=metadata)
        result = filter_pair.filter_pair(pair, settings).result
        if reasons.get(key) == "image_undecodable":
            assert isinstance(result, readers.Rejected)
        else:
            assert images.decode_image(result.pair.image).shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset=strict"], "--preset=strict: choose from align, cc12m"),
        (["--preset=cc3"], "--preset=cc3: did you mean cc3m?"),
        (["--columns", "texts=a"], "texts"),
        (["--columns", "text"], "--columns text: write ROLE=NAME"),
        (["--retry_rejected=fetch_timeout"], "--retry_rejected goes with --extend"),
        (["--fetch_threads=0"], "threads=0"),
        (["--crop=left"], "--crop=left: choose from centre, random"),
        (["--jpeg_quality=0"], "--jpeg_quality=0: give 1 to 100"),
        (["--image_size=0"], "--image_size=0: give 1 to 4096 pixels"),
        (["--image_format=gif"], "--image_format=gif: choose from png, jpeg"),
        (["--validation_fraction=1"], "--validation_fraction=1.0: give 0 or more, less than 1"),
        (["--min_side=-1"], "--min_side=-1: give at least 1 pixels, or 0 for no limit"),
        (["--max_aspect_ratio=0.5"], "--max_aspect_ratio=0.5: give at least 1, or 0"),
        (["--num_shards=none"], "--num_shards=none: give auto, or a number"),
        (["--input_format=zip"], "--input_format=zip: unknown; choose from auto, tfrecord"),
    ],
)
def test_bad_values_are_named(raw, tmp_path, flags, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        clean_pairs.run([f"--input={raw[0]}/0.tar", f"--output={tmp_path / 'x'}", *flags])
    assert list(tmp_path.iterdir()) == []


def test_no_input_and_no_pairs(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file; check the path"):
        clean_pairs.run([f"--input={tmp_path}/*.tar", f"--output={tmp_path / 'x'}"])
    write_tar(tmp_path / "empty.tar", {}, [("README.md", b"nothing")])
    message = "no pairs in .*empty.tar; a tar holds key.jpg .*; left out 1 file: 1 other_ending"
    with pytest.raises(ValueError, match=message):
        clean_pairs.run([f"--input={tmp_path}/empty.tar", f"--output={tmp_path / 'x'}"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.tar"]
    write_tar(tmp_path / "small.tar", {"a": (picture(1), "a caption", {})})
    run = [f"--input={tmp_path}/small.tar", f"--output={tmp_path / 'x'}"]
    with pytest.raises(ValueError, match="no pair of 1 in .* was kept: 1 image_too_small.*shows"):
        clean_pairs.run(run)
    # What was dropped can be looked at, and looser rules start over in the same place.
    assert "image_too_small" in (tmp_path / "x.unfinished" / "report.html").read_text()
    assert len(rejected(tmp_path / "x.unfinished")) == 1
    assert (
        clean_pairs.run([*run, "--min_side=4", "--image_size=16", "--validation_fraction=0"]) == 0
    )
    assert not (tmp_path / "x.unfinished").exists()


def test_pictures_without_captions_are_told_what_they_need(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.JPG").write_bytes(picture(1, kind="JPEG"))
    with pytest.raises(ValueError, match="1 missing_caption; give each picture its caption in a "):
        clean_pairs.run([f"--input={tmp_path}/raw", f"--output={tmp_path / 'x'}"])


def test_splits_that_pairs_name_and_files_that_are_no_pair(tmp_path, capsys):
    names = ["train", "restval", "val", "Validation", "DEV", "test", "Test", "mine", ""]
    rows = {
        f"k{i}": (picture(i), f"picture number {i}", {"Split": name})
        for i, name in enumerate(names)
    }
    extra = [("README.md", b""), ("k0.gif", b"another"), ("films/a.mp4", b""), ("b.mp4", b"")]
    write_tar(tmp_path / "0.tar", rows, extra)
    command = [f"--input={tmp_path}/0.tar", *EXTEND, "--validation_fraction=0"]
    output = tmp_path / "pairs"
    assert clean_pairs.run([*command, f"--output={output}"]) == 0
    found = {s: sorted(pair.key for pair in pairs(output, s)) for s in records.SPLITS}
    assert found == {"train": ["k0", "k1", "k7", "k8"], "validation": ["k2", "k3", "k4"]}
    assert {row["key"] for row in rejected_lines(output)} == {"k5", "k6"}
    said = capsys.readouterr().out
    assert "dropped 2: 2 split_test\n2 of a test split kept out of training (--drop_test_" in said
    assert "1 name a split that is not known (mine): split by their keys instead\n" in said
    assert "left out 4 files: 3 other_ending (README.md, b.mp4, ...), 1 several_images (k0" in said
    report = json.loads((output / "report.json").read_text())
    assert [(row["name"], row["count"]) for row in report["left_out"]] == [
        ("other_ending", 3),
        ("several_images", 1),
    ]
    page = (output / "report.html").read_text()
    assert "<code>films/a.mp4</code>" in page and "2 of a test split kept out" in page
    more = [f"--output={tmp_path}/all", "--drop_test_split=false"]
    assert clean_pairs.run([*command, *more]) == 0
    assert {pair.key for pair in pairs(tmp_path / "all", "validation")} >= {"k5", "k6"}


def test_tars_that_each_count_from_zero(tmp_path, capsys):
    """Each keeps its pairs, also those that are added later; a copy of a tar is one of pairs."""

    def fill(name, first):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        rows = {f"{i:06d}": (picture(first + i), f"picture {first + i}", {}) for i in range(3)}
        write_tar(tmp_path / name, rows)

    def keys(output):
        return {p.key: p.text for s in records.SPLITS for p in pairs(tmp_path / output, s)}

    for number, name in enumerate(("a/0.tar", "a/1.tar", "b/1.tar")):
        fill(name, 10 * number)
    shutil.copy(tmp_path / "b" / "1.tar", tmp_path / "b" / "2.tar")
    preset = ["--preset=none", "--image_size=16", "--num_shards=2", "--validation_fraction=0"]
    command = ["--input", f"{tmp_path}/?/*.tar", *preset]
    assert clean_pairs.run([*command, f"--output={tmp_path}/pairs"]) == 0
    labels = {"": 0, "a/1/": 10, "b/1/": 20}
    wanted = {
        f"{n}{i:06d}": f"picture {first + i}" for n, first in labels.items() for i in range(3)
    }
    assert keys("pairs") == wanted
    assert {row["reason"] for row in rejected_lines(tmp_path / "pairs")} == {"duplicate_key"}
    assert "6 keys are of several files: the file's name is before them" in capsys.readouterr().out
    fill("c/1.tar", 30)
    more = [f"--output={tmp_path}/more", f"--extend={tmp_path}/pairs"]
    assert clean_pairs.run([*command, *more]) == 0
    assert keys("more") == wanted | {f"c/1/{i:06d}": f"picture {30 + i}" for i in range(3)}


def test_a_pair_with_a_new_key_is_in_its_split_and_shard(tmp_path):
    """Or in the split that it names; else one key of many tars would decide for all of them."""
    (tmp_path / "raw").mkdir()
    for i in range(40):
        more = {"split": "train"} if i % 2 else {}
        write_tar(tmp_path / "raw" / f"{i}.tar", {"000000": (picture(i), f"picture {i}", more)})
    command = ["--preset=none", "--image_size=16", "--num_shards=4", "--validation_fraction=0.5"]
    output = tmp_path / "pairs"
    assert clean_pairs.run([f"--input={tmp_path}/raw", f"--output={output}", *command]) == 0
    keys = collections.Counter()
    for path in output.glob("*-of-*.tfrecord"):
        split, index, _, count = path.stem.split("-")
        rows = (output / f"hashes-{path.stem}.jsonl").read_text().splitlines()
        found = [records.ImageTextPair.from_example(data) for data in tfrecords.read(path)]
        assert [json.loads(row)["key"] for row in rows] == [pair.key for pair in found]
        for pair in found:
            assert sharded_writers.shard_of(pair.key, int(count)) == int(index)
            is_low = sharded_writers.hash_fraction(pair.key, "split") < 0.5
            assert (split == "validation") == (is_low and "split" not in pair.metadata)
            keys[pair.key, split] += 1
    assert keys.total() == len(keys) == 40
    report = json.loads((output / "report.json").read_text())
    assert 3 < report["splits"]["validation"] < 17
    assert report["notes"] == ["39 keys are of several files: the file's name is before them"]


def test_evaluation_sets_are_kept_out(raw, tmp_path):
    (tmp_path / "prompts.txt").write_text("Picture number 5.\n")
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "x.jpg").write_bytes(picture(6, 48, 48, "JPEG"))
    more = ["--decontaminate", str(tmp_path / "prompts.txt"), str(tmp_path / "held")]
    assert clean_pairs.run(arguments(raw, tmp_path / "pairs", *more)) == 0
    rows = rejected(tmp_path / "pairs")
    assert rows["good005"]["reason"] == "contaminated_caption"
    assert rows["good006"]["reason"] == "contaminated_image"
    assert "x" in rows["good006"]["measure"]
    assert len(pairs(tmp_path / "pairs", "train")) > 30


def test_near_copies_are_found_when_asked_for(raw, tmp_path):
    write_tar(tmp_path / "9.tar", {"zz": (picture(20, 48, 48), "a larger copy", {})})
    both = [f"{raw[0]}/0.tar", f"{raw[0]}/1.tar", str(tmp_path / "9.tar")]
    more = ["--image_size=16", "--min_side=8", "--near_duplicates=image"]
    output = tmp_path / "pairs"
    assert clean_pairs.run(["--input", *both, f"--output={output}", *more]) == 0
    rows = rejected(output)
    assert rows["good020"]["reason"] == "near_duplicate" and "zz" in rows["good020"]["measure"]
    groups = json.loads((output / "report.json").read_text())["copies"]["groups"]
    assert any(group["kept"]["key"] == "zz" for group in groups)


def test_new_files_are_added_to_old_pairs(raw, tmp_path):
    """Old pairs stay as they are, and win over copies; rows of one reason are read again."""
    inputs = [f"{raw[0]}/{i}.tar" for i in range(3)]
    common = ["--image_size=16", "--min_side=8", "--num_shards=2"]
    old, new, all_at_once = tmp_path / "old", tmp_path / "new", tmp_path / "whole"
    assert clean_pairs.run(["--input", *inputs[:2], f"--output={old}", *common]) == 0
    write_tar(
        tmp_path / "more.tar",
        {
            "more": (picture(500), "something new", {}),
            "copy": (picture(1, kind="BMP"), "a better file of an old picture", {}),
        },
    )
    inputs.append(str(tmp_path / "more.tar"))
    extend = [f"--extend={old}", "--retry_rejected", "image_would_grow", "caption_empty"]
    assert clean_pairs.run(["--input", *inputs, f"--output={new}", *common, *extend]) == 0
    before, after = ({p.key: p for s in records.SPLITS for p in pairs(d, s)} for d in (old, new))
    assert set(after) - set(before) == {"more", "2/good003"} and set(before) <= set(after)
    assert all(after[key] == pair for key, pair in before.items())
    rows = rejected(new)
    assert rows["copy"]["reason"] == "duplicate_image"
    assert rows["2.tar"]["reason"] == "broken_file"
    assert {key: row for key, row in rows.items() if key in rejected(old)} == rejected(old)
    assert len(manifests.read(new, "pairs")["inputs"]["sources"]) == 4
    report = json.loads((new / "report.json").read_text())
    assert report["extends"] == {"directory": str(old), "kept": len(before)}
    assert f"<code>{old}</code>" in (new / "report.html").read_text()
    for rule in report["rules"]:  # those of the old run too
        shown = {sample["key"] for sample in rule["dropped_samples"]}
        assert shown == {key for key, row in rows.items() if row["reason"] == rule["name"]}
    with pytest.raises(ValueError, match="cleaned with image_size=16, now it is 8"):
        extend = [f"--extend={old}", "--image_size=8"]
        clean_pairs.run(["--input", *inputs, f"--output={all_at_once}", *common, *extend])


def test_pieces_of_one_broken_file_are_one_file():
    report = {"broken_files": {"/a.parquet": 64, "/b.tar": 1, "/photos/": 3, "/z.tar": 1}}
    text = "6 broken files (/a.parquet, /b.tar, /photos/, ...)"
    assert last_lines.broken(report) == (6, text)
    assert last_lines.broken({})[0] == 0


def test_more_broken_files_than_allowed(tmp_path, capsys):
    write_tar(tmp_path / "0.tar", {f"k{i}": (picture(i), f"number {i}", {}) for i in range(4)})
    for number in (1, 2):
        whole = (tmp_path / "0.tar").read_bytes()
        (tmp_path / f"{number}.tar").write_bytes(b"nothing" * number + whole)
    command = [f"--input={tmp_path}/*.tar", f"--output={tmp_path}/pairs", *EXTEND]
    message = r"2 broken files \(/.*/1\.tar, /.*/2\.tar\), more than --max_broken_files=1"
    with pytest.raises(ValueError, match=message):
        clean_pairs.run([*command, "--max_broken_files=1"])
    assert not (tmp_path / "pairs").exists()
    assert clean_pairs.run([*command, "--max_broken_files=2"]) == 0
    assert f"\n2 broken files ({tmp_path}/1.tar, " in capsys.readouterr().out
    with pytest.raises(ValueError, match="--max_broken_files=-1: give 0 or more"):
        clean_pairs.run([*command, "--max_broken_files=-1"])


EXTEND = ["--image_size=16", "--min_side=8", "--num_shards=2"]


def counts(output):
    return manifests.read(output, "pairs")["counts"]


def rows_of(numbers):
    return {f"k{i}": (picture(i), f"picture number {i}", {}) for i in numbers}


@pytest.fixture
def old(tmp_path):
    """A run over one tar with six good pairs and two too small ones."""
    small = {f"small{i}": (picture(i, 12, 12), f"a small picture {i}", {}) for i in (90, 91)}
    write_tar(tmp_path / "0.tar", rows_of(range(6)) | small)
    assert clean_pairs.run([f"--input={tmp_path}/0.tar", f"--output={tmp_path}/old", *EXTEND]) == 0
    return tmp_path / "old"


def extend(old, inputs, *more):
    output = old.parent / "new"
    inputs = [str(old.parent / name) for name in inputs]
    return clean_pairs.run(
        ["--input", *inputs, f"--output={output}", f"--extend={old}", *EXTEND, *more]
    )


def again(output):
    return [f"--output={output}", "--retry_rejected", "image_would_grow", "missing_image"]


def test_new_pictures_of_a_folder_are_read(tmp_path):
    """Old and new ones may be in one piece of work."""

    def fill(numbers):
        for i in numbers:
            (tmp_path / "raw").mkdir(exist_ok=True)
            (tmp_path / "raw" / f"k{i}.png").write_bytes(picture(i))
            (tmp_path / "raw" / f"k{i}.txt").write_text(f"picture number {i}")

    fill(range(3))
    assert clean_pairs.run([f"--input={tmp_path}/raw", f"--output={tmp_path}/old", *EXTEND]) == 0
    fill(range(3, 8))
    assert extend(tmp_path / "old", ["raw"]) == 0
    assert (counts(tmp_path / "new")["read"], counts(tmp_path / "new")["rejected"]) == (8, 0)


def test_a_file_is_known_however_it_is_named(old, monkeypatch):
    monkeypatch.chdir(old.parent)
    more = ["--input", "0.tar", "./0.tar", "--output=new", "--extend=old", *EXTEND]
    assert clean_pairs.run(more) == 0
    assert counts(old.parent / "new") == counts(old)


def test_extended_twice_into_other_numbers_of_files(old):
    write_tar(old.parent / "1.tar", rows_of(range(4, 9)))
    assert extend(old, ["0.tar", "1.tar"], "--num_shards=5") == 0
    first = old.parent / "new"
    first.rename(old.parent / "first")
    write_tar(old.parent / "2.tar", rows_of(range(20, 23)))
    assert extend(old.parent / "first", ["*.tar"], "--num_shards=1") == 0
    found = counts(old.parent / "new")
    assert (found["read"], found["rejected"]) == (8 + 5 + 3, 2 + 2)
    keys = [pair.key for split in records.SPLITS for pair in pairs(old.parent / "new", split)]
    assert sorted(keys) == sorted(rows_of([*range(9), *range(20, 23)]))
    sources = manifests.read(old.parent / "new", "pairs")["inputs"]["sources"]
    assert sources == [[p, (old.parent / p).stat().st_size] for p, _ in sources]
    assert [p.rpartition("/")[2] for p, _ in sources] == ["0.tar", "1.tar", "2.tar"]


def test_retried_rows_are_neither_lost_nor_counted_twice(old):
    assert extend(old, ["0.tar"], "--retry_rejected=image_would_grow") == 0
    assert counts(old.parent / "new") == counts(old)
    assert rejected(old.parent / "new") == rejected(old)


def table(path, pictures):
    """Writes a csv that names pictures beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{name},a picture called {name}" for name in pictures]
    path.write_text("\n".join(["image_path,caption", *lines, ""]))


def rejected_rows(output):
    """Returns (file, row, key) of the rejected rows, sorted; keys may be equal."""
    return sorted((row["address"], row["row"], row["key"]) for row in rejected_lines(output))


def test_the_bytes_do_not_depend_on_where_the_input_is(old, tmp_path):
    (tmp_path / "else" / "where").mkdir(parents=True)
    moved = shutil.copy(tmp_path / "0.tar", tmp_path / "else" / "where")
    assert clean_pairs.run([f"--input={moved}", f"--output={tmp_path}/moved", *EXTEND]) == 0
    first, second = (manifests.read(path, "pairs") for path in (old, tmp_path / "moved"))
    assert first["fingerprint"] == second["fingerprint"] and first["counts"]["rejected"] == 2


@pytest.mark.parametrize(
    ("paths", "root"),
    [
        (["/a/b/0.tar", "/a/c/d/1.tar"], "/a/"),
        (["/a/0.tar"], "/a/"),
        (["/0.tar", "/a/1.tar"], "/"),
        (["gs://a/b/0.tar", "gs://a/bc/0.tar"], "gs://a/"),
        (["gs://a/0.tar", "/a/0.tar"], ""),
        ([], ""),
    ],
)
def test_the_root_of_the_input(paths, root):
    assert incremental.input_root([(path, 1) for path in paths]) == root


def test_a_row_is_retried_under_another_root(tmp_path):
    """Keys in a folder are relative to it; the row keeps the one that it had."""
    folder = tmp_path / "raw" / "sub"
    table(folder / "000.csv", [f"{i}.png" for i in range(5)])
    for i in range(3):
        (folder / f"{i}.png").write_bytes(picture(i))
    command = [f"--input={tmp_path}/raw/", "--input_format=csv", *EXTEND]
    assert clean_pairs.run([*command, f"--output={tmp_path}/old"]) == 0
    place = str(folder / "000.csv")
    lost = [(place, 3, "sub/000#3"), (place, 4, "sub/000#4")]
    assert rejected_rows(tmp_path / "old") == lost
    (folder / "3.png").write_bytes(picture(3))
    retry = ["--input_format=csv", "--retry_rejected=missing_image"]
    assert extend(tmp_path / "old", ["raw/sub"], *retry) == 0
    assert (counts(tmp_path / "new")["read"], counts(tmp_path / "new")["rejected"]) == (5, 1)
    assert rejected_rows(tmp_path / "new") == lost[1:]
    keys = {pair.key for split in records.SPLITS for pair in pairs(tmp_path / "new", split)}
    assert keys == {f"sub/000#{i}" for i in range(4)}


def test_pictures_are_retried_one_by_one(tmp_path):
    for name, size in (("a/0", 24), ("a/1", 12), ("b/0", 12), ("b/1", 24)):
        path = tmp_path / "raw" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(len(name) + ord(name[0]) + int(name[2]), size, size))
        path.with_suffix(".txt").write_text(f"a picture called {name}")
    command = [f"--input={tmp_path}/raw", f"--output={tmp_path}/old", *EXTEND]
    assert clean_pairs.run(command) == 0
    before = rejected_rows(tmp_path / "old")
    assert [row[1:] for row in before] == [(0, "a/1"), (0, "b/0")]
    assert extend(tmp_path / "old", ["raw/a", "raw/b"], *again(tmp_path / "new")) == 0
    assert rejected_rows(tmp_path / "new") == before
    assert counts(tmp_path / "new") == counts(tmp_path / "old")


def test_a_row_is_not_taken_for_another_of_its_name_or_key(tmp_path):
    """Two tars have one name and the keys of each other; in one a key stands twice."""
    small, good = (picture(1, 12, 12), "a small one", {}), (picture(2), "a good one", {})
    for folder in "ab":
        (tmp_path / folder).mkdir()
    write_tar(tmp_path / "a" / "0.tar", {"x": small, "y": good})
    twice = [("y.png", small[0]), ("y.txt", b"small"), ("y.png", b"no"), ("y.txt", b"broken")]
    write_tar(tmp_path / "b" / "0.tar", {"x": (picture(3), " ", {}), "z": good}, twice)
    command = [f"--input={tmp_path}/?/0.tar", f"--output={tmp_path}/old", *EXTEND]
    assert clean_pairs.run(command) == 0
    before = rejected_rows(tmp_path / "old")
    assert len(before) == 5 and counts(tmp_path / "old")["read"] == 6
    assert extend(tmp_path / "old", ["a/0.tar", "b/0.tar"], *again(tmp_path / "new")) == 0
    assert rejected_rows(tmp_path / "new") == before
    assert counts(tmp_path / "new") == counts(tmp_path / "old")


def test_every_piece_of_a_table_reads_its_own_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(readers.base.source_files, "ROWS_PER_SOURCE", 3)
    table(tmp_path / "raw" / "0.csv", [f"{i}.png" for i in range(8)])
    for i in (0, 2, 6):
        (tmp_path / "raw" / f"{i}.png").write_bytes(picture(i))
    command = [f"--input={tmp_path}/raw/0.csv", f"--output={tmp_path}/old", *EXTEND]
    assert clean_pairs.run(command) == 0
    for i in (1, 7):
        (tmp_path / "raw" / f"{i}.png").write_bytes(picture(i))
    inputs = ["raw/0.csv", "raw/../raw/0.csv"]  # named twice, read once
    assert extend(tmp_path / "old", inputs, *again(tmp_path / "new")) == 0
    assert [place for _, place, _ in rejected_rows(tmp_path / "new")] == [3, 4, 5]
    assert (counts(tmp_path / "new")["read"], counts(tmp_path / "new")["rejected"]) == (8, 3)


def test_a_retried_row_that_does_not_come_back_is_an_error(old):
    tar = old.parent / "0.tar"
    size = tar.stat().st_size
    for rows in ({}, {"small91": (picture(91, 12, 12), "a small picture 91", {})}):
        write_tar(tar, rows_of(range(6)) | rows)
        with tar.open("ab") as file:
            file.truncate(size)
        with pytest.raises(options.PipelineError, match="/0.tar: row 6, small90, is to be read"):
            extend(old, ["0.tar"], *again(old.parent / "new"))
        assert not (old.parent / "new").exists()
    # Without that flag the rows stay rejected.
    assert extend(old, ["0.tar"]) == 0
    assert rejected_rows(old.parent / "new") == rejected_rows(old)


def test_rows_to_read_again_are_not_in_the_job(old):
    extension = incremental.Extension(old, ["image_would_grow"])
    found = readers.find_sources([str(old.parent / "0.tar")])
    (source,) = extension.wanted(found, incremental.read_statuses(found))
    assert source == filter_sources.Work("000000-again", found[0], in_part=True)
    extension.write_wanted(old.parent)
    assert intermediate.read_wanted(old.parent, source.name) == {6: "small90", 7: "small91"}


def test_rows_of_an_earlier_version_are_not_retried(old):
    for path in old.glob("rejected-*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [{n: v for n, v in row.items() if n not in ("address", "row")} for row in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert extend(old, ["0.tar"]) == 0
    with pytest.raises(ValueError, match="old is of an earlier version and does not say where"):
        extend(old, ["0.tar"], *again(old.parent / "newer"))


def test_shards_go_by_the_old_pairs_too(old, monkeypatch):
    monkeypatch.setattr(sharded_writers, "TARGET_SHARD_BYTES", 100)
    write_tar(old.parent / "1.tar", {})
    assert extend(old, ["1.tar"], "--num_shards=auto") == 0
    settings = manifests.read(old.parent / "new", "pairs")["settings"]
    found = [*old.glob("*.tfrecord"), old.parent / "1.tar"]
    assert settings["num_shards"] == -(-sum(path.stat().st_size for path in found) // 100)


def test_a_rule_that_an_earlier_version_had_not_was_off(old):
    extension = incremental.Extension(old, [])
    later = ("drop_placeholders", "drop_test_split")
    for name in later:
        del extension.manifest["settings"][name]
    flags = ["--input=x", "--output=y", *EXTEND]
    parse = clean_pairs.make_parser().parse_args
    with pytest.raises(ValueError, match="cleaned with drop_placeholders=False, now it is True"):
        extension.check_settings(clean_pairs.check_flags(parse(flags)))
    flags += [f"--{name}=false" for name in later]
    extension.check_settings(clean_pairs.check_flags(parse(flags)))


def test_rows_that_cannot_be_retried_are_named(old):
    write_tar(old.parent / "1.tar", rows_of([7]))
    message = "--input lacks row 6, small90, of .*/0.tar"
    with pytest.raises(ValueError, match=message):
        extend(old, ["1.tar"], "--retry_rejected=image_would_grow")
    # A file that was read, of any format, does not make up for the one that is missing.
    tfrecord = old.parent / "also.tfrecord"
    tfrecords.write(tfrecord, [records.ImageTextPair("t", picture(70), "a t").to_example()])
    assert extend(old, ["also.tfrecord"]) == 0
    with pytest.raises(ValueError, match=message):
        extend(old.parent / "new", ["also.tfrecord"], *again(old.parent / "newer"))
    with pytest.raises(ValueError, match="=duplicate_pair: it would be dropped again, for the"):
        extend(old, ["0.tar"], "--retry_rejected=duplicate_pair")
    with pytest.raises(ValueError, match="--retry_rejected=image_wuold_grow: did you mean"):
        extend(old, ["0.tar"], "--retry_rejected=image_wuold_grow")


def test_a_broken_file_is_not_retried_in_part(raw, tmp_path):
    common = ["--input", f"{raw[0]}/0.tar", f"{raw[0]}/2.tar", *EXTEND]
    assert clean_pairs.run([*common, f"--output={tmp_path}/old"]) == 0
    more = [f"--extend={tmp_path}/old", "--retry_rejected=broken_file"]
    with pytest.raises(ValueError, match="2.tar as a whole was rejected"):
        clean_pairs.run([*common, f"--output={tmp_path}/new", *more])


def test_pairs_of_tfrecords_can_be_retried(old):
    """They name the tar that they were first read from."""
    tfrecord = old.parent / "raw.tfrecord"
    small = records.ImageTextPair("s", picture(1, 12, 12), "a small one", source="first.tar")
    good = [records.ImageTextPair(f"t{i}", picture(50 + i), f"number {i}") for i in range(3)]
    tfrecords.write(tfrecord, [pair.to_example() for pair in (small, *good)])
    output = old.parent / "of_tfrecord"
    assert clean_pairs.run([f"--input={tfrecord}", f"--output={output}", *EXTEND]) == 0
    assert extend(output, [tfrecord.name], "--retry_rejected=image_would_grow") == 0
    assert counts(old.parent / "new") == counts(output)


def test_what_was_filtered_of_a_file_that_changed_is_not_used(old, monkeypatch):
    """Not even if it has as many bytes as before."""
    tar, output = old.parent / "1.tar", old.parent / "new"
    flags = [f"--input={tar}", f"--output={output}", *EXTEND]

    def fail(*_):
        raise OSError("no space")

    for second, text in enumerate(("before", "behind")):
        write_tar(tar, {"k": (picture(1), f"a picture from {text}", {})})
        os.utime(tar, (second, second))
        with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
            patched.setattr(clean_report, "write", fail)
            clean_pairs.run(flags)
    assert clean_pairs.run(flags) == 0
    assert [pair.text for pair in pairs(output, "train")] == ["a picture from behind"]


def test_what_a_run_of_another_layout_has_left_is_removed(old, monkeypatch, capsys):
    output = old.parent / "new"
    flags = [f"--input={old.parent}/0.tar", f"--output={output}", *EXTEND]
    intermediates = old.parent / "new.unfinished" / ".scratch" / "intermediate"

    def fail(*_):
        raise OSError("no space")

    found = []
    for layout in (1, 1, 2):
        monkeypatch.setattr(intermediate, "LAYOUT", layout)
        with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
            patched.setattr(clean_report, "write", fail)
            clean_pairs.run(flags)
        found.append(sorted(path.name for path in intermediates.iterdir()))
        said = "new: an interrupted run .* of an earlier version; what it left is removed"
        assert len(re.findall(said, capsys.readouterr().err)) == (layout == 2)
    assert found[0] == found[1] and found[0] != found[2]
    assert len(found[2]) == len(found[0])


def test_another_list_of_words_is_another_rule(old):
    words = old.parent / "words.txt"
    words.write_text("nothing")
    common = [f"--input={old.parent}/0.tar", f"--unwanted_words_file={words}", *EXTEND]
    assert clean_pairs.run([*common, f"--output={old.parent}/first"]) == 0
    words.write_text("picture")
    with pytest.raises(ValueError, match="cleaned with sha256 of unwanted_words_file="):
        clean_pairs.run([*common, f"--output={old.parent}/new", f"--extend={old.parent}/first"])


def test_shards_go_by_what_will_be_written(tmp_path):
    arguments = ["--input=x", "--output=y", "--image_size=256"]
    settings = clean_pairs.check_flags(clean_pairs.make_parser().parse_args(arguments))
    (tmp_path / "urls.csv").write_text("url,text\n" + "http://a/b.jpg,a red circle\n" * 30_000)
    found = readers.find_sources([str(tmp_path / "urls.csv")])
    of_table = clean_pairs._output_bytes(found, settings)
    assert of_table == round(30_000 * 256**2 * 1.5)
    for i in range(50):
        (tmp_path / f"small-{i}.csv").write_text("url,text\n" + "http://a/b.jpg,a circle\n" * 8)
    small = readers.find_sources([str(tmp_path / "small-*.csv")])
    assert clean_pairs._output_bytes(small, settings) == round(50 * 8 * 256**2 * 1.5)
    write_tar(tmp_path / "a.tar", {"a": (picture(1), "a caption", {})})
    found = readers.find_sources([str(tmp_path / "a.tar")])
    assert clean_pairs._output_bytes(found, settings) == (tmp_path / "a.tar").stat().st_size
