# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/clean_rules.md from the table of rules and the presets.

`python -m parti.pipelines.clean.rule_docs > docs/clean_rules.md`
"""

from collections.abc import Iterable, Sequence
from typing import Any

from parti.pipelines.clean import reasons as clean_reasons
from parti.pipelines.rules import presets, table

_INTRODUCTION = """\
# The rules of `parti clean`

Made from the table in `pipelines/rules/table.py` and the files in `pipelines/rules/preset_files`
by `python -m parti.pipelines.clean.rule_docs`; a test compares them.

A preset sets every value: `--preset NAME`, or `--preset my.yaml`. A flag changes one:
`--min_words 4`; `off` switches a rule off. To make a preset, copy one of
`pipelines/rules/preset_files`, or name it as base and give what differs:

```yaml
base: datacomp_basic
rules:
  min_words: 5
  languages: [en, de]
  drop_emails: true
```
"""


def page() -> str:
    """Returns the text of docs/clean_rules.md."""
    loaded = [presets.load_preset(name) for name in presets.preset_names()]
    parts = [_INTRODUCTION, "## Rules\n", "In the order in which they are applied.\n"]
    rows = [
        (f"`{r.name}`", r.explanation, f"`{r.setting.name}`", r.source)
        for r in table.RULES.values()
    ]
    parts.append(_table(("Reason", "What it drops", "Setting", "Source"), rows))
    parts.append("## Other reasons\n")
    parts.append("What cannot be read or fetched, and what `--decontaminate` finds.\n")
    others = {n: r for n, r in clean_reasons.REASONS.items() if n not in table.RULES}
    parts.append(_table(("Reason", "Why"), [(f"`{n}`", r.explanation) for n, r in others.items()]))
    parts.append("## Presets\n")
    parts.append("".join(f"- **{p.preset}**: {p.title}. {p.source}.\n" for p in loaded))
    parts.append("No value: off, or not read. Where one comes from stands beside it in the file.\n")
    values = [
        (
            f"`{name}`",
            f"{s.help}{f', {s.unit}' if s.unit else ''}",
            *(_cell(name, p) for p in loaded),
        )
        for name, s in table.SETTINGS.items()
    ]
    parts.append(_table(("Setting", "Meaning", *(p.preset for p in loaded)), values))
    parts.append("## What the published filters do and the presets do not\n")
    for preset in loaded:
        if preset.not_applied:
            parts.append(f"**{preset.title}**\n")
            parts.append("".join(f"- {row.title}: {row.why}.\n" for row in preset.not_applied))
    return "\n".join(parts)


def _cell(name: str, preset: presets.RuleSettings) -> str:
    value: Any = preset.values[name]
    if value in (table.SETTINGS[name].off, table.SETTINGS[name].initial):
        return ""
    if isinstance(value, tuple):
        return ", ".join(value) if len(value) == 1 else f"{len(value)} texts"
    return "yes" if value is True else f"{value:,}" if isinstance(value, int) else f"{value}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    print(page(), end="")
