# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The contrastive part of CoCa as a model: contrastive training, embeddings and scores.

Batch: `images` [batch, height, width, 3] float32 in [-1, 1]; `text_tokens` [batch, length] int32,
0 is padding. The loss compares all images with all texts of the global batch, however it is
sharded.
"""

import jax
import jax.numpy as jnp

from parti.models import base, losses
from parti.models.coca import network


class CocaModel(base.Model):
    """The contrastive part of CoCa, a `base.Reranker`."""

    feature_converter = "ImageTextConverter"
    feature_types = {"images": "float32", "text_tokens": "int32"}
    compares_examples = True

    def __init__(self, config: network.CocaConfig) -> None:
        self.config = config
        self.network = network.Coca(config)
        self.image_size, self.text_length = config.image_size, config.text_length
        self.text_vocab_size = config.text_vocab_size
        self.num_ids = {"text_tokens": config.text_vocab_size}
        self.dtype, self.remat = config.dtype, config.remat

    def init_variables(self, rng: jax.Array, batch: base.Batch) -> base.Variables:
        """Returns the network's boxed `params`."""
        self._check_tokens(batch["text_tokens"])
        base.check_images(batch["images"], self.image_size)
        return self.network.init(rng, batch["images"], batch["text_tokens"])

    def loss_fn(
        self,
        params: base.PyTree,
        batch: base.Batch,
        dropout_rng: jax.Array | None,
        flax_mutables: base.PyTree | None = None,
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

    def image_embeddings(self, variables: base.Variables, images: jax.Array) -> jax.Array:
        """Maps [batch, image_size, image_size, 3] in [-1, 1] to [batch, embedding_dim], unit norm.

        Raises:
          ValueError: the images have the wrong size or type.
        """
        base.check_images(images, self.image_size)
        variables = {"params": variables["params"]}
        return self.network.apply(variables, images, method="embed_images")

    def text_embeddings(self, variables: base.Variables, text_tokens: jax.Array) -> jax.Array:
        """Maps [batch, length] int32 to [batch, embedding_dim], unit norm.

        The length is at most `text_length`; 0 is padding, and how much of it makes no difference.

        Raises:
          ValueError: the tokens have the wrong shape or type or, outside of jit, are out of range.
        """
        self._check_tokens(text_tokens)
        variables = {"params": variables["params"]}
        return self.network.apply(variables, text_tokens, method="embed_texts")

    def score(
        self, variables: base.Variables, images: jax.Array, text_tokens: jax.Array
    ) -> jax.Array:
        """Returns how well each image fits its text: their cosine, [batch], in [-1, 1]."""
        images = self.image_embeddings(variables, images)
        return jnp.sum(images * self.text_embeddings(variables, text_tokens), axis=-1)

    def score_batch(
        self, params: base.PyTree, batch: base.Batch, flax_mutables: base.PyTree | None = None
    ) -> jax.Array:
        """Returns the cosine of each pair, [batch]."""
        return self.score({"params": params}, batch["images"], batch["text_tokens"])

    def predict_batch(
        self,
        params: base.PyTree,
        batch: base.Batch,
        rng: jax.Array | None = None,
        flax_mutables: base.PyTree | None = None,
    ) -> jax.Array:
        """Returns the cosine of each pair, [batch]."""
        return self.score_batch(params, batch)

    def predict_batch_with_aux(
        self,
        params: base.PyTree,
        batch: base.Batch,
        rng: jax.Array | None = None,
        flax_mutables: base.PyTree | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the cosines, [batch], and both embeddings, [batch, embedding_dim] each."""
        variables = {"params": params}
        images = self.image_embeddings(variables, batch["images"])
        texts = self.text_embeddings(variables, batch["text_tokens"])
        embeddings = {"image_embeddings": images, "text_embeddings": texts}
        return jnp.sum(images * texts, axis=-1), embeddings

    def _check_tokens(self, text_tokens: jax.Array) -> None:
        num_ids = self.config.text_vocab_size
        base.check_tokens(text_tokens, self.text_length, num_ids, "text_tokens")
