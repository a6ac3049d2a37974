# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where a stage writes: an unfinished directory beside the output, published at once.

    with publishing.OutputDirectory(path, "pairs", settings={"image_size": 64}) as output:
        files.write_bytes(files.join(output.address, "train-00000-of-00001.tfrecord"), ...)
        output.publish(counts={"train": 1})

The files are written in `<output>.unfinished`, `manifest.json` last. On file systems with
directories (local, hdfs) the rename to `<output>` is the commit; on an object store (gs, s3, ...),
which cannot rename one, the files are copied within the store, and the copy of the manifest, the
last, is the commit. So an output with a manifest is complete, and after a kill at any point the
same command goes on. Nothing finished is replaced without `overwrite`; nothing foreign is deleted.

A remote system has no locks: of two runs that write one remote output at a time, the one that began
first fails when it publishes.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parti.stages import files, manifests

REPLACED_SUFFIX = ".replaced"
# In an unfinished directory: settings, inputs, their digest and the writer of the attempt that owns
# it. In an output on an object store: a mark that its files are being copied.
_ATTEMPT = ".attempt.json"
# Folder in an unfinished directory for what only its own run reads; it is not published.
SCRATCH = ".scratch"
_DIGEST = re.compile('"[0-9a-f]{64}"')  # a fingerprint as JSON, of which the beginning is shown


def check_places(inputs: Sequence[files.Path], outputs: Sequence[files.Path]) -> None:
    """Refuses remote places that cannot be listed or written, before any work is done for them.

    Whether an input is there is for the command to say.

    Raises:
      ValueError: such a place, or an output that is a bucket and not a folder in it.
    """
    for address in [os.fspath(path) for path in inputs if files.is_remote(path)]:
        try:
            files.is_dir(re.split(r"[*?\[{,]", address)[0])
        except OSError as error:
            raise ValueError(
                f"{address}: cannot be listed ({error}); check the name, and who may read there"
            ) from error
    for address in map(files.absolute, filter(files.is_remote, outputs)):
        if address.count("/") < 3:
            raise ValueError(f"{address}: not a folder; name one, such as {address}/run")
        probe = f"{address}.probe-{uuid.uuid4().hex}"
        try:
            files.make_dirs(files.parent(address))
            files.write_bytes(probe, b"probe")
            files.remove(probe)
        except OSError as error:
            raise ValueError(
                f"{address}: cannot be written ({error}); check the name, and who may write and "
                "delete there"
            ) from error


