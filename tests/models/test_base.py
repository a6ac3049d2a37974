# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from parti.engine.config import gin_config
from parti.engine.inference import bundles
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


@pytest.mark.parametrize("name", bundles.PARTS)
def test_each_family_has_its_role_and_no_other(name):
    model = gin_config.model_from_config(tiny_models.config(name))
    assert [part for part, role in bundles.PARTS.items() if isinstance(model, role)] == [name]
    assert not any(isinstance(Linear(), role) for role in bundles.PARTS.values())


def test_a_model_of_a_user_has_the_attributes_that_engines_read():
    model = Linear()
    assert (model.dtype, model.remat, model.text_vocab_size) == ("float32", None, None)
    assert (model.pipeline_stages, model.pipeline_microbatches) == (1, 1)
    assert (model.loss_is_mean, model.compares_examples, model.training_only) == (True, False, ())
    model.check_batch({"images": np.zeros((1, 2))})  # no token ids, nothing to check


@pytest.mark.parametrize(("token", "place"), [(-1, (0, 2)), (7, (1, 0)), (2**31 - 1, (1, 2))])
def test_a_token_out_of_range_is_named_with_its_bound(token, place):
    tokens = np.arange(6, dtype=np.int32).reshape(2, 3)
    base.check_token_range(tokens, 6, "text_tokens")
    tokens[place] = token
    message = rf"text_tokens\[{place[0]}, {place[1]}\] is {token}, but this model knows 0 to 5: "
    with pytest.raises(ValueError, match=message):
        base.check_token_range(tokens, 6, "text_tokens")
    base.check_token_range(tokens[:0], 6, "text_tokens")


def test_arrays_of_tokens_by_shape_and_type():
    base.check_tokens(jnp.zeros((2, 5), int), 6, 9, "text_tokens")
    base.check_tokens(jnp.zeros((2, 6), int), 6, 9, "image_tokens", padded=False)
    for shape, padded in [((2, 7), True), ((6,), True), ((2, 5), False)]:
        with pytest.raises(ValueError, match=r"tokens have shape .*; this model takes \[batch, "):
            base.check_tokens(jnp.zeros(shape, int), 6, 9, "tokens", padded=padded)
    with pytest.raises(ValueError, match="tokens are float32; give integers"):
        base.check_tokens(jnp.zeros((2, 6)), 6, 9, "tokens")
    with pytest.raises(ValueError, match=r"tokens\[0, 0\] is 9, but this model knows 0 to 8: "):
        base.check_tokens(jnp.full((2, 6), 9), 6, 9, "tokens")
    jax.eval_shape(lambda ids: base.check_tokens(ids, 6, 9, "tokens"), jnp.full((2, 6), 9))


def test_without_branches_and_joined_variables():
    variables = base.join_variables({"a": 1, "b": 2}, {"stats": {"b": 3}})
    assert variables == {"params": {"a": 1, "b": 2}, "stats": {"b": 3}}
    assert base.without_branches(variables, ("b",)) == {"params": {"a": 1}, "stats": {}}
    assert base.join_variables({"a": 1}) == {"params": {"a": 1}}
