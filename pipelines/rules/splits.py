# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The split that a pair's metadata name."""

import re
from collections.abc import Mapping
from typing import Any

TRAIN, VALIDATION, TEST = "train", "validation", "test"
UNKNOWN = "unknown"  # a value that names none of them
FIELD = "split"

_NAMES = {
    # restval: Karpathy's COCO; testA: RefCOCO
    **dict.fromkeys(("train", "training", "trainset", "trainval", "restval"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "valset", "dev", "minival"), VALIDATION),
    **dict.fromkeys(("eval", "evaluation", "development"), VALIDATION),
    **dict.fromkeys(("test", "testing", "tests", "testset", "testa", "testb"), TEST),
}
_FIRST_WORD = re.compile(r"[^\W\d_]*")  # of val2014, test-dev, train_extra


def value_of(metadata: Mapping[str, Any]) -> Any:
    """Returns the value of the field `split`, in any case of letters; None if there is none."""
    if FIELD in metadata:
        return metadata[FIELD]
    return next((value for name, value in metadata.items() if name.strip().lower() == FIELD), None)


def named_by(metadata: Mapping[str, Any]) -> str:
    """Returns TRAIN, VALIDATION or TEST, UNKNOWN for any other value, "" if there is none."""
    value = value_of(metadata)
    name = "" if value is None else str(value).strip().casefold()
    first = _FIRST_WORD.match(name)
    return _NAMES.get(first[0] if first else "", UNKNOWN) if name else ""
