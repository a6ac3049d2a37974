# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The image tokenizer as a model: batches to losses, images to tokens and back.

Batch: `images` [batch, height, width, 3] float32 in [-1, 1].

The mutable collection `stats` holds the offsets of revived codes (see `codebook`), which `encode`
and `decode` need too. With a weight of the adversarial loss both collections have a branch
`discriminator`, which only training reads; with one of the perceptual loss the perceptual network's
variables are the model's `constants`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parti.models import base
from parti.models import losses as shared_losses
from parti.models.adversarial import adversary, discriminator
from parti.models.image_tokenizer import codebook, losses, network
from parti.models.perceptual import perceptual as perceptual_networks


class _Outcome(NamedTuple):
    """Of a batch: weighted losses by name, measures, new `stats`, reconstructions."""

    losses: dict[str, jax.Array]
    measures: dict[str, jax.Array]
    stats: dict[str, Any]
    reconstructions: jax.Array


class ImageTokenizerModel(perceptual_networks.PerceptualModel):
    """A ViT-VQGAN, a `base.ImageTokenizer`.

    Its losses are of reconstruction, perception, quantisation and an adversary.
    """

    feature_converter = "ImageConverter"
    feature_types = {"images": "float32"}
    has_mutables = True
    training_only = (adversary.BRANCH,)
    encoding_branches = ("encoder", "codebook")

    def __init__(
        self,
        config: network.ImageTokenizerConfig,
        loss_weights: losses.LossWeights | None = None,
        perceptual: perceptual_networks.PerceptualNetwork | None = None,
        discriminator_config: discriminator.DiscriminatorConfig | None = None,
        adversarial_config: adversary.AdversarialConfig | None = None,
        freeze_encoder: bool = False,
    ) -> None:
        """Builds the network, and a discriminator if the adversarial loss has a weight.

        None is the defaults; of `perceptual`, where that loss has a weight, the in-house filters.
        `freeze_encoder` trains only the decoder (and the discriminator): encoder and codebook stay
        bitwise what they were, so tokens made before still fit. Source: Parti's second phase (arXiv
        2206.10789) section 2.1 and appendix H.

        Raises:
          ValueError: the decoder's output and the weight of the logit-laplace loss disagree, or the
            discriminator takes no images of this size.
        """
        self.config = config
        self.image_size, self.grid_size = config.image_size, config.grid_size
        self.codebook_size = config.codebook_size
        self.dtype, self.remat = config.dtype, config.remat
        self.loss_weights = loss_weights or losses.LossWeights()
        if (self.loss_weights.logit_laplace > 0) != (config.output == "logit_laplace"):
            raise ValueError(
                f"output is {config.output!r} and the weight of logit_laplace "
                f"{self.loss_weights.logit_laplace}; the output 'logit_laplace' needs a weight "
                "above 0, the output 'rgb' a weight of 0"
            )
        self.network = network.ImageTokenizer(config)
        self.perceptual = perceptual_networks.choose(self.loss_weights.perceptual, perceptual)
        weight, size = self.loss_weights.adversarial, config.image_size
        self.adversary = (
            adversary.Adversary(adversarial_config, discriminator_config, weight, size)
            if weight > 0
            else None
        )
        self.frozen = self.encoding_branches if freeze_encoder else ()

    @property
    def encoding_settings(self) -> dict[str, Any]:
        """The settings that tokens depend on; none of the decoder's, none of the training's."""
        sizes = ("emb_dim", "num_heads", "head_dim", "mlp_dim", "num_encoder_layers")
        names = ("image_size", "patch_size", *sizes, "codebook_size", "codebook_dim", "dtype")
        return {name: getattr(self.config, name) for name in names}

    def init_variables(self, rng: jax.Array, batch: base.Batch) -> base.Variables:
        """Returns the boxed `params` and `stats` of the network and of the discriminator."""
        images = batch["images"]
        base.check_images(images, self.image_size)
        variables = self.network.init(rng, images)
        if self.adversary is None:
            return variables
        return self.adversary.add_variables(variables, jax.random.fold_in(rng, 1), images)

    def loss_fn(
        self,
        params: base.PyTree,
        batch: base.Batch,
        dropout_rng: jax.Array | None,
        flax_mutables: base.PyTree | None = None,
    ) -> tuple[jax.Array, tuple[base.Metrics, base.PyTree]]:
        """Computes the loss, and the new statistics of the codebook and of the discriminator.

        `dropout_rng` also draws the latents onto which unused codes move; None neither drops out
        nor changes the statistics.

        Raises:
          ValueError: the images have the wrong size or type, or the statistics are missing.
        """
        outcome = self._compute(params, batch, dropout_rng, flax_mutables)
        size = batch["images"].shape[0]
        metrics = {name: base.per_example(x, size) for name, x in outcome.measures.items()}
        if dropout_rng is not None:
            flax_mutables = base.new_mutables(flax_mutables, outcome.stats)
        return outcome.measures["loss"], (metrics, flax_mutables)

    def _compute(
        self,
        params: base.PyTree,
        batch: base.Batch,
        dropout_rng: jax.Array | None,
        flax_mutables: base.PyTree | None,
    ) -> _Outcome:
        """Reconstructs a batch and computes its losses; see `loss_fn`."""
        images = batch["images"]
        base.check_images(images, self.image_size)
        variables = base.join_variables(params, flax_mutables)
        reconstruction, quantized, stats = self._reconstruct(variables, images, dropout_rng)
        terms = self._terms(reconstruction, quantized, images)
        weighted = self.loss_weights.weigh(terms)
        measures = {
            **terms,
            "psnr": jnp.mean(shared_losses.psnr(reconstruction.images, images)),
            "codebook_usage": quantized.usage,
            "codebook_dead": (1.0 - quantized.usage) * self.codebook_size,
            "codebook_perplexity": quantized.perplexity,
        }
        if self.adversary is not None:
            played = self.adversary(
                *adversary.branches(params, variables["stats"]),
                reconstruction.images,
                images,
                training=dropout_rng is not None,
            )
            weighted |= played.losses
            measures |= played.metrics
            stats[adversary.BRANCH] = played.stats
        measures["loss"] = jnp.asarray(sum(weighted.values()))
        return _Outcome(weighted, measures, stats, reconstruction.images)

    def _terms(
        self,
        reconstruction: network.Reconstruction,
        quantized: codebook.CodebookOutput,
        images: jax.Array,
    ) -> dict[str, jax.Array]:
        """Returns all losses except the adversarial ones, unweighted; each is a scalar."""
        terms = {"l2_loss": shared_losses.l2_loss(reconstruction.images, images)}
        if not self.frozen:
            terms["codebook_loss"] = quantized.codebook_loss
            terms["commitment_loss"] = quantized.commitment_loss
        if reconstruction.distribution is not None:
            distribution = reconstruction.distribution
            terms["logit_laplace_loss"] = losses.logit_laplace_loss(distribution, images)
        return terms | self.perceptual_terms(reconstruction.images, images)

    def _reconstruct(
        self, variables: base.Variables, images: jax.Array, dropout_rng: jax.Array | None
    ) -> tuple[network.Reconstruction, codebook.CodebookOutput, dict[str, Any]]:
        """Returns the decoder's output, the codebook's output, and the network's new `stats`."""
        variables = _network_variables(variables)
        if dropout_rng is None:
            made = self.network.apply(variables, images, freeze_encoder=bool(self.frozen))
            return *made, dict(variables["stats"])
        dropout_rng, codebook_rng = jax.random.split(dropout_rng)
        (reconstruction, quantized), mutables = self.network.apply(
            variables,
            images,
            deterministic=False,
            freeze_encoder=bool(self.frozen),
            mutable=["stats"],
            rngs={"dropout": dropout_rng, "codebook": codebook_rng},
        )
        return reconstruction, quantized, dict(mutables["stats"])

    def summaries(
        self, params: base.PyTree, batch: base.Batch, flax_mutables: base.PyTree | None = None
    ) -> base.Summaries:
        """Shows how strong each loss is, how evenly the codes are used, and reconstructions.

        Scalars `gradient_<loss>`: the norm of the gradient of each weighted loss to all parameters;
        a backward pass each (the R1 penalty's weight is its mean over steps). Histogram
        `codebook_share`, [codebook]: each code's moving-average share of the assignments, 1 being
        an even share. Pictures `reconstructions`: up to 8 originals over their reconstructions.

        Raises:
          ValueError: the images have the wrong size or type, or the statistics are missing.
        """
        variables = _network_variables(base.join_variables(params, flax_mutables))

        def weighted_losses(params: base.PyTree) -> tuple[dict[str, jax.Array], jax.Array]:
            outcome = self._compute(params, batch, None, flax_mutables)
            return outcome.losses, outcome.reconstructions

        norms, reconstructions = _gradient_norms(weighted_losses, params)
        if self.adversary is not None:
            norms["gradient_r1_penalty"] = self.adversary.r1_gradient_norm(
                params[adversary.BRANCH], batch["images"]
            )
        share = variables["stats"]["codebook"]["share"] * self.codebook_size
        pictures = jnp.stack([batch["images"][:8], reconstructions[:8]])
        return base.Summaries(norms, {"codebook_share": share}, {"reconstructions": pictures})

    def encode(self, variables: base.Variables, images: jax.Array) -> jax.Array:
        """Maps images to tokens [batch, grid_size ** 2] int32 in [0, codebook_size), raster order.

        The images are [batch, image_size, image_size, 3] in [-1, 1].

        Raises:
          ValueError: the images have the wrong size or type.
        """
        base.check_images(images, self.image_size)
        return self.network.apply(_network_variables(variables), images, method="encode")

    def decode(self, variables: base.Variables, image_tokens: jax.Array) -> jax.Array:
        """Maps tokens [batch, grid_size ** 2] to [batch, image_size, image_size, 3] in [-1, 1].

        Raises:
          ValueError: the tokens have the wrong shape or type, or are not in [0, codebook_size).
            Under jit their range cannot be seen: a token that is too large gives NaN.
        """
        length = self.grid_size**2
        base.check_tokens(image_tokens, length, self.codebook_size, "image_tokens", padded=False)
        images = self.network.apply(_network_variables(variables), image_tokens, method="decode")
        return jnp.clip(images, -1.0, 1.0)

    def predict_batch(
        self,
        params: base.PyTree,
        batch: base.Batch,
        rng: jax.Array | None = None,
        flax_mutables: base.PyTree | None = None,
    ) -> jax.Array:
        """Returns the tokens of a batch, as `encode`."""
        return self.encode(base.join_variables(params, flax_mutables), batch["images"])

    def score_batch(
        self, params: base.PyTree, batch: base.Batch, flax_mutables: base.PyTree | None = None
    ) -> jax.Array:
        """Returns the PSNR of each image's reconstruction, [batch], in dB."""
        images = batch["images"]
        base.check_images(images, self.image_size)
        variables = base.join_variables(params, flax_mutables)
        reconstruction, _, _ = self._reconstruct(variables, images, None)
        return shared_losses.psnr(reconstruction.images, images)


