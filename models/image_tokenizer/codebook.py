# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The codebook: factorised, l2-normalised, trained by gradient, with unused codes revived.

Where the codes live. A code is written by two hands: the optimizer (the paper trains codes with
the gradient of ||sg(z) - e||^2) and revival (a code that nothing uses is moved onto an encoder
output). T5X lets only the optimizer write `params` and only `loss_fn` write a mutable collection,
so a code is a sum of one array of each:

    code = normalize(params['embedding'] + stats['offset'])

The gradient of a sum reaches the embedding unchanged, so gradient training is the paper's, with any
optimizer. Reviving code k at latent z sets offset[k] = z - embedding[k]. The start from data is the
same act for all codes at step 0. Everything a resume needs is in the two collections, the arrays
have the same logical axes, and no optimizer has to know. (Codes kept wholly in `stats` and moved by
k-means averages would also fit T5X, but would not be the paper's loss.)

When. At every `revival_interval`-th step, codes whose share of the assignments (exponential moving
average) is below `usage_threshold / num_codes` move onto latents of the batch, drawn without
replacement and with a chance in proportion to their quantisation error (at step 0: uniform), so
that new codes go where the codebook is poor; m unused codes take the m best draws. A revived code
starts at the threshold: it stays alive exactly if its share from then on is above it. The draw
depends only on the rng and the global batch, so it is the same on one device and on many.

Source: ViT-VQGAN (arXiv 2110.04627) section 3.2 for factorisation, normalisation and losses. Data
start and revival are this project's answer to codebook collapse.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from parti.models.image_tokenizer import losses
from parti.models.layers import norms


class CodebookOutput(NamedTuple):
    """What quantising a batch of latents gives; scalars from `codebook_loss` on."""

    # [batch, length, codebook_dim] unit-norm codes; the gradient goes straight through to the
    # latents and not to the codes
    quantized: jax.Array
    image_tokens: jax.Array  # [batch, length] int32 in [0, num_codes)
    codebook_loss: jax.Array  # ||sg(z) - e||^2: gradient to the codes only
    commitment_loss: jax.Array  # ||z - sg(e)||^2, unweighted: gradient to the latents only
    perplexity: jax.Array  # in [1, num_codes], exp of the entropy of the batch's assignments
    # The share of codes whose moving-average share of the assignments is above
    # `usage_threshold / num_codes`
    usage: jax.Array


def nearest_code(latents: jax.Array, codes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Finds the code with the largest cosine, which for unit vectors is the nearest one.

    Of latents [..., codebook_dim] and codes [codebook, codebook_dim], both of unit norm, returns
    (indices [...] int32, squared distances [...] = 2 - 2 cosine).
    """
    cosine = jnp.einsum("...d,kd->...k", latents, codes, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmax(cosine, axis=-1).astype(jnp.int32), 2.0 - 2.0 * jnp.max(cosine, axis=-1)


def draw_latents(rng: jax.Array, latents: jax.Array, weights: jax.Array, num: int) -> jax.Array:
    """Draws latents without replacement, with a chance in proportion to their weights.

    The Gumbel top-k trick: no running sum, so the draw does not depend on how the batch is sharded.
    Of latents [n, codebook_dim] with weights [n], >= 0, it gives [num, codebook_dim], in order of
    decreasing score: the heavier latents tend to come first. Where n < num, latents repeat.
    """
    scores = jnp.log(weights + 1e-6) + jax.random.gumbel(rng, weights.shape)
    _, indices = jax.lax.top_k(scores, min(num, latents.shape[0]))
    return latents[jnp.resize(indices, (num,))]


class Codebook(nn.Module):
    """Quantises latents to the nearest of `num_codes` unit vectors."""

    num_codes: int
    dim: int  # of the lookup ("factorised": far smaller than the encoder's width)
    decay: float = 0.99  # of the moving average of each code's share of the assignments
    usage_threshold: float = 0.03  # of the uniform share, 1 / num_codes; below it a code is unused
    revival_interval: int = 10  # steps; 0 never revives and never starts from data

    def setup(self) -> None:
        """Declares the codes and the usage statistics."""
        shape, axes = (self.num_codes, self.dim), ("codebook", None)
        partitioned = nn.with_logical_partitioning
        self.embedding = self.param(
            "embedding", partitioned(nn.initializers.normal(self.dim**-0.5), axes), shape
        )
        zeros = jnp.zeros
        self.offset = self.variable("stats", "offset", partitioned(zeros, axes), shape)
        self.share = self.variable("stats", "share", partitioned(zeros, axes[:1]), shape[:1])
        self.steps = self.variable("stats", "steps", zeros, (), jnp.int32)

    def codes(self) -> jax.Array:
        """Returns the codes in use, [codebook, codebook_dim], unit norm."""
        return norms.unit_norm(self.embedding + jax.lax.stop_gradient(self.offset.value))

    def lookup(self, image_tokens: jax.Array) -> jax.Array:
        """Returns the codes [..., codebook_dim] of tokens [...] in [0, num_codes)."""
        return jnp.take(self.codes(), image_tokens, axis=0)

    def __call__(self, latents: jax.Array, deterministic: bool = True) -> CodebookOutput:
        """Quantises latents [batch, length, codebook_dim], which are normalised here.

        Unless deterministic, also refreshes the usage statistics and unused codes; this needs an
        rng named 'codebook' and `mutable=['stats']`.
        """
        latents = norms.unit_norm(latents)
        updating = not deterministic and not self.is_initializing()
        if updating and self.revival_interval:
            self._revive(jax.lax.stop_gradient(latents).reshape(-1, self.dim))
        codes = self.codes()
        image_tokens, _ = nearest_code(jax.lax.stop_gradient(latents), jax.lax.stop_gradient(codes))
        chosen = jnp.take(codes, image_tokens, axis=0)
        share = jnp.zeros(self.num_codes).at[image_tokens.reshape(-1)].add(1.0) / image_tokens.size
        if updating:
            self.share.value = self.decay * self.share.value + (1.0 - self.decay) * share
            self.steps.value = self.steps.value + 1
        return CodebookOutput(
            quantized=latents + jax.lax.stop_gradient(chosen - latents),
            image_tokens=image_tokens,
            codebook_loss=losses.squared_distance(jax.lax.stop_gradient(latents), chosen),
            commitment_loss=losses.squared_distance(latents, jax.lax.stop_gradient(chosen)),
            perplexity=jnp.exp(-jnp.sum(share * jnp.log(share + 1e-10))),
            usage=jnp.mean(self.share.value >= self._least_share),
        )

    @property
    def _least_share(self) -> float:
        return self.usage_threshold / self.num_codes

    def _revive(self, latents: jax.Array) -> None:
        """Moves unused codes (at step 0: all) onto latents [n, codebook_dim], if it is time."""
        starting = self.steps.value == 0
        embedding = jax.lax.stop_gradient(self.embedding)
        rng = self.make_rng("codebook")

        def revived(offset: jax.Array, share: jax.Array) -> tuple[jax.Array, jax.Array]:
            _, errors = nearest_code(latents, norms.unit_norm(embedding + offset))
            weights = jnp.where(starting, jnp.ones_like(errors), jnp.maximum(errors, 0.0))
            drawn = draw_latents(rng, latents, weights, self.num_codes)
            unused = starting | (share < self._least_share)
            drawn = drawn[jnp.cumsum(unused) - 1]  # the i-th unused code takes the i-th draw
            offset = jnp.where(unused[:, None], drawn - embedding, offset)
            return offset, jnp.where(unused, self._least_share, share)

        due = self.steps.value % self.revival_interval == 0
        self.offset.value, self.share.value = jax.lax.cond(
            due, revived, lambda *kept: kept, self.offset.value, self.share.value
        )
