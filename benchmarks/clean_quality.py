# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Plants defects among good pairs, runs `parti clean` over them, and says what it found.

    python benchmarks/clean_quality.py --num 300
    python benchmarks/clean_quality.py --num 200 --input 'emoji/*.tar' --photographs 'photos/*.jpg'

It prints one JSON line. For each kind of copy: recall, the share of copies that end in the group of
their original, of those that no rule for one pair drops. For each kind of bad caption and for
broken files: recall, the share that is dropped for a reason of that kind (for boilerplate: that is
stripped), and precision, the share of the pairs dropped for such a reason that were planted so.
`false_pairs` counts the pairs that were dropped as near duplicates of a picture that is not theirs,
and their share of all pictures.

The pictures are scenes, those of --input (tars; by default the emoji of ../shared, if there), and
--photographs, cut into squares that do not overlap. What is absent is named in the line.
Half of each set, by a hash of the names (of whole photographs), is held back: thresholds may be
chosen on the other half only, and the line has both.
Originals that have equal pixels are used once. Some emoji mirror each other, and a planted flip is
then the other one: pictures with a peak signal-to-noise ratio of 40 dB to each other, or to the
mirror image, are no false pair (JPEG at quality 50 leaves 31 to 37 dB).

`cost` is in pairs of a set a second of one core: filtered with and without sketches and their keys
(`image_sketches`), and looked up in an evaluation set of other originals with and without them.
"""

import argparse
import collections
import glob
import hashlib
import io
import itertools
import json
import os
import pathlib
import platform
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import planted_defects as planted

from parti.data.decontamination import decontamination
from parti.data.images import image_hashes, image_sketches, images
from parti.data.scenes import scenes
from parti.data.storage import records, tfrecords
from parti.pipelines.clean import filter_pair
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.deduplicate import changed_copies, fingerprints
from parti.pipelines.rules import presets

ROOT = pathlib.Path(__file__).resolve().parents[1]
EMOJI = str(ROOT.parent / "shared" / "data" / "emoji" / "*.tar")
REQUIRED = {
    "jpeg_50": 0.99,
    "half_size": 0.99,
    "flip": 0.99,
    "border": 0.95,
    "text_overlay": 0.9,
    "crop_90": 0.8,
}
MAX_FALSE_SHARE = 0.001
CROPS = 48  # of a photograph, at most
MIN_CROP, MAX_CROP = 128, 320  # pixels; larger ones are reduced
NUM_TIMED, NUM_TURNS = 100, 3
NEAR = "near_duplicate"
COPY_REASONS = ("duplicate_pair", "duplicate_image", NEAR)
SAME_PICTURE_DB = 40
EVALUATION = ("evaluation_image", "evaluation_caption")
KINDS = (*planted.COPIES, *planted.CAPTIONS, *planted.BROKEN, *EVALUATION)
HALVES = ("tuning", "held_back")
SQUARE = re.compile(r"_at_\d+_\d+$")  # in the key of a part of a photograph
PRESET = """title: Quality
source: benchmark
base: default
rules:
  languages: [en]
  max_foreign_confidence: 0.7
  allow_upscale: true
  near_duplicates: image
