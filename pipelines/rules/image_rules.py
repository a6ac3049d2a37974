# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The rules of `parti clean` for pictures, and those that need other pairs, in their order."""

from parti.pipelines.rules import inputs as rule_inputs
from parti.pipelines.rules import settings as rule_settings

Rule = rule_settings.Rule
Settings = rule_settings.Settings
Picture = rule_inputs.Picture

STAGE, COPIES = "Good picture", "Only one of its kind"
_CC3M = "Conceptual Captions, Sharma et al. 2018, section 3"
_ALIGN = "ALIGN, Jia et al. 2021, section 3"
_LAION = "LAION-400M, Schuhmann et al. 2021"
_COYO = "COYO-700M README"
_DATACOMP = "DataComp, Gadre et al. 2023, basic filtering"


def _would_grow(picture: Picture, settings: Settings) -> str | None:
    side = settings["image_size"]
    size = f"{picture.width} x {picture.height}"
    return f"{size}, to become {side}" if picture.short_side < side else None


def _size(picture: Picture, settings: Settings) -> str:
    return f"{picture.width} x {picture.height}; the shorter side must be {settings['min_side']}"


def _wrong_format(picture: Picture, settings: Settings) -> str | None:
    if not picture.format or picture.format in settings["image_formats"]:
        return None
    return f"{picture.format}; kept: {', '.join(settings['image_formats'])}"


def _ratio(picture: Picture, settings: Settings) -> str:
    return f"{picture.width} x {picture.height} is {picture.aspect_ratio:.2f} to 1"


RULES = (
    Rule(
        "image_too_few_bytes",
        STAGE,
        "min_bytes",
        "Too small a file",
        "An icon, a placeholder or a picture of very low quality.",
        _LAION,
        bound="min",
        measure=lambda p, s: p.num_bytes or None,
    ),
    Rule(
        "image_format",
        STAGE,
        "image_formats",
        "Another format",
        "The file is not of a format that is to be kept.",
        _CC3M,
        find=_wrong_format,
    ),
    Rule(
        "image_too_small",
        STAGE,
        "min_side",
        "Too small",
        "The shorter side is under the least allowed.",
        _DATACOMP,
        bound="min",
        measure=lambda p, s: p.short_side,
        describe=_size,
    ),
    Rule(
        "image_would_grow",
        STAGE,
        "allow_upscale",
        "Smaller than the output",
        "It would have to be enlarged, which blurs; --allow_upscale keeps it.",
        find=_would_grow,
        only=False,
    ),
    Rule(
        "image_aspect_ratio",
        STAGE,
        "max_aspect_ratio",
        "Too long or too tall",
        "The square crop would lose too much.",
        _CC3M,
        bound="max",
        measure=lambda p, s: p.aspect_ratio,
        describe=_ratio,
    ),
    Rule(
        "image_blank",
        STAGE,
        "min_deviation",
        "One flat colour",
        "There is nothing to see.",
        bound="min",
        measure=lambda p, s: p.deviation(s["min_deviation"]),
    ),
    Rule(
        "image_low_entropy",
        STAGE,
        "min_entropy",
        "Hardly anything to see",
        "A few flat colours: a logo, a chart, a page.",
        bound="min",
        measure=lambda p, s: p.entropy,
    ),
    Rule(
        "image_with_too_many_captions",
        COPIES,
        "max_captions_per_image",
        "Picture with many captions",
        "A picture that many texts were put to is a logo or a placeholder.",
        _ALIGN,
    ),
    Rule(
        "caption_on_too_many_images",
        COPIES,
        "max_images_per_caption",
        "Caption on many pictures",
        "A text that many pictures carry says little about any of them.",
        _ALIGN,
    ),
    Rule(
        "duplicate_pair",
        COPIES,
        "exact_duplicates",
        "Same picture, same caption",
        "Another pair is equal to it.",
        _LAION,
    ),
    Rule(
        "duplicate_image",
        COPIES,
        "exact_duplicates",
        "Same picture, other caption",
        "The best copy stays, with its own caption.",
        only="image",
    ),
    Rule(
        "near_duplicate",
        COPIES,
        "near_duplicates",
        "Nearly the same picture",
        "The same picture saved again, in another size or quality. The best copy stays.",
        _COYO,
    ),
    Rule(
        "near_caption",
        COPIES,
        "near_captions",
        "Nearly the same caption",
        "Another pair says it in the same words.",
    ),
)
