# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pre-LayerNorm Transformer blocks and stacks of them.

One `Stack` serves all families: a bidirectional encoder (no mask), a causal text decoder (a mask),
and Parti's decoder (a mask and cross-attention). No kernel has a bias; LayerNorm has scale and
bias, and computes in float32; the MLP is two matrices around a GELU.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from parti.models.layers import attention, dense, pipeline, quantization

Array = jax.Array

# What the backward pass keeps of a layer's activations; the rest is computed again.
_REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
REMAT_CHOICES = ("none", *_REMAT_POLICIES)

_SCANNED = "layers"  # name of a stack's scanned layers

# Dropout zeroes a channel for the whole sequence, as in T5X: far fewer random numbers.
_DROPOUT_BROADCAST = (-2,)


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """Sizes and choices of a stack."""

    num_layers: int
    emb_dim: int  # width of the residual stream
    num_heads: int
    head_dim: int
    mlp_dim: int  # width of the MLP's hidden layer
    dropout_rate: float = 0.0  # of attention weights, hidden layer and both residual branches
    dtype: str = "float32"  # or 'bfloat16', of the computation; parameters are float32
    cross_attention: bool = False  # whether each layer also attends to an encoder's output
    # One compiled layer for all; the parameters get a leading `layers` axis. Compiles fast and is
    # what large models want; a small model on a CPU runs faster without.
    scan_layers: bool = True
    # 'none', 'full' (keep nothing), 'dots' (keep matrix products) or 'dots_no_batch' (keep products
    # with weights only)
    remat: str = "none"
    # 1, or the stages of a circular pipeline (`pipeline`) that whole sequences take; parameters and
    # decoding are the same as without
    num_stages: int = 1
    pipeline_microbatches: int = 1  # parts of a batch, in the pipeline one behind the other

    @classmethod
    def of(cls, config: Any, num_layers: int, **changes: Any) -> "StackConfig":
        """Returns a stack with a family's sizes and choices, by their names, and `changes`."""
        names = {field.name for field in dataclasses.fields(cls)}
        taken = {name: getattr(config, name) for name in names if hasattr(config, name)}
        return cls(**taken | {"num_layers": num_layers} | changes)

    def __post_init__(self) -> None:
        if self.remat not in REMAT_CHOICES:
            raise ValueError(f"remat is {self.remat!r}; choose one of {', '.join(REMAT_CHOICES)}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}; choose 'float32' or 'bfloat16'")
        pipeline.check(self.num_layers, self.num_stages, self.pipeline_microbatches)
        if self.num_stages > 1 and (not self.scan_layers or self.remat == "none"):
            raise ValueError(
                f"a pipeline of {self.num_stages} stages needs scan_layers and a remat other than "
                "'none' (which would keep a copy of the weights for each iteration)"
            )


class CachedLayer(NamedTuple):
    """What a layer has of earlier positions, and sees of them (`MultiHeadAttention.decode`)."""

    cache: attention.Cache
    slots: Array
    mask: Array


def layer_norm(dtype: str, name: str | None = None) -> nn.LayerNorm:
    """Returns a LayerNorm that computes in float32 and gives `dtype`."""
    return nn.LayerNorm(
        dtype=jnp.dtype(dtype),
        scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("embed",)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)),
        name=name,
    )


class Mlp(nn.Module):
    """Two matrices around a GELU."""

    config: StackConfig

    @nn.compact
    def __call__(self, x: Array, deterministic: bool = True) -> Array:
        """Maps [..., embed] to [..., embed]."""
        config = self.config
        x = dense.matrix(config.mlp_dim, ("embed", "mlp"), config.dtype, "wi")(x)
        x = nn.gelu(x)
        if x.ndim == 3:
            x = nn.with_logical_constraint(x, ("batch", "length", "mlp"))
        x = nn.Dropout(config.dropout_rate, broadcast_dims=_DROPOUT_BROADCAST)(x, deterministic)
        return dense.matrix(config.emb_dim, ("mlp", "embed"), config.dtype, "wo")(x)


