# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The form of a rule of `parti clean`, of its settings, and of the captions and images it reads."""

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np

from parti.data.text import languages

Settings = Mapping[str, Any]  # a value for each of `table.SETTINGS`, and "image_size"
Kind = Literal["count", "number", "switch", "names", "file", "choice"]
_OFF = ("off", "none", "null", "")
_OFF_VALUES = {"switch": False, "names": (), "file": "", "choice": "none"}  # of others None
_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
# LAION-400M says it in words; the numbers for them are ours.
_TAGS = {"unlikely": 0.0, "unsure": 0.5, "nsfw": 1.0}
_NUM_LANGUAGES = 5
_MAX_GREY_PIXELS = 65_536
IMAGE_FORMATS = ("jpeg", "png", "gif", "webp", "bmp", "tiff", "avif")
# The first bytes of a file, and what it is.
_SIGNATURES = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A value of a preset: a threshold, a switch, a list of names, a file."""

    name: str  # in a preset and, after --, on the command line
    kind: Kind
    help: str
    low: float = 0
    high: float | None = None  # None: no bound
    unit: str = ""  # of the value, in words
    default: Any = None  # the value where a preset says nothing; None: off
    choices: tuple[str, ...] = ()  # besides "none" or off; of "names" all texts, if empty

    @property
    def is_least(self) -> bool:
        """Whether it is a least value, as `min_...`, not a most."""
        return self.name.startswith("min_")

    @property
    def off(self) -> Any:
        """The value that switches it off."""
        return _OFF_VALUES.get(self.kind)

    @property
    def initial(self) -> Any:
        """The value where a preset says nothing."""
        return self.off if self.default is None else self.default

    def is_off(self, settings: Settings) -> bool:
        """Returns whether it has the value `off`."""
        return settings[self.name] == self.off

    def parse(self, value: Any) -> Any:
        """Returns in one form a value of YAML or of a flag.

        `off` (or null, or 0 where 0 is too small) switches a number off; names are a list, or one
        text with commas.

        Raises:
          ValueError: it does not fit; the message begins with the setting's name.
        """
        is_off = value is None or value is False
        if self.kind == "switch":
            is_on = value if isinstance(value, bool) else _SWITCHES.get(str(value).lower())
            if is_on is None:
                raise ValueError(f"{self.name}={value}: give true or false")
            return is_on
        if self.kind == "choice":
            choice = "none" if is_off else str(value)
            if choice not in (*self.choices, "none"):
                allowed = ", ".join((*self.choices, "none"))
                raise ValueError(f"{self.name}={value}: choose from {allowed}")
            return choice
        if is_off or (isinstance(value, str) and value.lower() in _OFF):
            return self.off
        if self.kind == "names":
            return self._names(value)
        if self.kind == "file":
            if not isinstance(value, str):
                raise ValueError(f"{self.name}={value}: give a file name, or off")
            return value
        return self._number(value)

    def _names(self, value: Any) -> tuple[str, ...]:
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            # An unquoted `no` (Norwegian) is the truth value false to YAML.
            raise ValueError(f"{self.name}={value}: give a list of texts, in quotes")
        found = tuple(name.strip() for name in names if name.strip())
        check_names(self.name, found, self.choices or found)
        return found

    def _number(self, value: Any) -> float | None:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if self.kind == "count" and not (math.isfinite(number) and number == int(number)):
            number = math.nan
        if number == 0 and self.low > 0:
            return None
        if not self.low <= number <= (math.inf if self.high is None else self.high):
            least = f"{self.low:g}"
            allowed = f"at least {least}" if self.high is None else f"{least} to {self.high:g}"
            unit = f" {self.unit}" if self.unit else ""
            whole = ", a whole number" if self.kind == "count" and math.isnan(number) else ""
            off = "0 for no limit" if self.low > 0 else "off"
            raise ValueError(f"{self.name}={value}: give {allowed}{unit}{whole}, or {off}")
        return int(number) if self.kind == "count" else number


@dataclasses.dataclass(frozen=True)
class Rule:
    """A reason to drop a pair.

    A rule has `measure`, which must not be under a setting `min_...` or over a setting `max_...`;
    or `find`; or neither, if it needs other pairs (`deduplicate.duplicate_rules`).
    """

    kind: str  # the stage of the funnel, by what the rule reads; one of `table`'s
    name: str  # the reason: in rejected rows, counters and the report
    title: str
    explanation: str
    setting: Setting  # the threshold or switch; the rule is on when its value is not off
    source: str = "ours"  # where the rule comes from; a preset's values have their source there
    _: dataclasses.KW_ONLY
    # (input, settings) -> number, or None where the pair has no such value
    measure: Callable[[Any, Settings], float | None] | None = None
    find: Callable[[Any, Settings], str | None] | None = None  # -> what is wrong, or None
    # Puts the number into words where the setting's unit and bound do not say enough
    describe: Callable[[Any, Settings], str] | None = None
    needs: tuple[Setting, ...] = ()  # other settings that must be on too
    reads: tuple[Setting, ...] = ()  # other settings that the rule reads
    only: Any = None  # the value of the setting that switches the rule on, where not every one does
    histogram: str = ""  # the one of the report that shows the threshold; "" if there is none

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Every setting that the rule goes by, its own first."""
        return (self.setting, *self.needs, *self.reads)

    def is_on(self, settings: Settings) -> bool:
        """Returns whether the rule is applied with these settings."""
        own = self.setting
        on = not own.is_off(settings) if self.only is None else settings[own.name] == self.only
        return on and not any(needed.is_off(settings) for needed in self.needs)

    def fault(self, measure: float, input: Any, settings: Settings) -> str | None:
        """Returns why what `measure` gave is on the wrong side of the threshold, or None."""
        threshold, is_least = settings[self.setting.name], self.setting.is_least
        if measure >= threshold if is_least else measure <= threshold:
            return None
        if self.describe is not None:
            return self.describe(input, settings)
        unit = self.setting.unit
        unit = f" {unit.removesuffix('s') if measure == 1 else unit}".rstrip()
        side = "at least" if is_least else "at most"
        shown = f"{measure:,}" if isinstance(measure, int) else f"{measure:.3g}"
        return f"{shown}{unit}; {side} {threshold:,} allowed"


