# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The settings that a prompt may have of its own, and what values they take."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

CONSTANT, LINEAR, COSINE, INTERVAL = "constant", "linear", "cosine", "interval"
ROWS, TOKENS = "rows", "tokens"

# Flags of `parti generate` that are of a whole run; no prompt may have a field of that name.
OF_A_RUN = frozenset(
    (
        *("num_samples", "decode_order", "queue", "rerank_by", "keep", "weights", "layout"),
        *("mesh_shape", "upsample_tile", "prompts_per_batch", "num_prompts", "format", "quality"),
    )
)


_MAX_SHOWN = 80  # characters of a value in a message


class _Setting(NamedTuple):
    kind: type  # int, float or str
    is_allowed: Callable[[Any], bool]
    rule: str  # what is allowed


def interval(guidance_schedule: str) -> tuple[float, float] | None:
    """Returns (begin, end), fractions of the image, of 'interval:BEGIN:END'; None of another text.

    It is also None unless 0 <= begin < end <= 1.
    """
    name, *bounds = guidance_schedule.split(":")
    try:
        begin, end = map(float, bounds)
    except ValueError:
        return None
    return (begin, end) if name == INTERVAL and 0 <= begin < end <= 1 else None


def _is_schedule(value: str) -> bool:
    return value in (CONSTANT, LINEAR, COSINE) or interval(value) is not None


_SETTINGS = {
    "guidance_scale": _Setting(float, lambda value: value >= 0, "must be >= 0"),
    "guidance_schedule": _Setting(
        str,
        _is_schedule,
        "must be constant, linear, cosine or interval:BEGIN:END with 0 <= BEGIN < END <= 1",
    ),
    "guidance_over": _Setting(
        str, lambda value: value in (ROWS, TOKENS), f"must be {ROWS} or {TOKENS}"
    ),
    "temperature": _Setting(float, lambda value: value >= 0, "must be >= 0 (0 is greedy)"),
    "top_k": _Setting(int, lambda value: value >= 0, "must be >= 0 (0 keeps all tokens)"),
    "top_p": _Setting(
        float, lambda value: 0 < value <= 1, "must be in (0, 1] (1 keeps all tokens)"
    ),
    "seed": _Setting(int, lambda value: True, "must be a whole number"),
    "negative_prompt": _Setting(str, lambda value: True, "must be a text"),
}
NAMES = tuple(_SETTINGS)
_KINDS = {int: "a whole number", float: "a finite number", str: "a text"}


def check(name: str, value: Any) -> None:
    """Raises ValueError, which begins with the name, for a value that a setting cannot have."""
    setting = _SETTINGS[name]
    is_finite = setting.kind is not float or math.isfinite(value)
    if not (is_finite and setting.is_allowed(value)):
        raise ValueError(f"{name} {setting.rule}; got {_shown(value)}")


def read(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings among the fields of a prompt, with their types; None is not given.

    A number may be a text, as in a table.

    Raises:
      ValueError: a value of another type, or that the setting cannot have.
    """
    found = {}
    for name in NAMES:
        if (value := fields.get(name)) is not None:
            found[name] = _typed(name, value)
            check(name, found[name])
    return found


def _typed(name: str, value: Any) -> Any:
    kind = _SETTINGS[name].kind
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        if isinstance(value, str):
            return value.strip() if kind is str else kind(value)
        if is_number and kind is not str and kind(value) == value:
            return kind(value)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{name} must be {_KINDS[kind]}; got {_shown(value)}")


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
