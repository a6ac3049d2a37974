# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A command line parser that reports a mistake in one line; it imports nothing heavy."""

import argparse
import difflib
import re
from collections.abc import Collection, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a flag, and first what is misspelt."""

    def __init__(
        self,
        prog: str,
        description: str,
        epilog: str,
        formatter: type[argparse.HelpFormatter] = argparse.RawDescriptionHelpFormatter,
    ) -> None:
        options: dict[str, Any] = {"formatter_class": formatter, "allow_abbrev": False}
        super().__init__(prog, description=description, epilog=epilog, **options)

    def error(self, message: str) -> NoReturn:
        """Ends the process with code 2."""
        self.exit(2, f"{self.prog}: {message}\n")

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        """Returns the flags; a misspelt one is named before a required one that is missing."""
        flags, rest = self.split(args, namespace=namespace)
        if rest:
            self.error(self.unknown(rest[0]))
        return flags

    def split(
        self, args: Sequence[str], others: Collection[str] = (), namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Returns (the flags, the arguments that are not this parser's: `others` and values).

        `file:///a` is `/a`, whatever reads it.
        """
        args = [re.sub(r"\A(--\w+=)?file://(?=/)", r"\1", argument) for argument in args]
        for argument in args:
            name = argument.partition("=")[0]
            known = name in names(self) or name in others
            if name.startswith("--") and not known:
                self.error(self.unknown(name, others))
        return self.parse_known_args(args, namespace)

    def unknown(self, argument: str, others: Collection[str] = ()) -> str:
        """Returns what to say of an argument that nobody knows."""
        name = argument.partition("=")[0]
        if not name.startswith("-"):
            return f"unexpected argument {argument!r}; see --help"
        near = difflib.get_close_matches(name, [*names(self), *others], n=1)
        return f"unknown flag {name}; " + (f"did you mean {near[0]}?" if near else "see --help")


def names(parser: argparse.ArgumentParser) -> list[str]:
    """Returns the flags that a parser knows, with their dashes."""
    return [name for action in parser._actions for name in action.option_strings]
