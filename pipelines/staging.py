# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where a stage writes: an unfinished folder beside the output, published by one rename.

    with staging.Staging(output, kind="pairs", settings={"image_size": 64}) as stage:
        (stage.path / "train-00000-of-00001.tfrecord").write_bytes(...)
        stage.publish(counts={"train": 1}, content=staging.hash_files(stage.path))

The files are written in `<output>.unfinished`. `publish` writes `manifest.json` there last, and the
rename to `<output>` is the commit: an output folder with a manifest is complete, one without never
appears. Nothing finished is replaced unless `overwrite` is set; nothing foreign is ever deleted.
"""

import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import types
from collections.abc import Mapping
from typing import Any

from parti import __version__

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
UNFINISHED_SUFFIX = ".unfinished"
REPLACED_SUFFIX = ".replaced"
_ATTEMPT = ".attempt.json"  # the settings digest of the attempt that owns an unfinished folder

# Kind of output -> the command that makes it, for messages.
COMMANDS = {
    "scenes": "parti scenes",
    "pairs": "parti clean",
    "vocabulary": "parti vocab",
    "tokens": "parti tokenize",
    "generations": "parti generate",
    "evaluation": "parti evaluate",
    "training": "parti train",
    "bundle": "parti export",
    "prompts": "parti prompts",
}

Path = str | os.PathLike[str]


def command_for(kind: str) -> str:
    """Returns the command that makes an output of this kind, e.g. `parti clean`."""
    return COMMANDS.get(kind, f"the command that makes {kind}")


def digest(value: Any) -> str:
    """Returns the sha256 hex digest of a JSON value in canonical form (keys sorted)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Returns the sha256 hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(directory: Path) -> dict[str, str]:
    """Returns {relative path: sha256} of the files below a folder, but dot files and manifest."""
    root = pathlib.Path(directory)
    files = sorted(p for p in root.rglob("*") if p.is_file())
    names = [(p.relative_to(root).as_posix(), p) for p in files]
    return {
        name: hash_file(path)
        for name, path in names
        if name != MANIFEST and not any(part.startswith(".") for part in name.split("/"))
    }


