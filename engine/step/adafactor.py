# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Adafactor's step with a first moment of int8, as one optax transformation.

Source: the settings are Parti's (section 3); the order of operations is that of praxis'
ShardedAdafactor, the public relative of the paper's optimizer; the factored second moment is
Shazeer & Stern's (arXiv 1804.04235).

A parameter below a module `layers` holds all layers of a scanned stack along its first axis
(`transformer.StackConfig.scan_layers`). Each of its layers is updated as if it stood alone, so a
scanned and an unrolled stack train alike.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

MOMENT_DTYPES = ("int8", "float32")
SCANNED = "layers"

_LEAST_SQUARE = 1e-30


class AdafactorState(NamedTuple):
    """Trees like the parameters, of axes [..., m, n]; what one has no use for is a zero, [1].

    Attributes:
      num_steps: so far, int32 scalar.
      row: mean over n of the squared gradient, [..., m], if the parameter has two axes or more.
      column: mean over m, [..., n], if it has.
      full: the squared gradient itself, if it has fewer.
      moment: int8 in units of `scale`, or float32; shape of the parameter.
      scale: float32, one for each slice along the first axis (of a layer); unused for float32.
    """

    num_steps: jax.Array
    row: Any
    column: Any
    full: Any
    moment: Any
    scale: Any


class _Leaf(NamedTuple):
    """The state of one parameter; see `AdafactorState`."""

    row: jax.Array
    column: jax.Array
    full: jax.Array
    moment: jax.Array
    scale: jax.Array


def quantize(x: jax.Array, axis: int = 0) -> tuple[jax.Array, jax.Array]:
    """Rounds to int8, symmetrically, with one scale for each slice along an axis.

    Without that axis, as in a scalar, each value has a scale of its own.

    Returns:
      int8 values in [-127, 127] of the same shape, and the float32 scales without `axis`:
      x = values * scale, with an error of half a scale at most.
    """
    largest = jnp.max(jnp.abs(x), axis=axis) if x.ndim > axis else jnp.abs(x)
    scale = largest / 127.0
    values = jnp.round(x / _spread(jnp.where(scale > 0, scale, 1.0), x, axis))
    return values.astype(jnp.int8), scale


def dequantize(values: jax.Array, scale: jax.Array, axis: int = 0) -> jax.Array:
    """Returns float32 values; see `quantize`."""
    return values.astype(jnp.float32) * _spread(scale, values, axis)


def _spread(scale: jax.Array, like: jax.Array, axis: int) -> jax.Array:
    return jnp.expand_dims(scale, axis) if like.ndim > axis else scale


def scale_by_adafactor(
    learning_rate: float | Callable[[Any], Any],
    b1: float,
    b2: float,
    clip_rms: float = 1.0,
    moment_dtype: str = "int8",
) -> optax.GradientTransformation:
    """Returns the step of Adafactor, learning rate and sign included; without weight decay.

    With t = 1, 2, ... and g the gradient of a parameter [..., m, n]:

        d = b2 (1 - b2^(t-1)) / (1 - b2^t)
        row, column <- d row + (1 - d) mean_n(g^2 + 1e-30), d column + (1 - d) mean_m(...)
        x = g (row / mean(row))^-1/2 column^-1/2
        x <- rate x / max(1, RMS(x) / clip_rms)
        moment <- b1 moment + (1 - b1) x; the step is -moment

    A parameter with one axis has v <- d v + (1 - d) (g^2 + 1e-30) and x = g v^-1/2. The moment is
    rounded after it was used.

    A schedule `learning_rate` is one of t - 1.

    Raises:
      ValueError: `moment_dtype` is neither 'int8' nor 'float32'.
    """
    if moment_dtype not in MOMENT_DTYPES:
        raise ValueError(f"moment_dtype is {moment_dtype!r}; choose 'int8' or 'float32'")
    is_int8 = moment_dtype == "int8"

    def init(params: Any) -> AdafactorState:
        leaves, tree = jax.tree_util.tree_flatten_with_path(params)
        states = [_initial(leaf, _first_axis(path, leaf), is_int8) for path, leaf in leaves]
        return _collect(jnp.zeros((), jnp.int32), tree, states)

    def update(grads: Any, state: AdafactorState, params: Any = None) -> Any:
        del params
        t = state.num_steps.astype(jnp.float32) + 1
        decay = b2 * (1 - b2 ** (t - 1)) / (1 - b2**t)
        rate = learning_rate(state.num_steps) if callable(learning_rate) else learning_rate
        leaves, tree = jax.tree_util.tree_flatten_with_path(grads)
        before = zip(*(jax.tree.leaves(part) for part in state[1:]), strict=True)
        steps: list[jax.Array] = []
        states: list[_Leaf] = []
        for (path, grad), old in zip(leaves, before, strict=True):
            first, leaf = _first_axis(path, grad), _Leaf(*old)
            x, leaf = _direction(grad.astype(jnp.float32), leaf, decay, first)
            axes = tuple(range(first, grad.ndim))
            rms = jnp.sqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True))
            x = rate * x / jnp.maximum(1.0, rms / clip_rms)
            moment = dequantize(leaf.moment, leaf.scale, first) if is_int8 else leaf.moment
            moment = b1 * moment + (1 - b1) * x
            kept = quantize(moment, first) if is_int8 else (moment, leaf.scale)
            steps.append(-moment)
            states.append(leaf._replace(moment=kept[0], scale=kept[1]))
        return jax.tree.unflatten(tree, steps), _collect(state.num_steps + 1, tree, states)

    return optax.GradientTransformation(init, update)


def _direction(
    grad: jax.Array, leaf: _Leaf, decay: jax.Array, first: int
) -> tuple[jax.Array, _Leaf]:
    """Returns the gradient over the root of its second moment, and the new second moment."""

    def average(old: jax.Array, new: jax.Array) -> jax.Array:
        return decay * old + (1 - decay) * new

    square = jnp.square(grad) + _LEAST_SQUARE
    if grad.ndim - first < 2:
        leaf = leaf._replace(full=average(leaf.full, square))
        return grad * jax.lax.rsqrt(leaf.full), leaf
    row = average(leaf.row, jnp.mean(square, axis=-1))
    column = average(leaf.column, jnp.mean(square, axis=-2))
    rows = jax.lax.rsqrt(row / jnp.mean(row, axis=-1, keepdims=True))[..., None]
    direction = grad * rows * jax.lax.rsqrt(column)[..., None, :]
    return direction, leaf._replace(row=row, column=column)


def _initial(param: jax.Array, first: int, is_int8: bool) -> _Leaf:
    """Returns the state of a parameter at step 0; see `_first_axis`."""
    shape, unused = tuple(param.shape), (1,)
    factored = len(shape) - first >= 2
    return _Leaf(
        row=jnp.zeros(shape[:-1] if factored else unused),
        column=jnp.zeros(shape[:-2] + shape[-1:] if factored else unused),
        full=jnp.zeros(unused if factored else shape),
        moment=jnp.zeros(shape, jnp.int8 if is_int8 else jnp.float32),
        scale=jnp.zeros(shape[:first] + shape[first + 1 :] if is_int8 else unused),
    )


def _collect(num_steps: jax.Array, tree: Any, states: list[_Leaf]) -> AdafactorState:
    parts = (jax.tree.unflatten(tree, list(part)) for part in zip(*states))
    return AdafactorState(num_steps, *parts)


def _first_axis(path: tuple[Any, ...], leaf: Any) -> int:
    """Returns how many leading axes count layers: 1 in a scanned stack, else 0."""
    names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    return int(SCANNED in names and leaf.ndim > 0)
