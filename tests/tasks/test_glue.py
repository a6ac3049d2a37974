# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""GLUE as TFDS prepares it: batches, sentences, order, exact positions, mistakes."""

import json
import pathlib

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tiny_glue
import tiny_models
from clu.data import dataset_iterator

from parti.data.text import vocabularies
from parti.tasks import feature_converters, glue, metrics, preprocessors

BATCH, LENGTH = 4, 16
LENGTHS = {"inputs": LENGTH, "targets": 1}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def written(data_dir: pathlib.Path) -> dict[str, dict[str, list[dict]]]:
    return {task: tiny_glue.write(data_dir, task) for task in glue.TASKS}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny_models.write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "v.model")


def dataset(name: str, split: str = "train", **options: object) -> tf.data.Dataset:
    training = split == "train"
    settings = {"shuffle": training, "num_epochs": None if training else 1, "seed": 7} | options
    converter = feature_converters.TextClassConverter(pack=False)
    task = seqio.get_mixture_or_task(name)
    examples = task.get_dataset(LENGTHS, split, trim_output_features=False, **settings)
    return converter.to_batches(examples, LENGTHS, BATCH)


def rows(batches: list[dict[str, np.ndarray]]) -> list[tuple[int, ...]]:
    return [
        (*text.tolist(), *label.tolist())
        for batch in batches
        for text, label in zip(batch["text_tokens"], batch["labels"], strict=True)
    ]


@pytest.mark.parametrize("task", glue.TASKS)
def test_batches_are_the_examples(
    task: str, data_dir: pathlib.Path, written: dict, vocabulary: pathlib.Path
) -> None:
    name = glue.add_task(task, data_dir, vocabulary)
    assert name == glue.add_task(task, data_dir, vocabulary)
    assert name.startswith(f"parti_glue_{task}_")
    data = dataset(name, "validation")
    spec = {k: (tuple(v.shape), v.dtype) for k, v in data.element_spec.items()}
    assert spec == {
        "text_tokens": ((BATCH, LENGTH), tf.int32),
        "labels": ((BATCH, 1), tf.int32),
    }
    tokenizer = vocabularies.TextTokenizer(vocabulary)

    def expected(example: dict) -> tuple[int, ...]:
        ids: list[int] = []
        for sentence in glue.TASKS[task].sentences:
            text = tokenizer.encode(example[sentence], LENGTH)
            ids += text[text != vocabularies.PAD_ID].tolist()  # with its EOS
        return (*ids, *[vocabularies.PAD_ID] * (LENGTH - len(ids)), example["label"])

    found = rows(list(data.as_numpy_iterator()))
    everything = sorted(expected(example) for example in written[task]["validation"])
    assert len(everything) == 21 and len(found) == 20  # whole batches
    for row in found:
        everything.remove(row)
    assert len(everything) == 1


def test_the_longer_sentence_loses_its_end_first(vocabulary: pathlib.Path) -> None:
    """Against BERT's loop, which takes one token at a time."""
    feature = preprocessors.text_feature(vocabularies.seqio_text_vocabulary(vocabulary))
    tokenizer = vocabularies.TextTokenizer(vocabulary)
    words = ["red", "blue", "green", "orange", "circle", "square", "star"]
    texts = [(" ".join(words[:i]), " ".join(words[:k])) for i in range(8) for k in range(8)]
    features = dict(zip("ab", map(tf.constant, zip(*texts)))) | {glue.LABEL: tf.zeros(len(texts))}
    lengths = set()
    for length in (2, 3, 8, 9, 40):
        context = preprocessors.Context(
            tf.constant([0, 0]), {"inputs": length}, {"inputs": feature}
        )
        both = glue.join_sentences("a", "b")(features, context)["inputs"].numpy()
        alone = glue.join_sentences("a")(features, context)["inputs"].numpy()
        for (one, two), joined, single in zip(texts, both, alone, strict=True):
            first, second = ([i for i in tokenizer.encode(t, 99) if i > 1] for t in (one, two))
            np.testing.assert_array_equal(single, tokenizer.encode(one, length))
            while len(first) + len(second) > length - 2:
                (first if len(first) > len(second) else second).pop()
            ids = [*first, 1, *second, 1]
            lengths.add((len(first), len(second)))
            assert joined.tolist() == ids + [0] * (length - len(ids))
    assert len(lengths) > 20


