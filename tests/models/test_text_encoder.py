# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The text encoder and its pretraining: sizes, packing, both objectives, sharding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from quick_jit import once

from parti.models import base
from parti.models.text_encoder import model as text_encoder
from parti.models.text_encoder import network
from parti.models.text_to_image import model as text_to_image
from parti.models.text_to_image import network as text_to_image_network

BATCH, LENGTH, VOCAB = 8, 8, 64
TINY = network.TextEncoderConfig(
    text_vocab_size=VOCAB,
    text_length=LENGTH,
    emb_dim=32,
    num_heads=2,
    head_dim=16,
    mlp_dim=64,
    num_encoder_layers=1,
    dropout_rate=0.0,
    dtype="float32",
    scan_layers=False,
    image_tower=network.ImageTowerConfig(
        image_size=8,
        patch_size=4,
        emb_dim=16,
        num_heads=2,
        head_dim=8,
        mlp_dim=32,
        num_layers=1,
        scan_layers=False,
    ),
    embedding_dim=8,
)
CONTRAST_ALONE = {"image_encoder", "image_pooler", "image_projection", "text_projection"}
CONTRAST_ALONE |= {"log_logit_scale"}


@pytest.fixture(scope="module")
def batch() -> dict[str, jax.Array]:
    """Returns 8 sequences of two texts each, 4 and 3 tokens long, and 8 pairs."""
    rng = np.random.default_rng(0)
    targets = rng.integers(4, VOCAB, (BATCH, LENGTH))
    targets[:, [3, 6]], targets[:, 7] = 1, 0
    weights = np.zeros((BATCH, LENGTH), np.float32)
    weights[:, [1, 5]] = 1.0
    tokens = np.where(weights > 0, 3, targets)
    colours = rng.uniform(-1, 1, (BATCH, 1, 1, 3)).astype(np.float32)
    texts = np.zeros((BATCH, LENGTH), np.int32)
    for i in range(BATCH):
        texts[i, : 2 + i % 3] = [10 + i, 20, 1, 0][: 2 + i % 3]
    rows = np.ones((BATCH, 1), np.int32)
    return {
        "bert_input_tokens": jnp.asarray(tokens, jnp.int32),
        "bert_target_tokens": jnp.asarray(targets, jnp.int32),
        "bert_loss_weights": jnp.asarray(weights),
        "bert_segment_ids": jnp.asarray(rows * [1, 1, 1, 1, 2, 2, 2, 0]),
        "bert_positions": jnp.asarray(rows * [0, 1, 2, 3, 0, 1, 2, 0]),
        "images": jnp.broadcast_to(jnp.asarray(colours), (BATCH, 8, 8, 3)),
        "text_tokens": jnp.asarray(texts),
    }


def init(model, batch):
    shapes = {name: batch[name].shape for name in model.feature_types}
    initial = functools.partial(model.get_initial_variables, input_shapes=shapes)
    return once(lambda rng: initial(rng)["params"])(jax.random.PRNGKey(0))


@pytest.fixture(scope="module")
def both(batch):
    model = text_encoder.TextEncoderModel(TINY)
    return model, init(model, batch)


def value(metrics, name: str) -> float:
    return float(metrics[name].compute())


