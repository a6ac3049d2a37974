# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The image tokenizer as a model: batches to losses, images to tokens and back.

Batch: `images` [batch, height, width, 3] float32 in [-1, 1].

The network has a mutable collection, `stats` (where revived codes live; see `codebook`). So what is
used after training takes `variables`, `{'params': ..., 'stats': ...}`, and not `params` alone.
"""

from collections.abc import Mapping
from typing import Any

import flax.core
import jax
import jax.numpy as jnp
import numpy as np

from parti.models import base
from parti.models import losses as shared_losses
from parti.models.image_tokenizer import losses, network

Variables = Mapping[str, Any]


class ImageTokenizerModel(base.Model):
    """A ViT-VQGAN trained with reconstruction and quantiser losses."""

    feature_converter = "ImageConverter"
    feature_types = {"images": "float32"}
    has_mutables = True

    def __init__(
        self,
        config: network.ImageTokenizerConfig,
        loss_weights: losses.LossWeights | None = None,
    ) -> None:
        """Builds the network.

        Args:
          config: sizes.
          loss_weights: factors of the losses; None is the defaults of `losses.LossWeights`.

        Raises:
          ValueError: the decoder's output and the weight of the logit-laplace loss disagree.
        """
        self.config = config
        self.loss_weights = loss_weights or losses.LossWeights()
        if (self.loss_weights.logit_laplace > 0) != (config.output == "logit_laplace"):
            raise ValueError(
                f"output is {config.output!r} and the weight of logit_laplace "
                f"{self.loss_weights.logit_laplace}; the output 'logit_laplace' needs a weight "
                "above 0, the output 'rgb' a weight of 0"
            )
        self.network = network.ImageTokenizer(config)

    @property
    def codebook_size(self) -> int:
        """Entries of the codebook."""
        return self.config.codebook_size

    @property
    def grid_size(self) -> int:
        """Tokens along one side of an image; an image is `grid_size ** 2` tokens."""
        return self.config.grid_size

    @property
    def image_size(self) -> int:
        """Height and width of an image, in pixels."""
        return self.config.image_size

    def init_variables(self, rng: jax.Array, batch: base.Batch) -> Variables:
        """Returns the network's boxed `params` and `stats`."""
        base.check_images(batch["images"], self.image_size)
        return self.network.init(rng, batch["images"])

    def loss_fn(
        self,
        params: base.PyTree,
        batch: base.Batch,
        dropout_rng: jax.Array | None,
        *flax_mutables: base.PyTree,
    ) -> tuple[jax.Array, tuple[base.Metrics, base.PyTree]]:
        """Computes the loss and the codebook's new statistics.

        Args:
          params: the parameters.
          batch: `images`.
          dropout_rng: also draws the latents onto which unused codes move; None neither drops out
            nor changes the statistics.
          *flax_mutables: one, `{'stats': ...}`.

        Returns:
          (mean loss, (metrics, new flax_mutables of the type that was given)).

        Raises:
          ValueError: the images have the wrong size or type, or the statistics are missing.
        """
        images = batch["images"]
        base.check_images(images, self.image_size)
        (mutables,) = flax_mutables or ({},)
        variables = _check_variables({"params": params, **mutables})
        if dropout_rng is None:
            reconstruction, quantized = self.network.apply(variables, images)
            new_mutables = mutables
        else:
            dropout_rng, codebook_rng = jax.random.split(dropout_rng)
            (reconstruction, quantized), new_mutables = self.network.apply(
                variables,
                images,
                deterministic=False,
                mutable=["stats"],
                rngs={"dropout": dropout_rng, "codebook": codebook_rng},
            )
            if isinstance(mutables, flax.core.FrozenDict):  # T5X wants back what it gave
                new_mutables = flax.core.freeze(new_mutables)
        terms = {
            "l2_loss": losses.l2_loss(reconstruction.images, images),
            "codebook_loss": quantized.codebook_loss,
            "commitment_loss": quantized.commitment_loss,
        }
        if self.loss_weights.logit_laplace:
            mean, log_scale = reconstruction.mean, reconstruction.log_scale
            terms["logit_laplace_loss"] = losses.logit_laplace_loss(mean, log_scale, images)
        loss = self.loss_weights.total(terms)
        measures = {
            "loss": loss,
            **terms,
            "psnr": jnp.mean(shared_losses.psnr(reconstruction.images, images)),
            "codebook_usage": quantized.usage,
            "codebook_perplexity": quantized.perplexity,
        }
        size = images.shape[0]
        metrics = {name: base.per_example(value, size) for name, value in measures.items()}
        return loss, (metrics, new_mutables)

    def eval_fn(
        self, params: base.PyTree, batch: base.Batch, *flax_mutables: base.PyTree
    ) -> tuple[jax.Array, base.Metrics]:
        """Returns the mean loss and the metrics of a batch; no dropout, no statistics."""
        loss, (metrics, _) = self.loss_fn(params, batch, None, *flax_mutables)
        return loss, metrics

    def encode(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Turns images into tokens.

        Args:
          variables: `{'params': ..., 'stats': ...}`.
          images: [batch, image_size, image_size, 3] in [-1, 1].

        Returns:
          image_tokens [batch, grid_size ** 2] int32 in [0, codebook_size), raster order.

        Raises:
          ValueError: the images have the wrong size or type.
        """
        base.check_images(images, self.image_size)
        return self.network.apply(_check_variables(variables), images, method="encode")

    def decode(self, variables: Variables, image_tokens: jax.Array) -> jax.Array:
        """Turns tokens into images.

        Args:
          variables: `{'params': ..., 'stats': ...}`.
          image_tokens: [batch, grid_size ** 2], integers in [0, codebook_size).

        Returns:
          images [batch, image_size, image_size, 3] in [-1, 1].

        Raises:
          ValueError: the tokens have the wrong shape or type, or are out of range. Under jit the
            range cannot be seen: a token that is too large gives NaN.
        """
        self._check_tokens(image_tokens)
        images = self.network.apply(_check_variables(variables), image_tokens, method="decode")
        return jnp.clip(images, -1.0, 1.0)

    def predict_batch(
        self, variables: Variables, batch: base.Batch, rng: jax.Array | None = None
    ) -> jax.Array:
        """Returns the tokens of a batch; takes variables, as `encode` does."""
        return self.encode(variables, batch["images"])

    def score_batch(self, variables: Variables, batch: base.Batch) -> jax.Array:
        """Returns the PSNR of each image's reconstruction, [batch], in dB; takes variables."""
        images = batch["images"]
        base.check_images(images, self.image_size)
        reconstruction, _ = self.network.apply(_check_variables(variables), images)
        return shared_losses.psnr(reconstruction.images, images)

    def _check_tokens(self, image_tokens: jax.Array) -> None:
        length, num_codes = self.grid_size**2, self.codebook_size
        if image_tokens.ndim != 2 or image_tokens.shape[1] != length:
            raise ValueError(
                f"image_tokens have shape {tuple(image_tokens.shape)}; this tokenizer takes "
                f"[batch, {length}], a grid of {self.grid_size} x {self.grid_size}"
            )
        if not jnp.issubdtype(image_tokens.dtype, jnp.integer):
            raise ValueError(f"image_tokens are {image_tokens.dtype}; give integers")
        if isinstance(image_tokens, jax.core.Tracer) or not image_tokens.size:
            return
        values = np.asarray(image_tokens)  # jnp would trace even known values under jit
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= num_codes:
            raise ValueError(
                f"image_tokens span {low} to {high}; this codebook has 0 to {num_codes - 1}: the "
                "tokens are of another tokenizer, or still carry the vocabulary's offset of 1"
            )


def _check_variables(variables: Variables) -> dict[str, Any]:
    if not {"params", "stats"} <= set(variables):
        raise ValueError(
            f"the image tokenizer needs variables = {{'params': params, **flax_mutables}} with the "
            f"collections 'params' and 'stats'; got {sorted(variables)}"
        )
    return {"params": variables["params"], "stats": variables["stats"]}
