# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Adversarial training inside one loss: the terms of generator and discriminator, kept apart.

Both sides' losses are added to one scalar, which has one gradient and goes to one optimizer; so T5X
and the embedded engine train a GAN as they train anything else. `stop_gradient` keeps the sides
apart: the generator's term gives the discriminator no gradient, the discriminator's terms give the
tokenizer none. What it means to share an optimizer:

- Learning rate, schedule, AdamW's moments and weight decay are the same for both sides. As kernels
  of the discriminator start as N(0, 1) (equalised learning rate), one rate moves it more slowly, in
  proportion to its size, than the tokenizer.
- AdamW divides by each parameter's own gradient, so the factor of the discriminator's loss does
  hardly matter; it is 1.
- Clipping of the global norm spans both sides: a large gradient of one, such as R1's at every 16th
  step, shortens the step of the other. The paper's experiments do not clip.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parti.models.image_tokenizer import discriminator, losses

Params = Any
Stats = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """When and how hard generator and discriminator play; steps are training calls of `loss_fn`.

    With NUM_MICROBATCHES above 1 each microbatch is a call, and counts.

    Attributes:
      adversarial_start: the first step at which the generator's loss counts. The discriminator
        learns from step 0, so that by then it has something to say.
      adversarial_ramp: steps over which the weight then rises to `LossWeights.adversarial`.
      r1_gamma: twice the factor of the R1 penalty.
      r1_interval: the penalty is computed at every `r1_interval`-th step, where it weighs
        `r1_interval` times as much.

    Source: R1 of gamma 10 at every 16th step, StyleGAN2 (arXiv 1912.04958) section 4.1. No source
    gives ViT-VQGAN's values; start and ramp are this project's.
    """

    adversarial_start: int = 0
    adversarial_ramp: int = 0
    r1_gamma: float = 10.0
    r1_interval: int = 16

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range."""
        if min(self.adversarial_start, self.adversarial_ramp, self.r1_gamma) < 0:
            raise ValueError(
                f"adversarial_start {self.adversarial_start}, adversarial_ramp "
                f"{self.adversarial_ramp}, r1_gamma {self.r1_gamma}: none may be negative"
            )
        if self.r1_interval < 1:
            raise ValueError(f"r1_interval is {self.r1_interval}; give at least 1 step")

    def ramp(self, steps: jax.Array) -> jax.Array:
        """Returns the share of the adversarial weight, in [0, 1], after so many steps."""
        risen = (steps - self.adversarial_start + 1) / max(self.adversarial_ramp, 1)
        return jnp.clip(risen, 0.0, 1.0)

    def r1_is_due(self, steps: jax.Array) -> jax.Array:
        """Returns whether the R1 penalty is computed after so many steps."""
        return steps % self.r1_interval == 0

    def r1_weight(self, steps: jax.Array) -> jax.Array:
        """Returns the factor of the R1 penalty after so many steps; 0 where it is left out."""
        return jnp.where(self.r1_is_due(steps), 0.5 * self.r1_gamma * self.r1_interval, 0.0)


class AdversarialOutput(NamedTuple):
    """What a batch gives.

    Attributes:
      loss: scalar, to be added to the tokenizer's loss.
      metrics: name -> scalar.
      stats: the state after the batch.
    """

    loss: jax.Array
    metrics: dict[str, jax.Array]
    stats: Stats


class Adversary:
    """A discriminator, and what it and the tokenizer have to say about each other.

    Its state is `steps`, the training calls so far, and `r1_penalty`, the one computed last.
    """

    def __init__(
        self,
        config: AdversarialConfig,
        discriminator_config: discriminator.DiscriminatorConfig,
        weight: float,
        image_size: int,
    ) -> None:
        """Builds the discriminator.

        Args:
          config: when and how hard they play.
          discriminator_config: sizes.
          weight: of the generator's loss after the ramp.
          image_size: height and width of the images, in pixels.

        Raises:
          ValueError: the discriminator takes no images of that size.
        """
        discriminator_config.block_channels(image_size)  # checks the size
        self.config, self.weight = config, weight
        self.network = discriminator.Discriminator(discriminator_config)

    def init_variables(self, rng: jax.Array, images: jax.Array) -> tuple[Params, Stats]:
        """Returns the discriminator's boxed parameters and the state at step 0."""
        stats = {"steps": jnp.zeros((), jnp.int32), "r1_penalty": jnp.zeros(())}
        return self.network.init(rng, images)["params"], stats

    def __call__(
        self,
        params: Params,
        stats: Stats,
        reconstructions: jax.Array,
        images: jax.Array,
        training: bool,
    ) -> AdversarialOutput:
        """Plays one batch.

        Args:
          params: of the discriminator.
          stats: its state.
          reconstructions: [batch, height, width, 3], not clipped.
          images: the same shape, in [-1, 1].
          training: add the R1 penalty when it is due, and count the step.

        Returns:
          The sum of the ramped generator loss (gradient to the reconstructions only), the
          discriminator loss and the weighted R1 penalty (gradient to `params` only).
        """
        stop = jax.lax.stop_gradient
        images, steps = stop(images), stats["steps"]
        fake_logits = self._discriminate(params, stop(reconstructions))
        real_logits = self._discriminate(params, images)
        weight = self.weight * self.config.ramp(steps)
        metrics = {
            "generator_loss": losses.generator_loss(
                self._discriminate(stop(params), reconstructions)
            ),
            "discriminator_loss": losses.discriminator_loss(fake_logits, real_logits),
            "discriminator_fake_accuracy": jnp.mean(fake_logits < 0),
            "discriminator_real_accuracy": jnp.mean(real_logits > 0),
            "adversarial_weight": weight,
        }
        loss = weight * metrics["generator_loss"] + metrics["discriminator_loss"]
        if training:
            r1_penalty = self._lazy_r1_penalty(params, stats, images)
            loss += self.config.r1_weight(steps) * r1_penalty
            stats = {"steps": steps + 1, "r1_penalty": stop(r1_penalty)}
        return AdversarialOutput(loss, metrics | {"r1_penalty": stats["r1_penalty"]}, stats)

    def _discriminate(self, params: Params, images: jax.Array) -> jax.Array:
        return self.network.apply({"params": params}, images)

    def _lazy_r1_penalty(self, params: Params, stats: Stats, images: jax.Array) -> jax.Array:
        """Returns the R1 penalty if it is due, else the last one (which has no gradient)."""

        # Rematerialised: otherwise each step, due or not, would keep (or fill with zeros) the
        # activations of the penalty, which are twice the discriminator's.
        @jax.checkpoint
        def penalty(params: Params) -> jax.Array:
            return losses.r1_penalty(lambda x: self._discriminate(params, x), images)

        return jax.lax.cond(
            self.config.r1_is_due(stats["steps"]),
            penalty,
            lambda _: stats["r1_penalty"],
            params,
        )
