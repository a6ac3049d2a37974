# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from parti.engine.pod_estimates import collectives


def compiled_text(function: Any, shape: tuple[int, ...], spec: PartitionSpec) -> str:
    """Compiles for four fake devices, the result on all of them."""
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    argument = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(function, out_shardings=everywhere).lower(argument).compile().as_text()


def test_a_sum_over_devices() -> None:
    text = compiled_text(lambda x: jnp.sum(x, axis=0), (8, 16), PartitionSpec("data"))
    summary = collectives.summarize(text)
    assert summary.kinds == {"all-reduce": collectives.Traffic(1, 16 * 4)}
    assert summary.is_exact


def test_a_gathered_array_counts_whole() -> None:
    text = compiled_text(lambda x: x * 2, (8, 16), PartitionSpec("data"))
    assert collectives.summarize(text).kinds == {"all-gather": collectives.Traffic(1, 8 * 16 * 4)}


def test_a_collective_in_a_loop_counts_as_often_as_it_turns() -> None:
    def inner(x: jax.Array) -> jax.Array:
        def turn(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(total + jnp.sum(x * number * total, axis=0)), None

        return jax.lax.scan(turn, jnp.ones(16), jnp.arange(5.0))[0]

    def nested(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, _: (y * inner(x * y), None), jnp.ones(16), length=3)[0]

    text = compiled_text(nested, (8, 16), PartitionSpec("data"))
    assert collectives.summarize(text).kinds["all-reduce"] == collectives.Traffic(15, 15 * 64)


# What a TPU's compiler writes: it does not note how often a loop turns.
LOOP = """\
HloModule jit_step, is_scheduled=true

%condition (state: (s32[], bf16[8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %state = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %turn = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %less = pred[]{:T(512)} compare(%turn, LIMIT), direction=LT
}

%fused (shard: bf16[2,128]) -> bf16[8,128] {
  %shard = bf16[2,128]{1,0:T(8,128)(2,1)} parameter(0)
  %start = (bf16[2,128]{1,0}, bf16[8,128]{1,0:T(8,128)}) all-gather-start(%shard), dimensions={0}
  ROOT %done = bf16[8,128]{1,0:T(8,128)(2,1)} all-gather-done(%start)
}

%all-reduce-scatter.1 (input: bf16[8,128]) -> bf16[2,128] {
  %input = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %all = bf16[8,128]{1,0:T(8,128)(2,1)} all-reduce(%input), to_apply=%add
  %zero = s32[] constant(0)
  ROOT %slice = bf16[2,128]{1,0:T(8,128)(2,1)} dynamic-slice(%all, %zero, %zero)
}

%body (state: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %state.1 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %turn.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %array = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%state.1), index=1
  %part = bf16[2,128]{1,0:T(8,128)(2,1)} fusion(%array), kind=kCustom, calls=%all-reduce-scatter.1
  %whole = bf16[8,128]{1,0:T(8,128)(2,1)} fusion(%part), kind=kCustom, calls=%fused
  ROOT %both = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) tuple(%turn.1, %whole)
}

%add (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[] parameter(0)
  %b = bf16[] parameter(1)
  ROOT %sum = bf16[] add(%a, %b)
}

ENTRY %main (start: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %start.1 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  ROOT %loop = (s32[], bf16[8,128]) while(%start.1), condition=%condition, body=%body
}
"""


@pytest.mark.parametrize(
    ("limit", "turns", "is_exact"), [("%limit", 12, True), ("%other", 1, False)]
)
def test_the_turns_are_read_from_the_condition(limit: str, turns: int, is_exact: bool) -> None:
    summary = collectives.summarize(LOOP.replace("LIMIT", limit))
    whole = 8 * 128 * 2  # bytes of the array before it is scattered and after it is gathered
    assert summary.kinds == {
        "all-gather": collectives.Traffic(turns, turns * whole),
        "reduce-scatter": collectives.Traffic(turns, turns * whole),
    }
    assert summary.is_exact == is_exact
