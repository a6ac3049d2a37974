# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""gin's errors about a configuration, in one line that says what to do."""

import difflib
import importlib
import inspect
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gin

from parti.engine.config import gin_text

_MISTAKES = (
    *(ImportError, NameError, AttributeError, SyntaxError, RuntimeError, ValueError),
    tokenize.TokenError,  # a bracket or quote that is not closed
)


@contextmanager
def one_line() -> Iterator[None]:
    """Turns gin's errors about a configuration into a ValueError of one line.

    An error raised by the code that gin calls keeps its kind unless it is a user's mistake.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(_explain(error)) from error
    except (*_MISTAKES, TypeError, OSError) as error:
        if isinstance(error, _MISTAKES) or "\n" in str(error):
            raise ValueError(_explain(error)) from error
        raise


def _explain(error: Exception) -> str:
    """Returns one line about an error: gin's own text, what to do, and where."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[0].rstrip(".") if lines else type(error).__name__
    where = ""
    if isinstance(error, SyntaxError):
        first = f"{error.msg.rstrip('.')}: {(error.text or '').strip()}".rstrip(": ")
        where = f" ({error.filename}, line {error.lineno})" if error.filename else ""
    elif isinstance(error, tokenize.TokenError):
        first, where = error.args[0], f" (line {error.args[1][0]})"
    elif match := re.search(r'In file "([^"]+)", line (\d+)', text):
        where = f" ({match.group(1)}, line {match.group(2)})"
    elif match := re.search(r"In call to configurable '([\w.]+)'", text):
        where = f" (in {match.group(1)})"
    return f"{first}{_suggest_for(first)}{where}"


def _suggest_for(message: str) -> str:
    """Returns '; did you mean ...' for gin's messages about unknown names."""
    if match := re.search(r"no attribute '?(\w+)'?", message):
        module = re.search(r"<module '([\w.]+)'", message)
        loaded = inspect.getmodule(importlib.import_module(module.group(1))) if module else None
        names = [n for n in dir(loaded) if not n.startswith("_")] if loaded else []
        return suggest(match.group(1), names)
    if match := re.search(r"'([\w./]+)' doesn't have a parameter named '(\w+)'", message):
        return suggest(match.group(2), _parameters(match.group(1)))
    if match := re.search(r"'?(\w+)'? was not provided by an import", message):
        return f"; add `from ... import {match.group(1)}` at the top of the file"
    if match := re.search(r"No configurable matching '([\w.]+)'", message):
        return suggest(match.group(1), gin_text.functions(gin.config_str()))
    return ""


def _parameters(selector: str) -> list[str]:
    """Returns the parameters of a function or class of a module that is loaded."""
    end, _, name = selector.rpartition(".")
    modules = [module for path, module in [*sys.modules.items()] if f".{path}".endswith(f".{end}")]
    try:
        # gin knows it by the name that the process first called it by, perhaps another.
        found = next((getattr(m, name) for m in modules if hasattr(m, name)), None)
        configurable = inspect.unwrap(found or gin.get_configurable(selector))
        names = list(inspect.signature(configurable).parameters)
        if inspect.isclass(configurable) and names == ["args", "kwargs"]:
            # gin's subclass of the class itself.
            names = list(inspect.signature(configurable.__mro__[1]).parameters)
        return names
    except (ValueError, TypeError):
        return []


def check_macros(config: str, known: set[str], readers: Mapping[str, str] | None = None) -> None:
    """Raises ValueError for a macro that nothing uses, so that a misspelt one is no silent one.

    Args:
      config: gin text of a whole configuration.
      known: macros that need no use.
      readers: {macro: what a file sets to it}, where a later binding may set something else.
    """
    used = gin_text.used_macros(config)
    for name in sorted(gin_text.macros(config).keys() - used - known):
        hint = suggest(name, (used | known) - {name})
        if readers and name in readers:
            key = readers[name]
            hint = f": {key} = %{name} was replaced; set {name} instead of {key}"
        raise ValueError(f"nothing uses the macro {name}{hint}")


def suggest(name: str, known: Any) -> str:
    """Returns '; did you mean ...' or, of few names, '; there is ...'; else nothing."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1, 0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there is {', '.join(names)}" if 0 < len(names) <= 30 else ""
