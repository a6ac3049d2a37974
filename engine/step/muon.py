# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Muon's step: momentum of hidden matrices, made orthogonal; all other parameters by Adam.

Hidden matrices are the kernels of attention and MLP, each as the matrix that it multiplies by: a
projection [embed, heads, kv] is [embed, heads x kv], the one back, [heads, kv, embed], is
[heads x kv, embed]. In a scanned stack each layer has its own matrix (the axis `layers` counts
them), so scanned and unrolled stacks train alike. Embeddings, positions, the first projection of
patches, logits and other heads, convolutions, norms and biases are Adam's, as Muon's author says.

Source: Jordan et al., https://kellerjordan.github.io/posts/muon; the size of a step, which lets
both parts share one learning rate and weight decay with AdamW, is that of Liu et al.
(arXiv 2502.16982, section 2.2).
"""

import math
from typing import Any

import jax
import optax
from optax import contrib

from parti.engine.step import adafactor

# The root mean square of AdamW's steps, which Muon's get too.
STEP_RMS = 0.2

# {module: axes of its kernel that a product sums over}
_HIDDEN = {"query": 1, "key": 1, "value": 1, "out": 2, "wi": 1, "wo": 1}
_MUON, _ADAM = "muon", "adam"


def scale_by_muon(
    beta: float, b1: float, b2: float, eps: float, ns_steps: int
) -> optax.GradientTransformation:
    """Returns Muon's steps for hidden matrices and Adam's for the rest, of rate 1.

    With t = 1, 2, ... and g the gradient of a matrix [m, n]:

        moment <- beta moment + (1 - beta) g
        x = beta moment / (1 - beta^(t+1)) + (1 - beta) g / (1 - beta^t)      (Nesterov's)
        step = STEP_RMS sqrt(max(m, n)) orthogonal(x)

    where `orthogonal` is `ns_steps` of Newton-Schulz's iteration: singular values come near 1.

    Raises:
      ValueError: (when the state is initialised) no parameter is a hidden matrix.
    """
    matrices = optax.chain(
        contrib.scale_by_muon(
            ns_steps=ns_steps, beta=beta, weight_dimension_numbers=dimension_numbers
        ),
        optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(_sized, updates)),
    )
    return optax.partition({_MUON: matrices, _ADAM: optax.scale_by_adam(b1, b2, eps)}, _labels)


def dimension_numbers(params: Any) -> Any:
    """Returns a tree of `contrib.MuonDimensionNumbers`; None is no hidden matrix."""
    return jax.tree_util.tree_map_with_path(_matrix, params)


def _matrix(path: tuple[Any, ...], leaf: Any) -> contrib.MuonDimensionNumbers | None:
    names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    module, name = names[-2:] if len(names) > 1 else ("", "")
    if name != "kernel" or module not in _HIDDEN:
        return None
    first = int(adafactor.SCANNED in names)
    middle = first + _HIDDEN[module]
    return contrib.MuonDimensionNumbers(
        tuple(range(first, middle)), tuple(range(middle, leaf.ndim))
    )


def _sized(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
    axes = _matrix(path, update)
    assert axes is not None, "only matrices come here"
    sides = (math.prod(update.shape[axis] for axis in side) for side in axes)
    return STEP_RMS * math.sqrt(max(sides)) * update


def _labels(params: Any) -> Any:
    def label(path: tuple[Any, ...], leaf: Any) -> str:
        return _MUON if _matrix(path, leaf) else _ADAM

    labels = jax.tree_util.tree_map_with_path(label, params)
    if _MUON not in jax.tree.leaves(labels):
        raise ValueError(
            "no parameter is a kernel of attention or MLP, which are what Muon is for; take "
            "t5x_configs/optimizers/adamw.gin or adafactor.gin"
        )
    return labels
