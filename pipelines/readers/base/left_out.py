# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of the input that are no part of a pair: counted with a reason, and named in the report."""

import collections

REASONS = {
    "other_ending": ("Another ending", "The ending is none of a picture, a .txt or a .json."),
    "other_format": ("Another format", "Beside the files of the format that was read."),
    "hidden": ("Hidden", "The name begins with “.” or “_”."),
    "side_file_alone": ("Without a picture", "A .txt or .json beside which there is no picture."),
    "several_images": ("Another picture", "The pair has a picture already: one is taken of a key."),
    "unusable_json": (
        "Metadata not usable",
        "A .json that is damaged, too large or no object. Its pair is kept without it.",
    ),
    "dangling_link": ("Link to nothing", "It leads to no file, or in a circle."),
    "special_file": ("Not a file", "A pipe or a device."),
}
MAX_NAMES = 24  # of a reason


class LeftOut:
    """What of a source was left out."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.names: dict[str, list[str]] = collections.defaultdict(list)  # the first of a reason

    def add(self, reason: str, name: str) -> None:
        """Counts a file with a reason, a key of `REASONS`."""
        self.counts[reason] += 1
        if len(self.names[reason]) < MAX_NAMES:
            self.names[reason].append(name)

    def update(self, other: "LeftOut") -> None:
        """Adds all that another has."""
        for reason, names in other.names.items():
            self.names[reason] = [*self.names[reason], *names][:MAX_NAMES]
        self.counts.update(other.counts)
