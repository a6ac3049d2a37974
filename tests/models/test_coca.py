# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The reranker: sizes, masks, learning to match pairs and to write captions, and sharding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from quick_jit import once

from parti.models import base, losses
from parti.models.coca import model as coca
from parti.models.coca import network

TINY = network.CocaConfig(
    image_size=8,
    patch_size=4,
    text_vocab_size=32,
    text_length=6,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_image_layers=1,
    num_text_layers=1,
    embedding_dim=8,
    scan_layers=False,
)
WHOLE = dataclasses.replace(TINY, num_multimodal_layers=1, num_caption_queries=3)


@pytest.fixture(scope="module")
def model() -> coca.CocaModel:
    return coca.CocaModel(TINY)


@pytest.fixture(scope="module")
def whole() -> coca.CocaModel:
    return coca.CocaModel(WHOLE)


@pytest.fixture(scope="module")
def batch() -> dict[str, jax.Array]:
    """Returns 8 pairs: each text names the colour of its image."""
    colours = jax.random.uniform(jax.random.key(3), (8, 1, 1, 3), minval=-1.0, maxval=1.0)
    texts = np.zeros((8, 6), np.int32)
    for i in range(8):
        texts[i, : 2 + i % 3] = [10 + i, 1, 0, 0][: 2 + i % 3]
    return {
        "images": jnp.broadcast_to(colours, (8, 8, 8, 3)),
        "text_tokens": jnp.asarray(texts),
    }


@pytest.fixture(scope="module")
def variables(model, batch) -> dict:
    return initial(model, batch)


@pytest.fixture(scope="module")
def whole_variables(whole, batch) -> dict:
    return initial(whole, batch)


def initial(model: coca.CocaModel, batch: dict[str, jax.Array]) -> dict:
    shapes = {name: value.shape for name, value in batch.items()}
    variables = functools.partial(model.get_initial_variables, input_shapes=shapes)
    return once(variables)(jax.random.PRNGKey(0))


def trained(model: coca.CocaModel, params: dict, batch: dict[str, jax.Array], steps: int) -> dict:
    """Returns the parameters after some steps on one batch."""
    optimizer = optax.adam(3e-3)

    @jax.jit
    def train_step(params, state):
        grads = jax.grad(model.loss_fn, has_aux=True)(params, batch, None)[0]
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = train_step(params, state)
    return params


def base_params(**changes: int) -> dict:
    """Returns the shapes of CoCa-Base's parameters."""
    model = coca.CocaModel(network.CocaConfig(**changes))
    shapes = {"images": (1, 288, 288, 3), "text_tokens": (1, 128)}
    return jax.eval_shape(
        lambda: model.get_initial_variables(jax.random.PRNGKey(0), shapes)["params"]
    )


def test_base_size():
    params = base_params()
    count = {k: sum(x.size for x in jax.tree.leaves(v)) / 1e6 for k, v in params.items()}
    assert 85.5 < count["image_encoder"] < 86.5, "CoCa table 1: 86M"
    blocks = params["text_decoder"]["stack"]["layers"]
    kernels = sum(x.size for x in jax.tree.leaves(blocks) if x.ndim > 2) / 1e6
    assert round(kernels, 1) == 84.9, "12 x (4 x 768^2 + 2 x 768 x 3072)"


def test_base_size_of_all_parts():
    """CoCa table 1 counts neither the poolers nor the projections, which are 5.7M more."""
    params = base_params(text_vocab_size=64_000, num_multimodal_layers=12)
    count = {k: sum(x.size for x in jax.tree.leaves(v)) / 1e6 for k, v in params.items()}
    decoder = count["text_decoder"] + count["multimodal_decoder"]
    assert count["image_encoder"] == pytest.approx(86, rel=5e-3)
    assert decoder == pytest.approx(297, rel=5e-3)
    assert count["image_encoder"] + decoder == pytest.approx(383, rel=5e-3)
    rest = ("image_pooler", "caption_pooler", "image_projection", "text_projection")
    assert sum(count[name] for name in rest) == pytest.approx(5.71, abs=0.01)
    assert params["caption_pooler"]["queries"].shape == (256, 768)
    assert params["multimodal_decoder"]["logits_kernel"].shape == (768, 64_000), "not tied"


