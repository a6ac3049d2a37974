# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""CoCa: an image encoder, and a text decoder whose first half does not see the image.

The first, unimodal half embeds texts, to be compared with images; the second, multimodal half
attends to the image and writes its caption. Without the second half it is a dual encoder.

Source: CoCa (arXiv 2205.01917) section 3.2 and table 1; Parti (arXiv 2206.10789) section 2.4
reranks with a base-size one.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from parti.data.text import vocabularies
from parti.models.layers import (
    attention,
    dense,
    dual_encoder,
    masks,
    norms,
    positions,
    transformer,
    vision_transformer,
)

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class CocaConfig(vision_transformer.VisionTransformerConfig):
    """Sizes of the reranker; the defaults are the contrastive half of CoCa-Base.

    The sizes of the blocks are those of all parts.
    """

    image_size: int = 288
    patch_size: int = 18
    emb_dim: int = 768
    num_heads: int = 12
    mlp_dim: int = 3072
    text_vocab_size: int = 16000  # padding included
    text_length: int = 128  # the longest text, in tokens
    num_image_layers: int = 12
    num_text_layers: int = 12  # of the unimodal half
    num_multimodal_layers: int = 0  # of the half that writes captions; 0: there is none
    num_caption_queries: int = 256  # vectors of an image that captions are written from
    embedding_dim: int = 512  # of the space in which images and texts are compared
    max_logit_scale: float = 100.0  # the learned 1 / temperature is clipped to this

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = ("text_vocab_size", "text_length", "embedding_dim", "num_caption_queries")
        if small := [name for name in sizes if getattr(self, name) < 1]:
            raise ValueError(f"{small[0]} is {getattr(self, small[0])}; it must be at least 1")
        _ = self.image_stack, self.text_stack  # they check their own sizes

    @property
    def has_captions(self) -> bool:
        """Whether there is a multimodal half."""
        return self.num_multimodal_layers > 0

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
        """The unimodal text decoder's blocks."""
        return transformer.StackConfig.of(self, self.num_text_layers)

    @property
    def multimodal_stack(self) -> transformer.StackConfig:
        """The multimodal text decoder's blocks."""
        return transformer.StackConfig.of(self, self.num_multimodal_layers, cross_attention=True)


class Outputs(NamedTuple):
    """What pairs become."""

    image_embeddings: Array  # [batch, embedding_dim] of unit norm
    text_embeddings: Array  # [batch, embedding_dim] of unit norm
    logit_scale: Array  # scalar in (0, max_logit_scale]
    # [batch, length, vocab] float32, position t predicts token t; None without a multimodal half
    caption_logits: Array | None


def text_mask(text_tokens: Array, has_start: bool = False, has_cls: bool = True) -> Array:
    """Returns who sees whom in texts [batch, length], after a start and before [CLS] if they have.

    Causal; nobody sees padding, and [CLS], being last, sees all of the text and itself. The mask is
    [batch, 1, all, all] of the positions, start and [CLS] included.
    """
    around = ((0, 0), (int(has_start), int(has_cls)))
    keys = jnp.pad(text_tokens, around, constant_values=1)  # Neither is padding.
    return masks.padding_mask(keys) & masks.causal_mask(keys.shape[1])


