# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prompt files: a prompt a line (.txt), a table (.tsv, .csv), or JSON (.jsonl, .json)."""

import collections
import dataclasses
import json
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from parti.data.text import captions, prompt_settings, text_files
from parti.stages import files, json_text

_MAX_ID = 60
_ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://")
_MAX_SHOWN = 120  # characters of a value in a message
_BLANK = "blank line"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A text to draw."""

    id: str  # unique in its file, and fit to be a file name
    text: str  # the prompt
    category: str = ""  # PartiPrompts' category ("Animals"), or empty
    challenge: str = ""  # PartiPrompts' challenge ("Quantity"), or empty
    # Further fields of a .jsonl line, such as the true `scene`
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    # Settings of its own, of `prompt_settings.NAMES`; for the others those of the run hold
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def drawing(self) -> tuple[str, str]:
        """What its images depend on, of what the prompt says: text and settings."""
        return self.text, json.dumps(self.settings, sort_keys=True)


def read_prompts(
    path_or_text: str | os.PathLike[str], notes: list[str] | None = None
) -> list[Prompt]:
    """Reads a prompt file, or takes a text that is no file as the one prompt; prints nothing.

    - `.txt`: a prompt a line; blank lines and lines that begin with `#` are left out.
    - `.tsv`, `.csv`: a header with `Prompt` and, if known, `ID`, `Category` and `Challenge`; other
      columns go to the metadata. For separators and quotes see `text_files.read_table`.
    - `.jsonl`, `.ndjson`: an object a line with `prompt` and optional `id`, `category`,
      `challenge`; other fields go to the metadata. `.json`: a list of such objects, or of texts.

    Columns or fields named as in `prompt_settings.NAMES` are settings of the prompt.

    Prompts without an id get `p00012-a-red-circle`: the position among the prompts of the file
    (from 0) and the text. What UTF-8 or JSON cannot write is mended (`stages.json_text`).

    Args:
      path_or_text: the file, or a text.
      notes: gets a line about each kind of thing that was left out or mended, with its count.

    Raises:
      FileNotFoundError: a path with one of these endings that does not exist.
      ValueError: a folder, an empty file or prompt, a missing column or field, an id twice, what is
        not text, JSON or a table, a value that a setting cannot have or a field named as a flag of
        the whole run; it names file and line.
    """
    source = os.fspath(path_or_text).removeprefix(files.LOCAL_SCHEME)
    suffix = pathlib.Path(source).suffix.lower()
    is_remote = is_address(source)
    if os.path.isfile(source) or (is_remote and files.exists(source)):
        return parse_prompts(source, files.read_bytes(source), notes)
    if os.path.isdir(source) or (is_remote and files.is_dir(source)):
        raise ValueError(f"{source!r} is a folder; give a prompt file in it, or a text.")
    if suffix in _READERS:
        raise FileNotFoundError(f"No prompt file {source!r}; check the path.")
    if isinstance(path_or_text, os.PathLike) or "/" in source and not re.search(r"\s", source):
        raise FileNotFoundError(
            f"No prompt file {source!r}; check the path (a prompt itself needs no slash)."
        )
    if not source.strip():
        raise ValueError("The prompt is empty; give a text or a prompt file.")
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The prompt {source!r} is not UTF-8 at character {error.start + 1}; give it in a "
            "file, or set the terminal to UTF-8."
        ) from error
    return _prompts("The prompt", iter([("The prompt", {_TEXT: source})]), notes)


def is_address(path_or_text: str) -> bool:
    """Returns whether it is the address of a remote file, and not a prompt with `://` in it."""
    has_ending = pathlib.Path(path_or_text).suffix.lower() in _READERS
    is_path = has_ending or not re.search(r"\s", path_or_text)
    return is_path and bool(_ADDRESS.match(path_or_text))


def parse_prompts(source: str, data: bytes, notes: list[str] | None = None) -> list[Prompt]:
    """Returns the prompts of a file, as `read_prompts`; ValueError also of another ending."""
    name, suffix = f"Prompt file {source!r}", pathlib.Path(source).suffix.lower()
    if suffix not in _READERS:
        ending = f"ends in {suffix!r}" if suffix else "has no ending"
        raise ValueError(
            f"{name} {ending}; it must be one of {', '.join(_READERS)}: rename it to what it is."
        )
    left_out: collections.Counter[str] = collections.Counter()
    try:
        text, encoding = text_files.decode(data)
        rows = _READERS[suffix](text.rstrip(), left_out) if text.strip() else iter(())
        prompts = _prompts(name, ((f"{name}, {where}", row) for where, row in rows), notes)
    except text_files.BrokenFileError as error:
        raise ValueError(f"{name}, {error}.") from error
    if not prompts:
        raise ValueError(
            f"{name} holds no prompts; put one on each line{_said(left_out, ' (', ' left out)')}."
        )
    if notes is not None and left_out:
        notes.append(f"{name}: left out {_said(left_out)}")
    if notes is not None and not encoding.startswith("utf-8"):
        notes.append(f"{name}: read as {encoding.upper()}, as it says itself")
    return prompts


def count_equal(prompts: Iterable[Prompt]) -> int:
    """Returns how many prompts have text and settings of an earlier one."""
    counts = collections.Counter(prompt.drawing for prompt in prompts)
    return counts.total() - len(counts)


def write_prompts(path: str | os.PathLike[str], prompts: Iterable[Prompt]) -> int:
    """Writes a .jsonl prompt file that `read_prompts` reads back equal.

    ValueError: a prompt's metadata uses a name that a field of the file has, or is not JSON.
    """
    lines = []
    for prompt in prompts:
        row = {_ID: prompt.id, _TEXT: prompt.text}
        row |= {name: getattr(prompt, name) for name in _OPTIONAL if getattr(prompt, name)}
        row |= prompt.settings
        if clash := sorted(name for name in prompt.metadata if _role(name) or _is_flag(name)):
            raise ValueError(f"Metadata of prompt {prompt.id!r} uses reserved names {clash}.")
        try:
            text = json.dumps(row | prompt.metadata, ensure_ascii=False, allow_nan=False) + "\n"
            lines.append(text.encode())
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"Prompt {prompt.id!r} cannot be written: {error}") from error
    files.write_bytes(path, b"".join(lines))
    return len(lines)


_ID, _TEXT = "id", "prompt"
_OPTIONAL = ("category", "challenge")


def _role(name: str) -> str:
    """Returns which field of a prompt a name means, in letters of any case; else ""."""
    folded = name.strip().lower()
    return folded if folded in (_ID, _TEXT, *_OPTIONAL, *prompt_settings.NAMES) else ""


def _is_flag(name: str) -> bool:
    return name.strip().lower() in prompt_settings.OF_A_RUN


def _said(counts: collections.Counter[str], before: str = "", after: str = "") -> str:
    said = " and ".join(f"{num} {what}{'s' * (num > 1)}" for what, num in counts.items())
    return f"{before}{said}{after}" if said else ""


def _prompts(name: str, rows: Iterator[tuple[str, Any]], notes: list[str] | None) -> list[Prompt]:
    """Returns the prompts of (where a row is, row); notes what was mended."""
    prompts: list[Prompt] = []
    mended_at: list[str] = []
    places: dict[str, str] = {}  # of ids
    for where, row in rows:
        try:
            mended = json_text.mend(row)
            prompt = _prompt(len(prompts), mended)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if mended != row:
            mended_at.append(where)
        if prompt.id in places:
            raise ValueError(
                f"{name} gives the id {prompt.id!r} twice ({places[prompt.id]} and "
                f"{where.removeprefix(f'{name}, ')}); leave ids out to have them made, or make "
                "them unique."
            )
        places[prompt.id] = where.removeprefix(f"{name}, ")
        prompts.append(prompt)
    if notes is not None and mended_at:
        count = f"{len(mended_at)} prompt{'s' * (len(mended_at) > 1)}"
        notes.append(f"{mended_at[0]}: mended ({json_text.RULE}), in all {count}")
    if notes is not None and (flags := [p.id for p in prompts if p.text.startswith("--")]):
        notes.append(f"{name}: flags are not read, {flags[0]!r} is drawn as it is written")
    if notes is not None and (
        none := [p.text for p in prompts if captions.find_placeholder(p.text)]
    ):
        what = f"{len(none)} prompt{'s' * (len(none) > 1)} such as {none[0]!r}"
        notes.append(f"{name}: {what}, which is what programs write for no text, drawn as written")
    return prompts


def _prompt(index: int, row: Any) -> Prompt:
    """Returns the prompt of a row, by default with an id made of its position and text.

    ValueError: there is no text, a field is given twice or named as a flag, the id cannot be a file
    name, or a setting cannot have its value.
    """
    if not isinstance(row, dict):
        raise ValueError(f'it must be an object with a text under "{_TEXT}"; it is {_shown(row)}.')
    if flags := [name for name in row if _is_flag(name)]:
        raise ValueError(
            f"{_shown(flags[0])} is not of one prompt but of a whole run; leave it out, and give "
            f"--{flags[0].strip().lower()} to `parti generate`, or name it otherwise."
        )
    fields: dict[str, Any] = {}
    for name in [name for name in row if _role(name)]:
        if _role(name) in fields:
            raise ValueError(f"{_role(name)!r} is given twice; leave one.")
        fields[_role(name)] = row[name]
    text = fields.get(_TEXT)
    if not isinstance(text, str):
        found = f"that is {_shown(text)}" if _TEXT in fields else f"it has {_shown(list(row))}"
        raise ValueError(f'it must be an object with a text under "{_TEXT}"; {found}.')
    text = text.strip()
    if not text:
        raise ValueError("the prompt is empty; write one or remove the line.")
    metadata = {name: value for name, value in row.items() if not _role(name)}
    optional = {name: str(fields.get(name) or "") for name in _OPTIONAL}
    settings = prompt_settings.read(fields)
    own_id = _id(index, text, fields.get(_ID))
    return Prompt(own_id, text, **optional, metadata=metadata, settings=settings)


def _id(index: int, text: str, given: Any) -> str:
    if given is None:
        ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        slug = re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")
        return f"p{index:05d}-{slug}"[:_MAX_ID].rstrip("-")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", str(given)):
        raise ValueError(
            f"id {_shown(str(given))} cannot be a file name; use letters, digits, dots, dashes and "
            "underscores, 100 at most."
        )
    return str(given)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."


# The readers yield (where a row is, row) and count what they leave out by its name. A row is an
# object with the fields of a prompt, or something else that `_prompt` refuses.
_Rows = Iterator[tuple[str, Any]]
_LeftOut = collections.Counter[str]


def _read_txt(text: str, left_out: _LeftOut) -> _Rows:
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            left_out["comment" if line else _BLANK] += 1
        else:
            yield f"line {number}", {_TEXT: line}


def _read_tsv(text: str, left_out: _LeftOut) -> _Rows:
    return _read_table(text, "\t", left_out)


def _read_csv(text: str, left_out: _LeftOut) -> _Rows:
    return _read_table(text, ",", left_out)


def _read_table(text: str, separator: str, left_out: _LeftOut) -> _Rows:
    rows = text_files.read_table(text, _TEXT, separator)
    names = [json_text.mend_text(name).strip().lower() for name in next(rows, (1, []))[1]]
    named = [name for name in names if name]
    if _TEXT not in named:
        raise text_files.BrokenFileError(
            f"the first line: it has the columns {_shown(named)}; it must name a column `Prompt`"
        )
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise text_files.BrokenFileError(f"the first line: it has two columns {_shown(twice)}")
    for number, cells in rows:
        if not any(cells):
            left_out[_BLANK] += 1
            continue
        if any(cells[len(names) :]):
            raise text_files.BrokenFileError(
                f"line {number}: {len(cells)} cells for {len(names)} columns; put quotes around a "
                "cell that holds the separator"
            )
        row = {name: cell for name, cell in zip(names, cells) if name and cell}
        yield f"line {number}", {_TEXT: "", **row}
    if unnamed := len(names) - len(named):
        left_out["nameless column"] = unnamed


def _read_jsonl(text: str, left_out: _LeftOut) -> _Rows:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _parse(line, f"line {number}")
        else:
            left_out[_BLANK] += 1


def _read_json(text: str, left_out: _LeftOut) -> _Rows:
    values = _parse(text, "read whole")
    if not isinstance(values, list):
        raise text_files.BrokenFileError(
            "read whole: it must be a list of texts or objects; with an object a line, call it "
            ".jsonl"
        )
    for number, value in enumerate(values, start=1):
        yield f"entry {number}", {_TEXT: value} if isinstance(value, str) else value


def _parse(text: str, where: str) -> Any:
    try:
        return json_text.parse(text)
    except ValueError as error:
        raise text_files.BrokenFileError(f"{where}: {error}") from error


_READERS = {
    ".txt": _read_txt,
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
}
SUFFIXES = tuple(_READERS)  # endings of prompt files, in lower case
