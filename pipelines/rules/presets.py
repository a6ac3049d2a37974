# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Presets of `parti clean`: published filters as YAML files, changed by flags.

A preset is a file of pipelines/rules/preset_files, or a user's own: `rules:` holds values for
`table.SETTINGS`, over those of the preset named in `base:`.
"""

import argparse
import dataclasses
import importlib.resources
from collections.abc import Mapping
from typing import Any

import yaml

from parti.data.text import languages, word_lists
from parti.pipelines.rules import rule, table
from parti.stages import files, manifests

_PRESETS = "parti.pipelines.rules.preset_files"
_KEYS = ("title", "source", "base", "rules", "not_applied")
_MAX_BASES = 8
_SWITCHES = ("switch", "choice", "file")  # kinds of settings that are no threshold
_METAVARS = {"names": "A,B", "file": "FILE", "switch": "BOOL", "count": "N", "number": "X"}


@dataclasses.dataclass(frozen=True)
class NotApplied:
    """A published rule that this preset lacks, and why it is not applied."""

    title: str
    why: str


@dataclasses.dataclass(frozen=True)
class RuleSettings:
    """A preset with the changes of the user."""

    preset: str  # its name, or the file that it came from
    title: str
    source: str  # where what it follows is published
    # A value for each of `table.SETTINGS`, and "image_size": the side of the output in pixels, 0 if
    # not known. A rule that is off has the value `Setting.off`.
    values: Mapping[str, Any]
    not_applied: tuple[NotApplied, ...] = ()  # what the published filters do and these rules do not

    def active(self) -> list[rule.Rule]:
        """Returns the rules that are applied, in their order."""
        return [row for row in table.RULES.values() if row.is_on(self.values)]

    def describe(self) -> list[dict[str, Any]]:
        """Returns what the report says of each active rule; a switch has no threshold."""
        values = self.to_dict()
        return [
            {
                "name": row.name,
                "stage": row.kind,
                "title": row.title,
                "explanation": row.explanation,
                "threshold": None if row.setting.kind in _SWITCHES else values[row.setting.name],
                "unit": row.setting.unit,
                "source": row.source,
            }
            for row in self.active()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns what decides the output, as JSON knows it."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in self.values.items()}
        return {"preset": self.preset, **values}

    def hash_files(self) -> dict[str, str]:
        """Returns the sha256 of the files that settings name, by setting."""
        return {name: manifests.hash_file(path) for name, path in self.named_files().items()}

    def named_files(self) -> dict[str, str]:
        """Returns the files that settings name, by setting."""
        names = (name for name, setting in table.SETTINGS.items() if setting.kind == "file")
        return {name: self.values[name] for name in names if self.values[name]}


def preset_names() -> list[str]:
    """Returns the names of the presets of the package."""
    folder = importlib.resources.files(_PRESETS)
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def load_preset(
    name_or_path: str, changes: Mapping[str, Any] | None = None, image_size: int = 0
) -> RuleSettings:
    """Reads a preset (one of `preset_names()`, or a YAML file) and applies changes.

    `changes` are values as flags or YAML give them, over the preset's; `image_size` is the side of
    the output in pixels, 0 if no picture is too small for it.

    Raises:
      ValueError: no such preset or setting, or a value out of range; one line.
      FileNotFoundError: the YAML file, or a file that a rule needs, is not there.
    """
    chain: list[tuple[str, dict[str, Any]]] = []  # name and content, of the preset and its bases
    name = name_or_path
    while name:
        if len(chain) == _MAX_BASES:
            raise ValueError(f"--preset={name_or_path}: a base of itself, or too many bases")
        chain.append((name, _parse(name, _text(name))))
        name = chain[-1][1].get("base") or ""
    values = {name: setting.initial for name, setting in table.SETTINGS.items()}
    for where, content in reversed(chain):
        values |= _parsed(content.get("rules") or {}, f"{where}: ")
    values |= _parsed(changes or {}, "--")
    _check_complete(values)
    own = chain[0][1]
    return RuleSettings(
        preset=name_or_path,
        title=str(own.get("title") or name_or_path),
        source=str(own.get("source") or ""),
        values={**values, "image_size": image_size},
        not_applied=tuple(
            NotApplied(str(row["what"]), str(row["why"]))
            for row in own.get("not_applied") or []  # not of a base, which may be made up for
            if not values.get(row.get("unless", ""))  # a file that makes up for it
        ),
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --preset and a flag for each setting to a parser; see `flag_changes`."""
    group = parser.add_argument_group(
        "rules", "--preset sets them all; a flag here changes one (off switches it off)"
    )
    group.add_argument(
        "--preset", default="default", help=f"{', '.join(preset_names())}, or a .yaml file"
    )
    for setting in table.SETTINGS.values():
        unit = f", in {setting.unit}" if setting.unit else ""
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if setting.kind == "switch" else {}
        metavar = _METAVARS.get(setting.kind) or "|".join((*setting.choices, "none"))
        group.add_argument(f"--{setting.name}", help=setting.help + unit, metavar=metavar, **switch)


def flag_changes(flags: argparse.Namespace) -> dict[str, str]:
    """Returns the settings that were given as flags of `add_flags`."""
    given = {name: getattr(flags, name, None) for name in table.SETTINGS}
    return {name: value for name, value in given.items() if value is not None}


def _text(name: str) -> str:
    if name in preset_names():
        return (importlib.resources.files(_PRESETS) / f"{name}.yaml").read_text("utf-8")
    if not name.endswith((".yaml", ".yml")):
        help = rule.suggestion(name, preset_names())
        raise ValueError(f"--preset={name}: {help}, or give a .yaml file")
    if not files.exists(name):
        raise FileNotFoundError(f"--preset={name}: no such file; check the path")
    try:
        return files.read_bytes(name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 text; save it as UTF-8") from error


def _parse(where: str, text: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ValueError(f"{where}{line}: {problem}") from error
    if not isinstance(content, dict) or not isinstance(content.get("rules") or {}, dict):
        raise ValueError(f"{where}: needs a line `rules:` and below it `name: value`")
    for key in content:
        if key not in _KEYS:
            raise ValueError(f"{where}: {key}: {rule.suggestion(str(key), _KEYS)}")
    rows = content.get("not_applied") or []
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and {"what", "why"} <= set(row) <= {"what", "why", "unless"}
        for row in rows
    ):
        raise ValueError(f"{where}: not_applied: give a list of `what: ..., why: ...`")
    return content


def _parsed(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    parsed = {}
    for name, value in values.items():
        if name not in table.SETTINGS:
            raise ValueError(f"{where}{name}: {rule.suggestion(str(name), table.SETTINGS)}")
        try:
            parsed[name] = table.SETTINGS[name].parse(value)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error
    return parsed


def _check_complete(values: Mapping[str, Any]) -> None:
    """Checks what rules need of each other, that files are there, and codes of languages."""
    if values["languages"]:
        rule.check_names("--languages", values["languages"], languages.codes())
    for row in table.RULES.values():
        own = row.setting
        off = [needed for needed in row.needs if needed.is_off(values)]
        if off and values[own.name] not in (own.off, own.initial):
            raise ValueError(
                f"--{own.name} needs --{off[0].name} ({off[0].help}); "
                f"--{own.name}=off switches the rule off"
            )
    for setting in table.SETTINGS.values():
        path = values[setting.name]
        if setting.kind == "file" and path and not files.exists(path):
            raise FileNotFoundError(f"--{setting.name}={path}: no such file; check the path")
    if values["unwanted_words_file"]:
        word_lists.load_words(values["unwanted_words_file"])
