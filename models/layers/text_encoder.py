# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parti's text encoder, one module with one parameter tree in its pretraining and in Parti.

Source: Parti (arXiv 2206.10789) sections 2.2 and 2.3.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from parti.models.layers import masks, positions, transformer

Array = jax.Array


class TextEncoder(nn.Module):
    """Text tokens to one vector per token."""

    vocab_size: int  # rows of the token table
    max_length: int  # most tokens of a text
    blocks: transformer.StackConfig

    def setup(self) -> None:
        """Declares the parts."""
        blocks = self.blocks
        self.token_embedding = positions.TokenEmbedding(
            self.vocab_size, blocks.emb_dim, blocks.dtype
        )
        self.positions = positions.TextPositions(self.max_length, blocks.emb_dim, blocks.dtype)
        self.dropout = nn.Dropout(blocks.dropout_rate, broadcast_dims=(-2,))
        self.stack = transformer.Stack(blocks)

    def __call__(
        self,
        tokens: Array,
        deterministic: bool = True,
        segment_ids: Array | None = None,
        token_positions: Array | None = None,
    ) -> Array:
        """Maps [batch, length] int32 (0 is padding) to [batch, length, embed].

        Of sequences in which several texts are packed, `segment_ids` [batch, length] int32 say
        which text a token is of (1, 2, ...; 0 is padding): texts do not see each other. The
        `token_positions`, of the same shape, count in each from 0. Unless deterministic it needs
        the rng `dropout`.
        """
        x = self.token_embedding(tokens)
        if token_positions is None:
            x += self.positions(tokens.shape[1])
        else:
            x += self.positions.at(token_positions)
        x = nn.with_logical_constraint(x, ("batch", "length", "embed"))
        x = self.dropout(x, deterministic)
        if segment_ids is None:
            mask = masks.padding_mask(tokens)
        else:
            mask = masks.segment_mask(segment_ids)
        return self.stack(x, mask, deterministic=deterministic)

    def attend(self, x: Array) -> Array:
        """Compares [..., embed] with all tokens of the table: [..., vocab] float32."""
        return self.token_embedding.attend(x)


def mean_of_tokens(states: Array, tokens: Array) -> Array:
    """Returns the mean of the states [batch, length, embed] of what is no padding.

    The tokens are [batch, length] int32, the mean [batch, embed] float32; of no token it is 0.
    """
    is_token = (tokens != 0)[..., None]
    count = jnp.maximum(jnp.sum(is_token, axis=1), 1)
    return jnp.sum(states.astype(jnp.float32) * is_token, axis=1) / count