def write_manifest(
    directory: Path,
    kind: str,
    *,
    counts: Mapping[str, Any],
    settings: Mapping[str, Any],
    content: Any,
    inputs: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes `manifest.json` atomically; call it last, when every other file is in place.

    Args:
      directory: the folder that the manifest describes.
      kind: what the folder holds; a key of `COMMANDS`.
      counts: how many of what, e.g. {"train": 3031, "validation": 159}.
      settings: every setting that decides the bytes (no output path, no worker count, no time).
      content: a JSON summary of the content, normally `hash_files(directory)`.
      inputs: where the input came from (patterns, fingerprints); recorded, not fingerprinted.
      extra: further top-level fields, e.g. {"tokenizer_fingerprint": ...}.

    Returns:
      The manifest. Its `fingerprint` is the sha256 of kind, schema version, settings and content.
    """
    body = {"kind": kind, "schema_version": SCHEMA_VERSION, "settings": settings}
    manifest = {
        **body,
        "code_version": __version__,
        "created_by": command_for(kind),
        "counts": counts,
        "inputs": inputs or {},
        "fingerprint": digest({**body, "content": content}),
        **(extra or {}),
    }
    _write_json(pathlib.Path(directory) / MANIFEST, manifest)
    return manifest


def read_manifest(directory: Path, kind: str) -> dict[str, Any]:
    """Returns the manifest of a finished output.

    Raises:
      FileNotFoundError: there is no such output, or it was never finished.
      ValueError: the folder holds another kind, or a newer schema.
    """
    folder = pathlib.Path(directory)
    command = command_for(kind)
    path = folder / MANIFEST
    if not path.is_file():
        if _sibling(folder, UNFINISHED_SUFFIX).is_dir():
            raise FileNotFoundError(f"{folder}: `{command}` was not finished; run it again")
        if folder.is_dir():
            raise FileNotFoundError(f"{folder}: no {MANIFEST} here; `{command}` makes {kind}")
        raise FileNotFoundError(f"{folder}: no such folder; `{command} --output {folder}` makes it")
    manifest = _read_json(path)
    found = manifest.get("kind") if manifest else None
    if found != kind:
        raise ValueError(f"{folder}: holds {found or 'something else'}, not {kind} (`{command}`)")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{folder}: schema version {manifest.get('schema_version')}, this code reads "
            f"{SCHEMA_VERSION}; make it again with `{command}`"
        )
    return manifest


class Staging:
    """One attempt at writing an output folder; a context manager.

    Attributes:
      output: the folder that `publish` makes.
      path: the folder to write in until then.
      resumed: whether files of an interrupted attempt with the same settings are in `path`.
      manifest: what was published; None before.
    """

    def __init__(
        self,
        output: Path,
        kind: str,
        settings: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        """Checks the output, and changes nothing yet; entering the context makes the folder.

        Args:
          output: a local folder; it must not exist, be empty, or (with `overwrite`) be a finished
            output of the same kind.
          kind: what will be in it; a key of `COMMANDS`.
          settings: every setting that decides the bytes of the output (see `write_manifest`).
          inputs: where the input comes from; recorded in the manifest.
          overwrite: replace a finished output of the same kind.
          resume: keep the files of an interrupted attempt whose settings and inputs are these, and
            keep this attempt's files if it fails.

        Raises:
          ValueError: the output is finished, foreign or remote.
        """
        if "://" in str(output):
            raise ValueError(
                f"{output}: an output must be a local or mounted folder for now; "
                "write there and copy the finished folder"
            )
        if not str(output):
            raise ValueError("--output is empty; name a folder to write")
        self.output = pathlib.Path(os.path.abspath(output))
        self.path = _sibling(self.output, UNFINISHED_SUFFIX)
        self.kind = kind
        self.settings = dict(settings or {})
        self.inputs = dict(inputs or {})
        self.overwrite = overwrite
        self.resume = resume
        self.resumed = False
        self.manifest: dict[str, Any] | None = None
        self._lock: int | None = None
        self._check_output()

    def _check_output(self) -> None:
        """Raises ValueError unless the output may be written."""
        if not os.path.lexists(self.output):
            return
        if not self.output.is_dir():
            raise ValueError(f"{self.output}: is a file; --output must be a folder")
        if (self.output / MANIFEST).exists():
            manifest = _read_json(self.output / MANIFEST)
            found = manifest.get("kind", "something else")
            if found != self.kind:
                raise ValueError(
                    f"{self.output}: holds {found}, not {self.kind}; choose another --output"
                )
            if not self.overwrite:
                raise ValueError(
                    f"{self.output}: already finished; pass --overwrite to replace it, "
                    "or choose another --output"
                )
        elif any(self.output.iterdir()):
            raise ValueError(
                f"{self.output}: not empty and not written by `{command_for(self.kind)}`; "
                "choose another --output"
            )

    def __enter__(self) -> "Staging":
        """Makes the folder, or takes over that of an interrupted attempt."""
        self._undo_interrupted_swap()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ValueError(f"{self.output}: another process is writing it now") from error
        try:
            self._take_over()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def _take_over(self) -> None:
        """Keeps or deletes the files of an earlier attempt, and marks the folder as ours."""
        attempt = {"digest": digest([self.kind, self.settings, self.inputs, SCHEMA_VERSION])}
        before = _read_json(self.path / _ATTEMPT)
        self.resumed = self.resume and before == attempt
        if not self.resumed:
            self._empty_path(owned=bool(before))
            _write_json(self.path / _ATTEMPT, attempt)
        else:
            for path in self.path.rglob("*.partial"):  # a kill left half a file
                path.unlink()
        # A kill between the manifest and the rename leaves a manifest; it will be written anew.
        (self.path / MANIFEST).unlink(missing_ok=True)

    def _empty_path(self, owned: bool) -> None:
        """Deletes what an earlier attempt left in the unfinished folder."""
        entries = list(self.path.iterdir())
        if not owned and any(_ATTEMPT not in entry.name for entry in entries):
            raise ValueError(f"{self.path}: not empty and not ours; move it away or remove it")
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != _ATTEMPT:  # the mark of ownership goes last, by being replaced
                entry.unlink()

    def _undo_interrupted_swap(self) -> None:
        """Puts the old output back if a kill came between the two renames of `publish`."""
        replaced = _sibling(self.output, REPLACED_SUFFIX)
        if not (replaced / MANIFEST).exists():
            return
        if not os.path.lexists(self.output):
            os.rename(replaced, self.output)
            self._check_output()
        elif (self.output / MANIFEST).exists():
            shutil.rmtree(replaced)

    def publish(
        self,
        counts: Mapping[str, Any],
        content: Any = None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Writes the manifest and renames the folder to the output; returns the manifest.

        Args:
          counts: how many of what was written.
          content: JSON summary of the content for the fingerprint; None hashes every file.
          extra: further top-level fields of the manifest.
        """
        manifest = write_manifest(
            self.path,
            self.kind,
            counts=counts,
            settings=self.settings,
            content=hash_files(self.path) if content is None else content,
            inputs=self.inputs,
            extra=extra,
        )
        (self.path / _ATTEMPT).unlink(missing_ok=True)
        replaced = _sibling(self.output, REPLACED_SUFFIX)
        if (self.output / MANIFEST).exists():
            if not self.overwrite:
                raise ValueError(f"{self.output}: another process finished it meanwhile")
            os.rename(self.output, replaced)
        os.rename(self.path, self.output)  # the commit; an empty folder of that name is replaced
        if replaced.exists():
            shutil.rmtree(replaced)
        self.manifest = manifest
        return manifest

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        """Lets go of the folder; without `resume` a failed attempt leaves nothing behind."""
        if self.manifest is None and not self.resume:
            shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _sibling(output: pathlib.Path, suffix: str) -> pathlib.Path:
    return output.with_name(output.name + suffix)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the JSON object in a file, or {} if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    """Writes JSON so that a reader sees the whole file or none of it."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
