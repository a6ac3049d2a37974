# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parti.models.layers import transformer
from parti.models.text_to_image import (
    decode_order,
    guidance,
    model,
    network,
    sampling,
    token_choice,
)

GRID, CODES, TEXT_LENGTH = 4, 20, 6
TEXT = jnp.array([[5, 6, 7, 1, 0, 0], [8, 9, 1, 0, 0, 0], [9, 3, 4, 5, 1, 0]], jnp.int32)
NAMES = ["first", "second", "third"]


@functools.cache
def tiny(local_window=3, scan_layers=True, shift="raster"):
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
        shift=shift,
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
    "local_window, scan_layers, shift, stagger, queue",
    [
        (0, True, "raster", GRID, 1),
        (3, True, "raster", GRID, 1),
        (3, False, "raster", GRID, 1),
        ((0, 3), True, "raster", GRID, 1),
        (5, False, "row", GRID, 1),
        (3, True, "row", 1, 1),
        ((5, 3), False, "row", 2, 1),
        (3, False, "row", 1, 2),
        ((1, 5), True, "row", 2, 4),
    ],
)
def test_cached_logits_equal_teacher_forcing(local_window, scan_layers, shift, stagger, queue):
    """Three prompts x two rows; each is followed by its row of the null caption."""
    family, params = tiny(local_window, scan_layers, shift)
    tokens = np.random.default_rng(0).integers(0, CODES, (12 * queue, GRID * GRID))
    inputs = jnp.asarray(shifted(tokens), jnp.int32)
    null = jnp.asarray(sampling.null_caption(TEXT_LENGTH))
    variables, decoder = {"params": params}, family.network
    if scan_layers:
        decoder = network.PartiTransformer(family.config.unrolled)
        variables = transformer.unrolled(variables)
    order = decode_order.DecodeOrder((GRID, GRID), stagger, queue)
    positions = order.steps.row * GRID + order.steps.column
    queued = inputs.reshape(12, -1)[:, positions].swapaxes(0, 1)  # [steps, rows, lanes]

    @jax.jit
    def run():
        apply = functools.partial(decoder.apply, variables)
        cross = [apply(text, method="prepare") for text in (TEXT, null)]
        visible = [TEXT != 0, null != 0]

        def step(caches, given):
            tokens, where = given
            logits, caches = apply(
                tokens, where, order, caches, cross, visible, method="decode_step"
            )
            return caches, logits

        caches = network.empty_caches(family.config, order, 12)
        _, cached = jax.lax.scan(step, caches, (queued, jax.tree.map(jnp.asarray, order.steps)))
        prompts, nulls = jnp.repeat(TEXT, 2, axis=0), jnp.repeat(null, 6, axis=0)
        captions = jnp.stack([prompts, nulls], axis=1).reshape(12, -1)
        captions = jnp.repeat(captions, queue, axis=0)
        return cached, apply(captions, inputs)

    cached, full = run()
    assert np.std(full) > 0.3
    found = np.zeros((queue * GRID * GRID, 12, full.shape[-1]), np.float32)
    for when, lane in np.argwhere(order.steps.is_active):
        found[positions[when, lane]] = cached[when, :, lane]
    found = found.swapaxes(0, 1).reshape(full.shape)
    np.testing.assert_allclose(found, full, atol=2e-4)


@pytest.mark.parametrize("local_window, queue", [(1, 1), (3, 2), ((3, 5), 1)])
def test_a_wavefront_draws_what_raster_order_draws(local_window, queue):
    """Greedy and sampled, with guidance, top-k and top-p."""
    changes = {"local_window": local_window, "shift": "row"}
    keys = sampling.image_keys(3, NAMES, 4)
    for settings in (
        sampling.SamplingSettings(temperature=0, guidance_scale=3.0),
        sampling.SamplingSettings(guidance_scale=2.0, top_k=15, top_p=0.95),
    ):
        wave = dataclasses.replace(settings, decode_order="wavefront", queue=queue)
        want, got = (draw(TEXT, keys, each, **changes) for each in (settings, wave))
        np.testing.assert_array_equal(got, want)


def test_of_what_is_shifted_within_rows_the_row_s_last_token_is_no_input():
    """The first input of a row is the start id, whatever stands at the end of the row above."""
    family, params = tiny(3, False, "row")
    tokens = np.ones((1, GRID * GRID), np.int32)
    changed = tokens.copy()
    changed[0, GRID] = 7  # the input of (1, 0): the token at (0, 3)
    logits = jax.jit(lambda tokens: family.network.apply({"params": params}, TEXT[:1], tokens))
    np.testing.assert_array_equal(logits(tokens), logits(changed))
    other, params = tiny(3, False)
    raster = jax.jit(lambda tokens: other.network.apply({"params": params}, TEXT[:1], tokens))
    assert np.any(raster(tokens) != raster(changed))


