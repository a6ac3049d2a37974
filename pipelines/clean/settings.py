# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The settings of `parti clean` that decide the bytes it writes."""

import dataclasses
from typing import Any

from parti.data.images import crops
from parti.pipelines.deduplicate import duplicate_rules
from parti.pipelines.rules import presets

IMAGE_FORMATS = ("png", "jpeg")
MAX_IMAGE_SIZE = 4096


@dataclasses.dataclass(frozen=True)
class CleanSettings:
    """The rules, and the form of what is written."""

    rules: presets.RuleSettings
    image_size: int = 256  # side of the square pictures, in pixels
    image_format: str = "png"
    jpeg_quality: int = 95
    crop: str = "centre"  # a policy of `data.images.crops`
    validation_fraction: float = 0.05  # of the pairs, in [0, 1)
    num_shards: int = 4  # of the train split
    evaluation: str = ""  # fingerprint of the evaluation set that is kept out

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= MAX_IMAGE_SIZE:
            raise ValueError(f"--image_size={self.image_size}: give 1 to {MAX_IMAGE_SIZE} pixels")
        for name, allowed in (("image_format", IMAGE_FORMATS), ("crop", crops.POLICIES)):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"--{name}={value}: choose from {', '.join(allowed)}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"--jpeg_quality={self.jpeg_quality}: give 1 to 100")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"--validation_fraction={self.validation_fraction}: give 0 or more, less than 1"
            )
        _ = self.duplicates  # Raises ValueError for values out of range.

    @property
    def shards(self) -> dict[str, int]:
        """Split -> files."""
        validation = max(1, round(self.num_shards * self.validation_fraction))
        return {"train": self.num_shards, "validation": validation}

    @property
    def num_rejected_shards(self) -> int:
        """Files of rejected rows."""
        return max(1, self.num_shards // 16)

    @property
    def duplicates(self) -> duplicate_rules.DuplicateSettings:
        """The rules that need other pairs."""
        values = self.rules.values
        return duplicate_rules.DuplicateSettings(
            exact=values["exact_duplicates"],
            near=values["near_duplicates"],
            near_captions=values["near_captions"] or 0.0,
            max_captions_per_image=values["max_captions_per_image"] or 0,
            max_images_per_caption=values["max_images_per_caption"] or 0,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON knows it."""
        own = {name: value for name, value in vars(self).items() if name != "rules"}
        return own | self.rules.to_dict()
