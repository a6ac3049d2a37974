# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The state's sharding, its checkpoint tree, and the table of parameters."""

import fake_training
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from parti.engine import mesh as meshes
from parti.engine import optimizers
from parti.engine import train_state as train_states

SPEC = {
    "x": jax.ShapeDtypeStruct((8, 4), np.float32),
    "y": jax.ShapeDtypeStruct((8, 8), np.float32),
}
MODEL = fake_training.Regressor()
RULES = (("batch", "data"), ("mlp", "model"), ("embed", "data"))


def make(optimizer: optax.GradientTransformation) -> train_states.TrainState:
    return train_states.create(MODEL, optimizer, jax.random.PRNGKey(0), SPEC)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw(0.1),
        optax.adafactor(0.1, min_dim_size_to_factor=2),
        optimizers.adafactor(0.1, min_dim_size_to_factor=2),
        optax.amsgrad(0.1),
        optax.inject_hyperparams(optax.adamw)(0.1),
        optimizers.with_ema(optimizers.adamw(lambda t: 0.1), 0.9),
        optax.multi_transform({"a": optax.adam(0.1)}, {"dense": {"kernel": "a", "bias": "a"}}),
    ],
)
def test_sharding_and_round_trip_of_any_optax_state(optimizer) -> None:
    state = make(optimizer)
    specs = train_states.partition(MODEL, state, SPEC, RULES)
    assert specs.params["dense"]["kernel"] == PartitionSpec("data", "model")
    assert specs.mutables["stats"]["steps_seen"] == PartitionSpec()
    for leaf, spec in zip(jax.tree.leaves(state), jax.tree.leaves(specs, is_leaf=_is_spec)):
        want = {(4, 8): ("data", "model"), (8,): ("model",)}.get(leaf.shape, ())
        # A factored moment has a parameter's shape only by chance.
        assert tuple(spec) in (want, ())
    moments = [s for s in jax.tree.leaves(specs.opt_state, is_leaf=_is_spec) if len(s) == 2]
    if "adafactor" not in str(type(state.opt_state)) and jax.tree.leaves(state.opt_state):
        big = [x for x in jax.tree.leaves(state.opt_state) if x.shape == (4, 8)]
        assert len(moments) == len(big)
    back = train_states.from_tree(train_states.to_tree(state), state)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)


def _is_spec(leaf) -> bool:
    return isinstance(leaf, PartitionSpec)


def test_checkpoint_tree_is_t5x() -> None:
    tree = train_states.to_tree(make(optax.adam(0.1)))
    assert set(tree) == {"target", "state", "flax_mutables"}
    assert set(tree["state"]) == {"step", "param_states"}
    assert set(tree["state"]["param_states"]["0"]) == {"count", "mu", "nu"}
    plain = train_states.create(
        fake_training.PlainRegressor(), optax.adam(0.1), jax.random.PRNGKey(0), SPEC
    )
    assert "flax_mutables" not in train_states.to_tree(plain)


def test_indivisible_parameter_is_named() -> None:
    mesh = meshes.make_mesh((4, 2))
    state = make(optax.sgd(0.1))
    specs = train_states.partition(MODEL, state, SPEC, RULES)
    train_states.check_divisible(state, specs, mesh)
    odd = fake_training.Regressor(outputs=7)
    wide = {**SPEC, "y": jax.ShapeDtypeStruct((8, 7), np.float32)}
    state = train_states.create(odd, optax.sgd(0.1), jax.random.PRNGKey(0), wide)
    specs = train_states.partition(odd, state, wide, RULES)
    with pytest.raises(ValueError, match="parameter dense/bias of shape .* 7 does not divide by 2"):
        train_states.check_divisible(state, specs, mesh)


def test_table() -> None:
    state = make(optax.sgd(0.1))
    specs = train_states.partition(MODEL, state, SPEC, RULES)
    lines = train_states.table(MODEL, state, specs, SPEC).splitlines()
    assert lines[2].split() == ["dense/kernel", "4x8", "float32", "embed", "mlp", "data", "model"]
    assert lines[-1] == "total: 40 parameters"
    assert train_states.num_params({"a": jnp.zeros((2, 3)), "b": jnp.zeros(())}) == 7
