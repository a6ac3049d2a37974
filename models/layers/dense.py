# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Matrix products with learned kernels, without biases."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from parti.models.layers import quantization

Array = jax.Array


def matmul(inputs: Array, kernel: Array, preferred_dtype: str | None = None) -> Array:
    """Maps [..., in] by a kernel [in, out] of the same dtype to [..., out].

    Sums and result have the preferred dtype; None is the inputs'. Leading axes become one before
    the product: XLA on a CPU otherwise transposes a copy of the gradient for each kernel, which
    doubled the time of an MLP's backward pass.
    """
    flat = inputs.reshape(-1, inputs.shape[-1])
    result = jnp.matmul(flat, kernel, preferred_element_type=preferred_dtype)
    return result.reshape(*inputs.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
    """Contracts the last `num_inputs` axes with a kernel; LeCun-normal start, no bias."""

    features: tuple[int, ...]  # shape of the output axes
    axes: tuple[str | None, ...]  # logical names of the kernel's, inputs first
    num_inputs: int = 1
    dtype: str = "float32"  # of the computation; the kernel is float32, or int8 with scales

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps [..., *in] to [..., *features]."""
        leading, in_shape = inputs.shape[: -self.num_inputs], inputs.shape[-self.num_inputs :]
        init = nn.initializers.variance_scaling(
            1.0,
            "fan_in",
            "truncated_normal",
            in_axis=range(self.num_inputs),
            out_axis=range(self.num_inputs, len(self.axes)),
        )
        kernel = self.param(
            "kernel", nn.with_logical_partitioning(init, self.axes), (*in_shape, *self.features)
        )
        matrix = kernel.astype(self.dtype).reshape(math.prod(in_shape), -1)
        outputs = matmul(inputs.astype(self.dtype).reshape(*leading, -1), matrix)
        outputs = outputs.reshape(*leading, *self.features)
        return quantization.scaled(outputs, self.get_variable(quantization.SCALES, "kernel"))


def matrix(
    features: int, axes: tuple[str | None, str | None], dtype: str, name: str | None = None
) -> Dense:
    """Returns a layer whose kernel is [in, features], with axes of these logical names."""
    return Dense((features,), axes, dtype=dtype, name=name)
