# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parti.models import base


class Linear(base.Model):
    feature_converter = "ImageConverter"
    feature_types = {"images": "float32"}

    def init_variables(self, rng, batch):
        init = nn.with_logical_partitioning(nn.initializers.ones, ("embed", "mlp"))
        return nn.Dense(3, kernel_init=init).init(rng, batch["images"])

    def loss_fn(self, params, batch, dropout_rng, *flax_mutables):
        loss = jnp.mean(batch["images"] @ params["kernel"])
        return loss, {"loss": base.average(loss, 1.0), "dropout": dropout_rng is not None}


def test_boxes_become_t5x_axes():
    initial = Linear().get_initial_variables(jax.random.PRNGKey(0), {"images": (1, 2)})
    assert set(initial) == {"params", "params_axes"}
    assert jax.tree.map(jnp.shape, initial["params"]) == {"kernel": (2, 3), "bias": (3,)}
    axes = initial["params_axes"]
    assert axes["kernel_axes"].names == ("embed", "mlp")
    assert axes["bias_axes"].names == (None,)  # not boxed


def test_wrong_number_of_axis_names_is_an_error():
    with pytest.raises(ValueError, match=r"layer/kernel has shape \(2, 3\) but axis names"):
        box = nn.LogicallyPartitioned(jnp.zeros((2, 3)), names=("embed",))
        base.split_boxes({"layer": {"kernel": box}})


def test_missing_feature_is_an_error():
    with pytest.raises(ValueError, match=r"needs the batch features \['images'\]"):
        Linear().get_initial_variables(jax.random.PRNGKey(0), {"text_tokens": (1, 2)})


def test_eval_has_no_dropout_and_shapes_count_parameters():
    loss, metrics = Linear().eval_fn({"kernel": jnp.ones((2, 3))}, {"images": jnp.ones((4, 2))})
    assert loss == 2.0
    assert not metrics["dropout"]
    assert Linear().num_params({"images": (1, 2)}) == 9


def test_averages_merge_by_weight():
    merged = base.average(6.0, 2.0).merge(base.average(1.0, 8.0))
    np.testing.assert_allclose(merged.compute(), 0.7)
    merged = base.per_example(jnp.float32(1.0), 3).merge(base.per_example(jnp.float32(5.0), 1))
    np.testing.assert_allclose(merged.compute(), 2.0)
