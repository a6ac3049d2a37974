# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Schedules and optimizers against their formulas in numpy."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from parti.engine.step import adafactor, optimizers


def parti_schedule(t: float) -> float:
    if t <= 5_000:
        return 4.5e-5 * t / 5_000
    if t <= 85_000:
        return 4.5e-5
    return 4.5e-5 * 0.025 ** ((min(t, 450_000) - 85_000) / 365_000)


def test_linear_ramp_exponential_decay() -> None:
    schedule = optimizers.linear_ramp_exponential_decay()
    for t in (0, 1, 2_500, 5_000, 5_001, 85_000, 85_001, 200_000, 450_000, 500_000):
        np.testing.assert_allclose(schedule(t), parti_schedule(t), rtol=1e-5)
    np.testing.assert_allclose(schedule(450_000), 1.125e-6, rtol=1e-5)
    np.testing.assert_allclose(
        jax.jit(schedule)(jnp.int32(200_000)), parti_schedule(2e5), rtol=1e-5
    )


def test_warmup_cosine() -> None:
    schedule = optimizers.warmup_cosine(2.0, warmup_steps=10, total_steps=30, final_ratio=0.1)
    for t in (0, 5, 10, 17, 30, 40):
        cosine = 0.5 * (1 + np.cos(np.pi * min(max(t - 10, 0) / 20, 1)))
        want = 2.0 * (t / 10 if t < 10 else 0.1 + 0.9 * cosine)
        np.testing.assert_allclose(schedule(t), want, rtol=1e-5)
    assert optimizers.warmup_cosine(2.0, 0, 10)(0) == 2.0


def test_warmup_linear() -> None:
    schedule = optimizers.warmup_linear(2.0, warmup_steps=10, total_steps=30, final_ratio=0.1)
    for t in (0, 5, 10, 17, 30, 40):
        fallen = min(max(t - 10, 0) / 20, 1)
        want = 2.0 * (t / 10 if t < 10 else 1 - 0.9 * fallen)
        np.testing.assert_allclose(schedule(t), want, rtol=1e-5)
    assert optimizers.warmup_linear(2.0, 0, 10)(0) == 2.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.warmup_cosine(1.0, 10, 10),
        lambda: optimizers.warmup_linear(1.0, 10, 10),
        lambda: optimizers.linear_ramp_exponential_decay(warmup_steps=9, decay_start=8),
        lambda: optimizers.linear_ramp_exponential_decay(final_ratio=0.0),
    ],
)
def test_impossible_schedules(make) -> None:
    with pytest.raises(ValueError, match="got"):
        make()


def test_weight_decay_acts_on_kernels_only() -> None:
    params = {
        "layer": {"kernel": 1, "bias": 1, "scale": 1},
        "logits_kernel": 1,
        "token_embedding": {"embedding": 1},
        "row_embedding": 1,
        "codebook": {"embedding": 1},
    }
    assert optimizers.decay_mask(params) == {
        "layer": {"kernel": True, "bias": False, "scale": False},
        "logits_kernel": True,
        "token_embedding": {"embedding": False},
        "row_embedding": False,
        "codebook": {"embedding": False},
    }
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    optimizer = optimizers.adamw(0.5, weight_decay=0.1)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_allclose(updates["scale"], 0.0)


def test_adamw_clips_the_global_norm() -> None:
    params = {"kernel": jnp.zeros(4)}
    grads = {"kernel": jnp.full(4, 100.0)}
    clipped, plain = optimizers.adamw(1.0, eps=1.0), optimizers.adamw(1.0, eps=1.0, clip_norm=0)
    # Norm 200 clipped to 1: 0.5 an entry; Adam's first step is g / (|g| + eps).
    updates, _ = clipped.update(grads, clipped.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.5 / 1.5, rtol=1e-5)
    updates, _ = plain.update(grads, plain.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -100 / 101, rtol=1e-5)


def quantize_numpy(x: np.ndarray) -> np.ndarray:
    """Returns what is left of x [m, n] after rounding to int8 with a scale for each column."""
    scale = np.abs(x).max(axis=0) / 127
    return np.round(x / np.where(scale > 0, scale, 1)) * scale


