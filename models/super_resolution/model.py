# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The upsampler as a model.

Batch: `low_resolution_images` [batch, height, width, 3], what the tokenizer reconstructed, and
`images` [batch, s height, s width, 3], the originals; both float32 in [-1, 1].

With a weight of the adversarial loss `params` and a mutable collection `stats` have a branch
`discriminator`, of the enlarged images, which only training reads; without one there are `params`
alone, and images may have any size. With a weight of the perceptual loss the perceptual network's
variables are the model's `constants`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from parti.models import base
from parti.models import losses as shared_losses
from parti.models.adversarial import adversary, discriminator
from parti.models.perceptual import perceptual as perceptual_networks
from parti.models.super_resolution import losses, network

RECONSTRUCTION_LOSSES = ("l2", "l1")


class SuperResolutionModel(perceptual_networks.PerceptualModel):
    """A WDSR network trained with reconstruction, perceptual and adversarial losses.

    It is a `base.Upsampler`; `image_size` is that of the low-resolution image.
    """

    feature_converter = "SuperResolutionConverter"
    feature_types = {"images": "float32", "low_resolution_images": "float32"}
    training_only = (adversary.BRANCH,)

    def __init__(
        self,
        config: network.SuperResolutionConfig,
        loss_weights: losses.LossWeights | None = None,
        perceptual: perceptual_networks.PerceptualNetwork | None = None,
        discriminator_config: discriminator.DiscriminatorConfig | None = None,
        adversarial_config: adversary.AdversarialConfig | None = None,
        reconstruction_loss: str = "l2",
    ) -> None:
        """Builds the network, and a discriminator if the adversarial loss has a weight.

        None is the defaults; of `perceptual`, where that loss has a weight, the in-house filters.
        Without `loss_weights` the loss, of weight 1, is `reconstruction_loss`: 'l2' (mean squared
        error, Parti's) or 'l1' (mean absolute error).

        Raises:
          ValueError: there is no such loss, or there are `loss_weights` as well as 'l1'; or the
            discriminator takes no images of the enlarged size.
        """
        if reconstruction_loss not in RECONSTRUCTION_LOSSES:
            raise ValueError(
                f"reconstruction_loss is {reconstruction_loss!r}; choose one of "
                f"{', '.join(RECONSTRUCTION_LOSSES)}"
            )
        if loss_weights and reconstruction_loss != "l2":
            raise ValueError(
                f"reconstruction_loss is {reconstruction_loss!r} and there are {loss_weights}; "
                "set the weights alone"
            )
        self.config, self.dtype = config, config.dtype
        self.scale, self.image_size = config.total_scale, config.image_size
        self.loss_weights = loss_weights or losses.LossWeights(
            **{"l2": 0.0, reconstruction_loss: 1.0}
        )
        self.network = network.SuperResolution(config)
        self.perceptual = perceptual_networks.choose(self.loss_weights.perceptual, perceptual)
        weight, size = self.loss_weights.adversarial, config.image_size * config.total_scale
        self.adversary = (
            adversary.Adversary(adversarial_config, discriminator_config, weight, size)
            if weight > 0
            else None
        )
        self.has_mutables = self.adversary is not None

    def init_variables(self, rng: jax.Array, batch: base.Batch) -> base.Variables:
        """Returns the network's boxed `params`; with a discriminator its `params` and `stats`."""
        self._check_batch(batch)
        variables = self.network.init(rng, batch["low_resolution_images"])
        if self.adversary is None:
            return variables
        return self.adversary.add_variables(variables, jax.random.fold_in(rng, 1), batch["images"])

    def loss_fn(
        self,
        params: base.PyTree,
        batch: base.Batch,
        dropout_rng: jax.Array | None,
        flax_mutables: base.PyTree | None = None,
    ) -> tuple[jax.Array, Any]:
        """Computes the loss, and the discriminator's new statistics if there is one.

        A WDSR has no dropout; a `dropout_rng` of None leaves the statistics as they are. Among the
        metrics is the PSNR of plain interpolation.

        Raises:
          ValueError: the images have the wrong size or type, or the discriminator is missing.
        """
        self._check_batch(batch)
        images, low = batch["images"], batch["low_resolution_images"]
        mutables = {} if flax_mutables is None else flax_mutables
        upsampled = self.network.apply({"params": params}, low)
        terms = self._terms(upsampled, images)
        weighted = self.loss_weights.weigh(terms)
        measures = {**terms, **_psnrs(upsampled, low, images)}
        if self.adversary is not None:
            played = self.adversary(
                *adversary.branches(params, mutables.get("stats", {})),
                upsampled,
                images,
                training=dropout_rng is not None,
            )
            weighted |= played.losses
            measures |= played.metrics
            if dropout_rng is not None:
                mutables = base.new_mutables(mutables, {adversary.BRANCH: played.stats})
        loss = measures["loss"] = jnp.asarray(sum(weighted.values()))
        size = images.shape[0]
        metrics = {name: base.per_example(value, size) for name, value in measures.items()}
        return loss, (metrics, mutables) if self.has_mutables else metrics

    def _terms(self, upsampled: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
        """Returns all losses except the adversarial ones, unweighted; each is a scalar."""
        terms = {}
        if self.loss_weights.l2 > 0:
            terms["l2_loss"] = shared_losses.l2_loss(upsampled, images)
        if self.loss_weights.l1 > 0:
            terms["l1_loss"] = shared_losses.l1_loss(upsampled, images)
        return terms | self.perceptual_terms(upsampled, images)

    def summaries(
        self, params: base.PyTree, batch: base.Batch, flax_mutables: base.PyTree | None = None
    ) -> base.Summaries:
        """Shows up to 8 images: bicubic interpolation, what the network makes, the original."""
        images, low = (batch[k][:8] for k in ("images", "low_resolution_images"))
        bicubic = jax.image.resize(low, images.shape, "bicubic")
        upsampled = self.network.apply({"params": params}, low)
        return base.Summaries(pictures={"upsampled": jnp.stack([bicubic, upsampled, images])})

    def upsample(self, variables: base.Variables, images: jax.Array) -> jax.Array:
        """Maps [batch, height, width, 3] to [batch, s height, s width, 3], both in [-1, 1].

        Any height and width will do, but a large one takes much memory: see `tiling`. The
        discriminator need not be among the variables.

        Raises:
          ValueError: the images have the wrong shape or type.
        """
        base.check_images(images)
        upsampled = self.network.apply({"params": variables["params"]}, images)
        return jnp.clip(upsampled, -1.0, 1.0)

    def predict_batch(
        self,
        params: base.PyTree,
        batch: base.Batch,
        rng: jax.Array | None = None,
        flax_mutables: base.PyTree | None = None,
    ) -> jax.Array:
        """Returns the enlarged `low_resolution_images`."""
        return self.upsample({"params": params}, batch["low_resolution_images"])

    def score_batch(
        self, params: base.PyTree, batch: base.Batch, flax_mutables: base.PyTree | None = None
    ) -> jax.Array:
        """Returns the PSNR of each enlarged image, [batch], in dB."""
        return shared_losses.psnr(self.predict_batch(params, batch), batch["images"])

    def _check_batch(self, batch: base.Batch) -> None:
        images, low = batch["images"], batch["low_resolution_images"]
        base.check_images(images)
        # The discriminator's layers fit one size.
        size = self.image_size if self.adversary else None
        base.check_images(low, size, name="low_resolution_images")
        expected = (low.shape[0], low.shape[1] * self.scale, low.shape[2] * self.scale, 3)
        if tuple(images.shape) != expected:
            raise ValueError(
                f"low_resolution_images are {tuple(low.shape)} and images {tuple(images.shape)}; "
                f"with a factor of {self.scale} images must be {expected}"
            )


def _psnrs(upsampled: jax.Array, low: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
    """Returns the mean PSNR in dB of the upsampled images, and of plain interpolation."""
    measures = {"psnr": jnp.mean(shared_losses.psnr(upsampled, images))}
    for method in ("nearest", "bicubic"):
        baseline = jax.image.resize(low, images.shape, method)
        measures[f"psnr_{method}"] = jnp.mean(shared_losses.psnr(baseline, images))
    return measures