def test_the_contrastive_half_is_that_of_older_bundles():
    """What version 0.2 computed, with dropout too, of the same keys."""
    model = coca.CocaModel(dataclasses.replace(TINY, dropout_rate=0.1))
    texts = [[5, 6, 1, 0, 0, 0], [7, 1, 0, 0, 0, 0], [9, 8, 7, 6, 5, 1], [3, 4, 5, 1, 0, 0]]
    pixels = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
    batch = {"images": pixels, "text_tokens": np.array(texts, np.int32)}
    params = initial(model, batch)["params"]
    assert sorted(params) == [
        *("image_encoder", "image_pooler", "image_projection"),
        *("log_logit_scale", "text_decoder", "text_projection"),
    ]
    scores = once(model.score_batch)(params, batch)
    np.testing.assert_allclose(scores, [-0.0792548, 0.1025273, 0.4954836, 0.6378568], atol=1e-5)
    loss = once(model.loss_fn)
    assert float(loss(params, batch, None)[0]) == pytest.approx(2.554316, rel=1e-5)
    assert float(loss(params, batch, jax.random.PRNGKey(1))[0]) == pytest.approx(5.002825, rel=1e-5)


def test_mask_by_hand():
    mask = network.text_mask(jnp.asarray([[7, 8, 0]]))[0, 0].astype(int)
    expected = [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 0, 0],  # a padding position, which nobody sees
        [1, 1, 0, 1],  # [CLS]: the text and itself
    ]
    np.testing.assert_array_equal(mask, expected)


def test_embeddings_have_unit_norm_and_score_is_their_cosine(model, batch, variables):
    images = once(model.image_embeddings)(variables, batch["images"])
    texts = once(model.text_embeddings)(variables, batch["text_tokens"])
    assert images.shape == texts.shape == (8, 8)
    np.testing.assert_allclose(jnp.linalg.norm(images, axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(texts, axis=-1), 1.0, rtol=1e-5)
    score = once(model.score)(variables, batch["images"], batch["text_tokens"])
    np.testing.assert_allclose(score, jnp.sum(images * texts, -1), rtol=1e-5)


def test_padding_makes_no_difference_but_every_token_does(model, variables):
    text = jnp.asarray([[5, 6, 1]])
    embed = once(functools.partial(model.text_embeddings, variables))
    embedding = embed(text)
    padded = embed(jnp.pad(text, ((0, 0), (0, 3))))
    np.testing.assert_allclose(embedding, padded, atol=1e-6)
    for i in range(3):
        other = embed(text.at[0, i].set(20))
        assert np.abs(other - embedding).max() > 1e-4


def test_learns_to_match_pairs(model, batch, variables):
    first = once(model.eval_fn)(variables["params"], batch)[1]
    assert float(first["logit_scale"].compute()) == pytest.approx(1 / 0.07, rel=1e-5)
    params = trained(model, variables["params"], batch, 100)
    metrics = once(model.eval_fn)(params, batch)[1]
    # Measured with six seeds: 0.0003 to 0.005 of it, and both accuracies 1 from step 60 on.
    assert float(metrics["loss"].compute()) < 0.2 * float(first["loss"].compute())
    assert float(metrics["image_to_text_accuracy"].compute()) == 1.0
    assert float(metrics["text_to_image_accuracy"].compute()) == 1.0
    score = once(model.score_batch)
    swapped = {**batch, "text_tokens": batch["text_tokens"][::-1]}
    assert (np.asarray(score(params, batch)) > np.asarray(score(params, swapped))).all()


@pytest.fixture(scope="module")
def captioner(whole, batch, whole_variables) -> dict:
    """Variables of the whole model after it has learnt a batch."""
    return {"params": trained(whole, whole_variables["params"], batch, 150)}


def test_learns_to_write_captions(whole, batch, captioner):
    loss, metrics = once(whole.eval_fn)(captioner["params"], batch)
    found = {name: float(value.compute()) for name, value in metrics.items()}
    assert found["caption_accuracy"] == 1.0 and found["image_to_text_accuracy"] == 1.0
    sum_by_hand = found["contrastive_loss"] + 2.0 * found["captioning_loss"]
    assert float(loss) == pytest.approx(sum_by_hand, rel=1e-5) == found["loss"]
    captions = once(whole.caption)(captioner, batch["images"])
    np.testing.assert_array_equal(captions, batch["text_tokens"])
    likelihood = once(whole.caption_log_likelihood)
    right = likelihood(captioner, batch["images"], batch["text_tokens"])
    wrong = likelihood(captioner, batch["images"], batch["text_tokens"][::-1])
    assert (np.asarray(right.total) > np.asarray(wrong.total)).all()
    shown = whole.summaries(captioner["params"], batch)
    np.testing.assert_array_equal(shown.texts["captions"]["model"], batch["text_tokens"])
    np.testing.assert_array_equal(shown.pictures["captions"][:, 0], batch["images"])


def test_the_likelihood_of_a_caption_by_hand(whole, batch, whole_variables):
    arrays = whole_variables, batch["images"], batch["text_tokens"]
    found = once(whole.caption_log_likelihood)(*arrays)
    apply = functools.partial(whole.network.apply, method="caption_logits")
    logits = np.asarray(once(apply)({"params": whole_variables["params"]}, *arrays[1:]), np.float64)
    texts = np.asarray(batch["text_tokens"])
    for row in range(8):
        length = np.count_nonzero(texts[row])
        log_z = np.log(np.exp(logits[row, :length]).sum(-1))
        total = (logits[row, np.arange(length), texts[row, :length]] - log_z).sum()
        assert found.total[row] == pytest.approx(total, rel=1e-5)
        assert found.per_token[row] == pytest.approx(total / length, rel=1e-5)
    padded = jnp.pad(batch["text_tokens"][:, :4], ((0, 0), (0, 2)))
    np.testing.assert_array_equal(padded, texts)  # no text is longer than 4
    short = once(whole.caption_log_likelihood)(*arrays[:2], batch["text_tokens"][:, :4])
    np.testing.assert_allclose(short.total, found.total, rtol=1e-5)
    by_hand = -float(found.total.sum()) / np.count_nonzero(texts)
    loss = once(whole.eval_fn)(whole_variables["params"], batch)[1]["captioning_loss"].compute()
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)


