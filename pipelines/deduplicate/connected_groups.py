# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The rules of `parti clean` that need other pairs: too many captions or pictures, duplicates.

    settings = connected_groups.DuplicateSettings(near="image")
    decisions = rows | connected_groups.FindDuplicates(settings)

The rules are applied in this order, each to what those before it kept:

1. `image_with_too_many_captions`: equal pixels with too many different captions.
2. `caption_on_too_many_images`: a caption with too many different pictures.
3. `duplicate_pair`, `duplicate_image`: equal pixels, with an equal or another caption.
4. `near_duplicate`: a near-equal picture (`lsh`), then one that is mirrored, bordered, cropped or
   has a caption over it (`changed_copies`).
5. `near_caption`: a caption that shares most of its runs of characters with another.

Of copies the one with the smallest `Fingerprint.order` is kept: the largest picture. Rows that an
earlier run kept are never dropped. Nothing depends on the number of workers or on their order, and
no step holds a group of rows in memory: groups are read twice instead.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import apache_beam as beam

from parti.data.images import image_hashes
from parti.pipelines.beam import disk_group_by_key
from parti.pipelines.deduplicate import changed_copies, fingerprints, lsh, similarity

IMAGE, PAIR, NONE = "image", "pair", "none"
CHOICES = (IMAGE, PAIR, NONE)
MAX_COUNT = 100_000  # of values that are counted in memory, 16 bytes each
# Rounds of pointer jumping; each doubles the length of a link, to 2**7 = 128 steps.
_NUM_JUMPS = 7


@dataclasses.dataclass(frozen=True)
class DuplicateSettings:
    """What counts as a duplicate.

    Attributes:
      exact: which of the pairs with equal pixels are dropped: "image" all but one, "pair" those
        with equal captions, "none".
      near: the same for near-equal pictures.
      max_distance: bits in which the perceptual hashes of near-equal pictures may differ.
      max_colour_distance: levels in which their colours may differ, at 64 x 64 pixels
        (see `image_hashes.colour_limit`).
      near_captions: similarity in (0, 1] from which captions count as one; 0: not searched for.
        It takes rows whose `words` are filled.
      max_captions_per_image: different captions that a picture may have; 0: any number.
      max_images_per_caption: different pictures that a caption may have; 0: any number.
      max_representatives: rows of a bucket of similar rows that all others are compared with.
    """

    exact: str = IMAGE
    near: str = NONE
    max_distance: int = image_hashes.MAX_DISTANCE
    max_colour_distance: float = image_hashes.MAX_COLOUR_DISTANCE
    near_captions: float = 0.0
    max_captions_per_image: int = 0
    max_images_per_caption: int = 0
    max_representatives: int = 1024

    def __post_init__(self) -> None:
        for name in ("exact", "near"):
            if getattr(self, name) not in CHOICES:
                raise ValueError(f"{name}={getattr(self, name)}: choose from {', '.join(CHOICES)}")
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
        """Sets what counts as a duplicate."""
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
            rows, found = _by_group(rows, "Equal pictures", _Equal(settings.exact == PAIR))
            links.append(found)
        similarity_rules = list(_similarity_rules(settings))
        for index, similar in enumerate(similarity_rules):
            if index:
                rows = _without(rows, links[-1], similar.name)
            most = settings.max_representatives
            if isinstance(similar, changed_copies.ChangedCopies):
                most = min(most, changed_copies.MAX_REPRESENTATIVES)
            links.append(rows | lsh.FindNear(similar, most))
        if links:
            # A row of equal pixels is linked to the copy that stays: there is nothing to follow.
            num_jumps = _NUM_JUMPS if similarity_rules else 0
            all_links = links | "All links" >> beam.Flatten()
            dropped.append(_follow_links(all_links, num_jumps))
        return dropped | "All decisions" >> beam.Flatten(pipeline=rows.pipeline)


