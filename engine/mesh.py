# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Device meshes, and the one table that says which logical axis lies on which mesh axis."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Logical axis -> mesh axis (None: not divided). A batch is divided over `data`; attention heads,
# the hidden layer of the MLP and vocabularies over `model`.
LOGICAL_AXIS_RULES: tuple[tuple[str, str | None], ...] = (
    ("batch", "data"),
    ("vocab", "model"),
    ("heads", "model"),
    ("mlp", "model"),
    ("embed", None),
    ("kv", None),
    ("length", None),
    ("layers", None),
    ("codebook", None),
    ("channels", None),
)

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]


def make_mesh(
    shape: Sequence[int] | None = None,
    axes: Sequence[str] = ("data", "model"),
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Arranges devices in a mesh.

    Args:
      shape: devices along each axis; by default all of them along the first.
      axes: names of the axes.
      devices: the devices; by default all of them.

    Raises:
      ValueError: the shape has another number of axes, or of devices than there are.
    """
    devices = list(devices) if devices is not None else jax.devices()
    axes = tuple(axes)
    sizes = tuple(shape) if shape else (len(devices),) + (1,) * (len(axes) - 1)
    if len(sizes) != len(axes):
        raise ValueError(f"MESH_SHAPE {sizes} needs one size for each of MESH_AXES {axes}")
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"MESH_SHAPE {sizes} asks for {math.prod(sizes)} devices, but there are {len(devices)} "
            f"({devices[0].platform}); choose sizes whose product is {len(devices)}"
        )
    return Mesh(mesh_utils.create_device_mesh(sizes, devices), axes)


def axis_rules(rules: Sequence[Sequence] | None, mesh: Mesh) -> Rules:
    """Returns the rules for a mesh: those given, or the default table.

    Rules of the default table for mesh axes that the mesh lacks divide nothing.

    Raises:
      ValueError: a given rule names a mesh axis that the mesh lacks.
    """
    if rules is None:
        return tuple(
            (logical, axis if axis in mesh.axis_names else None)
            for logical, axis in LOGICAL_AXIS_RULES
        )
    for logical, axis in rules:
        for name in axis if isinstance(axis, (list, tuple)) else (axis,):
            if name is not None and name not in mesh.axis_names:
                raise ValueError(
                    f"LOGICAL_AXIS_RULES puts {logical!r} on {name!r}, but MESH_AXES are "
                    f"{mesh.axis_names}"
                )
    return tuple((k, tuple(v) if isinstance(v, (list, tuple)) else v) for k, v in rules)


def spec(names: Sequence[str | None], rules: Rules) -> PartitionSpec:
    """Returns how an array with these logical axis names is divided."""
    return PartitionSpec(*(nn.logical_to_mesh_axes(names, rules) or ()))


def batch_sharding(mesh: Mesh, rules: Rules) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over the mesh axes of 'batch'."""
    return NamedSharding(mesh, spec(("batch",), rules))


def num_shards(mesh: Mesh, axis: str | tuple[str, ...] | None) -> int:
    """Returns into how many parts an entry of a `PartitionSpec` divides an array's axis."""
    names = axis if isinstance(axis, tuple) else (axis,)
    return math.prod(mesh.shape[name] for name in names if name is not None)


def check_divisible(what: str, shape: Sequence[int], partition: PartitionSpec, mesh: Mesh) -> None:
    """Checks that an array can be divided evenly.

    Raises:
      ValueError: a dimension does not divide by the devices that it lies on.
    """
    for dimension, axis in zip(shape, tuple(partition)):
        parts = num_shards(mesh, axis)
        if dimension % parts:
            raise ValueError(
                f"{what} of shape {tuple(shape)} is divided as {partition}, but {dimension} does "
                f"not divide by {parts}; change its size, MESH_SHAPE or LOGICAL_AXIS_RULES"
            )


def place(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Puts the parts of a global batch on the devices of this process that they belong to."""
    return {
        name: jax.make_array_from_process_local_data(sharding, array, global_shape=array.shape)
        for name, array in batch.items()
    }
