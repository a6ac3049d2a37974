# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The learned temperature of networks that compare images with texts.

Source: CLIP (arXiv 2103.00020) section 2.5.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn


class DualEncoder(nn.Module):
    """What such networks have in common; their `config` has a `max_logit_scale`."""

    def new_log_logit_scale(self) -> jax.Array:
        """Declares `log_logit_scale`, for `setup` to keep by this name; at first log(1 / 0.07)."""
        init = nn.initializers.constant(math.log(1.0 / 0.07))
        return self.param("log_logit_scale", init, ())

    def logit_scale(self) -> jax.Array:
        """Returns the learned 1 / temperature, a scalar in (0, max_logit_scale]."""
        return jnp.exp(jnp.minimum(self.log_logit_scale, math.log(self.config.max_logit_scale)))
