# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The pages that commands write, from the Jinja templates of this folder; each loads nothing.

Every value is escaped unless it is `markupsafe.Markup`.
"""

import base64
import functools
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2

_FOLDER = pathlib.Path(__file__).parent


def render(template: str, **values: Any) -> str:
    """Returns the page of a template of this folder; a name that it uses must be in `values`."""
    return _environment().get_template(template).render(values)


def data_uri(data: bytes, kind: str) -> str:
    """Returns an encoded image of a kind, such as png, as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def percent(part: int, whole: int) -> str:
    """Returns a share as text that never says 0% or 100% when that is not so."""
    share = 100 * part / whole if whole else 0.0
    if part and share < 0.1:
        return "under 0.1%"
    if part < whole and share > 99.9:
        return "over 99.9%"
    return f"{share:.1f}%".replace(".0%", "%")


def share(value: float) -> str:
    """Returns a share in [0, 1] as text; see `percent`."""
    return percent(round(value * 1_000_000), 1_000_000)


def size(num_bytes: int) -> str:
    """Returns a size in bytes as text: 1.2 kB, 910.0 MB, 5.7 GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:,.1f} {unit}"
    return f"{num_bytes / 1e3:,.1f} kB"


def duration(seconds: float) -> str:
    """Returns a time as text: 0.4 s, 12 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def plural(count: int, noun: str) -> str:
    """Returns a count with its noun: 1 pair, 2,000 pairs."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def count_ticks(most: int) -> list[tuple[float, str]]:
    """Returns the scale of a drawing of counts up to `most`, at least 1.

    It is 0 and up to four multiples of 1, 2 or 5 times 10^n: (height in percent, count as text).
    """
    steps = (factor * 10**power for power in itertools.count() for factor in (1, 2, 5))
    step = next(step for step in steps if most // step <= 4)
    return [(100 * count / most, f"{count:,}") for count in range(0, most + 1, step)]


def estimate(value: Mapping[str, Any], digits: int = 3, narrow: bool = False) -> str:
    """Returns an estimate (see `bootstrap.estimate_mean`) as text: 24.31 [24.02, 24.60].

    `narrow` gives half the width of the interval instead of its ends: 24.31 ±0.29.
    """
    mean, low, high = (f"{value[name]:z.{digits}f}" for name in ("mean", "low", "high"))
    if narrow:
        return f"{mean} ±{(value['high'] - value['low']) / 2:.{digits}f}"
    return f"{mean} [{low}, {high}]"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": "{:,}".format,
        "duration": duration,
        "percent": percent,
        "plural": plural,
        "share": share,
        "size": size,
    }
    return environment
