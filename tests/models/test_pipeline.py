# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The circular pipeline: its schedule, and that it computes what the plain stack computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import Mesh

from parti.models import base
from parti.models.layers import masks, pipeline, transformer
from parti.models.text_to_image import network

BATCH, LENGTH, TEXT = 8, 4, 3
KEEP_NOTHING = jax.checkpoint_policies.nothing_saveable


def stack(num_stages: int = 1, num_microbatches: int = 1, **changes) -> transformer.Stack:
    sizes = {"num_layers": 4, "emb_dim": 8, "num_heads": 2, "head_dim": 4, "mlp_dim": 16}
    sizes |= {"num_stages": num_stages, "pipeline_microbatches": num_microbatches}
    sizes |= {"cross_attention": True, "remat": "full"}
    return transformer.Stack(transformer.StackConfig(**(sizes | changes)))


@pytest.fixture(scope="module")
def inputs() -> dict[str, jax.Array]:
    """Arguments of a decoder: a mask of each of two kinds, texts of different lengths."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, TEXT + 1, BATCH)
    return {
        "x": jnp.asarray(rng.normal(size=(BATCH, LENGTH, 8)), jnp.float32),
        "mask": jnp.stack([masks.causal_mask(LENGTH), np.eye(LENGTH, dtype=bool)[None, None]]),
        "encoded": jnp.asarray(rng.normal(size=(BATCH, TEXT, 8)), jnp.float32),
        "encoded_mask": jnp.asarray(np.arange(TEXT) < lengths[:, None])[:, None, None],
        "mask_index": jnp.array([0, 1, 1, 0]),
    }


@pytest.fixture(scope="module")
def params(inputs):
    init = jax.jit(lambda rng: stack().init(rng, **inputs)["params"])
    return base.split_boxes(init(jax.random.PRNGKey(0)))[0]


# The schedule.


@pytest.mark.parametrize(
    ("num_stages", "num_microbatches", "num_rounds"), [(2, 2, 3), (3, 6, 2), (6, 6, 1)]
)
def test_every_example_passes_all_layers_in_order(num_stages, num_microbatches, num_rounds) -> None:
    """A layer appends its number to x, if x comes with its own context."""

    def append(number: jax.Array, x: jax.Array, context: jax.Array) -> jax.Array:
        name, history = x[:, 0], x[:, 1]
        return jnp.stack([jnp.where(name == context, name, -1), history * 10 + number], axis=1)

    def run(names: jax.Array) -> jax.Array:
        x = jnp.stack([names, jnp.zeros_like(names)], axis=1)
        numbers = jnp.arange(1, 1 + num_stages * num_rounds)
        return pipeline.circular(
            append, numbers, x, names, num_stages, num_microbatches, KEEP_NOTHING
        )

    got = jax.jit(run)(jnp.arange(12))
    np.testing.assert_array_equal(got[:, 0], np.arange(12))
    np.testing.assert_array_equal(got[:, 1], 123456)
    loop = next(e for e in jax.make_jaxpr(run)(jnp.arange(12)).eqns if e.primitive.name == "scan")
    assert loop.params["length"] == num_rounds * num_microbatches + num_stages - 1


def test_backward_pass_keeps_inputs_only() -> None:
    """Of each iteration: what its stages work on, and numbers; no masks of that size."""

    def loss(weights: jax.Array, x: jax.Array) -> jax.Array:
        layer = lambda w, x, context: jnp.tanh(x @ w + context["text"])  # noqa: E731
        context = {"text": x, "mask": x[:, :1] > 0}
        return pipeline.circular(layer, weights, x, context, 2, 4, KEEP_NOTHING).sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(jnp.ones((4, 8, 8)), jnp.ones((8, 8)))
    loop = next(e for e in jaxpr.eqns if e.primitive.name == "scan")
    kept = [v.aval for v in loop.outvars[loop.params["num_carry"] :] if v.aval.ndim > 2]
    assert [(v.shape[1:], v.dtype) for v in kept] == 2 * [((2, 1, 2, 8), jnp.float32)]


# The stack.


@pytest.mark.parametrize(("num_stages", "num_microbatches"), [(2, 4), (4, 4)])
def test_pipeline_equals_plain_stack(inputs, params, num_stages, num_microbatches) -> None:
    def loss(module, params, inputs):
        return jnp.mean(jnp.sin(3 * module.apply({"params": params}, **inputs)))

    def value_and_grads(module):
        floats = {k: v for k, v in inputs.items() if v.dtype == jnp.float32}
        of = lambda p, given: loss(module, p, inputs | given)  # noqa: E731
        return jax.jit(jax.value_and_grad(of, argnums=(0, 1)))(params, floats)

    want, want_grads = value_and_grads(stack())
    got, grads = value_and_grads(stack(num_stages, num_microbatches))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, want_grads)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(want_grads))


def test_parameters_are_those_of_the_plain_stack(inputs) -> None:
    def init(module):
        return jax.eval_shape(lambda: module.init(jax.random.PRNGKey(0), **inputs))

    assert init(stack(2, 4)) == init(stack())


def test_dropout_depends_on_layer_and_example_only(inputs, params) -> None:
    def with_dropout(num_stages, num_microbatches):
        module = stack(num_stages, num_microbatches, dropout_rate=0.5)

        def apply(given, seed):
            rngs = {"dropout": jax.random.PRNGKey(seed)}
            return module.apply({"params": params}, **given, deterministic=False, rngs=rngs)

        return jax.jit(apply)

    two, four = with_dropout(2, 2), with_dropout(4, 4)
    got = two(inputs, 1)
    np.testing.assert_allclose(got, four(inputs, 1), atol=1e-5)
    assert np.all(np.abs(got - two(inputs, 2)).max((1, 2)) > 0.1)
    alike = {k: v[:1].repeat(BATCH, 0) if len(v) == BATCH else v for k, v in inputs.items()}
    rows = np.asarray(two(alike, 1))
    distances = np.abs(rows[:, None] - rows[None]).max((2, 3))
    assert np.min(distances + np.eye(BATCH)) > 0.1, "each example drops out other channels"


# Bad sizes.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_stages": 3, "pipeline_microbatches": 3}, "num_stages is 3; it must divide .* 4 lay"),
        ({"num_stages": 0}, "num_stages is 0"),
        ({"num_stages": 2}, "pipeline_microbatches is 1; it must be a multiple of num_stages 2"),
        ({"num_stages": 2, "pipeline_microbatches": 2, "remat": "none"}, "a remat other than"),
        ({"num_stages": 2, "pipeline_microbatches": 2, "scan_layers": False}, "needs scan_layers"),
    ],
)
def test_impossible_pipelines_are_refused(changes, message) -> None:
    sizes = {"num_encoder_layers": 4, "num_decoder_layers": 4, "remat": "full"}
    with pytest.raises(ValueError, match=message):
        network.TextToImageConfig(**(sizes | changes))


@pytest.mark.parametrize(
    ("num_stages", "num_microbatches", "rows", "message"),
    [
        (2, 6, 8, "a batch of 8 does not divide into pipeline_microbatches 6"),
        (2, 4, 8, "num_stages 2 does not divide over the 4 devices of the mesh axis stage"),
        (4, 8, 8, "a microbatch of 1 .* does not divide over the 2 devices of the mesh axis data"),
    ],
)
def test_misfits_with_batch_and_mesh_are_refused(num_stages, num_microbatches, rows, message):
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("data", "stage"))
    rules = (("stage", "stage"), ("batch", ("data", "stage")), ("batch", "data"))

    def run(x: jax.Array) -> jax.Array:
        add = lambda number, x, context: x + number  # noqa: E731
        layers = jnp.arange(4.0)
        return pipeline.circular(add, layers, x, (), num_stages, num_microbatches, KEEP_NOTHING)

    x = jnp.zeros((rows, 1))
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules), pytest.raises(ValueError, match=message):
        jax.eval_shape(run, x)
