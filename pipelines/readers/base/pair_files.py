# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The files of a pair: an image, its caption in a .txt, its metadata in a .json of the same name.

What tars, folders and tables share: endings, bounds, safe paths, which files are of one pair, and
the pair that they make.
"""

import collections
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from parti.data.images import images
from parti.data.storage import records
from parti.pipelines.readers.base import rows
from parti.pipelines.readers.base.left_out import LeftOut
from parti.stages import files

IMAGE_SUFFIXES = (*images.SUFFIXES, *images.OTHER_SUFFIXES)
TEXT, METADATA = ".txt", ".json"
SIDE_SUFFIXES = (TEXT, METADATA)
SUFFIXES = (*IMAGE_SUFFIXES, *SIDE_SUFFIXES)
_RANKS = {suffix: rank for rank, suffix in enumerate(IMAGE_SUFFIXES)}
# Fields of a .json that may hold the caption, or a list of captions, in order of preference.
CAPTION_FIELDS = ("caption", "text", "alt_text", "captions", "description", "title")

Group = Mapping[str, bytes | rows.Rejected]  # the files of one pair, by name


class Kinds(NamedTuple):
    """The names of the files of a pair, by kind; of each kind the first is the most preferred."""

    images: list[str]
    texts: list[str]
    metadata: list[str]


def suffix_of(name: str) -> str:
    """Returns the ending of a name in lower case."""
    return posixpath.splitext(name)[1].lower()


def by_kind(names: Iterable[str]) -> Kinds:
    """Returns names by kind; others are left out."""
    kinds = Kinds([], [], [])
    for name in sorted(names):
        suffix = suffix_of(name)
        if suffix == TEXT:
            kinds.texts.append(name)
        elif suffix == METADATA:
            kinds.metadata.append(name)
        elif suffix in _RANKS:
            kinds.images.append(name)
    if len(kinds.images) > 1:
        kinds.images.sort(key=lambda name: (_RANKS[suffix_of(name)], name))
    return kinds


def sample_key(name: str) -> str:
    """Returns webdataset's key: the name up to the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + (base.split(".")[0] or base)


def keys_of_stems(stems: Mapping[str, Kinds], paired: Iterable[str] = ()) -> dict[str, list[str]]:
    """Returns the stems (names without their last ending) that make one pair, by its key.

    That is each stem by itself: `a.b.jpg` and `a.b.txt`. Only where no stem of a webdataset key has
    both an image and a caption, all stems of that key are one pair: `a.input.jpg` and
    `a.outputs.txt`; not so if two of them have an image with a .json of its own. `paired` are keys
    of webdataset under which there is such a stem elsewhere.
    """
    samples: dict[str, list[str]] = collections.defaultdict(list)
    for stem in stems:
        samples[sample_key(stem)].append(stem)
    whole = {key for key, group in samples.items() if _is_one(group, stems)} - {*paired}
    found: dict[str, list[str]] = {}
    for stem in stems:
        key = sample_key(stem)
        found[key if key in whole else stem] = samples[key] if key in whole else [stem]
    return found


def _is_one(group: list[str], stems: Mapping[str, Kinds]) -> bool:
    if any(stems[stem].images and stems[stem].texts for stem in group):
        return False
    with_image = [stem for stem in group if stems[stem].images]
    if not with_image or len(with_image) == len(group):
        return False
    return len(with_image) == 1 or not any(stems[stem].metadata for stem in with_image)


def refusal(suffix: str) -> rows.Rejected | None:
    """Returns why files of this ending are not read, if they are not."""
    is_known = suffix not in images.OTHER_SUFFIXES
    return None if is_known else rows.refuse("image_unsupported", images.not_read(suffix))


def limit_of(suffix: str) -> tuple[int, str]:
    """Returns the most bytes of a file with this ending, and the reason if it has more."""
    if suffix == TEXT:
        return rows.MAX_CAPTION_BYTES, "caption_too_long"
    if suffix == METADATA:
        return rows.MAX_METADATA_BYTES, "metadata_too_large"
    return rows.MAX_IMAGE_BYTES, "member_too_large"


def read(path: str, suffix: str = "") -> bytes | rows.Rejected:
    """Returns the content of a file within the bound of its ending, or why it is not read.

    Raises:
      OSError: it is not there, or cannot be read.
    """
    if not files.is_remote(path) and not stat.S_ISREG(os.stat(path).st_mode):
        return rows.refuse("not_a_file")  # opening a pipe would wait for ever
    limit, reason = limit_of(suffix)
    with files.open(path) as file:
        data = file.read(limit + 1)
    return data if len(data) <= limit else rows.refuse(reason, f"over {limit:,} bytes")


