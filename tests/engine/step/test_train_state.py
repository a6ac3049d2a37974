# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The state's sharding, its checkpoint tree, and the table of parameters."""

import functools
import math

import fake_training
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from parti.engine.config import gin_config
from parti.engine.distributed import partitioning
from parti.engine.step import optimizers, train_state

SPEC = {
    "x": jax.ShapeDtypeStruct((8, 4), np.float32),
    "y": jax.ShapeDtypeStruct((8, 8), np.float32),
}
MODEL = fake_training.Regressor()
RULES = (("batch", "data"), ("mlp", "model"), ("embed", "data"))


def make(optimizer: optax.GradientTransformation) -> train_state.TrainState:
    return train_state.create(MODEL, optimizer, jax.random.PRNGKey(0), SPEC)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw(0.1),
        optax.adafactor(0.1, min_dim_size_to_factor=2),
        optimizers.adafactor(0.1),
        optax.amsgrad(0.1),
        optax.inject_hyperparams(optax.adamw)(0.1),
        optimizers.with_ema(optimizers.adamw(lambda t: 0.1), 0.9),
        optax.multi_transform({"a": optax.adam(0.1)}, {"dense": {"kernel": "a", "bias": "a"}}),
    ],
)
def test_sharding_and_round_trip_of_any_optax_state(optimizer) -> None:
    state = make(optimizer)
    specs = train_state.partition(MODEL, state, SPEC, RULES)
    assert specs.params["dense"]["kernel"] == PartitionSpec("data", "model")
    assert specs.mutables["stats"]["steps_seen"] == PartitionSpec()
    # A factored moment and the scales of a rounded one are divided as the axes they keep.
    want = {(4, 8): ("data", "model"), (8,): ("model",), (4,): ("data",)}
    for leaf, spec in zip(jax.tree.leaves(state), jax.tree.leaves(specs, is_leaf=_is_spec)):
        assert tuple(spec) == want.get(leaf.shape, ()), leaf.shape
    back = train_state.from_tree(train_state.to_tree(state), state)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)


def _is_spec(leaf) -> bool:
    return isinstance(leaf, PartitionSpec)


def token_spec(model) -> train_state.ElementSpec:
    """Returns the batches of a text-to-image model at the paper's lengths."""
    return {
        name: jax.ShapeDtypeStruct((8, 128 if "encoder" in name else 1024), dtype)
        for name, dtype in model.feature_types.items()
    }


@pytest.mark.parametrize(("name", "most"), [("parti_3b", 1.09), ("parti_20b", 1.07)])
def test_adafactor_needs_a_byte_for_a_parameter_and_is_divided(name, most) -> None:
    model = gin_config.model_from_config(f"include 't5x_configs/models/{name}.gin'\n")
    spec = token_spec(model)
    optimizer = optimizers.adafactor(0.1)
    init = functools.partial(train_state.create, model, optimizer, element_spec=spec)
    state = jax.eval_shape(init, rng=jax.random.PRNGKey(0))
    num = train_state.num_params(state.params)
    assert _num_bytes(state.opt_state) / num < most
    rules = (("batch", "data"), ("embed", "data"), *partitioning.LOGICAL_AXIS_RULES[1:])
    mesh = jax.sharding.AbstractMesh((2, 4), ("data", "model"))
    specs = train_state.partition(model, state, spec, rules)
    shardings = train_state.shardings(specs, mesh)
    share = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(sharding.shard_shape(x.shape), x.dtype),
        state.opt_state,
        shardings.opt_state,
    )
    assert _num_bytes(share) / num < most / 8 * 1.2, (
        "an eighth each, but for factors that lost an axis"
    )


def test_muon_keeps_a_moment_of_a_hidden_matrix_divided_as_it_is() -> None:
    model = gin_config.model_from_config("include 't5x_configs/models/parti_3b.gin'\n")
    spec = token_spec(model)
    init = functools.partial(train_state.create, model, optimizers.muon(0.1), element_spec=spec)
    state = jax.eval_shape(init, rng=jax.random.PRNGKey(0))
    specs = train_state.partition(model, state, spec, partitioning.LOGICAL_AXIS_RULES)
    tree = train_state.to_tree(state)["state"]["param_states"]["1"]["inner_states"]
    divided = train_state.to_tree(specs)["state"]["param_states"]["1"]["inner_states"]

    def leaf(tree, *path):
        return functools.reduce(lambda branch, name: branch[name], path, tree)

    stack = ("decoder", "stack", "layers")
    query = (*stack, "self_attention", "query", "kernel")
    moment = ("muon", "inner_state", "0", "mu", *query)
    assert leaf(tree, *moment).shape == (36, 2048, 32, 64)
    assert leaf(divided, *moment) == leaf(specs.params, *query)
    assert leaf(divided, *moment) == PartitionSpec(None, None, "model", None)
    # Adam's has two moments of what is no hidden matrix, and none of the rest.
    hidden, rest = (
        sum(math.prod(x.shape) for x in jax.tree.leaves(tree[part]["inner_state"]) if x.ndim > 1)
        for part in ("muon", "adam")
    )
    vectors = sum(x.size for x in jax.tree.leaves(state.params) if x.ndim == 1)
    assert hidden == 12 * 12 * 2048**2 + 36 * 16 * 2048**2
    assert hidden + rest // 2 + vectors == train_state.num_params(state.params)


def _num_bytes(tree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def test_checkpoint_tree_is_t5x() -> None:
    tree = train_state.to_tree(make(optax.adam(0.1)))
    assert set(tree) == {"target", "state", "flax_mutables"}
    assert set(tree["state"]) == {"step", "param_states"}
    assert set(tree["state"]["param_states"]["0"]) == {"count", "mu", "nu"}
    plain = train_state.create(
        fake_training.PlainRegressor(), optax.adam(0.1), jax.random.PRNGKey(0), SPEC
    )
    assert "flax_mutables" not in train_state.to_tree(plain)


def test_indivisible_parameter_is_named() -> None:
    mesh = partitioning.make_mesh((4, 2))
    state = make(optax.sgd(0.1))
    specs = train_state.partition(MODEL, state, SPEC, RULES)
    train_state.check_divisible(state, specs, mesh)
    odd = fake_training.Regressor(outputs=7)
    wide = {**SPEC, "y": jax.ShapeDtypeStruct((8, 7), np.float32)}
    state = train_state.create(odd, optax.sgd(0.1), jax.random.PRNGKey(0), wide)
    specs = train_state.partition(odd, state, wide, RULES)
    with pytest.raises(ValueError, match="parameter dense/bias of shape .* 7 does not divide by 2"):
        train_state.check_divisible(state, specs, mesh)


def test_table() -> None:
    state = make(optax.sgd(0.1))
    specs = train_state.partition(MODEL, state, SPEC, RULES)
    lines = train_state.table(MODEL, state, specs, SPEC).splitlines()
    assert lines[2].split() == ["dense/kernel", "4x8", "float32", "embed", "mlp", "data", "model"]
    assert lines[-1] == "total: 40 parameters"
    assert train_state.num_params({"a": jnp.zeros((2, 3)), "b": jnp.zeros(())}) == 7
