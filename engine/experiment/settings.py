# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""One setting of a training, stated in one place: as a field of `experiments.Experiment`.

```
max_rollbacks: int = settings.field(
    "'rollback': one more in the whole run stops it", 10, allowed=settings.whole_number(1),
    immaterial=True,
)
```
The field's name in capitals is its macro. From the field follow the macro's default, the check of
its value, whether a finished training may differ in it, whether T5X follows it, and its line in
`t5x_configs/runs/settings.gin`, which a test compares with `gin_text`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

_METADATA = "setting"
_COMMENT_COLUMN = 32
_HEADER = """\
# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
#
# The settings of a training and their defaults; %gin.REQUIRED: an experiment or the command line
# sets it. Written by `experiments.macros_text` (tests/engine/experiment/test_settings.py says how).
"""


class Allowed(NamedTuple):
    """Which values a setting may have: those for which `holds` is true."""

    words: str  # what follows 'must be' in the error message
    holds: Callable[[Any], bool]
    hint: str = ""  # what the message says at the end

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError if a value is not allowed."""
        with contextlib.suppress(TypeError):  # It cannot be compared with a number.
            if self.holds(value):
                return
        hint = f"; {self.hint}" if self.hint else ""
        raise ValueError(f"{name} must be {self.words}, got {value!r}{hint}")


class Setting(NamedTuple):
    """What is known of a field."""

    doc: str  # what it means, in a line
    default: Any = dataclasses.MISSING  # if it must be set
    allowed: Allowed | None = None  # None: anything, or `checks.check` says
    immaterial: bool = False  # a finished training stays finished whatever it says
    t5x: bool = False  # T5X follows it; of the others it accepts the default alone


def field(
    doc: str,
    default: Any = dataclasses.MISSING,
    *,
    allowed: Allowed | None = None,
    immaterial: bool = False,
    t5x: bool = False,
) -> Any:
    """Returns a dataclass field; see `Setting`."""
    stated = Setting(doc, default, allowed, immaterial, t5x)
    return dataclasses.field(default=default, metadata={_METADATA: stated})


def whole_number(least: int, or_none: bool = False) -> Allowed:
    """Allows integers of at least `least`."""

    def holds(value: Any) -> bool:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return (or_none and value is None) or (is_whole and value >= least)

    return Allowed(f"a whole number of at least {least}", holds)


def one_of(choices: Sequence[str]) -> Allowed:
    """Allows some strings, two or more."""
    words = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
    return Allowed(words, lambda value: value in choices)


def none_or(kind: type, hint: str) -> Allowed:
    """Allows None and instances of a class."""
    words = f"None or @{kind.__module__.rpartition('.')[2]}.{kind.__name__}()"
    return Allowed(words, lambda value: value is None or isinstance(value, kind), hint)


def of(dataclass: Any) -> dict[str, Setting]:
    """Returns {field: setting} of a dataclass, in order; fields that are none are left out."""
    return {
        member.name: member.metadata[_METADATA]
        for member in dataclasses.fields(dataclass)
        if _METADATA in member.metadata
    }


def check(instance: Any) -> None:
    """Raises ValueError, with its macro, for the first setting whose value is not allowed."""
    for name, stated in of(instance).items():
        if stated.allowed is not None:
            stated.allowed.check(name.upper(), getattr(instance, name))


def gin_text(dataclass: Any) -> str:
    """Returns a gin file with a line for the macro of each setting."""
    parts = [_HEADER]
    for title, t5x in (
        ("# Both engines follow these.", True),
        ("# The embedded engine alone follows these; under T5X they keep their defaults.", False),
    ):
        stated = {k: v for k, v in of(dataclass).items() if v.t5x == t5x}
        parts.append("\n".join([title, *(_line(name.upper(), s) for name, s in stated.items())]))
    return "\n".join(parts)


def _line(macro: str, stated: Setting) -> str:
    is_required = stated.default is dataclasses.MISSING
    binding = f"{macro} = {'%gin.REQUIRED' if is_required else repr(stated.default)}"
    return f"{binding:<{_COMMENT_COLUMN}}# {stated.doc}"
