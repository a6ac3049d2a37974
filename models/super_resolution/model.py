# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The upsampler as a model.

Batch: `low_resolution_images` [batch, height, width, 3], what the tokenizer reconstructed, and
`images` [batch, s height, s width, 3], the originals; both float32 in [-1, 1].
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from parti.models import base, losses
from parti.models.super_resolution import network

Variables = Mapping[str, Any]
RECONSTRUCTION_LOSSES = ("l2", "l1")


class SuperResolutionModel(base.Model):
    """A WDSR network trained with a reconstruction loss."""

    feature_converter = "SuperResolutionConverter"
    feature_types = {"images": "float32", "low_resolution_images": "float32"}

    def __init__(
        self, config: network.SuperResolutionConfig, reconstruction_loss: str = "l2"
    ) -> None:
        """Builds the network.

        Args:
          config: sizes.
          reconstruction_loss: 'l2' (mean squared error, Parti's) or 'l1' (mean absolute error).
        """
        if reconstruction_loss not in RECONSTRUCTION_LOSSES:
            raise ValueError(
                f"reconstruction_loss is {reconstruction_loss!r}; choose one of "
                f"{', '.join(RECONSTRUCTION_LOSSES)}"
            )
        self.config = config
        self.reconstruction_loss = reconstruction_loss
        self.network = network.SuperResolution(config)

    @property
    def scale(self) -> int:
        """The factor between the sides of the output and the input."""
        return self.config.total_scale

    @property
    def image_size(self) -> int:
        """Height and width of the low-resolution image, in pixels."""
        return self.config.image_size

    def init_variables(self, rng: jax.Array, batch: base.Batch) -> Variables:
        """Returns the network's boxed `params`."""
        self._check_batch(batch)
        return self.network.init(rng, batch["low_resolution_images"])

    def loss_fn(
        self, params: base.PyTree, batch: base.Batch, dropout_rng: jax.Array | None = None
    ) -> tuple[jax.Array, base.Metrics]:
        """Returns the mean loss and the metrics, among them the PSNR of plain interpolation."""
        del dropout_rng  # a WDSR has no dropout
        self._check_batch(batch)
        images, low = batch["images"], batch["low_resolution_images"]
        upsampled = self.network.apply({"params": params}, low)
        error = upsampled - images
        if self.reconstruction_loss == "l1":
            loss = jnp.mean(jnp.abs(error))
        else:
            loss = jnp.mean(jnp.square(error))
        measures = {"loss": loss, "psnr": jnp.mean(losses.psnr(upsampled, images))}
        for method in ("nearest", "bicubic"):
            baseline = jax.image.resize(low, images.shape, method)
            measures[f"psnr_{method}"] = jnp.mean(losses.psnr(baseline, images))
        size = images.shape[0]
        return loss, {name: base.per_example(value, size) for name, value in measures.items()}

    def upsample(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Enlarges images.

        Args:
          variables: `{'params': ...}`.
          images: [batch, height, width, 3] in [-1, 1]; any height and width.

        Returns:
          [batch, scale height, scale width, 3] in [-1, 1].

        Raises:
          ValueError: the images have the wrong shape or type.
        """
        base.check_images(images)
        upsampled = self.network.apply({"params": variables["params"]}, images)
        return jnp.clip(upsampled, -1.0, 1.0)

    def predict_batch(
        self, params: base.PyTree, batch: base.Batch, rng: jax.Array | None = None
    ) -> jax.Array:
        """Returns the enlarged `low_resolution_images`."""
        return self.upsample({"params": params}, batch["low_resolution_images"])

    def score_batch(self, params: base.PyTree, batch: base.Batch) -> jax.Array:
        """Returns the PSNR of each enlarged image, [batch], in dB."""
        return losses.psnr(self.predict_batch(params, batch), batch["images"])

    def _check_batch(self, batch: base.Batch) -> None:
        images, low = batch["images"], batch["low_resolution_images"]
        base.check_images(images)
        base.check_images(low, name="low_resolution_images")
        expected = (low.shape[0], low.shape[1] * self.scale, low.shape[2] * self.scale, 3)
        if tuple(images.shape) != expected:
            raise ValueError(
                f"low_resolution_images are {tuple(low.shape)} and images {tuple(images.shape)}; "
                f"with a factor of {self.scale} images must be {expected}"
            )
