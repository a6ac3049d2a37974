# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Times what `parti clean` does to one pair beside img2dataset's Resizer; prints one JSON line.

    python -m venv peer && peer/bin/pip install img2dataset
    python benchmarks/clean_speed.py --peer peer/bin/python
    python benchmarks/clean_speed.py --peer peer/bin/python --input 'emoji/*.tar' --format png

Ours: rules for captions and pictures, decode, hashes (file, pixels, shapes, colours, caption),
crop, resize, encode. Theirs: decode, resize, crop, encode. Both take the same files from memory,
in turns, on one thread; the figure is pairs per second of processor time in the best turn of each.
JPEGs are of quality 95, the peer's with halved colours. Its PNGs are of compression level 6, which
gives about our size. Without --input the pictures are made up: like photographs in their spectrum,
640 x 480 to 1600 x 1200, JPEG of quality 90.
"""

import argparse
import glob
import io
import json
import os
import pathlib
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from PIL import Image

from parti.data.storage import records
from parti.pipelines.clean import filter_pair, filter_sources
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.rules import presets

SIZES = ((640, 480), (480, 640), (800, 600), (1024, 768), (1600, 1200))
CAPTION = "A red bicycle leaning against the wall of a small house, number {} of the street"
PEER = """
import io, pathlib, sys, time
from img2dataset.resizer import Resizer
folder, size, kind = sys.argv[1:]
files = [path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())]
quality = {"jpg": 95, "png": 6}[kind]
resizer = Resizer(int(size), "center_crop", False, encode_format=kind, encode_quality=quality)
for line in sys.stdin:
    begun, kept, written = time.process_time(), 0, 0
    for data in files:
        image, *_ = resizer(io.BytesIO(data))
        kept += image is not None
        written += len(image or b"")
    print(time.process_time() - begun, kept, written, flush=True)
"""


def make_pictures(num: int) -> Iterator[bytes]:
    """Yields JPEGs whose spectrum falls as that of photographs does."""
    for index in range(num):
        width, height = SIZES[index % len(SIZES)]
        noise = np.random.default_rng(index).standard_normal((height, width, 3))
        rows = np.fft.fftfreq(height)[:, None, None] * height
        columns = np.fft.rfftfreq(width)[None, :, None] * width
        spectrum = np.fft.rfft2(noise, axes=(0, 1)) / np.maximum(1, np.hypot(rows, columns)) ** 1.2
        values = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1))
        values = 0.7 * values.mean(axis=2, keepdims=True) + 0.3 * values
        pixels = np.clip(120 + 50 * values / values.std(), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()


def read_tars(patterns: list[str], num: int) -> Iterator[bytes]:
    """Yields the first files of pictures in tars."""
    for path in sorted(path for pattern in patterns for path in glob.glob(pattern)):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith((".png", ".jpg", ".webp")) and num > 0:
                    num -= 1
                    yield tar.extractfile(member).read()  # type: ignore[union-attr]


class Peer:
    """img2dataset's Resizer in an environment of its own."""

    def __init__(self, python: str, folder: str, size: int, kind: str) -> None:
        command = [python, "-c", PEER, folder, str(size), kind]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"},
        )

    def run(self) -> tuple[float, int, int]:
        """Returns processor seconds, pictures kept, and bytes written."""
        assert self._process.stdin and self._process.stdout
        print("go", file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline().split()
        if len(answer) != 3:
            raise ChildProcessError("the peer failed; see its message above")
        return float(answer[0]), int(answer[1]), int(answer[2])

    def end(self) -> None:
        """Ends the process."""
        self._process.communicate()


def run_ours(
    clean: filter_sources.PairFilter, pairs: list[records.ImageTextPair]
) -> tuple[float, int, int]:
    """Returns processor seconds, pairs kept, and bytes written."""
    begun, kept, written = time.process_time(), 0, 0
    for pair in pairs:
        result = clean(pair).result
        if isinstance(result, filter_pair.Passed):
            kept += 1
            written += len(result.pair.image)
    return time.process_time() - begun, kept, written


def measure(flags: argparse.Namespace) -> dict[str, object]:
    """Returns the line."""
    found = read_tars(flags.input, flags.num) if flags.input else make_pictures(flags.num)
    files = list(found)
    pairs = [
        records.ImageTextPair(f"{i:06}", data, CAPTION.format(i)) for i, data in enumerate(files)
    ]
    preset = presets.load_preset("default", image_size=flags.image_size)
    settings = clean_settings.CleanSettings(
        preset, image_size=flags.image_size, image_format=flags.format
    )
    clean = filter_pair.load_filter(settings, evaluation="")
    with tempfile.TemporaryDirectory() as folder:
        for index, data in enumerate(files):
            (pathlib.Path(folder) / f"{index:06}").write_bytes(data)
        kind = {"jpeg": "jpg", "png": "png"}[flags.format]
        peer = Peer(flags.peer, folder, flags.image_size, kind)
        run_ours(clean, pairs[:8])
        turns = [(run_ours(clean, pairs), peer.run()) for _ in range(flags.turns)]
        peer.end()
    ours, theirs = (min(turn[side] for turn in turns) for side in (0, 1))
    return {
        "figure": f"clean, one pair: {'tars' if flags.input else 'made-up photographs'}",
        "value": round(len(files) / ours[0], 1),
        "unit": "pairs per second and core",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "format": flags.format,
        "pairs": len(files),
        "kept": ours[1],
        "bytes_per_picture": round(ours[2] / max(1, ours[1])),
        "peer": "img2dataset Resizer, center_crop",
        "peer_value": round(len(files) / theirs[0], 1),
        "peer_kept": theirs[1],
        "peer_bytes_per_picture": round(theirs[2] / max(1, theirs[1])),
        "ratio": round(theirs[0] / ours[0], 3),
    }


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, help="a Python that has img2dataset")
    parser.add_argument("--input", nargs="+", help="tars; without it, pictures are made up")
    parser.add_argument("--num", type=int, default=200, help="pictures")
    parser.add_argument("--format", choices=("jpeg", "png"), default="jpeg")
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--turns", type=int, default=5)
    print(json.dumps(measure(parser.parse_args())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
