# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""How models that are used, not trained, lie on a mesh: by the layouts and axis rules of training.

A generator is divided as in training: its parameters, its cache and its rows. Other models are
whole on each device, which takes its part of a batch.
"""

import argparse
import ast
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from parti.engine.config import gin_config, gin_errors
from parti.engine.distributed import partitioning
from parti.models import base
from parti.models.layers import quantization, transformer

INT8 = "int8"
INT8_FLAG = f"--weights={INT8}"
_FOLDER, _SETTINGS = "t5x_configs/layouts", "t5x_configs/runs/settings.gin"
_MACROS = ("MESH_SHAPE", "MESH_AXES", "LOGICAL_AXIS_RULES")
# Tables that a lookup reads before it casts, so that casting them first gives the same values. The
# parameters that are neither these nor kernels are used in float32.
_CAST_AFTER_LOOKUP = "embedding"
_STACKED = "layers"  # the axis of a scanned stack's layers

Key = tuple[str, ...]  # path of a variable, its collection first


@dataclasses.dataclass(frozen=True)
class Layout:
    """Mesh and axis rules, as MESH_SHAPE, MESH_AXES and LOGICAL_AXIS_RULES, and what weights are.

    `int8` keeps kernels as int8 with a scale a channel; else they have the model's compute dtype.
    """

    mesh_shape: tuple[int, ...] | None = None
    mesh_axes: tuple[str, ...] = ("data", "model")
    logical_axis_rules: tuple[tuple[str, Any], ...] | None = None
    int8: bool = False

    def describe(self, model: Any, num_devices: int) -> dict[str, Any]:
        """Returns what a manifest says of it, for this generator on so many devices."""
        mesh = self._abstract_mesh(num_devices)
        return {
            "mesh": dict(mesh.shape),
            "logical_axis_rules": partitioning.axis_rules(self.logical_axis_rules, mesh),
            "weights": INT8 if self.int8 else model.dtype,
        }

    def check(self, model: Any, num_images: int, num_devices: int) -> None:
        """Raises ValueError unless a generator and the images of a call divide over the devices.

        Nothing is loaded or put on a device for it.
        """
        mesh = self._abstract_mesh(num_devices)
        rules = partitioning.axis_rules(self.logical_axis_rules, mesh)
        if _parts(_STACKED, rules, mesh) > 1:
            raise ValueError(
                "the layout divides 'layers', as a pipeline does, but each token passes them one "
                "after another; choose another of t5x_configs/layouts/"
            )
        for key, leaf in leaves(model, self.int8).items():
            spec, name = partitioning.spec(leaf.names, rules), "/".join(key[1:])
            partitioning.check_divisible(f"parameter {name}", leaf.shape, spec, mesh)
        parts = _parts("batch", rules, mesh)
        if num_images % parts:
            raise ValueError(
                f"{num_images} images at a time (prompts x --num_samples, over --queue) do not "
                f"divide by the {parts} parts of the mesh {dict(mesh.shape)}; change one of these, "
                "--prompts_per_batch or --mesh_shape"
            )

    def _abstract_mesh(self, num_devices: int) -> AbstractMesh:
        sizes = partitioning.mesh_sizes(self.mesh_shape, self.mesh_axes, num_devices)
        return AbstractMesh(sizes, self.mesh_axes)

    def placement(self, devices: Sequence[jax.Device] | None = None) -> "Placement":
        """Returns the placement of a generator on devices, by default all of all processes."""
        mesh = partitioning.make_mesh(self.mesh_shape, self.mesh_axes, devices)
        rules = partitioning.axis_rules(self.logical_axis_rules, mesh)
        return Placement(mesh, rules, NamedSharding(mesh, PartitionSpec()))


def add_data_parallel(parser: argparse.ArgumentParser) -> None:
    """Adds --data_parallel, for the models that are whole on each device."""
    help_text = "divide the images of a call over all devices of a worker (default: one device)"
    parser.add_argument("--data_parallel", action="store_true", help=help_text)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --mesh_shape, --layout and --weights."""
    add = parser.add_argument
    shape_help = "devices along each axis of the mesh, -1: what is left, such as '(1, -1)'"
    add("--mesh_shape", metavar="SHAPE", help=shape_help)
    layout_help = "of t5x_configs/layouts/ (two_dimensional, ...), or a gin file such as those"
    add("--layout", metavar="NAME", help=layout_help)
    help_text = "keep kernels as int8, with a scale a channel; on all devices, as --mesh_shape does"
    add("--weights", choices=(INT8,), help=help_text)


def read(layout: str | None, mesh_shape: str | None, weights: str | None) -> Layout | None:
    """Returns what the flags --layout, --mesh_shape and --weights say; None without any.

    A layout is a gin file of t5x_configs/layouts/, by its name or with its path, or one of the
    user's; a mesh shape is a Python literal.

    Raises:
      ValueError, FileNotFoundError: a value that is no layout or no mesh shape.
    """
    if layout is None and mesh_shape is None and weights is None:
        return None
    gin_files = [_SETTINGS]
    if layout is not None:
        gin_files.append(layout if layout.endswith(".gin") else f"{_FOLDER}/{layout}.gin")
    with gin_config.empty(), gin_errors.one_line():
        gin_config.parse(gin_files, [])
        shape, axes, rules = gin_config.evaluate_macros(_MACROS).values()
    given = f"--layout={layout}: MESH_SHAPE {shape}"
    if mesh_shape is not None:
        shape, given = _literal(mesh_shape), f"--mesh_shape={mesh_shape}"
    is_shape = isinstance(shape, tuple | list) and all(type(size) is int for size in shape)
    if shape is not None and not is_shape:
        raise ValueError(
            f"{given}: give a size for each of {tuple(axes)}, such as "
            f"{(-1,) + (1,) * (len(axes) - 1)}"
        )
    return of(shape, axes, rules, int8=weights == INT8)


