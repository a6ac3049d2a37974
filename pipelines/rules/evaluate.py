# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Applies the rules of `table` to one pair: first to its caption, then to its image."""

from collections.abc import Iterable, Mapping
from typing import Any

from parti.data.text import captions
from parti.pipelines.rules import presets, rule, table

Rejection = tuple[str, str]  # the rule's name, and the measure that decided

# Characters; a longer caption is rejected unread, whatever the preset. Combining marks take time in
# the square of their number to be put in order (0.3 s for this many).
MAX_CAPTION = 16_384
NO_VALUE = "no_value:"  # begins the note of a rule whose score the metadata does not have

_NOT_CAPTION_KINDS = (table.IMAGE, table.COPIES)
_CAPTION_RULES = [r for r in table.RULES.values() if r.kind not in _NOT_CAPTION_KINDS]
_IMAGE_RULES = [r for r in table.RULES.values() if r.kind == table.IMAGE]


def repair(text: str, settings: presets.RuleSettings) -> tuple[str, tuple[str, ...]]:
    """Returns a caption in normal form, repaired as set, and the names of the repairs made."""
    text, notes = captions.normalize_caption(text), []
    for row in table.REPAIRS:
        if row.is_on(settings.values):
            before, text = text, row.change(text, settings.values)
            notes += [row.name] if text != before else []
    return text, tuple(notes)


def check_caption(
    text: str,
    metadata: Mapping[str, Any],
    settings: presets.RuleSettings,
    measures: dict[str, float] | None = None,
) -> tuple[str, Rejection | None, tuple[str, ...]]:
    """Repairs a caption and applies the rules for captions and for scores in the metadata.

    `measures` takes rule -> number for each rule that was applied and has one.

    Returns:
      The caption to keep; the first rule that rejects it and the measure, or None; and notes: names
      of `table.REPAIRS`, and "no_value:<rule>" for each rule that has no score to check.
    """
    if len(text) > MAX_CAPTION:
        measure = f"{len(text):,} characters; over {MAX_CAPTION:,} it is not read"
        return captions.normalize_caption(text[:1_000]), ("caption_too_long", measure), ()
    text, notes = repair(text, settings)
    caption = rule.Caption(text, metadata)
    rejection, missing = _apply(_CAPTION_RULES, caption, settings.values, measures)
    return text, rejection, notes + missing


def check_image(
    image: rule.Image, settings: presets.RuleSettings, measures: dict[str, float] | None = None
) -> Rejection | None:
    """Applies the rules for images. Called without pixels first, it may spare the decoding.

    Rules that read what the image lacks, as its pixels, are left out. Returns the first rule that
    rejects it and the measure, or None; `measures` is as for `check_caption`.
    """
    return _apply(_IMAGE_RULES, image, settings.values, measures)[0]


def closeness(name: str, measure: float, settings: presets.RuleSettings) -> float:
    """Returns how far a measure is from its rule's threshold, as a share of it; 0 is at it."""
    threshold = float(settings.values[table.RULES[name].setting.name])
    return abs(measure - threshold) / max(abs(threshold), 1e-9)


def _apply(
    rules: Iterable[rule.Rule],
    input: rule.Caption | rule.Image,
    values: Mapping[str, Any],
    measures: dict[str, float] | None,
) -> tuple[Rejection | None, tuple[str, ...]]:
    """Returns the first rejection, and notes of rules that had no value to check."""
    missing: list[str] = []
    for row in rules:
        if not row.is_on(values):
            continue
        if row.find is not None:
            found = row.find(input, values)
        else:
            assert row.measure is not None  # a rule for one pair measures or finds something
            measure = row.measure(input, values)
            if measure is None:
                missing.append(NO_VALUE + row.name)
                continue
            if measures is not None:
                measures[row.name] = measure
            found = row.fault(measure, input, values)
        if found:
            return (row.name, found), tuple(missing)
    return None, tuple(missing)
