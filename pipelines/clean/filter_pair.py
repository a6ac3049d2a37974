# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What `parti clean` does with one pair, alone: rules, hashes, evaluation sets, the new picture.

The order is that of cost: the caption and the scores of the metadata, the size of the picture, its
pixels, the evaluation sets. The first that rejects a pair is its reason.
"""

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import xxhash

from parti.data.decontamination import decontamination
from parti.data.images import crops, image_hashes, images
from parti.data.storage import records
from parti.data.text import text_hashes
from parti.pipelines import readers
from parti.pipelines.beam import sharded_writers
from parti.pipelines.clean import examine_sources
from parti.pipelines.clean import histograms as clean_histograms
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.deduplicate import fingerprints
from parti.pipelines.rules import inputs as rule_inputs
from parti.pipelines.rules import rules

ORIGINAL_SIZE = "original_size"  # in the metadata: [width, height] before crop and resize
# A JPEG is decoded at a size of at least so many sides of the output: see `images.decode`.
_DRAFT_SIDES = 2
BEFORE, KEPT = "before:", "kept:"
_SCORES = ("similarity", "nsfw", "watermark", "aesthetic")


class Judge:
    """Judges pairs by the same settings."""

    def __init__(self, settings: clean_settings.CleanSettings, evaluation: str = "") -> None:
        """Opens the evaluation set.

        Args:
          settings: the rules and the form of the output.
          evaluation: where `EvaluationSet.save` put it; "" for none.
        """
        self._settings = settings
        self._hash_words = bool(settings.duplicates.near_captions)
        self._evaluation = decontamination.EvaluationSet.open(evaluation) if evaluation else None

    def __call__(self, pair: records.ImageTextPair) -> examine_sources.Examined:
        """Applies every rule that needs only this pair, then crops, resizes and encodes."""
        measures: dict[str, float] = {}
        text, rejection, notes = rules.examine_caption(
            pair.text, pair.metadata, self._settings.rules, measures
        )
        facts = [_fact_of_note(note) for note in notes]
        facts += caption_facts(text, pair.metadata, self._settings, BEFORE)
        changes = {note: pair.text for note in notes if note in rules.CHANGES}

        def rejected(reason: str, measure: str) -> examine_sources.Examined:
            row = readers.Rejected(pair.key, reason, measure, text, pair.source)
            return examine_sources.Examined(row, facts, changes=changes)

        if rejection:
            return rejected(*rejection)
        try:
            picture = self._picture(pair.image, facts, measures)
        except ValueError as error:
            return rejected("image_undecodable", str(error))
        if isinstance(picture, tuple):
            return rejected(*picture)
        phash, colours = image_hashes.fingerprint(picture.pixels)
        area = picture.width * picture.height
        if self._evaluation and (hit := self._evaluation.hit(text, phash, colours, area)):
            return rejected(*hit)
        candidate = fingerprints.Candidate(
            id="",
            key=pair.key,
            split=self._split(pair),
            content=xxhash.xxh3_128_digest(pair.image),
            pixels=image_hashes.pixel_hash(picture.pixels),
            phash=phash,
            colours=colours,
            caption=text_hashes.caption_hash(text),
            words=text_hashes.minhash(text) if self._hash_words else (),
            area=area,
            num_bytes=len(pair.image),
        )
        passed = examine_sources.Passed(self._cleaned(pair, text, picture, phash), candidate)
        near = {name: self._near(name, measure) for name, measure in measures.items()}
        return examine_sources.Examined(passed, facts, near, changes)

    def _picture(
        self, data: bytes, facts: list[examine_sources.Fact], measures: dict[str, float]
    ) -> images.DecodedImage | rules.Rejection:
        """Decodes a picture unless a rule rejects it, by its header if that says enough.

        Raises:
          ValueError: it does not open.
        """
        settings, kind = self._settings.rules, rule_inputs.image_format(data)
        width, height = images.read_size(data)
        facts += picture_facts(width, height, len(data), BEFORE)
        found = rules.examine_image(width, height, len(data), None, settings, kind, measures)
        if found:
            return found
        picture = images.decode(data, draft_side=_DRAFT_SIDES * self._settings.image_size)
        pixels = picture.pixels
        return (
            rules.examine_image(width, height, len(data), pixels, settings, kind, measures)
            or picture
        )

    def _near(self, rule: str, measure: float) -> tuple[float, str]:
        """Returns how near a measure is to its rule's threshold, and the measure in words."""
        unit = rules.SETTINGS[rules.RULES[rule].setting].unit
        distance = rules.closeness(rule, measure, self._settings.rules)
        return distance, f"{measure:.4g} {unit}".strip()

    def _cleaned(
        self, pair: records.ImageTextPair, text: str, picture: images.DecodedImage, phash: int
    ) -> records.ImageTextPair:
        """Returns the record to write."""
        settings = self._settings
        pixels = crops.fit(picture.pixels, settings.image_size, settings.crop, pair.key)
        encode = (
            images.encode_png
            if settings.image_format == "png"
            else functools.partial(images.encode_jpeg, quality=settings.jpeg_quality)
        )
        metadata = dict(pair.metadata)
        if not _is_size(metadata.get(ORIGINAL_SIZE)):  # a pair may have been cleaned before
            metadata[ORIGINAL_SIZE] = [picture.width, picture.height]
        if records.CAPTIONS in metadata:
            more = metadata[records.CAPTIONS]
            # Whatever the metadata had there, it becomes a list of texts.
            texts = [c for c in (more if isinstance(more, list) else [more]) if isinstance(c, str)]
            repaired = (rules.repair(caption, settings.rules)[0] for caption in texts)
            metadata[records.CAPTIONS] = [caption for caption in repaired if caption]
        return records.ImageTextPair(
            key=pair.key,
            image=encode(pixels),
            text=text,
            width=settings.image_size,
            height=settings.image_size,
            source=pair.source,
            sha256=hashlib.sha256(pair.image).hexdigest(),
            phash=f"{phash:016x}",
            metadata=metadata,
        )

    def _split(self, pair: records.ImageTextPair) -> str:
        """Returns the split that the metadata name, else one by the hash of the key."""
        split = str(pair.metadata.get("split"))
        if split in records.SPLITS:
            return split
        fraction = sharded_writers.hash_fraction(pair.key, "split")
        return "validation" if fraction < self._settings.validation_fraction else "train"


