# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A command line parser that reports a mistake in one line; it imports nothing heavy."""

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a flag, and first what is misspelt."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Ends the process with code 2."""
        self.exit(2, f"{self.prog}: {message}\n")

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        """Returns the flags; a misspelt one is named before a required one that is missing."""
        for argument in args:
            name = argument.partition("=")[0]
            if name.startswith("--") and name not in self._option_string_actions:
                self.error(self._unknown(name))
        namespace, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(self._unknown(rest[0]))
        return namespace

    def _unknown(self, argument: str) -> str:
        if not argument.startswith("-"):
            return f"unexpected argument {argument!r}; see --help"
        near = difflib.get_close_matches(argument, self._option_string_actions, n=1)
        return f"unknown flag {argument}; " + (f"did you mean {near[0]}?" if near else "see --help")