def adafactor_numpy(
    weight: np.ndarray, grads: list[np.ndarray], rate: float, decay: float, rounded: bool
) -> np.ndarray:
    """Adafactor as praxis writes it, for one matrix or vector, b1 0.9 and b2 0.96."""
    second: list = [0.0, 0.0]
    moment = np.zeros_like(weight)
    for t, grad in enumerate(grads, start=1):
        norm = np.sqrt((grad**2).sum())
        grad = grad * min(1.0, 4.0 / norm)
        d = 0.96 * (1 - 0.96 ** (t - 1)) / (1 - 0.96**t)
        square = grad**2 + 1e-30
        if weight.ndim == 2:
            second[0] = d * second[0] + (1 - d) * square.mean(1)
            second[1] = d * second[1] + (1 - d) * square.mean(0)
            step = grad * (second[0] / second[0].mean())[:, None] ** -0.5 * second[1][None] ** -0.5
        else:
            second[0] = d * second[0] + (1 - d) * square
            step = grad * second[0] ** -0.5
        step = step / max(1.0, np.sqrt((step**2).mean()))
        moment = 0.9 * moment + 0.1 * rate * step
        weight = weight - moment - decay * rate * weight
        moment = quantize_numpy(moment) if rounded else moment
    return weight


def take_steps(optimizer: optax.GradientTransformation, params, grads):
    """Returns the parameters and the state after a step for each gradient."""
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for grad in grads:
        updates, state = update(jax.tree.map(jnp.float32, grad), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("moment_dtype", ["int8", "float32"])
@pytest.mark.parametrize("shape", [(6, 8), (8,)])
def test_adafactor_against_numpy(shape, moment_dtype) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape)
    grads = [rng.normal(size=shape) * scale for scale in (1, 3, 0.2, 1, 5, 1)]
    optimizer = optimizers.adafactor(0.1, moment_dtype=moment_dtype)
    start = {"kernel": jnp.asarray(weight, jnp.float32)}
    params, _ = take_steps(optimizer, start, [{"kernel": grad} for grad in grads])
    want, unlike = (
        adafactor_numpy(weight, grads, 0.1, 4.5e-2, rounded)
        for rounded in ((True, False) if moment_dtype == "int8" else (False, True))
    )
    np.testing.assert_allclose(params["kernel"], want, rtol=1e-5, atol=2e-6)
    assert np.abs(params["kernel"] - unlike).max() > 1e-5, "rounding of the moment is seen"


def test_adafactor_takes_each_layer_of_a_scanned_stack_as_if_alone() -> None:
    rng = np.random.default_rng(1)
    shapes = {"kernel": (3, 4, 5, 6), "wo_kernel": (3, 4, 5), "bias": (3, 4), "gate": (3,)}
    scanned = {name: jnp.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
    grads = [{k: rng.normal(size=v) for k, v in shapes.items()} for _ in range(4)]
    # Layers of unlike size: one root mean square over all of them would not do.
    grads = [{k: v * np.array([1, 9, 30]).reshape(3, *[1] * (v.ndim - 1)) for k, v in g.items()}
             for g in grads]  # fmt: skip
    optimizer = optimizers.adafactor(0.1, clip_norm=0.0)
    together, _ = take_steps(optimizer, {"layers": scanned}, [{"layers": g} for g in grads])
    for i in range(3):
        alone = {f"layers_{i}": {k: v[i] for k, v in scanned.items()}}
        own = [{f"layers_{i}": {k: v[i] for k, v in g.items()}} for g in grads]
        params, _ = take_steps(optimizer, alone, own)
        for name, value in params[f"layers_{i}"].items():
            got = together["layers"][name][i]
            np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-6, err_msg=name)


