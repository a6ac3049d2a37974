# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A binding of the command line as gin text of its own, with the imports that it needs.

Without imports, gin looks a name up among all that this process ever registered, each under the
name that the first file called it by; another configuration's `import ... as ...` would hide it.
"""

import dataclasses
from collections.abc import Iterator, Set
from typing import Any

from gin import config_parser

from parti.engine.config import gin_text


@dataclasses.dataclass(frozen=True)
class Configurable:
    """A function or class that a gin file names."""

    path: str  # 'parti.models.coca.network.CocaConfig'
    written: str  # as the file has it: 'network.CocaConfig'
    statement: str  # an import
    selector: str  # its name after this import

    def is_called(self, name: str) -> bool:
        """Returns whether a name, of one part or more, is the end of the path or of `written`."""
        return any(f".{own}".endswith(f".{name}") for own in (self.path, self.written))


def configurables(text: str) -> Iterator[Configurable]:
    """Returns what a gin text names and imports; includes are not followed."""
    statements = gin_text.statements(text)
    imports = {
        statement.bound_name(): statement
        for statement in statements
        if isinstance(statement, config_parser.ImportStatement)
    }
    for written in gin_text.selectors(statements):
        first, _, rest = written.partition(".")
        if first not in imports:  # gin's own
            continue
        found = imports[first]
        path = f"{found.module}.{rest}" if found.is_from or found.alias else written
        if found.is_from:  # By its path, so that two modules may share a name.
            yield Configurable(path, written, f"import {found.module}", path)
        else:
            yield Configurable(path, written, found.format(), written)


def self_contained(name: str, value: str, known: Set[Configurable]) -> str:
    """Returns `name = value` as gin text with imports.

    Args:
      name: a macro, or an argument of one of `known`.
      value: as gin text.
      known: what a name may be the end of; see `Configurable.is_called`.

    Raises:
      ValueError: a name is none of `known`, or of several.
      SyntaxError, tokenize.TokenError: the value is no gin literal.
    """
    text = f"{name} = {value}"
    statements = gin_text.parse(text)
    if len(statements) != 1 or not isinstance(statements[0], config_parser.BindingStatement):
        raise SyntaxError("not one binding")
    named = [s for s in gin_text.selectors(statements) if not s.startswith("gin.")]
    if not named:
        return text
    found = {selector: _find(selector, known) for selector in named}
    binding = statements[0]
    if binding.selector in found and binding.arg_name:
        renamed = found[binding.selector].selector
        name = gin_text.key(binding._replace(selector=renamed))
    if any(r.configurable in found for r in gin_text.references(binding.value)):
        value = repr(_renamed(binding.value, found))
    imports = sorted({configurable.statement for configurable in found.values()})
    return "\n".join(
        ["from __gin__ import dynamic_registration", *imports, f"{name} = {value}", ""]
    )


def _find(selector: str, known: Set[Configurable]) -> Configurable:
    matching = {c.path: c for c in sorted(known, key=repr) if c.is_called(selector)}
    if len(matching) > 1 and selector not in matching:
        raise ValueError(f"'{selector}' may be {' or '.join(matching)}; write more of the path")
    if not matching:
        raise ValueError(f"No configurable matching '{selector}'")
    return matching.get(selector) or next(iter(matching.values()))


def _renamed(value: Any, found: dict[str, Configurable]) -> Any:
    """Returns a value whose references, however deep, are by the names of `found`."""
    if isinstance(value, gin_text.Reference) and value.configurable in found:
        return value.to(found[value.configurable].selector)
    if isinstance(value, dict):
        return {_renamed(k, found): _renamed(v, found) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_renamed(item, found) for item in value)
    return value
