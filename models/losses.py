# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses and measures of several families: of tokens, of pairs, of pixels; and their sum."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class TokenLoss(NamedTuple):
    """Weighted sums over the tokens of a batch, each a float32 scalar; losses in nats.

    Sums, not means, so that metrics of several batches add up.
    """

    cross_entropy: Array
    z_loss: Array
    num_correct: Array
    weight: Array

    @property
    def mean(self) -> Array:
        """The loss to minimise: (cross_entropy + z_loss) / weight."""
        return (self.cross_entropy + self.z_loss) / jnp.maximum(self.weight, 1e-6)


def token_log_probs(logits: Array, targets: Array) -> Array:
    """Returns log softmax(logits [..., vocab])[targets [...]] in nats, [...] float32."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def cross_entropy(
    logits: Array, targets: Array, weights: Array | None = None, z_loss: float = 0.0
) -> TokenLoss:
    """Computes softmax cross-entropy with an optional penalty on the log-partition function.

    Per token: -log softmax(logits)[target] + z_loss * logsumexp(logits)^2.

    Args:
      logits: [batch, length, vocab], any leading shape.
      targets: [batch, length] int32 ids.
      weights: [batch, length] weight of each token, 0 leaves it out; None is 1 for all.
      z_loss: Factor of the penalty, which keeps the logits near 0.

    Source: the loss averaged over image positions, Parti (arXiv 2206.10789) section 2.3; z_loss,
    T5X (t5x: t5x/losses.py) after Mesh TensorFlow.
    """
    logits = logits.astype(jnp.float32)
    weights = jnp.ones(targets.shape, jnp.float32) if weights is None else weights
    weights = weights.astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    correct = jnp.argmax(logits, axis=-1) == targets
    return TokenLoss(
        cross_entropy=jnp.sum((log_z - chosen) * weights),
        z_loss=jnp.sum(z_loss * jnp.square(log_z) * weights),
        num_correct=jnp.sum(correct * weights),
        weight=jnp.sum(weights),
    )


class ContrastiveLoss(NamedTuple):
    """Means over the batch, each a float32 scalar; loss in nats, accuracies in [0, 1]."""

    loss: Array
    image_to_text_accuracy: Array
    text_to_image_accuracy: Array


def contrastive_loss(
    image_embeddings: Array, text_embeddings: Array, logit_scale: Array | float
) -> ContrastiveLoss:
    """Computes the symmetric contrastive loss of a batch of pairs.

    With logits = logit_scale * image_embeddings @ text_embeddings^T, the mean of the cross-entropy
    of each image over the texts and of each text over the images; pair i is right for row i. The
    embeddings are [batch, embed], unit norm; the scale is 1 / temperature, not its logarithm.

    Source: CLIP (arXiv 2103.00020) figure 3; CoCa (arXiv 2205.01917) equation 4 is the sum of the
    two directions, that is twice this.
    """
    logits = jnp.einsum(
        "ie,te->it", image_embeddings, text_embeddings, preferred_element_type=jnp.float32
    )
    logits = logits * logit_scale
    pairs = jnp.arange(logits.shape[0])
    image_to_text = token_log_probs(logits, pairs)
    text_to_image = token_log_probs(logits.T, pairs)
    return ContrastiveLoss(
        loss=-0.5 * (jnp.mean(image_to_text) + jnp.mean(text_to_image)),
        image_to_text_accuracy=jnp.mean(jnp.argmax(logits, axis=1) == pairs),
        text_to_image_accuracy=jnp.mean(jnp.argmax(logits, axis=0) == pairs),
    )


@dataclasses.dataclass(frozen=True)
class Weights:
    """Factors of losses: a field each, named as its metric without `_loss`; 0 leaves it out."""

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            if weight < 0:
                raise ValueError(f"the weight {name} is {weight}; give at least 0")

    def weigh(self, terms: Mapping[str, Array]) -> dict[str, Array]:
        """Returns weight * term of each; `terms` maps `l2_loss` etc. to scalars."""
        return {name: getattr(self, name.removesuffix("_loss")) * x for name, x in terms.items()}


def l2_loss(reconstructions: Array, images: Array) -> Array:
    """Returns the mean squared error of pixels in [-1, 1], as a scalar.

    Source: ViT-VQGAN (arXiv 2110.04627) section 3.3, weight 1.0.
    """
    return jnp.mean(jnp.square(reconstructions.astype(jnp.float32) - images))


def l1_loss(reconstructions: Array, images: Array) -> Array:
    """Returns the mean absolute error of pixels in [-1, 1], as a scalar."""
    return jnp.mean(jnp.abs(reconstructions.astype(jnp.float32) - images))


def psnr(images: Array, references: Array) -> Array:
    """Returns the peak signal-to-noise ratio of each image, [batch] in dB, at most 100.

    Images [batch, height, width, channels] are clipped to [-1, 1], where the references are: it is
    10 log10(peak^2 / mean squared error), the peak being 2.
    """
    error = jnp.square(jnp.clip(images.astype(jnp.float32), -1.0, 1.0) - references)
    mse = jnp.mean(error, axis=tuple(range(1, error.ndim)))
    return 10.0 * jnp.log10(4.0 / jnp.maximum(mse, 4e-10))
