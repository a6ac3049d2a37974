# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The codebook against plain numpy: nearest codes, gradients, data start and revival."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from parti.models.image_tokenizer import codebook
from parti.models.layers import norms

NUM_CODES, DIM = 16, 4


def new_codebook(**kwargs) -> codebook.Codebook:
    return codebook.Codebook(num_codes=NUM_CODES, dim=DIM, **kwargs)


def start(module: codebook.Codebook, latents: jax.Array) -> dict:
    variables = module.init(jax.random.key(0), latents)
    return jax.tree.map(
        lambda x: x.unbox() if hasattr(x, "unbox") else x,
        variables,
        is_leaf=lambda x: hasattr(x, "unbox"),
    )


def step(module: codebook.Codebook, variables: dict, latents: jax.Array, seed: int = 0):
    """Returns (output, variables with new stats) of one training call."""
    output, new = module.apply(
        variables,
        latents,
        deterministic=False,
        mutable=["stats"],
        rngs={"codebook": jax.random.key(seed)},
    )
    return output, {**variables, **new}


@pytest.fixture
def latents() -> jax.Array:
    return jax.random.normal(jax.random.key(7), (3, 10, DIM))


def test_quantiser_equals_plain_numpy(latents):
    module = new_codebook()
    variables = start(module, latents)
    output = module.apply(variables, latents)

    z = np.asarray(latents) / np.linalg.norm(latents, axis=-1, keepdims=True)
    codes = np.asarray(variables["params"]["embedding"])
    codes = codes / np.linalg.norm(codes, axis=-1, keepdims=True)
    distances = ((z[:, :, None, :] - codes) ** 2).sum(-1)
    tokens = distances.argmin(-1)
    np.testing.assert_array_equal(output.image_tokens, tokens)
    assert output.image_tokens.dtype == jnp.int32
    np.testing.assert_allclose(output.quantized, codes[tokens], atol=1e-6)
    expected = distances.min(-1).mean()
    np.testing.assert_allclose(output.codebook_loss, expected, rtol=1e-5)
    np.testing.assert_allclose(output.commitment_loss, expected, rtol=1e-5)
    share = np.bincount(tokens.reshape(-1), minlength=NUM_CODES) / tokens.size
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    np.testing.assert_allclose(output.perplexity, np.exp(entropy), rtol=1e-5)


def test_lookup_gives_the_codes_that_were_chosen(latents):
    module = new_codebook()
    variables = start(module, latents)
    output = module.apply(variables, latents)
    looked_up = module.apply(variables, output.image_tokens, method="lookup")
    np.testing.assert_allclose(looked_up, output.quantized, atol=1e-6)


def test_gradients_go_where_they_should(latents):
    module = new_codebook()
    variables = start(module, latents)

    def pick(name, project=jnp.sum):
        def scalar(params, latents):
            output = module.apply({**variables, "params": params}, latents)
            return project(getattr(output, name))

        by_code, by_latent = jax.grad(scalar, argnums=(0, 1))(variables["params"], latents)
        return np.abs(by_code["embedding"]), np.abs(by_latent)

    by_code, by_latent = pick("codebook_loss")
    used = np.unique(module.apply(variables, latents).image_tokens)
    assert (by_code[used].max(-1) > 0).all()
    assert by_code[np.setdiff1d(np.arange(NUM_CODES), used)].max(initial=0) == 0
    assert by_latent.max() == 0
    by_code, by_latent = pick("commitment_loss")
    assert by_code.max() == 0
    assert by_latent.max() > 0
    weights = jax.random.normal(jax.random.key(3), latents.shape)
    by_code, by_latent = pick("quantized", lambda x: jnp.sum(x * weights))
    assert by_code.max() == 0
    assert by_latent.max() > 0


def test_gradient_is_straight_through(latents):
    module = new_codebook()
    variables = start(module, latents)
    weights = jax.random.normal(jax.random.key(3), latents.shape)

    def quantized(latents):
        return jnp.sum(weights * module.apply(variables, latents).quantized)

    def not_quantized(latents):
        return jnp.sum(weights * norms.unit_norm(latents))

    np.testing.assert_allclose(
        jax.grad(quantized)(latents), jax.grad(not_quantized)(latents), rtol=1e-5
    )


def test_first_step_starts_every_code_from_the_batch(latents):
    module = new_codebook()
    variables = start(module, latents)
    output, variables = step(module, variables, latents)
    codes = module.apply(variables, method="codes")
    z = norms.unit_norm(latents).reshape(-1, DIM)
    similarity = np.asarray(codes @ z.T)
    np.testing.assert_allclose(similarity.max(-1), 1.0, atol=1e-5)
    assert len(np.unique(similarity.argmax(-1))) == NUM_CODES, "drawn without replacement"
    assert len(np.unique(output.image_tokens)) == NUM_CODES


def test_start_with_fewer_latents_than_codes():
    module = new_codebook()
    few = jax.random.normal(jax.random.key(1), (1, 5, DIM))
    _, variables = step(module, start(module, few), few)
    codes = module.apply(variables, method="codes")
    assert np.isfinite(codes).all()
    assert np.asarray(codes @ norms.unit_norm(few)[0].T).max(-1).min() > 0.999