def test_the_encoder_is_that_of_parti(both, batch):
    """The same names, shapes, axes and, from the same parameters, states."""
    _, params = both
    sizes = {f.name: getattr(TINY, f.name) for f in dataclasses.fields(TINY)}
    shared = {f.name for f in dataclasses.fields(text_to_image_network.TextToImageConfig)}
    config = text_to_image_network.TextToImageConfig(
        **{name: size for name, size in sizes.items() if name in shared},
        codebook_size=20,
        grid_size=2,
        num_decoder_layers=1,
    )
    parti = text_to_image.TextToImageModel(config)
    image = (BATCH, 4)
    names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights")
    shapes = {"encoder_input_tokens": (BATCH, LENGTH), **dict.fromkeys(names, image)}
    found = {}

    def build(rng, model, shapes):
        made = model.get_initial_variables(rng, shapes)
        found[model] = made["params_axes"]["encoder"]
        return made["params"]["encoder"]

    ours = text_encoder.TextEncoderModel(TINY)
    own_shapes = {name: batch[name].shape for name in ours.feature_types}
    trees = [
        jax.eval_shape(functools.partial(build, model=m, shapes=s), jax.random.PRNGKey(0))
        for m, s in ((parti, shapes), (ours, own_shapes))
    ]
    assert jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])
    assert jax.tree.leaves(trees[0]) == jax.tree.leaves(trees[1])
    axes = [{k: v.names for k, v in traverse_util.flatten_dict(found[m]).items()} for m in found]
    assert axes[0] == axes[1]
    encoded = parti.network.apply(
        {"params": {"encoder": params["encoder"]}},
        batch["text_tokens"],
        method=lambda module, tokens: module.encoder(tokens),
    )
    states = once(ours.encode_texts)({"params": params}, batch["text_tokens"])
    np.testing.assert_allclose(encoded, states, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "emb_dim", "num_heads", "blocks"),
    [(12, 1024, 16, 151.0), (12, 2048, 32, 604.0), (16, 4096, 64, 3221.0)],
    ids=["350m and 750m", "3b", "20b"],
)
def test_sizes_of_the_paper(layers, emb_dim, num_heads, blocks):
    """The blocks of Table 1 (4 d^2 + 2 d d_mlp a layer), norms apart."""
    config = network.TextEncoderConfig(
        emb_dim=emb_dim, num_heads=num_heads, mlp_dim=4 * emb_dim, num_encoder_layers=layers
    )
    model = text_encoder.TextEncoderModel(config, contrastive_weight=0.0)
    shapes = dict.fromkeys(model.feature_types, (1, 128))
    params = jax.eval_shape(
        lambda: model.get_initial_variables(jax.random.PRNGKey(0), shapes)["params"]
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(params["encoder"]["stack"])) / 1e6
    assert count == pytest.approx(blocks, rel=0.005)


def test_a_packed_sequence_is_each_text_alone(both, batch):
    model, params = both
    logits = once(functools.partial(model.network.apply, method="token_logits"))

    def run(rows):
        names = ("bert_input_tokens", "bert_segment_ids", "bert_positions")
        return logits({"params": params}, *(rows[name] for name in names))

    packed = run(batch)
    for start, end in ((0, 4), (4, 7)):
        alone = {name: jnp.zeros_like(batch[name]) for name in batch if name.startswith("bert_")}
        alone = {
            name: rows.at[:, : end - start].set(batch[name][:, start:end])
            for name, rows in alone.items()
        }
        np.testing.assert_allclose(
            run(alone)[:, : end - start], packed[:, start:end], rtol=1e-4, atol=1e-5
        )
    other = batch["bert_input_tokens"].at[:, 4:].set(9)
    changed = np.abs(run(batch | {"bert_input_tokens": other}) - packed).max(axis=(0, 2))
    assert (changed[:4] == 0).all() and (changed[4:7] > 1e-3).all()
    # A plain text needs neither segments nor positions.
    encode = once(functools.partial(model.network.apply, method="encode"))
    text = batch["text_tokens"]
    of_one = (text != 0).astype(jnp.int32)
    counted = jnp.broadcast_to(jnp.arange(LENGTH), text.shape)
    plain = encode({"params": params}, text)
    with_segments = encode({"params": params}, text, True, of_one, counted)
    np.testing.assert_allclose(
        jnp.where(of_one[..., None], plain, 0),
        jnp.where(of_one[..., None], with_segments, 0),
        atol=1e-5,
    )


