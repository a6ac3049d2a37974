# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Saves the checkpoints of a training directory in the background, restores and deletes them.

All processes of a training save and restore together. A checkpoint gets its final name once it is
whole and holds its checksums: whatever ends a process, every checkpoint can be verified.
"""

import dataclasses
import fnmatch
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import traverse_util

from parti.engine.checkpoints import (
    checkpoints,
    checksums,
    orbax_paths,
    ownership,
    read_errors,
    retention,
)
from parti.engine.checkpoints.checkpoints import Tree
from parti.engine.checkpoints.retention import Metrics
from parti.engine.distributed import multihost
from parti.stages import files

# What Orbax still writes into a checkpoint after everything else, as it gets its final name.
_WRITTEN_LAST = ("_CHECKPOINT_METADATA", orbax_paths.COMMITTED)
_STATE, _DATASET = checkpoints.STATE_ITEM, checkpoints.DATASET_ITEM


class CheckpointManager:
    """Saves and restores the checkpoints of a directory."""

    def __init__(self, directory: files.Path, policy: retention.Retention | None = None) -> None:
        """Opens or creates it, and makes it ours; without a policy all checkpoints stay.

        What a save left that was killed is deleted.
        """
        self.directory = files.absolute(directory)
        self.ownership = ownership.Ownership(self.directory)
        self._state = _StateHandler()
        is_remote = files.is_remote(self.directory)
        if is_remote and multihost.is_first():
            # Orbax would take any other folder there for one of these.
            for folder in checkpoints.unfinished(self.directory):
                files.remove_tree(folder)
        multihost.wait_for_all("unfinished checkpoints are gone")
        options = ocp.CheckpointManagerOptions(
            step_prefix=checkpoints.STEP_PREFIX,
            preservation_policy=policy or retention.Retention(),
            best_fn=lambda metrics: 0.0,  # Makes Orbax keep metrics; the policy decides.
            cleanup_tmp_directories=not is_remote,
            # Called in the first process, when all have written, before the folder is renamed.
            async_options=ocp.AsyncOptions(post_finalization_callback=self._state.sum_checkpoint),
        )
        handlers = {_STATE: self._state, _DATASET: _FolderHandler()}
        with checkpoints.quiet():
            self._manager = ocp.CheckpointManager(
                orbax_paths.of(self.directory), options=options, item_handlers=handlers
            )

    def save(
        self, step: int, tree: Tree, position: pathlib.Path, metrics: Metrics | None = None
    ) -> None:
        """Starts to save a state tree, the files of a data position, and validation metrics.

        The arrays are copied before this returns, so they may be donated to the next step.

        Raises:
          ownership.LostError: another training has begun in the directory.
        """
        self.ownership.check()
        items = {_STATE: _StateArgs(tree), _DATASET: _FolderArgs(position)}
        with checkpoints.quiet():
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)

    def delete_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, the newest first; raises as `save`."""
        self.ownership.check()
        self.wait()
        with checkpoints.quiet():
            for later in reversed([other for other in self._steps() if other > step]):
                self._manager.delete(later)

    def check(self) -> None:
        """Raises what a save in the background failed with, if one did."""
        self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns when everything saved is complete on disk."""
        with checkpoints.quiet():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then closes the directory."""
        self.wait()
        self._manager.close()

    def restore(self, want: Tree) -> tuple[Tree, int, str] | None:
        """Reads the newest checkpoint that is not corrupt; logs those that are.

        Corrupt ones are renamed to `damaged-checkpoint_<N>`, once a whole one is found. `want` is
        the state tree as `jax.ShapeDtypeStruct`s with shardings.

        Returns:
          (tree, step, folder of the data position), or None without a checkpoint.

        Raises:
          ValueError: the checkpoint is of another model or optimizer, or all are corrupt.
          read_errors.UnavailableCheckpointError: a checkpoint cannot be read at the moment.
        """
        found = self._steps()
        multihost.check_equal(f"which checkpoints are in {self.directory}", str(found))
        corrupt: list[int] = []
        for step in reversed(found):
            folder = checkpoints.step_path(self.directory, step)
            try:
                tree = _restore(folder, want)
            except read_errors.CorruptCheckpointError as error:
                multihost.log(f"[train] {files.name(folder)} is damaged ({error.reason})")
                corrupt.append(step)
                continue
            if corrupt:
                self._rename(corrupt)
                multihost.log(f"[train] going on from {files.name(folder)} instead")
            return tree, step, files.join(folder, _DATASET)
        if corrupt:
            raise ValueError(
                f"no checkpoint in {self.directory} can be read; --overwrite trains from the start"
            )
        return None

    def _steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, oldest first.

        From memory, in which the processes agree: on disk one may delete while another lists.
        """
        return sorted(self._manager.all_steps())

    def _rename(self, corrupt: Sequence[int]) -> None:
        """Renames checkpoints `damaged-checkpoint_<N>`, or `-2`, `-3`, ... if that is taken."""
        if multihost.is_first():
            for step in corrupt:
                path = checkpoints.step_path(self.directory, step)
                name = f"{checkpoints.DAMAGED_PREFIX}{files.name(path)}"
                names = (name if i == 1 else f"{name}-{i}" for i in itertools.count(1))
                targets = (files.join(self.directory, name) for name in names)
                _move(path, next(t for t in targets if not _is_there(t)))
        multihost.wait_for_all("damaged checkpoints are put aside")
        with checkpoints.quiet():
            self._manager.reload()


def _is_there(folder: str) -> bool:
    return files.exists(folder) or files.is_dir(folder)


def _move(source: str, target: str) -> None:
    """Renames a checkpoint; on an object store it is copied, and no checkpoint from then on."""
    if not files.is_object_store(source):
        files.rename(source, target)
        return
    files.copy_tree(source, target)
    files.remove(files.join(source, orbax_paths.COMMITTED))
    files.remove_tree(source)


def _restore(folder: str, want: Tree) -> Tree:
    """Reads a state tree in all processes; raises ValueError if another model wrote it."""
    with read_errors.readable_by_all(folder):
        checksums.verify(folder, jax.process_index(), multihost.count())
        found = checkpoints.leaves(folder)
    wanted = traverse_util.flatten_dict(want)
    for key in sorted(set(found) | set(wanted), key=lambda key: (key[0] != "target", key)):
        old, new = (checkpoints.describe(tree.get(key)) for tree in (found, wanted))
        if old != new:
            raise ValueError(
                f"{folder} is of another model or optimizer: {'/'.join(key)} is {old} there and "
                f"{new} in this experiment; choose another MODEL_DIR, or --overwrite this one"
            )
    with read_errors.readable_by_all(folder):
        return checkpoints.read_tree(folder, want)


def _literal(folder: Any) -> Any:
    """Returns Orbax's path so that no character of it is a wildcard: `runs/a[1]`."""

    class LiteralPath(type(folder)):  # type: ignore[misc]
        def glob(self, pattern: str) -> Iterator[Any]:
            found = files.list_names(self)
            return (type(folder)(self, name) for name in fnmatch.filter(found, pattern))

    return LiteralPath(folder)


