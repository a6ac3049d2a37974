# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A circular pipeline as one vectorised program: all stages at once, activations shifted between.

Of S stages, stage s holds the layers s, S + s, 2S + s, ...: R = layers / S of them. A microbatch
enters stage 0, passes all stages, and goes round R times. In each iteration every stage runs one
layer, `jax.vmap` over an axis `stage`, and then activations shift to the next stage. With that axis
on a mesh axis each device runs one stage, and a shift is a collective permute.

M microbatches, a multiple of S, go round in groups of S, each group right behind the one before:
R * M + S - 1 iterations, of which a device idles S - 1, the bubble. Layer and microbatch of each
stage for S = 3, R = 2 and M = 3 (a, b, c), a dot where it idles:

    iteration   0   1   2   3   4   5   6   7
    stage 0     0a  0b  0c  3a  3b  3c  .   .
    stage 1     .   1a  1b  1c  4a  4b  4c  .
    stage 2     .   .   2a  2b  2c  5a  5b  5c

Two rings turn against each other. The first moves activations to the next stage, and from the last
to the first. The second holds a microbatch for each stage: those that wait for stage 0 move towards
it, and what leaves the last stage after its last round takes the slots that become free.

Data parallel replicas of a pipeline are a second vectorised axis, with a copy of the weights each:
their gradients add up once, after the loop, and not in each iteration.

Source: Parti (arXiv 2206.10789) section 3; GSPMD (arXiv 2105.04663) section 3.3.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

Array = jax.Array
PyTree = Any
Rules = Sequence[tuple[str, Any]]

# (one layer's entries of `layers`, x [rows, ...], context [rows, ...]) -> [rows, ...]
ApplyLayer = Callable[[PyTree, Array, PyTree], Array]


def check(num_layers: int, num_stages: int, num_microbatches: int) -> None:
    """Raises ValueError, which says what number to change, unless a stack can be a pipeline."""
    if num_stages < 1 or num_layers % num_stages:
        raise ValueError(
            f"num_stages is {num_stages}; it must divide the stack's {num_layers} layers"
        )
    if num_microbatches < 1 or num_microbatches % num_stages:
        raise ValueError(
            f"pipeline_microbatches is {num_microbatches}; it must be a multiple of num_stages "
            f"{num_stages}, because microbatches go round in groups of one for each stage"
        )


def circular(
    apply_layer: ApplyLayer,
    layers: PyTree,
    x: Array,
    context: PyTree,
    num_stages: int,
    num_microbatches: int,
    policy: Callable[..., bool],
) -> Array:
    """Runs all layers on a batch.

    Args:
      apply_layer: one layer on some rows.
      layers: tree of [layers, ...], such as parameters; layer l is in stage l mod `num_stages`.
      x: [batch, ...], as the result.
      context: tree of [batch, ...], what each layer needs besides x.
      num_stages: S.
      num_microbatches: M, of batch / M rows each.
      policy: what the backward pass keeps of an iteration; see `jax.checkpoint`. An iteration's
        weights are a copy, so it should not keep everything.

    Raises:
      ValueError: the batch does not divide into microbatches, or stages or rows do not divide over
        the devices.
    """
    num_replicas = check_devices(len(x), num_stages, num_microbatches)
    layers = jax.tree.map(lambda leaf: _by_stage(leaf, num_stages, num_replicas), layers)
    num_rounds = len(jax.tree.leaves(layers)[0])
    of_layer = functools.partial(_run_stages, apply_layer)
    run = jax.checkpoint(of_layer, policy=policy, prevent_cse=False)

    def iteration(rings: _Rings, t: Array) -> tuple[_Rings, None]:
        (x, context), rings = rings.turned(t, num_rounds)
        x = _constrained(run(t, layers, x, context), "stage", "batch")
        return rings._replace(work=(x, context)), None

    sizes = (num_replicas, -1, num_stages, num_microbatches // num_stages)
    groups = jax.tree.map(lambda leaf: _split(leaf, sizes), (x, context))
    nothing = jax.tree.map(lambda group: jnp.zeros_like(group[0]), groups)
    num_iterations = num_rounds * num_microbatches + num_stages - 1
    rings = _Rings(groups, nothing, nothing)
    rings, _ = jax.lax.scan(iteration, rings, jnp.arange(num_iterations))
    _, rings = rings.turned(jnp.asarray(num_iterations), num_rounds)
    return _join(rings.groups[0])


def _run_stages(
    apply_layer: ApplyLayer, t: Array, layers: PyTree, x: Array, context: PyTree
) -> Array:
    """Runs one layer in each stage, for all replicas, in iteration t.

    `layers` is a tree of [rounds, stage, replica, ...]; x, `context` and the result are
    [stage, replica, rows, ...].
    """
    num_rounds, num_stages = jax.tree.leaves(layers)[0].shape[:2]
    # Stage s does at t what stage 0 does at t - s, a layer further on.
    rounds = (t - jnp.arange(num_stages)) // num_stages % num_rounds
    stage, batch = _mesh_axes("stage") or None, _mesh_axes("batch", in_stage=True) or None
    take = jax.vmap(_get, in_axes=(1, 0), spmd_axis_name=stage)
    layers = jax.tree.map(lambda leaf: take(leaf, rounds), layers)
    run = jax.vmap(jax.vmap(apply_layer, spmd_axis_name=batch), spmd_axis_name=stage)
    with nn.logical_axis_rules(_rules_without("stage", "batch")):
        return run(layers, x, context)


class _Rings(NamedTuple):
    """The state between two iterations; each a tree of (x, context)."""

    # [groups, stage, replica, rows, ...], before their first or after their last round
    groups: PyTree
    work: PyTree  # [stage, replica, rows, ...], what each stage made in the iteration before
    waiting: PyTree  # the same, the group that is being taken in, or given out

    def turned(self, t: Array, num_rounds: int) -> tuple[PyTree, "_Rings"]:
        """Returns what each stage works on in iteration t, and both rings turned by one stage."""
        num_stages = len(jax.tree.leaves(self.work)[0])
        group, at = t // (num_rounds * num_stages), t % (num_rounds * num_stages)
        waiting = _where(at == 0, _get_all(self.groups, group), self.waiting)
        taken_in = (jnp.arange(num_stages) == 0) & (at < num_stages)
        inputs = _where(taken_in, waiting, _shift(self.work, 1))
        given_out = jnp.arange(num_stages) == num_stages - 1
        waiting = _where(given_out, self.work, _shift(waiting, -1))
        # The last of the group before has just been given out.
        before, whole = jnp.maximum(group - 1, 0), (group > 0) & (at == num_stages - 1)
        kept = _where(whole, waiting, _get_all(self.groups, before))
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=before, axis=0)
        return inputs, _Rings(jax.tree.map(put, self.groups, kept), self.work, waiting)