def test_losses_are_those_of_numpy(both, batch):
    """Each formula, from the network's own outputs; weights multiply the losses."""
    model, params = both
    logits, (images, texts, scale) = once(model.network.apply)({"params": params}, batch)
    logits = np.asarray(logits, np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets, weights = (np.asarray(batch[f"bert_{k}"]) for k in ("target_tokens", "loss_weights"))
    chosen = np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
    bert = -(chosen * weights).sum() / weights.sum()
    accuracy = ((logits.argmax(-1) == targets) * weights).sum() / weights.sum()
    cosines = float(scale) * np.asarray(images, np.float64) @ np.asarray(texts, np.float64).T

    def of_rows(x):
        return -(np.diag(x) - np.log(np.exp(x).sum(1))).mean()

    contrast = (of_rows(cosines) + of_rows(cosines.T)) / 2
    weighted = text_encoder.TextEncoderModel(TINY, bert_weight=0.5, contrastive_weight=2.0)
    for other, want in ((model, bert + contrast), (weighted, 0.5 * bert + 2 * contrast)):
        loss, metrics = once(other.eval_fn)(params, batch)
        assert float(loss) == pytest.approx(want, rel=1e-5) == value(metrics, "loss")
        assert value(metrics, "bert_loss") == pytest.approx(bert, rel=1e-5)
        assert value(metrics, "contrastive_loss") == pytest.approx(contrast, rel=1e-5)
        assert value(metrics, "masked_accuracy") == pytest.approx(accuracy)
    assert float(scale) == pytest.approx(1 / 0.07, rel=1e-5)
    assert bert == pytest.approx(np.log(VOCAB), abs=0.5)  # at the start of training


def test_a_rate_takes_packed_texts_evenly(both, batch):
    """Half of them: every second one; the pairs are all there."""
    model, params = both
    half = text_encoder.TextEncoderModel(TINY, bert_rate=0.5)
    _, metrics = once(half.eval_fn)(params, batch)
    bert = {k: v for k, v in batch.items() if k.startswith("bert_")}
    alone = text_encoder.TextEncoderModel(TINY, contrastive_weight=0.0)
    own = {k: params[k] for k in ("encoder", "bert_head")}
    kept, _ = once(alone.eval_fn)(own, {k: v[1::2] for k, v in bert.items()})
    assert value(metrics, "bert_loss") == pytest.approx(float(kept), rel=1e-5)
    _, whole = once(model.eval_fn)(params, batch)
    assert value(metrics, "contrastive_loss") == pytest.approx(value(whole, "contrastive_loss"))
    assert metrics["bert_loss"].count == whole["bert_loss"].count / 2
    third = text_encoder.TextEncoderModel(TINY, bert_rate=0.375)
    assert once(third.eval_fn)(params, batch)[1]["bert_loss"].count == 3 * 2
    with pytest.raises(ValueError, match="BERT_RATE 3/8 of a batch of 4 is no whole number"):
        third.eval_fn(params, {k: v[:4] for k, v in batch.items()})


def test_only_masked_positions_count(both, batch):
    model, params = both
    eval_fn = once(model.eval_fn)
    before = value(eval_fn(params, batch)[1], "bert_loss")
    targets = batch["bert_target_tokens"]
    unseen = jnp.where(batch["bert_loss_weights"] > 0, targets, 5)
    assert value(eval_fn(params, batch | {"bert_target_tokens": unseen})[1], "bert_loss") == before
    seen = jnp.where(batch["bert_loss_weights"] > 0, 5, targets)
    assert value(eval_fn(params, batch | {"bert_target_tokens": seen})[1], "bert_loss") != before


@pytest.mark.parametrize("objective", ["bert", "contrast"])
def test_an_objective_alone_has_neither_parameters_nor_features_of_the_other(
    objective, both, batch
):
    _, whole = both
    name = "contrastive_weight" if objective == "bert" else "bert_weight"
    alone = text_encoder.TextEncoderModel(TINY, **{name: 0.0})
    params = init(alone, batch)
    other = CONTRAST_ALONE if objective == "bert" else {"bert_head"}
    assert params.keys() == whole.keys() - other
    given = {k: v for k, v in batch.items() if k.startswith("bert_") == (objective == "bert")}
    loss, metrics = once(alone.eval_fn)({k: whole[k] for k in params}, given)
    _, together = once(both[0].eval_fn)(whole, batch)
    named = "bert_loss" if objective == "bert" else "contrastive_loss"
    assert float(loss) == pytest.approx(value(together, named), rel=1e-5)
    assert metrics.keys() <= together.keys() and named in metrics
    assert alone.compares_examples == (objective == "contrast")
    prediction = once(alone.predict_batch)(params, given)
    assert prediction.shape == ((BATCH, LENGTH) if objective == "bert" else (BATCH,))


def test_padding_makes_no_difference_but_every_token_does(both):
    model, params = both
    embed = once(functools.partial(model.text_embeddings, {"params": params}))
    text = jnp.asarray([[5, 6, 1]])
    embedding = embed(text)
    np.testing.assert_allclose(embedding, embed(jnp.pad(text, ((0, 0), (0, 3)))), atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(embedding, axis=-1), 1.0, rtol=1e-5)
    for i in range(3):
        assert np.abs(embed(text.at[0, i].set(20)) - embedding).max() > 1e-4


def test_overfits_a_batch(both, batch):
    model, params = both
    optimizer = optax.adam(3e-3)

    def step(carry, _):
        params, state = carry
        gradient, metrics = jax.grad(model.loss_fn, has_aux=True)(params, batch, None)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), metrics

    @jax.jit
    def train(params):
        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=150)

    (params, _), _ = train(params)
    _, metrics = once(model.eval_fn)(params, batch)
    assert value(metrics, "loss") < 0.1
    for name in ("masked_accuracy", "image_to_text_accuracy", "text_to_image_accuracy"):
        assert value(metrics, name) == 1.0
    tokens = once(text_encoder.TextEncoderModel(TINY, contrastive_weight=0.0).predict_batch)
    bert = {k: v for k, v in batch.items() if k.startswith("bert_")}
    bert_params = {k: params[k] for k in ("encoder", "bert_head")}
    masked = np.asarray(batch["bert_loss_weights"]) > 0
    np.testing.assert_array_equal(
        np.asarray(tokens(bert_params, bert))[masked],
        np.asarray(batch["bert_target_tokens"])[masked],
    )


