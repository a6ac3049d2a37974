# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a model, counted in its program and not measured.

Matrix products and convolutions are counted, a multiply-add as two operations; what is elementwise
is left out, as is usual for the utilisation of an accelerator (PaLM, arXiv 2204.02311, appendix B).
Unlike XLA's `cost_analysis`, the body of a scan is counted as often as it runs.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.core
import jax
import numpy as np
from jax.extend import core
from jax.extend.core import primitives
from jax.interpreters import partial_eval


def train_step(model: Any, element_spec: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Returns the operations of a model's loss and its gradients for a batch: its model FLOPs.

    What is computed again in the backward pass to save memory is not counted, nor what a pipeline
    computes idly, nor the optimizer. `element_spec` is of a global batch.
    """
    model, batch = model.without_pipeline, dict(element_spec)
    shapes = {name: spec.shape for name, spec in batch.items()}
    types = {name: spec.dtype for name, spec in batch.items()}

    def variables(rng: jax.Array) -> dict[str, Any]:
        found = model.get_initial_variables(rng, shapes, types)
        return {name: tree for name, tree in found.items() if not name.endswith("_axes")}

    def loss(params: Any, mutables: Any, batch: Any, rng: Any) -> jax.Array:
        return model.loss_fn(params, batch, rng, *((mutables,) if mutables else ()))[0]

    # Inside jax.set_mesh an array would be on the mesh's devices, which may be descriptions.
    rng = jax.eval_shape(lambda: jax.random.PRNGKey(0))
    mutables = jax.eval_shape(variables, rng)
    params = mutables.pop("params")
    frozen = flax.core.freeze(mutables)
    traced = jax.make_jaxpr(loss)(params, frozen, batch, rng)
    leaves, others = jax.tree.leaves(params), jax.tree.leaves((frozen, batch, rng))
    evaluate = core.jaxpr_as_fun(_saving_all(traced))
    gradients = jax.value_and_grad(lambda params, others: evaluate(*params, *others)[0])
    return of(gradients, leaves, others)


def of(function: Callable[..., Any], *args: Any) -> int:
    """Returns the operations of a jax function; `args` may be shapes and dtypes alone."""
    return of_jaxpr(jax.make_jaxpr(function)(*args))


def of_jaxpr(closed: core.ClosedJaxpr) -> int:
    """Returns the operations of a traced program, such as `jax.stages.Traced.jaxpr`."""
    return _count(without_dead_code(closed.jaxpr))


def without_dead_code(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """Leaves out what no result depends on, such as the gradient of an input.

    `partial_eval` is no public API of jax.
    """
    kept, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    return kept


def _saving_all(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """Returns a program whose rematerialised parts keep all they compute for the backward pass."""

    def rewrite(value: Any) -> Any:
        if isinstance(value, core.ClosedJaxpr):
            return _saving_all(value)
        if isinstance(value, core.Jaxpr):
            return _saving_all(core.ClosedJaxpr(value, [])).jaxpr
        if type(value) is tuple:  # the branches of a conditional; not a NamedTuple of numbers
            return tuple(rewrite(item) for item in value)
        return value

    equations = []
    for equation in closed.jaxpr.eqns:
        params = {name: rewrite(value) for name, value in equation.params.items()}
        if equation.primitive is primitives.remat_p:
            params["policy"] = jax.checkpoint_policies.everything_saveable
        equations.append(equation.replace(params=params))
    return core.ClosedJaxpr(closed.jaxpr.replace(eqns=equations), closed.consts)


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: core.JaxprEqn) -> int:
    """Counts one equation; of a conditional its dearest branch, of a shard what all shards do."""
    if equation.primitive is primitives.dot_general_p:
        (contracted, _), _ = equation.params["dimension_numbers"]
        lhs, out = _shape(equation.invars[0]), _shape(equation.outvars[0])
        return 2 * math.prod(out) * math.prod(lhs[axis] for axis in contracted)
    if equation.primitive is primitives.conv_general_dilated_p:
        return _count_convolution(equation)
    inner = [_count(jaxpr) for jaxpr in _inner_jaxprs(equation.params)]
    if equation.primitive is primitives.cond_p:
        return max(inner)
    if equation.primitive is primitives.scan_p:
        return sum(inner) * equation.params["length"]
    if equation.primitive is primitives.while_p and any(inner):
        raise ValueError(
            "matrix products inside a `while_loop`, whose number of turns is not known before it "
            "runs; write it as a `scan` or a `fori_loop` with fixed bounds"
        )
    if equation.primitive.name == "shard_map":
        return sum(inner) * equation.params["mesh"].size
    return sum(inner)


def _inner_jaxprs(params: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _count_convolution(equation: core.JaxprEqn) -> int:
    """Counts a convolution; products with padding, or with holes of a dilation, are left out."""
    params = equation.params
    numbers = params["dimension_numbers"]
    variables = (*equation.invars, *equation.outvars)
    specs = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
    # Axes in one order: batch, features and sides; of the kernel output, input features and sides.
    lhs, rhs, out = (
        [_shape(variable)[axis] for axis in spec]
        for variable, spec in zip(variables, specs, strict=True)
    )
    count = 2 * out[0] * out[1] * rhs[1]
    for size, kernel, outputs, stride, lhs_dilation, rhs_dilation, (low, _) in zip(
        lhs[2:],
        rhs[2:],
        out[2:],
        params["window_strides"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        params["padding"],
        strict=True,
    ):
        # The (output, kernel) positions of one side that meet a value of the input.
        at = np.arange(outputs)[:, None] * stride + np.arange(kernel) * rhs_dilation - low
        inside = (at >= 0) & (at <= (size - 1) * lhs_dilation) & (at % lhs_dilation == 0)
        count *= int(inside.sum())
    return count