"""

Good = tuple[str, np.ndarray, str]  # key, [height, width, 3] uint8, caption


def read_scenes(size: int) -> Iterator[Good]:
    """Yields scenes, as many as are asked for."""
    for key, _, image, captions in scenes.generate("train", 10**6, seed=7, size=size):
        yield key, image, captions[0]


def read_tars(pattern: str) -> Iterator[Good]:
    """Yields the pairs of tars, in an order that does not follow their content."""
    found: list[tuple[str, bytes, str]] = []
    for path in sorted(glob.glob(pattern)):
        with tarfile.open(path) as tar:
            members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
        for name, data in members.items():
            stem, _, suffix = name.rpartition(".")
            if suffix in ("webp", "png", "jpg") and f"{stem}.txt" in members:
                found.append((stem, data, members[f"{stem}.txt"].decode()))
    found.sort(key=lambda row: hashlib.sha256(row[0].encode()).digest())
    for key, data, text in found:
        yield key, images.decode_image(data), text


def read_photographs(pattern: str) -> Iterator[Good]:
    """Yields squares of photographs that do not overlap, in an order that mixes them."""
    found: list[Good] = []
    for path in sorted(glob.glob(pattern)):
        image = images.decode_image(pathlib.Path(path).read_bytes())
        height, width = image.shape[:2]
        side = max(MIN_CROP, int((height * width / CROPS) ** 0.5))
        for top in range(0, height - side + 1, side):
            for left in range(0, width - side + 1, side):
                square = np.ascontiguousarray(image[top : top + side, left : left + side])
                if side > MAX_CROP:
                    square = images.resize(square, MAX_CROP)
                key = f"{pathlib.Path(path).stem}_at_{top}_{left}"
                found.append((key, square, f"a small part of photograph {len(found)}, a square"))
    found.sort(key=lambda row: hashlib.sha256(row[0].encode()).digest())
    yield from found


def read_half(pairs: Iterator[Good], half: str) -> Iterator[Good]:
    """Yields one of the `HALVES` of some pairs."""
    for pair in pairs:
        name = SQUARE.sub("", pair[0])
        if HALVES[hashlib.sha256(f"half {name}".encode()).digest()[0] % 2] == half:
            yield pair


def plant(pairs: Iterator[Good], num: int, folder: pathlib.Path) -> list[planted.Row]:
    """Returns good pairs, and among them `num` of each defect; writes the evaluation set.

    Each original has one defect at most. Fewer pairs than are needed make fewer of each kind.
    """
    rng = random.Random(0)
    unique: dict[bytes, Good] = {}
    for pair in pairs:
        unique.setdefault(image_hashes.pixel_hash(pair[1]), pair)
        if len(unique) == num * (len(KINDS) + 1):
            break
    roles = ("good", *KINDS)
    folder.mkdir()
    rows, prompts = [], []
    for index, (key, image, text) in enumerate(unique.values()):
        kind = roles[index % len(roles)]
        good = planted.Row(key, planted.encode(image), "png", text, "good", key)
        if kind in EVALUATION:
            if kind == "evaluation_image":
                (folder / f"{key}.png").write_bytes(good.image)
                data = planted.COPIES["jpeg_50"][1](image)
                rows.append(planted.Row(f"{kind}-{key}", data, "jpg", text, kind, key))
            else:
                secret = f"a drawing of secret number {index} that nobody may ever train on"
                prompts.append(secret)
                rows.append(planted.Row(f"{kind}-{key}", good.image, "png", secret, kind, key))
        elif kind in planted.CAPTIONS:
            bad = planted.CAPTIONS[kind](rng, text)
            rows.append(planted.Row(f"{kind}-{key}", good.image, "png", bad, kind, key))
        elif kind in planted.BROKEN:
            data = planted.BROKEN[kind](rng, good.image)
            rows.append(planted.Row(f"{kind}-{key}", data, "png", text, kind, key))
        else:
            rows.append(good)
            if kind in planted.COPIES:
                suffix, copy = planted.COPIES[kind]
                rows.append(planted.Row(f"{kind}-{key}", copy(image), suffix, text, kind, key))
    (folder / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    rng.shuffle(rows)
    return rows


def write_tars(rows: Sequence[planted.Row], folder: pathlib.Path, num: int = 4) -> None:
    """Writes pairs as webdataset tars."""
    folder.mkdir()
    for shard in range(num):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for row in rows[shard::num]:
                for suffix, data in ((row.suffix, row.image), ("txt", row.text.encode())):
                    info = tarfile.TarInfo(f"{row.key}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def clean(folder: pathlib.Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Runs `parti clean`; returns the rejected rows by key, and the captions of the others."""
    preset, output = folder / "quality.yaml", folder / "pairs"
    preset.write_text(PRESET, encoding="utf-8")
    command = [sys.executable, "-m", "parti", "clean", f"--preset={preset}", "--image_size=64"]
    command += [f"--input={folder / 'raw' / '*.tar'}", f"--output={output}"]
    subprocess.run(
        [*command, f"--decontaminate={folder / 'evaluation'}"], check=True, stdout=sys.stderr
    )
    rejected: dict[str, dict[str, Any]] = {}
    for path in sorted(output.glob("rejected-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rejected[row["key"]] = row
    pairs = (
        records.ImageTextPair.from_example(example)
        for split in records.SPLITS
        for path in sorted(output.glob(f"{split}-*.tfrecord"))
        for example in tfrecords.read(path)
    )
    return rejected, {pair.key: pair.text for pair in pairs}


def group_of(row: dict[str, Any]) -> str:
    """Returns the key of the copy that stays for a row that was dropped as a copy."""
    if row.get("group"):
        return str(row["group"])
    found = re.search(r"\bas (\S+)$", row["measure"])
    if not found:
        raise ValueError(f"the rejected row of {row['key']} does not say which copy stays: {row}")
    return found[1]


def is_reason(kind: str, reason: str) -> bool:
    """Returns whether pairs with a defect should be dropped for a reason."""
    if kind in EVALUATION:
        return reason == f"contaminated_{kind.removeprefix('evaluation_')}"
    if kind in planted.BROKEN:
        return reason.startswith(("image_", "missing_image", "broken_"))
    return reason.startswith(planted.CAPTION_REASONS[kind])


def score(
    rows: Sequence[planted.Row], rejected: dict[str, dict[str, Any]], kept: dict[str, str]
) -> dict[str, Any]:
    """Returns what is found of each kind, and what is dropped that should not be."""
    by_key = {row.key: row for row in rows}
    groups = {k: group_of(r) for k, r in rejected.items() if r["reason"] in COPY_REASONS}
    reasons = {key: row["reason"] for key, row in rejected.items()}
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])  # found, planted
    for row in rows:
        if row.kind == "good":
            continue
        if row.kind in planted.COPIES:
            if not {row.key, row.origin} <= groups.keys() | kept.keys():
                continue
            found = groups.get(row.key, row.key) == groups.get(row.origin, row.origin)
        elif row.kind == "boilerplate_caption":
            original = row.text
            stripped = kept.get(row.key, original)
            found = len(stripped) < len(original) and stripped in original
        else:
            found = is_reason(row.kind, reasons.get(row.key, ""))
        counts[row.kind][0] += found
        counts[row.kind][1] += 1
    kinds: dict[str, Any] = {}
    for kind in KINDS:
        found, num = counts[kind]
        kinds[kind] = {"recall": round(found / max(1, num), 4), "planted": num}
        if kind not in planted.COPIES and kind != "boilerplate_caption":
            dropped = [key for key, reason in reasons.items() if is_reason(kind, reason)]
            right = _num_right(kind, [by_key[key].kind for key in dropped])
            kinds[kind]["precision"] = round(right / max(1, len(dropped)), 4)
    near = [key for key, reason in reasons.items() if reason == NEAR]
    false = [k for k in near if not _is_copy(by_key[k], by_key[groups[k]])]
    good = [row.key for row in rows if row.kind in ("good", *planted.COPIES)]
    dropped_good = [k for k in good if k in reasons and reasons[k] not in COPY_REASONS]
    return {
        "pictures": len(rows),
        "near_pairs": len(near),
        "false_pairs": len(false),
        "false_pair_examples": [f"{key}: {rejected[key]['measure']}" for key in false[:5]],
        "false_pair_share": round(len(false) / len(rows), 5),
        "near_precision": round(1 - len(false) / max(1, len(near)), 4),
        "good_dropped": dict(collections.Counter(reasons[k] for k in dropped_good)),
        "good_captions": len(good),
        "kinds": kinds,
    }


