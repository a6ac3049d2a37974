# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Stage two of Parti as a `Model`: next-token prediction on image tokens, given a caption.

A batch: encoder_input_tokens [batch, text_length] int32; decoder_input_tokens (targets shifted
right), decoder_target_tokens [batch, image_length] int32; decoder_loss_weights, the same, float32.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from parti.models import base, losses
from parti.models.text_to_image import network, sampling

Array = jax.Array
PyTree = Any


class TextToImageModel(base.Model):
    """Parti's stage two, a `base.Generator`.

    `z_loss` is the factor of the penalty on log-partition functions, of which the paper names none;
    `settings` say how `predict_batch` samples.
    """

    feature_converter = "TextToImageConverter"
    feature_types = {
        "encoder_input_tokens": "int32",
        "decoder_input_tokens": "int32",
        "decoder_target_tokens": "int32",
        "decoder_loss_weights": "float32",
    }

    def __init__(
        self,
        config: network.TextToImageConfig,
        z_loss: float = 0.0,
        settings: sampling.SamplingSettings | None = None,
    ) -> None:
        self.config = config
        self.z_loss = z_loss
        self.settings = settings or sampling.SamplingSettings()
        self.text_length, self.text_vocab_size = config.text_length, config.text_vocab_size
        self.grid_size, self.codebook_size = config.grid_size, config.codebook_size
        num_image_ids = config.codebook_size + 1  # 0 is padding and start
        self.num_ids = {
            "encoder_input_tokens": config.text_vocab_size,
            "decoder_input_tokens": num_image_ids,
            "decoder_target_tokens": num_image_ids,
        }
        self.dtype, self.remat = config.dtype, config.remat
        # Of each feature of a batch of one; `get_initial_variables` takes them.
        image = (1, config.image_length)
        self.example_shapes = dict.fromkeys(self.feature_types, image)
        self.example_shapes["encoder_input_tokens"] = (1, config.text_length)
        self.pipeline_stages = config.num_stages
        self.pipeline_microbatches = config.pipeline_microbatches
        self.network = network.PartiTransformer(config.unpipelined)
        # Only training has batches that are large and of one size, which a pipeline needs.
        self._training_network = network.PartiTransformer(config)

    @property
    def without_pipeline(self) -> "TextToImageModel":
        """This model with one stage; the parameters are the same."""
        return TextToImageModel(self.config.unpipelined, self.z_loss, self.settings)

    @property
    def unrolled(self) -> "TextToImageModel":
        """This model without scanned layers; see `base.Generator` and `transformer.unrolled`."""
        return TextToImageModel(self.config.unrolled, self.z_loss, self.settings)

    def init_variables(self, rng: Array, batch: base.Batch) -> Mapping[str, PyTree]:
        """Returns the network's `init` result, boxed."""
        return self.network.init(
            {"params": rng}, batch["encoder_input_tokens"], batch["decoder_input_tokens"]
        )

    def logits(self, params: PyTree, batch: base.Batch, dropout_rng: Array | None = None) -> Array:
        """Returns [batch, image_length, vocab] float32 with teacher forcing."""
        return _logits(self.network, params, batch, dropout_rng)

    def loss_fn(
        self,
        params: PyTree,
        batch: base.Batch,
        dropout_rng: Array | None,
        flax_mutables: PyTree | None = None,
    ) -> tuple[Array, base.Metrics]:
        """Returns the cross-entropy averaged over image positions, and metrics.

        Source: Parti (arXiv 2206.10789) section 2.3.
        """
        logits = _logits(self._training_network, params, batch, dropout_rng)
        loss = losses.cross_entropy(
            logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"], self.z_loss
        )
        metrics: base.Metrics = {
            "loss": base.average(loss.cross_entropy + loss.z_loss, loss.weight),
            "cross_entropy": base.average(loss.cross_entropy, loss.weight),
            "z_loss": base.average(loss.z_loss, loss.weight),
            "accuracy": base.average(loss.num_correct, loss.weight),
        }
        return loss.mean, metrics

    def score_batch(
        self, params: PyTree, batch: base.Batch, flax_mutables: PyTree | None = None
    ) -> Array:
        """Returns the log-probability of each example's image tokens in nats, [batch]."""
        logits = self.logits(params, batch)
        log_probs = losses.token_log_probs(logits, batch["decoder_target_tokens"])
        return jnp.sum(log_probs * batch["decoder_loss_weights"], axis=-1)

    def predict_batch(
        self,
        params: PyTree,
        batch: base.Batch,
        rng: Array | None = None,
        flax_mutables: PyTree | None = None,
    ) -> Array:
        """Draws one image per `encoder_input_tokens`: [batch, image_length] codebook indices.

        The key is a fixed one if None. An image depends on its row of the batch here; use `sample`
        with keys from `sampling.image_keys` where it must not.
        """
        text_tokens = batch["encoder_input_tokens"]
        rng = jax.random.PRNGKey(0) if rng is None else rng
        rng = jax.random.key_data(rng) if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) else rng
        keys = jax.random.split(rng, len(text_tokens))[:, None]
        return self.sample({"params": params}, text_tokens, keys, self.settings)[:, 0]

    def num_steps(self, settings: sampling.SamplingSettings, num_samples: int) -> int:
        """Returns the steps of `sample`; raises ValueError as `sampling.order_of`."""
        return sampling.order_of(self.config, settings, num_samples).num_steps

    def sample(
        self,
        variables: base.Variables,
        text_tokens: Array,
        sample_keys: Array,
        settings: sampling.SamplingSettings | sampling.PromptSettings | None = None,
        on_step: Callable[[Array, Array, Array], None] | None = None,
    ) -> Array:
        """Draws samples: [prompts, samples, image_length] codebook indices (`sampling.sample`).

        Raises:
          ValueError: the shapes do not go together, a decode order that the network cannot have or,
            outside of jit, a text id out of range.
        """
        config = self.config
        base.check_tokens(text_tokens, config.text_length, config.text_vocab_size, "text_tokens")
        settings = settings or self.settings
        negative = getattr(settings, "negative_tokens", None)
        if negative is not None:
            what = config.text_length, config.text_vocab_size, "negative_tokens"
            base.check_tokens(negative, *what)
        arrays = variables, text_tokens, sample_keys
        return sampling.sample(self.network, *arrays, settings, on_step)


def _logits(
    transformer: network.PartiTransformer,
    params: PyTree,
    batch: base.Batch,
    dropout_rng: Array | None,
) -> Array:
    """Returns [batch, image_length, vocab] float32 with teacher forcing."""
    return transformer.apply(
        {"params": params},
        batch["encoder_input_tokens"],
        batch["decoder_input_tokens"],
        deterministic=dropout_rng is None,
        rngs=None if dropout_rng is None else {"dropout": dropout_rng},
    )
