# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The text encoder with a linear layer on top: its arithmetic, learning, and sharding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from quick_jit import once

from parti.models.layers import text_encoder
from parti.models.text_encoder import classifier_model, network
from parti.models.text_to_image import model as text_to_image
from parti.models.text_to_image import network as text_to_image_network

BATCH, LENGTH, VOCAB = 8, 6, 40
TINY = network.TextEncoderConfig(
    text_vocab_size=VOCAB,
    text_length=LENGTH,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    dropout_rate=0.0,
    dtype="float32",
    scan_layers=False,
)


@pytest.fixture(scope="module")
def model() -> classifier_model.TextClassifierModel:
    return classifier_model.TextClassifierModel(TINY, num_classes=3)


@pytest.fixture(scope="module")
def batch() -> dict[str, jax.Array]:
    """Returns 8 texts of 2 to 5 tokens; the class is none of the tokens' own."""
    rng = np.random.default_rng(0)
    texts = np.zeros((BATCH, LENGTH), np.int32)
    for i in range(BATCH):
        texts[i, : 1 + i % 4] = rng.integers(4, VOCAB, 1 + i % 4)
        texts[i, 1 + i % 4] = 1
    labels = (np.arange(BATCH)[:, None] * 2 % 3).astype(np.int32)
    return {"text_tokens": jnp.asarray(texts), "labels": jnp.asarray(labels)}


@pytest.fixture(scope="module")
def params(model, batch) -> dict:
    shapes = {name: value.shape for name, value in batch.items()}
    initial = functools.partial(model.get_initial_variables, input_shapes=shapes)
    return once(lambda rng: initial(rng)["params"])(jax.random.PRNGKey(0))


def test_the_classes_are_of_the_mean_of_the_states(model, batch, params) -> None:
    tokens = batch["text_tokens"]
    encoder = text_encoder.TextEncoder(VOCAB, LENGTH, TINY.stack)
    states = np.asarray(once(encoder.apply)({"params": params["encoder"]}, tokens))
    means = [row[: 2 + i % 4].mean(0) for i, row in enumerate(states)]
    want = np.stack(means) @ np.asarray(params["classes"]["kernel"])
    logits = np.asarray(once(model.logits)(params, tokens))
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-5)

    log_probs = want - np.log(np.exp(want).sum(-1, keepdims=True))
    chosen = log_probs[np.arange(BATCH), np.asarray(batch["labels"])[:, 0]]
    loss, metrics = once(model.eval_fn)(params, batch)
    assert float(loss) == pytest.approx(-chosen.mean(), rel=1e-4)
    assert metrics["loss"].compute() == pytest.approx(-chosen.mean(), rel=1e-4)
    classes = once(model.predict_batch)(params, batch)
    np.testing.assert_array_equal(classes, want.argmax(-1))
    right = np.mean(want.argmax(-1) == np.asarray(batch["labels"])[:, 0])
    assert metrics["accuracy"].compute() == pytest.approx(right)
    np.testing.assert_allclose(once(model.score_batch)(params, batch), chosen, rtol=1e-4)


def test_padding_makes_no_difference(model, batch, params) -> None:
    long = once(model.logits)(params, batch["text_tokens"][:1])
    short = once(model.logits)(params, batch["text_tokens"][:1, :2])
    np.testing.assert_allclose(long, short, rtol=1e-4, atol=1e-6)


def test_the_encoder_is_the_generators(params) -> None:
    sizes = {f.name: getattr(TINY, f.name) for f in dataclasses.fields(TINY)}
    shared = {f.name for f in dataclasses.fields(text_to_image_network.TextToImageConfig)}
    config = text_to_image_network.TextToImageConfig(
        codebook_size=8, grid_size=2, **{k: v for k, v in sizes.items() if k in shared}
    )
    generator = text_to_image.TextToImageModel(config)
    shapes = {name: (1, 4) for name in generator.feature_types}
    theirs = jax.eval_shape(
        lambda: generator.get_initial_variables(jax.random.PRNGKey(0), shapes)["params"]["encoder"]
    )
    same = jax.tree.map(lambda a, b: a.shape == b.shape, params["encoder"], theirs)
    assert all(jax.tree.leaves(same))


def test_it_learns_a_batch_by_heart(model, batch, params) -> None:
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        (loss, _), gradients = jax.value_and_grad(model.loss_fn, has_aux=True)(params, batch, None)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    trained = params
    for _ in range(60):
        trained, state, loss = step(trained, state)
        losses.append(float(loss))
    assert losses[0] > 0.8 and losses[-1] < 0.05
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), params, trained)
    assert moved["encoder"]["token_embedding"]["embedding"] > 0.01
    assert (once(model.predict_batch)(trained, batch) == batch["labels"][:, 0]).all()


def test_dropout_changes_the_loss_and_the_rng_repeats_it(batch, params) -> None:
    dropping = classifier_model.TextClassifierModel(dataclasses.replace(TINY, dropout_rate=0.5), 3)
    loss = jax.jit(lambda rng: dropping.loss_fn(params, batch, rng)[0])
    first, again, other = (float(loss(jax.random.PRNGKey(i))) for i in (1, 1, 2))
    assert first == again != other


def test_eight_devices_agree_with_one(model, batch, params) -> None:
    def value_and_gradient(params, batch):
        return jax.value_and_grad(lambda p: model.loss_fn(p, batch, None)[0])(params)

    one = jax.jit(value_and_gradient)(params, batch)
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    placed = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    whole = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    eight = jax.jit(value_and_gradient)(whole, placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, eight)


def test_what_is_no_class_or_token_is_refused(model, batch) -> None:
    wrong = {name: np.asarray(value) for name, value in batch.items()}
    with pytest.raises(ValueError, match=r"labels\[0, 0\] is 3"):
        model.check_batch(wrong | {"labels": np.full((BATCH, 1), 3)})
    with pytest.raises(ValueError, match="this model takes"):
        model.logits({}, jnp.zeros((1, LENGTH + 1), jnp.int32))
    with pytest.raises(ValueError, match="num_classes is 1"):
        classifier_model.TextClassifierModel(TINY, 1)
