# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Positions of data: exact for arrays and tf.data."""

import itertools
import pathlib
import types

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tiny_models

from parti.data.images import images
from parti.data.storage import records, shard_names, tfrecords
from parti.data.text import vocabularies
from parti.engine.input import datasets
from parti.tasks import feature_converters, preprocessors, sources, text_to_image
from parti.tasks import images as image_tasks

ARRAYS = {"x": np.arange(10, dtype=np.int32)}


def take(batches, count: int) -> list[list[int]]:
    return [b["x"].tolist() for b in itertools.islice(batches, count)]


def test_epochs_are_complete_and_differ() -> None:
    rows = take(datasets.ArrayDataset(ARRAYS, 5, seed=1), 4)
    assert sorted(rows[0] + rows[1]) == sorted(rows[2] + rows[3]) == list(range(10))
    assert rows[:2] != rows[2:]
    assert rows == take(datasets.ArrayDataset(ARRAYS, 5, seed=1), 4)
    assert rows != take(datasets.ArrayDataset(ARRAYS, 5, seed=2), 4)


def test_validation_is_in_order() -> None:
    source = datasets.ArraySource(ARRAYS, ARRAYS)
    batches = source.open(datasets.VALIDATION, 4, seed=0, model=None)
    assert take(batches, 3) == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]


def test_bad_arrays() -> None:
    with pytest.raises(ValueError, match="at least the batch size 11; got {'x': 10}"):
        datasets.ArrayDataset(ARRAYS, 11)
    with pytest.raises(ValueError, match="one length"):
        datasets.ArrayDataset({"x": np.zeros(3), "y": np.zeros(4)}, 2)


def tf_batches() -> datasets.TfDataset:
    dataset = tf.data.Dataset.range(50).shuffle(20, seed=3, reshuffle_each_iteration=True)
    dataset = dataset.repeat().map(lambda x: {"x": x}).batch(4, drop_remainder=True)
    return datasets.TfDataset(dataset)


def test_tf_position(tmp_path: pathlib.Path) -> None:
    batches = tf_batches()
    assert batches.element_spec["x"].shape == (4,)
    take(batches, 17)
    batches.save(tmp_path)
    want = take(batches, 20)
    again = tf_batches()
    again.restore(tmp_path)
    assert take(again, 20) == want


def test_a_process_keeps_its_rows() -> None:
    """Also of what it can only read whole."""
    rows = np.array([1, 3])
    for open_batches in (tf_batches, lambda: datasets.ArrayDataset(ARRAYS, 4, seed=1)):
        whole, part = open_batches(), open_batches()
        part.keep_rows(rows)
        assert part.element_spec["x"].shape == (4,), "that of a global batch"
        for batch, own in zip(take(whole, 6), take(part, 6), strict=True):
            assert own == [batch[1], batch[3]]


def test_a_position_of_another_pipeline_is_refused(tmp_path: pathlib.Path) -> None:
    batches = tf_batches()
    take(batches, 3)
    batches.save(tmp_path)
    other = tf.data.Dataset.range(50).map(lambda x: {"x": x}).batch(4).unbatch().batch(4)
    with pytest.raises(ValueError, match="position in another data pipeline"):
        datasets.TfDataset(other).restore(tmp_path)


def test_positions_of_several_processes_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "process_0-of-2").mkdir()
    with pytest.raises(ValueError, match="leaves a position for each"):
        tf_batches().restore(tmp_path)


