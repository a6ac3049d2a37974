# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where a stage writes: an unfinished folder beside the output, published by one rename.

    with staging.Staging(output, kind="pairs", settings={"image_size": 64}) as stage:
        (stage.path / "train-00000-of-00001.tfrecord").write_bytes(...)
        stage.publish(counts={"train": 1}, content=manifests.hash_files(stage.path))

The files are written in `<output>.unfinished`. `publish` writes `manifest.json` there last, and the
rename to `<output>` is the commit: an output folder with a manifest is complete, one without never
appears. Nothing finished is replaced unless `overwrite` is set; nothing foreign is ever deleted.
"""

import fcntl
import os
import pathlib
import shutil
import types
from collections.abc import Mapping
from typing import Any

from parti.engine import manifests

REPLACED_SUFFIX = ".replaced"
_ATTEMPT = ".attempt.json"  # the settings digest of the attempt that owns an unfinished folder


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
        output: str | os.PathLike[str],
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
          kind: what will be in it; a key of `manifests.COMMANDS`.
          settings: every setting that decides the bytes of the output (see `manifests.write`).
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
        self.path = _sibling(self.output, manifests.UNFINISHED_SUFFIX)
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
        if (self.output / manifests.FILE_NAME).exists():
            manifest = manifests.read_json(self.output / manifests.FILE_NAME)
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
            command = manifests.command_for(self.kind)
            raise ValueError(
                f"{self.output}: not empty and not written by `{command}`; choose another --output"
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
        attempt = {
            "digest": manifests.digest(
                [self.kind, self.settings, self.inputs, manifests.SCHEMA_VERSION]
            )
        }
        before = manifests.read_json(self.path / _ATTEMPT)
        self.resumed = self.resume and before == attempt
        if not self.resumed:
            self._empty_path(owned=bool(before))
            manifests.write_json(self.path / _ATTEMPT, attempt)
        else:
            for path in self.path.rglob("*.partial"):  # a kill left half a file
                path.unlink()
        # A kill between the manifest and the rename leaves a manifest; it will be written anew.
        (self.path / manifests.FILE_NAME).unlink(missing_ok=True)

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
        if not (replaced / manifests.FILE_NAME).exists():
            return
        if not os.path.lexists(self.output):
            os.rename(replaced, self.output)
            self._check_output()
        elif (self.output / manifests.FILE_NAME).exists():
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
        manifest = manifests.write(
            self.path,
            self.kind,
            counts=counts,
            settings=self.settings,
            content=manifests.hash_files(self.path) if content is None else content,
            inputs=self.inputs,
            extra=extra,
        )
        (self.path / _ATTEMPT).unlink(missing_ok=True)
        replaced = _sibling(self.output, REPLACED_SUFFIX)
        if (self.output / manifests.FILE_NAME).exists():
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