class Layer(nn.Module):
    """One block: self-attention, cross-attention if configured, MLP; each x + f(LayerNorm(x))."""

    config: StackConfig

    def setup(self) -> None:
        """Declares the parts."""
        config = self.config

        sizes = config.emb_dim, config.num_heads, config.head_dim, config.dropout_rate
        self.self_attention_norm = layer_norm(config.dtype)
        self.self_attention = attention.MultiHeadAttention(*sizes, config.dtype)
        if config.cross_attention:
            self.cross_attention_norm = layer_norm(config.dtype)
            self.cross_attention = attention.MultiHeadAttention(*sizes, config.dtype)
        self.mlp_norm = layer_norm(config.dtype)
        self.mlp = Mlp(config)
        self.dropout = nn.Dropout(config.dropout_rate, broadcast_dims=_DROPOUT_BROADCAST)

    def __call__(
        self,
        x: Array,
        mask_index: Array | None,
        mask: Array | None,
        encoded: Array | None,
        encoded_mask: Array | None,
        deterministic: bool,
    ) -> tuple[Array, None]:
        """Maps [batch, length, embed] to the same (and None, which `nn.scan` wants)."""
        axes = ("batch", "length", "embed")
        x = nn.with_logical_constraint(x, axes)
        if mask_index is not None:
            assert mask is not None, "an index, but no masks"
            mask = mask[mask_index]
        y = self.self_attention(self.self_attention_norm(x), None, mask, deterministic)
        x = x + self.dropout(y, deterministic)
        if self.config.cross_attention:
            normed = self.cross_attention_norm(x)
            y = self.cross_attention(normed, encoded, encoded_mask, deterministic)
            x = x + self.dropout(y, deterministic)
        y = self.mlp(self.mlp_norm(x), deterministic)
        return nn.with_logical_constraint(x + self.dropout(y, deterministic), axes), None

    def cross_keys_values(self, carry: None, encoded: Array) -> tuple[None, attention.KeysValues]:
        """Projects an encoder's output [groups, length, embed] for `decode`."""
        return carry, self.cross_attention.shared_keys_values(encoded)

    def decode(
        self,
        x: Array,
        cached: CachedLayer,
        cross: Sequence[attention.KeysValues],
        cross_masks: Sequence[Array],
    ) -> tuple[Array, attention.Cache]:
        """Maps positions [batch, length, embed] to the same, and adds them to the layer's cache."""
        y, cache = self.self_attention.decode(self.self_attention_norm(x), *cached)
        x = x + y
        if self.config.cross_attention:
            normed = self.cross_attention_norm(x)
            x = x + self.cross_attention.decode_shared(normed, cross, cross_masks)
        return x + self.mlp(self.mlp_norm(x)), cache


def _scanned_layer(config: StackConfig, layer: type[nn.Module]) -> Any:
    """Returns a module class that runs all layers of a stack in one `lax.scan` per method."""
    common: dict[str, Any] = {
        "variable_axes": {"params": 0},
        "split_rngs": {"params": True, "dropout": True},
        "length": config.num_layers,
        "metadata_params": {nn.PARTITION_NAME: "layers"},
    }
    methods = {
        "__call__": {**common, "in_axes": (0, *[nn.broadcast] * 4)},
        "cross_keys_values": {**common, "in_axes": nn.broadcast},
    }
    return nn.scan(layer, methods=methods)


