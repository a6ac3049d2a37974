# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""gin text as parsed statements: nothing that it names is imported or called.

gin's own parser reads it, with references and macros left as they are written.
"""

import ast
import dataclasses
import os
import re
import shlex
import tokenize
from collections.abc import Iterable, Iterator
from typing import Any

from gin import config_parser


@dataclasses.dataclass(frozen=True, repr=False)
class Reference:
    """A value that gin would look up: '@module.function', '@module.function()' or '%MACRO'."""

    text: str

    def __repr__(self) -> str:
        """Returns the reference as gin text has it."""
        return self.text

    @property
    def configurable(self) -> str:
        """The name of what it refers to, 'module.function'; empty for a macro."""
        return self.text.strip("@()").rpartition("/")[2] if self.text.startswith("@") else ""

    def to(self, selector: str) -> "Reference":
        """Returns a reference to another function, in the same scope."""
        scope, slash, name = self.text.rpartition("/")
        call = "()" if name.endswith("()") else ""
        return Reference(f"{scope or '@'}{slash}{selector}{call}")


CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # characters that no path and no setting needs
UNSET = Reference("%gin.REQUIRED")


class _Unevaluated(config_parser.ParserDelegate):
    """Makes a `Reference` of each reference and macro."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(f"@{scoped_configurable_name}{'()' if evaluate else ''}")

    def macro(self, macro_name: str) -> Reference:
        return Reference(f"%{macro_name}")


def bindings(text: str) -> dict[str, Any]:
    """Returns {'MACRO' or 'scope/module.function.argument': value}; of two, the later one.

    Includes are not followed. Raises ValueError if this is no gin text.
    """
    return {
        key(statement): statement.value
        for statement in statements(text)
        if isinstance(statement, config_parser.BindingStatement)
    }


def macros(text: str) -> dict[str, Any]:
    """Returns {NAME: value} of the macros; see `bindings`."""
    return {name: value for name, value in bindings(text).items() if name.isidentifier()}


def used_macros(text: str) -> set[str]:
    """Returns the macros that a value names."""
    return set(readers(text))


def check_text(name: str, value: str) -> None:
    """Raises ValueError for a text in quotes that gin would not read as it is written.

    gin reads it as Python does: in 'runs\\new' it finds the end of a line.
    """
    if len(value) < 2 or value[0] not in "'\"" or value[-1] != value[0]:
        return
    written = value[1:-1]
    try:
        read = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        read = None
    is_path = isinstance(read, str) and os.path.exists(written) and not os.path.exists(read)
    if read is None or is_path or (isinstance(read, str) and CONTROL.search(read)):
        raise ValueError(
            f"--gin.{name}={value}: a quote or backslash in a text needs a backslash before it: "
            f"{flag(name, written)}"
        )


def flag(name: str, text: str) -> str:
    """Returns the flag that sets a text, as a shell reads it."""
    if not set(repr(text)) & set('"$`\\!'):
        return f'--gin.{name}="{text!r}"'
    return shlex.quote(f"--gin.{name}={text!r}")


def readers(text: str) -> dict[str, str]:
    """Returns {macro: a key of `bindings` whose value names it}."""
    found = ((r.text, name) for name, v in bindings(text).items() for r in references(v))
    return {reference[1:]: name for reference, name in found if reference.startswith("%")}


def functions(text: str) -> set[str]:
    """Returns the functions with an argument in a gin text, as 'module.function'."""
    names = (name.rpartition("/")[2] for name in bindings(text))
    return {name.rpartition(".")[0] for name in names if "." in name}


def without_unused_imports(text: str) -> str:
    """Drops the imports that nothing in a gin text names, such as those of data tasks."""
    named = functions(text)
    for value in bindings(text).values():
        named |= {r.text.strip("@%()").rpartition("/")[2] for r in references(value)}

    def is_used(statement: config_parser.ImportStatement) -> bool:
        name = statement.bound_name() if statement.is_from else statement.alias or statement.module
        return statement.module.startswith("__gin__.") or any(
            function.startswith(f"{name}.") for function in named
        )

    unused = {
        statement.location.line_num
        for statement in statements(text)
        if isinstance(statement, config_parser.ImportStatement) and not is_used(statement)
    }
    kept = [line for i, line in enumerate(text.splitlines(), start=1) if i not in unused]
    return "\n".join(kept).strip() + "\n"


def selectors(parsed: Iterable[Any]) -> set[str]:
    """Returns the functions and classes that statements bind or refer to, as they are written."""
    found = set()
    for statement in parsed:
        if isinstance(statement, config_parser.BindingStatement):
            found |= {r.configurable for r in references(statement.value)}
            found |= {statement.selector} if statement.arg_name else set()
    return found - {""}


def statements(text: str) -> list[Any]:
    """Returns what gin's parser makes of a text; raises ValueError if this is no gin text."""
    try:
        return parse(text)
    except (SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"not gin text: {str(error).splitlines()[0]}") from error


def parse(text: str) -> list[Any]:
    """Returns what `statements` does; raises SyntaxError or tokenize.TokenError as gin does."""
    return list(config_parser.ConfigParser(text, _Unevaluated()))


def key(statement: config_parser.BindingStatement) -> str:
    """Returns the name that a statement binds, as `bindings` has it."""
    scope = f"{statement.scope}/" if statement.scope else ""
    argument = f".{statement.arg_name}" if statement.arg_name else ""
    return f"{scope}{statement.selector}{argument}"


def references(value: Any) -> Iterator[Reference]:
    """Returns the references in a value, however deep."""
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, dict):
        for item in (*value.keys(), *value.values()):
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)
