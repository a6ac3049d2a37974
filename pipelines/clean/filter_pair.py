# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What `parti clean` does with one pair, alone: rules, hashes, evaluation sets, the new image.

The order is that of cost: the caption and the scores of the metadata, the size of the image, its
pixels, the evaluation sets. The first that rejects a pair is its reason.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash

from parti.data.decontamination import decontamination
from parti.data.images import crops, image_hashes, image_sketches, images
from parti.data.storage import records
from parti.data.text import captions, text_hashes
from parti.pipelines import readers
from parti.pipelines.beam import sharded_writers
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.clean import statistics
from parti.pipelines.deduplicate import duplicate_rules, fingerprints
from parti.pipelines.rules import evaluate, presets, rule, splits, table

ORIGINAL_SIZE = "original_size"  # in the metadata: [width, height] before crop and resize
# A JPEG is decoded at a size of at least twice the side of the output: see `images.decode`.
_DRAFT_SIDES = 2
_MAX_SPLIT = 20  # characters of the name of an unknown split


class Passed(NamedTuple):
    """A pair that no rule rejected: the record to write, and its row without an id."""

    pair: records.ImageTextPair
    fingerprint: fingerprints.Fingerprint


class Checked(NamedTuple):
    """What the rules for captions and scores say of a pair; `evaluate.check_caption` says how."""

    text: str
    rejection: evaluate.Rejection | None
    notes: tuple[str, ...]
    measures: dict[str, float]


class Filtered(NamedTuple):
    """What became of a pair."""

    result: Passed | readers.Rejected
    counts: Sequence[statistics.Count] = ()  # whether it passed or not
    # Rule -> how near a pair that passed came to being dropped (0 is nearest), what was measured.
    near: Mapping[str, tuple[float, str]] = {}
    changes: Mapping[str, str] = {}  # repair -> the caption before it, if it changed the caption
    unknown_split: str = ""  # what the metadata name as split, if it is none that is known


def filter_pair(
    pair: records.ImageTextPair,
    settings: clean_settings.CleanSettings,
    evaluation: decontamination.EvaluationSet | None = None,
    checked: Checked | None = None,
) -> Filtered:
    """Applies every rule that needs only this pair, then crops, resizes and encodes.

    `checked` is what `check_caption` gave for it, if that was called.
    """
    rules = settings.rules
    text, rejection, notes, measures = checked or check_caption(pair, rules)
    changes = {note: pair.text for note in notes if not note.startswith(evaluate.NO_VALUE)}
    without = [n.removeprefix(evaluate.NO_VALUE) for n in notes if n not in changes]
    counts = [statistics.Count("changed", repair) for repair in changes]
    counts += [statistics.Count("no_value", name) for name in without]
    unknown = ""
    if splits.named_by(pair.metadata) == splits.UNKNOWN:
        unknown = str(splits.value_of(pair.metadata))[:_MAX_SPLIT]
        counts.append(statistics.Count("unknown_split"))
    counts += statistics.caption_counts("before", text, pair.metadata, settings)

    def reject(reason: str, measure: str) -> Filtered:
        row = readers.Rejected(pair.key, reason, measure, text, pair.source)
        return Filtered(row, counts, changes=changes, unknown_split=unknown)

    if rejection:
        return reject(*rejection)
    try:
        width, height = images.read_size(pair.image)
        counts += statistics.image_counts("before", width, height, len(pair.image))
        picture = _decode(pair.image, width, height, settings, measures)
    except images.UnsupportedError as error:
        return reject("image_unsupported", str(error))
    except ValueError as error:
        return reject("image_undecodable", str(error))
    if isinstance(picture, tuple):
        return reject(*picture)
    small = image_hashes.thumbnail(picture.pixels)
    is_near_wanted = settings.duplicates.near != duplicate_rules.NONE
    sketch = b""
    if is_near_wanted or (evaluation and evaluation.num_images):
        sketch = image_sketches.sketch(picture.pixels, small)
    row = _fingerprint(pair, text, picture, small, sketch * is_near_wanted, settings)
    if evaluation and (hit := evaluation.hit(text, row.phash, row.colours, row.area, sketch)):
        return reject(*hit)
    passed = Passed(_output(pair, text, picture, row.phash, settings), row)
    near = {
        name: (
            evaluate.closeness(name, measure, rules),
            f"{measure:.4g} {table.RULES[name].setting.unit}".strip(),
        )
        for name, measure in measures.items()
    }
    return Filtered(passed, counts, near, changes, unknown)


