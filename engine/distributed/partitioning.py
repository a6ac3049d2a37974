# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Device meshes, and how logical axes of arrays are divided over mesh axes.

A layout is three settings: MESH_SHAPE and MESH_AXES arrange the devices, LOGICAL_AXIS_RULES divide
arrays over them. `t5x_configs/layouts/` holds the named ones, docs/partitioning.md their meaning.

Rules stand in order of precedence, as in T5X: an array's axis takes the first rule of its name
whose mesh axes no other axis of the array has taken. So one name serves parameters and activations:
with ('batch', 'data'), ('mlp', 'model'), ('embed', 'model'), ('embed', 'data') an activation
[batch, length, embed] is divided as (data, -, model), a kernel [embed, mlp] as (data, model).
"""

import difflib
import math
from collections.abc import Sequence

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

# The names that models give to the axes of parameters and activations.
LOGICAL_AXES = (
    "batch",
    "length",  # positions of a sequence
    "embed",  # the residual stream
    "heads",
    "kv",  # the width of a head
    "mlp",  # the hidden layer of an MLP
    "vocab",
    "layers",  # of a scanned stack
    "stage",  # of a pipeline's activations
    "codebook",
    "channels",  # of a convolution
)

# The rules of an experiment that names none: a batch is divided over `data`; attention heads, the
# hidden layer of the MLP and vocabularies over `model`, where a mesh has one.
LOGICAL_AXIS_RULES: tuple[tuple[str, str | None], ...] = (
    ("batch", "data"),
    ("vocab", "model"),
    ("heads", "model"),
    ("mlp", "model"),
)

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]


def mesh_sizes(
    shape: Sequence[int] | None, axes: Sequence[str], num_devices: int
) -> tuple[int, ...]:
    """Returns the devices along each axis of a mesh.

    Args:
      shape: MESH_SHAPE: a size for each axis, -1 at most once for what the others leave; None is
        all devices along the first axis.
      axes, num_devices: MESH_AXES; devices in all.

    Raises:
      ValueError: the shape has another number of axes, or of devices than there are.
    """
    axes = tuple(axes)
    sizes = list(shape) if shape else [-1] + [1] * (len(axes) - 1)
    if len(set(axes)) != len(axes) or len(sizes) != len(axes):
        raise ValueError(
            f"MESH_SHAPE {tuple(sizes)} needs one size for each of MESH_AXES {axes}, all different"
        )
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise ValueError(
            f"MESH_SHAPE is {tuple(sizes)}; sizes are 1 or more, and one of them may be -1 for the "
            "devices that the others leave"
        )
    if -1 in sizes:
        others = -math.prod(sizes)
        if num_devices % others:
            raise ValueError(
                f"MESH_SHAPE {tuple(sizes)} asks for a multiple of {others} devices, but there are "
                f"{num_devices}; change it, or choose another of t5x_configs/layouts/"
            )
        sizes[sizes.index(-1)] = num_devices // others
    if math.prod(sizes) != num_devices:
        raise ValueError(
            f"MESH_SHAPE {tuple(sizes)} asks for {math.prod(sizes)} devices, but there are "
            f"{num_devices}; choose sizes whose product is {num_devices}"
        )
    return tuple(sizes)


def make_mesh(
    shape: Sequence[int] | None = None,
    axes: Sequence[str] = ("data", "model"),
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Arranges devices, by default all, in a mesh; arguments and errors are those of `mesh_sizes`.

    Devices that differ in the last axis only are the nearest to each other: put the axis with the
    most traffic there.
    """
    devices = list(devices) if devices is not None else jax.devices()
    sizes = mesh_sizes(shape, axes, len(devices))
    # A pod is a torus: an axis of 4 on one of 8 x 8 x 8 chips splits a side.
    arranged = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(arranged, tuple(axes))


def axis_rules(rules: Sequence[Sequence] | None, mesh: Mesh | AbstractMesh) -> Rules:
    """Returns the rules for a mesh: those given, or the default ones as far as the mesh has axes.

    Raises:
      ValueError: a rule names a logical axis that no model has, or a mesh axis that the mesh lacks;
        or no rule uses one of the mesh's axes, so that its devices would all do the same work.
    """
    if rules is None:
        rules = [rule for rule in LOGICAL_AXIS_RULES if rule[1] in mesh.axis_names]
    found = tuple((k, tuple(v) if isinstance(v, (list, tuple)) else v) for k, v in rules)
    for logical, axis in found:
        if logical not in LOGICAL_AXES:
            close = difflib.get_close_matches(str(logical), LOGICAL_AXES, 1)
            hint = (
                f"did you mean {close[0]!r}?" if close else f"there are {', '.join(LOGICAL_AXES)}"
            )
            raise ValueError(f"LOGICAL_AXIS_RULES names {logical!r}, which no model has; {hint}")
        if missing := [name for name in mesh_axes(axis) if name not in mesh.axis_names]:
            raise ValueError(
                f"LOGICAL_AXIS_RULES puts {logical!r} on {missing[0]!r}, but MESH_AXES are "
                f"{mesh.axis_names}"
            )
    for name, size in mesh.shape.items():
        if size > 1 and not any(name in mesh_axes(axis) for _, axis in found):
            raise ValueError(
                f"MESH_SHAPE puts {size} devices on {name!r}, but LOGICAL_AXIS_RULES puts nothing "
                "there, so they would all do the same work; add a rule, or make the size 1"
            )
    return found


def mesh_axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns the mesh axes in an entry of a rule or `PartitionSpec`."""
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)


def spec(names: Sequence[str | None], rules: Rules) -> PartitionSpec:
    """Returns how an array with these logical axis names is divided."""
    return PartitionSpec(*(nn.logical_to_mesh_axes(names, rules) or ()))


def batch_sharding(mesh: Mesh, rules: Rules) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over the mesh axes of 'batch'."""
    return NamedSharding(mesh, spec(("batch",), rules))


def process_rows(sharding: NamedSharding, size: int) -> np.ndarray:
    """Returns the rows [k] of a batch of `size` that devices of this process hold, in order."""
    parts = sharding.addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[part] for part in parts if part is not None]))


def place_rows(array: np.ndarray, size: int, sharding: NamedSharding) -> jax.Array:
    """Returns the batch of `size` rows of which this process has the `process_rows`, [k, ...]."""
    rows = process_rows(sharding, size)

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start, stop, _ = index[0].indices(size)
        first = np.searchsorted(rows, start)
        return array[first : first + stop - start]

    return jax.make_array_from_callback((size, *array.shape[1:]), sharding, part)


def num_shards(mesh: Mesh | AbstractMesh, axis: str | tuple[str, ...] | None) -> int:
    """Returns into how many parts an entry of a `PartitionSpec` divides an array's axis."""
    return math.prod(mesh.shape[name] for name in mesh_axes(axis))


def check_divisible(
    what: str, shape: Sequence[int], partition: PartitionSpec, mesh: Mesh | AbstractMesh
) -> None:
    """Raises ValueError if a dimension of an array does not divide by the devices of its axes."""
    for dimension, axis in zip(shape, tuple(partition)):
        parts = num_shards(mesh, axis)
        if dimension % parts:
            raise ValueError(
                f"{what} of shape {tuple(shape)} is divided as {partition}, but {dimension} does "
                f"not divide by {parts}; change its size, MESH_SHAPE or LOGICAL_AXIS_RULES"
            )
