# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The perceptual network of a training: LPIPS from a weights file, or the in-house filters.

A model is given its network as an argument, so that gin chooses the file:

    PERCEPTUAL_WEIGHTS = None  # a file that `parti perceptual` wrote
    model.ImageTokenizerModel.perceptual = @perceptual.make()
    perceptual.make.path = %PERCEPTUAL_WEIGHTS

The network's variables are `constants` of the model: numpy arrays that an engine puts on its
devices once and passes to the jitted step. In `params` they would be trained, in a mutable
collection every checkpoint would carry them, and as a closure 59 MB of VGG16 would be compiled into
the program. The file is read when `name` or `variables` is first asked for: a trained tokenizer is
built from the same gin text where it is used, and the file need not be there.
"""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parti.models import base
from parti.models.perceptual import filters, network, weights

# (variables, images, others), both [batch, height, width, 3] in [-1, 1], to [batch] float32
Distance = Callable[[Mapping[str, Any], jax.Array, jax.Array], jax.Array]


class Loaded(NamedTuple):
    """What a perceptual network is, once its file is read."""

    name: str  # for a log: names the file and the start of its sha256
    variables: Mapping[str, Any]  # float32 numpy arrays


class PerceptualNetwork:
    """A distance between images, with frozen variables.

    `name` and `variables` raise OSError or ValueError if the file cannot be read or is none of
    weights.
    """

    def __init__(self, load: Callable[[], Loaded], distance: Distance) -> None:
        """Takes what reads the variables, called at most once, and the distance."""
        self._load = functools.cache(load)
        self.distance = distance

    @property
    def name(self) -> str:
        """See `Loaded`."""
        return self._load().name

    @property
    def variables(self) -> Mapping[str, Any]:
        """See `Loaded`; `distance` lets no gradient through to them."""
        return self._load().variables


def make(path: str | os.PathLike[str] | None = None) -> PerceptualNetwork:
    """Returns the perceptual network of a weights file.

    A file without heads gives LPIPS with all weights 1, which is a cosine distance (Zhang et al.,
    arXiv 1801.03924, section 3.1), and says so in its name. Its values are larger than those with
    heads, at most 20: a weight of the loss that suits the one does not suit the other. Without a
    file it is the in-house filters.
    """
    if path is None:
        own = Loaded(filters.NAME, filters.make_variables())
        return PerceptualNetwork(lambda: own, filters.distance)
    return PerceptualNetwork(functools.partial(_load_lpips, path), network.distance)


def choose(weight: float, given: PerceptualNetwork | None) -> PerceptualNetwork | None:
    """Returns the network of a loss of this weight: none for 0, else the given one or `make()`."""
    return (given or make()) if weight > 0 else None


class PerceptualModel(base.Model):
    """A model whose loss may have a perceptual term; the network's variables are its constants."""

    perceptual: PerceptualNetwork | None = None  # None leaves the term out

    @property
    def notes(self) -> tuple[str, ...]:
        """Names the perceptual network."""
        return (f"perceptual network: {self.perceptual.name}",) if self.perceptual else ()

    def load_constants(self) -> base.PyTree:
        """Reads the perceptual network's variables, if its loss has a weight."""
        return self.perceptual.variables if self.perceptual else {}

    def perceptual_terms(self, images: jax.Array, others: jax.Array) -> dict[str, jax.Array]:
        """Returns `perceptual_loss`, the mean distance of two batches of images, if there is one.

        Both are [batch, height, width, 3] in [-1, 1].
        """
        if self.perceptual is None:
            return {}
        distances = self.perceptual.distance(self.constants, images, others)
        return {"perceptual_loss": jnp.mean(distances)}


def _load_lpips(path: str | os.PathLike[str]) -> Loaded:
    read = weights.read(path)
    variables = dict(read.layers)
    for layer, shapes in network.shapes().items():
        if layer not in variables:  # only heads may be missing
            variables[layer] = {"weight": np.ones(shapes["weight"], np.float32)}
    kind = "LPIPS (VGG16)" if read.has_heads else "VGG16 without LPIPS heads (cosine distance)"
    return Loaded(f"{kind} of {path}, sha256 {read.sha256[:12]}", variables)
