# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prompt files: one prompt a line (.txt), PartiPrompts columns (.tsv), or JSON lines (.jsonl)."""

import collections
import csv
import dataclasses
import io
import json
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

_MAX_ID = 60


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A text to draw."""

    id: str  # unique in its file, and fit to be a file name
    text: str  # the prompt
    category: str = ""  # PartiPrompts' category ("Animals"), or empty
    challenge: str = ""  # PartiPrompts' challenge ("Quantity"), or empty
    # Further fields of a .jsonl line, such as the true `scene`
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_prompts(path_or_text: str | os.PathLike[str]) -> list[Prompt]:
    """Reads a prompt file, or takes a text that is no file as the one prompt.

    - `.txt`: a prompt a line.
    - `.tsv`: a header with `Prompt` and, if known, `Category` and `Challenge`; other columns go to
      the metadata. The prompts may hold quotes; there is no quoting.
    - `.jsonl`: an object a line with `prompt` and optional `id`, `category`, `challenge`; other
      fields go to the metadata.

    Prompts without an id get `p00012-a-red-circle`: the position in the file (from 0) and the text.

    Raises:
      FileNotFoundError: a path with one of these endings that does not exist.
      ValueError: a folder, an empty file or prompt, a missing column or field, or an id twice.
    """
    source = os.fspath(path_or_text)
    suffix = pathlib.Path(source).suffix.lower()
    if not os.path.isfile(source):
        if os.path.isdir(source):
            raise ValueError(f"{source!r} is a folder; give a prompt file in it, or a text.")
        if suffix in _READERS:
            raise FileNotFoundError(f"No prompt file {source!r}; check the path.")
        if isinstance(path_or_text, os.PathLike) or "/" in source and not re.search(r"\s", source):
            raise FileNotFoundError(
                f"No prompt file {source!r}; check the path (a prompt itself needs no slash)."
            )
        if not source.strip():
            raise ValueError("The prompt is empty; give a text or a prompt file.")
        return [_prompt(0, source.strip(), {})]
    return parse_prompts(source, pathlib.Path(source).read_bytes())


def parse_prompts(source: str, data: bytes) -> list[Prompt]:
    """Returns the prompts of a file, as `read_prompts`; ValueError also of another ending."""
    suffix = pathlib.Path(source).suffix.lower()
    if suffix not in _READERS:
        allowed = ", ".join(_READERS)
        raise ValueError(f"Prompt file {source!r} ends in {suffix!r}; it must be one of {allowed}.")
    try:
        text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise ValueError(f"Prompt file {source!r} is not UTF-8: {error.reason}.") from error
    lines = text.rstrip().split("\n")  # not splitlines: a prompt may hold other line separators
    prompts = _READERS[suffix](source, lines) if lines != [""] else []
    if not prompts:
        raise ValueError(f"Prompt file {source!r} holds no prompts; put one on each line.")
    repeated = [name for name, num in collections.Counter(p.id for p in prompts).items() if num > 1]
    if repeated:
        raise ValueError(
            f"Prompt file {source!r} gives the id {repeated[0]!r} twice; leave ids out to have "
            "them made, or make them unique."
        )
    return prompts


def write_prompts(path: str | os.PathLike[str], prompts: Iterable[Prompt]) -> int:
    """Writes a .jsonl prompt file that `read_prompts` reads back equal.

    ValueError: a prompt's metadata uses a name that a field of the file has.
    """
    lines = []
    for prompt in prompts:
        row = {"id": prompt.id, "prompt": prompt.text}
        row |= {name: getattr(prompt, name) for name in _OPTIONAL if getattr(prompt, name)}
        if clash := sorted({"id", "prompt", *_OPTIONAL} & set(prompt.metadata)):
            raise ValueError(f"Metadata of prompt {prompt.id!r} uses reserved names {clash}.")
        lines.append(json.dumps(row | prompt.metadata, ensure_ascii=False) + "\n")
    pathlib.Path(path).write_text("".join(lines), encoding="utf-8")
    return len(lines)


_OPTIONAL = ("category", "challenge")


def _prompt(index: int, text: str, row: dict[str, Any]) -> Prompt:
    """Returns a prompt with an id made of its position and text, of the rest of its row."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")
    name = f"p{index:05d}-{slug}"[:_MAX_ID].rstrip("-")
    fields: dict[str, Any] = {field: str(row.pop(field, "") or "") for field in _OPTIONAL}
    return Prompt(name, text, **fields, metadata=row)


def _check_not_empty(where: str, text: str) -> None:
    if not text.strip():
        raise ValueError(f"{where}: the prompt is empty; write one or remove the line.")


def _read_txt(source: str, lines: list[str]) -> list[Prompt]:
    for number, line in enumerate(lines, start=1):
        _check_not_empty(f"Prompt file {source!r}, line {number}", line)
    return [_prompt(index, line.strip(), {}) for index, line in enumerate(lines)]


def _read_tsv(source: str, lines: list[str]) -> list[Prompt]:
    rows: csv.DictReader[str] = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    columns = {name.strip().lower(): name for name in rows.fieldnames or [] if name}
    if "prompt" not in columns:
        raise ValueError(
            f"Prompt file {source!r} has the columns {list(columns.values())}; the first line must "
            "name a column `Prompt` (columns are divided by tabs)."
        )
    prompts: list[Prompt] = []
    for index, row in enumerate(rows):
        values = {key: (row[name] or "").strip() for key, name in columns.items()}
        text = values.pop("prompt")
        _check_not_empty(f"Prompt file {source!r}, line {rows.line_num}", text)
        prompts.append(_prompt(index, text, {key: value for key, value in values.items() if value}))
    return prompts


def _read_jsonl(source: str, lines: list[str]) -> list[Prompt]:
    prompts: list[Prompt] = []
    for number, line in enumerate(lines, start=1):
        where = f"Prompt file {source!r}, line {number}"
        _check_not_empty(where, line)
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON: {error}") from error
        text = row.pop("prompt", None) if isinstance(row, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f'{where}: it must be an object with a text under "prompt".')
        given_id = row.pop("id", None)
        prompt = _prompt(len(prompts), text.strip(), row)
        if given_id is not None:
            prompt = dataclasses.replace(prompt, id=str(given_id))
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", prompt.id):
                raise ValueError(
                    f"{where}: id {prompt.id!r} cannot be a file name; use letters, digits, dots, "
                    "dashes and underscores, 100 at most."
                )
        prompts.append(prompt)
    return prompts


_READERS = {".txt": _read_txt, ".tsv": _read_tsv, ".jsonl": _read_jsonl}
