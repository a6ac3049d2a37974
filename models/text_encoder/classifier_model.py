# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of Parti's text encoder as a `Model`: classes of texts, such as GLUE's.

A batch: text_tokens [batch, length] int32, 0 is padding; labels [batch, 1] int32, the class.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from parti.models import base, losses
from parti.models.text_encoder import classifier_network, network


class TextClassifierModel(base.Model):
    """The text encoder and a linear layer, both trained."""

    feature_converter = "TextClassConverter"
    feature_types = {"text_tokens": "int32", "labels": "int32"}

    def __init__(self, config: network.TextEncoderConfig, num_classes: int = 2) -> None:
        """Takes the encoder's sizes; ValueError: fewer than two classes."""
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; there must be 2 at least")
        self.config = config
        self.network = classifier_network.TextClassifier(config, num_classes)
        self.text_length, self.text_vocab_size = config.text_length, config.text_vocab_size
        self.num_ids = {"text_tokens": config.text_vocab_size, "labels": num_classes}
        self.dtype, self.remat = config.dtype, config.remat

    def init_variables(self, rng: jax.Array, batch: base.Batch) -> Mapping[str, base.PyTree]:
        """Returns the network's boxed `params`."""
        return self.network.init(rng, batch["text_tokens"])

    def logits(
        self, params: base.PyTree, text_tokens: jax.Array, dropout_rng: jax.Array | None = None
    ) -> jax.Array:
        """Maps [batch, length] int32 to [batch, num_classes] float32.

        Raises:
          ValueError: the tokens have the wrong shape or type or, outside of jit, are out of range.
        """
        num_ids = self.num_ids["text_tokens"]
        base.check_tokens(text_tokens, self.text_length, num_ids, "text_tokens")
        return self.network.apply(
            {"params": params},
            text_tokens,
            deterministic=dropout_rng is None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        )

    def loss_fn(
        self,
        params: base.PyTree,
        batch: base.Batch,
        dropout_rng: jax.Array | None,
        flax_mutables: base.PyTree | None = None,
    ) -> tuple[jax.Array, base.Metrics]:
        """Returns the mean cross-entropy of the classes, and metrics."""
        logits = self.logits(params, batch["text_tokens"], dropout_rng)
        loss = losses.cross_entropy(logits, batch["labels"][:, 0])
        metrics: base.Metrics = {
            "loss": base.average(loss.cross_entropy, loss.weight),
            "accuracy": base.average(loss.num_correct, loss.weight),
        }
        return loss.mean, metrics

    def predict_batch(
        self,
        params: base.PyTree,
        batch: base.Batch,
        rng: jax.Array | None = None,
        flax_mutables: base.PyTree | None = None,
    ) -> jax.Array:
        """Returns the most likely class of each text, [batch] int32."""
        return jnp.argmax(self.logits(params, batch["text_tokens"]), axis=-1)

    def score_batch(
        self, params: base.PyTree, batch: base.Batch, flax_mutables: base.PyTree | None = None
    ) -> jax.Array:
        """Returns the log-probability of each text's class in nats, [batch]."""
        logits = self.logits(params, batch["text_tokens"])
        return losses.token_log_probs(logits, batch["labels"][:, 0])