@pytest.mark.parametrize("changes", [{}, {"shift": "row", "local_window": (3, 0)}])
def test_a_model_that_no_wavefront_draws_is_refused(changes):
    family, params = tiny(**changes)
    settings = sampling.SamplingSettings(decode_order="wavefront")
    with pytest.raises(ValueError, match="needs a generator that was trained with SHIFT = 'row'"):
        family.sample({"params": params}, TEXT, sampling.image_keys(0, NAMES, 2), settings)


def test_a_queue_divides_the_samples():
    family, params = tiny(shift="row")
    settings = sampling.SamplingSettings(decode_order="wavefront", queue=3)
    with pytest.raises(ValueError, match="a queue of 3 does not divide 4 samples"):
        family.sample({"params": params}, TEXT, sampling.image_keys(0, NAMES, 4), settings)


def test_cache_holds_only_the_rows_in_reach():
    config = network.TextToImageConfig(num_decoder_layers=2, local_window=(11, 0))  # 32 x 32

    def shapes(stagger, num_images):
        order = decode_order.DecodeOrder((32, 32), stagger, num_images)
        caches = jax.eval_shape(lambda: network.empty_caches(config, order, 7))
        return [cache.key.shape for cache in caches]

    assert shapes(32, 1) == [(7, 8, 6 * 32, 64), (7, 8, 32 * 32, 64)]
    assert shapes(5, 2) == [(7, 8, 12 * 32 + 1, 64), (7, 8, 39 * 32 + 1, 64)]


def test_guidance_formula():
    conditional, unconditional = np.random.default_rng(0).normal(size=(2, 3, 5))
    got = guidance.guided_logits(conditional, unconditional, 3.0)
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


