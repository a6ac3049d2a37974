# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokenizing: order and layout are kept, bytes do not depend on batches, work is not done twice."""

import json
import pathlib
import shutil
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from parti.data.images import crops, images
from parti.data.scenes import scenes
from parti.data.storage import record_offsets, records, tfrecords
from parti.engine.inference import bundles, layouts
from parti.pipelines import clean_pairs, detokenize, tokenize_images
from parti.pipelines.beam import options
from parti.pipelines.tokens import batches as token_batches
from parti.pipelines.tokens import resumable_shards
from parti.stages import manifests

SHARDS = ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001")


def run(
    output: pathlib.Path, pairs_dir: pathlib.Path, model: pathlib.Path, *flags: str
) -> pathlib.Path:
    """Runs the command and returns its output."""
    arguments = [f"--input={pairs_dir}", f"--model={model}", f"--output={output}", *flags]
    assert tokenize_images.run(arguments) == 0
    return output


def shards(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.tfrecord")}


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, pairs_dir: pathlib.Path, bundle: pathlib.Path
) -> pathlib.Path:
    output = tmp_path_factory.mktemp("tokenize") / "tokens"
    return run(output, pairs_dir, bundle, "--write_reconstructions", "--batch_size=4")


def test_shards_keep_their_names_pairs_and_order(
    finished: pathlib.Path, pairs_dir: pathlib.Path
) -> None:
    folders = ("", "reconstructions/")
    names = [f"{folder}{shard}.tfrecord" for folder in folders for shard in SHARDS]
    assert sorted(shards(finished)) == sorted(names)
    offsets = [f"{folder}.{shard}.tfrecord.offsets" for folder in folders for shard in SHARDS]
    hidden = [str(path.relative_to(finished)) for path in finished.rglob(".*")]
    assert sorted(hidden) == sorted(offsets)
    for name, of in zip(names, offsets, strict=True):
        assert (finished / of).read_bytes() == record_offsets.scan(finished / name).tobytes()
    for shard in SHARDS:
        pairs = [
            records.ImageTextPair.from_example(data)
            for data in tfrecords.read(pairs_dir / f"{shard}.tfrecord")
        ]
        tokens = [
            records.TokenizedPair.from_example(data)
            for data in tfrecords.read(finished / f"{shard}.tfrecord")
        ]
        assert [(t.key, t.text, t.metadata) for t in tokens] == [
            (p.key, p.text, p.metadata) for p in pairs
        ]


def test_tokens_and_reconstructions_are_those_of_the_model(
    finished: pathlib.Path, pairs_dir: pathlib.Path, bundle: pathlib.Path
) -> None:
    model = bundles.load_part(bundle, "tokenizer")
    for shard in (SHARDS[0], SHARDS[2]):
        tokens = list(tfrecords.read(finished / f"{shard}.tfrecord"))
        made = list(tfrecords.read(finished / f"reconstructions/{shard}.tfrecord"))
        given = list(tfrecords.read(pairs_dir / f"{shard}.tfrecord"))
        for example, token, reconstructed in zip(given, tokens, made, strict=True):
            pair = records.ImageTextPair.from_example(example)
            small = images.resize(images.decode_image(pair.image), 16)
            expected = model.call("encode", images.to_float(small)[None], batch_size=1)
            found = records.TokenizedPair.from_example(token).image_tokens
            np.testing.assert_array_equal(found, expected[0])
            record = records.ReconstructedPair.from_example(reconstructed)
            assert record.key == pair.key and record.image == pair.image
            decoded = model.call("decode", found[None], batch_size=1)[0]
            picture = images.decode_image(record.reconstruction).astype(int)
            assert np.abs(picture - images.to_uint8(decoded)).max() <= 1


def test_the_manifest_names_the_tokenizer(finished: pathlib.Path, bundle: pathlib.Path) -> None:
    manifest = manifests.read(finished, "tokens")
    made = json.loads((bundle / "bundle.json").read_text())["parts"]["tokenizer"]
    assert manifest["tokenizer_fingerprint"] == made["encoder_fingerprint"]
    assert (manifest["codebook_size"], manifest["grid_size"]) == (32, 4)
    assert manifest["counts"] == {"train": 8, "validation": 4, "rejected": 0}


def test_bytes_do_not_depend_on_the_batch_size(
    finished: pathlib.Path, tmp_path: pathlib.Path, pairs_dir: pathlib.Path, bundle: pathlib.Path
) -> None:
    other = run(tmp_path / "tokens", pairs_dir, bundle, "--batch_size=3")
    expected = {k: v for k, v in shards(finished).items() if not k.startswith("recon")}
    assert shards(other) == expected