def one_per_key(rows: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
    """Returns the best `Fingerprint` row of each key, and a `Decision` for each of the others."""
    return _by_group(rows, "Same key", _SameKey())


class _GroupRule(Protocol):
    """A rule over the rows that share a value."""

    def group(self, row: fingerprints.Fingerprint) -> bytes:
        """Returns the value."""

    def summarize(self, rows: Iterator[fingerprints.Fingerprint]) -> Any:
        """Returns what `decide` needs of a group; bounded in size."""

    def decide(
        self, summary: Any, row: fingerprints.Fingerprint
    ) -> fingerprints.Decision | lsh.Link | None:
        """Returns what becomes of a row of the group; None: it is kept."""


class _BestOfGroup:
    """Drops all rows of a group except the best."""

    def summarize(self, rows: Iterator[fingerprints.Fingerprint]) -> fingerprints.Fingerprint:
        return min(rows, key=lambda row: row.order)


class _SameKey(_BestOfGroup):
    def group(self, row: fingerprints.Fingerprint) -> bytes:
        return row.key.encode()

    def decide(
        self, best: fingerprints.Fingerprint, row: fingerprints.Fingerprint
    ) -> fingerprints.Decision | None:
        if row.id == best.id:
            return None
        return fingerprints.Decision(row.id, "duplicate_key", "", row.key)


@dataclasses.dataclass(frozen=True)
class _TooMany:
    """Drops all rows with a value of one field if they have over `limit` values of another."""

    field: str
    counted: str
    limit: int
    reason: str
    measure: str

    def group(self, row: fingerprints.Fingerprint) -> bytes:
        return getattr(row, self.field)

    def summarize(self, rows: Iterator[fingerprints.Fingerprint]) -> bool:
        different: set[bytes] = set()
        for row in rows:
            different.add(getattr(row, self.counted))
            if len(different) > self.limit:
                return True
        return False

    def decide(self, is_over: bool, row: fingerprints.Fingerprint) -> fingerprints.Decision | None:
        return fingerprints.Decision(row.id, self.reason, self.measure) if is_over else None


@dataclasses.dataclass(frozen=True)
class _Equal(_BestOfGroup):
    same_caption: bool

    def group(self, row: fingerprints.Fingerprint) -> bytes:
        return row.pixels + row.caption * self.same_caption

    def decide(
        self, best: fingerprints.Fingerprint, row: fingerprints.Fingerprint
    ) -> lsh.Link | None:
        if row.id == best.id:
            return None
        reason = "duplicate_pair" if row.caption == best.caption else "duplicate_image"
        measure = "same bytes" if row.content == best.content else "same pixels"
        return lsh.Link(row.id, reason, measure, best.id, best.key)


def _count_rules(settings: DuplicateSettings) -> Iterator[tuple[str, _GroupRule]]:
    if limit := settings.max_captions_per_image:
        reason, measure = "image_with_too_many_captions", f"over {limit} captions"
        yield "Captions of images", _TooMany("pixels", "caption", limit, reason, measure)
    if limit := settings.max_images_per_caption:
        reason, measure = "caption_on_too_many_images", f"on over {limit} images"
        yield "Images of captions", _TooMany("caption", "pixels", limit, reason, measure)


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
        | f"{label}: value" >> beam.Map(lambda r: (rule.group(r), fingerprints.pack(r)))
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


def _follow_links(links: beam.PCollection, num_jumps: int) -> beam.PCollection:
    """Makes decisions of links: each names the key of the copy that stays.

    A link may lead to a row that is itself dropped for a better one. In each round every link is
    replaced by one that is twice as long (pointer jumping). A Beam graph is fixed before it runs,
    so the number of rounds cannot depend on the links.
    """
    links |= "As tuples" >> beam.Map(tuple)
    for number in range(num_jumps):
        links = (
            links
            | f"Key by target {number}" >> beam.FlatMap(_key_by_target)
            | f"Join {number}" >> disk_group_by_key.GroupObjects()
            | f"Jump {number}" >> beam.FlatMap(_jump)
        )
    return links | "Decide" >> beam.Map(_decide)


def _decide(link: tuple[str, ...]) -> fingerprints.Decision:
    """The measure too says which copy stays, for the rejected rows."""
    identity, reason, measure, _, group = link
    return fingerprints.Decision(identity, reason, f"{measure}, as {group}", group)


def _key_by_target(link: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields a link's target under the row it is of, and the link under its target."""
    identity, _, _, target, target_key = link
    yield identity, (target, target_key)
    yield target, link


def _jump(group: tuple[str, Iterable[tuple[str, ...]]]) -> Iterator[tuple[str, ...]]:
    """Yields the links to a row, moved on to the target of the row's own link."""
    _, values = group
    onward = next((value for value in values if len(value) == 2), None)
    for link in values:
        if len(link) != 2:
            yield (*link[:3], *onward) if onward else link
