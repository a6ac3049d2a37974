# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Embedding tables: tokens, text positions, and image positions as row + column."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from parti.models.layers import dense

Array = jax.Array

_TABLE_INIT = nn.initializers.normal(stddev=0.02)


class TokenEmbedding(nn.Module):
    """A table of token embeddings, not tied to the output unless `attend` is called."""

    vocab_size: int  # a multiple of the `vocab` mesh axis
    emb_dim: int
    dtype: str = "float32"  # of the result; the table is float32

    def setup(self) -> None:
        """Declares the table."""
        init = nn.with_logical_partitioning(_TABLE_INIT, ("vocab", "embed"))
        self.embedding = self.param("embedding", init, (self.vocab_size, self.emb_dim))

    def __call__(self, tokens: Array) -> Array:
        """Looks tokens up: [...] int32 in [0, vocab_size) -> [..., embed]."""
        return jnp.take(self.embedding, tokens, axis=0).astype(self.dtype)

    def attend(self, x: Array) -> Array:
        """Compares [..., embed] with all tokens: their products, [..., vocab] float32."""
        return dense.matmul(x, self.embedding.astype(x.dtype).T, "float32")


class TextPositions(nn.Module):
    """Learned positions of a text."""

    max_length: int
    emb_dim: int
    dtype: str = "float32"  # of the result; the table is float32

    def setup(self) -> None:
        """Declares the table."""
        init = nn.with_logical_partitioning(_TABLE_INIT, ("length", "embed"))
        self.embedding = self.param("embedding", init, (self.max_length, self.emb_dim))

    def __call__(self, length: int) -> Array:
        """Returns the first `length` positions, [length, embed].

        Raises:
          ValueError: The text is longer than the table.
        """
        if length > self.max_length:
            raise ValueError(
                f"text of {length} tokens, but the model has {self.max_length} positions; "
                "truncate the text or build the model with a larger text_length"
            )
        return self.embedding[:length].astype(self.dtype)

    def at(self, positions: Array) -> Array:
        """Looks positions up: [...] int32 in [0, max_length) -> [..., embed]."""
        return jnp.take(self.embedding, positions, axis=0).astype(self.dtype)


class ImagePositions(nn.Module):
    """Learned positions of an image's tokens in raster order: row embedding + column embedding.

    Source: DALL-E (arXiv 2102.12092) appendix B.1; Parti does not say.
    """

    grid: tuple[int, int]  # rows, columns
    emb_dim: int
    dtype: str = "float32"  # of the result; the tables are float32

    def setup(self) -> None:
        """Declares the two tables."""
        init = nn.with_logical_partitioning(_TABLE_INIT, ("length", "embed"))
        self.row_embedding = self.param("row_embedding", init, (self.grid[0], self.emb_dim))
        self.column_embedding = self.param("column_embedding", init, (self.grid[1], self.emb_dim))

    def __call__(self) -> Array:
        """Returns all positions, [rows * columns, embed]."""
        table = self.row_embedding[:, None] + self.column_embedding[None, :]
        return table.reshape(-1, self.emb_dim).astype(self.dtype)

    def at(self, position: Array) -> Array:
        """Looks positions up: [...] int32 in raster order -> [..., embed]."""
        row, column = position // self.grid[1], position % self.grid[1]
        return (self.row_embedding[row] + self.column_embedding[column]).astype(self.dtype)