def test_bytes_do_not_depend_on_the_devices_of_a_worker(
    tmp_path: pathlib.Path, finished: pathlib.Path, pairs_dir: pathlib.Path, bundle: pathlib.Path
) -> None:
    """Eight devices take a part of each call, in both directions."""
    used = []

    def keep(self: layouts.Placement, *arguments: Any) -> Any:
        used.append(self.mesh.size)
        return called(self, *arguments)

    called = layouts.Placement.call
    flags = "--write_reconstructions", "--batch_size=4", "--data_parallel"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts.Placement, "call", keep)
        tokens = run(tmp_path / "tokens", pairs_dir, bundle, *flags)
        assert shards(tokens) == shards(finished)
        pictures = [f"--input={tokens}", f"--model={bundle}", "--split=validation"]
        for name, more in (("many", ["--data_parallel"]), ("one", [])):
            assert detokenize.run([*pictures, f"--output={tmp_path / name}", *more]) == 0
    assert set(used) == {8}
    manifest = manifests.read(tokens, "tokens")
    assert manifest["inputs"]["data_parallel"] is True
    assert manifest["fingerprint"] == manifests.read(finished, "tokens")["fingerprint"]
    many, one = (
        {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*.png")}
        for name in ("many", "one")
    )
    assert many == one and many


def run_interrupted(
    patch: pytest.MonkeyPatch,
    output: pathlib.Path,
    pairs_dir: pathlib.Path,
    model: pathlib.Path,
    *flags: str,
) -> pathlib.Path:
    """Runs the command until two shards are finished; returns the first of them."""
    join = resumable_shards.JoinShard.process
    joined: list[str] = []

    def process(self: Any, element: Any) -> Iterator[Any]:
        if len(joined) == 2:
            raise RuntimeError("the machine went away")
        joined.append(element[0])
        yield from join(self, element)

    patch.setattr(resumable_shards.JoinShard, "process", process)
    with pytest.raises(options.PipelineError, match="the machine went away"):
        run(output, pairs_dir, model, *flags)
    patch.undo()
    return output.with_name(f"{output.name}.unfinished") / joined[0]


def test_finished_shards_are_not_made_again(
    finished: pathlib.Path,
    tmp_path: pathlib.Path,
    pairs_dir: pathlib.Path,
    bundle: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = ("--write_reconstructions", "--batch_size=4")
    kept = run_interrupted(monkeypatch, tmp_path / "tokens", pairs_dir, bundle, *flags)
    before = kept.stat().st_mtime_ns
    output = run(tmp_path / "tokens", pairs_dir, bundle, *flags)
    assert (output / kept.name).stat().st_mtime_ns == before
    assert shards(output) == shards(finished)
    made, expected = (manifests.read(path, "tokens") for path in (output, finished))
    assert made["fingerprint"] == expected["fingerprint"]


AUGMENT = ("--augment=3", "--seed=7", "--write_reconstructions")


@pytest.fixture(scope="module")
def augmented(
    tmp_path_factory: pytest.TempPathFactory, pairs_dir: pathlib.Path, bundle: pathlib.Path
) -> pathlib.Path:
    output = tmp_path_factory.mktemp("augment") / "tokens"
    return run(output, pairs_dir, bundle, *AUGMENT, "--batch_size=4")


def test_each_pass_over_a_train_shard_gives_a_crop_of_each_picture(
    augmented: pathlib.Path, finished: pathlib.Path, pairs_dir: pathlib.Path, bundle: pathlib.Path
) -> None:
    model = bundles.load_part(bundle, "tokenizer")
    for shard in SHARDS[:2]:
        given = list(tfrecords.read(pairs_dir / f"{shard}.tfrecord"))
        pairs = [records.ImageTextPair.from_example(example) for example in given]
        tokens = list(tfrecords.read(augmented / f"{shard}.tfrecord"))
        made = list(tfrecords.read(augmented / f"reconstructions/{shard}.tfrecord"))
        expected = [(number, pair) for number in range(3) for pair in pairs]
        for (number, pair), token, reconstructed in zip(expected, tokens, made, strict=True):
            row = records.TokenizedPair.from_example(token)
            record = records.ReconstructedPair.from_example(reconstructed)
            assert row.key == record.key == f"{pair.key}#crop{number}"
            assert (row.text, row.metadata) == (pair.text, pair.metadata)
            picture = images.decode_image(pair.image)
            crop = crops.RandomCrop.draw(32, 16, row.key, seed=7)
            expected_tokens = model.call(
                "encode", images.to_float(crop.cut(picture))[None], batch_size=1
            )
            np.testing.assert_array_equal(row.image_tokens, expected_tokens[0])
            original = images.decode_image(record.image)
            np.testing.assert_array_equal(original, crop.cut_in_full(picture))
    for folder in ("", "reconstructions/"):
        name = f"{folder}{SHARDS[2]}.tfrecord"
        assert shards(augmented)[name] == shards(finished)[name]
    manifest = manifests.read(augmented, "tokens")
    assert manifest["counts"] == {"train": 24, "validation": 4, "rejected": 0}
    assert (manifest["settings"]["augment"], manifest["settings"]["seed"]) == (3, 7)


def test_crops_depend_on_seed_and_key_only(
    augmented: pathlib.Path,
    tmp_path: pathlib.Path,
    pairs_dir: pathlib.Path,
    bundle: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Another batch size, so that batches lie across passes elsewhere, and an interruption.
    flags = (*AUGMENT, "--batch_size=7")
    kept = run_interrupted(monkeypatch, tmp_path / "tokens", pairs_dir, bundle, *flags)
    before = kept.stat().st_mtime_ns
    output = run(tmp_path / "tokens", pairs_dir, bundle, *flags)
    assert (output / kept.name).stat().st_mtime_ns == before
    expected = {k: v for k, v in shards(augmented).items() if not k.startswith("recon")}
    assert {k: v for k, v in shards(output).items() if not k.startswith("recon")} == expected
    other = run(tmp_path / "other", pairs_dir, bundle, "--augment=3", "--seed=8")
    changed = {name for name, data in shards(other).items() if data != expected[name]}
    assert changed == {f"{shard}.tfrecord" for shard in SHARDS[:2]}
    prints = [manifests.read(path, "tokens")["fingerprint"] for path in (augmented, other)]
    assert len(set(prints)) == 2


def test_crops_of_pairs_that_leave_no_room_are_refused(
    tmp_path: pathlib.Path, bundle: pathlib.Path, pairs_dir: pathlib.Path
) -> None:
    pairs = shutil.copytree(pairs_dir, tmp_path / "pairs")
    manifests.write(pairs, "pairs", counts={"train": 8}, settings={"image_size": 16}, content={})
    with pytest.raises(ValueError, match="every crop is the same; clean with --image_size=18"):
        run(tmp_path / "tokens", pairs, bundle, "--augment=2")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    """Pairs, and these with more: of other numbers of shards."""
    folder = tmp_path_factory.mktemp("extended")
    drawn = scenes.generate("train", 40, seed=0, size=32, world="tiny")
    for number, (key, _, picture, captions) in enumerate(drawn):
        raw = folder / ("first" if number < 25 else "more")
        raw.mkdir(exist_ok=True)
        (raw / f"{key}.png").write_bytes(images.encode_png(picture))
        (raw / f"{key}.txt").write_text(captions[0])
    flags = ("--image_size=32", "--validation_fraction=0.2")
    first, both = folder / "pairs", folder / "pairs2"
    one = [f"--input={folder / 'first'}", f"--output={first}", "--num_shards=3"]
    assert clean_pairs.run([*one, *flags]) == 0
    two = [f"--extend={first}", f"--output={both}", "--num_shards=5"]
    assert (
        clean_pairs.run(["--input", *(f"{folder}/{n}" for n in ("first", "more")), *two, *flags])
        == 0
    )
    return first, both


@pytest.mark.parametrize("flags", [("--batch_size=4",), ("--batch_size=3", "--augment=2")])
def test_of_pairs_that_were_added_to_only_the_new_are_encoded(
    extended: tuple[pathlib.Path, pathlib.Path],
    tmp_path: pathlib.Path,
    bundle: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
) -> None:
    first, both = extended
    crop, encoded = token_batches.ReadBatches._crop, []

    def cropping(self: Any, pair: records.ImageTextPair, *more: Any) -> Any:
        encoded.append(pair.key)
        return crop(self, pair, *more)

    monkeypatch.setattr(token_batches.ReadBatches, "_crop", cropping)
    old = run(tmp_path / "old", first, bundle, *flags)
    encoded.clear()
    whole = run(tmp_path / "whole", both, bundle, *flags)
    all_keys = set(encoded)
    encoded.clear()
    added = run(tmp_path / "added", both, bundle, f"--extend={old}", *flags)
    known = {record.key for record in pairs_of(first)}
    assert set(encoded) == all_keys - known and len(known & all_keys) > 20
    assert shards(added) == shards(whole)
    prints = [manifests.read(path, "tokens")["fingerprint"] for path in (added, whole)]
    assert len(set(prints)) == 1
    encoded.clear()
    run(tmp_path / "again", both, bundle, f"--extend={whole}", *flags)
    assert encoded == [] and shards(tmp_path / "again") == shards(whole)


def pairs_of(folder: pathlib.Path) -> list[records.ImageTextPair]:
    rows = tfrecords.read_pattern(folder)
    return [records.ImageTextPair.from_example(row) for row in rows]


def test_tokens_that_do_not_belong_to_the_pairs_are_refused(
    extended: tuple[pathlib.Path, pathlib.Path],
    finished: pathlib.Path,
    tmp_path: pathlib.Path,
    bundle: pathlib.Path,
) -> None:
    first, both = extended
    old = run(tmp_path / "old", first, bundle)
    with pytest.raises(ValueError, match="made with augment=0, now it is 2; give the same"):
        run(tmp_path / "tokens", both, bundle, f"--extend={old}", "--augment=2")
    with pytest.raises(ValueError, match="reconstructions are of all pictures"):
        run(tmp_path / "tokens", both, bundle, f"--extend={old}", "--write_reconstructions")
    with pytest.raises(ValueError, match="not of pairs that .*pairs2 extends .*no other pairs"):
        run(tmp_path / "tokens", both, bundle, f"--extend={finished}")
    changed = shutil.copytree(both, tmp_path / "pairs2")
    manifest = json.loads((changed / "manifest.json").read_text())
    for earlier in (tmp_path / "gone", changed):  # moved away, or overwritten by what extends it
        manifest["inputs"]["extend"] = [str(earlier)]
        (changed / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ValueError, match=f"{earlier} is gone"):
            run(tmp_path / "tokens", changed, bundle, f"--extend={old}")
    assert not list(tmp_path.glob("tokens*"))


def test_memory_holds_two_batches_and_one_copy_of_the_model(
    tmp_path: pathlib.Path,
    pairs_dir: pathlib.Path,
    bundle: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, write = token_batches.ReadBatches.process, tokenize_images._WriteBatch.process
    load = bundles.load_part
    waiting: list[int] = []
    models: list[weakref.ref] = []
    alive: list[int] = []

    def reading(self: Any, path: bytes) -> Iterator[Any]:
        for element in read(self, path):
            waiting.append(1)
            assert len(waiting) <= 2  # Beam holds one back
            yield element

    def writing(self: Any, element: Any) -> Iterator[Any]:
        yield from write(self, element)
        waiting.pop()

    def loading(*arguments: Any) -> Any:
        alive.append(sum(model() is not None for model in models))
        loaded = load(*arguments)
        models.append(weakref.ref(loaded))
        return loaded

    monkeypatch.setattr(token_batches.ReadBatches, "process", reading)
    monkeypatch.setattr(tokenize_images._WriteBatch, "process", writing)
    monkeypatch.setattr(bundles, "load_part", loading)
    run(tmp_path / "tokens", pairs_dir, bundle, "--augment=4", "--batch_size=3")
    # The command reads the tokenizer's sizes and lets it go; then the one of this process.
    assert alive == [0, 0]


def test_pictures_that_cannot_be_read_are_counted(
    tmp_path: pathlib.Path, bundle: pathlib.Path
) -> None:
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    good = records.ImageTextPair("good", images.encode_png(picture), "a star")
    bad = records.ImageTextPair("bad", b"not a picture", "a star")
    for name, rows in (("train-00000-of-00001", [bad, good]), ("validation-00000-of-00001", [])):
        tfrecords.write(pairs / f"{name}.tfrecord", [row.to_example() for row in rows])
    manifests.write(pairs, "pairs", counts={"train": 2}, settings={}, content={})
    output = run(tmp_path / "tokens", pairs, bundle, "--write_reconstructions")
    manifest = manifests.read(output, "tokens")
    assert manifest["counts"] == {"train": 1, "validation": 0, "rejected": 1}
    (row,) = map(json.loads, (output / "rejected.jsonl").read_text().splitlines())
    assert row["key"] == "bad" and "not an image" in row["reason"]
    assert (output / "validation-00000-of-00001.tfrecord").read_bytes() == b""
    (data,) = tfrecords.read_pattern(output / "reconstructions/train-*.tfrecord")
    original = images.decode_image(records.ReconstructedPair.from_example(data).image)
    np.testing.assert_array_equal(original, picture[:, 5:25])  # The middle square, not resized.


def test_user_mistakes(
    tmp_path: pathlib.Path, pairs_dir: pathlib.Path, bundle: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match="--batch_size=0"):
        run(tmp_path / "tokens", pairs_dir, bundle, "--batch_size=0")
    with pytest.raises(ValueError, match="--augment=-1"):
        run(tmp_path / "tokens", pairs_dir, bundle, "--augment=-1")
    with pytest.raises(ValueError, match="--seed=1: nothing is random without --augment"):
        run(tmp_path / "tokens", pairs_dir, bundle, "--seed=1")
    with pytest.raises(FileNotFoundError, match="parti clean"):
        run(tmp_path / "tokens", tmp_path / "nothing", bundle)
    with pytest.raises(FileNotFoundError, match="parti train"):
        run(tmp_path / "tokens", pairs_dir, tmp_path / "nothing")
