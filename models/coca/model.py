# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The reranker as a model: contrastive training, embeddings and scores.

Batch: `images` [batch, height, width, 3] float32 in [-1, 1]; `text_tokens` [batch, length] int32,
0 is padding. The loss compares all images with all texts of the global batch, however it is
sharded.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parti.models import base, losses
from parti.models.coca import network

Variables = Mapping[str, Any]


class CocaModel(base.Model):
    """The contrastive part of CoCa."""

    feature_converter = "ImageTextConverter"
    feature_types = {"images": "float32", "text_tokens": "int32"}
    compares_examples = True

    def __init__(self, config: network.CocaConfig) -> None:
        """Builds the network."""
        self.config = config
        self.network = network.Coca(config)

    @property
    def image_size(self) -> int:
        """Height and width of an image, in pixels."""
        return self.config.image_size

    @property
    def text_length(self) -> int:
        """The longest text, in tokens."""
        return self.config.text_length

    def init_variables(self, rng: jax.Array, batch: base.Batch) -> Variables:
        """Returns the network's boxed `params`."""
        base.check_images(batch["images"], self.image_size)
        self._check_tokens(batch["text_tokens"])
        return self.network.init(rng, batch["images"], batch["text_tokens"])

    def loss_fn(
        self, params: base.PyTree, batch: base.Batch, dropout_rng: jax.Array | None
    ) -> tuple[jax.Array, base.Metrics]:
        """Returns the contrastive loss and metrics; no dropout if the rng is None."""
        images, text_tokens = batch["images"], batch["text_tokens"]
        base.check_images(images, self.image_size)
        self._check_tokens(text_tokens)
        image_embeddings, text_embeddings, logit_scale = self.network.apply(
            {"params": params},
            images,
            text_tokens,
            deterministic=dropout_rng is None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        )
        result = losses.contrastive_loss(image_embeddings, text_embeddings, logit_scale)
        measures = {**result._asdict(), "logit_scale": logit_scale}
        size = images.shape[0]
        metrics = {name: base.per_example(value, size) for name, value in measures.items()}
        return result.loss, metrics

    def image_embeddings(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Embeds images.

        Args:
          variables: `{'params': ...}`.
          images: [batch, image_size, image_size, 3] in [-1, 1].

        Returns:
          [batch, embedding_dim], unit norm.

        Raises:
          ValueError: the images have the wrong size or type.
        """
        base.check_images(images, self.image_size)
        variables = {"params": variables["params"]}
        return self.network.apply(variables, images, method="embed_images")

    def text_embeddings(self, variables: Variables, text_tokens: jax.Array) -> jax.Array:
        """Embeds texts.

        Args:
          variables: `{'params': ...}`.
          text_tokens: [batch, length] int32, 0 is padding; length at most `text_length`. How much
            padding there is makes no difference.

        Returns:
          [batch, embedding_dim], unit norm.

        Raises:
          ValueError: the tokens have the wrong shape or type, or are out of range (which cannot be
            seen under jit).
        """
        self._check_tokens(text_tokens)
        variables = {"params": variables["params"]}
        return self.network.apply(variables, text_tokens, method="embed_texts")

    def score(self, variables: Variables, images: jax.Array, text_tokens: jax.Array) -> jax.Array:
        """Returns how well each image fits its text: their cosine, [batch], in [-1, 1]."""
        images, texts = (
            self.image_embeddings(variables, images),
            self.text_embeddings(variables, text_tokens),
        )
        return jnp.sum(images * texts, axis=-1)

    def score_batch(self, params: base.PyTree, batch: base.Batch) -> jax.Array:
        """Returns the cosine of each pair, [batch]."""
        return self.score({"params": params}, batch["images"], batch["text_tokens"])

    def predict_batch(
        self, params: base.PyTree, batch: base.Batch, rng: jax.Array | None = None
    ) -> jax.Array:
        """Returns the cosine of each pair, [batch]."""
        return self.score_batch(params, batch)

    def predict_batch_with_aux(
        self, params: base.PyTree, batch: base.Batch, rng: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the cosines, [batch], and both embeddings, [batch, embedding_dim] each."""
        variables = {"params": params}
        images = self.image_embeddings(variables, batch["images"])
        texts = self.text_embeddings(variables, batch["text_tokens"])
        embeddings = {"image_embeddings": images, "text_embeddings": texts}
        return jnp.sum(images * texts, axis=-1), embeddings

    def _check_tokens(self, text_tokens: jax.Array) -> None:
        vocab_size, length = self.config.text_vocab_size, self.config.text_length
        if text_tokens.ndim != 2 or text_tokens.shape[1] > length:
            raise ValueError(
                f"text_tokens have shape {tuple(text_tokens.shape)}; this model takes "
                f"[batch, length] with at most {length} tokens: truncate the texts"
            )
        if not jnp.issubdtype(text_tokens.dtype, jnp.integer):
            raise ValueError(f"text_tokens are {text_tokens.dtype}; give integers")
        if isinstance(text_tokens, jax.core.Tracer) or not text_tokens.size:
            return
        values = np.asarray(text_tokens)  # jnp would trace even known values under jit
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"text_tokens span {low} to {high}; this model's vocabulary has 0 to "
                f"{vocab_size - 1}: tokenize with the vocabulary it was trained with"
            )
