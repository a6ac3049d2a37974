# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Keeps known start-up messages of third-party libraries off the terminal; all others are shown.

TensorFlow's C++ side writes to stderr while it is imported, whatever TF_CPP_MIN_LOG_LEVEL says. An
import hook holds stderr back for that time, and passes on the lines that are not known.
"""

import contextlib
import importlib.abc
import importlib.machinery
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

VARIABLE = "PARTI_VERBOSE"  # in the environment, set by `--verbose`, it asks for all logs

# Set before any of the libraries is loaded, and never over a user's choice.
_VARIABLES = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "GRPC_VERBOSITY": "NONE",
    "GLOG_minloglevel": "3",
    "ABSL_MIN_LOG_LEVEL": "3",
}
_LOUD = ("tensorflow", "tensorflow_text")
# What they write: the header of absl's log, its lines of level INFO, and two warnings of every
# TensorFlow that finds a GPU.
_KNOWN_LINES = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|I\d{4} \d\d:\d\d:|"
    rb"[WE]\d{4} .*(Unable to register cu\w+ factory|computation placer already registered)"
)
# Of Beam without Google's libraries.
_KNOWN_RECORDS = re.compile(r"apitools not found, and bigquery client libraries are not available")


def install() -> None:
    """Drops known start-up messages of what is imported from now on, and shows our own warnings.

    Does nothing where the environment has `VARIABLE`.
    """
    if os.environ.get(VARIABLE):
        return
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    if (handler := logging.lastResort) is not None:
        handler.addFilter(_is_news)
        # As a handler of its own, so that `logging.warning` of others does not set one up.
        logging.getLogger().addHandler(handler)
    if not sys.warnoptions:
        warnings.filterwarnings("default", module=r"parti(\.|$)")
        # About damaged metadata: what the pictures of others are like is for the reports.
        warnings.filterwarnings("ignore", module=r"PIL\.")
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _is_news(record: logging.LogRecord) -> bool:
    try:
        return not _KNOWN_RECORDS.match(record.getMessage())
    except Exception:  # Arguments that do not fit the message: the handler reports them.
        return True


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Holds file descriptor 2 back, then passes on its lines that are not `_KNOWN_LINES`."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        try:
            kept = os.dup(2)
        except OSError:  # stderr is closed
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            held.seek(0)
            for line in held:
                if not _KNOWN_LINES.match(line):
                    os.write(kept, line)
            os.close(kept)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the loud libraries as usual, and loads them with stderr held back."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _LOUD:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = held_back()(execute)  # type: ignore[method-assign]
        return spec
