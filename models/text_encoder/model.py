# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pretraining of Parti's text encoder as a `Model`: BERT on texts, contrast with images, or both.

A batch has for BERT `bert_input_tokens`, `bert_target_tokens`, `bert_segment_ids`,
`bert_positions` [rows, text_length] int32 and `bert_loss_weights`, the same, float32: texts packed
in sequences, some tokens masked, and which. For contrast it has `images` [batch, height, width, 3]
float32 in [-1, 1] and `text_tokens` [batch, length] int32, 0 is padding; the loss compares all
images with all texts of the global batch, however it is sharded.
"""

import fractions
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from parti.models import base, losses
from parti.models.text_encoder import network

_BERT = {
    "bert_input_tokens": "int32",
    "bert_target_tokens": "int32",
    "bert_loss_weights": "float32",
    "bert_segment_ids": "int32",
    "bert_positions": "int32",
}
_LEAST_RATE = 1000  # the least BERT_RATE is 1 over it; others are taken as fractions up to it
_PAIRS = {"images": "float32", "text_tokens": "int32"}


class TextEncoderModel(base.DualEncoder):
    """The text encoder with one or both of its objectives.

    The loss is `bert_weight` times the mean cross-entropy of the masked tokens plus
    `contrastive_weight` times the symmetric contrastive loss. A weight of 0 leaves the objective
    out: it has no parameters, and reads no feature. A batch of both has as many packed sequences as
    pairs; a step takes `bert_rate` of them, evenly, at most 1.

    Source: Parti (arXiv 2206.10789) section 2.3, which names both objectives and no mix.
    """

    def __init__(
        self,
        config: network.TextEncoderConfig,
        bert_weight: float = 1.0,
        contrastive_weight: float = 1.0,
        bert_rate: float = 1.0,
    ) -> None:
        """Takes the sizes; raises ValueError for weights or a rate that are not allowed."""
        if min(bert_weight, contrastive_weight) < 0 or not bert_weight + contrastive_weight:
            raise ValueError(
                f"BERT_WEIGHT is {bert_weight} and CONTRASTIVE_WEIGHT {contrastive_weight}; give 0 "
                "or more, and one of them more than 0"
            )
        self.bert_rate = fractions.Fraction(bert_rate).limit_denominator(_LEAST_RATE)
        if not 0 < self.bert_rate <= 1:
            raise ValueError(
                f"BERT_RATE is {bert_rate}; it must be at least 1/{_LEAST_RATE} and at most 1"
            )
        self.config = config
        self.bert_weight, self.contrastive_weight = bert_weight, contrastive_weight
        has_bert, has_contrast = bert_weight > 0, contrastive_weight > 0
        self.network = network.TextEncoderPretraining(config, has_bert, has_contrast)
        self.compares_examples = has_contrast  # type: ignore[misc]
        self.feature_types = {  # type: ignore[misc]
            **(_BERT if has_bert else {}),
            **(_PAIRS if has_contrast else {}),
        }
        self.feature_converter = (  # type: ignore[misc]
            "TextEncoderConverter"
            if has_bert and has_contrast
            else "BertConverter"
            if has_bert
            else "ImageTextConverter"
        )
        self.image_size = config.image_tower.image_size
        self.text_length, self.text_vocab_size = config.text_length, config.text_vocab_size
        token_features = ("bert_input_tokens", "bert_target_tokens", "text_tokens")
        self.num_ids = {
            k: config.text_vocab_size for k in token_features if k in self.feature_types
        }
        self.dtype, self.remat = config.dtype, config.remat

    def init_variables(self, rng: jax.Array, batch: base.Batch) -> Mapping[str, base.PyTree]:
        """Returns the network's boxed `params`."""
        self._check(batch)
        return self.network.init(rng, batch)

    def loss_fn(
        self,
        params: base.PyTree,
        batch: base.Batch,
        dropout_rng: jax.Array | None,
        flax_mutables: base.PyTree | None = None,
    ) -> tuple[jax.Array, base.Metrics]:
        """Returns the weighted sum of the losses, and metrics; see the class.

        Raises:
          ValueError: a feature does not fit, or the batch is no whole number of packed sequences.
        """
        self._check(batch)
        batch = self._at_rate(batch)
        logits, compared = self.network.apply(
            {"params": params},
            batch,
            deterministic=dropout_rng is None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        )
        total = jnp.zeros((), jnp.float32)
        metrics: base.Metrics = {}
        if logits is not None:
            bert = losses.cross_entropy(
                logits, batch["bert_target_tokens"], batch["bert_loss_weights"]
            )
            total += self.bert_weight * bert.mean
            metrics["bert_loss"] = base.average(bert.cross_entropy, bert.weight)
            metrics["masked_accuracy"] = base.average(bert.num_correct, bert.weight)
        if compared is not None:
            contrast = losses.contrastive_loss(*compared)
            total += self.contrastive_weight * contrast.loss
            size = len(batch["images"])
            measures = {
                "contrastive_loss": contrast.loss,
                "image_to_text_accuracy": contrast.image_to_text_accuracy,
                "text_to_image_accuracy": contrast.text_to_image_accuracy,
                "logit_scale": compared[2],
            }
            metrics |= {name: base.per_example(value, size) for name, value in measures.items()}
        rows = len(batch["images" if compared is not None else "bert_input_tokens"])
        return total, {"loss": base.per_example(total, rows), **metrics}

    def encode_texts(self, variables: base.Variables, text_tokens: jax.Array) -> jax.Array:
        """Maps [batch, length] int32, 0 is padding, to the states, [batch, length, embed].

        Raises:
          ValueError: the tokens have the wrong shape or type or, outside of jit, are out of range.
        """
        self._check_tokens(text_tokens)
        return self._apply(variables, "encode", text_tokens)

    def score_batch(
        self,
        params: base.PyTree,
        batch: base.Batch,
        flax_mutables: base.PyTree | None = None,
    ) -> jax.Array:
        """Returns the cosine of each pair, [batch]; NotImplementedError: there is BERT alone."""
        if not self.network.has_contrast:
            raise NotImplementedError("TextEncoderModel with BERT alone has no scores")
        return super().score_batch(params, batch)

    def predict_batch(
        self,
        params: base.PyTree,
        batch: base.Batch,
        rng: jax.Array | None = None,
        flax_mutables: base.PyTree | None = None,
    ) -> jax.Array:
        """Returns the cosine of each pair, [batch]; with BERT alone the likeliest token of each
        position, [rows, length] int32."""
        return self.predict_batch_with_aux(params, batch)[0]

    def predict_batch_with_aux(
        self,
        params: base.PyTree,
        batch: base.Batch,
        rng: jax.Array | None = None,
        flax_mutables: base.PyTree | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns `predict_batch`, and of pairs both embeddings, [batch, embedding_dim] each."""
        variables = {"params": params}
        if not self.network.has_contrast:
            packed = ("bert_input_tokens", "bert_segment_ids", "bert_positions")
            logits = self._apply(variables, "token_logits", *(batch[name] for name in packed))
            return jnp.argmax(logits, axis=-1).astype(jnp.int32), {}
        return self.embed_pairs(variables, batch["images"], batch["text_tokens"])

    def _at_rate(self, batch: base.Batch) -> base.Batch:
        """Returns the batch with `bert_rate` of its packed sequences.

        They are not left out before: T5X takes every feature to have BATCH_SIZE rows.
        """
        if self.feature_converter != "TextEncoderConverter" or self.bert_rate == 1:
            return batch
        rows, rate = len(batch["bert_input_tokens"]), self.bert_rate
        if rows % rate.denominator:
            raise ValueError(
                f"BERT_RATE {rate} of a batch of {rows} is no whole number of packed texts; set "
                f"BATCH_SIZE to a multiple of {rate.denominator}"
            )
        kept = np.flatnonzero(np.diff(np.arange(rows + 1) * rate.numerator // rate.denominator))
        return {**batch, **{name: jnp.take(batch[name], kept, axis=0) for name in _BERT}}

    def _check(self, batch: base.Batch) -> None:
        """Raises ValueError unless the features of a batch have their shapes and types."""
        if self.network.has_bert:
            for name in ("bert_input_tokens", "bert_target_tokens"):
                self._check_tokens(batch[name], name)
        if self.network.has_contrast:
            base.check_images(batch["images"], self.image_size)
            self._check_tokens(batch["text_tokens"])
