# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Kernels as int8 with a scale for each output channel, for use without training.

Such a kernel stands in `params` in the place of the float one, and its scales under the same path
in the collection `SCALES`. A layer multiplies by the whole numbers, which its dtype holds exactly,
and scales the outputs: no float copy of the kernel stays in memory.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

SCALES = "scales"
_MOST = 127  # of an int8, on both sides of 0


def num_inputs(names: Sequence[str | None]) -> int:
    """Returns how many axes of a kernel are contracted; they stand first (see `dense.Dense`).

    `names` are its logical axes, without `layers`: a head's width is contracted with the heads.
    """
    return 2 if tuple(names[:2]) == ("heads", "kv") else 1


def quantize(kernel: np.ndarray, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns int8 values and float32 scales; kernel is about values * scales.

    The first `inputs` axes are contracted; the scales have the others, the output channels. An
    entry is off by at most half its channel's scale, the largest magnitude there over 127.

    Source: absolute-maximum quantization, LLM.int8 (arXiv 2208.07339) section 2, by channel.
    """
    largest = np.abs(kernel).max(axis=tuple(range(inputs)))
    scales = np.where(largest > 0, largest / _MOST, 1).astype(np.float32)
    return np.rint(kernel / scales).astype(np.int8), scales


def scaled(outputs: Array, scales: Array | None) -> Array:
    """Scales the outputs [..., *channels] of an int8 kernel; of a float one the scales are None."""
    return outputs if scales is None else (outputs * scales).astype(outputs.dtype)


def is_quantized(leaf: Array) -> bool:
    """Returns whether a parameter has scales."""
    return leaf.dtype == jnp.int8