def muon_numpy(weight: np.ndarray, grads: list[np.ndarray], rate: float, decay: float):
    """Muon as its authors write it, for one matrix [m, n]: Nesterov's momentum, five iterations."""
    moment = np.zeros_like(weight)
    for t, grad in enumerate(grads, start=1):
        moment = 0.95 * moment + 0.05 * grad
        x = 0.95 * moment / (1 - 0.95 ** (t + 1)) + 0.05 * grad / (1 - 0.95**t)
        x = x / np.linalg.norm(x)
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        step = 0.2 * np.sqrt(max(weight.shape)) * x
        weight = weight - rate * (step + decay * weight)
    return weight


def transformer_shapes(*layers: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of a block's parameters; `layers` comes before each."""
    shapes = {
        "query": {"kernel": (8, 2, 3)},
        "out": {"kernel": (2, 3, 8)},
        "wi": {"kernel": (8, 16)},
        "wo": {"kernel": (16, 8)},
        "norm": {"scale": (8,)},
    }
    return {k: {name: (*layers, *s) for name, s in v.items()} for k, v in shapes.items()}


def drawn(rng: np.random.Generator, shapes: dict) -> dict:
    leaf = lambda x: isinstance(x, tuple)  # noqa: E731
    return jax.tree.map(lambda s: jnp.float32(rng.normal(size=s)), shapes, is_leaf=leaf)


def test_muon_against_numpy() -> None:
    """Each kernel is orthogonalised as the matrix that it multiplies by."""
    rng = np.random.default_rng(0)
    params = drawn(rng, transformer_shapes())
    grads = [drawn(rng, transformer_shapes()) for _ in range(4)]
    optimizer = optimizers.muon(0.1, weight_decay=0.3, clip_norm=0.0)
    got, _ = take_steps(optimizer, params, grads)
    for name, matrix in {"query": (8, 6), "out": (6, 8), "wi": (8, 16), "wo": (16, 8)}.items():
        flat = [np.float64(tree[name]["kernel"]).reshape(matrix) for tree in (params, *grads)]
        want = muon_numpy(flat[0], flat[1:], 0.1, 0.3)
        found = np.asarray(got[name]["kernel"]).reshape(matrix)
        np.testing.assert_allclose(found, want, rtol=2e-4, atol=2e-5, err_msg=name)
        # No other way to read the kernel as a matrix gives this.
        updates, _ = optimizer.update(grads[0], optimizer.init(params), params)
        step = np.asarray(updates[name]["kernel"] + 0.03 * params[name]["kernel"])
        sizes = np.linalg.svd(step.reshape(matrix), compute_uv=False)
        assert sizes.max() / sizes.min() < 2.5


def test_muon_leaves_the_rest_to_adamw() -> None:
    rng = np.random.default_rng(1)
    shapes = {
        "token_embedding": {"embedding": (6, 8)},
        "positions": {"row_embedding": (6, 8)},
        "patch_projection": {"kernel": (6, 8)},
        "logits_kernel": (8, 6),
        "norm": {"scale": (8,), "bias": (8,)},
        "skip": {"kernel": (3, 3, 2, 2)},
    }
    whole = shapes | {"wi": {"kernel": (8, 16)}}
    params = drawn(rng, whole)
    grads = [drawn(rng, whole) for _ in range(3)]
    settings = {"weight_decay": 0.3, "clip_norm": 0.0}
    got, _ = take_steps(optimizers.muon(0.1, **settings), params, grads)
    rest = [{name: tree[name] for name in shapes} for tree in (params, *grads)]
    want, _ = take_steps(optimizers.adamw(0.1, **settings), rest[0], rest[1:])
    del got["wi"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)
    with pytest.raises(ValueError, match="no parameter is a kernel of attention or MLP"):
        optimizers.muon(0.1).init(rest[0])


def test_muon_takes_each_layer_of_a_scanned_stack_as_if_alone() -> None:
    rng = np.random.default_rng(2)
    scanned = drawn(rng, transformer_shapes(3))
    grads = [drawn(rng, transformer_shapes(3)) for _ in range(3)]
    optimizer = optimizers.muon(0.1, clip_norm=0.0)
    together, _ = take_steps(optimizer, {"layers": scanned}, [{"layers": g} for g in grads])
    for i in range(3):
        alone, *own = (jax.tree.map(lambda x, i=i: x[i], tree) for tree in (scanned, *grads))
        params, _ = take_steps(optimizer, alone, own)
        got = jax.tree.map(lambda x, i=i: x[i], together["layers"])
        assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(assert_close, got, params)


@pytest.mark.parametrize("shape", [(7, 5), (2, 7, 5), (7,), ()])
def test_int8_is_off_by_half_a_scale_at_most(shape) -> None:
    x = jnp.float32(np.random.default_rng(0).normal(size=shape))
    values, scale = adafactor.quantize(x)
    assert values.dtype == jnp.int8
    assert scale.shape == shape[1:]
    assert int(jnp.abs(values).max()) == 127
    error = jnp.abs(adafactor.dequantize(values, scale) - x)
    assert bool((error <= 0.5 * scale + 1e-7).all())
    zeros = adafactor.dequantize(*adafactor.quantize(jnp.zeros(shape)))
    np.testing.assert_array_equal(zeros, 0.0)


def test_adafactor_refuses_other_types_of_the_moment() -> None:
    with pytest.raises(ValueError, match="moment_dtype is 'bfloat16'; choose"):
        optimizers.adafactor(0.1, moment_dtype="bfloat16")


def test_moving_average() -> None:
    optimizer = optimizers.with_ema(optax.sgd(1.0), 0.5)
    params = {"w": jnp.float32(0.0)}
    state = optimizer.init(params)
    average = value = 0.0
    for t in range(6):
        updates, state = optimizer.update({"w": jnp.float32(-1.0)}, state, params)
        params = optax.apply_updates(params, updates)
        value += 1.0
        decay = min(0.5, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * value
    np.testing.assert_allclose(params["w"], 6.0)
    np.testing.assert_allclose(state.averaged_params["w"], average, rtol=1e-6)


def test_freeze_leaves_branches_bitwise() -> None:
    frozen = {"kernel": jnp.array([-0.0, 0.0, 0.1, jnp.inf, 1e-40], jnp.float32)}
    params = {"a": frozen, "b": {"kernel": jnp.ones(3)}}
    grads = jax.tree.map(lambda x: jnp.full_like(x, 7.0), params)
    inner = optimizers.with_ema(optimizers.adamw(0.1, weight_decay=0.5), 0.9)
    optimizer = optimizers.freeze(inner, ("a",))
    state = optimizer.init(params)
    assert {leaf.shape for leaf in jax.tree.leaves(state)} == {(), (3,)}, "no state for `a`"

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        params, state = step(params, state)
    assert np.asarray(params["a"]["kernel"]).tobytes() == np.asarray(frozen["kernel"]).tobytes()
    # Clipping sees `b` alone: the updates are those of a model without `a`.
    alone, own = {"b": {"kernel": jnp.ones(3)}}, inner.init({"b": {"kernel": jnp.ones(3)}})
    for _ in range(3):
        updates, own = inner.update({"b": grads["b"]}, own, alone)
        alone = optax.apply_updates(alone, updates)
    np.testing.assert_allclose(params["b"]["kernel"], alone["b"]["kernel"], rtol=1e-6)
    assert optimizers.freeze(inner, ()) is inner


@pytest.mark.parametrize(
    ("branches", "message"),
    [(("a", "c"), "branches a, b; .* names 'c', which is none"), (("a", "b"), "names all of them")],
)
def test_freeze_refuses(branches, message) -> None:
    optimizer = optimizers.freeze(optax.sgd(0.1), branches)
    with pytest.raises(ValueError, match=message):
        optimizer.init({"a": jnp.ones(2), "b": jnp.ones(2)})


@pytest.mark.parametrize("optimizer", [optimizers.adamw, optimizers.adafactor, optimizers.muon])
def test_no_learning_rate_is_refused(optimizer: Callable) -> None:
    with pytest.raises(ValueError, match="LEARNING_RATE is None"):
        optimizer(None)
