# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reports of reconstructions: the numbers are those of the model, and of every picture once."""

import html.parser
import itertools
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from parti.data.images import images
from parti.data.storage import records, tfrecords
from parti.engine.inference import bundles, loaded_models
from parti.pipelines import evaluate
from parti.pipelines.beam import options
from parti.pipelines.evaluation import reconstruction_metrics, reconstructions
from parti.pipelines.evaluation import report as evaluation_report
from parti.pipelines.tokens import resumable_shards
from parti.stages import manifests


def run(
    output: pathlib.Path, pairs: pathlib.Path, model: pathlib.Path, *flags: str
) -> dict[str, Any]:
    """Runs the command and returns its metrics."""
    arguments = [f"--reference={pairs}", f"--model={model}", f"--output={output}", *flags]
    assert evaluate.run(["--reconstructions", *arguments]) == 0
    return json.loads((output / "metrics.json").read_text())


def rows(output: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows by the name of their file."""
    return {
        path.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted((output / "reconstructions").iterdir())
    }


def write_pairs(path: pathlib.Path, given: dict[str, bytes]) -> pathlib.Path:
    """Writes pairs of a single shard, as `parti clean` does."""
    path.mkdir()
    pairs = [
        records.ImageTextPair(key, data, f"a <{key}>").to_example() for key, data in given.items()
    ]
    tfrecords.write(path / "validation-00000-of-00001.tfrecord", pairs)
    manifests.write(path, "pairs", counts={"validation": len(pairs)}, settings={}, content={})
    return path


@pytest.fixture(scope="module")
def report(
    tmp_path_factory: pytest.TempPathFactory, pairs_dir: pathlib.Path, bundle: pathlib.Path
) -> pathlib.Path:
    """The report of both train shards, 5 and 3 pictures."""
    output = tmp_path_factory.mktemp("report") / "report"
    run(output, pairs_dir, bundle, "--split=train")
    return output


def expected_rows(
    pairs_dir: pathlib.Path, bundle: pathlib.Path, shard: str
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Yields what is to be measured of each picture, one at a time, and its tokens."""
    tokenizer = bundles.load_part(bundle, "tokenizer")
    upsampler = bundles.load_part(bundle, "upsampler")
    for data in tfrecords.read(pairs_dir / f"{shard}.tfrecord"):
        pair = records.ImageTextPair.from_example(data)
        original = images.decode_image(pair.image)
        small = images.resize(original, 16)
        tokens = tokenizer.call("encode", images.to_float(small)[None], batch_size=1)
        low = images.to_uint8(tokenizer.call("decode", tokens, batch_size=1)[0])
        again = tokenizer.call("encode", images.to_float(low)[None], batch_size=1)
        large = images.to_uint8(
            upsampler.call("upsample", images.to_float(low)[None], batch_size=1)[0]
        )
        candidates = {
            "upsampler": large,
            "bicubic": images.resize(low, 32),
            "nearest": np.kron(low, np.ones((2, 2, 1), np.uint8)),
        }
        row = {
            "key": pair.key,
            "psnr": images.psnr(low, small),
            "ssim": images.ssim(low, small),
            "l1": np.abs(low.astype(float) - small).mean(),
            "token_agreement": (tokens == again).mean(),
            "upsampled": {
                name: {
                    "psnr": images.psnr(picture, original),
                    "ssim": images.ssim(picture, original),
                }
                for name, picture in candidates.items()
            },
        }
        yield row, tokens[0]


def test_rows_and_codes_are_those_of_the_model(
    report: pathlib.Path, pairs_dir: pathlib.Path, bundle: pathlib.Path
) -> None:
    found = rows(report)
    shards = ("train-00000-of-00002", "train-00001-of-00002")
    assert list(found) == [f"{shard}.jsonl" for shard in shards]
    expected = {shard: list(expected_rows(pairs_dir, bundle, shard)) for shard in shards}
    for shard in shards:
        for row, (wanted, _) in zip(found[f"{shard}.jsonl"], expected[shard], strict=True):
            assert row["key"] == wanted["key"] and set(row) == set(wanted)
            for name in ("psnr", "ssim", "l1", "token_agreement"):
                assert row[name] == pytest.approx(wanted[name], abs=0.02)
            for name, values in wanted["upsampled"].items():
                assert row["upsampled"][name] == pytest.approx(values, abs=0.02)
    tokens = np.stack([row for shard in shards for _, row in expected[shard]])
    codes = json.loads((report / "codes.json").read_text())
    assert codes["num_pictures"] == 8
    assert codes["tokens"] == [(tokens == code).sum() for code in range(32)]
    assert codes["pictures"] == [(tokens == code).any(axis=1).sum() for code in range(32)]
    codebook = json.loads((report / "metrics.json").read_text())["codebook"]
    assert codebook["usage"] == len(np.unique(tokens)) / 32 == codebook["batch_usage"]
    assert codebook["dead_codes"] == 32 - len(np.unique(tokens)) and codebook["batch_size"] == 8


def test_metrics_are_means_over_the_rows(report: pathlib.Path) -> None:
    metrics = json.loads((report / "metrics.json").read_text())
    every = list(itertools.chain(*rows(report).values()))
    for name in reconstruction_metrics.MEASURES:
        estimate = metrics["tokenizer"][name]
        values = [row[name] for row in every]
        assert estimate["mean"] == pytest.approx(np.mean(values), abs=1e-5)
        assert min(values) <= estimate["low"] <= estimate["mean"] <= estimate["high"] <= max(values)
        assert estimate["count"] == 8
    gain = metrics["upsampler"]["ssim"]["gain_over_nearest"]["mean"]
    differences = [
        row["upsampled"]["upsampler"]["ssim"] - row["upsampled"]["nearest"]["ssim"] for row in every
    ]
    assert gain == pytest.approx(np.mean(differences), abs=1e-5)
    reference = metrics["reference"]
    assert reference["num_images"] == 8 and reference["num_rejected"] == 0
    assert any("train split" in note for note in metrics["notes"])
    manifest = manifests.read(report, "reconstructions")
    assert manifest["counts"] == {"images": 8, "rejected": 0}
    assert not list(report.glob(".*"))


class Images(html.parser.HTMLParser):
    """Collects the addresses of pictures, and whatever would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[str] = []
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href") and value:
                if tag == "img":
                    self.pictures.append(value)
                if not value.startswith("data:"):
                    self.foreign.append(value)


def test_the_page_shows_worst_best_and_random_and_loads_nothing(report: pathlib.Path) -> None:
    page = (report / "reconstructions.html").read_text()
    found = Images()
    found.feed(page)
    # Of 8 pictures 3 are the worst, 3 the best and 3 at random, three views each.
    assert len(found.pictures) == 27 and not found.foreign
    assert page.index("The worst") < page.index("The best") < page.index("At random")
    every = sorted(itertools.chain(*rows(report).values()), key=lambda row: row["psnr"])
    worst = page[page.index("The worst") : page.index("The best")]
    best = page[page.index("The best") : page.index("At random")]
    assert all(row["key"] in worst for row in every[:3])
    assert all(row["key"] in best for row in every[-3:])
    assert page.count("<svg") == 2


def test_validation_is_the_default_and_the_bytes_are_the_same_again(
    tmp_path: pathlib.Path, pairs_dir: pathlib.Path, small_bundle: pathlib.Path
) -> None:
    outputs = [tmp_path / "a", tmp_path / "b"]
    for output in outputs:
        metrics = run(output, pairs_dir, small_bundle)
        assert metrics["reference"]["split"] == "validation"
        assert metrics["tokenizer"]["psnr"]["count"] == 4 and "upsampler" not in metrics
        assert metrics["notes"] == ["the upsampler was not measured: the bundle has none"]
    for name in ("metrics.json", "codes.json", "reconstructions.html"):
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()
    with pytest.raises(ValueError, match="already finished"):
        run(outputs[0], pairs_dir, small_bundle)
    assert (
        run(outputs[0], pairs_dir, small_bundle, "--overwrite", "--num_reference=2")["tokenizer"][
            "psnr"
        ]["count"]
        == 2
    )


def test_pictures_of_any_size_and_broken_ones(tmp_path: pathlib.Path, bundle: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (40, 71, 3), np.uint8)
    tiny = rng.integers(0, 256, (3, 5, 3), np.uint8)
    given = {
        "wide": images.encode_png(wide),
        "broken": b"not a picture",
        "tiny": images.encode_jpeg(tiny),
        "short": images.encode_png(wide[:20]),
    }
    pairs = write_pairs(tmp_path / "pairs", given)
    metrics = run(tmp_path / "out", pairs, bundle)
    (found,) = rows(tmp_path / "out").values()
    assert [row["key"] for row in found] == ["wide", "tiny", "short"]
    assert ["upsampled" in row for row in found] == [True, False, False]
    assert metrics["upsampler"]["psnr"]["upsampler"]["count"] == 1
    (rejected,) = map(json.loads, (tmp_path / "out/rejected.jsonl").read_text().splitlines())
    assert rejected["key"] == "broken" and "not an image" in rejected["reason"]
    about = metrics["reference"]
    assert (about["num_images"], about["num_rejected"]) == (3, 1)
    assert metrics["notes"] == ["1 of 4 pictures could not be read, see rejected.jsonl"]
    page = (tmp_path / "out/reconstructions.html").read_text()
    assert "a &lt;" in page and "a <" not in page


def test_an_interrupted_run_goes_on(
    tmp_path: pathlib.Path,
    pairs_dir: pathlib.Path,
    bundle: pathlib.Path,
    report: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    join = resumable_shards.JoinShard.process
    joined: list[str] = []

    def process(self: Any, element: Any) -> Iterator[Any]:
        if joined:
            raise RuntimeError("the machine went away")
        joined.append(element[0])
        yield from join(self, element)

    with monkeypatch.context() as patch:
        patch.setattr(resumable_shards.JoinShard, "process", process)
        with pytest.raises(options.PipelineError, match="the machine went away"):
            run(tmp_path / "out", pairs_dir, bundle, "--split=train")
    kept = tmp_path / "out.unfinished/reconstructions" / joined[0]
    before = kept.stat().st_mtime_ns
    run(tmp_path / "out", pairs_dir, bundle, "--split=train")
    assert (tmp_path / "out/reconstructions" / joined[0]).stat().st_mtime_ns == before
    for name in ("metrics.json", "codes.json", "reconstructions.html"):
        assert (tmp_path / "out" / name).read_bytes() == (report / name).read_bytes()


def test_a_training_of_a_tokenizer_is_measured_like_its_bundle(
    tmp_path: pathlib.Path,
    pairs_dir: pathlib.Path,
    small_bundle: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part = bundles.Bundle.open(small_bundle).load("tokenizer")
    monkeypatch.setattr(
        loaded_models.LoadedModel, "from_train_dir", lambda directory, placement=None: part
    )
    found = run(tmp_path / "a", pairs_dir, tmp_path / "training")
    expected = run(tmp_path / "b", pairs_dir, small_bundle)
    assert found == expected | {"notes": []}


def test_user_mistakes(
    tmp_path: pathlib.Path, pairs_dir: pathlib.Path, bundle: pathlib.Path
) -> None:
    output = f"--output={tmp_path / 'out'}"
    for flags, message in (
        ([], "--generations DIR or --reconstructions"),
        (["--reconstructions", "--generations=x"], "--generations DIR or --reconstructions"),
        (["--reconstructions"], "needs --reference"),
        (["--generations=x", "--split=train"], "which is not given"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate.run([output, *flags])
    empty = tmp_path / "pairs"
    shutil.copytree(pairs_dir, empty)
    manifests.write(empty, "pairs", counts={"train": 8}, settings={}, content={})
    with pytest.raises(ValueError, match="split validation is empty"):
        run(tmp_path / "out", empty, bundle, "--split=validation")
    broken = write_pairs(tmp_path / "broken", {"broken": b"no"})
    with pytest.raises(ValueError, match="no reference picture could be read"):
        run(tmp_path / "out", broken, bundle)


def test_the_page_is_bounded_whatever_the_size_and_survives_extremes(
    tmp_path: pathlib.Path, report: pathlib.Path
) -> None:
    metrics = json.loads((report / "metrics.json").read_text())
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    row = {"key": "k", "psnr": 10.0, "ssim": 0.1}
    shown = [reconstructions.Shown(row, "", noise, noise[::-1])] * 12
    groups = {name: shown for name in ("worst", "best", "random")}
    only_one = np.array([5000] + [0] * 8191)
    for psnr in (np.array([100.0]), np.array([0.5, 100.0])):
        evaluation_report.write_reconstructions(tmp_path, metrics, only_one, psnr, groups)
        page = (tmp_path / "reconstructions.html").read_text()
        assert "nan" not in page.split("<svg", 1)[1].split("</main>")[0].split("data:")[0]
        assert len(page) < 30e6  # noise, the worst for JPEG
    assert "60 dB and more" in page


def test_a_few_pictures_are_chosen_of_many() -> None:
    values = np.random.default_rng(0).permutation(1000)
    every = [("shard", {"key": f"{value:04d}", "psnr": float(value)}) for value in values]
    chosen = reconstructions.choose(every, 1000)
    assert [row["psnr"] for _, row in chosen["worst"]] == list(range(12))
    assert [row["psnr"] for _, row in chosen["best"]] == list(range(999, 987, -1))
    assert len({row["key"] for _, row in chosen["random"]}) == 12
    spread = [row["psnr"] for _, row in chosen["random"]]
    assert max(spread) > 600 and min(spread) < 400
    one = reconstructions.choose(every[:1], 1)
    assert [len(group) for group in one.values()] == [1, 1, 1]


def test_the_difference_is_amplified_and_clipped() -> None:
    first, second = np.full((2, 2, 3), 10, np.uint8), np.full((2, 2, 3), 13, np.uint8)
    second[0, 0] = 250
    shown = reconstructions.Shown({}, "", first, second)
    assert shown.difference.dtype == np.uint8
    assert (
        shown.difference[0, 0].tolist() == [255] * 3 and shown.difference[1, 1].tolist() == [12] * 3
    )
