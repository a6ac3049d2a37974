# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every reason to drop a pair is in words, and has a place in the funnel."""

from parti.pipelines import readers
from parti.pipelines.clean import reasons as clean_reasons
from parti.pipelines.rules import table


def test_every_reason_has_words() -> None:
    named = {*readers.REASONS, *table.RULES, "image_undecodable", "duplicate_key"}
    assert named <= set(clean_reasons.REASONS)
    for reason in clean_reasons.REASONS.values():
        assert reason.stage != clean_reasons.OTHER
        assert reason.title and reason.explanation.endswith("."), reason


def test_stages() -> None:
    assert clean_reasons.find("fetch_timeout").stage == "Fetched"
    assert clean_reasons.find("broken_file").stage == "Readable"
    assert clean_reasons.find("image_too_small").stage == "Good picture"
    assert clean_reasons.find("near_duplicate").stage == "Only one of its kind"


def test_an_unknown_reason_is_put_into_words() -> None:
    found = clean_reasons.find("moon_too_bright")
    assert (found.stage, found.title, found.explanation) == ("Other", "Moon too bright", "")
