# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from parti.models.layers import masks
from parti.models.text_to_image import model, network, sampling

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "text_to_image_params.json"
BATCH, TEXT_LENGTH = 8, 6


def tiny_config(**changes):
    sizes = {
        "text_vocab_size": 32,
        "text_length": TEXT_LENGTH,
        "codebook_size": 20,
        "grid_size": 4,
        "emb_dim": 32,
        "num_heads": 2,
        "head_dim": 16,
        "mlp_dim": 64,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
        "local_window": 3,
        "dropout_rate": 0.0,
        "dtype": "float32",
    }
    return network.TextToImageConfig(**(sizes | changes))


def shapes(config, batch=BATCH):
    image = (batch, config.image_length)
    return {
        "encoder_input_tokens": (batch, config.text_length),
        "decoder_input_tokens": image,
        "decoder_target_tokens": image,
        "decoder_loss_weights": image,
    }


def init(config, seed=0):
    tiny = model.TextToImageModel(config)
    initial = jax.jit(lambda rng: tiny.get_initial_variables(rng, shapes(config))["params"])
    return tiny, initial(jax.random.PRNGKey(seed))


def parameter_axes(config):
    """Returns {path: (shape, logical axes)}."""
    found = {}

    def build(rng):
        found.update(model.TextToImageModel(config).get_initial_variables(rng, shapes(config)))
        return found["params"]

    params = traverse_util.flatten_dict(jax.eval_shape(build, jax.random.PRNGKey(0)))
    axes = traverse_util.flatten_dict(found["params_axes"])
    return {
        path: (leaf.shape, axes[(*path[:-1], f"{path[-1]}_axes")].names)
        for path, leaf in params.items()
    }


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    text = rng.integers(3, 32, (BATCH, TEXT_LENGTH))
    text[:, 4], text[:, 5] = 1, 0
    targets = rng.integers(1, 21, (BATCH, 16))
    return {
        "encoder_input_tokens": jnp.array(text, jnp.int32),
        "decoder_input_tokens": jnp.array(np.pad(targets, ((0, 0), (1, 0)))[:, :-1], jnp.int32),
        "decoder_target_tokens": jnp.array(targets, jnp.int32),
        "decoder_loss_weights": jnp.ones((BATCH, 16), jnp.float32),
    }


@pytest.fixture(scope="module")
def tiny():
    return init(tiny_config())


def test_parameter_tree_is_the_golden():
    """Names, shapes and logical axes; PARTI_UPDATE_GOLDENS=1 writes a new golden after a change."""
    tree = {
        "/".join(path): {"shape": list(shape), "axes": list(names)}
        for path, (shape, names) in sorted(parameter_axes(tiny_config()).items())
    }
    if os.environ.get("PARTI_UPDATE_GOLDENS"):
        lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in tree.items())
        GOLDEN.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    assert tree == json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "layers, emb_dim, num_heads, millions",
    [
        ((12, 12), 1024, 16, 386.7),
        ((12, 36), 1024, 16, 789.3),
        ((12, 36), 2048, 32, 3088.6),
        ((16, 64), 4096, 64, 20539.0),
    ],
    ids=["350m", "750m", "3b", "20b"],
)
def test_sizes_of_the_paper(layers, emb_dim, num_heads, millions):
    config = network.TextToImageConfig(
        emb_dim=emb_dim,
        num_heads=num_heads,
        head_dim=64,
        mlp_dim=4 * emb_dim,
        num_encoder_layers=layers[0],
        num_decoder_layers=layers[1],
    )
    count = model.TextToImageModel(config).num_params(shapes(config, 1)) / 1e6
    assert count == pytest.approx(millions, rel=0.005)