def test_usage_statistics_by_hand(latents):
    module = new_codebook(decay=0.5, revival_interval=0)
    variables = start(module, latents)
    output, variables = step(module, variables, latents)
    share = np.bincount(np.ravel(output.image_tokens), minlength=NUM_CODES) / 30
    np.testing.assert_allclose(variables["stats"]["share"], 0.5 * share, rtol=1e-6)
    assert int(variables["stats"]["steps"]) == 1
    np.testing.assert_allclose(output.usage, np.mean(0.5 * share >= 0.03 / NUM_CODES), rtol=1e-6)


def test_evaluation_leaves_the_statistics_alone(latents):
    module = new_codebook()
    variables = start(module, latents)
    _, new = module.apply(variables, latents, mutable=["stats"])
    jax.tree.map(np.testing.assert_array_equal, new["stats"], variables["stats"])


def test_revival_moves_only_unused_codes_and_only_when_due(latents):
    module = new_codebook(revival_interval=3)
    variables = start(module, latents)
    _, variables = step(module, variables, latents)
    share = jnp.full(NUM_CODES, 1 / NUM_CODES).at[5].set(0.0)
    for count, moved in ((1, []), (2, []), (3, [5])):
        stats = {**variables["stats"], "share": share, "steps": jnp.asarray(count)}
        _, after = step(module, {**variables, "stats": stats}, latents)
        change = np.abs(after["stats"]["offset"] - stats["offset"]).max(-1)
        assert np.flatnonzero(change > 0).tolist() == moved


def test_few_unused_codes_take_the_best_draws(latents):
    module = new_codebook(revival_interval=1)
    variables = start(module, latents)
    _, variables = step(module, variables, latents)
    # The codes cover all latents but three, which are far from every code.
    z = norms.unit_norm(latents).reshape(-1, DIM)
    poor = [3, 11, 27]
    codes = jnp.resize(jnp.delete(z, jnp.array(poor), axis=0), (NUM_CODES, DIM))
    dead = [12, 14, 15]
    share = jnp.full(NUM_CODES, 1 / NUM_CODES).at[jnp.array(dead)].set(0.0)
    offset = codes - variables["params"]["embedding"]
    stats = {**variables["stats"], "offset": offset, "share": share}
    batch = jnp.concatenate([codes, z[jnp.array(poor)]])[None]
    _, after = step(module, {**variables, "stats": stats}, batch)
    revived = module.apply(after, method="codes")[jnp.array(dead)]
    nearest = np.asarray(revived @ z[jnp.array(poor)].T).round(4)
    assert (nearest == 1.0).any(-1).all() and (nearest == 1.0).any(0).all(), nearest


def test_same_rng_and_batch_give_the_same_codes(latents):
    module = new_codebook()
    variables = start(module, latents)
    offsets = [step(module, variables, latents, seed)[1]["stats"]["offset"] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(offsets[0], offsets[1])
    assert np.abs(offsets[0] - offsets[2]).max() > 0


def test_recovers_from_a_collapsed_codebook_and_gradient_trains_the_codes():
    """Data in 16 clusters, every code at one point: revival and the gradient find the clusters."""
    centres = norms.unit_norm(jax.random.normal(jax.random.key(1), (NUM_CODES, DIM)))
    noise = 0.05 * jax.random.normal(jax.random.key(2), (8, NUM_CODES, DIM))
    latents = centres + noise
    module = new_codebook(revival_interval=5, decay=0.9)
    variables = start(module, latents)
    params = {"embedding": jnp.ones((NUM_CODES, DIM)) * 0.5}
    stats = {**variables["stats"], "share": jnp.eye(NUM_CODES)[0], "steps": jnp.asarray(1)}
    optimizer = optax.adam(1e-2)

    def loss_fn(params, stats, rng):
        output, new = module.apply(
            {"params": params, "stats": stats},
            latents,
            deterministic=False,
            mutable=["stats"],
            rngs={"codebook": rng},
        )
        return output.codebook_loss, (output, new["stats"])

    def train_step(carry, rng):
        params, stats, state = carry
        (loss, (output, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, stats, rng
        )
        updates, state = optimizer.update(grads, state)
        measures = (loss, output.usage, output.perplexity)
        return (optax.apply_updates(params, updates), stats, state), measures

    @jax.jit
    @jax.vmap
    def train(rng):
        start = (params, stats, optimizer.init(params))
        return jax.lax.scan(train_step, start, jax.random.split(rng, 150))[1]

    # Where two codes share a cluster and none is unused, a run stays: so several runs.
    losses, usage, perplexity = jax.tree.map(
        np.asarray, train(jax.random.split(jax.random.key(0), 8))
    )
    np.testing.assert_allclose(perplexity[:, 0], 1.0, rtol=1e-5, err_msg="they start collapsed")
    assert (usage[:, -1] == 1.0).all()
    left = losses[:, -1] / losses[:, 0]
    assert np.median(left) < 0.03 and left.max() < 0.1, left
    assert losses[:, -5:].mean() < losses[:, 60:65].mean(), "the gradient refines after revival"
