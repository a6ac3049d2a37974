# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np

from parti.models import losses


def numpy_log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_cross_entropy_equals_numpy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 5)).astype(np.float32)
    targets = rng.integers(0, 5, (2, 3))
    weights = np.array([[1, 1, 0], [0.5, 0, 1]], np.float32)
    got = losses.cross_entropy(logits, targets, weights, z_loss=0.1)
    log_probs = numpy_log_softmax(logits)
    nats = -np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
    log_z = np.log(np.exp(logits).sum(-1))
    np.testing.assert_allclose(got.cross_entropy, (nats * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(got.z_loss, (0.1 * log_z**2 * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(got.weight, 3.5)
    correct = (logits.argmax(-1) == targets) * weights
    np.testing.assert_allclose(got.num_correct, correct.sum())
    np.testing.assert_allclose(got.mean, (got.cross_entropy + got.z_loss) / 3.5)
    np.testing.assert_allclose(losses.token_log_probs(logits, targets), -nats, rtol=1e-4)


def test_weightless_tokens_get_no_gradient():
    targets = jnp.array([[1, 2]])
    weights = jnp.array([[1.0, 0.0]])
    gradient = jax.grad(lambda x: losses.cross_entropy(x, targets, weights, 0.1).mean)(
        jnp.ones((1, 2, 4))
    )
    assert np.all(gradient[0, 1] == 0)
    assert np.all(gradient[0, 0] != 0)


def test_no_weight_at_all_is_zero_not_nan():
    assert (
        losses.cross_entropy(jnp.ones((1, 2, 4)), jnp.zeros((1, 2), int), jnp.zeros((1, 2))).mean
        == 0
    )


def test_contrastive_loss_equals_numpy():
    rng = np.random.default_rng(1)
    image, text = rng.normal(size=(2, 4, 8))
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    got = losses.contrastive_loss(jnp.float32(image), jnp.float32(text), 5.0)
    logits = 5.0 * image @ text.T
    rows, columns = np.diag(numpy_log_softmax(logits)), np.diag(numpy_log_softmax(logits.T))
    np.testing.assert_allclose(got.loss, -(rows.mean() + columns.mean()) / 2, rtol=1e-5)
    np.testing.assert_allclose(
        got.image_to_text_accuracy, (logits.argmax(1) == np.arange(4)).mean()
    )
    np.testing.assert_allclose(
        got.text_to_image_accuracy, (logits.argmax(0) == np.arange(4)).mean()
    )


def test_contrastive_loss_of_true_pairs_goes_to_zero():
    pairs = jnp.eye(4)
    assert losses.contrastive_loss(pairs, pairs, 100.0).loss < 1e-6
    np.testing.assert_allclose(
        losses.contrastive_loss(pairs, pairs, 0.0).loss, np.log(4), rtol=1e-6
    )
