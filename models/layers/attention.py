# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention: over whole sequences, and one position at a time from a cache."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from parti.models.layers import dense

Array = jax.Array

# Finite, so that a row without any visible key gives a mean and not a NaN.
_MASKED = -1e30


class KeysValues(NamedTuple):
    """Projected keys and values, each [batch, length, heads, kv]."""

    key: Array
    value: Array


class Cache(NamedTuple):
    """Keys and values of the image rows in reach, each [layers, batch, rows, columns, heads, kv].

    `rows` is a ring: grid row r lives in ring row r % rows.
    """

    key: Array
    value: Array


class CacheSlot(NamedTuple):
    """Where one decoding step writes and reads: int32 scalars.

    The step writes at (ring_row, column), and reads all ring rows from `first_column` on.
    """

    ring_row: Array
    column: Array
    first_column: Array


def dot_product_attention(
    query: Array,
    keys_values: KeysValues,
    mask: Array | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: Array | None = None,
) -> Array:
    """Attends with softmax(query . key / sqrt(kv)); products in the inputs' dtype, softmax float32.

    Args:
      query: [batch, q_length, heads, kv], as the result.
      keys_values: [batch, k_length, heads, kv] each.
      mask: bool, broadcasts to [batch, heads, q_length, k_length]; None sees everything.
      dropout_rate: Of the attention weights; the same keys for all queries of a head, as in T5X.
      dropout_rng: None for no dropout.
    """
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    logits = jnp.einsum(
        "bqhd,bkhd->bhqk", query, keys_values.key, preferred_element_type=jnp.float32
    )
    if mask is not None:
        logits = jnp.where(mask, logits, _MASKED)
    weights = jax.nn.softmax(logits, axis=-1)
    if dropout_rng is not None and dropout_rate > 0:
        shape = (*weights.shape[:2], 1, weights.shape[-1])
        keep = jax.random.bernoulli(dropout_rng, 1 - dropout_rate, shape)
        weights = weights * (keep / (1 - dropout_rate))
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(query.dtype), keys_values.value)


class MultiHeadAttention(nn.Module):
    """Multi-head attention without biases."""

    emb_dim: int
    num_heads: int
    head_dim: int
    dropout_rate: float = 0.0  # of the attention weights
    dtype: str = "float32"  # of the computation; parameters are float32

    def setup(self) -> None:
        """Declares the projections; kernels are [embed, heads, kv] and [heads, kv, embed]."""

        def projection() -> dense.Dense:
            shape = (self.num_heads, self.head_dim)
            return dense.Dense(shape, ("embed", "heads", "kv"), dtype=self.dtype)

        self.query, self.key, self.value = projection(), projection(), projection()
        self.out = dense.Dense((self.emb_dim,), ("heads", "kv", "embed"), 2, self.dtype)

    def keys_values(self, inputs: Array) -> KeysValues:
        """Projects [..., length, embed] to keys and values [..., length, heads, kv]."""
        return KeysValues(self.key(inputs), self.value(inputs))

    def __call__(
        self,
        inputs: Array,
        inputs_kv: Array | None = None,
        mask: Array | None = None,
        deterministic: bool = True,
    ) -> Array:
        """Attends from inputs [batch, q_length, embed] to `inputs_kv` [batch, k_length, embed].

        Without `inputs_kv` it is self-attention; `mask` is as of `dot_product_attention`.
        """
        axes = ("batch", "length", "heads", "kv")
        query = nn.with_logical_constraint(self.query(inputs), axes)
        key, value = self.keys_values(inputs if inputs_kv is None else inputs_kv)
        key = nn.with_logical_constraint(key, axes)
        value = nn.with_logical_constraint(value, axes)
        use_dropout = self.dropout_rate > 0 and not deterministic
        rng = self.make_rng("dropout") if use_dropout else None
        x = dot_product_attention(query, KeysValues(key, value), mask, self.dropout_rate, rng)
        return self.out(nn.with_logical_constraint(x, axes))

    def decode(
        self, inputs: Array, cache: Cache, layer: Array | int, slot: CacheSlot, mask: Array
    ) -> tuple[Array, Cache]:
        """Attends from one position to itself and the cached ones, and adds it to the cache.

        Maps inputs [batch, embed] to the same, and the cache of all layers. `layer` is this one's
        index in it; mask [rows, width] bool says which of the slots read may be seen.
        """
        _, batch, rows, _, heads, kv = cache.key.shape
        target = (layer, 0, slot.ring_row, slot.column, 0, 0)
        start = (layer, 0, 0, slot.first_column, 0, 0)
        size = (1, batch, rows, mask.shape[-1], heads, kv)

        def updated(buffer: Array, new: Array) -> Array:
            new = new[None, :, None, None].astype(buffer.dtype)
            return lax.dynamic_update_slice(buffer, new, target)

        def read(buffer: Array) -> Array:
            return lax.dynamic_slice(buffer, start, size).reshape(batch, -1, heads, kv)

        def divided(x: Array) -> Array:
            return nn.with_logical_constraint(x, ("batch", "heads", "kv"))

        cache = Cache(*map(updated, cache, map(divided, self.keys_values(inputs))))
        query = divided(self.query(inputs))[:, None]
        window = KeysValues(*map(read, cache))
        x = dot_product_attention(query, window, mask.reshape(1, 1, 1, -1))[:, 0]
        return self.out(divided(x)), cache

    def decode_shared(
        self, inputs: Array, shared: Sequence[KeysValues], masks: Sequence[Array]
    ) -> Array:
        """Attends from one position to keys and values that several rows share.

        Maps [batch, embed] to the same. Of each `len(shared)` neighbouring rows the i-th belongs to
        part i, of which each of the groups of `shared[i]` [groups, length, heads, kv] serves an
        equal run of rows, and `masks[i]` [groups, length] says which keys it may see. Nothing is
        repeated in memory, and what a mesh divides by rows it divides alike in all parts.
        """
        query = nn.with_logical_constraint(self.query(inputs), ("batch", "heads", "kv"))
        queries = query.reshape(-1, len(shared), *query.shape[1:])
        parts = []
        for i, (keys_values, mask) in enumerate(zip(shared, masks, strict=True)):
            own = queries[:, i]
            grouped = own.reshape(keys_values.key.shape[0], -1, *own.shape[1:])
            x = dot_product_attention(grouped, keys_values, mask[:, None, None, :])
            parts.append(x.reshape(own.shape))
        x = jnp.stack(parts, axis=1).reshape(query.shape)
        return self.out(nn.with_logical_constraint(x, ("batch", "heads", "kv")))
