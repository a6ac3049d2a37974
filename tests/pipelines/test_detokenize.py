# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Detokenizing: pictures are the decoder's, tokens of another tokenizer are refused."""

import base64
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import pytest
import tiny_models

from parti.data.images import images
from parti.data.storage import records, tfrecords
from parti.engine.inference import bundles, loaded_models
from parti.pipelines import detokenize, generate
from parti.pipelines.beam import options
from parti.pipelines.tokens import resumable_shards
from parti.stages import manifests

# More than one batch, and no whole number of them.
NUM_ROWS = {"train-00000-of-00002": 19, "train-00001-of-00002": 0, "validation-00000-of-00001": 3}


def run(tokens: pathlib.Path, output: pathlib.Path, *flags: str) -> pathlib.Path:
    """Runs the command and returns its output."""
    assert detokenize.run([f"--input={tokens}", f"--output={output}", *flags]) == 0
    return output


def content(folder: pathlib.Path) -> dict[str, bytes]:
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    files.pop("manifest.json")
    return files


def lines(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def write_tokens(
    folder: pathlib.Path, bundle: pathlib.Path, rows: dict[str, Sequence[records.TokenizedPair]]
) -> pathlib.Path:
    """Writes what `parti tokenize` writes."""
    folder.mkdir()
    for shard, pairs in rows.items():
        tfrecords.write(folder / f"{shard}.tfrecord", [pair.to_example() for pair in pairs])
    fingerprint = bundles.Bundle.open(bundle).fingerprints["encoder"]
    manifests.write(
        folder,
        "tokens",
        counts={"train": 19, "validation": 3},
        settings={},
        content=manifests.hash_files(folder),
        inputs={"model": str(bundle)},
        extra={"tokenizer_fingerprint": fingerprint},
    )
    return folder


def draw(shard: str, count: int) -> list[records.TokenizedPair]:
    rng = np.random.default_rng(len(shard) + count)
    keys = [f"{shard[:5]}/{i} ../é&<b>" for i in range(count)]
    return [
        records.TokenizedPair(key, f"<i>{i}</i> stars" if i else "", rng.integers(0, 32, 16))
        for i, key in enumerate(keys)
    ]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, bundle: pathlib.Path) -> pathlib.Path:
    rows = {shard: draw(shard, count) for shard, count in NUM_ROWS.items()}
    return write_tokens(tmp_path_factory.mktemp("tokens") / "tokens", bundle, rows)


