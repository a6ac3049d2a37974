# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""gin: files parsed in order, macros evaluated, a model built from an exported configuration.

gin's configuration is global, so `empty` takes a lock and clears it first. Later files and bindings
win.
"""

# gin 0.5 uses importlib.util without importing it.
import importlib.util  # noqa: F401  isort: skip

import copy
import functools
import logging
import pathlib
import re
import threading
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gin

from parti.engine.config import gin_bindings, gin_errors, gin_text

_lock = threading.RLock()


def model_from_config(config: str | pathlib.Path) -> Any:
    """Builds MODEL, and nothing else, from gin text or a gin file such as `<train dir>/model.gin`.

    Raises:
      ValueError: the text does not define a model.
      FileNotFoundError: the file is missing.
    """
    is_path = isinstance(config, pathlib.Path) or ("\n" not in config and config.endswith(".gin"))
    text = pathlib.Path(config).read_text(encoding="utf-8") if is_path else str(config)
    with empty(), gin_errors.one_line():
        gin.parse_config(text)
        return evaluate_macro("MODEL")


@contextmanager
def empty() -> Iterator[None]:
    """Holds gin's global configuration, empty at entry and exit."""
    with _lock:
        gin.clear_config()
        _search_config_root()
        try:
            yield
        finally:
            gin.clear_config()


@functools.cache  # gin would search a folder as often as it was added.
def _search_config_root() -> None:
    gin.add_config_file_search_path(str(config_root()))


def config_root() -> pathlib.Path:
    """Returns the folder that holds `t5x_configs/`."""
    spec = importlib.util.find_spec("parti.t5x_configs")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("the package parti.t5x_configs is not installed; run `pip install -e .`")
    return pathlib.Path(next(iter(spec.submodule_search_locations))).parent


def parse(gin_files: Sequence[str], bindings: Sequence[str]) -> None:
    """Reads gin files, then bindings; the first file's macros need not be used.

    A binding may name a function or class that a file names, by any end of its path.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a macro or function is misspelt, or a value is no gin literal.
    """
    standard: set[str] | None = None
    readers: dict[str, str] = {}
    configurables: set[gin_bindings.Configurable] = set()
    for path in gin_files:
        _check_file(path)
        logging.disable(logging.ERROR)  # gin logs each folder in which it looks for an include.
        try:
            parsed = gin.parse_config_file(path)
        finally:
            logging.disable(logging.NOTSET)
        for text in _texts(parsed):
            readers |= gin_text.readers(text)
            configurables |= set(gin_bindings.configurables(text))
        if standard is None:  # Those of the run file, some of which a model may not have.
            standard = set(gin_text.macros(gin.config_str()))
    known = set(gin_text.macros(gin.config_str()))
    gin_errors.check_macros(gin.config_str(), standard or set(), readers)
    for binding in bindings:
        name, equals, value = (part.strip() for part in binding.partition("="))
        if not equals or not name:
            raise ValueError(f"--gin.{binding}: write --gin.NAME=VALUE")
        if name.isidentifier() and name not in known:
            hint = gin_errors.suggest(name, known)
            raise ValueError(f"--gin.{name}: no gin file sets a macro of that name{hint}")
        gin_text.check_text(name, value)
        try:
            gin.parse_config(gin_bindings.self_contained(name, value, configurables))
        except (SyntaxError, tokenize.TokenError) as error:
            raise ValueError(
                f"--gin.{name}={value} is not a Python literal or gin reference; a text needs "
                f"quotes of its own: {gin_text.flag(name, value)}"
            ) from error


def _texts(parsed: gin.config.ParsedConfigFileIncludesAndImports) -> Iterator[str]:
    """Returns the texts of a file that gin has read, and of all that it includes."""
    found = [path for path in _candidates(parsed.filename) if path.is_file()]
    yield from (path.read_text(encoding="utf-8") for path in found[:1])
    for included in parsed.includes:
        yield from _texts(included)


def _candidates(path: str) -> list[pathlib.Path]:
    """Returns where gin looks for a file: an absolute path stays as it is."""
    return [pathlib.Path(path), config_root() / path]


def _check_file(path: str) -> None:
    candidates = _candidates(path)
    if any(candidate.is_file() for candidate in candidates):
        return
    folders = [candidate.parent for candidate in candidates]
    names = {p.name for folder in folders if folder.is_dir() for p in folder.glob("*.gin")}
    hint = gin_errors.suggest(pathlib.Path(path).name, names)
    raise FileNotFoundError(f"no gin file {path}{hint}")


def evaluate_macro(name: str) -> Any:
    """Returns the value of a macro; raises ValueError if it is not set."""
    return evaluate_macros([name])[name]


def evaluate_macros(names: Iterable[str]) -> dict[str, Any]:
    """Returns {name: value} of macros; raises ValueError if one, or one that it uses, is unset."""
    values: dict[str, Any] = {}
    failure: Exception | None = None
    try:
        # Copying a reference evaluates it; that is how gin itself does it.
        values |= {name: copy.deepcopy(gin.config.parse_value(f"%{name}")) for name in names}
    except Exception as error:
        if match := re.search(r"^macro\(\) missing 1.*in scope '(\w+)'", str(error), re.DOTALL):
            raise ValueError(_unset(match.group(1))) from error
        failure = error
    for name, value in gin_text.macros(gin.operative_config_str()).items():
        if value == gin_text.UNSET:
            raise ValueError(_unset(name)) from failure
    if failure is not None:
        raise failure
    return values


def _unset(name: str) -> str:
    return f"{name} is not set; set it in the experiment file or with --gin.{name}=VALUE"
