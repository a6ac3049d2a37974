# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parti's encoder-decoder Transformer: caption tokens and earlier image tokens to logits.

Source: Parti (arXiv 2206.10789) section 2.2; what it leaves open (learned positions, no biases,
GELU, untied embeddings) is chosen so that the sizes of its Table 1 come out.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parti.data.text import vocabularies
from parti.models.layers import (
    attention,
    dense,
    masks,
    positions,
    quantization,
    text_encoder,
    transformer,
)
from parti.models.text_to_image import decode_order

Array = jax.Array

SHIFTS = ("raster", "row")
START_ID = 0


@dataclasses.dataclass(frozen=True)
class TextToImageConfig:
    """Sizes and choices of the network; the defaults are a small model, not one of the paper's.

    For what is not said here see `transformer.StackConfig`.
    """

    text_vocab_size: int = 16000  # rows of the text embedding table
    text_length: int = 128  # most tokens of a caption
    codebook_size: int = 8192  # codebook index c is id c + 1, id 0 is padding and start
    grid_size: int = 32  # rows, and columns, of an image's tokens
    emb_dim: int = 512
    num_heads: int = 8
    head_dim: int = 64
    mlp_dim: int = 2048
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    # Width of the decoder's convolution-shaped self-attention window (odd), 0 for dense causal
    # attention; a tuple gives one per layer
    local_window: int | tuple[int, ...] = 11
    # What the first input of a row of tokens is: 'raster' the last token of the row above, 'row'
    # the start id, as of the first row, which drawing as a wavefront needs (`decode_order`)
    shift: str = "raster"
    dropout_rate: float = 0.1  # also of embeddings
    dtype: str = "bfloat16"  # LayerNorm, softmax and logits are float32 all the same
    scan_layers: bool = True
    remat: str = "none"
    # Of a circular pipeline through the encoder and then of one through the decoder; 1 is none
    num_stages: int = 1
    pipeline_microbatches: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.local_window, int):  # gin gives lists
            object.__setattr__(self, "local_window", tuple(self.local_window))
        if len(self.windows) != self.num_decoder_layers:
            raise ValueError(
                f"local_window lists {len(self.windows)} windows for {self.num_decoder_layers} "
                "decoder layers; give one number for all, or one per layer"
            )
        for num_layers in (self.num_encoder_layers, self.num_decoder_layers):
            self.stack(num_layers, False)  # checks dtype, remat and pipeline
        for window in self.windows:
            masks.window_reach(window, self.grid)
        if self.shift not in SHIFTS:
            raise ValueError(f"shift is {self.shift!r}; choose one of {', '.join(SHIFTS)}")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate is {self.dropout_rate}; it must be in [0, 1)")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of an image's tokens."""
        return (self.grid_size, self.grid_size)

    @property
    def image_length(self) -> int:
        """Tokens of an image."""
        return self.grid_size**2

    @property
    def image_vocab_size(self) -> int:
        """Image token ids: padding, the codebook, and filler up to a multiple of 128."""
        return vocabularies.ImageTokenVocabulary(self.codebook_size).vocab_size

    @property
    def windows(self) -> tuple[int, ...]:
        """The local window of each decoder layer."""
        if isinstance(self.local_window, int):
            return (self.local_window,) * self.num_decoder_layers
        return self.local_window

    @property
    def unrolled(self) -> "TextToImageConfig":
        """The same without scan_layers or pipeline; the parameters are `transformer.unrolled`."""
        return dataclasses.replace(self.unpipelined, scan_layers=False)

    @property
    def unpipelined(self) -> "TextToImageConfig":
        """The same without a pipeline; the parameters are the same."""
        return dataclasses.replace(self, num_stages=1, pipeline_microbatches=1)

    def stack(self, num_layers: int, cross_attention: bool) -> transformer.StackConfig:
        """Returns the configuration of the encoder's or decoder's stack."""
        return transformer.StackConfig.of(self, num_layers, cross_attention=cross_attention)


