# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of seqio tasks: each example of the split once, whatever the batch size."""

import pathlib
from typing import Any

import jax
import numpy as np
import optax
import pytest
import seqio
import tiny_models

from parti.data.images import images
from parti.data.storage import records, shard_names, tfrecords
from parti.engine.experiment import experiments
from parti.engine.input import datasets
from parti.engine.loop import seqio_metrics
from parti.engine.pod_estimates import compile_step
from parti.engine.step import train_state, train_step
from parti.models import base
from parti.stages import files
from parti.tasks import contrastive, text_to_image

pytestmark = pytest.mark.usefixtures("compiled_quickly")

NUM, SIZE, LENGTH = 13, 24, 6


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny_models.write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "v.model")


@pytest.fixture(scope="module")
def source(
    tmp_path_factory: pytest.TempPathFactory, vocabulary: pathlib.Path
) -> datasets.SeqioSource:
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for split in records.SPLITS:
        pairs = [
            records.ImageTextPair(
                f"{i}",
                images.encode_png(rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)),
                "red " * (i % 5),
            )
            for i in range(NUM)
        ]
        path = folder / shard_names.shard_name(split, 0, 1)
        tfrecords.write(path, (pair.to_example() for pair in pairs))
    name = contrastive.add_task(folder, vocabulary, SIZE)
    return datasets.SeqioSource(name, {"inputs": LENGTH, "image": SIZE})


def training(source: datasets.SeqioSource, model: base.Model) -> train_step.Program:
    experiment = experiments.Experiment(
        model=model,
        data_source=source,
        optimizer=optax.sgd(0.1),
        model_dir="unused",
        train_steps=1,
        batch_size=8,
    )
    spec = compile_step.element_spec(experiment, source.task_feature_lengths)
    return train_step.make_program(experiment, spec, jax.devices()[:2])


def initial_state(program: train_step.Program, params: Any) -> train_state.TrainState:
    """Returns a first state, without compiling the model's initialisers."""
    state = train_state.TrainState(np.int32(0), params, program.optimizer.init(params), {})
    return jax.device_put(state, program.shardings)


def validation(source: datasets.SeqioSource, model: base.Model) -> dict[str, np.ndarray]:
    """Returns the whole split as one batch."""
    batch = next(source.open(datasets.VALIDATION, NUM, 0, model))
    return {name: np.asarray(values) for name, values in batch.items()}


