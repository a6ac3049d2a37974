# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The contrastive part of CoCa: an image encoder and a unimodal text decoder.

Source: CoCa (arXiv 2205.01917) section 3.2 and table 1; Parti (arXiv 2206.10789) section 2.4
reranks with a base-size one.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from parti.data.text import vocabularies
from parti.models.layers import dense, masks, norms, positions, transformer, vision_transformer


@dataclasses.dataclass(frozen=True)
class CocaConfig(vision_transformer.VisionTransformerConfig):
    """Sizes of the reranker; the defaults are CoCa-Base with Parti's text vocabulary.

    The sizes of the blocks are those of both sides.
    """

    image_size: int = 288
    patch_size: int = 18
    emb_dim: int = 768
    num_heads: int = 12
    mlp_dim: int = 3072
    text_vocab_size: int = 16000  # padding included
    text_length: int = 128  # the longest text, in tokens
    num_image_layers: int = 12
    num_text_layers: int = 12
    embedding_dim: int = 512  # of the space in which images and texts are compared
    max_logit_scale: float = 100.0  # the learned 1 / temperature is clipped to this

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.text_vocab_size, self.text_length, self.embedding_dim) < 1:
            raise ValueError(
                f"text_vocab_size {self.text_vocab_size}, text_length {self.text_length} and "
                f"embedding_dim {self.embedding_dim} must all be at least 1"
            )
        _ = self.image_stack, self.text_stack  # they check their own sizes

    @property
    def text_table_size(self) -> int:
        """Rows of the text embedding table: the vocabulary, padded so that it divides a mesh."""
        return vocabularies.padded_size(self.text_vocab_size)

    @property
    def image_stack(self) -> transformer.StackConfig:
        """The image encoder's blocks."""
        return transformer.StackConfig.of(self, self.num_image_layers)

    @property
    def text_stack(self) -> transformer.StackConfig:
        """The text decoder's blocks."""
        return transformer.StackConfig.of(self, self.num_text_layers)


def text_mask(text_tokens: jax.Array) -> jax.Array:
    """Returns who sees whom in texts [batch, length] with [CLS] appended.

    Causal; nobody sees padding, and [CLS], being last, sees all of the text and itself. The mask is
    [batch, 1, length + 1, length + 1].
    """
    keys = jnp.pad(text_tokens, ((0, 0), (0, 1)), constant_values=1)  # [CLS] is not padding
    return masks.padding_mask(keys) & masks.causal_mask(keys.shape[1])


class TextDecoder(nn.Module):
    """The unimodal half of CoCa's decoder: causal, with a learned [CLS] at the end."""

    config: CocaConfig

    @nn.compact
    def __call__(self, text_tokens: jax.Array, deterministic: bool = True) -> jax.Array:
        """Maps [batch, length] int32 to [batch, length + 1, embed]; the last one is [CLS]."""
        config = self.config
        embedding = positions.TokenEmbedding(
            config.text_table_size, config.emb_dim, config.dtype, name="token_embedding"
        )
        text_positions = positions.TextPositions(
            config.text_length, config.emb_dim, config.dtype, name="positions"
        )
        x = embedding(text_tokens) + text_positions(text_tokens.shape[1])
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("embed",))
        cls = self.param("cls", init, (config.emb_dim,)).astype(config.dtype)
        cls = jnp.broadcast_to(cls, (x.shape[0], 1, config.emb_dim))
        x = jnp.concatenate([x, cls], axis=1)
        return transformer.Stack(config.text_stack, name="stack")(
            x, text_mask(text_tokens), deterministic=deterministic
        )


class Coca(nn.Module):
    """Images and texts to unit vectors of one space, and the learned temperature."""

    config: CocaConfig

    def setup(self) -> None:
        """Declares both sides."""
        config = self.config
        self.image_encoder = vision_transformer.VisionTransformer(config, config.image_stack)
        self.image_pooler = transformer.AttentionalPooler(
            1, config.emb_dim, config.num_heads, config.head_dim, config.dtype
        )
        axes = ("embed", None)
        self.image_projection = dense.matrix(config.embedding_dim, axes, config.dtype)
        self.text_decoder = TextDecoder(config)
        self.text_projection = dense.matrix(config.embedding_dim, axes, config.dtype)
        self.log_logit_scale = self.param(
            "log_logit_scale", nn.initializers.constant(math.log(1.0 / 0.07)), ()
        )

    def __call__(
        self, images: jax.Array, text_tokens: jax.Array, deterministic: bool = True
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Embeds pairs; unless deterministic the rng `dropout` is needed.

        Returns both embeddings, [batch, embedding_dim] of unit norm, and the logit scale, a scalar
        in (0, max_logit_scale].
        """
        limit = math.log(self.config.max_logit_scale)
        return (
            self.embed_images(images, deterministic),
            self.embed_texts(text_tokens, deterministic),
            jnp.exp(jnp.minimum(self.log_logit_scale, limit)),
        )

    def embed_images(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        """Maps [batch, height, width, 3] in [-1, 1] to [batch, embedding_dim], unit norm."""
        pooled = self.image_pooler(self.image_encoder(images, deterministic))[:, 0]
        return norms.unit_norm(self.image_projection(pooled))

    def embed_texts(self, text_tokens: jax.Array, deterministic: bool = True) -> jax.Array:
        """Maps [batch, length] int32 to [batch, embedding_dim], unit norm."""
        cls = self.text_decoder(text_tokens, deterministic)[:, -1]
        return norms.unit_norm(self.text_projection(cls))