def test_a_token_is_predicted_from_the_image_and_what_stands_before_it(whole, whole_variables):
    apply = functools.partial(whole.network.apply, method="caption_logits")
    logits = once(functools.partial(apply, {"params": whole_variables["params"]}))
    image = jnp.linspace(-1, 1, 8 * 8 * 3).reshape(1, 8, 8, 3)
    text = jnp.asarray([[5, 6, 7, 8, 9, 1]])
    first = logits(image, text)
    for position in range(6):
        changed = np.abs(logits(image, text.at[0, position].set(20)) - first).max(-1)[0]
        assert (changed[: position + 1] == 0).all()
        assert (changed[position + 1 :] > 1e-5).all()
    assert (np.abs(logits(image[:, ::-1], text) - first).max(-1) > 1e-6).all()


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_caption_is_the_greedy_one_of_teacher_forcing(batch, scan_layers):
    layers = {"num_text_layers": 2, "num_multimodal_layers": 2, "scan_layers": scan_layers}
    model = coca.CocaModel(dataclasses.replace(WHOLE, **layers))
    variables = initial(model, batch)
    # Larger, so that captions differ and not all are endless.
    variables = jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, variables)
    captions = np.asarray(once(model.caption)(variables, batch["images"]))
    apply = functools.partial(model.network.apply, method="caption_logits")
    logits = once(apply)({"params": variables["params"]}, batch["images"], captions)
    best = np.argmax(np.asarray(logits)[..., 1:32], axis=-1) + 1
    for row, caption in enumerate(captions):
        ends = np.flatnonzero(caption == 1)
        length = ends[0] + 1 if len(ends) else 6
        np.testing.assert_array_equal(caption[:length], best[row, :length])
        assert (caption[length:] == 0).all()
    assert len(np.unique(captions, axis=0)) > 1


