# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Classifier-free guidance: the formula, and its scale at each token of an image."""

import jax
import numpy as np

from parti.data.text import prompt_settings

Array = jax.Array


def guided_logits(conditional: Array, unconditional: Array, guidance_scale: Array) -> Array:
    """Returns unconditional + guidance_scale * (conditional - unconditional), [..., vocab].

    Source: Parti (arXiv 2206.10789) equation 1, on logits as in Make-A-Scene.
    """
    return unconditional + guidance_scale * (conditional - unconditional)


def scales(scale: float, schedule: str, over: str, grid_size: int) -> np.ndarray:
    """Returns the scale at each token in raster order, float32 [grid_size ** 2].

    It is 1 + (scale - 1) * weight(p), where p is the fraction of the image at the middle of the
    token's row ('rows'), or at the token in raster order ('tokens'); the i-th of n has
    p = (i + 1/2) / n. It does not depend on when a token is drawn, so all decode orders agree.

    - constant: weight 1.
    - linear: weight p, so that the first tokens are drawn freely. Source: Muse (arXiv 2301.00704)
      section 2.7.
    - cosine: weight (1 - cos(pi p)) / 2. Source: MDT (arXiv 2303.14389), its power-cosine schedule
      with power 1; it takes 4, over diffusion steps.
    - interval:BEGIN:END: weight 1 for BEGIN <= p < END, elsewhere 0, which is no guidance. Source:
      Kynkaanniemi et al. (arXiv 2404.07724), over noise levels there.

    Raises:
      ValueError: an interval with no row, or no token, in it.
    """
    number = grid_size if over == prompt_settings.ROWS else grid_size**2
    fraction = (np.arange(number) + 0.5) / number
    bounds = prompt_settings.interval(schedule)
    if bounds:
        weight = ((bounds[0] <= fraction) & (fraction < bounds[1])).astype(float)
        if not weight.any():
            raise ValueError(
                f"guidance_schedule {schedule}: none of the {number} {over} of an image has its "
                "middle in there; give a longer interval"
            )
    else:
        weight = {
            prompt_settings.CONSTANT: np.ones(number),
            prompt_settings.LINEAR: fraction,
            prompt_settings.COSINE: (1 - np.cos(np.pi * fraction)) / 2,
        }[schedule]
    at_token = np.repeat(1 + (scale - 1) * weight, grid_size**2 // number)
    return at_token.astype(np.float32)