@pytest.mark.parametrize("over, number", [("rows", 4), ("tokens", 16)])
def test_guidance_schedules(over, number):
    fraction = (np.arange(number) + 0.5) / number
    for schedule, weight in {
        "constant": np.ones(number),
        "linear": fraction,
        "cosine": 0.5 - 0.5 * np.cos(np.pi * fraction),
        "interval:0.25:0.5": (np.arange(number) // (number // 4) == 1),
        "interval:0:1": np.ones(number),
    }.items():
        want = np.repeat(1 + 4 * weight, 16 // number)
        np.testing.assert_allclose(guidance.scales(5, schedule, over, 4), want, rtol=1e-6)
    with pytest.raises(ValueError, match=f"0.51:0.53: none of the {number} {over}"):
        guidance.scales(5, "interval:0.51:0.53", over, 4)


def teacher_forced(text, tokens):
    family, params = tiny()
    apply = jax.jit(lambda text: family.network.apply({"params": params}, text, shifted(tokens)))
    return np.asarray(apply(text))[..., 1 : CODES + 1]


@pytest.mark.parametrize("order", ["raster", "wavefront"])
def test_a_schedule_guides_each_token_by_its_place(order):
    """Of greedy tokens; the wavefront draws them in other steps."""
    changes = {"shift": "row"} if order == "wavefront" else {}
    settings = sampling.SamplingSettings(
        temperature=0, guidance_scale=6.0, guidance_schedule="interval:0.5:1", decode_order=order
    )
    keys = sampling.image_keys(0, NAMES, 1)
    tokens = draw(TEXT, keys, settings, **changes)[:, 0]
    family, params = tiny(**changes)
    apply = jax.jit(lambda text: family.network.apply({"params": params}, text, shifted(tokens)))
    null = jnp.repeat(sampling.null_caption(TEXT_LENGTH), 3, axis=0)
    conditional, unconditional = (np.asarray(apply(x))[..., 1 : CODES + 1] for x in (TEXT, null))
    guided = unconditional + 6.0 * (conditional - unconditional)
    is_late = (np.arange(GRID**2) >= GRID**2 // 2)[:, None]
    want = np.where(is_late, guided, conditional).argmax(-1)
    np.testing.assert_array_equal(tokens, want)
    assert np.any(want != guided.argmax(-1)) and np.any(want != conditional.argmax(-1))


def test_a_negative_prompt_is_guided_away_from():
    """Each prompt from its own; the null caption as a negative prompt changes nothing."""
    settings = sampling.SamplingSettings(temperature=0, guidance_scale=3.0)
    keys = sampling.image_keys(0, NAMES, 1)
    null = jnp.asarray(sampling.null_caption(TEXT_LENGTH))
    negative = jnp.concatenate([TEXT[1:], null])
    own = sampling.PromptSettings.of([settings] * 3, GRID, negative)
    tokens = draw_with(TEXT, keys, own)[:, 0]
    guided = teacher_forced(negative, tokens)
    guided = guided + 3.0 * (teacher_forced(TEXT, tokens) - guided)
    np.testing.assert_array_equal(tokens, guided.argmax(-1))
    without = draw(TEXT, keys, settings)[:, 0]
    np.testing.assert_array_equal(tokens[2], without[2])
    assert all(np.any(tokens[:2] != without[:2], axis=1))


@functools.cache
def jitted_with():
    family, params = tiny()
    return jax.jit(lambda text, keys, own: family.sample({"params": params}, text, keys, own))


def draw_with(text, keys, own):
    return np.asarray(jitted_with()(text, keys, own))


def test_settings_of_each_prompt():
    """Bitwise those of a batch that has them all, in any order, and of one compiled program."""
    make = functools.partial(sampling.SamplingSettings, top_k=15, top_p=0.95)
    settings = [
        make(guidance_scale=5.0, top_k=1),
        make(guidance_schedule="linear", guidance_scale=4.0, temperature=2.0),
        make(top_p=0.3, guidance_schedule="cosine", guidance_over="tokens"),
    ]
    assert len({each.program for each in settings}) == 1
    keys = sampling.image_keys(0, NAMES, 2)
    before = jitted_with()._cache_size()
    mixed = draw_with(TEXT, keys, sampling.PromptSettings.of(settings, GRID))
    for i, each in enumerate(settings):
        same = draw_with(TEXT, keys, sampling.PromptSettings.of([each] * 3, GRID))
        np.testing.assert_array_equal(mixed[i], same[i])
        np.testing.assert_array_equal(same, draw(TEXT, keys, each))
        assert np.any(same != mixed)
    assert jitted_with()._cache_size() == before + 1
    order = np.array([2, 0, 1])
    shuffled = sampling.PromptSettings.of([settings[i] for i in order], GRID)
    np.testing.assert_array_equal(draw_with(TEXT[order], keys[order], shuffled), mixed[order])


def test_prompts_of_several_programs_are_no_batch():
    for change in ({"temperature": 0}, {"top_k": 3}, {"top_p": 0.5}, {"guidance_scale": 1}):
        other = sampling.SamplingSettings(**change)
        with pytest.raises(ValueError, match="prompts of one batch need one program"):
            sampling.PromptSettings.of([sampling.SamplingSettings(), other], GRID)


def test_settings_of_other_prompts_are_refused():
    family, params = tiny()
    own = sampling.PromptSettings.of([sampling.SamplingSettings()] * 2, GRID)
    with pytest.raises(ValueError, match="settings of prompts must have the shapes"):
        family.sample({"params": params}, TEXT, sampling.image_keys(0, NAMES, 2), own)


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
    one = jnp.ones(1)
    tokens = token_choice.choose_tokens(jnp.tile(logits, (1000, 1)), uniform, one)
    np.testing.assert_allclose(np.bincount(tokens, minlength=5) / 1000, np.exp(logits), atol=2e-3)
    edges = jnp.array([0.0, np.nextafter(np.float32(1), np.float32(0))])
    edge_tokens = token_choice.choose_tokens(jnp.tile(logits, (2, 1)), edges, one)
    np.testing.assert_array_equal(edge_tokens, [1, 3])  # never one of probability 0


@pytest.mark.parametrize("top_k, top_p", [(0, 0.9), (0, 0.3), (5, 1.0), (7, 0.5), (100, 0.999)])
def test_filter_equals_numpy(top_k, top_p):
    logits = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32) * 2
    logits[:, :3] = -np.inf
    used = jnp.array(top_k) if top_k else None, jnp.array(top_p) if top_p < 1 else None
    got = np.asarray(token_choice.filter_logits(jnp.asarray(logits), *used))
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
        ({"decode_order": "spiral"}, "decode_order must be one of raster, wavefront; got spiral"),
        ({"queue": 0}, "queue must be >= 1; got 0"),
        ({"queue": 2}, "queue is of decode_order 'wavefront'; it must be 1 in raster order; got 2"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be >= 0; got nan"),
        ({"guidance_scale": float("inf")}, "guidance_scale must be >= 0; got inf"),
        ({"guidance_schedule": "sine"}, "guidance_schedule must be constant, .* got 'sine'"),
        ({"guidance_schedule": "interval:0.5:0.5"}, "with 0 <= BEGIN < END <= 1; got 'interval"),
        ({"guidance_schedule": "interval:0"}, "interval:BEGIN:END with .* got 'interval:0'"),
        ({"guidance_over": "steps"}, "guidance_over must be rows or tokens; got 'steps'"),
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