def test_loss_is_the_mean_over_weighted_positions(tiny, batch):
    family, params = tiny
    weights = batch["decoder_loss_weights"].at[0].set(0.0)

    @jax.jit
    def run(params):
        loss, metrics = family.loss_fn(params, batch | {"decoder_loss_weights": weights}, None)
        return loss, metrics, family.score_batch(params, batch), family.logits(params, batch)

    loss, metrics, scores, logits = run(params)
    assert logits.shape == (BATCH, 16, 128) and logits.dtype == jnp.float32
    np.testing.assert_allclose(loss, -scores[1:].mean() / 16, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"].merge(metrics["loss"]).compute(), loss, rtol=1e-6)
    assert loss == pytest.approx(np.log(128), abs=0.3)  # at the start of training
    assert set(metrics) == {"loss", "cross_entropy", "z_loss", "accuracy"}


def test_a_token_changes_only_what_can_see_it(tiny, batch):
    family, params = tiny
    logits = jax.jit(lambda batch: family.logits(params, batch))
    before = logits(batch)
    inputs = batch["decoder_input_tokens"]
    after = logits(batch | {"decoder_input_tokens": inputs.at[:, 5].set(inputs[:, 5] % 20 + 1)})
    changed = np.any(np.abs(before - after) > 1e-7, axis=(0, 2))
    # Two layers of a 3x3 window on a 4x4 grid; input 5 is row 1, column 1.
    assert not changed[:5].any()
    assert changed[[5, 6, 7, 8, 9, 10]].all()
    # One 3x3 layer sees only: itself, its right neighbour, and three in the row below.
    one, one_params = init(tiny_config(num_decoder_layers=1))
    logits = jax.jit(
        lambda inputs: one.logits(one_params, batch | {"decoder_input_tokens": inputs})
    )
    difference = logits(inputs) - logits(inputs.at[:, 5].set(inputs[:, 5] % 20 + 1))
    changed = np.flatnonzero(np.any(np.abs(difference) > 1e-7, axis=(0, 2)))
    np.testing.assert_array_equal(changed, [5, 6, 8, 9, 10])


def test_padding_of_the_caption_is_not_seen(tiny, batch):
    family, params = tiny

    def gradient(params):
        return jax.grad(lambda p: family.loss_fn(p, batch, None)[0])(params)["encoder"]

    encoder = jax.jit(gradient)(params)
    assert np.all(encoder["token_embedding"]["embedding"][0] == 0)  # id 0 is padding
    assert np.all(encoder["positions"]["embedding"][5] == 0)  # every caption is shorter
    assert np.all(np.any(encoder["positions"]["embedding"][:5] != 0, axis=-1))


@pytest.mark.parametrize(
    "local_window, changes",
    [
        (3, {}),
        (5, {"scan_layers": False}),
        ((5, 3), {"num_encoder_layers": 2, "num_stages": 2, "remat": "full"}),
    ],
)
def test_a_network_in_blocks_is_that_under_whole_masks(local_window, changes, monkeypatch):
    if "num_stages" in changes:
        changes = changes | {"pipeline_microbatches": 2}
    config = tiny_config(grid_size=16, local_window=local_window, **changes)
    tiny, params = init(config)
    rng = np.random.default_rng(0)
    text = rng.integers(3, 32, (2, TEXT_LENGTH)).astype(np.int32)
    tokens = rng.integers(0, 21, (2, 256)).astype(np.int32)

    def loss(params):
        logits = tiny._training_network.apply({"params": params}, text, tokens)
        return jnp.sum(jnp.sin(logits)), logits

    def run(has_whole_mask):
        lowered = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params)
        assert ("256x256xi1" in lowered.as_text()) == has_whole_mask
        (_, logits), slopes = lowered.compile()(params)
        return logits, slopes

    got, found = run(has_whole_mask=False)
    monkeypatch.setattr(masks, "local_blocks", lambda *args: None)
    want, slopes = run(has_whole_mask=True)
    np.testing.assert_allclose(got, want, atol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(slopes))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), found, slopes)


def test_dropout_needs_an_rng_and_changes_the_loss(batch):
    family, params = init(tiny_config(dropout_rate=0.3))
    run = jax.jit(lambda rng: family.loss_fn(params, batch, rng)[0])
    first, again, other = (run(jax.random.PRNGKey(seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert first != jax.jit(lambda: family.eval_fn(params, batch)[0])()


def test_eight_devices_agree_with_one(tiny, batch):
    family, params = tiny

    def loss_and_gradient(params, batch):
        return jax.value_and_grad(lambda p: family.loss_fn(p, batch, None)[0])(params)

    want, want_gradient = jax.jit(loss_and_gradient)(params, batch)
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"))
    rules = (("batch", "data"), ("heads", "model"), ("mlp", "model"), ("vocab", "model"))
    rules += (("embed", None), ("kv", None), ("length", None), ("layers", None))

    sharded = {}
    for path, (_, names) in parameter_axes(family.config).items():
        sharding = NamedSharding(mesh, nn.logical_to_mesh_axes(names, rules))
        leaf = traverse_util.flatten_dict(params)[path]
        sharded[path] = jax.device_put(leaf, sharding)
    kernel = sharded[("decoder", "logits_kernel")]
    assert kernel.addressable_shards[0].data.shape == (32, 64)
    placed = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        got, gradient = jax.jit(loss_and_gradient)(traverse_util.unflatten_dict(sharded), placed)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, want_gradient)


def test_overfits_eight_pairs_and_draws_them_back(batch):
    config = tiny_config(local_window=(3, 0), scan_layers=False)
    family, params = init(config)
    optimizer = optax.adam(3e-3)

    def step(carry, _):
        params, state = carry
        loss, gradient = jax.value_and_grad(lambda p: family.loss_fn(p, batch, None)[0])(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), loss

    @jax.jit
    def train(params):
        carry = (params, optimizer.init(params))
        return jax.lax.scan(step, carry, None, length=250)

    (params, _), losses = train(params)
    assert losses[-1] < 0.05 < 4 < losses[0]
    settings = sampling.SamplingSettings(temperature=0.0, guidance_scale=1.0)
    keys = sampling.image_keys(0, ["a caption"] * BATCH, 1)
    draw = jax.jit(
        lambda p: family.sample({"params": p}, batch["encoder_input_tokens"], keys, settings)
    )
    np.testing.assert_array_equal(draw(params)[:, 0], batch["decoder_target_tokens"] - 1)


def test_configs_that_do_not_go_together():
    with pytest.raises(ValueError, match="local_window lists 3 windows for 2 decoder layers"):
        tiny_config(local_window=[3, 3, 3])
    with pytest.raises(ValueError, match="local_window is 4; it must be 0"):
        tiny_config(local_window=4)
    with pytest.raises(ValueError, match="dropout_rate is 1.5"):
        tiny_config(dropout_rate=1.5)
    with pytest.raises(ValueError, match="dtype is 'float8'"):
        tiny_config(dtype="float8")
    config = tiny_config(grid_size=3)
    with pytest.raises(ValueError, match="images of 16 tokens, but grid_size 3 means 9"):
        model.TextToImageModel(config).num_params(shapes(tiny_config()))
    assert hash(tiny_config(local_window=[3, 0])) == hash(tiny_config(local_window=(3, 0)))