def test_epochs_are_shuffled_and_positions_exact(
    data_dir: pathlib.Path, written: dict, vocabulary: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    name = glue.add_task("mrpc", data_dir, vocabulary)
    per_epoch = tiny_glue.COUNTS["train"] // BATCH
    running = dataset_iterator.TfDatasetIterator(dataset(name), checkpoint=True)
    expected = [next(running) for _ in range(3 * per_epoch)]
    epochs = [rows(expected[i * per_epoch : (i + 1) * per_epoch]) for i in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    saved = dataset_iterator.TfDatasetIterator(dataset(name), checkpoint=True)
    for taken in range(1, per_epoch + 5):
        next(saved)
        if taken in (3, per_epoch, per_epoch + 4):
            saved.save(tmp_path / f"{taken}")
            restored = dataset_iterator.TfDatasetIterator(dataset(name), checkpoint=True)
            restored.restore(tmp_path / f"{taken}")
            rest = [next(restored) for _ in range(len(expected) - taken)]
            assert rows(rest) == rows(expected[taken:]), taken


def test_hosts_share_the_examples(
    data_dir: pathlib.Path, written: dict, vocabulary: pathlib.Path
) -> None:
    name = glue.add_task("qqp", data_dir, vocabulary)
    parts = [
        dataset(name, num_epochs=1, shuffle=False, shard_info=seqio.ShardInfo(i, 3))
        for i in range(3)
    ]
    found = [row for part in parts for row in rows(list(part.as_numpy_iterator()))]
    whole = rows(list(dataset(name, num_epochs=1, shuffle=False).as_numpy_iterator()))
    assert sorted(found) == sorted(whole)


def test_mistakes_name_the_remedy(
    data_dir: pathlib.Path, written: dict, vocabulary: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(
        FileNotFoundError, match=rf"tfds build glue/rte:2.0.0 --data_dir {tmp_path}"
    ):
        glue.add_task("rte", tmp_path, vocabulary)
    with pytest.raises(FileNotFoundError, match=r"no data set glue/rte:1\.0\.0 of TFDS"):
        glue.add_task("rte", data_dir, vocabulary, version="1.0.0")
    with pytest.raises(ValueError, match="No GLUE task 'mnli'; choose one of cola, sst2"):
        glue.add_task("mnli", data_dir, vocabulary)
    with pytest.raises(FileNotFoundError, match="parti vocab"):
        glue.add_task("rte", data_dir, tmp_path / "no.model")
    # Another data set under this name
    (tmp_path / "glue").mkdir()
    (tmp_path / "glue" / "rte").symlink_to(data_dir / "glue" / "cola")
    with pytest.raises(ValueError, match="has no 'sentence1', as TFDS's has"):
        glue.add_task("rte", tmp_path, vocabulary)
    name = glue.add_task("cola", data_dir, vocabulary)
    with pytest.raises(ValueError, match=r"TASK_FEATURE_LENGTHS\['targets'\] is 2"):
        seqio.get_mixture_or_task(name).get_dataset(LENGTHS | {"targets": 2}, "validation")


def test_a_split_without_labels_is_no_data(
    data_dir: pathlib.Path, written: dict, vocabulary: pathlib.Path
) -> None:
    task = seqio.get_mixture_or_task(glue.add_task("cola", data_dir, vocabulary))
    assert set(task.splits) == {"train", "validation"}
    context = preprocessors.Context(tf.constant([0, 0]), {}, {})
    with pytest.raises(tf.errors.InvalidArgumentError, match="a split without labels"):
        glue.label_to_targets({"inputs": tf.zeros([2, 1]), "label": tf.constant([1, -1])}, context)


def measure(kind: type, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    examples = ({"targets": np.array([label])} for label in labels)
    return kind.from_model_output(examples, predictions, {}).compute()


def test_metrics_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    predictions = np.where(rng.random(200) < 0.7, labels, rng.integers(0, 2, 200))
    right = [a == b for a, b in zip(labels, predictions)]
    assert measure(metrics.Accuracy, labels, predictions) == {"accuracy": sum(right) / 200}
    precision = np.mean(labels[predictions == 1])
    recall = np.mean(predictions[labels == 1])
    f1 = 2 * precision * recall / (precision + recall)
    assert measure(metrics.F1, labels, predictions) == {"f1": pytest.approx(f1)}
    # Of two classes it is Pearson's correlation.
    pearson = np.corrcoef(labels, predictions)[0, 1]
    assert 0.3 < pearson < 0.9
    found = measure(metrics.MatthewsCorrelation, labels, predictions)
    assert found == {"matthews_correlation": pytest.approx(pearson)}


def test_metrics_of_one_class_only() -> None:
    """As scikit-learn has them: 0, not a division by it."""
    zeros, ones, mixed = np.zeros(4, int), np.ones(4, int), np.array([0, 1, 1, 1])
    assert measure(metrics.F1, zeros, zeros) == {"f1": 0.0}
    assert measure(metrics.F1, mixed, ones) == {"f1": pytest.approx(6 / 7)}
    assert measure(metrics.MatthewsCorrelation, mixed, ones) == {"matthews_correlation": 0.0}
    assert measure(metrics.MatthewsCorrelation, mixed, 1 - mixed) == {"matthews_correlation": -1.0}


def test_each_task_has_the_metrics_of_glue() -> None:
    names = {
        task: [kind.__name__ for kind in stated.metrics] for task, stated in glue.TASKS.items()
    }
    assert json.loads(json.dumps(names)) == {
        "cola": ["MatthewsCorrelation"],
        "sst2": ["Accuracy"],
        "mrpc": ["F1", "Accuracy"],
        "qqp": ["F1", "Accuracy"],
        "qnli": ["Accuracy"],
        "rte": ["Accuracy"],
    }