class TextDecoder(nn.Module):
    """The unimodal half of CoCa's decoder: causal, with a learned [CLS] at the end.

    With a multimodal half behind it, texts begin with a start, id 0, that predicts the first token.
    """

    config: CocaConfig

    def setup(self) -> None:
        """Declares embeddings and blocks."""
        config = self.config
        self.token_embedding = positions.TokenEmbedding(
            config.text_table_size, config.emb_dim, config.dtype
        )
        self.positions = positions.TextPositions(
            config.text_length + config.has_captions, config.emb_dim, config.dtype
        )
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("embed",))
        self.cls = self.param("cls", init, (config.emb_dim,))
        self.stack = transformer.Stack(config.text_stack)

    def __call__(self, text_tokens: Array, deterministic: bool = True) -> Array:
        """Maps [batch, length] int32 to [batch, all, embed]: start, if any, tokens and [CLS]."""
        config = self.config
        has_start = config.has_captions
        inputs = jnp.pad(text_tokens, ((0, 0), (int(has_start), 0)))
        x = self.token_embedding(inputs) + self.positions(inputs.shape[1])
        cls = self.cls.astype(config.dtype)
        cls = jnp.broadcast_to(cls, (x.shape[0], 1, config.emb_dim))
        x = jnp.concatenate([x, cls], axis=1)
        return self.stack(x, text_mask(text_tokens, has_start), deterministic=deterministic)

    def decode_step(
        self, tokens: Array, position: Array, caches: Sequence[attention.Cache]
    ) -> tuple[Array, list[attention.Cache]]:
        """Maps the tokens [batch] at one position to [batch, 1, embed]; see `Coca.decode_step`."""
        x = (
            self.token_embedding(tokens)[:, None]
            + self.positions(self.config.text_length)[position]
        )
        return self.stack.decode(x, _cached(caches, position), [], [])


class MultimodalDecoder(nn.Module):
    """The multimodal half of CoCa's decoder: causal, and each layer attends to the image."""

    config: CocaConfig

    def setup(self) -> None:
        """Declares the blocks and the output table, which is not that of the input."""
        config = self.config
        self.stack = transformer.Stack(config.multimodal_stack)
        init = nn.with_logical_partitioning(nn.initializers.normal(stddev=0.02), ("embed", "vocab"))
        self.logits_kernel = self.param(
            "logits_kernel", init, (config.emb_dim, config.text_table_size)
        )

    def logits(self, x: Array) -> Array:
        """Maps [..., embed] to float32 [..., vocab]."""
        return dense.matmul(x, self.logits_kernel.astype(x.dtype), "float32")

    def __call__(
        self, states: Array, text_tokens: Array, features: Array, deterministic: bool = True
    ) -> Array:
        """Computes the logits [batch, length, vocab] of captions; position t predicts token t.

        `states` [batch, length, embed] are the unimodal half's of the start and all tokens but the
        last, `features` [batch, queries, embed] the image's.
        """
        mask = text_mask(text_tokens[:, :-1], has_start=True, has_cls=False)
        x = self.stack(states, mask, features, None, deterministic)
        return nn.with_logical_constraint(self.logits(x), ("batch", "length", "vocab"))

    def prepare(self, features: Array) -> list[attention.KeysValues]:
        """Projects an image's features to keys and values, for `decode_step`."""
        return self.stack.cross_keys_values(features)

    def decode_step(
        self,
        x: Array,
        position: Array,
        caches: Sequence[attention.Cache],
        image: list[attention.KeysValues],
    ) -> tuple[Array, list[attention.Cache]]:
        """Maps the unimodal half's [batch, 1, embed] to logits [batch, vocab]; see `Coca`."""
        seen = jnp.ones((x.shape[0], self.config.num_caption_queries), bool)
        x, caches = self.stack.decode(x, _cached(caches, position), [image], [seen])
        return self.logits(x)[:, 0], caches


class Caches(NamedTuple):
    """Keys and values of the positions decoded so far, of the layers of both halves."""

    unimodal: list[attention.Cache]
    multimodal: list[attention.Cache]


