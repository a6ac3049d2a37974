# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Keeps what models are evaluated on out of what they are trained on.

    kept_out = decontamination.EvaluationSet.load(["PartiPrompts.tsv", "coco/val2014"])
    kept_out.hit("A cat on a mat.", phash, colours, num_pixels, sketch)  # (reason, which) or None

A caption is hit if it holds a run of `num_words` words of a caption of the set, or, for a caption
of the set that is shorter, if it is the same text; both in the form of `text.text_hashes`. An
image is hit if it is near-equal to one of the set, as `images.image_hashes` says, or if one of the
two is the other mirrored, bordered, cropped or with a caption over it (`images.image_copies`).
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterable

import numpy as np

from parti.data.decontamination import evaluation_files
from parti.data.images import image_copies, image_hashes, image_sketches, images
from parti.data.text import text_hashes
from parti.stages import files

NUM_WORDS = 8
CONTAMINATED_CAPTION, CONTAMINATED_IMAGE = "contaminated_caption", "contaminated_image"
_MAX_SHOWN = 100  # characters of a caption
_FORMAT = "parti evaluation set 2"


class EvaluationSet:
    """Captions and images to find again.

    It holds about 4 to 7 KB for an image and 100 bytes for a run of words. A process that only
    queries opens what another one saved, and need not decode the images again.
    """

    def __init__(
        self,
        num_words: int = NUM_WORDS,
        max_distance: int = image_hashes.MAX_DISTANCE,
        max_colour_distance: float = image_hashes.MAX_COLOUR_DISTANCE,
    ) -> None:
        """Begins an empty set.

        Captions may not share `num_words` words in a row with one of the set; the limits of
        near-equal images are those of `image_hashes`.
        """
        if num_words < 1:
            raise ValueError(f"num_words={num_words}: a run has at least one word")
        self._num_words = num_words
        self._limits = (max_distance, max_colour_distance)
        self._captions: list[str] = []  # what is shown of each
        self._hashes: set[bytes] = set()  # `text_hashes.caption_hash` of each
        self._runs: dict[int, int] = {}  # hash of a run -> number of the caption
        self._index = image_hashes.NearIndex(*self._limits)
        self._sketches: list[bytes] = []  # of each image
        self._copies = image_copies.CopyIndex()

    @property
    def num_captions(self) -> int:
        """How many different captions were added."""
        return len(self._captions)

    @property
    def num_images(self) -> int:
        """How many images were added."""
        return len(self._index)

    @property
    def fingerprint(self) -> str:
        """A digest of all that was added, in the order of adding, and of the limits."""
        settings = self._num_words, self._limits, self._index.images
        digest = hashlib.sha256(repr(settings).encode())
        for text in self._captions:
            digest.update(text.encode("utf-8", "replace") + b"\n")
        for caption in sorted(self._hashes):
            digest.update(caption)
        return digest.hexdigest()

    @classmethod
    def load(
        cls,
        patterns: Iterable[str | os.PathLike[str]],
        num_words: int = NUM_WORDS,
        max_distance: int = image_hashes.MAX_DISTANCE,
        max_colour_distance: float = image_hashes.MAX_COLOUR_DISTANCE,
    ) -> "EvaluationSet":
        """Reads a set from files, globs and folders (see `evaluation_files.read`).

        Raises:
          FileNotFoundError: a pattern names no file.
          ValueError: a file is damaged, or an image cannot be decoded.
        """
        loaded = cls(num_words, max_distance, max_colour_distance)
        for pattern in patterns:
            for item in evaluation_files.read(pattern):
                if item.text:
                    loaded.add_caption(item.name, item.text)
                if item.image:
                    try:
                        image = images.decode_image(item.image)
                    except ValueError as error:
                        raise ValueError(f"{item.name}: {error}; mend or remove it") from error
                    num_pixels = image.shape[0] * image.shape[1]
                    small = image_hashes.thumbnail(image)
                    hashes = image_hashes.fingerprint(image, small)
                    sketch = image_sketches.sketch(image, small)
                    loaded.add_image(item.name, *hashes, num_pixels, sketch)
        return loaded

    def add_caption(self, name: str, text: str) -> None:
        """Adds a caption or prompt."""
        identity = text_hashes.caption_hash(text)
        if identity in self._hashes:
            return
        self._hashes.add(identity)
        for run in text_hashes.ngram_hashes(text_hashes.words(text), self._num_words):
            self._runs.setdefault(run, len(self._captions))
        shown = text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."
        self._captions.append(f"{name}: {shown}")

    def add_image(
        self,
        name: str,
        phash: int,
        colours: bytes,
        num_pixels: int = image_hashes.REFERENCE_PIXELS,
        sketch: bytes = b"",
    ) -> None:
        """Adds an image by its `image_hashes.fingerprint` and its width times height.

        With its `image_sketches.sketch` changed copies of it are found too.
        """
        self._index.add(name, phash, colours, num_pixels)
        self._sketches.append(sketch)
        if sketch:
            self._copies.add(name, sketch)

    def hit(
        self,
        text: str,
        phash: int,
        colours: bytes,
        num_pixels: int = image_hashes.REFERENCE_PIXELS,
        sketch: bytes = b"",
    ) -> tuple[str, str] | None:
        """Returns (reason, what of the set it meets) if a pair may not be trained on, or None.

        Images are compared first. `num_pixels` is width times height of the image: colours are
        compared less closely in a small one. Without its sketch no changed copies are found.
        """
        if match := self._index.query(phash, colours, num_pixels):
            distance = f"{match.distance} bits, {match.colour_distance:.1f} levels"
            return CONTAMINATED_IMAGE, f"{match.key} ({distance})"
        if sketch and (copy := self._copies.query(sketch)):
            key, found = copy
            return CONTAMINATED_IMAGE, f"{key} ({found.change}, {found.levels:.1f} levels)"
        if self._runs:
            for run in text_hashes.ngram_hashes(text_hashes.words(text), self._num_words):
                if (number := self._runs.get(run)) is not None:
                    return CONTAMINATED_CAPTION, self._captions[number]
        return None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the set to one file, for `open`."""
        rows = self._index.images
        names, phashes, colours, sizes = zip(*rows) if rows else ((), (), (), ())
        header = {
            "format": _FORMAT,
            "num_words": self._num_words,
            "limits": self._limits,
            "captions": self._captions,
            "names": names,
        }
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            header=_bytes_array(json.dumps(header).encode()),
            hashes=_bytes_array(b"".join(sorted(self._hashes))),
            runs=np.array(list(self._runs.items()), np.uint64).reshape(-1, 2),
            phashes=np.array(phashes, np.uint64),
            sizes=np.array(sizes, np.uint64),
            colours=_bytes_array(b"".join(colours)),
            sketches=_bytes_array(b"".join(self._sketches)),
            sketch_sizes=np.array([len(sketch) for sketch in self._sketches], np.int64),
        )
        files.write_bytes(path, buffer.getvalue())

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "EvaluationSet":
        """Reads what `save` wrote; ValueError: another kind of file."""
        try:
            with np.load(io.BytesIO(files.read_bytes(path)), allow_pickle=False) as arrays:
                header = json.loads(arrays["header"].tobytes())
                hashes, colours = arrays["hashes"].tobytes(), arrays["colours"].tobytes()
                runs, numbers = arrays["runs"].tolist(), zip(arrays["phashes"], arrays["sizes"])
                sketches = ends = np.zeros(0, np.uint8)
                if header["format"] == _FORMAT:
                    sketches, ends = arrays["sketches"], np.cumsum(arrays["sketch_sizes"])
        except (KeyError, zipfile.BadZipFile, ValueError) as error:
            raise ValueError(f"{os.fspath(path)}: not a saved evaluation set: {error}") from error
        if header["format"] != _FORMAT:
            raise ValueError(f"{os.fspath(path)}: saved by another version; make it again")
        opened = cls(header["num_words"], *header["limits"])
        opened._captions, opened._runs = header["captions"], dict(runs)
        opened._hashes = {hashes[i : i + 16] for i in range(0, len(hashes), 16)}
        step = image_hashes.NUM_COLOURS
        for number, (name, (phash, size)) in enumerate(zip(header["names"], numbers, strict=True)):
            colour = colours[number * step : (number + 1) * step]
            begin = ends[number - 1] if number else 0
            sketch = sketches[begin : ends[number]].tobytes()
            opened.add_image(name, int(phash), colour, int(size), sketch)
        return opened


def _bytes_array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)
