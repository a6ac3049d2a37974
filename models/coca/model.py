# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""CoCa as a model: contrastive training and captioning, embeddings, captions and scores.

Batch: `images` [batch, height, width, 3] float32 in [-1, 1]; `text_tokens` [batch, length] int32,
0 is padding. The contrastive loss compares all images with all texts of the global batch, however
it is sharded, and in however many parts it is computed.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from parti.data.text import vocabularies
from parti.models import base, losses
from parti.models.coca import network
from parti.models.layers import gradient_cache, transformer

Array = jax.Array

_NUM_SHOWN = 8  # pairs of `summaries`


@dataclasses.dataclass(frozen=True)
class Weights(losses.Weights):
    """Factors of the losses; without a multimodal half there is no captioning.

    Source: CoCa (arXiv 2205.01917) section 4.1. The contrastive loss is the mean of both
    directions, the captioning loss a mean over tokens, as in open_clip.
    """

    contrastive: float = 1.0
    captioning: float = 2.0


class Likelihood(NamedTuple):
    """How likely captions are for their images, [batch] float32 each, in nats."""

    total: Array  # log-probability of all tokens, the end among them
    per_token: Array  # the same divided by the number of tokens


class CocaModel(base.DualEncoder):
    """CoCa, a `base.Reranker`; with a multimodal half also a `base.Captioner`."""

    feature_converter = "ImageTextConverter"
    feature_types = {"images": "float32", "text_tokens": "int32"}
    compares_examples = True

    def __init__(
        self,
        config: network.CocaConfig,
        weights: Weights | None = None,
        contrastive_microbatches: int = 1,
    ) -> None:
        """Sets the sizes, the losses and the parts in which a batch is computed.

        Loss and gradient do not depend on the parts, see `gradient_cache`, except by the draw of
        dropout.
        """
        if contrastive_microbatches < 1:
            raise ValueError(
                f"CONTRASTIVE_MICROBATCHES is {contrastive_microbatches}; give 1 (the batch as a "
                "whole) or more"
            )
        self.config, self.weights = config, weights or Weights()
        self.loss_parts = contrastive_microbatches
        self.network = network.Coca(config)
        self.has_captions = config.has_captions
        self.image_size, self.text_length = config.image_size, config.text_length
        self.text_vocab_size = config.text_vocab_size
        self.num_ids = {"text_tokens": config.text_vocab_size}
        self.dtype, self.remat = config.dtype, config.remat

    def init_variables(self, rng: Array, batch: base.Batch) -> base.Variables:
        """Returns the network's boxed `params`."""
        self._check_tokens(batch["text_tokens"])
        base.check_images(batch["images"], self.image_size)
        return self.network.init(rng, batch["images"], batch["text_tokens"])

    def loss_fn(
        self,
        params: base.PyTree,
        batch: base.Batch,
        dropout_rng: Array | None,
        flax_mutables: base.PyTree | None = None,
    ) -> tuple[Array, base.Metrics]:
        """Returns the weighted sum of the losses, and metrics; no dropout if the rng is None."""
        images, text_tokens = batch["images"], batch["text_tokens"]
        base.check_images(images, self.image_size)
        self._check_tokens(text_tokens)

        def embed(part: tuple[Array, Array], rng: Array | None) -> tuple[Any, Any]:
            rngs = None if rng is None else {"dropout": rng}
            outputs = self.network.apply(
                {"params": params}, *part, deterministic=rng is None, rngs=rngs
            )
            captions = None
            if outputs.caption_logits is not None:
                captions = losses.cross_entropy(outputs.caption_logits, part[1], part[1] != 0)
            return (outputs.image_embeddings, outputs.text_embeddings), captions

        pairs = (images, text_tokens)
        (image_embeddings, text_embeddings), captions = gradient_cache.map_parts(
            embed, pairs, self.loss_parts or 1, dropout_rng
        )
        logit_scale = self.logit_scale({"params": params})
        contrast = losses.contrastive_loss(image_embeddings, text_embeddings, logit_scale)
        terms = {"contrastive_loss": contrast.loss}
        measures = {**contrast._asdict(), "logit_scale": logit_scale}
        metrics: base.Metrics = {}
        if captions is not None:
            terms["captioning_loss"] = captions.mean
            measures["contrastive_loss"] = contrast.loss
            metrics["captioning_loss"] = base.average(captions.cross_entropy, captions.weight)
            metrics["caption_accuracy"] = base.average(captions.num_correct, captions.weight)
        measures["loss"] = loss = jnp.sum(jnp.stack([*self.weights.weigh(terms).values()]))
        size = images.shape[0]
        return loss, metrics | {k: base.per_example(value, size) for k, value in measures.items()}

    def summaries(
        self, params: base.PyTree, batch: base.Batch, flax_mutables: base.PyTree | None = None
    ) -> base.Summaries:
        """Returns a few pictures with the most likely captions and those of the data."""
        if not self.has_captions:
            return base.Summaries()
        images, texts = batch["images"][:_NUM_SHOWN], batch["text_tokens"][:_NUM_SHOWN]
        with nn.logical_axis_rules(()):  # So few rows do not divide over a mesh.
            captions = self.caption({"params": params}, images)
        return base.Summaries(
            pictures={"captions": images[:, None]},
            texts={"captions": {"model": captions, "data": texts}},
        )

    def logit_scale(self, variables: base.Variables) -> Array:
        """Returns 1 / temperature, by which the loss multiplies cosines, a scalar."""
        return self._apply(variables, "logit_scale")

    def caption_log_likelihood(
        self, variables: base.Variables, images: Array, text_tokens: Array
    ) -> Likelihood:
        """Returns log p(text | image) of each pair, in nats.

        Images and texts are as of the other methods, as many each.

        Raises:
          ValueError: there is no multimodal half, or images or tokens are wrong.
        """
        self._check_captions()
        base.check_images(images, self.image_size)
        self._check_tokens(text_tokens)
        logits = self._apply(variables, "caption_logits", images, text_tokens)
        return _likelihood(logits, text_tokens)

    def caption(
        self,
        variables: base.Variables,
        images: Array,
        sample_keys: Array | None = None,
        temperature: float = 1.0,
    ) -> Array:
        """Writes captions for images [batch, image_size, image_size, 3] in [-1, 1].

        Without keys each token is the most likely one. With `sample_keys` [batch, 2] uint32, a key
        for each image, tokens are drawn at the temperature. Decoding stops once all have ended.

        Returns:
          [batch, text_length] int32, each with an end if it is short enough, padded with 0.

        Raises:
          ValueError: there is no multimodal half, the images have the wrong size or type, or the
            temperature is not more than 0.
        """
        self._check_captions()
        base.check_images(images, self.image_size)
        if temperature <= 0:
            raise ValueError(
                f"temperature is {temperature}; give more than 0, or no sample_keys to take the "
                "most likely tokens"
            )
        image = self._apply(variables, "prepare", images)
        decoder, size = self.network, images.shape[0]
        if self.config.scan_layers:
            decoder = network.Coca(dataclasses.replace(self.config, scan_layers=False))
            variables = transformer.unrolled(variables)
        known = jnp.arange(self.config.text_table_size) < self.config.text_vocab_size
        usable = known & (jnp.arange(len(known)) != vocabularies.PAD_ID)

        def choose(logits: Array, position: Array) -> Array:
            logits = jnp.where(usable, logits, -jnp.inf)
            if sample_keys is None:
                return jnp.argmax(logits, axis=-1).astype(jnp.int32)

            def draw(key: Array, row: Array) -> Array:
                return jax.random.categorical(jax.random.fold_in(key, position), row / temperature)

            keys = jax.random.wrap_key_data(sample_keys, impl="threefry2x32")
            return jax.vmap(draw)(keys, logits).astype(jnp.int32)

        def step(carry: tuple[Array, Array, Array, Any]) -> tuple[Array, Array, Array, Any]:
            position, last, tokens, caches = carry
            step_inputs = last, position, caches, image
            logits, caches = decoder.apply(variables, *step_inputs, method="decode_step")
            ended = (last == vocabularies.EOS_ID) | ((last == vocabularies.PAD_ID) & (position > 0))
            new = jnp.where(ended, vocabularies.PAD_ID, choose(logits, position))
            return position + 1, new, tokens.at[:, position].set(new), caches

        def goes_on(carry: tuple[Array, Array, Array, Any]) -> Array:
            position, last, _, _ = carry
            has_ended = (last == vocabularies.EOS_ID) | (last == vocabularies.PAD_ID)
            return (position < self.text_length) & ((position == 0) | ~jnp.all(has_ended))

        tokens = jnp.zeros((size, self.text_length), jnp.int32)
        start = jnp.zeros((), jnp.int32), tokens[:, 0], tokens
        caches = network.empty_caches(self.config, size)
        return jax.lax.while_loop(goes_on, step, (*start, caches))[2]

    def predict_batch(
        self,
        params: base.PyTree,
        batch: base.Batch,
        rng: Array | None = None,
        flax_mutables: base.PyTree | None = None,
    ) -> Array:
        """Returns the cosine of each pair, [batch]."""
        return self.score_batch(params, batch)

    def predict_batch_with_aux(
        self,
        params: base.PyTree,
        batch: base.Batch,
        rng: Array | None = None,
        flax_mutables: base.PyTree | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the cosines, [batch], and by name what the metrics of a split are made of.

        `image_embeddings` and `text_embeddings`, [batch, embedding_dim]. With a multimodal half
        also `captions`, the most likely ones, and `text_tokens`, those of the data, [batch, length]
        int32; `caption_log_likelihood`, of the latter, and `caption_num_correct`, how many of its
        tokens are the most likely ones after those before, [batch].
        """
        variables = {"params": params}
        images, text_tokens = batch["images"], batch["text_tokens"]
        cosines, embeddings = self.embed_pairs(variables, images, text_tokens)
        if not self.has_captions:
            return cosines, embeddings
        logits = self._apply(variables, "caption_logits", images, text_tokens)
        correct = (jnp.argmax(logits, axis=-1) == text_tokens) & (text_tokens != 0)
        return cosines, embeddings | {
            "captions": self.caption(variables, images),
            "text_tokens": text_tokens,
            "caption_log_likelihood": _likelihood(logits, text_tokens).total,
            "caption_num_correct": jnp.sum(correct, axis=-1),
        }

    def _check_captions(self) -> None:
        if not self.has_captions:
            raise ValueError(
                "this CoCa has no multimodal half, so it knows no captions; train one with "
                "NUM_MULTIMODAL_LAYERS (num_multimodal_layers) of at least 1"
            )


def _likelihood(logits: Array, text_tokens: Array) -> Likelihood:
    """Returns the likelihood of texts [batch, length] of logits [batch, length, vocab]."""
    is_token = text_tokens != vocabularies.PAD_ID
    log_probs = losses.token_log_probs(logits, text_tokens)
    total = jnp.sum(jnp.where(is_token, log_probs, 0.0), axis=-1)
    return Likelihood(total, total / jnp.maximum(jnp.sum(is_token, axis=-1), 1))
