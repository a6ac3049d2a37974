# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`manifest.json`, which the output of every stage has once it is whole: what it is, made of what.

Its `fingerprint` names the content: what reads an output records it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from parti.stages import files
from parti.stages.version import VERSION

FILE_NAME = "manifest.json"
SCHEMA_VERSION = 1
UNFINISHED_SUFFIX = ".unfinished"

# Kind of output -> the command that makes it, for messages.
COMMANDS = {
    "scenes": "parti scenes",
    "pairs": "parti clean",
    "vocabulary": "parti vocab",
    "tokens": "parti tokenize",
    "pictures": "parti detokenize",
    "scores": "parti infer",
    "generations": "parti generate",
    "evaluation": "parti evaluate",
    "reconstructions": "parti evaluate --reconstructions",
    "training": "parti train",
    "bundle": "parti export",
    "prompts": "parti prompts",
}


def command_for(kind: str) -> str:
    """Returns the command that makes an output of this kind, e.g. `parti clean`."""
    return COMMANDS.get(kind, f"the command that makes {kind}")


def digest(value: Any) -> str:
    """Returns the sha256 hex digest of a JSON value in canonical form (keys sorted)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: files.Path) -> str:
    """Returns the sha256 hex digest of a file's bytes."""
    with files.open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def hash_files(directory: files.Path) -> dict[str, str]:
    """Returns {relative path: sha256} of a folder's files, except dot files and the manifest."""
    root = files.absolute(directory)
    paths = {entry.path[len(root) + 1 :]: entry.path for entry in files.walk(root)}
    names = [
        name
        for name in paths
        if name != FILE_NAME and not any(part.startswith(".") for part in name.split("/"))
    ]
    return dict(zip(names, files.each(hash_file, [paths[name] for name in names])))


def write(
    directory: files.Path,
    kind: str,
    *,
    counts: Mapping[str, Any],
    settings: Mapping[str, Any],
    content: Any,
    inputs: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes `manifest.json` atomically; call it last, when every other file is written.

    Args:
      kind: what the folder holds; a key of `COMMANDS`.
      counts: how many of what, e.g. {"train": 3031, "validation": 159}.
      settings: every setting that decides the bytes (no output path, no worker count, no time).
      content: a JSON summary of the content, normally `hash_files(directory)`.
      inputs: where the input came from (patterns, fingerprints); recorded, not fingerprinted.
      extra: further top-level fields, e.g. {"tokenizer_fingerprint": ...}.
    """
    body = {"kind": kind, "schema_version": SCHEMA_VERSION, "settings": settings}
    manifest = {
        **body,
        "code_version": VERSION,
        "created_by": command_for(kind),
        "counts": counts,
        "inputs": inputs or {},
        "fingerprint": digest({**body, "content": content}),
        **(extra or {}),
    }
    write_json(files.join(directory, FILE_NAME), manifest)
    return manifest


def read(directory: files.Path, kind: str) -> dict[str, Any]:
    """Returns the manifest of a finished output.

    Raises:
      FileNotFoundError: there is no such output, or it was never finished.
      ValueError: the folder holds another kind or a newer schema, or the manifest is damaged.
    """
    folder = os.fspath(directory)
    command = command_for(kind)
    path = files.join(folder, FILE_NAME)
    if not files.exists(path):
        begun = files.is_dir(files.absolute(folder) + UNFINISHED_SUFFIX)
        if begun or (kind == "training" and files.exists(files.join(folder, "config.gin"))):
            raise FileNotFoundError(f"{folder}: `{command}` has not finished; run it again")
        if files.is_dir(folder):
            raise FileNotFoundError(f"{folder}: no {FILE_NAME} here; `{command}` makes {kind}")
        raise FileNotFoundError(f"{folder}: no such folder; `{command}` makes it")
    manifest = read_json(path, f"make the output again with `{command}`")
    found = manifest.get("kind", "something else")
    if found != kind:
        raise ValueError(f"{folder}: holds {found}, not {kind} (`{command}`)")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{folder}: schema version {manifest.get('schema_version')}, this code reads "
            f"{SCHEMA_VERSION}; make it again with `{command}`"
        )
    return manifest


def read_json(path: files.Path, remedy: str) -> dict[str, Any]:
    """Returns the JSON object in a file; {} if there is no such file.

    Raises:
      ValueError: the file cannot be read, or holds something else; `remedy` says what to do.
      StoreError: its store failed.
    """
    name = os.fspath(path)
    try:
        value = json.loads(files.read_bytes(path))
    except OSError as error:
        # A remote system reports an absent file as any OSError.
        is_absent = files.is_remote(path) and not files.exists(path)
        if is_absent or isinstance(error, FileNotFoundError | NotADirectoryError):
            return {}
        if isinstance(error, files.StoreError):
            raise
        why = error.strerror or error
        raise ValueError(f"{name}: cannot be read ({why}); {remedy}") from error
    except files.AccessError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: damaged ({error}); {remedy}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name}: damaged (not a JSON object); {remedy}")
    return value


def json_bytes(value: Any, indent: int | None = None) -> bytes:
    """Returns JSON as UTF-8; of a name that is not UTF-8, `\\udce9`, which JSON reads back."""
    text = json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")


def write_json(path: files.Path, value: Mapping[str, Any]) -> None:
    """Writes JSON so that a reader, also after a crash, sees the whole file or none of it."""
    files.write_bytes(path, json_bytes(value, indent=2) + b"\n", sync=True)
