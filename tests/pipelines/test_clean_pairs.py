# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti clean` over a small hostile collection: every reason, both splits, the same bytes."""

import io
import json
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from parti.data import images, records, tfrecords
from parti.engine import manifests
from parti.pipelines import clean_pairs, clean_report, clean_rules, readers

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
        "same": ((picture(10), "Picture number 10", {}), "duplicate_pair"),
        "see": ((picture(10, kind="BMP"), "in other words", {}), "duplicate_image"),
    }
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


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    rows, reasons = collection()
    keys = list(rows)
    write_tar(folder / "0.tar", {key: rows[key] for key in keys[::2]}, HOSTILE)
    write_tar(folder / "1.tar", {key: rows[key] for key in keys[1::2]})
    # Another picture under a key that is taken, in a file that ends too early.
    write_tar(folder / "2.tar", {"good003": (picture(88), "a second one", {}), "cut": rows["held"]})
    data = (folder / "2.tar").read_bytes()
    (folder / "2.tar").write_bytes(data[: 4 * 512 + 600])
    reasons |= {"../up": "unsafe_name", "alone": "missing_caption", "wordless": "missing_image"}
    reasons |= {"2.tar": "broken_file", "good003": "duplicate_key"}
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


def rejected(output):
    rows = [
        json.loads(line)
        for path in output.glob("rejected-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    return {row["key"]: row for row in rows}


def test_every_reason_is_met(raw, cleaned):
    rows = rejected(cleaned)
    assert {key: row["reason"] for key, row in rows.items()} == raw[1]
    known = {reason for stage in clean_report.STAGES for reason in stage.rules}
    assert {row["reason"] for row in rows.values()} <= known
    assert rows["long"]["measure"] == "60 x 24 is 2.50 to 1"
    assert rows["see"]["measure"] == "as good010"


def test_kept_pairs(cleaned):
    train, validation = pairs(cleaned, "train"), pairs(cleaned, "validation")
    by_key = {pair.key: pair for pair in train + validation}
    assert len(by_key) == len(train) + len(validation) == NUM_GOOD + 1
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
    assert names == {
        *(f"train-0000{i}-of-00003.tfrecord" for i in range(3)),
        "validation-00000-of-00001.tfrecord",
        "rejected-00000-of-00001.jsonl",
        "report.json",
        "report.html",
        "manifest.json",
    }
    assert [path.name for path in cleaned.parent.iterdir()] == ["pairs"]
    manifest = manifests.read(cleaned, "pairs")
    report = json.loads((cleaned / "report.json").read_text())
    assert report["kept"] == NUM_GOOD + 1
    assert report["rejected"]["image_blank"] == 1
    assert manifest["counts"] == {
        "read": NUM_GOOD + 1 + len(raw[1]),
        "rejected": len(raw[1]),
        **report["splits"],
    }
    assert manifest["settings"]["image_size"] == SIZE


def test_report_page(raw, cleaned):
    page = (cleaned / "report.html").read_text()
    assert "{{" not in page
    assert not re.search(r"(?:src|href)=[\"']?(?!data:|[\"'])", page)
    for reason in set(raw[1].values()):
        assert f"<code>{reason}</code>" in page
    assert "kept as: picture number 10" in page


def test_captions_cannot_break_the_page():
    row = [0.5, "k\"'", "<script>alert(1)</script>", "<b>", ""]
    report = {
        "read": 2,
        "kept": 1,
        "splits": {"train": 1, "validation": 0},
        "num_bytes": 1,
        "rejected": {"image_blank": 1},
        "words": [[1, 1]],
        "sides": [[1, 1]],
    }
    settings = {"image_size": 1, "image_format": "png", "preset": "default"}
    page = clean_report.render(report, {"kept": [row], "image_blank": [row]}, settings)
    assert "<script" not in page and "&lt;script&gt;" in page


def test_same_bytes_for_any_number_of_workers(raw, cleaned, tmp_path):
    workers = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    clean_pairs.run(arguments(raw, tmp_path / "pairs", *workers))
    for path in cleaned.iterdir():
        assert (tmp_path / "pairs" / path.name).read_bytes() == path.read_bytes(), path.name


def test_finished_output_is_not_replaced(raw, cleaned):
    with pytest.raises(ValueError, match="already finished; pass --overwrite"):
        clean_pairs.run(arguments(raw, cleaned))


def test_preset_none_keeps_what_can_be_used(raw, tmp_path):
    flags = clean_pairs.make_parser().parse_args(
        ["--input=x", "--output=y", "--preset=none", f"--image_size={SIZE}"]
    )
    settings = clean_pairs.check_flags(flags)
    rows, reasons = collection()
    for key, (image, text, metadata) in rows.items():
        pair = records.ImageTextPair(key, image, text, metadata=metadata)
        result = clean_rules.clean_pair(pair, settings)
        if reasons.get(key) == "image_undecodable":
            assert isinstance(result, readers.Rejected)
        else:
            assert images.decode_image(result.pair.image).shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset=strict"], "--preset=strict: choose from default, none"),
        (["--image_size=0"], "--image_size=0: give 1 to 4096 pixels"),
        (["--image_format=gif"], "--image_format=gif: choose from png, jpeg"),
        (["--validation_fraction=1"], "--validation_fraction=1.0: give 0 or more, less than 1"),
        (["--min_side=0"], "--min_side=0: give at least 1 pixel"),
        (["--max_aspect_ratio=0.5"], "--max_aspect_ratio=0.5: give at least 1, or 0"),
        (["--num_shards=none"], "--num_shards=none: give auto, or a number"),
        (["--input_format=zip"], "--input_format=zip: unknown; choose from auto, webdataset"),
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
    with pytest.raises(ValueError, match="no pairs in .*empty.tar; a tar holds key.jpg"):
        clean_pairs.run([f"--input={tmp_path}/empty.tar", f"--output={tmp_path / 'x'}"])
    write_tar(tmp_path / "small.tar", {"a": (picture(1), "a caption", {})})
    with pytest.raises(ValueError, match="no pair of 1 in .* was kept: 1 image_too_small"):
        clean_pairs.run([f"--input={tmp_path}/small.tar", f"--output={tmp_path / 'x'}"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.tar", "small.tar"]


def test_metadata_of_any_kind_is_kept_or_mended():
    image = picture(0)
    settings = clean_rules.CleanSettings(image_size=16, min_side=8)
    for given, mended in (("one  two", ["one two"]), (None, []), ({"a": 1}, [])):
        metadata = {"captions": given, "original_size": "large"}
        pair = records.ImageTextPair("k", image, "a dog", metadata=metadata)
        cleaned = clean_rules.clean_pair(pair, settings).pair
        assert cleaned.metadata["captions"] == mended
        assert len(cleaned.metadata["original_size"]) == 2
        assert records.ImageTextPair.from_example(cleaned.to_example()) == cleaned


def test_jpeg_output():
    settings = clean_rules.CleanSettings(image_size=8, min_side=8, image_format="jpeg")
    pair = records.ImageTextPair("k", picture(1), "a caption")
    result = clean_rules.clean_pair(pair, settings)
    assert result.pair.image.startswith(b"\xff\xd8")
    assert result.pair == clean_rules.clean_pair(pair, settings).pair
