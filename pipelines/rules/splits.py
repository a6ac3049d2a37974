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
    **dict.fromkeys(("train", "training", "restval"), TRAIN),  # restval: Karpathy's COCO
    **dict.fromkeys(("val", "valid", "validation", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
_YEAR = re.compile(r"[\W_]*\d+$")  # val2014, test-2


def value_of(metadata: Mapping[str, Any]) -> Any:
    """Returns the value of the field `split`, in any case of letters; None if there is none."""
    if FIELD in metadata:
        return metadata[FIELD]
    return next((value for name, value in metadata.items() if name.lower() == FIELD), None)


def named_by(metadata: Mapping[str, Any]) -> str:
    """Returns TRAIN, VALIDATION or TEST, UNKNOWN for any other value, "" if there is none."""
    value = value_of(metadata)
    name = "" if value is None else str(value).strip().casefold()
    return _NAMES.get(_YEAR.sub("", name), UNKNOWN) if name else ""
