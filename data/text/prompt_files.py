# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prompt files: a prompt a line (.txt), a table (.tsv, .csv, .parquet), or JSON (.jsonl, .json)."""

import collections
import dataclasses
import json
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from parti.data.text import captions, prompt_rows, prompt_settings, text_files
from parti.stages import files, json_text

SUFFIXES = prompt_rows.SUFFIXES  # endings of prompt files, in lower case
_MAX_ID = 60
_ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://")
_MAX_LINE = 1000  # characters of a line that is kept as it was


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


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A row of a prompt file that is no prompt."""

    where: str  # such as `line 3`
    reason: str
    # As JSON, mended; the beginning of a line that is none; None if JSON cannot write it
    row: Any

    def to_json(self) -> str:
        """Returns one line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)


def read_prompts(
    path_or_text: str | os.PathLike[str],
    notes: list[str] | None = None,
    rejected: list[Rejected] | None = None,
) -> list[Prompt]:
    """Reads a prompt file, or takes a text that is no file as the one prompt; prints nothing.

    - `.txt`: a prompt a line; blank lines and lines that begin with `#` are left out.
    - `.tsv`, `.csv`: a header with `Prompt` and, if known, `ID`, `Category` and `Challenge`; other
      columns go to the metadata. For separators and quotes see `text_files.read_table`.
    - `.parquet`: the same columns; for those that are left out see `text.parquet_rows`.
    - `.jsonl`, `.ndjson`: an object a line with `prompt` and optional `id`, `category`,
      `challenge`; other fields go to the metadata. `.json`: a list of such objects, or of texts.

    Columns or fields named as in `prompt_settings.NAMES` are settings of the prompt.

    Prompts without an id get `p00012-a-red-circle`: the position among the rows of the file that
    are not left out, good or bad (from 0), and the text. What UTF-8 or JSON cannot write is mended
    (`stages.json_text`).

    Args:
      path_or_text: the file, or a text.
      notes: gets a line about each kind of thing that was left out or mended, with its count.
      rejected: gets the bad rows: without a text, with an id that is none or given before, with
        more cells than columns, or no JSON. Without it the first one raises.

    Raises:
      FileNotFoundError: a path with one of these endings that does not exist.
      ValueError: a folder, a file without a good row, a missing column, what is not text, JSON or a
        table; a bad row, also one with a value that a setting cannot have; a field named as a flag
        of the whole run; it names file and line.
    """
    source = os.fspath(path_or_text).removeprefix(files.LOCAL_SCHEME)
    suffix = pathlib.Path(source).suffix.lower()
    is_remote = is_address(source)
    if os.path.isfile(source) or (is_remote and files.exists(source)):
        return parse_prompts(source, files.read_bytes(source), notes, rejected)
    if os.path.isdir(source) or (is_remote and files.is_dir(source)):
        raise ValueError(f"{source!r} is a folder; give a prompt file in it, or a text.")
    if suffix in SUFFIXES:
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
    return _prompts("The prompt", iter([("", {_TEXT: source})]), notes, None)


def is_address(path_or_text: str) -> bool:
    """Returns whether it is the address of a remote file, and not a prompt with `://` in it."""
    has_ending = pathlib.Path(path_or_text).suffix.lower() in SUFFIXES
    is_path = has_ending or not re.search(r"\s", path_or_text)
    return is_path and bool(_ADDRESS.match(path_or_text))


def parse_prompts(
    source: str,
    data: bytes,
    notes: list[str] | None = None,
    rejected: list[Rejected] | None = None,
) -> list[Prompt]:
    """Returns the prompts of a file, as `read_prompts`; ValueError also of another ending."""
    name, suffix = f"Prompt file {source!r}", pathlib.Path(source).suffix.lower()
    if suffix not in SUFFIXES:
        ending = f"ends in {suffix!r}" if suffix else "has no ending"
        raise ValueError(
            f"{name} {ending}; it must be one of {', '.join(SUFFIXES)}: rename it to what it is."
        )
    left_out: collections.Counter[str] = collections.Counter()
    try:
        rows, encoding = prompt_rows.read(suffix, data, left_out)
        prompts = _prompts(name, rows, notes, rejected)
    except text_files.BrokenFileError as error:
        raise ValueError(f"{name}, {error}.") from error
    if not prompts and rejected:
        raise ValueError(
            f"{name} holds no good prompts, {len(rejected)} bad ones; the first is "
            f"{rejected[0].where}: {rejected[0].reason}"
        )
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


_ID, _TEXT = "id", prompt_rows.TEXT
_OPTIONAL = ("category", "challenge")
_shown = prompt_rows.shown


def _role(name: str) -> str:
    """Returns which field of a prompt a name means, in letters of any case; else ""."""
    folded = name.strip().lower()
    return folded if folded in (_ID, _TEXT, *_OPTIONAL, *prompt_settings.NAMES) else ""


def _is_flag(name: str) -> bool:
    return name.strip().lower() in prompt_settings.OF_A_RUN


def _said(counts: collections.Counter[str], before: str = "", after: str = "") -> str:
    said = " and ".join(f"{num} {what}{'s' * (num > 1)}" for what, num in counts.items())
    return f"{before}{said}{after}" if said else ""


def _prompts(
    name: str, rows: prompt_rows.Rows, notes: list[str] | None, rejected: list[Rejected] | None
) -> list[Prompt]:
    """Returns the prompts of (where a row is, row); notes what was mended, collects bad rows."""
    prompts: list[Prompt] = []
    mended_at: list[str] = []
    places: dict[str, str] = {}  # of ids
    for index, (where, row) in enumerate(rows):
        at = f"{name}, {where}" if where else name
        try:
            prompt, is_mended = _read_row(index, row)
            if prompt.id in places:
                raise ValueError(
                    f"the file has the id {prompt.id!r} twice ({places[prompt.id]} and {where}); "
                    "leave ids out to have them made, or make them unique."
                )
        except ValueError as error:
            if rejected is None:
                raise ValueError(f"{at}: {error}") from error
            rejected.append(Rejected(where, str(error), _as_json(row)))
            continue
        if is_mended:
            mended_at.append(at)
        places[prompt.id] = where
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


def _read_row(index: int, row: Any) -> tuple[Prompt, bool]:
    """Returns the prompt of a row and whether it was mended; ValueError: a bad row."""
    if isinstance(row, prompt_rows.Broken):
        raise ValueError(row.reason)
    mended = json_text.mend(row)
    return _prompt(index, mended), mended != row


def _as_json(row: Any) -> Any:
    if isinstance(row, prompt_rows.Broken):
        row = row.text[:_MAX_LINE] if isinstance(row.text, str) else row.text
    try:
        return json_text.mend(row)
    except ValueError:
        return None


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
