# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""SAMPLES: the images that a text-to-image training draws of fixed prompts, and when."""

import dataclasses
from collections.abc import Sequence

from parti.data.text import prompt_files
from parti.engine.experiment import settings
from parti.models.text_to_image import sampling
from parti.stages import json_text


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """What to draw, from which prompts, how often."""

    prompts: Sequence[str] | str  # captions, or a file of them that `parti generate` reads
    tokenizer: str  # decodes the tokens: a bundle, or the training of an image tokenizer
    vocabulary: str  # the SentencePiece model of the training
    num_samples: int = 4  # images of each prompt
    period: int = 0  # steps between two grids; 0: one at each evaluation
    seed: int = 0  # of the sampling
    settings: sampling.SamplingSettings | None = None  # temperature, ...; None: the model's own

    def __post_init__(self) -> None:
        """Raises ValueError for a number out of range, or without prompts."""
        for name, least in (("num_samples", 1), ("period", 0)):
            allowed = settings.whole_number(least)
            allowed.check(f"sample_settings.SampleSettings.{name}", getattr(self, name))
        if not self.prompts:
            raise ValueError(
                "sample_settings.SampleSettings.prompts is empty; give captions, or a file of them"
            )

    def texts(self, notes: list[str] | None = None) -> list[str]:
        """Returns the captions, mended; raises ValueError if a file of them cannot be read.

        `notes` gets lines about what was left out of a file (`prompt_files.read_prompts`).
        """
        if isinstance(self.prompts, str):
            return [prompt.text for prompt in prompt_files.read_prompts(self.prompts, notes)]
        return [json_text.mend_text(prompt) for prompt in self.prompts]