class ImageTokenDecoder(nn.Module):
    """Earlier image tokens and an encoded caption to logits of the next image token."""

    config: TextToImageConfig

    def setup(self) -> None:
        """Declares the parts."""
        config = self.config
        self.token_embedding = positions.TokenEmbedding(
            config.image_vocab_size, config.emb_dim, config.dtype
        )
        self.positions = positions.ImagePositions(config.grid, config.emb_dim, config.dtype)
        self.dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))
        self.stack = transformer.Stack(config.stack(config.num_decoder_layers, True))
        # Small, so that training starts at a loss of log(vocab).
        init = nn.with_logical_partitioning(nn.initializers.normal(stddev=0.02), ("embed", "vocab"))
        self.logits_kernel = self.param(
            "logits_kernel", init, (config.emb_dim, config.image_vocab_size)
        )

    def logits(self, x: Array) -> Array:
        """Maps [..., embed] to float32 [..., vocab]."""
        logits = dense.matmul(x, self.logits_kernel.astype(x.dtype), "float32")
        return quantization.scaled(logits, self.get_variable(quantization.SCALES, "logits_kernel"))

    def __call__(
        self, tokens: Array, encoded: Array, encoded_mask: Array, deterministic: bool = True
    ) -> Array:
        """Computes the logits [batch, image_length, vocab] float32; position t predicts token t.

        The tokens [batch, image_length] are the targets shifted right by one, the captions
        [batch, text_length, embed] with a mask [batch, 1, 1, text_length].

        Raises:
          ValueError: The images have another number of tokens than the network.
        """
        config = self.config
        if tokens.shape[1] != config.image_length:
            raise ValueError(
                f"images of {tokens.shape[1]} tokens, but grid_size {config.grid_size} means "
                f"{config.image_length}; set grid_size to the tokenizer's"
            )
        tokens = self._shifted(tokens, jnp.arange(config.image_length))
        x = self.token_embedding(tokens) + self.positions()
        x = nn.with_logical_constraint(x, ("batch", "length", "embed"))
        x = self.dropout(x, deterministic)
        kinds = sorted(set(config.windows))
        mask = np.stack([masks.conv_local_mask(config.grid, window) for window in kinds])
        if blocks := masks.local_blocks(config.grid, kinds):
            mask = masks.in_blocks(mask, *blocks)
        index = None
        if len(kinds) == 1:
            mask = mask[0]
        else:
            index = jnp.array([kinds.index(window) for window in config.windows])
        x = self.stack(x, jnp.asarray(mask), encoded, encoded_mask, deterministic, index)
        return nn.with_logical_constraint(self.logits(x), ("batch", "length", "vocab"))

    def decode_step(
        self,
        tokens: Array,
        step: decode_order.Step,
        order: decode_order.DecodeOrder,
        caches: Sequence[attention.Cache],
        cross: Sequence[Sequence[attention.KeysValues]],
        cross_masks: Sequence[Array],
    ) -> tuple[Array, list[attention.Cache]]:
        """Computes the logits of one step for rows whose earlier positions are in the cache.

        Args:
          tokens: [rows, lanes] int32, the tokens before these positions in raster order (0 at the
            first of an image).
          step: Where the lanes are.
          caches: Of each layer, from `empty_caches` or the step before.
          cross: What `prepare` gave for each of the parts among which the rows take turns (see
            `attention.MultiHeadAttention.decode_shared`).
          cross_masks: For each part [groups, text_length] bool, True where the caption has a token.

        Returns:
          [rows, lanes, vocab] float32, and the caches with these positions.
        """
        config = self.config
        kinds = {
            window: (order.slots(step, window), order.mask(step, window))
            for window in set(config.windows)
        }
        cached = [
            transformer.CachedLayer(cache, *kinds[window])
            for cache, window in zip(caches, config.windows, strict=True)
        ]
        position = step.row % config.grid_size * config.grid_size + step.column
        x = self.token_embedding(self._shifted(tokens, position)) + self.positions.at(position)
        x = nn.with_logical_constraint(x, ("batch", None, "embed"))
        x, caches = self.stack.decode(x, cached, cross, cross_masks)
        # Of a row the logits come together on one device, which chooses its token as a single one
        # would; without the first line the compiler gathers the kernel, which is larger.
        logits = nn.with_logical_constraint(self.logits(x), ("batch", None, "vocab"))
        return nn.with_logical_constraint(logits, ("batch", None, None)), caches

    def _shifted(self, tokens: Array, position: Array) -> Array:
        """Returns the inputs at positions [length]: the tokens [..., length] right before them."""
        if self.config.shift == "raster":
            return tokens
        return jnp.where(position % self.config.grid_size == 0, START_ID, tokens)


class PartiTransformer(nn.Module):
    """The encoder-decoder; `__call__` for training, `prepare` and `decode_step` for sampling."""

    config: TextToImageConfig

    def setup(self) -> None:
        """Declares encoder and decoder."""
        config = self.config
        self.encoder = text_encoder.TextEncoder(
            config.text_vocab_size,
            config.text_length,
            config.stack(config.num_encoder_layers, False),
        )
        self.decoder = ImageTokenDecoder(self.config)

    def __call__(
        self, text_tokens: Array, decoder_input_tokens: Array, deterministic: bool = True
    ) -> Array:
        """Computes logits [batch, image_length, vocab] from captions and shifted targets."""
        encoded = self.encoder(text_tokens, deterministic)
        mask = masks.padding_mask(text_tokens)
        return self.decoder(decoder_input_tokens, encoded, mask, deterministic)

    def prepare(self, text_tokens: Array) -> list[attention.KeysValues]:
        """Encodes captions [groups, text_length], and projects them to keys and values.

        They are those of `transformer.Stack.cross_keys_values`, for the decoder's cross-attention.
        """
        return self.decoder.stack.cross_keys_values(self.encoder(text_tokens))

    def decode_step(self, *arrays: Any) -> tuple[Array, list[attention.Cache]]:
        """Computes the logits of one step; see `ImageTokenDecoder.decode_step`."""
        return self.decoder.decode_step(*arrays)


def empty_caches(
    config: TextToImageConfig, order: decode_order.DecodeOrder, rows: int
) -> list[attention.Cache]:
    """Returns each layer's cache before the first step: the image rows that stay in reach."""

    def empty(window: int) -> Array:
        shape = (rows, config.num_heads, order.cache_slots(window), config.head_dim)
        axes = ("batch", "heads", None, "kv")
        return nn.with_logical_constraint(jnp.zeros(shape, config.dtype), axes)

    return [attention.Cache(empty(window), empty(window)) for window in config.windows]