def test_seqio_source(tmp_path: pathlib.Path) -> None:
    """A registered task, through its model's converter: shuffled train, ordered validation."""
    for split, count in (("train", 12), ("validation", 5)):
        grey = (np.full((8, 8, 3), 10 * i, np.uint8) for i in range(count))
        pairs = (
            records.ImageTextPair(
                key=f"{i}", image=images.encode_png(a), text="", width=8, height=8
            )
            for i, a in enumerate(grey)
        )
        path = tmp_path / shard_names.shard_name(split, 0, 1)
        tfrecords.write(path, (pair.to_example() for pair in pairs))

    class Model:
        FEATURE_CONVERTER_CLS = feature_converters.ImageConverter
        text_vocab_size = None

    source = datasets.SeqioSource(image_tasks.add_task(tmp_path, 8), {"image": 8})

    def levels(batches: datasets.Batches, count: int) -> list[list[int]]:
        taken = (b["images"][:, 0, 0, 0] for b in itertools.islice(batches, count))
        return [np.round((row + 1) * 12.75).astype(int).tolist() for row in taken]

    validation = source.open(datasets.VALIDATION, 7, 0, Model())
    assert levels(validation, 9) == [[0, 1, 2, 3, 4, 0, 1]]
    validation = source.open(datasets.VALIDATION, 2, 0, Model())
    assert levels(validation, 9) == [[0, 1], [2, 3], [4, 0]]
    train = source.open(datasets.TRAIN, 4, 0, Model())
    assert train.element_spec["images"].shape == (4, 8, 8, 3)
    first = levels(train, 3)
    assert sorted(sum(first, [])) == list(range(12))
    assert first != [list(range(4)), list(range(4, 8)), list(range(8, 12))]
    (tmp_path / "position").mkdir()
    train.save(tmp_path / "position")
    rest = levels(train, 7)
    again = source.open(datasets.TRAIN, 4, 0, Model())
    again.restore(tmp_path / "position")
    assert levels(again, 7) == rest


def test_captions_are_those_of_the_examples(tmp_path: pathlib.Path) -> None:
    """Of shards one after the other."""
    vocabulary = tiny_models.write_vocabulary(tmp_path / "v.model")
    for split, count in (("train", 1), ("validation", 20)):
        for shard in range(2):
            rows = (
                records.TokenizedPair(f"{i}", f"red {i}", np.full(4, i)).to_example()
                for i in range(100 * shard, 100 * shard + count)
            )
            tfrecords.write(tmp_path / shard_names.shard_name(split, shard, 2), rows)
    name = text_to_image.add_task(tmp_path, vocabulary, codebook_size=200)
    source = datasets.SeqioSource(name, {"inputs": 6, "targets": 4})
    once = source.once(0, feature_converters.TextToImageConverter)
    read = [int(x["decoder_target_tokens"][0]) - 1 for x in once.as_numpy_iterator()]
    assert read == [*range(20), *range(100, 120)]
    assert list(source.captions()) == [(f"{i}", f"red {i}") for i in read]


def add_token_task(folder: pathlib.Path) -> str:
    """Registers a task of 90 token records and returns its name."""
    vocabulary = tiny_models.write_vocabulary(folder / "v.model")
    rows = (
        records.TokenizedPair(f"{i}", "red " * (i % 9), np.arange(4) + i).to_example()
        for i in range(90)
    )
    tfrecords.write(folder / shard_names.shard_name("train", 0, 1), rows)
    return text_to_image.add_task(folder, vocabulary, codebook_size=100)


