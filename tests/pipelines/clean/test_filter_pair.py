# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""One pair: the first rule that rejects it, and what is written of one that passes."""

import io

import numpy as np
import pytest
from PIL import Image

from parti.data.decontamination import decontamination
from parti.data.storage import records
from parti.pipelines import readers
from parti.pipelines.clean import filter_pair
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.rules import presets

SIZE = 16


def picture(seed, width=24, height=24, kind="PNG"):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST).save(buffer, kind)
    return buffer.getvalue()


def make_filter(**values):
    preset = values.pop("preset", "default")
    changes = {"min_side": 8} if preset == "default" else {}
    loaded = presets.load_preset(preset, changes, values.get("image_size", SIZE))
    settings = clean_settings.CleanSettings(loaded, **{"image_size": SIZE} | values)
    return filter_pair.load_filter(settings, evaluation="")


def counted(filtered):
    return [(count.kind, count.name) for count in filtered.counts]


def test_the_cheapest_rule_that_rejects_is_the_reason():
    clean = make_filter()
    broken = records.ImageTextPair("k", b"nothing", "  ", source="0.tar")
    found = clean(broken)
    row = found.result
    assert isinstance(row, readers.Rejected)
    assert (row.key, row.reason, row.source) == ("k", "caption_empty", "0.tar")
    assert ("before", "side") not in counted(found)
    found = clean(records.ImageTextPair("k", picture(0, 4, 4), "a dog"))
    assert found.result.reason == "image_too_small" and ("before", "side") in counted(found)
    assert clean(records.ImageTextPair("k", b"nothing", "a dog")).result.reason == (
        "image_undecodable"
    )


def test_a_picture_of_a_format_that_is_not_read_is_named():
    heic = records.ImageTextPair("k", b"\0\0\0\x18ftypheic" + bytes(100), "a caption of words")
    row = make_filter()(heic).result
    assert row.reason == "image_unsupported"
    assert row.measure == "not an image that is read: HEIC; save it as JPEG, PNG or WebP"


def test_what_is_known_of_a_pair_that_passes():
    pair = records.ImageTextPair("k", picture(0), "a  d\u00c3\u00b6g - stock photo")
    found = make_filter(validation_fraction=0.0)(pair)
    row = found.result.fingerprint
    assert (row.id, row.key, row.split, row.area) == ("", "k", "train", 24 * 24)
    assert row.num_bytes == len(pair.image) and row.words == () and not row.known
    assert found.changes == {
        "caption_repaired": pair.text,
        "caption_stripped": pair.text,
    }
    assert found.result.pair.text == "a d\u00f6g"
    assert {("changed", "caption_repaired"), ("no_value", "score_nsfw")} <= set(counted(found))
    distance, measure = found.near["image_too_small"]
    assert distance == pytest.approx(2.0) and measure == "24 pixels"


def test_pairs_of_an_evaluation_set_are_rejected(tmp_path):
    (tmp_path / "prompts.txt").write_text("A dog on a very long green sofa in the room\n")
    evaluation = decontamination.EvaluationSet.load([str(tmp_path / "prompts.txt")])
    evaluation.save(tmp_path / "evaluation.zip")
    rules = presets.load_preset("none", {}, SIZE)
    settings = clean_settings.CleanSettings(rules, image_size=SIZE)
    clean = filter_pair.load_filter(settings, str(tmp_path / "evaluation.zip"))
    text = "a dog on a very long green sofa in the room"
    assert clean(records.ImageTextPair("k", picture(0), text)).result.reason == (
        "contaminated_caption"
    )
    assert isinstance(
        clean(records.ImageTextPair("k", picture(0), "a cat")).result, filter_pair.Passed
    )


def test_metadata_of_any_kind_is_kept_or_mended():
    for given, mended in (("one  two", ["one two"]), (None, []), ({"a": 1}, [])):
        metadata = {"captions": given, "original_size": "large"}
        pair = records.ImageTextPair("k", picture(0), "a dog", metadata=metadata)
        cleaned = make_filter()(pair).result.pair
        assert cleaned.metadata["captions"] == mended
        assert len(cleaned.metadata["original_size"]) == 2
        assert records.ImageTextPair.from_example(cleaned.to_example()) == cleaned


@pytest.mark.parametrize("size", [[0, 10], [-3, 10], [1, 10**400]])
def test_a_size_that_no_picture_has_is_not_believed(size):
    pair = records.ImageTextPair("k", picture(0), "a dog", metadata={"original_size": size})
    assert make_filter()(pair).result.pair.metadata["original_size"] == [24, 24]


def test_jpeg_output():
    clean = make_filter(image_size=8, image_format="jpeg")
    pair = records.ImageTextPair("k", picture(1), "a caption")
    result = clean(pair).result
    assert result.pair.image.startswith(b"\xff\xd8")
    assert result.pair == clean(pair).result.pair
    smaller = make_filter(image_size=8, image_format="jpeg", jpeg_quality=10)(pair).result
    assert len(smaller.pair.image) < len(result.pair.image)
