# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Presets of `parti clean`: published filters as YAML files, changed by flags.

A preset is a file of pipelines/presets, or a user's own: `rules:` holds values for
`rule_settings.SETTINGS`, over those of the preset named in `base:`.
"""

import argparse
import dataclasses
import importlib.resources
from collections.abc import Mapping
from typing import Any

import yaml

from parti.data.text import languages, word_lists
from parti.pipelines.rules import caption_rules, image_rules
from parti.pipelines.rules import settings as rule_settings
from parti.stages import files, manifests

RULES = {rule.name: rule for rule in (*caption_rules.RULES, *image_rules.RULES)}
SETTINGS = rule_settings.SETTINGS

_PRESETS = "parti.pipelines.rules.preset_files"
_KEYS = ("title", "source", "base", "rules", "not_applied")
_MAX_BASES = 8
_METAVARS = {"names": "A,B", "file": "FILE", "switch": "BOOL", "count": "N", "number": "X"}


@dataclasses.dataclass(frozen=True)
class NotApplied:
    """A published rule that this preset lacks: its title, and why it is not applied."""

    title: str
    why: str


@dataclasses.dataclass(frozen=True)
class RuleSettings:
    """A preset with the changes that were asked for.

    Attributes:
      preset: its name, or the file that it came from.
      title: what the preset follows.
      source: where that is published.
      values: a value for each of `SETTINGS`, and "image_size": the side of the output in pixels, 0
        if not known. A rule that is off has the value `Setting.off`.
      not_applied: what the published filters do and these rules do not.
    """

    preset: str
    title: str
    source: str
    values: Mapping[str, Any]
    not_applied: tuple[NotApplied, ...] = ()

    def active(self) -> list[rule_settings.Rule]:
        """Returns the rules that are applied, in their order."""
        return [rule for rule in RULES.values() if rule.is_on(self.values)]

    def to_dict(self) -> dict[str, Any]:
        """Returns what decides the output, as JSON knows it."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in self.values.items()}
        return {"preset": self.preset, **values}

    def hash_files(self) -> dict[str, str]:
        """Returns the sha256 of the files that settings name, by setting."""
        named = {name: path for name, path in self.values.items() if path and _is_file(name)}
        return {name: manifests.hash_file(path) for name, path in named.items()}


def _is_file(setting: str) -> bool:
    return setting in SETTINGS and SETTINGS[setting].kind == "file"


def preset_names() -> list[str]:
    """Returns the names of the presets that come with the package."""
    folder = importlib.resources.files(_PRESETS)
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def load_preset(
    name_or_path: str, changes: Mapping[str, Any] | None = None, image_size: int = 0
) -> RuleSettings:
    """Reads a preset and applies changes.

    Args:
      name_or_path: one of `preset_names()`, or a YAML file.
      changes: setting -> value as a flag or YAML gives it, over the preset's.
      image_size: side of the output in pixels; 0: no picture is too small for it.

    Raises:
      ValueError: no such preset or setting, or a value out of range; one line.
      FileNotFoundError: the YAML file, or a file that a rule needs, is not there.
    """
    content = _read(name_or_path)
    values = {name: setting.initial for name, setting in SETTINGS.items()}
    values = {k: SETTINGS[k].off if v is None else v for k, v in values.items()}
    for where, rules in content["rules"]:
        values |= _checked(rules, f"{where}: ")
    values |= _checked(changes or {}, "--")
    _check_complete(values)
    missing = [
        NotApplied(str(row["what"]), str(row["why"]))
        for row in content["not_applied"]
        if not values.get(row.get("unless", ""))  # a file that makes up for it
    ]
    return RuleSettings(
        preset=name_or_path,
        title=content["title"],
        source=content["source"],
        values={**values, "image_size": image_size},
        not_applied=tuple(missing),
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --preset and a flag for each setting to a parser; see `flag_changes`."""
    group = parser.add_argument_group(
        "rules", "--preset sets them all; a flag here changes one (off switches it off)"
    )
    group.add_argument(
        "--preset", default="default", help=f"{', '.join(preset_names())}, or a .yaml file"
    )
    for setting in SETTINGS.values():
        unit = f", in {setting.unit}" if setting.unit else ""
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if setting.kind == "switch" else {}
        metavar = _METAVARS.get(setting.kind) or "|".join((*setting.choices, "none"))
        group.add_argument(f"--{setting.name}", help=setting.help + unit, metavar=metavar, **switch)


def flag_changes(flags: argparse.Namespace) -> dict[str, str]:
    """Returns the settings that were given as flags of `add_flags`."""
    given = {name: getattr(flags, name, None) for name in SETTINGS}
    return {name: value for name, value in given.items() if value is not None}


def _read(name_or_path: str) -> dict[str, Any]:
    """Returns a preset with its bases: title, source, rules [(where, {name: value})], not_applied.

    Of not_applied only the preset's own rows count: a base may be made up for.
    """
    chain: list[tuple[str, dict[str, Any]]] = []
    name = name_or_path
    while name:
        if len(chain) == _MAX_BASES:
            raise ValueError(f"--preset={name_or_path}: a base of itself, or too many bases")
        where, text = _text(name)
        chain.append((where, _parse(where, text)))
        name = chain[-1][1].get("base") or ""
    own = chain[0][1]
    return {
        "title": str(own.get("title") or name_or_path),
        "source": str(own.get("source") or ""),
        "rules": [(where, content.get("rules") or {}) for where, content in reversed(chain)],
        "not_applied": own.get("not_applied") or [],
    }


def _text(name: str) -> tuple[str, str]:
    """Returns what to call a preset in messages, and its text."""
    if name in preset_names():
        file = importlib.resources.files(_PRESETS) / f"{name}.yaml"
        return name, file.read_text("utf-8")
    if not name.endswith((".yaml", ".yml")):
        help = rule_settings.suggestion(name, preset_names())
        raise ValueError(f"--preset={name}: {help}, or give a .yaml file")
    if not files.exists(name):
        raise FileNotFoundError(f"--preset={name}: no such file; check the path")
    try:
        return name, files.read_bytes(name).decode("utf-8")
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
            raise ValueError(f"{where}: {key}: {rule_settings.suggestion(str(key), _KEYS)}")
    rows = content.get("not_applied") or []
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and {"what", "why"} <= set(row) <= {"what", "why", "unless"}
        for row in rows
    ):
        raise ValueError(f"{where}: not_applied: give a list of `what: ..., why: ...`")
    return content


def _checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    checked = {}
    for name, value in values.items():
        if name not in SETTINGS:
            raise ValueError(f"{where}{name}: {rule_settings.suggestion(str(name), SETTINGS)}")
        try:
            checked[name] = rule_settings.check(name, value)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error
    return checked


def _check_complete(values: Mapping[str, Any]) -> None:
    """Checks that no rule lacks what it reads, that files are there, and codes of languages."""
    if values["languages"]:
        rule_settings.check_names("--languages", values["languages"], languages.codes())
    for rule in RULES.values():
        setting = SETTINGS[rule.setting]
        if values[rule.setting] in (setting.off, setting.initial):
            continue
        for name in rule.reads:
            if values[name] == SETTINGS[name].off:
                raise ValueError(
                    f"--{rule.setting} needs --{name} ({SETTINGS[name].help}); "
                    f"--{rule.setting}=off switches the rule off"
                )
    for setting in SETTINGS.values():
        path = values[setting.name]
        if setting.kind == "file" and path and not files.exists(path):
            raise FileNotFoundError(f"--{setting.name}={path}: no such file; check the path")
    if values["unwanted_words_file"]:
        word_lists.load_words(values["unwanted_words_file"])