def test_eight_devices_agree_with_one(both, batch):
    """The contrastive loss is over the global batch, on a mesh of 4 x 2."""
    model, params = both

    def loss_and_gradient(params, batch):
        return jax.value_and_grad(lambda p: model.loss_fn(p, batch, None)[0])(params)

    alone = once(loss_and_gradient)(params, batch)
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"))
    rules = (("batch", "data"), ("heads", "model"), ("mlp", "model"), ("vocab", "model"))
    rules += (("embed", None), ("kv", None), ("length", None), ("layers", None))
    shapes = {name: batch[name].shape for name in batch}
    boxed = jax.eval_shape(
        lambda: model.network.init(
            jax.random.PRNGKey(0), {k: jnp.zeros(s, batch[k].dtype) for k, s in shapes.items()}
        )
    )["params"]
    shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, rules)
    placed = jax.device_put(params, shardings)
    table = placed["encoder"]["token_embedding"]["embedding"]
    assert table.addressable_shards[0].data.shape == (VOCAB // 2, 32)
    sharded = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        together = once(loss_and_gradient)(placed, sharded)
    np.testing.assert_allclose(alone[0], together[0], rtol=1e-5)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(compare, alone[1], together[1])


def test_dtype_remat_scan_and_dropout(both, batch):
    """bfloat16 and rematerialisation change nothing but rounding; scanned layers have one tree."""
    model, params = both
    want, _ = once(model.eval_fn)(params, batch)
    tower = dataclasses.replace(TINY.image_tower, dtype="bfloat16", remat="full")
    config = dataclasses.replace(TINY, dtype="bfloat16", remat="full", image_tower=tower)
    low = text_encoder.TextEncoderModel(config)

    def loss_and_gradient(params):
        return jax.value_and_grad(lambda p: low.loss_fn(p, batch, None)[0])(params)

    loss, gradient = once(loss_and_gradient)(params)
    assert float(loss) == pytest.approx(float(want), rel=0.03) and loss.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {np.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    dropped = text_encoder.TextEncoderModel(dataclasses.replace(TINY, dropout_rate=0.3))
    run = once(lambda rng: dropped.loss_fn(params, batch, rng)[0])
    first, again, other = (run(jax.random.PRNGKey(seed)) for seed in (0, 0, 1))
    assert first == again != other and first != want
    scanned = text_encoder.TextEncoderModel(dataclasses.replace(TINY, scan_layers=True))
    shapes = {name: batch[name].shape for name in batch}
    found = jax.eval_shape(
        lambda: scanned.get_initial_variables(jax.random.PRNGKey(0), shapes)["params"]
    )
    assert found["encoder"]["stack"]["layers"]["mlp"]["wi"]["kernel"].shape == (1, 32, 64)


def test_mistakes_are_named(both, batch):
    model, params = both
    variables = {"params": params}
    with pytest.raises(ValueError, match="BERT_WEIGHT is 0.0 and CONTRASTIVE_WEIGHT 0.0"):
        text_encoder.TextEncoderModel(TINY, bert_weight=0.0, contrastive_weight=0.0)
    for rate in (1.5, 0.0, 0.0004):
        with pytest.raises(ValueError, match=f"BERT_RATE is {rate}; it must be at least 1/1000"):
            text_encoder.TextEncoderModel(TINY, bert_rate=rate)
    with pytest.raises(ValueError, match="dropout_rate is 1.0"):
        dataclasses.replace(TINY, dropout_rate=1.0)
    with pytest.raises(ValueError, match="8, 8, 3"):
        model.image_embeddings(variables, jnp.zeros((1, 16, 16, 3)))
    with pytest.raises(ValueError, match="at most 8"):
        model.text_embeddings(variables, jnp.zeros((1, 9), jnp.int32))
    for name in ("bert_input_tokens", "bert_target_tokens", "text_tokens"):
        wrong = np.full((BATCH, LENGTH), VOCAB)
        with pytest.raises(ValueError, match=rf"{name}\[0, 0\] is 64, .* 0 to 63"):
            model.check_batch({**batch, name: wrong})
    with pytest.raises(ValueError, match="needs the batch features"):
        model.get_initial_variables(jax.random.PRNGKey(0), {"images": (1, 8, 8, 3)})
    assert isinstance(model, base.Model)