def _literal(text: str) -> Any:
    """Returns the value of a Python literal; of another text the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text


def of(
    mesh_shape: Sequence[int] | None,
    mesh_axes: Sequence[str],
    rules: Sequence[Sequence] | None,
    int8: bool = False,
) -> Layout:
    """Returns the layout of the settings of a training, in which gin may have lists."""
    hashable = None if rules is None else tuple((name, _hashable(axis)) for name, axis in rules)
    shape = None if mesh_shape is None else tuple(mesh_shape)
    return Layout(shape, tuple(mesh_axes), hashable, int8)


def _parts(name: str, rules: partitioning.Rules, mesh: Mesh | AbstractMesh) -> int:
    """Returns into how many parts the rules divide an axis of this name."""
    spec = partitioning.spec((name,), rules)
    return partitioning.num_shards(mesh, (*spec, None)[0])


def _hashable(axis: Any) -> Any:
    return tuple(axis) if isinstance(axis, list) else axis


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the variables and the batches of a model are.

    `inputs` is the sharding of every array that a method takes besides the variables; what it
    returns is whole in each process.
    """

    mesh: Mesh
    rules: partitioning.Rules
    inputs: NamedSharding

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Makes the mesh and the axis rules known to the code that is traced inside."""
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(self.rules):
            yield

    def num_parts(self, name: str) -> int:
        """Returns into how many parts an axis of this logical name is divided."""
        return _parts(name, self.rules, self.mesh)

    def batch_size(self, rows: int) -> int:
        """Returns the least number of rows, at least so many, that divides as the inputs do."""
        parts = partitioning.num_shards(self.mesh, (*self.inputs.spec, None)[0])
        return -(-rows // parts) * parts

    def put(self, array: np.ndarray) -> jax.Array:
        """Puts the parts of an array of inputs, the same in all processes, where they belong."""
        return jax.make_array_from_callback(array.shape, self.inputs, lambda index: array[index])

    def replicate(self, tree: Any) -> Any:
        """Puts a tree of arrays, whole, on each device."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def jit(self, function: Callable[..., Any]) -> Any:
        """Jits a method so that each process gets its result; trace it within `context`."""
        return jax.jit(function, out_shardings=NamedSharding(self.mesh, PartitionSpec()))

    def call(self, jitted: Callable[..., Any], variables: Any, *arrays: Any) -> Any:
        """Calls what `jit` gave on arrays of numpy, or trees of them."""
        with self.context():
            return jitted(variables, *jax.tree.map(self.put, arrays))


def whole_on_each() -> Placement:
    """Returns the placement of a model that is whole on each device of this process.

    A batch is divided over all of them.
    """
    mesh = partitioning.make_mesh(None, ("data",), jax.local_devices())
    return Placement(mesh, (), NamedSharding(mesh, PartitionSpec("data")))


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A variable: its shape, dtype and the logical names of its axes.

    `inputs` counts the axes that are contracted, of an int8 kernel, and is None of others.
    """

    shape: tuple[int, ...]
    dtype: Any
    names: tuple[str | None, ...]
    inputs: int | None = None

    @property
    def scales(self) -> "Leaf | None":
        """The scales of an int8 kernel, which have no contracted axes."""
        if self.inputs is None:
            return None
        return Leaf(self.shape[self.inputs :], np.dtype(np.float32), self.names[self.inputs :])

    def placed(self, placement: Placement) -> jax.ShapeDtypeStruct:
        """Returns shape and dtype with their sharding."""
        sharding = NamedSharding(placement.mesh, partitioning.spec(self.names, placement.rules))
        return jax.ShapeDtypeStruct(self.shape, self.dtype, sharding=sharding)


def leaves(model: Any, int8: bool = False) -> dict[Key, Leaf]:
    """Returns the parameters of a generator, unrolled, as they are kept for use, by path.

    Kernels and tables of tokens are in the compute dtype, which is what a step casts them to; the
    others in float32.
    """
    initial = functools.partial(model.get_initial_variables, input_shapes=model.example_shapes)
    variables = jax.eval_shape(initial, jax.random.PRNGKey(0))
    params, found = traverse_util.flatten_dict(variables["params"]), {}
    for key, names in base.logical_axes(variables)["params"].items():
        names = names[1:] if names[:1] == (_STACKED,) else names
        dtype: Any = jnp.dtype(np.float32)
        inputs = None
        if "kernel" in key[-1] and int8:
            dtype = jnp.dtype(np.int8)
            inputs = quantization.num_inputs(names)
        elif "kernel" in key[-1] or key[-1] == _CAST_AFTER_LOOKUP:
            dtype = jnp.dtype(model.dtype)
        for layer, shape in transformer.layer_shapes(key, params[key].shape).items():
            found["params", *layer] = Leaf(shape, dtype, names, inputs)
    return found


def placed(found: Mapping[Key, Leaf], placement: Placement) -> dict[str, Any]:
    """Returns {collection: tree} of shapes with shardings, the scales of int8 kernels included."""
    flat = {key: leaf.placed(placement) for key, leaf in with_scales(found).items()}
    return traverse_util.unflatten_dict(flat)


def with_scales(found: Mapping[Key, Leaf]) -> dict[Key, Leaf]:
    """Adds the scales of int8 kernels, in a collection of their own."""
    scales = {(quantization.SCALES, *key[1:]): leaf.scales for key, leaf in found.items()}
    return {**found, **{key: leaf for key, leaf in scales.items() if leaf is not None}}