@pytest.fixture(scope="module")
def finished(tokens: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return run(tokens, tmp_path_factory.mktemp("pictures") / "pictures")


def test_every_row_is_a_picture_of_the_decoder(
    finished: pathlib.Path, bundle: pathlib.Path
) -> None:
    model = bundles.load_part(bundle, "tokenizer")
    rows = [row for shard, count in NUM_ROWS.items() for row in draw(shard, count)]
    found = lines(finished)
    assert [(line["key"], line["text"]) for line in found] == [(row.key, row.text) for row in rows]
    for line, row in zip(found, rows, strict=True):
        decoded = model.call("decode", row.image_tokens[None], batch_size=1)[0]
        picture = images.decode_image((finished / line["image"]).read_bytes()).astype(int)
        assert np.abs(picture - images.to_uint8(decoded)).max() <= 1
    assert manifests.read(finished, "pictures")["counts"] == {"images": 22}
    assert not [path for path in finished.rglob(".*")]


def test_pictures_are_named_by_row_and_what_is_plain_of_the_key(finished: pathlib.Path) -> None:
    paths = [line["image"] for line in lines(finished)]
    assert paths[1] == "images/train-00000-of-00002/000001-train-1-..-b.png"
    assert len(set(paths)) == 22 == len(list(finished.rglob("*.png")))
    assert all(re.fullmatch(r"images/[\w-]+/\d{6}-[A-Za-z0-9_.-]+\.png", path) for path in paths)
    assert detokenize.image_path("tokens-0.tfrecord", 3, "é/..") == "images/tokens-0/000003.png"
    assert len(detokenize.image_path("t", 3, "x" * 300)) < 110


def test_the_page_shows_picture_caption_and_key(finished: pathlib.Path) -> None:
    page = (finished / "index.html").read_text()
    for line in lines(finished):
        data = base64.b64encode((finished / line["image"]).read_bytes()).decode()
        assert data in page
    assert page.count("<figure>") == 22 and page.count("(no caption)") == 2
    assert "&lt;i&gt;1&lt;/i&gt; stars" in page and "<i>" not in page
    assert "<code>valid/2 ../é&amp;&lt;b&gt;</code>" in page
    assert page.index("<h2>train</h2>") < page.index("<h2>validation</h2>")
    assert 'class="wrap px"' in page and "http" not in page


def test_a_split_and_a_limit(tokens: pathlib.Path, tmp_path: pathlib.Path) -> None:
    expected = [row.key for row in draw("train-00000-of-00002", 19)]
    output = run(tokens, tmp_path / "train", "--split=train", "--limit=17")
    assert [line["key"] for line in lines(output)] == expected[:17]
    output = run(tokens, tmp_path / "both", "--limit=2")
    kept = [*expected[:2], *(row.key for row in draw("validation-00000-of-00001", 3)[:2])]
    assert [line["key"] for line in lines(output)] == kept


def test_finished_shards_are_not_made_again(
    tokens: pathlib.Path,
    finished: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    join = resumable_shards.JoinShard.process
    joined: list[str] = []

    def process(self: Any, element: Any) -> Iterator[Any]:
        if joined and element[0] not in joined:
            raise RuntimeError("the machine went away")
        joined.append(element[0])
        yield from join(self, element)

    with monkeypatch.context() as patch:
        patch.setattr(resumable_shards.JoinShard, "process", process)
        with pytest.raises(options.PipelineError, match="the machine went away"):
            run(tokens, tmp_path / "pictures")
    folder = tmp_path / "pictures.unfinished" / "images" / joined[0].removesuffix(".tfrecord")
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*")}
    output = run(tokens, tmp_path / "pictures")
    after = output / "images" / folder.name
    assert {path.name: path.stat().st_mtime_ns for path in after.glob("*")} == before
    assert content(output) == content(finished)
    with pytest.raises(ValueError, match="already finished; pass --overwrite"):
        run(tokens, tmp_path / "pictures")
    run(tokens, tmp_path / "pictures", "--overwrite", "--limit=1")
    assert len(lines(output)) == 2


def test_tokens_of_generations(tmp_path: pathlib.Path, small_bundle: pathlib.Path) -> None:
    flags = ["--prompts=a red star", "--num_samples=2", f"--model={small_bundle}"]
    generations = tmp_path / "generations"
    assert generate.run([*flags, f"--output={generations}"]) == 0
    output = run(generations, tmp_path / "pictures")
    found = {line["key"]: output / line["image"] for line in lines(output)}
    drawn = generate.read_generations(generations)
    assert len(found) == len(drawn) == 2
    for generation in drawn:
        # Without an upsampler the generated picture is the decoder's.
        path = found[f"{generation.prompt_id}/{generation.sample_index:03d}"]
        picture, same = (p.read_bytes() for p in (path, generations / generation.image))
        assert np.array_equal(images.decode_image(picture), images.decode_image(same))
    with pytest.raises(ValueError, match="--split=train: .* holds generations, which have no"):
        run(generations, tmp_path / "other", "--split=train")


def test_tokens_of_another_tokenizer_are_refused(
    tokens: pathlib.Path, tmp_path: pathlib.Path, bundle: pathlib.Path
) -> None:
    other = tiny_models.write_train_dir(tmp_path / "other", tiny_models.part("tokenizer", seed=1))
    with pytest.raises(ValueError, match="tokens of the encoder .*; give their own tokenizer"):
        run(tokens, tmp_path / "pictures", f"--model={other}")
    assert not (tmp_path / "pictures.unfinished").exists()


def test_tokens_fit_another_decoder(
    tokens: pathlib.Path, tmp_path: pathlib.Path, bundle: pathlib.Path
) -> None:
    """As the second phase leaves one: the encoder and the codebook are the same."""
    part = tiny_models.part("tokenizer")
    params = part.variables["params"]
    decoder = jax.tree.map(lambda leaf: 2 * leaf, params["decoder"])
    variables = {**part.variables, "params": {**params, "decoder": decoder}}
    other = loaded_models.LoadedModel(part.model, variables, config=part.config)
    folder = tiny_models.write_train_dir(tmp_path / "other", other)
    shown = [
        run(tokens, tmp_path / name, f"--model={model}", "--limit=1")
        for name, model in (("first", bundle), ("second", folder))
    ]
    assert content(shown[0]) != content(shown[1])


def test_user_mistakes(
    tokens: pathlib.Path, tmp_path: pathlib.Path, bundle: pathlib.Path, pairs_dir: pathlib.Path
) -> None:
    output = tmp_path / "pictures"
    with pytest.raises(ValueError, match="--limit=0: give at least 1"):
        run(tokens, output, "--limit=0")
    with pytest.raises(ValueError, match="holds pairs, not tokens"):
        run(pairs_dir, output)
    with pytest.raises(FileNotFoundError, match="parti tokenize"):
        run(tmp_path / "nothing", output)
    moved = write_tokens(tmp_path / "moved", bundle, {"train-00000-of-00001": draw("train", 1)})
    manifest = manifests.read(moved, "tokens")
    manifests.write_json(moved / "manifest.json", manifest | {"inputs": {"model": "/gone"}})
    with pytest.raises(FileNotFoundError, match="made with /gone, .*; give the tokenizer with"):
        run(moved, output)
    bad = [records.TokenizedPair("k", "", np.full(16, 32))]
    broken = write_tokens(tmp_path / "broken", bundle, {"train-00000-of-00001": bad})
    with pytest.raises(options.PipelineError, match="'k' has 16 tokens up to 32"):
        run(broken, output)
    empty = write_tokens(tmp_path / "empty", bundle, {"train-00000-of-00001": []})
    with pytest.raises(ValueError, match="hold no rows"):
        run(empty, tmp_path / "empty_pictures")