def _gradient_norms(
    losses_fn: Callable[[base.PyTree], tuple[dict[str, jax.Array], Any]], params: base.PyTree
) -> tuple[dict[str, jax.Array], Any]:
    """Returns {`gradient_<loss>`: norm of the loss's gradient to all parameters}, and the rest.

    `losses_fn` is params -> ({loss: scalar}, the rest); each loss takes one backward pass.
    """
    values, backward, rest = jax.vjp(losses_fn, params, has_aux=True)
    zeros = jax.tree.map(jnp.zeros_like, values)
    norms = {}
    for name in values:
        (gradient,) = backward({**zeros, name: jnp.ones_like(zeros[name])})
        norms[f"gradient_{name}"] = optax.tree.norm(gradient)
    return norms, rest


def _network_variables(variables: base.Variables) -> dict[str, Any]:
    """Returns the variables without the discriminator's; ValueError: a collection is missing."""
    if not {"params", "stats"} <= set(variables):
        raise ValueError(
            f"the image tokenizer needs variables = {{'params': params, **flax_mutables}} with the "
            f"collections 'params' and 'stats'; got {sorted(variables)}"
        )
    return base.without_branches(
        {"params": variables["params"], "stats": variables["stats"]},
        ImageTokenizerModel.training_only,
    )