def measure_cost(rows: Sequence[planted.Row]) -> dict[str, float]:
    """Returns pairs a second of processor time with and without sketches, and the ratios."""
    good = [row for row in rows if row.kind == "good"]
    pairs = [
        records.ImageTextPair(key=row.key, image=row.image, text=row.text)
        for row in good[:NUM_TIMED]
    ]
    kept_out = decontamination.EvaluationSet()
    for row in good[NUM_TIMED:]:
        image = images.decode_image(row.image)
        sketch = image_sketches.sketch(image)
        size = image.shape[0] * image.shape[1]
        kept_out.add_image(row.key, *image_hashes.fingerprint(image), size, sketch)
    settings = {
        near: clean_settings.CleanSettings(
            presets.load_preset("none", {"near_duplicates": near}), image_size=64
        )
        for near in ("none", "image")
    }
    rule = changed_copies.ChangedCopies()

    def run(near: str) -> list[fingerprints.Fingerprint]:
        found = [filter_pair.filter_pair(pair, settings[near]).result for pair in pairs]
        prints = [one.fingerprint for one in found if isinstance(one, filter_pair.Passed)]
        for row in prints if near == "image" else []:
            collections.deque(rule.points(row), maxlen=0)
        return prints

    def look_up(prints: Sequence[fingerprints.Fingerprint], with_sketch: bool) -> None:
        for row in prints:
            kept_out.hit("", row.phash, row.colours, row.area, row.sketch if with_sketch else b"")

    seconds: dict[str, float] = collections.defaultdict(lambda: float("inf"))
    prints = run("image")
    for _ in range(NUM_TURNS):
        for name, work in {
            "filter_before": lambda: run("none"),
            "filter": lambda: run("image"),
            "look_up_before": lambda: look_up(prints, False),
            "look_up": lambda: look_up(prints, True),
        }.items():
            begun = time.process_time()
            work()
            seconds[name] = min(seconds[name], time.process_time() - begun)
    speeds = {name: round(len(pairs) / max(value, 1e-9), 1) for name, value in seconds.items()}
    both_before = seconds["filter_before"] + seconds["look_up_before"]
    return speeds | {
        "evaluation_pictures": kept_out.num_images,
        "near_duplicates_ratio": round(seconds["filter_before"] / seconds["filter"], 3),
        "decontaminate_ratio": round(both_before / (seconds["filter"] + seconds["look_up"]), 3),
    }


