# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Optimizers as optax transformations, with clipping, schedule and weight decay inside.

Weight decay acts on matrices only, as is common for Transformers: on parameters named `kernel` or
`..._kernel`; not on LayerNorm scales, biases, token or position embeddings, codebooks or queries.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parti.engine.step import adafactor as adafactor_step
from parti.engine.step import muon as muon_step

Schedule = Callable[[Any], Any]


def warmup_cosine(
    peak: float, warmup_steps: int, total_steps: int, final_ratio: float = 0.0
) -> Schedule:
    """Rises linearly from 0 to `peak`, then falls as a half cosine to `final_ratio * peak`.

    Raises:
      ValueError: the warm-up does not end before `total_steps`.
    """
    _check_warmup(warmup_steps, total_steps)
    decay = optax.cosine_decay_schedule(peak, total_steps - warmup_steps, alpha=final_ratio)
    return _after_warmup(peak, warmup_steps, decay)


def warmup_linear(
    peak: float, warmup_steps: int, total_steps: int, final_ratio: float = 0.0
) -> Schedule:
    """Rises linearly from 0 to `peak`, then falls linearly to `final_ratio * peak`.

    Source: BERT (arXiv 1810.04805) appendix A.2.

    Raises:
      ValueError: the warm-up does not end before `total_steps`.
    """
    _check_warmup(warmup_steps, total_steps)
    decay = optax.linear_schedule(peak, final_ratio * peak, total_steps - warmup_steps)
    return _after_warmup(peak, warmup_steps, decay)


def linear_ramp_exponential_decay(
    peak: float = 4.5e-5,
    warmup_steps: int = 5_000,
    decay_start: int = 85_000,
    decay_end: int = 450_000,
    final_ratio: float = 0.025,
) -> Schedule:
    """Rises linearly, stays at `peak`, falls exponentially to `final_ratio * peak`, stays there.

    peak * t / warmup_steps, then peak, then
    peak * final_ratio ** ((t - decay_start) / (decay_end - decay_start)).

    Source: Parti section 3; that the decay ends at the last step is an assumption.

    Raises:
      ValueError: the three times are out of order, or the ratio is not in (0, 1].
    """
    if not 0 <= warmup_steps <= decay_start < decay_end or not 0 < final_ratio <= 1:
        raise ValueError(
            "need 0 <= warmup_steps <= decay_start < decay_end and 0 < final_ratio <= 1; got "
            f"{warmup_steps}, {decay_start}, {decay_end}, {final_ratio}"
        )
    decay = optax.exponential_decay(
        peak,
        transition_steps=decay_end - decay_start,
        decay_rate=final_ratio,
        transition_begin=decay_start - warmup_steps,
        end_value=final_ratio * peak,
    )
    return _after_warmup(peak, warmup_steps, decay)


def _after_warmup(peak: float, warmup_steps: int, decay: Schedule) -> Schedule:
    """Puts a linear ramp to `peak` before a schedule.

    `optax.linear_schedule` computes it as (0 - peak) * (1 - t / warmup_steps) + peak, which rounds
    the first of many steps away: after 50,000 to peak, by 4 in 10,000.
    """
    peak_per_step = peak / max(warmup_steps, 1)
    return optax.join_schedules([lambda step: peak_per_step * step, decay], [warmup_steps])


def _check_warmup(warmup_steps: int, total_steps: int) -> None:
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps must be in [0, total_steps {total_steps}), got {warmup_steps}; set "
            "WARMUP_STEPS lower, or train for more steps"
        )


def _check_rate(learning_rate: Any) -> None:
    """Raises ValueError for None: optax would take it for no scale, and ascend."""
    if learning_rate is None:
        raise ValueError("LEARNING_RATE is None; give the optimizer a number or a schedule")