def test_the_retrieval_of_a_reranker(
    source: datasets.SeqioSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models.part("reranker").model
    program = training(source, model)
    state = initial_state(program, tiny_models.part("reranker").variables["params"])
    measure = seqio_metrics.TaskMetrics(source, model, program, num_examples=1_000)
    heartbeat: list[int] = []
    read: list[int] = []

    def counted(self: files.Ranges, start: int, num_bytes: int) -> bytes:
        read.append(start)
        return original(self, start, num_bytes)

    original = files.Ranges.read
    with monkeypatch.context() as patch:
        patch.setattr(files.Ranges, "read", counted)
        patch.setattr(datasets.SeqioSource, "task_examples", None)
        found = measure.evaluate(state, lambda: heartbeat.append(1))
    assert len(heartbeat) == 2  # 8 and 5 of 13
    assert len(read) == 16, "the rows of two batches, and nothing else"

    batch = validation(source, model)
    variables = {"params": jax.device_get(state.params)}
    queries = np.asarray(jax.jit(model.text_embeddings)(variables, batch["text_tokens"]))
    candidates = np.asarray(jax.jit(model.image_embeddings)(variables, batch["images"]))
    cosines = queries @ candidates.T
    rank = np.sum(cosines > np.diagonal(cosines)[:, None], axis=1)
    for k in (1, 5, 10):
        # A batch of 13 on one device may round otherwise than two on eight: one rank, if any.
        assert found[f"text_to_image_recall_at_{k}"] == pytest.approx(np.mean(rank < k), abs=0.1)
    assert found["text_to_image_recall_at_10"] > found["text_to_image_recall_at_1"]
    assert seqio_metrics.have_metrics(source)


def test_the_captions_of_a_reranker(source: datasets.SeqioSource) -> None:
    part = tiny_models.part("reranker", num_multimodal_layers=1, num_caption_queries=2)
    program = training(source, part.model)
    state = initial_state(program, part.variables["params"])
    measure = seqio_metrics.TaskMetrics(source, part.model, program, num_examples=1_000)
    found = measure.evaluate(state)
    batch = validation(source, part.model)
    arrays = jax.device_get(part.variables), batch["images"], batch["text_tokens"]
    likelihood = jax.jit(part.model.caption_log_likelihood)(*arrays).total
    num_tokens = np.count_nonzero(batch["text_tokens"])
    perplexity = np.exp(-np.sum(likelihood) / num_tokens)
    assert found["caption_perplexity"] == pytest.approx(perplexity, rel=1e-3)
    captions = np.asarray(jax.jit(part.model.caption)(*arrays[:2]))
    texts = np.pad(batch["text_tokens"], ((0, 0), (0, captions.shape[1] - LENGTH)))
    exact = np.mean((captions == texts).all(axis=1))
    assert found["caption_exact_match"] == pytest.approx(exact, abs=0.1)
    assert {"caption_token_accuracy", "caption_bleu_4"} <= found.keys()


def test_ids_as_texts(source: datasets.SeqioSource) -> None:
    batch = validation(source, tiny_models.part("reranker").model)
    texts = datasets.texts(source, batch["text_tokens"])
    assert texts[:4] == ["", "red", "red red", "red red red"]
    arrays = datasets.ArraySource({}, {})
    assert datasets.texts(arrays, np.array([[7, 1, 0], [3, 0, 0]])) == ["7 1", "3"]


def test_metric_functions_of_a_users_task(tmp_path: pathlib.Path, vocabulary: pathlib.Path) -> None:
    """seqio's older form, functions of targets and scores; of the first ten examples."""
    model = tiny_models.part("generator").model
    for split in records.SPLITS:
        rows = (
            records.TokenizedPair(f"{i}", "red", np.arange(16) + i).to_example() for i in range(NUM)
        )
        tfrecords.write(tmp_path / shard_names.shard_name(split, 0, 1), rows)
    own = text_to_image.add_task(tmp_path, vocabulary, tiny_models.CODEBOOK_SIZE)
    seen: dict[str, np.ndarray] = {}

    def likelihood(targets: list, scores: np.ndarray) -> dict[str, float]:
        seen.update(targets=np.array(targets), scores=scores)
        return {"likelihood": np.mean(scores)}

    task = seqio.get_mixture_or_task(own)
    seqio.TaskRegistry.add(
        f"{own}_scored",
        source=task.source,
        preprocessors=task.preprocessors,
        output_features=task.output_features,
        metric_fns=[likelihood],
    )
    lengths = {"inputs": tiny_models.TEXT_LENGTH, "targets": 16}
    source = datasets.SeqioSource(f"{own}_scored", lengths)
    assert seqio_metrics.have_metrics(source)
    assert not seqio_metrics.have_metrics(datasets.SeqioSource(own, lengths))
    program = training(source, model)
    state = initial_state(program, tiny_models.part("generator").variables["params"])
    measure = seqio_metrics.TaskMetrics(source, model, program, num_examples=10)
    found = measure.evaluate(state)
    batch = {name: values[:10] for name, values in validation(source, model).items()}
    want = np.asarray(jax.jit(model.score_batch)(jax.device_get(state.params), batch))
    np.testing.assert_allclose(seen["scores"], want, rtol=1e-4)
    np.testing.assert_array_equal(seen["targets"], batch["decoder_target_tokens"])
    assert found == {"likelihood": pytest.approx(want.mean(), rel=1e-4)}


def test_no_metrics_no_pass() -> None:
    arrays = {"x": np.zeros(8)}
    assert not seqio_metrics.have_metrics(datasets.ArraySource(arrays, arrays))
