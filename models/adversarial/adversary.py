# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Adversarial training inside one loss: the terms of generator and discriminator, kept apart.

The generator is whatever makes the reconstructions: the image tokenizer or the upsampler. Both
sides' losses are added to one scalar, which has one gradient and goes to one optimizer; so T5X and
the embedded engine train a GAN as they train anything else. `stop_gradient` keeps the sides apart:
the generator's term gives the discriminator no gradient, the discriminator's terms give the
generator none. What it means to share an optimizer:

- Learning rate, schedule, AdamW's moments and weight decay are the same for both sides. As kernels
  of the discriminator start as N(0, 1) (equalised learning rate), one rate moves it more slowly, in
  proportion to its size, than the generator.
- AdamW divides by each parameter's own gradient, so a common factor of the discriminator's losses
  hardly matters; their ratio does. `losses.discriminator_loss` is halved, as in public
  re-implementations of ViT-VQGAN, so R1 of the same gamma weighs twice as much as in StyleGAN2.
- Clipping of the global norm spans both sides: a large gradient of one, such as R1's at every 16th
  step, shortens the step of the other. The paper's experiments do not clip.

Back-off. A discriminator that wins too fast teaches artefacts and destroys what the other losses
have learned. So the reconstruction error is monitored: if its moving average is more than
`max_psnr_drop` dB above the lowest that it has had, the generator's loss counts for half as much
after every further `BACKOFF_STEPS` steps, and `adversarial_alarm` is 1; once the error is back, the
loss regains its weight ten times as slowly. The weight falls to no less than LEAST_STRENGTH of what
it should be, and there is no alarm before the generator's loss has any.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parti.models.adversarial import discriminator, losses

Params = Any
Stats = dict[str, jax.Array]

BRANCH = "discriminator"  # of `params` and `stats`, in the models that have one
ERROR_DECAY = 0.99  # of the moving average of the reconstruction error
LEAST_STRENGTH = 0.01  # of the generator's loss, however long an alarm lasts
BACKOFF_STEPS = 50  # in which the weight of the generator's loss halves during an alarm


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """The schedule and weights of adversarial training; steps are training calls of `loss_fn`.

    With NUM_MICROBATCHES above 1 each microbatch is a call, and counts.

    Source: R1 of gamma 10 at every 16th step, StyleGAN2 (arXiv 1912.04958) section 4.1. No source
    gives ViT-VQGAN's values; start, ramp and back-off are this project's.
    """

    # The first step at which the generator's loss counts. The discriminator learns from step 0, so
    # that by then it has something to say.
    adversarial_start: int = 0
    adversarial_ramp: int = 0  # steps in which the weight then rises to `LossWeights.adversarial`
    # How much of its best reconstruction error the generator may lose, in dB of PSNR, before its
    # adversarial loss is weakened; 0 never weakens it
    max_psnr_drop: float = 3.0
    r1_gamma: float = 10.0  # twice the factor of the R1 penalty
    r1_interval: int = 16  # steps between penalties, each of which weighs that many times

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"{name} is {value}; give at least 0")
        if self.r1_interval < 1:
            raise ValueError(f"r1_interval is {self.r1_interval}; give at least 1 step")

    def ramp(self, steps: jax.Array) -> jax.Array:
        """Returns the share of the adversarial weight at a step, in [0, 1]."""
        risen = (steps - self.adversarial_start + 1) / max(self.adversarial_ramp, 1)
        return jnp.clip(risen, 0.0, 1.0)

    def is_alarming(self, error: jax.Array, best_error: jax.Array) -> jax.Array:
        """Returns whether a mean squared error is too far above the best one."""
        if not self.max_psnr_drop:
            return jnp.zeros((), bool)
        return error > best_error * 10.0 ** (self.max_psnr_drop / 10.0)

    def r1_is_due(self, steps: jax.Array) -> jax.Array:
        """Returns whether a step computes the R1 penalty."""
        return steps % self.r1_interval == 0

    def r1_weight(self, steps: jax.Array) -> jax.Array:
        """Returns the factor of the R1 penalty at a step; 0 where it is left out."""
        return jnp.where(self.r1_is_due(steps), 0.5 * self.r1_gamma * self.r1_interval, 0.0)


class AdversarialOutput(NamedTuple):
    """The losses, metrics and state of a batch, each name -> scalar."""

    losses: dict[str, jax.Array]  # weighted, to be added to the generator's other losses
    metrics: dict[str, jax.Array]
    stats: Stats  # after the batch


def initial_stats() -> Stats:
    """Returns the state of an `Adversary` at step 0."""
    return {
        "steps": jnp.zeros((), jnp.int32),  # training calls so far
        "r1_penalty": jnp.zeros(()),  # the one computed last
        # Mean squared error of the reconstructions, averaged over the first 100 steps and then with
        # a decay of ERROR_DECAY; and the lowest that it has been since step 100
        "error": jnp.zeros(()),
        "best_error": jnp.full((), jnp.inf, jnp.float32),
        "strength": jnp.ones(()),  # the share of the weight that back-off leaves, in (0, 1]
    }