def test_a_drawn_caption_depends_on_its_key_and_image_alone(whole, batch, whole_variables):
    keys = jax.random.split(jax.random.PRNGKey(1), 8)
    draw = once(whole.caption)
    drawn = np.asarray(draw(whole_variables, batch["images"], keys))
    again = np.asarray(draw(whole_variables, batch["images"][::-1], keys[::-1]))[::-1]
    np.testing.assert_array_equal(drawn, again)
    other = np.asarray(draw(whole_variables, batch["images"], keys[::-1]))
    assert (drawn != other).any() and drawn.max() < 32
    cold = once(functools.partial(whole.caption, temperature=1e-4))
    greedy = once(whole.caption)(whole_variables, batch["images"])
    np.testing.assert_array_equal(cold(whole_variables, batch["images"], keys), greedy)


def loss_and_grads(model: coca.CocaModel, params: dict, batch: dict, rng: jax.Array | None = None):
    return jax.value_and_grad(lambda p: model.loss_fn(p, batch, rng)[0])(params)


def assert_equal_trees(a: dict, b: dict) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), a, b)


@pytest.mark.parametrize("parts", [2, 8])
def test_parts_of_a_batch_have_the_loss_and_gradient_of_the_whole(
    whole, batch, whole_variables, parts
):
    params = whole_variables["params"]
    one = once(functools.partial(loss_and_grads, whole))(params, batch)
    cached = coca.CocaModel(WHOLE, contrastive_microbatches=parts)
    several = once(functools.partial(loss_and_grads, cached))(params, batch)
    np.testing.assert_allclose(one[0], several[0], rtol=1e-5)
    assert_equal_trees(one[1], several[1])
    metrics = [once(m.eval_fn)(params, batch)[1] for m in (whole, cached)]
    for name in metrics[0]:
        values = [float(m[name].compute()) for m in metrics]
        assert values[0] == pytest.approx(values[1], rel=1e-5), name


def test_parts_with_dropout_by_hand(batch):
    """Part i has the key i folded in, forward and backward, and rows i, i + 2, ..."""
    config = dataclasses.replace(WHOLE, dropout_rate=0.3)
    model = coca.CocaModel(config, contrastive_microbatches=2)
    params, rng = initial(model, batch)["params"], jax.random.PRNGKey(7)

    def by_hand(params):
        embeddings = [[None] * 8, [None] * 8]
        total = count = 0.0
        for part in range(2):
            rows = np.arange(part, 8, 2)
            texts = batch["text_tokens"][rows]
            outputs = model.network.apply(
                *({"params": params}, batch["images"][rows], texts, False),
                rngs={"dropout": jax.random.fold_in(rng, part)},
            )
            for i, row in enumerate(rows.tolist()):
                embeddings[0][row] = outputs.image_embeddings[i]
                embeddings[1][row] = outputs.text_embeddings[i]
            log_probs = losses.token_log_probs(outputs.caption_logits, texts)
            total += jnp.sum(jnp.where(texts != 0, log_probs, 0.0))
            count += jnp.sum(texts != 0)
        contrast = losses.contrastive_loss(*map(jnp.stack, embeddings), outputs.logit_scale)
        return contrast.loss - 2.0 * total / count

    expected = once(jax.value_and_grad(by_hand))(params)
    found = once(functools.partial(loss_and_grads, model))(params, batch, rng)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert_equal_trees(found[1], expected[1])
    without = once(functools.partial(loss_and_grads, model))(params, batch)
    assert abs(float(without[0] - found[0])) > 1e-3


def test_parts_need_less_memory(batch):
    config = dataclasses.replace(WHOLE, image_size=16, num_image_layers=2)
    many = {
        "images": jax.ShapeDtypeStruct((64, 16, 16, 3), jnp.float32),
        "text_tokens": jax.ShapeDtypeStruct((64, 6), jnp.int32),
    }
    params = jax.eval_shape(
        lambda: coca.CocaModel(config).get_initial_variables(
            jax.random.PRNGKey(0), {name: x.shape for name, x in many.items()}
        )["params"]
    )

    def temporaries(parts: int) -> int:
        model = coca.CocaModel(config, contrastive_microbatches=parts)
        step = once(functools.partial(loss_and_grads, model))
        return step.lower(params, many).compile().memory_analysis().temp_size_in_bytes

    one, eight = temporaries(1), temporaries(8)
    assert eight < 0.3 * one, (one, eight)


