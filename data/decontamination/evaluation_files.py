# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What evaluation sets are made of: captions and images, from files of many kinds.

A file of an evaluation set that cannot be read is an error, not a rejected row: what is not read
would not be kept out of the training data.
"""

import os
import posixpath
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from parti.data.images import images
from parti.data.storage import records, tfrecords
from parti.data.text import prompt_files
from parti.stages import files

IMAGE_SUFFIXES = images.SUFFIXES
CAPTION_SUFFIX = ".txt"  # also of prompts
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
TFRECORD_SUFFIX = ".tfrecord"
_SUFFIXES = (*IMAGE_SUFFIXES, *prompt_files.SUFFIXES, *TAR_SUFFIXES, TFRECORD_SUFFIX)
KINDS = (
    f"prompts ({', '.join(prompt_files.SUFFIXES)}), pictures, .tar of pictures and captions, "
    ".tfrecord of pairs"
)
_JSON, _BEFORE_JSON = ".json", b"\xef\xbb\xbf \t\r\n"
_MAX_NAMES = 3  # of files that are left out
MAX_FILE_BYTES = 256 * 2**20  # of an image or caption; also in a tar


class Item(NamedTuple):
    """A caption or an image of an evaluation set."""

    name: str  # where it is from: `PartiPrompts.tsv:p00012-bond`, `coco.tar:000123`
    text: str = ""  # the caption, if it is one
    image: bytes = b""  # the encoded image, if it is one


def read(pattern: str | os.PathLike[str]) -> Iterator[Item]:
    """Yields the captions and images of the files that an address names (see `files.resolve`).

    - prompt files of any kind (see `text.prompt_files`); a `.txt` beside an image of the same name
      is its caption.
    - images, and `.tar` of images and `.txt` captions (other members are passed over).
    - `.tfrecord` of image-text pairs, as `parti clean` writes them; a `.json` or `.jsonl` beside
      one describes them, and is passed over.

    Of a folder a `.json` that is no list is passed over too. A line on stderr names these, unless
    they are beside an image of the same name, and images of formats that are not read.

    Raises:
      FileNotFoundError: it names no file of these kinds.
      ValueError: a file is damaged, too large, or of another kind.
    """
    paths, in_folder = find(os.fspath(pattern))
    objects: list[str] = []
    stems = {_stem(path) for path in paths if path.lower().endswith(IMAGE_SUFFIXES)}
    for path in paths:
        name, lower = files.text(files.name(path)), path.lower()
        if lower.endswith(IMAGE_SUFFIXES):
            yield Item(name, image=_read(path))
        elif lower.endswith(CAPTION_SUFFIX) and _stem(path) in stems:
            yield Item(name, text=_caption(_read(path), path))
        elif lower.endswith(prompt_files.SUFFIXES):
            data, notes = files.read_bytes(path), list[str]()
            if lower.endswith(_JSON) and in_folder and data.lstrip(_BEFORE_JSON)[:1] != b"[":
                objects += [] if _stem(path) in stems else [path]
                continue
            for prompt in prompt_files.parse_prompts(path, data, notes):
                yield Item(f"{name}:{prompt.id}", text=prompt.text)
            for note in notes:
                print(note, file=sys.stderr, flush=True)
        elif lower.endswith(TAR_SUFFIXES):
            yield from _read_tar(path, name)
        else:
            for pair in map(records.ImageTextPair.from_example, tfrecords.read(path)):
                yield Item(f"{name}:{pair.key}", pair.text, pair.image)
    _say_left_out(f"{_JSON} files that are no list of prompts", objects)


def find(pattern: str) -> tuple[list[str], bool]:
    """Returns the files that an address names, and whether some were found in a folder.

    It raises as `read`, whose files they are.
    """
    found: list[files.Entry] = []
    folder = False
    for named in files.resolve(pattern):
        folder |= named.entries is None
        found += (entries := files.entries_of(named))
        if not entries:
            raise FileNotFoundError(f"{named.text}: no evaluation data there; it takes {KINDS}")
    paths = [entry.path for entry in found if entry.path.lower().endswith(_SUFFIXES)]
    if found and not paths and not folder:
        raise ValueError(f"{pattern}: not a kind of evaluation data that is known: {KINDS}")
    if not paths:
        raise FileNotFoundError(f"{pattern}: no evaluation data there; it takes {KINDS}")
    pairs = {files.parent(path) for path in paths if path.lower().endswith(TFRECORD_SUFFIX)}
    described = (_JSON, ".jsonl")
    paths = [p for p in paths if not (p.lower().endswith(described) and files.parent(p) in pairs)]
    for entry in found:
        if entry.path.lower().endswith((*IMAGE_SUFFIXES, CAPTION_SUFFIX)):
            _check_size(entry.path, entry.num_bytes)
    unread = [entry.path for entry in found if entry.path.lower().endswith(images.OTHER_SUFFIXES)]
    _say_left_out("pictures of formats that are not read; save them as JPEG, PNG or WebP", unread)
    return paths, folder


def _say_left_out(what: str, paths: Sequence[str]) -> None:
    if paths:
        names = [files.text(files.name(path)) for path in paths[:_MAX_NAMES]]
        some = ", ".join([*names, *(["..."] if len(paths) > _MAX_NAMES else [])])
        print(f"left out {len(paths):,} {what}: {some}", file=sys.stderr, flush=True)


def _check_size(path: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ValueError(
            f"{path}: {size:,} bytes; a file of an evaluation set has {MAX_FILE_BYTES:,} at most"
        )


def _stem(path: str) -> str:
    return posixpath.splitext(path)[0]


def _read(path: str) -> bytes:
    with files.open(path) as file:
        return file.read(MAX_FILE_BYTES)


def _caption(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the caption is not UTF-8: {error.reason}") from error


def _read_tar(path: str, name: str) -> Iterator[Item]:
    try:
        with files.open(path) as file, tarfile.open(fileobj=file, mode="r|*") as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # else it lists the whole tar
                suffix = posixpath.splitext(member.name)[1].lower()
                if not member.isreg() or suffix not in (*IMAGE_SUFFIXES, CAPTION_SUFFIX):
                    continue
                where = f"{name}:{files.text(member.name)}"
                _check_size(where, member.size)
                content = tar.extractfile(member)
                data = content.read() if content else b""
                if suffix == CAPTION_SUFFIX:
                    yield Item(where, text=_caption(data, where))
                else:
                    yield Item(where, image=data)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged, or not a tar: {error}") from error