def caption_facts(
    text: str, metadata: Mapping[str, Any], settings: clean_settings.CleanSettings, prefix: str
) -> list[examine_sources.Fact]:
    """Returns the bins of a caption and of the scores that the metadata have."""
    values = {"words": float(len(text.split())), "characters": float(len(text))}
    caption = rule_inputs.Caption(text, metadata)
    for name in _SCORES:
        scores = caption.scores(settings.rules.values[f"{name}_fields"])
        values |= {name: scores[0]} if scores else {}
    return [_bin(prefix, name, value) for name, value in values.items()]


def picture_facts(
    width: int, height: int, num_bytes: int, prefix: str
) -> list[examine_sources.Fact]:
    """Returns the bins of a picture of so many pixels and bytes."""
    short = min(width, height)
    values = {"side": short, "aspect": max(width, height) / short, "kilobytes": num_bytes / 1000}
    return [_bin(prefix, name, value) for name, value in values.items()]


def _bin(prefix: str, name: str, value: float) -> examine_sources.Fact:
    return prefix + name, clean_histograms.MEASURES[name].bin(value)


def _fact_of_note(note: str) -> examine_sources.Fact:
    """Returns what is counted of a note of `rules.examine_caption`."""
    return (note if note.startswith(rules.NO_VALUE) else examine_sources.CHANGED + note), ""


def _is_size(value: Any) -> bool:
    """Returns whether a value of the metadata is [width, height] of a picture that can be."""
    if not (isinstance(value, list) and [type(side) for side in value] == [int, int]):
        return False
    return min(value) >= 1 and value[0] * value[1] <= images.MAX_PIXELS
