# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The state of a training: step, parameters, optimizer state, mutable collections; its sharding."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import serialization, traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from parti.engine.distributed import partitioning
from parti.models import base

_AXES = "_axes"

Key = tuple[str, ...]
ElementSpec = Mapping[str, jax.ShapeDtypeStruct]  # of each feature of a global batch


@flax.struct.dataclass
class TrainState:
    """Everything that a train step changes.

    `step` (int32 scalar) counts finished steps; `mutables` is {collection: tree}, empty for most
    models. The same structure also holds shapes, partition specs or shardings.
    """

    step: Any
    params: Any
    opt_state: Any
    mutables: Any


def create(
    model: Any,
    optimizer: optax.GradientTransformation,
    rng: jax.Array,
    element_spec: ElementSpec,
    given: Mapping[str, Any] | None = None,
) -> TrainState:
    """Returns the state at step 0; jit it, or trace it with `jax.eval_shape`.

    `given`, {collection: part of its tree}, replaces the
    model's own start; see `warm_start.WarmStart`.
    """
    variables = _initial_variables(model, rng, element_spec)
    plain = {name: tree for name, tree in variables.items() if not name.endswith(_AXES)}
    flat = traverse_util.flatten_dict(plain, keep_empty_nodes=True)
    flat |= traverse_util.flatten_dict(dict(given or {}))
    mutables = traverse_util.unflatten_dict(flat)
    params = mutables.pop("params")
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), mutables)


def partition(
    model: Any, state: TrainState, element_spec: ElementSpec, rules: partitioning.Rules
) -> TrainState:
    """Returns the `PartitionSpec` of each leaf of a state (its shapes are enough)."""

    def specs(axes: Mapping[Key, Sequence[str | None]]) -> dict[str, Any]:
        flat = {key: partitioning.spec(names, rules) for key, names in axes.items()}
        return traverse_util.unflatten_dict(flat)

    axes = _logical_axes(model, element_spec)
    params = specs(axes["params"])
    mutables = {name: specs(axes[name]) for name in state.mutables}
    opt_state = like_params(state.opt_state, state.params, params)
    return TrainState(PartitionSpec(), params, opt_state, mutables)


def shardings(specs: TrainState, mesh: Mesh) -> TrainState:
    """Returns the sharding of each leaf."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def placed(tree: Any, shardings: Any) -> Any:
    """Returns the shapes of a tree with their shardings: a tree like it, or one for all leaves."""
    if isinstance(shardings, Sharding):
        everywhere = shardings
        shardings = jax.tree.map(lambda _: everywhere, tree)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )


def check_divisible(state: TrainState, specs: TrainState, mesh: Mesh) -> None:
    """Raises ValueError for the first parameter that cannot be divided evenly."""
    partitions = traverse_util.flatten_dict(specs.params, sep="/")
    for name, leaf in sorted(traverse_util.flatten_dict(state.params, sep="/").items()):
        partitioning.check_divisible(f"parameter {name}", leaf.shape, partitions[name], mesh)


def like_params(tree: Any, params: Any, specs: Any) -> Any:
    """Gives each leaf of an optimizer's state the partition of the parameter that it belongs to.

    A leaf belongs to a parameter if its path ends with the parameter's path, and its shape is the
    parameter's, or that without one axis (a factored second moment, a scale for each slice): such a
    leaf is divided as the axes that are left. So any optax state works, moments and averages alike.
    Other leaves, such as counters, are not divided.

    `specs` is a tree like `params` of a `PartitionSpec` each; so is the result, like `tree`.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    leaves = jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))
    known = {
        tuple(_names(path)): (spec, leaf.shape)
        for (path, leaf), spec in zip(flat, leaves, strict=True)
    }

    def find(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
        names = _names(path)
        endings = (tuple(names[start:]) for start in range(len(names)))
        found = next((known[ending] for ending in endings if ending in known), None)
        return _reduced(*found, leaf.shape) if found else PartitionSpec()

    return jax.tree_util.tree_map_with_path(find, tree)


def _reduced(spec: PartitionSpec, shape: Sequence[int], reduced: Sequence[int]) -> PartitionSpec:
    """Returns the part of a partition that fits a shape without one axis, or with all of them.

    If several axes may be missing, the last of them is: the first counts the layers of a stack.
    """
    if tuple(reduced) == tuple(shape):
        return spec
    axes = (*spec, *[None] * (len(shape) - len(spec)))
    for i in reversed(range(len(shape))):
        if (*shape[:i], *shape[i + 1 :]) == tuple(reduced):
            return PartitionSpec(*axes[:i], *axes[i + 1 :])
    return PartitionSpec()


def to_tree(state: TrainState) -> dict[str, Any]:
    """Returns T5X's checkpoint tree of a state (without empty dicts, which Orbax drops)."""
    opt_state = serialization.to_state_dict(state.opt_state)
    opt_state = traverse_util.unflatten_dict(traverse_util.flatten_dict(opt_state))
    tree = {"target": state.params, "state": {"step": state.step, "param_states": opt_state}}
    return {**tree, "flax_mutables": state.mutables} if state.mutables else tree


def from_tree(tree: Mapping[str, Any], like: TrainState) -> TrainState:
    """Returns the state of a checkpoint tree; `like` has its structure."""
    flat = traverse_util.flatten_dict(
        serialization.to_state_dict(like.opt_state), keep_empty_nodes=True
    )
    got = traverse_util.flatten_dict(tree["state"].get("param_states", {}))
    opt_state = traverse_util.unflatten_dict({k: got.get(k, v) for k, v in flat.items()})
    return TrainState(
        step=tree["state"]["step"],
        params=tree["target"],
        opt_state=serialization.from_state_dict(like.opt_state, opt_state),
        mutables=tree.get("flax_mutables", {}),
    )


def num_params(params: Any) -> int:
    """Returns the number of parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def table(model: Any, state: TrainState, specs: TrainState, element_spec: ElementSpec) -> str:
    """Returns a line per parameter (name, shape, dtype, logical axes, sharding) and the total."""
    axes = _logical_axes(model, element_spec)["params"]
    partitions = traverse_util.flatten_dict(specs.params)
    rows = [("parameter", "shape", "dtype", "axes", "sharding")]
    for key, leaf in sorted(traverse_util.flatten_dict(state.params).items()):
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        names = " ".join(str(name or "-") for name in axes[key])
        partition_text = " ".join(str(axis or "-") for axis in partitions[key])
        rows.append(("/".join(key), shape, str(leaf.dtype), names, partition_text))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]
    lines.append(f"total: {num_params(state.params):,} parameters")
    return "\n".join(lines)


def _initial_variables(model: Any, rng: jax.Array, element_spec: ElementSpec) -> dict[str, Any]:
    shapes = {name: spec.shape for name, spec in element_spec.items()}
    types = {name: spec.dtype for name, spec in element_spec.items()}
    return model.get_initial_variables(rng, shapes, types)


def _logical_axes(
    model: Any, element_spec: ElementSpec
) -> dict[str, dict[Key, tuple[str | None, ...]]]:
    """Returns {collection: {path: axis names}} of a model's variables."""
    variables = jax.eval_shape(
        lambda: _initial_variables(model, jax.random.PRNGKey(0), element_spec)
    )
    return base.logical_axes(variables)


def _names(path: tuple[Any, ...]) -> list[str]:
    return jax.tree_util.keystr(path, simple=True, separator="/").split("/")
