# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti clean` and what stands beside image and caption: it never costs the pair or the job."""

import collections
import glob
import io
import json
import pathlib
import random
import tarfile
from typing import Any

import hypothesis
import json_values
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies
from pyarrow import parquet as pq

from parti.data.images import images
from parti.data.storage import records, tfrecords
from parti.pipelines import clean_pairs
from tests.pipelines.readers import test_table_forms

# Names that a rule, a reader or the output has a use for, and the reasons for which a value there
# may drop a pair; all else is only kept.
USED = {
    "split": ("split_test",),
    "punsafe": ("score_nsfw",),
    "similarity": ("score_similarity",),
    "pwatermark": ("score_watermark",),
    "aesthetic": ("score_aesthetic",),
    **dict.fromkeys(("Split", "original_size", "left_out", "scene", "width", "note", ""), ()),
    **dict.fromkeys(("captions", "text.1", "sha256", "n\N{SNOWMAN}", "a\nb", "image.x"), ()),
}


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    return images.encode_png(pixels.repeat(9, axis=0).repeat(9, axis=1))


def clean(folder: pathlib.Path, *flags: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Returns {key: "kept", or the reason why not} and the report."""
    output = folder / "out"
    inputs = [f"{folder}/in/*.{end}" for end in ("parquet", "tar", "jsonl")]
    inputs = [pattern for pattern in inputs if glob.glob(pattern)]
    command = ["--input", *inputs, f"--output={output}", "--image_size=16"]
    assert clean_pairs.run([*command, "--validation_fraction=0", *flags]) == 0
    found = {}
    for path in output.glob("*.tfrecord"):
        for example in tfrecords.read(path):
            found[records.ImageTextPair.from_example(example).key] = "kept"
    for path in output.glob("rejected-*.jsonl"):
        rows = map(json.loads, path.read_text().splitlines())
        found |= {row["key"]: row["reason"] for row in rows}
    return found, json.loads((output / "report.json").read_text())


def draw_objects(seed: int) -> list[dict[str, Any]]:
    """Returns JSON objects with names of `USED` and any values."""
    found: list[dict[str, Any]] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=40, database=None)
    @hypothesis.given(
        strategies.dictionaries(
            strategies.sampled_from(sorted(USED)) | strategies.text(strategies.characters()),
            json_values.JSON | strategies.sampled_from([10**400, -1, "0.9", ["test"], 1e308]),
            min_size=1,
            max_size=5,
        )
    )
    def draw(drawn: dict[str, Any]) -> None:
        found.append(drawn)

    draw()
    return found


@pytest.mark.parametrize("seed", range(1))
def test_any_columns_and_side_files(tmp_path: pathlib.Path, seed: int) -> None:
    chance = random.Random(seed)
    names: dict[str, list[str]] = {}  # beside the pair of each key
    (tmp_path / "in").mkdir()
    numbers = iter(range(10_000))

    def pairs(count: int) -> tuple[list[bytes], list[str]]:
        some = [next(numbers) for _ in range(count)]
        return [png(n) for n in some], [f"a noisy picture with number {n} of many" for n in some]

    for column in test_table_forms.draw_columns(seed).values():
        name, pictures_and_texts = chance.choice(sorted(USED)), pairs(len(column))
        table = pa.Table.from_arrays(
            [*map(pa.array, pictures_and_texts), column], ["image", "text", name]
        )
        stem = f"table{len(names)}"
        pq.write_table(table, tmp_path / "in" / f"{stem}.parquet")
        names |= {f"{stem}#{row}": [name] for row in range(len(column))}
    objects = draw_objects(seed)
    with tarfile.open(tmp_path / "in" / "side.tar", "w") as tar:
        for number, (metadata, image, text) in enumerate(zip(objects, *pairs(len(objects)))):
            side = json.dumps(metadata).encode()
            for end, data in (("png", image), ("txt", text.encode()), ("json", side)):
                info = tarfile.TarInfo(f"side{number}.{end}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            names[f"side{number}"] = [*metadata]
    lines = []
    for number, (metadata, image, text) in enumerate(zip(objects, *pairs(len(objects)))):
        (tmp_path / f"{number}.png").write_bytes(image)
        lines.append(json.dumps({**metadata, "file_name": f"{number}.png", "caption": text}))
        names[f"lines#{number}"] = [*metadata]
    (tmp_path / "in" / "lines.jsonl").write_text("\n".join(lines))
    found, report = clean(tmp_path, f"--image_root={tmp_path}")
    assert found.keys() == names.keys() and report["read"] == len(names)
    for key, reason in found.items():
        allowed = [dropped for name in names[key] for dropped in USED.get(name.lower(), ())]
        assert reason == "kept" or reason in allowed, (key, reason, names[key])


def test_columns_that_are_left_out_are_counted(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the report, its page and on the console: which, why, and of how many pairs."""
    (tmp_path / "in").mkdir()
    large = [bytes(2**20), bytes(2**20), bytes(2**20), b"small"]
    masks = {f"mask{n}": [*large[:2], b"", b""] for n in range(9)}
    table = {
        "image": [png(n) for n in range(4)],
        "text": [f"a noisy picture with number {n} of many" for n in range(4)],
        "<b>": large,
        **masks,
    }
    pq.write_table(pa.table(table), tmp_path / "in" / "t.parquet")
    found, report = clean(tmp_path)
    assert collections.Counter(found.values()) == {"kept": 4}
    assert list(report["left_out_columns"].items()) == [
        ("<b> (too large)", 3),
        *((f"{name} (too large)", 2) for name in masks),
    ]
    said = capsys.readouterr().out
    assert "left out of the metadata: <b> (too large) of 3 pairs, mask0 (too large) of 2 p" in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h3>Left out of the metadata</h3>" in page
    assert "<dt>&lt;b&gt; (too large)</dt><dd>3 pairs</dd>" in page