def check_caption(pair: records.ImageTextPair, rules: presets.RuleSettings) -> Checked:
    """Applies the rules that need no image."""
    measures: dict[str, float] = {}
    found = evaluate.check_caption(pair.text, pair.metadata, rules, measures)
    return Checked(*found, measures)


def load_filter(
    settings: clean_settings.CleanSettings, evaluation: str
) -> "functools.partial[Filtered]":
    """Returns `filter_pair` for a worker; `evaluation` is the file of the evaluation set, or ""."""
    opened = decontamination.EvaluationSet.open(evaluation) if evaluation else None
    return functools.partial(filter_pair, settings=settings, evaluation=opened)


def _decode(
    data: bytes,
    width: int,
    height: int,
    settings: clean_settings.CleanSettings,
    measures: dict[str, float],
) -> images.DecodedImage | evaluate.Rejection:
    """Decodes an image unless a rule rejects it, by its header if that is enough."""
    image = rule.Image(width, height, len(data), rule.image_format(data), pixels=None)
    if rejection := evaluate.check_image(image, settings.rules, measures):
        return rejection
    picture = images.decode(data, draft_side=_DRAFT_SIDES * settings.image_size)
    image = dataclasses.replace(image, pixels=picture.pixels)
    return evaluate.check_image(image, settings.rules, measures) or picture


def _fingerprint(
    pair: records.ImageTextPair,
    text: str,
    picture: images.DecodedImage,
    small: np.ndarray,
    sketch: bytes,
    settings: clean_settings.CleanSettings,
) -> fingerprints.Fingerprint:
    phash, colours = image_hashes.fingerprint(picture.pixels, small)
    return fingerprints.Fingerprint(
        id="",
        key=pair.key,
        split=split_of(pair, settings),
        content=xxhash.xxh3_128_digest(pair.image),
        pixels=image_hashes.pixel_hash(picture.pixels),
        phash=phash,
        colours=colours,
        caption=text_hashes.caption_hash(text),
        words=text_hashes.minhash(text) if settings.rules.values["near_captions"] else (),
        area=picture.width * picture.height,
        num_bytes=len(pair.image),
        sketch=sketch,
    )


def split_of(pair: records.ImageTextPair, settings: clean_settings.CleanSettings) -> str:
    """Returns the split that the metadata name, else one by the hash of the key.

    A test pair that the rules keep goes to validation.
    """
    named = splits.named_by(pair.metadata)
    if named in records.SPLITS:
        return named
    if named == splits.TEST:
        return splits.VALIDATION  # no training sees it
    fraction = sharded_writers.hash_fraction(pair.key, "split")
    return "validation" if fraction < settings.validation_fraction else "train"


def _output(
    pair: records.ImageTextPair,
    text: str,
    picture: images.DecodedImage,
    phash: int,
    settings: clean_settings.CleanSettings,
) -> records.ImageTextPair:
    side = settings.image_size
    pixels = crops.fit(picture.pixels, side, settings.crop, pair.key)
    if settings.image_format == "png":
        image = images.encode_png(pixels)
    else:
        image = images.encode_jpeg(pixels, quality=settings.jpeg_quality)
    return records.ImageTextPair(
        key=pair.key,
        image=image,
        text=text,
        width=side,
        height=side,
        source=pair.source,
        sha256=hashlib.sha256(pair.image).hexdigest(),
        phash=f"{phash:016x}",
        metadata=_output_metadata(pair.metadata, picture, settings),
    )


def _output_metadata(
    metadata: Mapping[str, Any],
    picture: images.DecodedImage,
    settings: clean_settings.CleanSettings,
) -> dict[str, Any]:
    """Returns the metadata with the original size, and with captions repaired."""
    metadata = dict(metadata)
    if not _is_size(metadata.get(ORIGINAL_SIZE)):  # a pair may have been cleaned before
        metadata[ORIGINAL_SIZE] = [picture.width, picture.height]
    if records.CAPTIONS in metadata:
        more = metadata[records.CAPTIONS]
        # Whatever the metadata had there, it becomes a list of texts.
        texts = [c for c in (more if isinstance(more, list) else [more]) if isinstance(c, str)]
        drops = settings.rules.values["drop_placeholders"]
        repaired = (evaluate.repair(caption, settings.rules)[0] for caption in texts)
        metadata[records.CAPTIONS] = [
            caption
            for caption in repaired
            if caption and not (drops and captions.find_placeholder(caption))
        ]
    return metadata


def _is_size(value: Any) -> bool:
    """Returns whether a value of the metadata is [width, height] of a possible image."""
    if not (isinstance(value, list) and [type(side) for side in value] == [int, int]):
        return False
    return min(value) >= 1 and value[0] * value[1] <= images.MAX_PIXELS