class Stack(nn.Module):
    """`num_layers` blocks and a final LayerNorm."""

    config: StackConfig

    def setup(self) -> None:
        """Declares the layers."""
        config = self.config
        layer: Any = Layer
        if config.remat != "none":
            layer = nn.remat(
                Layer,
                methods=["__call__"],
                policy=_REMAT_POLICIES[config.remat],
                prevent_cse=not config.scan_layers,
                static_argnums=(6,),  # deterministic; 0 is self
            )
        if config.scan_layers:
            self.layers = _scanned_layer(config, layer)(config)
        else:
            self.layers = [layer(config) for _ in range(config.num_layers)]
        self.final_norm = layer_norm(config.dtype)

    def __call__(
        self,
        x: Array,
        mask: Array | None = None,
        encoded: Array | None = None,
        encoded_mask: Array | None = None,
        deterministic: bool = True,
        mask_index: Array | None = None,
    ) -> Array:
        """Runs the stack over whole sequences.

        Args:
          x: [batch, length, embed], as the result.
          mask: bool, broadcasts to [batch, heads, length, length], or in blocks (see `masks`);
            None sees everything.
          encoded: [batch, k_length, embed], for cross-attention.
          encoded_mask: bool, broadcasts to [batch, heads, length, k_length].
          deterministic: No dropout; otherwise the rng `dropout` is needed.
          mask_index: [layers] int32; then `mask` has a leading axis from which each layer takes
            the entry that its index names.
        """
        mask = None if mask is None else jnp.asarray(mask)
        if self.config.num_stages > 1 and not self.is_initializing():
            x = self._pipelined(x, mask, encoded, encoded_mask, deterministic, mask_index)
        elif self.config.scan_layers:
            x, _ = self.layers(x, mask_index, mask, encoded, encoded_mask, deterministic)
        else:
            for i, layer in enumerate(self.layers):
                index = None if mask_index is None else mask_index[i]
                x, _ = layer(x, index, mask, encoded, encoded_mask, deterministic)
        return self.final_norm(x)

    def _pipelined(
        self,
        x: Array,
        mask: Array | None,
        encoded: Array | None,
        encoded_mask: Array | None,
        deterministic: bool,
        mask_index: Array | None,
    ) -> Array:
        """Runs the layers as stages of a pipeline; see `__call__`.

        Dropout depends on layer and example, and so neither on stages and microbatches nor on
        devices.
        """
        config = self.config
        layer = Layer(config, parent=None)
        rng = self.make_rng("dropout") if config.dropout_rate > 0 and not deterministic else None
        given = {"mask": mask, "encoded": encoded, "encoded_mask": encoded_mask}
        # What has a row for each example goes with it; the rest is the same for all.
        context = {k: v for k, v in given.items() if v is not None and len(v) == len(x)}
        if mask_index is not None:
            context.pop("mask", None)  # Its first axis is another.
        shared = {k: v for k, v in given.items() if k not in context}

        def apply(of_layer: tuple[Any, Array, Array | None], x: Array, context: Any) -> Array:
            params, number, index = of_layer

            def one(x: Array, example: Array, **context: Array) -> Array:
                rngs = {}
                if rng is not None:
                    rngs["dropout"] = jax.random.fold_in(jax.random.fold_in(rng, number), example)
                own = {name: value[None] for name, value in context.items()}
                arguments = {"mask_index": index, "deterministic": deterministic, **shared, **own}
                return layer.apply({"params": params}, x[None], **arguments, rngs=rngs)[0][0]

            return jax.vmap(one)(x, **context)

        layers = (self.layers.variables["params"], jnp.arange(config.num_layers), mask_index)
        return pipeline.circular(
            apply,
            layers,
            x,
            context | {"example": jnp.arange(len(x))},
            config.num_stages,
            config.pipeline_microbatches,
            _REMAT_POLICIES[config.remat],
        )

    def cross_keys_values(self, encoded: Array) -> list[attention.KeysValues]:
        """Projects an encoder's output [groups, length, embed] to each layer's keys and values.

        That is one entry per layer, [groups, heads, length, kv].
        """
        if self.config.scan_layers:
            stacked = self.layers.cross_keys_values(None, encoded)[1]
            return [
                jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(self.config.num_layers)
            ]
        return [layer.cross_keys_values(None, encoded)[1] for layer in self.layers]

    def decode(
        self,
        x: Array,
        cached: Sequence[CachedLayer],
        cross: Sequence[Sequence[attention.KeysValues]],
        cross_masks: Sequence[Array],
    ) -> tuple[Array, list[attention.Cache]]:
        """Runs the stack over positions [batch, length, embed], and adds them to the caches.

        The layers may not be scanned (`unrolled`): a loop over them would copy the weights and the
        cache of each layer at each step.

        Args:
          cached: Of each layer.
          cross: For each part of the rows (see `decode_shared`) what `cross_keys_values` gave.
          cross_masks: For each part which of them may be seen.
        """
        if self.config.scan_layers:
            raise ValueError("positions pass layers apart; decode with scan_layers = False")
        caches = []
        for i, layer in enumerate(self.layers):
            x, cache = layer.decode(x, cached[i], [part[i] for part in cross], cross_masks)
            caches.append(cache)
        return self.final_norm(x), caches


def layer_shapes(
    key: tuple[str, ...], shape: tuple[int, ...]
) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Returns {path: shape} of what a parameter is without scan_layers: a part for each layer.

    One that belongs to no scanned stack stays as it is.
    """
    if _SCANNED not in key:
        return {key: shape}
    at = key.index(_SCANNED)
    return {(*key[:at], f"{_SCANNED}_{i}", *key[at + 1 :]): shape[1:] for i in range(shape[0])}


def unrolled(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns parameters of a model with scanned stacks, and scales, as without scan_layers."""
    flat: dict[tuple[str, ...], Any] = {}
    kept = {name: variables[name] for name in ("params", quantization.SCALES) if name in variables}
    for key, leaf in traverse_util.flatten_dict(kept).items():
        parts = leaf if _SCANNED in key else [leaf]
        flat |= zip(layer_shapes(key, leaf.shape), parts, strict=True)
    return traverse_util.unflatten_dict(flat)


class AttentionalPooler(nn.Module):
    """Learned queries that attend to a sequence once, and a LayerNorm.

    Source: CoCa (arXiv 2205.01917) section 3.2.
    """

    num_queries: int  # length of the output
    emb_dim: int
    num_heads: int
    head_dim: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, inputs: Array, mask: Array | None = None) -> Array:
        """Pools [batch, length, embed] to [batch, num_queries, embed]."""
        init = nn.with_logical_partitioning(nn.initializers.normal(stddev=0.02), (None, "embed"))
        queries = self.param("queries", init, (self.num_queries, self.emb_dim))
        queries = jnp.broadcast_to(queries.astype(self.dtype), (inputs.shape[0], *queries.shape))
        x = attention.MultiHeadAttention(
            self.emb_dim, self.num_heads, self.head_dim, dtype=self.dtype, name="attention"
        )(queries, inputs, mask)
        return layer_norm(self.dtype, "norm")(x)
