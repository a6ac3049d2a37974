# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts and JSON values as every file can hold them: what cannot be written is mended when read.

One rule, for whatever is read: half of a surrogate pair (a cut emoji) becomes U+FFFD (`utf8`), NaN
and the infinities null (`finite`). In prompts a control character except tab and line ends also
becomes a space, and deeper than `MAX_DEPTH` no value is taken (`mend`).
"""

import json
import math
import re
from typing import Any

RULE = "half an emoji becomes U+FFFD, a control character a space, NaN and infinities null"
MAX_DEPTH = 64  # of lists and objects in each other; `dataclasses.asdict` ends at about 300
_HALVES = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def utf8(text: str) -> str:
    """Returns a text that UTF-8 can write; see the rule above."""
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def finite(number: float) -> float | None:
    """Returns a number that JSON can write, or None."""
    return number if math.isfinite(number) else None


def mend_text(text: str) -> str:
    """Returns a text that UTF-8 can write, without control characters."""
    return _CONTROL.sub(" ", utf8(text))


def mend(value: Any) -> Any:
    """Returns a JSON value with all texts, names and numbers mended; equal if there is no need.

    ValueError: nested deeper than `MAX_DEPTH`, or two names of an object become the same.
    """
    return _mend(value, 0)


def _mend(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested over {MAX_DEPTH} deep")
    if isinstance(value, str):
        return mend_text(value)
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, list):
        return [_mend(item, depth + 1) for item in value]
    if isinstance(value, dict):
        mended = {mend_text(name): _mend(item, depth + 1) for name, item in value.items()}
        if len(mended) < len(value):
            raise ValueError("two names differ only in characters that cannot be written")
        return mended
    return value


def parse(text: str | bytes) -> Any:
    """Returns the value of a JSON text, not mended; ValueError: not JSON, in a few words."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from error
    except RecursionError as error:
        raise ValueError("not JSON: nested too deep") from error
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"not JSON: {error}") from error