class OutputDirectory:
    """The output directory of a stage, until it is published; a context manager."""

    def __init__(
        self,
        output: str | os.PathLike[str],
        kind: str,
        settings: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        resume: bool = False,
        state: Any = None,
        refuse_other: bool = False,
    ) -> None:
        """Checks the output, and changes nothing yet; entering the context makes the directory.

        Args:
          output: a directory that is not there, is empty, or (with `overwrite`) is a finished
            output of the same kind.
          kind, settings, inputs: as `manifests.write` takes them.
          resume: keep the files of an interrupted attempt with the same settings, inputs and state,
            and keep this attempt's files if it fails.
          state: JSON that is not recorded in the manifest, e.g. the times of the input files.
          refuse_other: entering raises ValueError if there is an interrupted attempt with others,
            and `overwrite` is not given; else its files are removed, with a line on stderr.

        Raises:
          ValueError: the output is finished, foreign or damaged.
        """
        if not os.fspath(output):
            raise ValueError("--output is empty; name a folder to write")
        self._local = not files.is_remote(output)
        self.output = files.absolute(output)  # the directory that `publish` makes
        self._unfinished = _Unfinished(self.output, kind)
        self.address = self._unfinished.address  # to write in, through `files`, until `publish`
        self.scratch = files.join(self.address, SCRATCH)  # there until then; is not published
        self.kind = kind
        self.settings = dict(settings or {})
        self.inputs = dict(inputs or {})
        self.overwrite, self.resume = overwrite, resume
        self._state = state
        self._refuse_other = refuse_other and resume and not overwrite
        self.resumed = False  # whether files of an interrupted attempt are there
        self.manifest: dict[str, Any] | None = None  # what was published
        self._check_output()

    def _check_output(self) -> None:
        output = self.output
        if not files.is_dir(output):
            if os.path.lexists(output) if self._local else files.exists(output):
                raise ValueError(f"{output}: is a file; --output must be a folder")
            return
        if files.exists(_manifest(output)):
            remedy = "remove the folder, or choose another --output"
            manifest = manifests.read_json(_manifest(output), remedy)
            found = manifest.get("kind", "something else")
            if found != self.kind:
                raise ValueError(
                    f"{output}: holds {found}, not {self.kind}; choose another --output"
                )
            if not self.overwrite:
                raise ValueError(
                    f"{output}: already finished; pass --overwrite to replace it, "
                    "or choose another --output"
                )
        elif not files.is_empty(output) and not self._is_half_copied():
            command = manifests.command_for(self.kind)
            raise ValueError(
                f"{output}: not empty and not written by `{command}`; choose another --output"
            )

    def _is_half_copied(self) -> bool:
        """Returns whether an attempt of this kind was killed while it copied its files."""
        mark = files.join(self.output, _ATTEMPT)
        marked = manifests.read_json(mark, f"remove {self.output} to start over").get("kind")
        return marked == self.kind and files.is_object_store(self.output)

    def __enter__(self) -> "OutputDirectory":
        """Makes the unfinished directory, or takes over that of an interrupted attempt."""
        self._undo_interrupted_swap()
        made_of = {"settings": self.settings, "inputs": self.inputs}
        digest = manifests.digest(
            [self.kind, *made_of.values(), manifests.SCHEMA_VERSION, self._state]
        )
        mark = {"digest": digest, **made_of}
        self.resumed = self._unfinished.take(mark, self.resume, self._refuse_other)
        return self

    def _undo_interrupted_swap(self) -> None:
        """Puts the old output back if a kill came between the two renames of `publish`."""
        replaced = self.output + REPLACED_SUFFIX
        if files.is_object_store(self.output) or not files.exists(_manifest(replaced)):
            return
        if not (os.path.lexists(self.output) if self._local else files.exists(self.output)):
            files.rename(replaced, self.output)
            self._check_output()
        elif files.exists(_manifest(self.output)):
            files.remove_tree(replaced)

    def publish(
        self, counts: Mapping[str, Any], content: Any = None, extra: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Writes the manifest and makes the directory the output; returns the manifest.

        `content` is a JSON summary for the fingerprint; None hashes every file.

        Raises:
          ValueError: another process finished the output, or took it over.
        """
        if not self._unfinished.is_owned():
            raise ValueError(f"{self.output}: another process is writing it now")
        if files.exists(_manifest(self.output)) and not self.overwrite:
            raise ValueError(f"{self.output}: another process finished it meanwhile")
        manifest = manifests.write(
            self.address,
            self.kind,
            counts=counts,
            settings=self.settings,
            content=manifests.hash_files(self.address) if content is None else content,
            inputs=self.inputs,
            extra=extra,
        )
        if files.is_object_store(self.output):
            self._copy()
        else:
            self._swap()
        self.manifest = manifest
        return manifest

    def _swap(self) -> None:
        replaced = self.output + REPLACED_SUFFIX
        if files.exists(_manifest(self.output)):
            files.rename(self.output, replaced)
        elif not self._local and files.exists(self.output) and files.is_empty(self.output):
            files.remove_tree(self.output)  # a remote rename would move into it
        files.rename(self.address, self.output)  # the commit; locally it replaces an empty one
        files.remove(files.join(self.output, _ATTEMPT))
        files.remove_tree(replaced)
        files.remove_tree(files.join(self.output, SCRATCH))

    def _copy(self) -> None:
        mark = files.join(self.output, _ATTEMPT)
        files.copy([files.join(self.address, _ATTEMPT)], [mark])
        files.remove(_manifest(self.output))  # from here on the old output is not one
        for entry in files.walk(self.output):
            if entry.path != mark:
                files.remove(entry.path)
        names = [entry.path[len(self.address) + 1 :] for entry in files.walk(self.address)]
        names = [n for n in names if n != manifests.FILE_NAME and not n.startswith(SCRATCH + "/")]
        names.remove(_ATTEMPT)
        files.copy(
            [files.join(self.address, name) for name in names],
            [files.join(self.output, name) for name in names],
        )
        files.copy([_manifest(self.address)], [_manifest(self.output)])  # the commit
        files.remove(mark)
        files.remove_tree(self.address)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        """Lets go of the directory; without `resume` a failed attempt leaves nothing behind."""
        if self.manifest is None and not self.resume:
            with contextlib.suppress(OSError, ValueError):  # it would hide what ended the attempt
                if self._local or self._unfinished.is_owned():
                    files.remove_tree(self.address)
        if isinstance(error, KeyboardInterrupt) and self.resume:
            error.args = error.args or ("the same command goes on where this one stopped",)
        self._unfinished.release()


class _Unfinished:
    """The directory `<output>.unfinished`: its lock, and the mark of the attempt that owns it.

    The mark is written atomically, so a kill never leaves half of it; a damaged one is an error.
    """

    def __init__(self, output: str, kind: str) -> None:
        self._output, self._kind = output, kind
        self.address = output + manifests.UNFINISHED_SUFFIX
        self._mark = files.join(self.address, _ATTEMPT)
        self._local = not files.is_remote(output)
        self._writer = uuid.uuid4().hex
        self._lock: int | None = None

    def take(self, attempt: Mapping[str, Any], resume: bool, refuse_other: bool) -> bool:
        """Makes the directory ours; returns whether an attempt is resumed, else it is empty.

        `attempt` has the digest, settings and inputs of this one, as the mark keeps them.
        """
        files.make_dirs(self.address)
        try:
            if self._local:
                self._acquire()
            before = self._read_mark()
            resumed = resume and before.get("digest") == attempt["digest"]
            if resumed:
                for entry in files.walk(self.address):
                    if entry.path.endswith(files.PARTIAL_SUFFIX):  # a kill left half a file
                        files.remove(entry.path)
            else:
                if refuse_other and before:
                    raise ValueError(
                        f"{self.address}: an interrupted run {_difference(before, attempt)} "
                        "another --output, or --overwrite to remove what it left and begin anew"
                    )
                if resume and before:
                    print(
                        f"{self._output}: an interrupted run had other settings or input, or was "
                        "of an earlier version; what it left is removed",
                        file=sys.stderr,
                    )
                self._empty(owned=bool(before))
            # A kill between the manifest and the commit leaves a manifest; it is written anew.
            files.remove(_manifest(self.address))
            mark = {"kind": self._kind, "writer": self._writer, **attempt}
            manifests.write_json(self._mark, mark)
        except BaseException:
            self.release()
            raise
        return resumed

    def _acquire(self) -> None:
        self._lock = os.open(self.address, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"{self._output}: another process is writing it now") from error

    def _read_mark(self) -> dict[str, Any]:
        return manifests.read_json(self._mark, f"remove {self.address} to start over")

    def _empty(self, owned: bool) -> None:
        names = [entry.path[len(self.address) + 1 :] for entry in files.walk(self.address)]
        if self._local:
            names = os.listdir(self.address)  # empty directories too
        if not owned and any(_ATTEMPT not in name for name in names):
            raise ValueError(f"{self.address}: not empty and not ours; move it away or remove it")
        for name in names:
            path = files.join(self.address, name)
            if self._local and os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            elif name != _ATTEMPT:  # the mark of ownership goes last, by being replaced
                files.remove(path)

    def is_owned(self) -> bool:
        return self._read_mark().get("writer") == self._writer

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _manifest(folder: str) -> str:
    return files.join(folder, manifests.FILE_NAME)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns in what an interrupted attempt differs, by the marks, and the first of what to do."""
    if "settings" not in before:
        return "of an earlier version of Parti left files there; give"
    old, new = (
        dict(_leaves(mark["settings"])) | dict(_leaves(mark["inputs"])) for mark in (before, now)
    )
    # The mark is JSON, where a tuple is a list.
    changed = [name for name in {**old, **new} if _shown(old, name) != _shown(new, name)]
    if not changed:
        return "of another version of Parti, or of other input files, left files there; give"
    said = (f"{name} {_shown(old, name)} (now {_shown(new, name)})" for name in changed)
    return f"had {', '.join(said)}; give the same again and it goes on, or"


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (`a.b`, value) for the values that are no objects, at any depth."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "not given"
    text = json.dumps(values[name], ensure_ascii=False)
    return f"{text[1:13]}..." if _DIGEST.fullmatch(text) else text
