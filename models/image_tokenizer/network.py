# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""ViT-VQGAN: a Vision Transformer encoder, a codebook, a Vision Transformer decoder.

Source: ViT-VQGAN (arXiv 2110.04627) section 3; sizes and the output without sigmoid from Parti
(arXiv 2206.10789) section 2.1 and appendix H.
"""

import dataclasses
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from parti.models.image_tokenizer import codebook, losses
from parti.models.layers import dense, patches, transformer, vision_transformer

OUTPUTS = ("rgb", "logit_laplace")


@dataclasses.dataclass(frozen=True)
class ImageTokenizerConfig(vision_transformer.VisionTransformerConfig):
    """Sizes of the image tokenizer; the defaults are Parti's Small, about 30M on either side.

    The sizes of `VisionTransformerConfig` are the encoder's; `grid_size` is the number of tokens
    along one side of an image.
    """

    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    # Of the decoder's blocks; None is the encoder's value
    decoder_emb_dim: int | None = None
    decoder_num_heads: int | None = None
    decoder_head_dim: int | None = None
    decoder_mlp_dim: int | None = None
    # See `codebook.Codebook`
    codebook_size: int = 8192
    codebook_dim: int = 32
    codebook_decay: float = 0.99
    usage_threshold: float = 0.03
    revival_interval: int = 10
    # What the decoder emits for each colour of a pixel: 'rgb', its value (Parti's fix), or
    # 'logit_laplace', mu and ln b of that density (ViT-VQGAN; see `losses.logit_laplace_loss`)
    output: str = "rgb"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codebook_size < 2 or self.codebook_dim < 1:
            raise ValueError(
                f"codebook_size is {self.codebook_size} and codebook_dim {self.codebook_dim}; "
                "give at least 2 codes of at least 1 dimension"
            )
        if not 0.0 <= self.codebook_decay < 1.0:
            raise ValueError(f"codebook_decay is {self.codebook_decay}; give it in [0, 1)")
        if self.revival_interval < 0:
            raise ValueError(
                f"revival_interval is {self.revival_interval}; give steps, or 0 for no revival"
            )
        if self.output not in OUTPUTS:
            raise ValueError(f"output is {self.output!r}; choose one of {', '.join(OUTPUTS)}")
        _ = self.encoder_stack, self.decoder_stack  # they check their own sizes

    @property
    def num_outputs(self) -> int:
        """Values that the decoder emits for each pixel."""
        return 6 if self.output == "logit_laplace" else 3

    @property
    def encoder_stack(self) -> transformer.StackConfig:
        """The encoder's blocks."""
        return transformer.StackConfig.of(self, self.num_encoder_layers)

    @property
    def decoder_stack(self) -> transformer.StackConfig:
        """The decoder's blocks."""
        return transformer.StackConfig.of(
            self,
            self.num_decoder_layers,
            emb_dim=self.decoder_emb_dim or self.emb_dim,
            num_heads=self.decoder_num_heads or self.num_heads,
            head_dim=self.decoder_head_dim or self.head_dim,
            mlp_dim=self.decoder_mlp_dim or self.mlp_dim,
        )


class ImageEncoder(nn.Module):
    """Images to latents: a Vision Transformer, LayerNorm, linear."""

    config: ImageTokenizerConfig

    @nn.compact
    def __call__(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        """Maps [batch, height, width, 3] in [-1, 1] to [batch, length, codebook_dim]."""
        config = self.config
        x = vision_transformer.encode(images, config, config.encoder_stack, deterministic)
        axes = ("embed", None)
        return dense.matrix(config.codebook_dim, axes, config.dtype, "codebook_projection")(x)


class Reconstruction(NamedTuple):
    """What the decoder makes of codes."""

    # [batch, height, width, 3], pixels, of a good decoder in [-1, 1]; not clipped
    images: jax.Array
    # Of the mapped pixels, of the shape of `images`; None where the decoder emits pixels
    distribution: losses.LogitLaplace | None = None


class ImageDecoder(nn.Module):
    """Codes to images: linear, positions, blocks, LayerNorm, two matrices with tanh between."""

    config: ImageTokenizerConfig

    @nn.compact
    def __call__(self, codes: jax.Array, deterministic: bool = True) -> Reconstruction:
        """Maps [batch, length, codebook_dim] to images of `image_size`."""
        config, stack = self.config, self.config.decoder_stack
        dtype, depth = config.dtype, config.num_outputs * config.patch_size**2
        grid = (config.grid_size, config.grid_size)
        x = dense.matrix(stack.emb_dim, (None, "embed"), dtype, "codebook_projection")(codes)
        x = x + vision_transformer.image_positions(config, stack)()
        x = transformer.Stack(stack, name="stack")(x, deterministic=deterministic)
        x = nn.tanh(dense.matrix(stack.mlp_dim, ("embed", "mlp"), dtype, "head_hidden")(x))
        x = dense.matrix(depth, ("mlp", None), dtype, "head_pixels")(x)
        x = patches.unpatchify(x.astype(jnp.float32), grid, config.patch_size)
        if config.output == "rgb":
            return Reconstruction(x)
        distribution = losses.LogitLaplace(*jnp.split(x, 2, axis=-1))
        return Reconstruction(losses.unmap_pixels(jax.nn.sigmoid(distribution.mean)), distribution)


def pixel_head(kernel: jax.Array) -> jax.Array:
    """Makes the last matrix of a decoder of pixels from that of one of logit-laplace densities.

    The latter's image is unmap(sigmoid(mu)); this one's is mu / ln 9: the same at -1, 0 and 1. Maps
    [mlp, patch_size ** 2 * 6], mu and ln b of each pixel, to [mlp, patch_size ** 2 * 3].
    """
    means = kernel.reshape(len(kernel), -1, 6)[..., :3]
    white = losses.map_pixels(jnp.ones(()))
    return (means / math.log(white / (1.0 - white))).reshape(len(kernel), -1)


class ImageTokenizer(nn.Module):
    """The encoder, the codebook and the decoder."""

    config: ImageTokenizerConfig

    def setup(self) -> None:
        """Declares the three parts."""
        config = self.config
        self.encoder = ImageEncoder(config)
        self.codebook = codebook.Codebook(
            num_codes=config.codebook_size,
            dim=config.codebook_dim,
            decay=config.codebook_decay,
            usage_threshold=config.usage_threshold,
            revival_interval=config.revival_interval,
        )
        self.decoder = ImageDecoder(config)

    def __call__(
        self, images: jax.Array, deterministic: bool = True, freeze_encoder: bool = False
    ) -> tuple[Reconstruction, codebook.CodebookOutput]:
        """Reconstructs images [batch, height, width, 3] in [-1, 1].

        Args:
          deterministic: no dropout, and the codebook's statistics stay as they are; otherwise the
            rngs `dropout` and `codebook` and `mutable=['stats']` are needed.
          freeze_encoder: encoder and codebook are as with `deterministic`, and get no gradient.
        """
        still = deterministic or freeze_encoder
        output = self.codebook(self.encoder(images, still), still)
        codes = jax.lax.stop_gradient(output.quantized) if freeze_encoder else output.quantized
        return self.decoder(codes, deterministic), output

    def encode(self, images: jax.Array) -> jax.Array:
        """Maps [batch, height, width, 3] in [-1, 1] to image_tokens [batch, length] int32."""
        return self.codebook(self.encoder(images)).image_tokens

    def decode(self, image_tokens: jax.Array) -> jax.Array:
        """Maps image_tokens [batch, length] to [batch, height, width, 3], not clipped."""
        return self.decoder(self.codebook.lookup(image_tokens)).images
