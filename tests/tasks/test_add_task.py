# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The four tasks through `seqio.get_dataset`: batches, splits, order, and exact positions."""

import pathlib
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import seqio
import tensorflow as tf
from clu.data import dataset_iterator

from parti.data.images import images as pictures
from parti.data.storage import records, tfrecords
from parti.data.text import vocabularies
from parti.tasks import (
    contrastive,
    feature_converters,
    images,
    preprocessors,
    sources,
    super_resolution,
    text_to_image,
)
from tests.tasks import conftest

Batch = dict[str, np.ndarray]
BATCH, TEXT_LENGTH = 4, 6
CONVERTERS = {
    "images": feature_converters.ImageConverter,
    "contrastive": feature_converters.ImageTextConverter,
    "text_to_image": feature_converters.TextToImageConverter,
    "super_resolution": feature_converters.SuperResolutionConverter,
}
LENGTHS = {
    "images": {"image": conftest.HIGH},
    "contrastive": {"inputs": TEXT_LENGTH, "image": conftest.LOW},
    "text_to_image": {"inputs": TEXT_LENGTH, "targets": conftest.NUM_TOKENS},
    "super_resolution": {"image": conftest.HIGH, "reconstruction": conftest.LOW},
}
IDS, PIXELS = np.dtype(np.int32), np.dtype(np.float32)
SPECS = {
    "images": {"images": ((BATCH, 16, 16, 3), PIXELS)},
    "contrastive": {
        "text_tokens": ((BATCH, TEXT_LENGTH), IDS),
        "images": ((BATCH, 8, 8, 3), PIXELS),
    },
    "text_to_image": {
        "encoder_input_tokens": ((BATCH, TEXT_LENGTH), IDS),
        "decoder_input_tokens": ((BATCH, 4), IDS),
        "decoder_target_tokens": ((BATCH, 4), IDS),
        "decoder_loss_weights": ((BATCH, 4), PIXELS),
    },
    "super_resolution": {
        "images": ((BATCH, 16, 16, 3), PIXELS),
        "low_resolution_images": ((BATCH, 8, 8, 3), PIXELS),
    },
}
KINDS = sorted(SPECS)


@pytest.fixture(scope="module")
def add(stages: conftest.Stages) -> Callable[[str], str]:
    def add_task(kind: str) -> str:
        if kind == "images":
            return images.add_task(stages.pairs, conftest.HIGH)
        if kind == "contrastive":
            return contrastive.add_task(stages.pairs, stages.vocabulary, conftest.LOW)
        if kind == "super_resolution":
            return super_resolution.add_task(stages.reconstructions, conftest.HIGH, conftest.LOW)
        return text_to_image.add_task(
            stages.tokens, stages.vocabulary, conftest.CODEBOOK_SIZE, text_drop_rate=0.3
        )

    return add_task


def dataset(kind: str, name: str, split: str = "train", **options: object) -> tf.data.Dataset:
    training = split == "train"
    settings = {"shuffle": training, "num_epochs": None if training else 1, "seed": 7} | options
    return seqio.get_dataset(
        name,
        LENGTHS[kind],
        dataset_split=split,
        feature_converter=CONVERTERS[kind](pack=False),
        use_cached=False,
        batch_size=BATCH,
        **settings,
    )


def take(data: tf.data.Dataset, count: int) -> list[Batch]:
    return list(data.take(count).as_numpy_iterator())


