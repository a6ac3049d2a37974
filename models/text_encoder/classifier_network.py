# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parti's text encoder with a linear layer on top, which tells classes of texts apart.

The branch `encoder` is that of the pretraining and of `text_to_image.network.PartiTransformer`.

Source: fine-tuning as in BERT (arXiv 1810.04805) section 3.2. BERT classifies the state of its
[CLS] token; this encoder was trained with none, so here it is the mean of the states.
"""

import jax
from flax import linen as nn

from parti.models.layers import dense, text_encoder
from parti.models.text_encoder import network


class TextClassifier(nn.Module):
    """Texts to logits of classes."""

    config: network.TextEncoderConfig  # of the encoder; what is of the pretraining is not read
    num_classes: int

    def setup(self) -> None:
        """Declares the parts."""
        config = self.config
        self.encoder = text_encoder.TextEncoder(
            config.text_vocab_size, config.text_length, config.stack
        )
        self.dropout = nn.Dropout(config.dropout_rate)
        self.classes = dense.matrix(self.num_classes, ("embed", None), "float32")

    def __call__(self, tokens: jax.Array, deterministic: bool = True) -> jax.Array:
        """Maps [batch, length] int32 (0 is padding) to [batch, num_classes] float32.

        Unless deterministic it needs the rng `dropout`.
        """
        states = self.encoder(tokens, deterministic)
        mean = text_encoder.mean_of_tokens(states, tokens)
        return self.classes(self.dropout(mean, deterministic))
