# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parti.models.layers import transformer
from parti.models.text_to_image import model, network, sampling

GRID, CODES, TEXT_LENGTH = 4, 20, 6
TEXT = jnp.array([[5, 6, 7, 1, 0, 0], [8, 9, 1, 0, 0, 0], [9, 3, 4, 5, 1, 0]], jnp.int32)
NAMES = ["first", "second", "third"]


@functools.cache
def tiny(local_window=3, scan_layers=True):
    config = network.TextToImageConfig(
        text_vocab_size=16,
        text_length=8,
        codebook_size=CODES,
        grid_size=GRID,
        emb_dim=16,
        num_heads=2,
        head_dim=8,
        mlp_dim=32,
        num_encoder_layers=1,
        num_decoder_layers=2,
        local_window=local_window,
        dtype="float32",
        scan_layers=scan_layers,
    )
    family = model.TextToImageModel(config)
    shapes = {name: (1, GRID * GRID) for name in family.feature_types}
    shapes["encoder_input_tokens"] = (1, TEXT_LENGTH)
    initial = jax.jit(lambda rng: family.get_initial_variables(rng, shapes)["params"])
    # Larger than at the start of training, so that positions and captions matter.
    scale = lambda leaf: 6 * leaf if leaf.ndim > 1 else leaf  # noqa: E731
    return family, jax.tree.map(scale, initial(jax.random.PRNGKey(0)))


@functools.cache
def jitted(settings, **changes):
    family, params = tiny(**changes)
    return jax.jit(lambda text, keys: family.sample({"params": params}, text, keys, settings))


def draw(text, keys, settings, **changes):
    return np.asarray(jitted(settings, **changes)(text, keys))


def shifted(tokens):
    """Codebook indices [..., length] to decoder inputs."""
    return np.pad(tokens + 1, ((0, 0), (1, 0)))[:, :-1]


@pytest.mark.parametrize(
    "local_window, scan_layers", [(0, True), (3, True), (3, False), ((0, 3), True), (5, False)]
)
def test_cached_logits_equal_teacher_forcing(local_window, scan_layers):
    """Three prompts x two samples; each is followed by its row of the null caption."""
    family, params = tiny(local_window, scan_layers)
    tokens = np.random.default_rng(0).integers(0, CODES, (12, GRID * GRID))
    inputs = jnp.asarray(shifted(tokens), jnp.int32)
    null = jnp.asarray(sampling.null_caption(TEXT_LENGTH))
    variables, decoder = {"params": params}, family.network
    if scan_layers:
        decoder = network.PartiTransformer(family.config.unrolled)
        variables = transformer.unrolled(variables)

    @jax.jit
    def run():
        apply = functools.partial(decoder.apply, variables)
        cross = [apply(text, method="prepare") for text in (TEXT, null)]
        visible = [TEXT != 0, null != 0]

        def step(caches, position):
            logits, caches = apply(
                inputs[:, position], position, caches, cross, visible, method="decode_step"
            )
            return caches, logits

        caches = network.empty_caches(family.config, 12)
        _, cached = jax.lax.scan(step, caches, jnp.arange(GRID * GRID))
        prompts, nulls = jnp.repeat(TEXT, 2, axis=0), jnp.repeat(null, 6, axis=0)
        captions = jnp.stack([prompts, nulls], axis=1).reshape(12, -1)
        return cached.swapaxes(0, 1), apply(captions, inputs)

    cached, full = run()
    assert np.std(full) > 0.3
    np.testing.assert_allclose(cached, full, atol=2e-4)


def test_cache_holds_only_the_rows_in_reach():
    config = network.TextToImageConfig(num_decoder_layers=2, local_window=(11, 0))  # 32 x 32
    local, dense = jax.eval_shape(lambda: network.empty_caches(config, 7))
    assert local.key.shape == (7, 8, 6 * 32, 64)
    assert dense.key.shape == (7, 8, 32 * 32, 64)


def test_guidance_formula():
    conditional, unconditional = np.random.default_rng(0).normal(size=(2, 3, 5))
    got = sampling.guided_logits(conditional, unconditional, 3.0)
    np.testing.assert_allclose(got, unconditional + 3.0 * (conditional - unconditional))


def test_greedy_sample_is_the_guided_argmax_at_each_position():
    settings = sampling.SamplingSettings(temperature=0.0, guidance_scale=3.0)
    tokens = draw(TEXT, sampling.image_keys(0, NAMES, 1), settings)[:, 0]
    family, params = tiny()
    null = jnp.repeat(sampling.null_caption(TEXT_LENGTH), 3, axis=0)
    apply = jax.jit(lambda text: family.network.apply({"params": params}, text, shifted(tokens)))
    conditional, unconditional = np.asarray(apply(TEXT)), np.asarray(apply(null))
    guided = unconditional + 3.0 * (conditional - unconditional)
    codes = guided[..., 1 : CODES + 1]
    np.testing.assert_array_equal(tokens, codes.argmax(-1))
    assert np.any(codes.argmax(-1) != conditional[..., 1 : CODES + 1].argmax(-1))


def test_guidance_one_is_conditional():
    """Scale 1 skips the unconditional rows; a scale next to 1 does not, and draws the same."""
    keys = sampling.image_keys(0, NAMES, 2)
    conditional = draw(TEXT, keys, sampling.SamplingSettings(guidance_scale=1.0))
    nearly = draw(TEXT, keys, sampling.SamplingSettings(guidance_scale=1.0 + 1e-7))
    np.testing.assert_array_equal(conditional, nearly)


