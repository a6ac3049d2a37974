# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A linear regressor with a mutable collection, and its data: a training that takes seconds."""

import os
from collections.abc import Mapping
from typing import Any

import clu.metrics
import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parti.engine.input import datasets
from parti.models import base


class Regressor(base.Model):
    """y = x @ kernel + bias; 'stats' counts steps; dropout makes the loss depend on the rng."""

    feature_converter = "none: the data source of the tests makes batches"
    feature_types = {"x": "float32", "y": "float32"}
    has_mutables = True

    def __init__(self, features: int = 4, outputs: int = 8, dropout_rate: float = 0.1) -> None:
        self.features, self.outputs, self.dropout_rate = features, outputs, dropout_rate

    def init_variables(self, rng: jax.Array, batch: Mapping[str, Any]) -> dict[str, Any]:
        assert batch["x"].shape[-1] == self.features
        kernel = 0.1 * jax.random.normal(rng, (self.features, self.outputs))
        boxed = nn.LogicallyPartitioned
        return {
            "params": {
                "dense": {
                    "kernel": boxed(kernel, ("embed", "mlp")),
                    "bias": boxed(jnp.zeros((self.outputs,)), ("mlp",)),
                }
            },
            "stats": {"steps_seen": jnp.zeros((), jnp.int32)},
        }

    def loss_fn(self, params: Any, batch: Any, dropout_rng: Any, flax_mutables: Any) -> Any:
        x = batch["x"]
        if dropout_rng is not None:
            keep = jax.random.bernoulli(dropout_rng, 1 - self.dropout_rate, x.shape)
            x = jnp.where(keep, x, 0.0)
        prediction = x @ params["dense"]["kernel"] + params["dense"]["bias"]
        loss = jnp.mean((prediction - batch["y"]) ** 2)
        metrics = {"loss": clu.metrics.Average.from_model_output(loss)}
        seen = flax_mutables["stats"]["steps_seen"] + 1
        return loss, (metrics, flax.core.freeze({"stats": {"steps_seen": seen}}))

    def eval_fn(self, params: Any, batch: Any, flax_mutables: Any) -> Any:
        loss, (metrics, _) = self.loss_fn(params, batch, None, flax_mutables)
        return loss, metrics


class PlainRegressor(Regressor):
    """The same without mutable collections."""

    has_mutables = False

    def init_variables(self, rng: jax.Array, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {"params": super().init_variables(rng, batch)["params"]}

    def loss_fn(self, params: Any, batch: Any, dropout_rng: Any) -> Any:  # type: ignore[override]
        seen = {"stats": {"steps_seen": 0}}
        loss, (metrics, _) = super().loss_fn(params, batch, dropout_rng, seen)
        return loss, metrics

    def eval_fn(self, params: Any, batch: Any) -> Any:  # type: ignore[override]
        return self.loss_fn(params, batch, None)


def source(
    features: int = 4, outputs: int = 8, num_train: int = 40, bad_row: int = -1
) -> datasets.ArraySource:
    """Returns rows of y = x @ truth; `bad_row` is made not a number."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(features, outputs))

    def rows(count: int) -> dict[str, np.ndarray]:
        x = rng.normal(size=(count, features))
        return {"x": x.astype(np.float32), "y": (x @ truth).astype(np.float32)}

    train, validation = rows(num_train), rows(24)
    if bad_row >= 0:
        train["y"][bad_row] = np.nan
    return datasets.ArraySource(train, validation)


def pictures(image_size: int = 16, num_train: int = 32) -> datasets.ArraySource:
    """Returns pictures of random colours, each of one colour above and another below."""
    rng = np.random.default_rng(1)

    def draw(count: int) -> dict[str, np.ndarray]:
        halves = rng.uniform(-1, 1, (count, 2, 1, 3)).astype(np.float32)
        return {"images": halves.repeat(image_size // 2, 1).repeat(image_size, 2)}

    return datasets.ArraySource(draw(num_train), draw(8))


class _SignallingDataset(datasets.ArrayDataset):
    """Sends this process a signal when a certain batch is asked for."""

    def __init__(self, *args: Any, number: int, at: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._number, self._at = number, at

    def __next__(self) -> datasets.Batch:
        if self._taken == self._at:
            os.kill(os.getpid(), self._number)
        return super().__next__()


def signalling_source(number: int, at: int) -> Any:
    """Returns `source()` that sends a signal before batch `at`, counted from 0."""
    plain = source()

    class Source:
        def open(self, split: str, batch_size: int, seed: int, model: Any) -> datasets.Batches:
            if split != datasets.TRAIN:
                return plain.open(split, batch_size, seed, model)
            return _SignallingDataset(plain.train, batch_size, seed, number=number, at=at)

    return Source()