def relative(path: str, root: str) -> str:
    """Returns a path below a folder, with `/` between its parts, as UTF-8 (see `files.text`)."""
    if files.is_remote(path):
        inner = path.removeprefix(root.rstrip("/") + "/") if root else files.name(path)
    else:
        inner = os.path.relpath(path, root or ".").replace(os.sep, "/")
    return files.text(inner)


def below(folder: str, path: str) -> str | rows.Rejected:
    """Returns the file in a folder that a path names, if the path does not lead out of it."""
    inside = path.removeprefix(folder.rstrip("/") + "/")
    inner = posixpath.normpath(inside)
    leads_out = "://" in inside or os.path.isabs(inner) or inner.split("/")[0] == ".."
    if leads_out or "\0" in path:
        shown = path[: rows.SHOWN_URL]
        return rows.refuse(
            "unsafe_name", f"{shown}; --image_root names the folder that paths lead to"
        )
    return files.join(folder, inner)


def make_pair(key: str, group: Group, source: str, left_out: LeftOut, root: str = "") -> rows.Row:
    """Returns the pair that the files of one key make.

    Of several images the first is taken: by ending, in the order of `IMAGE_SUFFIXES`, then by name.
    Captions are the lines of its .txt files; without one, what a field of its .json holds. The
    first is the pair's text; of several, all are in `captions`. A .json that is not usable costs
    the pair nothing, unless there is no .txt. Names are shown relative to `root`.
    """
    kinds = by_kind(group)
    for name in kinds.images[1:]:
        left_out.add("several_images", relative(name, root) if root else files.text(name))
    for name in (*kinds.images[:1], *kinds.texts):
        part = group[name]
        if isinstance(part, rows.Rejected):
            return part.of(key, source=source)
    metadata: dict[str, Any] = {}
    unusable: dict[str, rows.Rejected] = {}
    for name in kinds.metadata:
        parsed = _parse(group[name])
        if isinstance(parsed, rows.Rejected):
            unusable[name] = parsed
        else:
            metadata = parsed | metadata
    captions: list[str] = []
    for name in kinds.texts:
        lines = _lines(group[name])
        if isinstance(lines, rows.Rejected):
            return lines.of(key, group[name], source)  # type: ignore[arg-type]
        captions += lines
    if not kinds.texts:
        captions = _captions_in(metadata)
        if unusable and not captions:
            return next(iter(unusable.values())).of(key, source=source)
    for name in unusable:
        left_out.add("unusable_json", relative(name, root) if root else files.text(name))
    text = captions[0] if captions else None
    if len(captions) > 1:
        more = metadata.get(records.CAPTIONS)
        captions += more if isinstance(more, list) and kinds.texts else []
        metadata = {**metadata, records.CAPTIONS: captions}
    image: Any = group[kinds.images[0]] if kinds.images else None
    return rows.make_pair(key, image, text, source, metadata)


def _lines(part: Any) -> list[str] | rows.Rejected:
    """Returns the captions of a .txt, one in each line; one alone as it stands in the file."""
    text = rows.check_caption(part)
    if isinstance(text, rows.Rejected):
        return text
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
    return lines if len(lines) > 1 else [text]


def _parse(part: bytes | rows.Rejected) -> dict[str, Any] | rows.Rejected:
    """Returns the metadata in a .json; texts, or objects that each hold one, are captions."""
    if isinstance(part, rows.Rejected):
        return part
    try:
        value = rows.parse_json(part)
    except ValueError as error:
        return rows.refuse("broken_metadata", rows.one_line(error))
    if isinstance(value, dict):
        return value
    if texts := texts_in(value):
        return {records.CAPTIONS: texts}
    what = type(value).__name__
    return rows.refuse("broken_metadata", f"a JSON object is wanted, this is {what}")


def texts_in(value: Any) -> list[Any]:
    """Returns the captions, none empty, in a text, an object or a list of these.

    Of an object the first of `CAPTION_FIELDS` is taken, else its only text; texts may be bytes.
    """
    if isinstance(value, list):
        return [text for item in value if not isinstance(item, list) for text in texts_in(item)]
    if isinstance(value, dict):
        texts = {name: text for name, text in value.items() if _is_text(text)}
        chosen = next((name for name in CAPTION_FIELDS if name in texts), None)
        return [texts[chosen]] if chosen else list(texts.values()) if len(texts) == 1 else []
    return [value] if _is_text(value) else []


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes) and bool(value.strip())


def _captions_in(metadata: Mapping[str, Any]) -> list[str]:
    """Returns the captions of the first field that holds some, see `texts_in`."""
    fields = {name.casefold(): value for name, value in reversed(list(metadata.items()))}
    for name in CAPTION_FIELDS:
        if texts := texts_in(fields.get(name)):
            return texts
    given = fields.get(CAPTION_FIELDS[0])
    return [given] if isinstance(given, str) else []
