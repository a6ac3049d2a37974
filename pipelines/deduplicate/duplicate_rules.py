# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The rules of duplicates of `parti clean`, and of too many captions or pictures: those over pairs.

    settings = duplicate_rules.DuplicateSettings(near="image")
    decisions = rows | duplicate_rules.FindDuplicates(settings)

The rules are applied in this order, each to what those before it kept:

1. `image_with_too_many_captions`: equal pixels with too many different captions.
2. `caption_on_too_many_images`: a caption with too many different pictures.
3. `duplicate_pair`, `duplicate_image`: equal pixels, with an equal or another caption.
4. `near_duplicate`: a near-equal picture (grouped in `near_duplicates`), then one that is mirrored,
   bordered, cropped or has a caption over it (`changed_copies`).
5. `near_caption`: a caption that shares most of its runs of characters with another.

Of copies the one with the smallest `Fingerprint.order` is kept: the largest picture. Rows that an
earlier run kept are never dropped. Nothing depends on the number of workers or on their order, and
no step holds a group of rows in memory: groups are read twice instead.
"""

import dataclasses
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

import apache_beam as beam

from parti.data.images import image_hashes
from parti.pipelines.beam import disk_group_by_key
from parti.pipelines.deduplicate import changed_copies, fingerprints, near_duplicates, similarity

IMAGE, PAIR, NONE = "image", "pair", "none"
MAX_COUNT = 100_000  # of values that are counted in memory, 16 bytes each

Fingerprint = fingerprints.Fingerprint


@dataclasses.dataclass(frozen=True)
class DuplicateSettings:
    """What counts as a duplicate."""

    # Which of the pairs with equal pixels are dropped: "image" all but one, "pair" those with equal
    # captions, "none"; and the same for near-equal pictures
    exact: str = IMAGE
    near: str = NONE
    max_distance: int = image_hashes.MAX_DISTANCE  # bits in which near perceptual hashes may differ
    # Levels in which the colours may differ, at 64 x 64 pixels (`image_hashes.colour_limit`)
    max_colour_distance: float = image_hashes.MAX_COLOUR_DISTANCE
    # Similarity in (0, 1] from which captions count as one, by the rows' `words`; 0: not searched
    near_captions: float = 0.0
    max_captions_per_image: int = 0  # different captions that a picture may have; 0: any number
    max_images_per_caption: int = 0  # different pictures that a caption may have; 0: any number
    max_representatives: int = (
        1024  # rows of a bucket of similar rows that others are compared with
    )

    def __post_init__(self) -> None:
        for name in ("exact", "near"):
            if (value := getattr(self, name)) not in (IMAGE, PAIR, NONE):
                raise ValueError(f"{name}={value}: choose from {IMAGE}, {PAIR}, {NONE}")
        ranges = {
            "max_distance": (0, image_hashes.MAX_DISTANCE),
            "max_colour_distance": (0, 255),
            "near_captions": (0, 1),
            "max_captions_per_image": (0, MAX_COUNT),
            "max_images_per_caption": (0, MAX_COUNT),
            "max_representatives": (1, MAX_COUNT),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)}: give {low} to {high}")


class FindDuplicates(beam.PTransform):
    """Takes `Fingerprint` rows of different ids; returns a `Decision` for each that is dropped."""

    def __init__(self, settings: DuplicateSettings) -> None:
        super().__init__("Find duplicates")
        self._settings = settings

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        """Returns the decisions."""
        settings = self._settings
        dropped, links = [], []
        for label, rule in _count_rules(settings):
            rows, found = _by_group(rows, label, rule)
            dropped.append(found)
        if settings.exact != NONE:
            rows, found = _by_group(rows, "Equal pictures", _equal_rule(settings.exact == PAIR))
            links.append(found)
        similarity_rules = list(_similarity_rules(settings))
        for index, similar in enumerate(similarity_rules):
            if index:
                rows = _without(rows, links[-1], similar.name)
            most = settings.max_representatives
            if isinstance(similar, changed_copies.ChangedCopies):
                most = min(most, changed_copies.MAX_REPRESENTATIVES)
            links.append(rows | near_duplicates.FindNear(similar, most))
        if links:
            all_links = links | "All links" >> beam.Flatten()
            # A row of equal pixels is linked to the copy that stays: there is nothing to follow.
            dropped.append(near_duplicates.group_links(all_links, follow=bool(similarity_rules)))
        return dropped | "All decisions" >> beam.Flatten(pipeline=rows.pipeline)


def one_per_key(
    rows: beam.PCollection, origins: Mapping[str, fingerprints.Origin] | None = None
) -> tuple[beam.PCollection, beam.PCollection]:
    """Gives every key to one pair; keys of tars that each count from 0 become different ones.

    Of rows of one key and one origin the best stays; of those of several origins that are equal in
    image and caption too. Of the others the first origin's, in the order of paths, or a known row,
    keeps its key; the origin's label and a slash go before those of the rest.

    Args:
      rows: `Fingerprint` rows.
      origins: the origin of rows by the first part of their ids; rows of others have one together.

    Returns:
      The rows that stay, with their keys; and a `Decision` for each of the others, `NewKey`s.
    """
    origins = dict(origins or {})
    applied = (
        rows
        | "Same key: value" >> beam.FlatMap(_by_key, {o.label for o in origins.values()})
        | "Same key: group" >> disk_group_by_key.GroupByKey()
        | "Same key: apply"
        >> beam.FlatMap(_share_key, origins).with_outputs("dropped", main="kept")
    )
    return applied.kept, applied.dropped


_TAKEN = b"t"  # how a mark begins; no packed row does


def _by_key(row: Fingerprint, labels: Set[str]) -> Iterator[tuple[bytes, bytes]]:
    """Yields a row by its key; if that is what a new key could be, also a mark that it is taken."""
    yield row.key.encode(), fingerprints.pack(row)
    for index in (i for i, letter in enumerate(row.key) if letter == "/"):
        if (label := row.key[:index]) in labels:
            yield row.key[index + 1 :].encode(), _TAKEN + label.encode()


def _share_key(
    group: tuple[bytes, Iterable[bytes]], origins: Mapping[str, fingerprints.Origin]
) -> Iterator[Any]:
    key, packed = group[0].decode(), group[1]
    taken = {mark[1:].decode() for mark in packed if mark.startswith(_TAKEN)}
    best: dict[fingerprints.Origin, Fingerprint] = {}
    for row in _rows(packed):
        origin = _origin(row, origins)
        if origin not in best or row.order < best[origin].order:
            best[origin] = row
    keys: dict[str, str] = {}  # id of a row that stays -> its key
    equal: dict[tuple[bytes, bytes], str] = {}  # (image, caption) -> key
    for number, (origin, row) in enumerate(sorted(best.items(), key=lambda item: item[0])):
        new = key if number == 0 else f"{origin.label}/{key}"
        if (row.content, row.caption) in equal or (number and origin.label in taken):
            continue
        taken.add(origin.label)
        keys[row.id] = equal[row.content, row.caption] = new
    for row in _rows(packed):  # read a second time, not held
        if row.known or row.id in keys:
            new = key if row.known else keys[row.id]
            yield dataclasses.replace(row, key=new)
            if new != key:
                yield beam.pvalue.TaggedOutput("dropped", fingerprints.NewKey(row.id, new))
        else:
            first = best[_origin(row, origins)]
            stays = keys.get(first.id) or equal.get((first.content, first.caption), key)
            decision = fingerprints.Decision(row.id, "duplicate_key", "", stays)
            yield beam.pvalue.TaggedOutput("dropped", decision)


def _origin(row: Fingerprint, origins: Mapping[str, fingerprints.Origin]) -> fingerprints.Origin:
    """Returns the origin of a row; known rows have one that comes before all others."""
    none = fingerprints.Origin("")
    return none if row.known else origins.get(row.id.partition("/")[0], none)


def _rows(packed: Iterable[bytes]) -> Iterator[Fingerprint]:
    return (fingerprints.unpack(row) for row in packed if not row.startswith(_TAKEN))


class _GroupRule(NamedTuple):
    """A rule over the rows that share a value."""

    value: Callable[[Fingerprint], bytes]
    summarize: Callable[[Iterator[Fingerprint]], Any]  # what `decide` needs of a group; bounded
    # Takes the summary and a row of the group; returns what becomes of it, None if it is kept
    decide: Callable[[Any, Fingerprint], fingerprints.Decision | near_duplicates.Link | None]


def _best(rows: Iterator[Fingerprint]) -> Fingerprint:
    return min(rows, key=lambda row: row.order)


def _equal_rule(same_caption: bool) -> _GroupRule:
    """Drops all rows of equal pixels (and, if so wanted, of equal captions) except the best."""

    def decide(best: Fingerprint, row: Fingerprint) -> near_duplicates.Link | None:
        if row.id == best.id:
            return None
        reason = "duplicate_pair" if row.caption == best.caption else "duplicate_image"
        measure = "same bytes" if row.content == best.content else "same pixels"
        return near_duplicates.Link(row.id, reason, measure, best.id, best.key)

    return _GroupRule(lambda row: row.pixels + row.caption * same_caption, _best, decide)


def _count_rules(settings: DuplicateSettings) -> Iterator[tuple[str, _GroupRule]]:
    if limit := settings.max_captions_per_image:
        reason, measure = "image_with_too_many_captions", f"over {limit} captions"
        yield "Captions of images", _too_many("pixels", "caption", limit, reason, measure)
    if limit := settings.max_images_per_caption:
        reason, measure = "caption_on_too_many_images", f"on over {limit} images"
        yield "Images of captions", _too_many("caption", "pixels", limit, reason, measure)


def _too_many(field: str, counted: str, limit: int, reason: str, measure: str) -> _GroupRule:
    """Drops all rows with a value of one field if they have over `limit` values of another."""

    def is_over(rows: Iterator[Fingerprint]) -> bool:
        different: set[bytes] = set()
        for row in rows:
            different.add(getattr(row, counted))
            if len(different) > limit:
                return True
        return False

    def decide(is_over: bool, row: Fingerprint) -> fingerprints.Decision | None:
        return fingerprints.Decision(row.id, reason, measure) if is_over else None

    return _GroupRule(operator.attrgetter(field), is_over, decide)


def _similarity_rules(settings: DuplicateSettings) -> Iterator[similarity.SimilarityRule]:
    if settings.near != NONE:
        yield similarity.ImageSimilarity(
            settings.max_distance, settings.max_colour_distance, settings.near == PAIR
        )
        yield changed_copies.ChangedCopies(settings.near == PAIR)
    if settings.near_captions:
        yield similarity.CaptionSimilarity(settings.near_captions)


def _by_group(
    rows: beam.PCollection, label: str, rule: _GroupRule
) -> tuple[beam.PCollection, beam.PCollection]:
    """Applies a rule; returns the rows that it keeps, and what becomes of the others."""
    applied = (
        rows
        | f"{label}: value" >> beam.Map(lambda r: (rule.value(r), fingerprints.pack(r)))
        | f"{label}: group" >> disk_group_by_key.GroupByKey()
        | f"{label}: apply"
        >> beam.FlatMap(lambda group: _apply(group, rule)).with_outputs("dropped", main="kept")
    )
    return applied.kept, applied.dropped


def _apply(group: tuple[bytes, Iterable[bytes]], rule: _GroupRule) -> Iterator[Any]:
    _, packed = group
    summary = rule.summarize(map(fingerprints.unpack, packed))
    for row in map(fingerprints.unpack, packed):  # read a second time, not held
        found = None if row.known else rule.decide(summary, row)
        yield row if found is None else beam.pvalue.TaggedOutput("dropped", found)


def _without(rows: beam.PCollection, links: beam.PCollection, label: str) -> beam.PCollection:
    """Returns the rows that no link drops."""
    by_id = rows | f"{label}: rows by id" >> beam.Map(
        lambda row: (row.id.encode(), fingerprints.pack(row))
    )
    dropped = links | f"{label}: links by id" >> beam.Map(lambda link: (link.id.encode(), b""))
    return (
        (by_id, dropped)
        | f"{label}: same id" >> disk_group_by_key.GroupByKey()
        | f"{label}: row and link" >> beam.MapTuple(lambda _, values: list(values))  # two at most
        | f"{label}: not linked" >> beam.Filter(lambda values: b"" not in values)
        | f"{label}: rows left" >> beam.Map(lambda values: fingerprints.unpack(values[0]))
    )
