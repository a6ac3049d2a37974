# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights of the upsampler's losses."""

import dataclasses

from parti.models import losses


@dataclasses.dataclass(frozen=True)
class LossWeights(losses.Weights):
    """Factors of the losses.

    Parti's are these with 0.1 for `perceptual` and for `adversarial`, the factor of
    `generator_loss`, which brings a discriminator with it; `l1` is not among Parti's.

    Source: Parti (arXiv 2206.10789) section 2.1, by which the upsampler has the tokenizer's losses
    and weights: ViT-VQGAN (arXiv 2110.04627) section 3.3.
    """

    l2: float = 1.0
    l1: float = 0.0
    perceptual: float = 0.0
    adversarial: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.l2 and not self.l1:
            raise ValueError(
                "the weights l2 and l1 are both 0, and nothing else keeps the colours of an image; "
                "give one of them more than 0"
            )