class Adversary:
    """A discriminator, its losses and the generator's, and the schedule of both."""

    def __init__(
        self,
        config: AdversarialConfig | None,
        discriminator_config: discriminator.DiscriminatorConfig | None,
        weight: float,
        image_size: int,
    ) -> None:
        """Builds the discriminator; `weight` is of the generator's loss after the ramp.

        None is the defaults.

        Raises:
          ValueError: the discriminator takes no images of that size.
        """
        sizes = discriminator_config or discriminator.DiscriminatorConfig()
        sizes.block_channels(image_size)  # checks the size
        self.config, self.weight = config or AdversarialConfig(), weight
        self.network = discriminator.Discriminator(sizes)

    def add_variables(
        self, variables: Mapping[str, Mapping[str, Any]], rng: jax.Array, images: jax.Array
    ) -> dict[str, dict[str, Any]]:
        """Returns a generator's variables and, as BRANCH of `params` and `stats`, ours at step 0.

        The generator's are what its `init` gave, boxed; they may have no `stats`.
        """
        ours = {"params": self.network.init(rng, images)["params"], "stats": initial_stats()}
        return {name: {**variables.get(name, {}), BRANCH: ours[name]} for name in ours}

    def __call__(
        self,
        params: Params,
        stats: Stats,
        reconstructions: jax.Array,
        images: jax.Array,
        training: bool,
    ) -> AdversarialOutput:
        """Computes the losses of one batch, [batch, height, width, 3]; reconstructions not clipped.

        They are the ramped generator loss, whose gradient is to the reconstructions only, the
        discriminator loss and, in training, the weighted R1 penalty, whose gradient is to `params`
        (the discriminator's) only. The state changes in training only.
        """
        stop = jax.lax.stop_gradient
        images, steps = stop(images), stats["steps"]
        fake_logits = self._discriminate(params, stop(reconstructions))
        real_logits = self._discriminate(params, images)
        weight = self.weight * self.config.ramp(steps) * stats["strength"]
        metrics = {
            "generator_loss": losses.generator_loss(
                self._discriminate(stop(params), reconstructions)
            ),
            "discriminator_loss": losses.discriminator_loss(fake_logits, real_logits),
            "discriminator_fake_accuracy": jnp.mean(fake_logits < 0),
            "discriminator_real_accuracy": jnp.mean(real_logits > 0),
            "adversarial_weight": weight,
        }
        weighted = {
            "generator_loss": weight * metrics["generator_loss"],
            "discriminator_loss": metrics["discriminator_loss"],
        }
        if training:
            r1_penalty = self._lazy_r1_penalty(params, stats, images)
            weighted["r1_penalty"] = self.config.r1_weight(steps) * r1_penalty
            stats = self._back_off(stats, jnp.mean(jnp.square(stop(reconstructions) - images)))
            stats = {**stats, "steps": steps + 1, "r1_penalty": stop(r1_penalty)}
        metrics["r1_penalty"] = stats["r1_penalty"]
        metrics["adversarial_alarm"] = self._is_alarming(stats).astype(jnp.float32)
        return AdversarialOutput(weighted, metrics, stats)

    def r1_gradient_norm(self, params: Params, images: jax.Array) -> jax.Array:
        """Returns the norm of the weighted R1 penalty's gradient to the discriminator, a scalar.

        The weight is the one that a step has in the mean, a half of `r1_gamma`.
        """

        def weighted(params: Params) -> jax.Array:
            penalty = losses.r1_penalty(lambda x: self._discriminate(params, x), images)
            return 0.5 * self.config.r1_gamma * penalty

        return optax.tree.norm(jax.grad(weighted)(params))

    def _back_off(self, stats: Stats, error: jax.Array) -> Stats:
        """Returns the state after a batch of this mean squared error; see the module's back-off."""
        decay = jnp.minimum(ERROR_DECAY, stats["steps"] / (stats["steps"] + 1.0))
        error = decay * stats["error"] + (1.0 - decay) * error
        averaged = stats["steps"] >= 1.0 / (1.0 - ERROR_DECAY)
        best_error = jnp.where(averaged, jnp.minimum(stats["best_error"], error), jnp.inf)
        stats = {**stats, "error": error, "best_error": best_error}
        factor = jnp.where(self._is_alarming(stats), 0.5, 2.0**0.1) ** (1.0 / BACKOFF_STEPS)
        return {**stats, "strength": jnp.clip(stats["strength"] * factor, LEAST_STRENGTH, 1.0)}

    def _is_alarming(self, stats: Stats) -> jax.Array:
        """Returns whether the generator's loss counts and reconstructions are too bad."""
        counts = self.config.ramp(stats["steps"]) > 0
        return counts & self.config.is_alarming(stats["error"], stats["best_error"])

    def _discriminate(self, params: Params, images: jax.Array) -> jax.Array:
        return self.network.apply({"params": params}, images)

    def _lazy_r1_penalty(self, params: Params, stats: Stats, images: jax.Array) -> jax.Array:
        """Returns the R1 penalty if it is due, else the last one (which has no gradient)."""

        # Rematerialised: otherwise each step, due or not, would keep (or fill with zeros) the
        # activations of the penalty, which are twice the discriminator's.
        @jax.checkpoint
        def penalty(params: Params) -> jax.Array:
            return losses.r1_penalty(lambda x: self._discriminate(params, x), images)

        due = self.config.r1_is_due(stats["steps"])
        return jax.lax.cond(due, penalty, lambda _: stats["r1_penalty"], params)


def branches(params: Params, stats: Any) -> tuple[Params, Stats]:
    """Returns the discriminator's parameters and state, of the variables of a whole model.

    ValueError: they are not there.
    """
    if BRANCH not in params or BRANCH not in stats:
        raise ValueError(
            f"the adversarial loss has a weight, but there is no {BRANCH} in params "
            f"{sorted(params)} and stats {sorted(stats)}: start from `get_initial_variables` of "
            "this model"
        )
    return params[BRANCH], stats[BRANCH]
