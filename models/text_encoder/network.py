# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parti's text encoder with what its two objectives need: a BERT head, and an image tower.

The branch `encoder` is that of `text_to_image.network.PartiTransformer`; the others are thrown away
after the pretraining.

Source: Parti (arXiv 2206.10789) section 2.3 and appendix G; the head is BERT's (arXiv 1810.04805).
What Parti leaves open, a ViT-Base as image tower and the mean of the encoder's states as the text's
vector, is ours.
"""

import dataclasses
from collections.abc import Mapping

import jax
from flax import linen as nn

from parti.models.layers import (
    dense,
    dual_encoder,
    norms,
    text_encoder,
    transformer,
    vision_transformer,
)

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ImageTowerConfig(vision_transformer.VisionTransformerConfig):
    """Sizes of the image encoder; the defaults are ViT-Base for images of 256 px."""

    patch_size: int = 16
    emb_dim: int = 768
    num_heads: int = 12
    mlp_dim: int = 3072
    num_layers: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.stack  # it checks its own sizes

    @property
    def stack(self) -> transformer.StackConfig:
        """The blocks."""
        return transformer.StackConfig.of(self, self.num_layers)


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig:
    """Sizes and choices; the encoder's have the names that `TextToImageConfig` gives them.

    For what is not said here see `transformer.StackConfig`.
    """

    text_vocab_size: int = 16000  # rows of the token table
    text_length: int = 128  # tokens of a text, or of a sequence of packed ones
    emb_dim: int = 512
    num_heads: int = 8
    head_dim: int = 64
    mlp_dim: int = 2048
    num_encoder_layers: int = 6
    dropout_rate: float = 0.1
    dtype: str = "bfloat16"  # LayerNorm, softmax and logits are float32 all the same
    scan_layers: bool = True
    remat: str = "none"
    image_tower: ImageTowerConfig = ImageTowerConfig()
    embedding_dim: int = 512  # of the space in which images and texts are compared
    max_logit_scale: float = 100.0  # the learned 1 / temperature is clipped to this

    def __post_init__(self) -> None:
        if min(self.text_vocab_size, self.text_length, self.embedding_dim) < 1:
            raise ValueError(
                f"text_vocab_size {self.text_vocab_size}, text_length {self.text_length} and "
                f"embedding_dim {self.embedding_dim} must all be at least 1"
            )
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate is {self.dropout_rate}; it must be in [0, 1)")
        _ = self.stack  # it checks its own sizes

    @property
    def stack(self) -> transformer.StackConfig:
        """The encoder's blocks."""
        return transformer.StackConfig.of(self, self.num_encoder_layers)


class BertHead(nn.Module):
    """The encoder's states to what is compared with the token table, and a bias for each token.

    Source: BERT's reference implementation: dense, GELU, LayerNorm, tied table, bias.
    """

    emb_dim: int
    vocab_size: int
    dtype: str

    def setup(self) -> None:
        """Declares the parts."""
        self.dense = dense.matrix(self.emb_dim, ("embed", None), self.dtype)
        self.norm = transformer.layer_norm(self.dtype)
        init = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
        self.bias = self.param("bias", init, (self.vocab_size,))

    def __call__(self, states: Array) -> Array:
        """Maps [..., embed] to the same."""
        return self.norm(nn.gelu(self.dense(states)))


class TextEncoderPretraining(dual_encoder.DualEncoder):
    """The encoder, and the parts of the objectives that there are."""

    config: TextEncoderConfig
    has_bert: bool = True
    has_contrast: bool = True

    def setup(self) -> None:
        """Declares the parts."""
        config, tower = self.config, self.config.image_tower
        self.encoder = text_encoder.TextEncoder(
            config.text_vocab_size, config.text_length, config.stack
        )
        if self.has_bert:
            self.bert_head = BertHead(config.emb_dim, config.text_vocab_size, config.dtype)
        if self.has_contrast:
            self.image_encoder = vision_transformer.VisionTransformer(tower, tower.stack)
            self.image_pooler = transformer.AttentionalPooler(
                1, tower.emb_dim, tower.num_heads, tower.head_dim, tower.dtype
            )
            axes = ("embed", None)
            self.image_projection = dense.matrix(config.embedding_dim, axes, tower.dtype)
            self.text_projection = dense.matrix(config.embedding_dim, axes, config.dtype)
            self.log_logit_scale = self.new_log_logit_scale()

    def encode(
        self,
        tokens: Array,
        deterministic: bool = True,
        segment_ids: Array | None = None,
        token_positions: Array | None = None,
    ) -> Array:
        """Maps [batch, length] int32 to the encoder's states, [batch, length, embed]."""
        return self.encoder(tokens, deterministic, segment_ids, token_positions)

    def token_logits(
        self, tokens: Array, segment_ids: Array, token_positions: Array, deterministic: bool = True
    ) -> Array:
        """Maps packed texts to the logits of each token, [batch, length, vocab] float32.

        All three are [batch, length] int32; see `text_encoder.TextEncoder`.
        """
        states = self.encoder(tokens, deterministic, segment_ids, token_positions)
        logits = self.encoder.attend(self.bert_head(states)) + self.bert_head.bias
        return nn.with_logical_constraint(logits, ("batch", "length", "vocab"))

    def embed_images(self, images: Array, deterministic: bool = True) -> Array:
        """Maps [batch, height, width, 3] in [-1, 1] to [batch, embedding_dim], unit norm."""
        pooled = self.image_pooler(self.image_encoder(images, deterministic))[:, 0]
        return norms.unit_norm(self.image_projection(pooled))

    def embed_texts(self, tokens: Array, deterministic: bool = True) -> Array:
        """Maps [batch, length] int32 to [batch, embedding_dim], unit norm.

        It is of the mean of the states of the tokens that are no padding.
        """
        states = self.encoder(tokens, deterministic)
        mean = text_encoder.mean_of_tokens(states, tokens)
        return norms.unit_norm(self.text_projection(mean))

    def __call__(
        self, batch: Mapping[str, Array], deterministic: bool = True
    ) -> tuple[Array | None, tuple[Array, Array, Array] | None]:
        """Returns what the losses of a batch need; None of an objective that is not there.

        They are the logits of packed texts, and of pairs both embeddings and the logit scale. The
        features are those of `model`; unless deterministic the rng `dropout` is needed.
        """
        logits = compared = None
        if self.has_bert:
            logits = self.token_logits(
                batch["bert_input_tokens"],
                batch["bert_segment_ids"],
                batch["bert_positions"],
                deterministic,
            )
        if self.has_contrast:
            compared = (
                self.embed_images(batch["images"], deterministic),
                self.embed_texts(batch["text_tokens"], deterministic),
                self.logit_scale(),
            )
        return logits, compared