@dataclasses.dataclass(frozen=True)
class Repair:
    """A change of captions before the rules see them."""

    name: str
    title: str
    settings: tuple[Setting, ...]  # of which one must be on
    change: Callable[[str, Settings], str]  # a caption in normal form -> after it, in normal form

    def is_on(self, settings: Settings) -> bool:
        """Returns whether captions are changed with these settings."""
        return not all(setting.is_off(settings) for setting in self.settings)


def check_names(setting: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises ValueError if a name is not known."""
    known = set(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{setting}={name}: {suggestion(name, known)}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns what to say of a name that is none of those known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"


@dataclasses.dataclass
class Caption:
    """A caption in normal form and the metadata of its pair."""

    text: str
    metadata: Mapping[str, Any]

    @functools.cached_property
    def languages(self) -> tuple[tuple[str, float], ...]:
        """The likeliest languages as (code, confidence), the likeliest first."""
        return languages.candidates(self.text, _NUM_LANGUAGES)

    @functools.cached_property
    def _fields(self) -> dict[str, Any]:
        return {name.lower(): value for name, value in self.metadata.items()}

    def scores(self, names: Iterable[str]) -> list[float]:
        """Returns the numbers in the metadata under these names, in any case of letters."""
        found = (number(self._fields.get(name.lower())) for name in names)
        return [value for value in found if value is not None]


@dataclasses.dataclass(eq=False)
class Image:
    """An image, decoded or not."""

    width: int  # in pixels
    height: int
    num_bytes: int  # of the encoded image; 0 if not known
    format: str  # one of `IMAGE_FORMATS`; "" if not known
    pixels: np.ndarray | None  # [height, width, 3] uint8

    @property
    def size(self) -> str:
        """The size in words: "640 x 480"."""
        return f"{self.width} x {self.height}"

    @property
    def short_side(self) -> int:
        """The shorter side in pixels."""
        return min(self.width, self.height)

    @property
    def aspect_ratio(self) -> float:
        """The long side over the short side."""
        return max(self.width, self.height) / max(1, self.short_side)

    def deviation(self, enough: float) -> float | None:
        """Returns the largest standard deviation of a channel; None without pixels.

        One pixel in 64 is measured; all of them only if those have less than `enough`.
        """
        if self.pixels is None:
            return None
        some = _deviation(self.pixels[::8, ::8])
        return some if some >= enough else _deviation(self.pixels)

    @functools.cached_property
    def entropy(self) -> float | None:
        """The entropy of the grey values in bits, of at most 65,536 pixels; None without pixels."""
        if self.pixels is None:
            return None
        height, width, _ = self.pixels.shape  # less than the image's if decoded at less
        step = max(1, math.isqrt(width * height // _MAX_GREY_PIXELS))
        some = self.pixels[::step, ::step].astype(np.uint16)
        grey = (2 * some[..., 0] + 5 * some[..., 1] + some[..., 2]) >> 3
        counts = np.bincount(grey.ravel(), minlength=256)
        shares = counts[counts > 0] / grey.size
        return float(-(shares * np.log2(shares)).sum()) + 0.0


def number(value: Any) -> float | None:
    """Returns a value of the metadata as a number; None if it is none, or not finite."""
    if isinstance(value, str):
        value = _TAGS.get(value.strip().lower(), value)
    if value is None or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def image_format(data: bytes) -> str:
    """Returns one of `IMAGE_FORMATS` by the first bytes, or ""."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    return next((name for start, name in _SIGNATURES if data.startswith(start)), "")


def _deviation(pixels: np.ndarray) -> float:
    return float(pixels.std(axis=(0, 1), dtype=np.float64).max())