class _StateHandler(ocp.PyTreeCheckpointHandler):
    """Orbax item: a tree of arrays. Each process sums the files it has written."""

    async def async_save(self, directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Starts to save; `directory` has its temporary name, and so has the one around it."""
        self._folder = os.fspath(directory)
        futures = await super().async_save(directory, *args, **kwargs)
        own = files.join(self._folder, f"ocdbt.process_{jax.process_index()}")

        def sum_own() -> None:
            if files.is_dir(own):  # A process may have had nothing to write.
                checksums.write(own)

        return [_SaveFuture(futures or [], sum_own)]

    def finalize(self, directory: Any) -> None:
        """Merges the files of the processes, which Orbax finds by a glob in the folder."""
        with multihost.ending_if_one_fails():
            super().finalize(_literal(directory))

    def sum_checkpoint(self) -> None:
        """Adds the checksums of everything that is not yet summed."""
        with multihost.ending_if_one_fails():
            checksums.write(files.parent(self._folder), without=_WRITTEN_LAST)


class _SaveFuture(ocp.future.ChainedFuture):
    """What this process writes of a checkpoint, while Orbax lets the others wait for it, long."""

    def result(self, timeout: float | None = None) -> None:
        with multihost.ending_if_one_fails():
            super().result(timeout)


@ocp.args.register_with_handler(_StateHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _StateArgs(ocp.args.PyTreeSave):
    pass


class _FolderHandler(ocp.CheckpointHandler):
    """Orbax item: the files of a folder, copied by the first process."""

    def save(self, directory: Any, args: "_FolderArgs") -> None:
        if multihost.is_first():
            files.copy_tree(args.folder, directory)

    def restore(self, directory: Any, args: Any = None) -> str:
        return os.fspath(directory)


@ocp.args.register_with_handler(_FolderHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _FolderArgs(ocp.args.CheckpointArgs):
    folder: pathlib.Path