def _by_stage(leaf: Array, num_stages: int, num_replicas: int) -> Array:
    """[layers, ...] -> [rounds, stage, replica, ...], the same for each replica."""
    leaf = leaf.reshape(-1, num_stages, 1, *leaf.shape[1:])
    leaf = jnp.broadcast_to(leaf, (*leaf.shape[:2], num_replicas, *leaf.shape[3:]))
    return _constrained(leaf, None, "stage", "batch")


def _split(leaf: Array, sizes: tuple[int, int, int, int]) -> Array:
    """[batch, ...] -> [groups, stage, replica, rows, ...]; sizes: (replica, rows, stage, groups).

    A batch is divided over replicas and then stages: in this order most of it stays where it is.
    """
    leaf = jnp.moveaxis(leaf.reshape(*sizes, *leaf.shape[1:]), (3, 2), (0, 1))
    return _constrained(leaf, None, "stage", "batch")


def _join(groups: Array) -> Array:
    """[groups, stage, replica, rows, ...] -> [batch, ...], the inverse of `_split`."""
    rows = jnp.moveaxis(groups, (0, 1), (3, 2))
    return _constrained(rows.reshape(-1, *groups.shape[4:]), "batch")


def _get(leaf: Array, index: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False)


def _get_all(tree: PyTree, index: Array) -> PyTree:
    return jax.tree.map(lambda leaf: _get(leaf, index), tree)


def _shift(tree: PyTree, by: int) -> PyTree:
    """Moves [stage, ...] to stage + by, around the end."""
    return jax.tree.map(lambda leaf: jnp.roll(leaf, by, axis=0), tree)


def _where(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """Chooses by a scalar for all, or by [stage] for each stage."""

    # Of each iteration the backward pass keeps the condition, and not its broadcast.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def choose(condition: Array, a: Array, b: Array) -> Array:
        return jnp.where(jnp.expand_dims(condition, range(condition.ndim, a.ndim)), a, b)

    return jax.tree.map(lambda a, b: choose(condition, a, b), yes, no)


def _constrained(x: Array, *names: str | None) -> Array:
    """Puts the first axes where the rules put these names, the others where the compiler likes."""
    free = [PartitionSpec.UNCONSTRAINED] * (x.ndim - len(names))
    return nn.with_logical_constraint(x, (*names, *free))


def _mesh_axes(name: str, in_stage: bool = False) -> tuple[str, ...]:
    """Returns the mesh axes of an axis of this name, alone or together with an axis `stage`."""
    rules = _rules_without("stage") if in_stage else nn.get_logical_axis_rules()
    return _axes(nn.logical_to_mesh_axes((name,), rules)[0])


def _rules_without(*names: str) -> Rules:
    """Returns the rules for arrays that also have axes of these names."""
    rules = nn.get_logical_axis_rules()
    taken = {axis for entry in nn.logical_to_mesh_axes(names, rules) for axis in _axes(entry)}
    return [(name, entry) for name, entry in rules if not taken & set(_axes(entry))]


def _axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)


def check_devices(batch: int, num_stages: int, num_microbatches: int) -> int:
    """Returns the replicas of the pipeline that the devices of the mesh make room for.

    Raises:
      ValueError: batch, stages or microbatches do not divide; names what to change.
    """
    if batch % num_microbatches:
        raise ValueError(
            f"a batch of {batch} does not divide into pipeline_microbatches {num_microbatches}; "
            "change one of them"
        )
    sizes = jax.sharding.get_abstract_mesh().shape
    axes = _mesh_axes("stage")
    num_devices = math.prod(sizes.get(axis, 1) for axis in axes)
    if num_stages % num_devices:
        raise ValueError(
            f"num_stages {num_stages} does not divide over the {num_devices} devices of the mesh "
            f"axis {'/'.join(axes)}; change it or MESH_SHAPE"
        )
    rows, axes = batch // num_microbatches, _mesh_axes("batch", in_stage=True)
    num_replicas = math.prod(sizes.get(axis, 1) for axis in axes)
    if rows % num_replicas:
        raise ValueError(
            f"a microbatch of {rows} (a batch of {batch} / pipeline_microbatches "
            f"{num_microbatches}) does not divide over the {num_replicas} devices of the mesh axis "
            f"{'/'.join(axes)}; change one of them or MESH_SHAPE"
        )
    return num_replicas
