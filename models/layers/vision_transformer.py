# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A Vision Transformer: an image as a sequence of patches through Transformer blocks.

Source: ViT (arXiv 2010.11929) section 3.1, with learned row and column positions and no [CLS].
"""

import dataclasses

import jax
from flax import linen as nn

from parti.models.layers import dense, patches, positions, transformer


@dataclasses.dataclass(frozen=True)
class VisionTransformerConfig:
    """The sizes and choices that all image encoders have; a family's configuration adds its own.

    For what is not said here see `transformer.StackConfig`.
    """

    image_size: int = 256  # height and width of an image, in pixels
    patch_size: int = 8  # side of the square that one token stands for, in pixels
    emb_dim: int = 512
    num_heads: int = 8
    head_dim: int = 64
    mlp_dim: int = 2048
    dropout_rate: float = 0.0
    dtype: str = "float32"
    scan_layers: bool = True
    remat: str = "none"

    def __post_init__(self) -> None:
        _ = self.grid_size

    @property
    def grid_size(self) -> int:
        """Patches along one side of an image."""
        return patches.grid_size(self.image_size, self.patch_size)


def encode(
    images: jax.Array,
    config: VisionTransformerConfig,
    stack: transformer.StackConfig,
    deterministic: bool,
) -> jax.Array:
    """Maps [batch, height, width, 3] in [-1, 1] to a vector per patch, [batch, length, embed].

    Call it inside a compact module, which gets the parts `patch_projection`, `positions` and
    `stack`; unless deterministic it needs the rng `dropout`.
    """
    x = patches.patchify(images, config.patch_size)
    x = dense.matrix(stack.emb_dim, (None, "embed"), stack.dtype, "patch_projection")(x)
    x = x + image_positions(config, stack)()
    return transformer.Stack(stack, name="stack")(x, deterministic=deterministic)


def image_positions(
    config: VisionTransformerConfig, stack: transformer.StackConfig
) -> positions.ImagePositions:
    """Returns the learned positions of a square grid of patches, a module named `positions`."""
    grid = (config.grid_size, config.grid_size)
    return positions.ImagePositions(grid, stack.emb_dim, stack.dtype, name="positions")


class VisionTransformer(nn.Module):
    """A Vision Transformer as a module of its own; see `encode`."""

    config: VisionTransformerConfig
    blocks: transformer.StackConfig

    @nn.compact
    def __call__(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        """Maps [batch, height, width, 3] in [-1, 1] to [batch, length, embed]."""
        return encode(images, self.config, self.blocks, deterministic)