def test_logit_scale_is_clipped(model, batch, variables):
    params = {**variables["params"], "log_logit_scale": jnp.asarray(50.0)}
    _, metrics = once(model.eval_fn)(params, batch)
    assert float(metrics["logit_scale"].compute()) == pytest.approx(100.0, rel=1e-5)


def on_eight(batch: dict[str, jax.Array], params: dict) -> tuple[dict, dict]:
    """Returns a batch divided over eight devices, and parameters that each of them has."""
    mesh = Mesh(jax.devices()[:8], ("data",))
    sharded = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    return sharded, jax.device_put(params, NamedSharding(mesh, PartitionSpec()))


def test_eight_devices_agree_with_one(model, batch, variables):
    """The loss is over the global batch: each image meets the texts of all devices."""
    compute = functools.partial(loss_and_grads, model)
    alone = once(compute)(variables["params"], batch)
    sharded, params = on_eight(batch, variables["params"])
    together = once(compute)(params, sharded)
    np.testing.assert_allclose(alone[0], together[0], rtol=1e-5)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(compare, alone[1], together[1])


def test_eight_devices_agree_with_one_in_parts(whole, batch, whole_variables):
    """A device's rows stay with it: of the batch, nothing is sent but the embeddings."""
    twice = {name: jnp.concatenate([x, 0.5 * x[::-1]]).astype(x.dtype) for name, x in batch.items()}
    twice["text_tokens"] = jnp.concatenate([batch["text_tokens"]] * 2)
    alone = once(functools.partial(loss_and_grads, whole))(whole_variables["params"], twice)
    cached = coca.CocaModel(WHOLE, contrastive_microbatches=2)
    sharded, params = on_eight(twice, whole_variables["params"])
    compiled = once(functools.partial(loss_and_grads, cached)).lower(params, sharded).compile()
    together = compiled(params, sharded)
    np.testing.assert_allclose(alone[0], together[0], rtol=1e-5)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(compare, alone[1], together[1])
    program = compiled.as_text()
    assert "all-to-all" not in program and "collective-permute" not in program
    gathered = [line for line in program.splitlines() if "all-gather(" in line]
    assert all("f32[16,8]" in line for line in gathered), gathered


def test_mistakes_are_named(model, batch, variables):
    with pytest.raises(ValueError, match="8, 8, 3"):
        model.image_embeddings(variables, jnp.zeros((1, 16, 16, 3)))
    with pytest.raises(ValueError, match="uint8"):
        model.image_embeddings(variables, jnp.zeros((1, 8, 8, 3), jnp.uint8))
    with pytest.raises(ValueError, match="at most 6"):
        model.text_embeddings(variables, jnp.zeros((1, 7), jnp.int32))
    for wrong in (-1, 32):
        with pytest.raises(ValueError, match=rf"text_tokens\[0, 0\] is {wrong}, .* 0 to 31"):
            model.check_batch({**batch, "text_tokens": np.full((1, 6), wrong)})
        with pytest.raises(ValueError, match=rf"text_tokens\[0, 0\] is {wrong}, .* 0 to 31"):
            model.text_embeddings(variables, jnp.full((1, 6), wrong))
    with pytest.raises(ValueError, match="patch_size"):
        network.CocaConfig(image_size=100, patch_size=18)
    with pytest.raises(ValueError, match="num_caption_queries is 0; it must be at least 1"):
        network.CocaConfig(num_caption_queries=0)
    with pytest.raises(ValueError, match="no multimodal half.*num_multimodal_layers"):
        model.caption(variables, batch["images"])
    with pytest.raises(ValueError, match="no multimodal half.*num_multimodal_layers"):
        model.caption_log_likelihood(variables, batch["images"], batch["text_tokens"])
    with pytest.raises(ValueError, match="CONTRASTIVE_MICROBATCHES is 0"):
        coca.CocaModel(TINY, contrastive_microbatches=0)
    uneven = coca.CocaModel(TINY, contrastive_microbatches=3)
    with pytest.raises(ValueError, match="a batch of 8 examples .* 3 equal parts"):
        uneven.loss_fn(variables["params"], batch, None)


def test_roles(model, whole):
    assert isinstance(model, base.Reranker) and isinstance(whole, base.Captioner)
    assert whole.has_captions and not model.has_captions