@pytest.mark.parametrize(("buffer", "chunk"), [(5, 3), (20, 64), (1_000, 64)])
def test_positions_of_tokens_are_exact(
    buffer: int, chunk: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle and at the end of epochs (90 records, so 11.25 batches, each)."""
    monkeypatch.setattr(sources, "SHUFFLE_BUFFER", buffer)
    monkeypatch.setattr(preprocessors, "CHUNK", chunk)
    source = datasets.SeqioSource(add_token_task(tmp_path), {"inputs": 6, "targets": 4})
    model = types.SimpleNamespace(
        FEATURE_CONVERTER_CLS=feature_converters.TextToImageConverter, text_vocab_size=1000
    )

    def open_batches() -> datasets.Batches:
        return source.open(datasets.TRAIN, 8, 3, model)

    expected = list(itertools.islice(open_batches(), 40))
    saved = open_batches()
    for taken in range(1, 24):
        next(saved)
        if taken in (1, 11, 12, 23):
            (tmp_path / f"{taken}").mkdir()
            saved.save(tmp_path / f"{taken}")
            restored = open_batches()
            restored.restore(tmp_path / f"{taken}")
            for got, want in zip(restored, expected[taken:], strict=False):
                for name, values in want.items():
                    np.testing.assert_array_equal(got[name], values, err_msg=f"{taken}, {name}")


def test_a_users_task_gives_what_seqio_gives(tmp_path: pathlib.Path) -> None:
    """Whole batches, since its own preprocessors may make any number of examples of a record.

    And features that do not come at their full lengths get them.
    """
    full = add_token_task(tmp_path)

    def shorten(dataset: tf.data.Dataset) -> tf.data.Dataset:
        def trimmed(x: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            ids = x["inputs"]
            return x | {"inputs": tf.concat([ids[ids > 1], [1] * 9], 0)}

        return dataset.map(trimmed)

    task = seqio.get_mixture_or_task(full)
    of_any_length = f"{full}_of_any_length"
    seqio.TaskRegistry.add(
        of_any_length,
        source=task.source,
        preprocessors=[*task.preprocessors, shorten],
        output_features=task.output_features,
    )
    lengths, converter = {"inputs": 6, "targets": 4}, feature_converters.TextToImageConverter
    model = types.SimpleNamespace(FEATURE_CONVERTER_CLS=converter, text_vocab_size=1000)

    def expected(name: str, batch_size: int, count: int) -> list[datasets.Batch]:
        options = {"shuffle": True, "num_epochs": None, "seed": 3, "batch_size": batch_size}
        found = seqio.get_dataset(name, lengths, converter(pack=False), **options)
        return list(found.take(count).as_numpy_iterator())

    batches = datasets.SeqioSource(of_any_length, lengths).open(datasets.TRAIN, 8, 3, model)
    assert isinstance(batches, datasets.TfDataset)
    for got, want in zip(batches, expected(of_any_length, 8, 30), strict=False):
        assert got.keys() == want.keys()
        for feature, values in want.items():
            np.testing.assert_array_equal(got[feature], values, err_msg=feature)
    assert batches.element_spec["encoder_input_tokens"].shape == (8, 6)
    # The task itself is read by rows: the same examples, in another order.
    (epoch,) = itertools.islice(
        datasets.SeqioSource(full, lengths).open(datasets.TRAIN, 90, 3, model), 1
    )
    (want,) = expected(full, 90, 1)
    assert epoch.keys() == want.keys()
    targets = [np.sort(x["decoder_target_tokens"], axis=0) for x in (epoch, want)]
    np.testing.assert_array_equal(*targets)


def test_a_vocabulary_past_the_models_embeddings_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ids would be embedded as NaN."""
    path = tiny_models.write_vocabulary(tmp_path / "v.model")
    vocabulary = vocabularies.seqio_text_vocabulary(path)

    class Opened(Exception):
        pass

    class Task(seqio.Task):
        source = None
        name = "task"
        output_features = {
            "inputs": seqio.Feature(vocabulary),
            "targets": seqio.Feature(seqio.PassThroughVocabulary(10**6)),
        }

        @staticmethod
        def get_dataset(*_: object, **__: object) -> None:
            raise Opened

    task = object.__new__(Task)
    monkeypatch.setattr(seqio, "get_mixture_or_task", lambda name: task)
    source = datasets.SeqioSource("task", {"inputs": 8, "targets": 8})

    def model(text_vocab_size: int | None = None) -> types.SimpleNamespace:
        return types.SimpleNamespace(
            text_vocab_size=text_vocab_size, FEATURE_CONVERTER_CLS=lambda pack: None
        )

    size = vocabulary.vocab_size
    message = f"TEXT_VOCAB_SIZE is {size - 1}, but the vocabulary of 'inputs' has {size} pieces"
    with pytest.raises(ValueError, match=message):
        source.open(datasets.TRAIN, 4, 0, model(text_vocab_size=size - 1))
    with pytest.raises(Opened):
        source.open(datasets.TRAIN, 4, 0, model(text_vocab_size=size))
    message = f"text_vocab_size is None, but the task gives text, 'inputs', of .* {size} pieces"
    with pytest.raises(ValueError, match=message):
        source.open(datasets.TRAIN, 4, 0, model())
