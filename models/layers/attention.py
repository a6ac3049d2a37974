# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention: over whole sequences, and one position at a time from a cache."""

from collections.abc import Callable, Sequence
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
    """Keys and values of earlier positions, each [batch, heads, slots, kv].

    With the heads before the slots, the two products of a step read memory from its begin to its
    end and copy nothing.
    """

    key: Array
    value: Array


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
    weights = _weights(logits, mask)
    if dropout_rng is not None and dropout_rate > 0:
        shape = (*weights.shape[:2], 1, weights.shape[-1])
        weights = weights * _kept_keys(dropout_rng, dropout_rate, shape)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(query.dtype), keys_values.value)


def blocked_attention(
    query: Array,
    keys_values: KeysValues,
    mask: Array,
    dropout_rate: float = 0.0,
    dropout_rng: Array | None = None,
) -> Array:
    """Self-attention of blocks of positions to themselves and to those right before them.

    It is `dot_product_attention` under the mask that `masks.in_blocks` cut, [.., blocks, size,
    width], without logits [length, length]: of the keys out of a block's width it computes none.
    """
    blocks, size, width = mask.shape[-3:]

    def windows(x: Array) -> Array:
        """Maps [batch, length, ...] to what each block sees, [batch, blocks, width, ...]."""
        x = jnp.pad(x, [(0, 0), (width - size, 0)] + [(0, 0)] * (x.ndim - 2))
        starts = range(0, blocks * size, size)
        return jnp.stack([lax.slice_in_dim(x, i, i + width, axis=1) for i in starts], axis=1)

    shape = query.shape
    query = query * jnp.asarray(shape[-1] ** -0.5, query.dtype)
    query = query.reshape(shape[0], blocks, size, *shape[2:])
    logits = jnp.einsum(
        "bnqhd,bnkhd->bhnqk", query, windows(keys_values.key), preferred_element_type=jnp.float32
    )
    weights = _weights(logits, mask)
    if dropout_rng is not None and dropout_rate > 0:
        kept = _kept_keys(dropout_rng, dropout_rate, (shape[0], shape[2], 1, shape[1]))
        kept = windows(kept[:, :, 0].swapaxes(1, 2))  # [batch, blocks, width, heads]
        weights = weights * jnp.moveaxis(kept, -1, 1)[:, :, :, None]
    x = jnp.einsum("bhnqk,bnkhd->bnqhd", weights.astype(query.dtype), windows(keys_values.value))
    return x.reshape(shape)


def _kept_keys(rng: Array, rate: float, shape: tuple[int, ...]) -> Array:
    """Returns factors of attention weights: 0 for keys that are dropped, 1 / (1 - rate) else."""
    return jax.random.bernoulli(rng, 1 - rate, shape) / (1 - rate)


def cached_attention(query: Array, keys_values: KeysValues | Cache, mask: Array) -> Array:
    """Attends as `dot_product_attention`, but with the heads before the positions.

    Args:
      query: [batch, heads, q_length, kv], as the result.
      keys_values: [batch, heads, k_length, kv] each.
      mask: bool, broadcasts to [batch, heads, q_length, k_length].
    """
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    key, value = (x.astype(query.dtype) for x in keys_values)
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    weights = _weights(logits, mask)
    return jnp.einsum("bhqk,bhkd->bhqd", weights.astype(query.dtype), value)


def _weights(logits: Array, mask: Array | None) -> Array:
    """Returns the softmax of logits [..., k_length] over the keys that may be seen."""
    if mask is not None:
        logits = jnp.where(mask, logits, _MASKED)
    return jax.nn.softmax(logits, axis=-1)


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

        Without `inputs_kv` it is self-attention; `mask` is as of `dot_product_attention`, or, with
        an axis more, of `blocked_attention`.
        """
        axes = ("batch", "length", "heads", "kv")
        query = nn.with_logical_constraint(self.query(inputs), axes)
        key, value = self.keys_values(inputs if inputs_kv is None else inputs_kv)
        key = nn.with_logical_constraint(key, axes)
        value = nn.with_logical_constraint(value, axes)
        use_dropout = self.dropout_rate > 0 and not deterministic
        rng = self.make_rng("dropout") if use_dropout else None
        attend: Callable[..., Array] = dot_product_attention
        if mask is not None and mask.ndim == query.ndim + 1:
            attend = blocked_attention
        x = attend(query, KeysValues(key, value), mask, self.dropout_rate, rng)
        return self.out(nn.with_logical_constraint(x, axes))

    def shared_keys_values(self, inputs: Array) -> KeysValues:
        """Projects [groups, length, embed] for `decode_shared`, [groups, heads, length, kv]."""
        return KeysValues(*(x.swapaxes(-2, -3) for x in self.keys_values(inputs)))

    def decode(self, inputs: Array, cache: Cache, slots: Array, mask: Array) -> tuple[Array, Cache]:
        """Attends from some positions to themselves and the cached ones, and caches them.

        Maps inputs [batch, length, embed] to the same. All go to the cache, to `slots` [length]
        int32, before any attends; mask [length, slots] bool says which slots each may see.
        """

        def added(buffer: Array, new: Array) -> Array:
            new = new.astype(buffer.dtype)
            for i in range(new.shape[2]):
                one = new[:, :, i : i + 1]
                buffer = lax.dynamic_update_slice_in_dim(buffer, one, slots[i], axis=2)
            return buffer

        cache = Cache(*map(added, cache, map(_by_heads, self.keys_values(inputs))))
        x = cached_attention(_by_heads(self.query(inputs)), cache, mask)
        x = nn.with_logical_constraint(x.swapaxes(1, 2), ("batch", None, "heads", "kv"))
        return self.out(x), cache

    def decode_shared(
        self, inputs: Array, shared: Sequence[KeysValues], masks: Sequence[Array]
    ) -> Array:
        """Attends from some positions to keys and values that several rows share.

        Maps [batch, length, embed] to the same. Of each `len(shared)` neighbouring rows the i-th
        belongs to part i, of which each of the groups of `shared[i]` [groups, heads, k_length, kv]
        serves an equal run of rows, and `masks[i]` [groups, k_length] says which keys it may see.
        Nothing is repeated in memory, and what a mesh divides by rows it divides alike in all
        parts.
        """
        query = nn.with_logical_constraint(self.query(inputs), ("batch", None, "heads", "kv"))
        queries = query.reshape(-1, len(shared), *query.shape[1:])
        parts = []
        for i, (keys_values, mask) in enumerate(zip(shared, masks, strict=True)):
            own = queries[:, i]
            grouped = own.reshape(keys_values.key.shape[0], -1, *own.shape[2:]).swapaxes(1, 2)
            x = cached_attention(grouped, keys_values, mask[:, None, None, :])
            parts.append(x.swapaxes(1, 2).reshape(own.shape))
        x = jnp.stack(parts, axis=1).reshape(query.shape)
        return self.out(nn.with_logical_constraint(x, ("batch", None, "heads", "kv")))


def _by_heads(x: Array) -> Array:
    """Maps [batch, length, heads, kv] to [batch, heads, length, kv]."""
    return nn.with_logical_constraint(x.swapaxes(1, 2), ("batch", "heads", None, "kv"))