def test_top_one_is_greedy():
    keys = sampling.image_keys(0, NAMES, 2)
    greedy = draw(TEXT, keys, sampling.SamplingSettings(temperature=0.0))
    np.testing.assert_array_equal(greedy, draw(TEXT, keys, sampling.SamplingSettings(top_k=1)))
    np.testing.assert_array_equal(greedy, draw(TEXT, keys, sampling.SamplingSettings(top_p=1e-6)))
    np.testing.assert_array_equal(greedy[:, 0], greedy[:, 1])


def test_an_image_depends_only_on_its_prompt_and_key():
    settings = sampling.SamplingSettings(guidance_scale=2.0, top_k=15, top_p=0.95)
    every = draw(TEXT, sampling.image_keys(7, NAMES, 3), settings)
    assert np.any(every[:, 0] != every[:, 1])
    # Another order.
    order = [2, 0, 1]
    keys = sampling.image_keys(7, [NAMES[i] for i in order], 3)
    np.testing.assert_array_equal(draw(TEXT[jnp.array(order)], keys, settings), every[order])
    # Alone, fewer samples, and a caption padded to another length.
    keys = sampling.image_keys(7, ["second"], 3)[:, 1:2]
    padded = jnp.pad(TEXT[1:2], ((0, 0), (0, 2)))
    np.testing.assert_array_equal(draw(padded, keys, settings), every[1:2, 1:2])
    # Another seed.
    other = draw(TEXT, sampling.image_keys(8, NAMES, 3), settings)
    assert np.any(other != every)


def test_only_codes_are_drawn():
    keys = sampling.image_keys(0, NAMES, 40)
    tokens = draw(TEXT, keys, sampling.SamplingSettings(temperature=100.0, guidance_scale=1.0))
    assert tokens.shape == (3, 40, GRID * GRID)
    assert tokens.dtype == np.int32
    assert set(np.unique(tokens)) == set(range(CODES))


def test_tokens_are_drawn_with_their_probability():
    logits = jnp.log(jnp.array([0.0, 0.1, 0.6, 0.3, 0.0]))
    uniform = (jnp.arange(1000) + 0.5) / 1000
    tokens = sampling.choose_tokens(
        jnp.tile(logits, (1000, 1)), uniform, sampling.SamplingSettings()
    )
    np.testing.assert_allclose(np.bincount(tokens, minlength=5) / 1000, np.exp(logits), atol=2e-3)
    edges = jnp.array([0.0, np.nextafter(np.float32(1), np.float32(0))])
    edge_tokens = sampling.choose_tokens(
        jnp.tile(logits, (2, 1)), edges, sampling.SamplingSettings()
    )
    np.testing.assert_array_equal(edge_tokens, [1, 3])  # never one of probability 0


@pytest.mark.parametrize("top_k, top_p", [(0, 0.9), (0, 0.3), (5, 1.0), (7, 0.5), (100, 0.999)])
def test_filter_equals_numpy(top_k, top_p):
    logits = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32) * 2
    logits[:, :3] = -np.inf
    got = np.asarray(sampling.filter_logits(jnp.asarray(logits), top_k, top_p))
    for row, found in zip(logits, got):
        order = np.argsort(-row)
        kept = order[:top_k] if top_k else order
        probs = np.exp(row[kept]) / np.exp(row[kept]).sum()
        if top_p < 1:
            kept = kept[: np.searchsorted(np.cumsum(probs), top_p) + 1]
        kept = [i for i in kept if np.isfinite(row[i])]
        assert set(np.flatnonzero(np.isfinite(found))) == set(kept)
        np.testing.assert_array_equal(found[kept], row[kept])


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"temperature": -0.1}, r"temperature must be >= 0 \(0 is greedy\); got -0.1"),
        ({"top_k": -1}, "top_k must be >= 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\]"),
        ({"guidance_scale": -1.0}, "guidance_scale must be >= 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be >= 0; got nan"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ValueError, match=message):
        sampling.SamplingSettings(**setting)


def test_shapes_that_do_not_go_together():
    family, params = tiny()
    with pytest.raises(ValueError, match=r"text_tokens \(3, 6\) and sample_keys \(2, 4, 2\)"):
        family.sample({"params": params}, TEXT, np.zeros((2, 4, 2), np.uint32))
    with pytest.raises(ValueError, match=r"text_tokens\[0, 0\] is 16, .* 0 to 15"):
        family.sample({"params": params}, jnp.full((3, 6), 16), np.zeros((3, 4, 2), np.uint32))


def test_image_key_is_the_same_everywhere():
    key = sampling.image_key(0, "a red ball", 3)
    assert key.dtype == np.uint32
    np.testing.assert_array_equal(key, [2683664409, 431669481])  # sha256 of '[0, "a red ball", 3]'
    keys = sampling.image_keys(0, ["a red ball", "a dog"], 4)
    assert keys.shape == (2, 4, 2)
    np.testing.assert_array_equal(keys[0, 3], key)
    assert len({tuple(k) for k in keys.reshape(-1, 2)}) == 8


def test_predict_batch_draws_one_image_per_caption():
    family, params = tiny()
    predict = jax.jit(lambda rng: family.predict_batch(params, {"encoder_input_tokens": TEXT}, rng))
    tokens = predict(jax.random.PRNGKey(0))
    assert tokens.shape == (3, GRID * GRID)
    assert np.any(tokens != predict(jax.random.PRNGKey(1)))
