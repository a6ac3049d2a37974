# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The rules of `parti clean` that look at one pair: presets, flags, and what they say of a pair.

`load_preset` reads the settings (rule_presets.py); `examine_caption` and `examine_image` apply the
rules in the order of `RULES` (caption_rules.py, image_rules.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parti.data.text import captions
from parti.pipelines.rules import caption_rules, image_rules
from parti.pipelines.rules import inputs as rule_inputs
from parti.pipelines.rules import presets as rule_presets
from parti.pipelines.rules import settings as rule_settings

RULES, SETTINGS = rule_presets.RULES, rule_settings.SETTINGS
RuleSettings = rule_presets.RuleSettings
load_preset, preset_names = rule_presets.load_preset, rule_presets.preset_names
add_flags, flag_changes = rule_presets.add_flags, rule_presets.flag_changes

Rejection = tuple[str, str]  # the rule's name, and the measure that decided

# Characters; a longer caption is rejected unread, whatever the preset. Combining marks take time in
# the square of their number to be put in order (0.3 s for so many).
MAX_CAPTION = 16_384
# What `examine_caption` notes of a caption that it changed: name -> title.
REPAIRED, STRIPPED = "caption_repaired", "caption_stripped"
CHANGES = {REPAIRED: "Letters put right", STRIPPED: "Boilerplate removed"}
NO_VALUE = "no_value:"  # begins the note of a rule whose score the metadata does not have


def repair(text: str, settings: RuleSettings) -> tuple[str, tuple[str, ...]]:
    """Returns a caption in normal form, repaired and stripped as set, and notes of `CHANGES`."""
    values, notes = settings.values, []
    text = captions.normalize_caption(text)
    if values["repair_text"]:
        before, text = text, captions.repair_caption(text)
        if text != before:
            text = captions.normalize_caption(text)
            notes.append(REPAIRED)
    if values["strip_prefixes"] or values["strip_suffixes"]:
        before = text
        text = captions.strip_affixes(text, values["strip_prefixes"], values["strip_suffixes"])
        notes += [STRIPPED] if text != before else []
    return text, tuple(notes)


def examine_caption(
    text: str,
    metadata: Mapping[str, Any],
    settings: RuleSettings,
    measures: dict[str, float] | None = None,
) -> tuple[str, Rejection | None, tuple[str, ...]]:
    """Repairs a caption and applies the rules for captions and for scores in the metadata.

    Args:
      text: as read.
      metadata: of the pair; names of fields in any case.
      settings: of `load_preset`.
      measures: if given, takes rule -> number for each rule that was applied and has one.

    Returns:
      The caption to keep; the first rule that rejects it and the measure, or None; and notes: names
      of `CHANGES`, and "no_value:<rule>" for each rule that has no score to look at.
    """
    if len(text) > MAX_CAPTION:
        measure = f"{len(text):,} characters; over {MAX_CAPTION:,} it is not read"
        return captions.normalize_caption(text[:1_000]), ("caption_too_long", measure), ()
    text, notes = repair(text, settings)
    caption = rule_inputs.Caption(text, metadata)
    rejection, missing = _examine(caption_rules.RULES, caption, settings.values, measures)
    return text, rejection, notes + missing


def examine_image(
    width: int,
    height: int,
    num_bytes: int,
    pixels: np.ndarray | None,
    settings: RuleSettings,
    image_format: str = "",
    measures: dict[str, float] | None = None,
) -> Rejection | None:
    """Applies the rules for pictures. Asked without pixels first, it spares decoding.

    Args:
      width: in pixels; which side is which does not matter.
      height: in pixels.
      num_bytes: of the encoded picture; 0 if not known, then it is not looked at.
      pixels: [height, width, 3] uint8; None: rules that look at them are left out.
      settings: of `load_preset`.
      image_format: "jpeg", "png", ... (see `rule_inputs.image_format`); "": not looked at.
      measures: as for `examine_caption`.

    Returns:
      The first rule that rejects it and the measure, or None.
    """
    picture = rule_inputs.Picture(width, height, num_bytes, image_format, pixels)
    return _examine(image_rules.RULES, picture, settings.values, measures)[0]


def closeness(rule: str, measure: float, settings: RuleSettings) -> float:
    """Returns how far a measure is from its rule's setting, as a share of the setting; 0 is at it.

    For samples of pairs that a rule nearly dropped.
    """
    threshold = float(settings.values[RULES[rule].setting])
    return abs(measure - threshold) / max(abs(threshold), 1e-9)


def duplicate_values(settings: RuleSettings) -> dict[str, Any]:
    """Returns the settings about other pairs, named as in `connected_groups.DuplicateSettings`."""
    values = settings.values
    return {
        "exact": values["exact_duplicates"],
        "near": values["near_duplicates"],
        "near_captions": values["near_captions"] or 0.0,
        "max_captions_per_image": values["max_captions_per_image"] or 0,
        "max_images_per_caption": values["max_images_per_caption"] or 0,
    }


def describe(settings: RuleSettings) -> list[dict[str, Any]]:
    """Returns a row for each active rule: name, stage, title, explanation, source, threshold, unit.

    The threshold is None where the rule is a switch.
    """
    rows = []
    for rule in settings.active():
        setting, value = SETTINGS[rule.setting], settings.values[rule.setting]
        threshold = None if setting.kind in ("switch", "choice", "file") else value
        row = {name: getattr(rule, name) for name in ("name", "stage", "title", "explanation")}
        row["threshold"] = list(value) if isinstance(threshold, tuple) else threshold
        rows.append({**row, "unit": setting.unit, "source": rule.source})
    return rows


def _examine(
    rules: Sequence[rule_settings.Rule],
    subject: Any,
    values: Mapping[str, Any],
    measures: dict[str, float] | None,
) -> tuple[Rejection | None, tuple[str, ...]]:
    """Returns the first rejection, and notes of rules that had no value to look at."""
    missing: list[str] = []
    for rule in rules:
        if not rule.is_on(values):
            continue
        if rule.find is not None:
            found = rule.find(subject, values)
        elif rule.measure is not None:
            measure = rule.measure(subject, values)
            if measure is None:
                missing.append(NO_VALUE + rule.name)
                continue
            if measures is not None:
                measures[rule.name] = measure
            found = _judge(rule, measure, subject, values)
        else:
            continue
        if found:
            return (rule.name, found), tuple(missing)
    return None, tuple(missing)


def _judge(
    rule: rule_settings.Rule, measure: float, subject: Any, values: Mapping[str, Any]
) -> str | None:
    """Returns why a measure is on the wrong side of its threshold, or None."""
    threshold = values[rule.setting]
    if measure >= threshold if rule.bound == "min" else measure <= threshold:
        return None
    if rule.describe is not None:
        return rule.describe(subject, values)
    unit = SETTINGS[rule.setting].unit
    unit = f" {unit.removesuffix('s') if measure == 1 else unit}".rstrip()
    side = "at least" if rule.bound == "min" else "at most"
    shown = f"{measure:,}" if isinstance(measure, int) else f"{measure:.3g}"
    return f"{shown}{unit}; {side} {threshold:,} allowed"
