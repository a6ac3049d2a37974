# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Words for every reason that `parti clean` has to drop a pair, also for those outside presets."""

import dataclasses

from parti.pipelines import readers
from parti.pipelines.rules import table

READING, FETCHING = "Readable", "Fetched"
PICTURE, COPIES = table.IMAGE, table.COPIES
EVALUATION = "Not in an evaluation set"
OTHER = "Other"


@dataclasses.dataclass(frozen=True)
class Reason:
    """A reason in words: the stage of the funnel, a short title, a sentence."""

    stage: str
    title: str
    explanation: str


# In the order in which they are checked, as far as one goes before the other.
REASONS: dict[str, Reason] = {
    **{
        name: Reason(FETCHING if name.startswith("fetch_") else READING, *words)
        for name, words in readers.REASONS.items()
    },
    "image_undecodable": Reason(
        PICTURE, "Picture does not open", "Broken, or of an unknown format."
    ),
    "contaminated_caption": Reason(
        EVALUATION,
        "Caption of an evaluation set",
        "It shares a run of words with a prompt or caption that models are measured on.",
    ),
    "contaminated_image": Reason(
        EVALUATION,
        "Picture of an evaluation set",
        "It is, or nearly is, a picture that models are measured on.",
    ),
    "duplicate_key": Reason(COPIES, "Same key", "Two pairs have one key; one of them stays."),
    **{row.name: Reason(row.kind, row.title, row.explanation) for row in table.RULES.values()},
}


def find(name: str) -> Reason:
    """Returns a reason in words; one that has none is put into words from its name."""
    return REASONS.get(name) or Reason(OTHER, name.replace("_", " ").capitalize(), "")