def adamw(
    learning_rate: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
) -> optax.GradientTransformation:
    """Returns AdamW after clipping of the global gradient norm (`clip_norm` 0: no clipping).

    Source: Loshchilov & Hutter, arXiv 1711.05101.
    """
    _check_rate(learning_rate)
    return optax.chain(
        _clip(clip_norm),
        optax.scale_by_adam(b1, b2, eps),
        optax.add_decayed_weights(weight_decay, decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def adafactor(
    learning_rate: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.96,
    weight_decay: float = 4.5e-2,
    clip_norm: float = 4.0,
    moment_dtype: str = "int8",
) -> optax.GradientTransformation:
    """Returns Adafactor with Parti's settings; see `adafactor.scale_by_adafactor`.

    The global gradient norm is clipped first (`clip_norm` 0: not). Updates are clipped to RMS 1 and
    scaled by the learning rate (not by the parameter's size); the first moment averages these
    scaled steps. Decoupled decay, learning rate * weight_decay * parameter, comes last.

    Source: Parti section 3.

    Raises:
      ValueError: `moment_dtype` is neither 'int8' nor 'float32'.
    """
    _check_rate(learning_rate)

    def negative_decay(step: Any) -> Any:
        return -weight_decay * (learning_rate(step) if callable(learning_rate) else learning_rate)

    return optax.chain(
        _clip(clip_norm),
        adafactor_step.scale_by_adafactor(learning_rate, b1, b2, moment_dtype=moment_dtype),
        optax.add_decayed_weights(negative_decay, decay_mask),
    )


def muon(
    learning_rate: float | Schedule,
    beta: float = 0.95,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
    ns_steps: int = 5,
) -> optax.GradientTransformation:
    """Returns Muon after clipping of the global gradient norm (`clip_norm` 0: no clipping).

    `beta` is of Muon's momentum, `b1`, `b2` and `eps` are Adam's, which the parameters that are no
    hidden matrices have; see `muon.scale_by_muon`. Rates and decays of AdamW fit.
    """
    _check_rate(learning_rate)
    return optax.chain(
        _clip(clip_norm),
        muon_step.scale_by_muon(beta, b1, b2, eps, ns_steps),
        optax.add_decayed_weights(weight_decay, decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def decay_mask(params: Any) -> Any:
    """Returns a tree of booleans: which parameters weight decay acts on."""

    def decayed(path: tuple[Any, ...], _: Any) -> bool:
        name = str(getattr(path[-1], "key", path[-1]))
        return name == "kernel" or name.endswith("_kernel")

    return jax.tree_util.tree_map_with_path(decayed, params)


class AveragedState(NamedTuple):
    """State of `with_ema`."""

    inner: Any
    num_updates: jax.Array
    averaged_params: Any


def with_ema(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """Adds a moving average of the parameters to an optimizer's state.

    The average starts as the parameters. After step t = 0, 1, ... it is
    average <- d average + (1 - d) params with d = min(decay, (1 + t) / (10 + t)), so that early
    values are soon forgotten. It is saved, restored and divided over devices as optimizer state.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> AveragedState:
        # A copy: state and parameters are both donated to the train step.
        average = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
        return AveragedState(optimizer.init(params), jnp.zeros((), jnp.int32), average)

    def update(updates: Any, state: AveragedState, params: Any = None, **extra: Any) -> Any:
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG)
        updates, inner = optimizer.update(updates, state.inner, params, **extra)
        t = state.num_updates.astype(jnp.float32)
        rate = 1 - jnp.minimum(decay, (1 + t) / (10 + t))
        new_params = optax.apply_updates(params, updates)
        average = optax.incremental_update(new_params, state.averaged_params, rate)
        return updates, AveragedState(inner, state.num_updates + 1, average)

    return optax.GradientTransformationExtraArgs(init, update)


def freeze(
    optimizer: optax.GradientTransformation, branches: Sequence[str]
) -> optax.GradientTransformation:
    """Keeps an optimizer off some top-level branches of the parameters.

    They stay bitwise what they are: no update, so no weight decay either; no part in the norm that
    is clipped; no state, so no moving average. The optimizer sees a tree without them.

    Raises:
      ValueError: (when the state is initialised) the parameters have no such branch, or no other.
    """
    if not branches:
        return optimizer

    def labels(params: Any) -> dict[str, str]:
        unknown = sorted(set(branches) - set(params))
        if unknown or not set(params) - set(branches):
            what = f"{unknown[0]!r}, which is none of them" if unknown else "all of them"
            raise ValueError(
                f"parameters have the branches {', '.join(sorted(params))}; the model's `frozen` "
                f"names {what}: name some of them, and leave some to train"
            )
        return {branch: "frozen" if branch in branches else "trained" for branch in params}

    # x + -0 is x, also for x = -0, where optax's zeros would give 0.
    nothing = optax.stateless(lambda updates, _: optax.tree.full_like(updates, -0.0))
    return optax.partition({"trained": optimizer, "frozen": nothing}, labels)


def _clip(norm: float) -> optax.GradientTransformation:
    return optax.clip_by_global_norm(norm) if norm else optax.identity()