def same(first: list[Batch], second: list[Batch]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(np.array_equal(a[name], b[name]) for a, b in pairs for name in a)


def test_only_training_pictures_are_augmented(tmp_path: pathlib.Path) -> None:
    wide = np.zeros((16, 24, 3), np.uint8)
    wide[..., 0] = np.arange(24) * 10
    row = records.ImageTextPair("a", pictures.encode_png(wide), "red").to_example()
    for split in records.SPLITS:
        tfrecords.write(tmp_path / f"{split}-00000-of-00001.tfrecord", [row] * 2 * BATCH)
    plain, augmented = (images.add_task(tmp_path, 16, augment=a) for a in (False, True))
    assert plain != augmented

    def first(name: str, split: str) -> np.ndarray:
        return next(iter(dataset("images", name, split).as_numpy_iterator()))["images"]

    middle = np.repeat(pictures.to_float(wide[None, :, 4:20]), BATCH, axis=0)
    for name, split in ((plain, "train"), (plain, "validation"), (augmented, "validation")):
        np.testing.assert_array_equal(first(name, split), middle)
    random = first(augmented, "train")
    assert len(np.unique(random, axis=0)) > 1
    np.testing.assert_array_equal(first(augmented, "train"), random)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_keep_the_contract(kind: str, add: Callable[[str], str]) -> None:
    data = dataset(kind, add(kind))
    spec = {
        k: (tuple(v.shape), np.dtype(v.dtype.as_numpy_dtype)) for k, v in data.element_spec.items()
    }
    assert spec == SPECS[kind]
    (batch,) = take(data, 1)
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == SPECS[kind]
    for name, values in batch.items():
        if "images" in name:
            assert values.min() >= -1.0 and values.max() == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_registration_is_stable(kind: str, add: Callable[[str], str]) -> None:
    name = add(kind)
    assert name == add(kind) and name.startswith(f"parti_{kind}_")
    assert set(seqio.TaskRegistry.get(name).splits) == {"train", "validation"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_the_order(kind: str, add: Callable[[str], str]) -> None:
    name = add(kind)
    first = take(dataset(kind, name), 12)
    assert same(first, take(dataset(kind, name), 12))
    assert not same(first, take(dataset(kind, name, seed=8), 12))


def records_of(batches: list[Batch]) -> list[int]:
    """Returns the index of each record, from its first token."""
    return [int(row[0]) - 1 for batch in batches for row in batch["decoder_target_tokens"]]


def test_an_epoch_holds_every_record_once_in_another_order(add: Callable[[str], str]) -> None:
    data = dataset("text_to_image", add("text_to_image"))
    seen = records_of(take(data, conftest.TRAIN))  # four epochs of 22
    epochs = [seen[i : i + conftest.TRAIN] for i in range(0, len(seen), conftest.TRAIN)]
    assert len(epochs) == 4 and len({tuple(e) for e in epochs}) == 4
    for epoch in epochs:
        assert sorted(epoch) == list(range(conftest.TRAIN)) != epoch


def test_validation_is_whole_and_plain(stages: conftest.Stages, add: Callable[[str], str]) -> None:
    data = dataset("text_to_image", add("text_to_image"), "validation")
    batches = take(data, 99)
    assert sorted(records_of(batches)) == list(range(conftest.VALIDATION))
    tokenizer = vocabularies.TextTokenizer(stages.vocabulary)
    for batch in batches:
        rows = zip(batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True)
        for text, targets in rows:
            np.testing.assert_array_equal(text, tokenizer.encode(f"red {targets[0] - 1}", 6))
            np.testing.assert_array_equal(targets, targets[0] + np.arange(4))


def test_training_draws_captions_and_drops_some(
    stages: conftest.Stages, add: Callable[[str], str]
) -> None:
    tokenizer = vocabularies.TextTokenizer(stages.vocabulary)
    kinds = {"red": 0, "blue": 0, "": 0}
    for batch in take(dataset("text_to_image", add("text_to_image")), 66):
        for text, index in zip(batch["encoder_input_tokens"], records_of([batch]), strict=True):
            caption = tokenizer.decode(text)
            assert caption in ("", f"red {index}", f"blue {index}")
            kinds[caption.split(" ")[0]] += 1
    # 264 rows: 79 +- 7.4 dropped, the rest even.
    assert 50 < kinds[""] < 110 and min(kinds["red"], kinds["blue"]) > 60


def test_pictures_and_captions_stay_together(
    stages: conftest.Stages, add: Callable[[str], str]
) -> None:
    tokenizer = vocabularies.TextTokenizer(stages.vocabulary)
    for batch in take(dataset("contrastive", add("contrastive")), 8):
        for text, picture in zip(batch["text_tokens"], batch["images"], strict=True):
            index = round((float(picture[0, 0, 0]) + 1) * 127.5)
            assert tokenizer.decode(text) in (f"red {index}", f"blue {index}")
    for batch in take(dataset("super_resolution", add("super_resolution")), 3):
        colours = batch["images"][:, 0, 0], batch["low_resolution_images"][:, 0, 0]
        np.testing.assert_array_equal(*colours)


@pytest.mark.parametrize(("buffer", "chunk"), [(5, 3), (5, 64), (1_000, 64)])
def test_positions_are_exact(
    buffer: int,
    chunk: int,
    add: Callable[[str], str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Saved in the middle and at the end of epochs (22 records, so 5.5 batches, each)."""
    monkeypatch.setattr(sources, "SHUFFLE_BUFFER", buffer)
    monkeypatch.setattr(preprocessors, "CHUNK", chunk)
    name = add("text_to_image")

    def open_iterator() -> Iterator[Batch]:
        data = dataset("text_to_image", name)
        return dataset_iterator.TfDatasetIterator(data, checkpoint=True)

    running = open_iterator()
    expected = [next(running) for _ in range(18)]
    saved = open_iterator()
    for taken in range(1, 12):
        next(saved)
        if taken in (2, 5, 11):
            saved.save(tmp_path / "position")
            restored = open_iterator()
            restored.restore(tmp_path / "position")
            assert same(expected[taken:], [next(restored) for _ in range(18 - taken)]), taken


def test_hosts_share_the_records(add: Callable[[str], str]) -> None:
    name, seen = add("text_to_image"), []
    for host in range(2):
        shard = seqio.ShardInfo(index=host, num_shards=2)
        data = dataset("text_to_image", name, "validation", shard_info=shard)
        seen += records_of(take(data, 99))
    assert sorted(seen) == list(range(conftest.VALIDATION))


def test_no_validation_shards_no_split(stages: conftest.Stages, tmp_path: pathlib.Path) -> None:
    for path in stages.pairs.glob("train-*"):
        shutil.copy(path, tmp_path)
    name = images.add_task(tmp_path, 8)
    assert set(seqio.TaskRegistry.get(name).splits) == {"train"}


def test_mistakes_name_the_remedy(stages: conftest.Stages, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="parti clean"):
        images.add_task(tmp_path, 8)
    with pytest.raises(FileNotFoundError, match="parti tokenize --write_reconstructions"):
        super_resolution.add_task(tmp_path, 8, 4)
    with pytest.raises(FileNotFoundError, match="`parti tokenize`"):
        text_to_image.add_task(tmp_path, stages.vocabulary, 50)
    with pytest.raises(FileNotFoundError, match="parti vocab"):
        contrastive.add_task(stages.pairs, tmp_path / "no.model", 8)
    with pytest.raises(ValueError, match="CODEBOOK_SIZE is 3"):
        text_to_image.add_task(stages.tokens, stages.vocabulary, 3)
    with pytest.raises(ValueError, match="not a multiple"):
        super_resolution.add_task(stages.reconstructions, 16, 5)
    with pytest.raises(ValueError, match="expected a tokenized pair"):
        text_to_image.add_task(stages.pairs, stages.vocabulary, 50)
    tfrecords.write(tmp_path / "train-00000-of-00001.tfrecord", [])
    with pytest.raises(ValueError, match="hold no records"):
        text_to_image.add_task(tmp_path, stages.vocabulary, 50)


def test_wrong_lengths_are_refused(add: Callable[[str], str]) -> None:
    for kind, feature in (("images", "image"), ("text_to_image", "targets")):
        lengths = LENGTHS[kind] | {feature: 2}
        with pytest.raises(ValueError, match="TASK_FEATURE_LENGTHS"):
            seqio.get_dataset(add(kind), lengths, CONVERTERS[kind](pack=False))