def _is_copy(row: planted.Row, stays: planted.Row) -> bool:
    """Returns whether two rows show one picture, or its mirror image."""
    if row.origin == stays.origin:
        return True
    pictures = [images.decode_image(r.image) for r in (row, stays)]
    size = min(picture.shape[:2] for picture in pictures)
    first, second = (images.resize(picture, size).astype(np.float64) for picture in pictures)
    noise = min(float(np.square(first - other).mean()) for other in (second, second[:, ::-1]))
    return noise <= 255**2 / 10 ** (SAME_PICTURE_DB / 10)


def _num_right(kind: str, kinds: Sequence[str]) -> int:
    """Returns how many of the pairs dropped for a kind's reasons have a defect that earns one."""
    if kind == "junk_caption":
        return sum(name in planted.CAPTION_REASONS for name in kinds)
    return kinds.count(kind)


def main() -> int:
    """Runs the benchmark; returns 1 if what is required is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=300, help="of each kind, in each set")
    parser.add_argument("--size", type=int, default=64, help="of the scenes, in pixels")
    parser.add_argument("--input", default=EMOJI, help="tars of pictures, beside the scenes")
    parser.add_argument("--workdir", type=pathlib.Path, help="a new folder to keep everything in")
    parser.add_argument("--photographs", default="", help="photographs to cut up, a glob")
    flags = parser.parse_args()
    readers: dict[str, Callable[[], Iterator[Good]]] = {"scenes": lambda: read_scenes(flags.size)}
    if glob.glob(flags.input):
        readers["input"] = lambda: read_tars(flags.input)
    if flags.photographs and not glob.glob(flags.photographs):
        parser.error(f"--photographs={flags.photographs}: there is no such file")
    if flags.photographs:
        readers["photographs"] = lambda: read_photographs(flags.photographs)
    absent = sorted({"input", "photographs"} - readers.keys())
    if absent:
        print(f"absent: {', '.join(absent)} (see --help)", file=sys.stderr)
    results: dict[str, dict[str, Any]] = {half: {} for half in HALVES}
    with tempfile.TemporaryDirectory() as temporary:
        for name, half in itertools.product(readers, HALVES):
            folder = (flags.workdir or pathlib.Path(temporary)) / f"{name}-{half}"
            folder.mkdir(parents=True)
            rows = plant(read_half(readers[name](), half), flags.num, folder / "evaluation")
            write_tars(rows, folder / "raw")
            results[half][name] = score(rows, *clean(folder)) | {"cost": measure_cost(rows)}
    least: dict[str, dict[str, float]] = {}
    false: dict[str, float] = {}
    for half, sets in results.items():
        least[half] = {k: min(r["kinds"][k]["recall"] for r in sets.values()) for k in REQUIRED}
        false[half] = max(r["false_pair_share"] for r in sets.values())
    line = {
        "figure": "clean quality: least recall of re-encoded and half-size copies",
        "value": min(min(found["jpeg_50"], found["half_size"]) for found in least.values()),
        "unit": "share",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "least_recall": least,
        "false_pair_share": false,
        "required": {"least_recall": REQUIRED, "false_pair_share": MAX_FALSE_SHARE},
        "absent": absent,
        **results,
    }
    print(json.dumps(line))
    is_missed = any(least[half][k] < recall for half in HALVES for k, recall in REQUIRED.items())
    return int(is_missed or max(false.values()) > MAX_FALSE_SHARE)


if __name__ == "__main__":
    sys.exit(main())