class Coca(dual_encoder.DualEncoder):
    """Images and texts to unit vectors of one space, the learned temperature, and captions.

    The pooler for contrast pools what the pooler for captions gives, if there is one ("cascade").
    """

    config: CocaConfig

    def setup(self) -> None:
        """Declares the parts."""
        config = self.config

        def pooler(num_queries: int) -> transformer.AttentionalPooler:
            sizes = config.emb_dim, config.num_heads, config.head_dim, config.dtype
            return transformer.AttentionalPooler(num_queries, *sizes)

        self.image_encoder = vision_transformer.VisionTransformer(config, config.image_stack)
        if config.has_captions:
            self.caption_pooler = pooler(config.num_caption_queries)
            self.multimodal_decoder = MultimodalDecoder(config)
        self.image_pooler = pooler(1)
        axes = ("embed", None)
        self.image_projection = dense.matrix(config.embedding_dim, axes, config.dtype)
        self.text_decoder = TextDecoder(config)
        self.text_projection = dense.matrix(config.embedding_dim, axes, config.dtype)
        self.log_logit_scale = self.new_log_logit_scale()

    def __call__(self, images: Array, text_tokens: Array, deterministic: bool = True) -> Outputs:
        """Embeds pairs and predicts their captions.

        Images are [batch, height, width, 3] in [-1, 1], texts [batch, length] int32; unless
        deterministic the rng `dropout` is needed.
        """
        features = self.image_features(images, deterministic)
        states = self.text_decoder(text_tokens, deterministic)
        logits = None
        if self.config.has_captions:
            logits = self.multimodal_decoder(states[:, :-2], text_tokens, features, deterministic)
        return Outputs(
            self._embed_features(features), self._embed_states(states), self.logit_scale(), logits
        )

    def image_features(self, images: Array, deterministic: bool = True) -> Array:
        """Maps [batch, height, width, 3] in [-1, 1] to what captions are written from.

        That is [batch, queries, embed]; without a multimodal half a vector for each patch.
        """
        x = self.image_encoder(images, deterministic)
        return self.caption_pooler(x) if self.config.has_captions else x

    def embed_images(self, images: Array, deterministic: bool = True) -> Array:
        """Maps [batch, height, width, 3] in [-1, 1] to [batch, embedding_dim], unit norm."""
        return self._embed_features(self.image_features(images, deterministic))

    def embed_texts(self, text_tokens: Array, deterministic: bool = True) -> Array:
        """Maps [batch, length] int32 to [batch, embedding_dim], unit norm."""
        return self._embed_states(self.text_decoder(text_tokens, deterministic))

    def caption_logits(self, images: Array, text_tokens: Array) -> Array:
        """Computes the logits [batch, length, vocab] of captions; position t predicts token t."""
        states = self.text_decoder(text_tokens)[:, :-2]
        return self.multimodal_decoder(states, text_tokens, self.image_features(images))

    def prepare(self, images: Array) -> list[attention.KeysValues]:
        """Returns what `decode_step` needs of images, [batch, height, width, 3] in [-1, 1]."""
        return self.multimodal_decoder.prepare(self.image_features(images))

    def decode_step(
        self, tokens: Array, position: Array, caches: Caches, image: list[attention.KeysValues]
    ) -> tuple[Array, Caches]:
        """Computes the logits after one more token of captions, [batch, vocab] float32.

        Args:
          tokens: [batch] int32, the tokens before the predicted ones; 0, the start, at first.
          position: int32 scalar, the tokens before those; from 0 to text_length - 1.
          caches: From `empty_caches` or the step before.
          image: From `prepare`.
        """
        x, unimodal = self.text_decoder.decode_step(tokens, position, caches.unimodal)
        logits, multimodal = self.multimodal_decoder.decode_step(
            x, position, caches.multimodal, image
        )
        return logits, Caches(unimodal, multimodal)

    def _embed_features(self, features: Array) -> Array:
        return norms.unit_norm(self.image_projection(self.image_pooler(features)[:, 0]))

    def _embed_states(self, states: Array) -> Array:
        return norms.unit_norm(self.text_projection(states[:, -1]))


def empty_caches(config: CocaConfig, batch_size: int) -> Caches:
    """Returns the caches before the first position of captions."""

    shape = (batch_size, config.num_heads, config.text_length, config.head_dim)

    def empty(num_layers: int) -> list[attention.Cache]:
        zeros = jnp.zeros(shape, config.dtype)
        return [attention.Cache(zeros, zeros) for _ in range(num_layers)]

    return Caches(empty(config.num_text_layers), empty(config.num_multimodal_layers))


def _cached(caches: Sequence[attention.Cache], position: Array) -> list[transformer.CachedLayer]:
    """Returns what layers see of a text up to a position, which is its slot too."""
    slots = position[None]
    return [
        transformer.CachedLayer(cache, slots, jnp.arange(cache.key.shape[2]) <= slots[:, None])
        for cache in caches
    ]
