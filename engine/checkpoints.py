# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in T5X's layout: `<dir>/checkpoint_<N>/state`, read by either engine.

The tree is `{'target': params, 'state': {'step', 'param_states'}[, 'flax_mutables': collections]}`,
where `param_states` is the state dict of the optimizer. Beside `state`, `dataset` holds the
position in the training data after step N.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import pathlib
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from parti.engine import processes, retention

STEP_PREFIX = "checkpoint"
STATE_ITEM = "state"
DATASET_ITEM = "dataset"
# {file: [size in bytes, crc32]}, written once the rest of a checkpoint is complete.
CHECKSUMS = "checksums.json"
# State of `optimizers.with_ema`, wherever it stands among the optimizer's state.
EMA_KEY = "averaged_params"

# How XLA and TensorStore say that memory or permission is lacking.
_NOT_DAMAGE = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED")

_STEP_FOLDER = re.compile(rf"{STEP_PREFIX}_(\d+)")

Tree = dict[str, Any]


class DamagedError(ValueError):
    """A checkpoint is there, but incomplete or damaged; `reason` is what showed it."""

    def __init__(self, folder: pathlib.Path, reason: str) -> None:
        super().__init__(
            f"{folder} is incomplete or damaged ({reason}); name an older checkpoint, or run the "
            "training again: it goes on from the last good one"
        )
        self.reason = reason


def steps(directory: str | pathlib.Path) -> list[int]:
    """Returns the steps that have a complete checkpoint folder, oldest first."""
    folder = pathlib.Path(directory)
    if not folder.is_dir():
        return []
    found = (_STEP_FOLDER.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return sorted(int(match.group(1)) for match in found if match)


def step_path(directory: str | pathlib.Path, step: int) -> pathlib.Path:
    """Returns the folder of the checkpoint at a step."""
    return pathlib.Path(directory) / f"{STEP_PREFIX}_{step}"


def find(path: str | pathlib.Path, step: int | None = None) -> pathlib.Path:
    """Returns the checkpoint folder meant by a path.

    Args:
      path: a training directory, or one of its `checkpoint_<N>` folders.
      step: which checkpoint of a training directory; the newest by default.

    Raises:
      FileNotFoundError: there is no such checkpoint.
    """
    folder = pathlib.Path(path).absolute()
    if (folder / STATE_ITEM).is_dir():
        return folder
    if not folder.is_dir():
        raise FileNotFoundError(f"no training directory at {path}; train first (parti train)")
    available = steps(folder)
    if not available:
        raise FileNotFoundError(
            f"{path} holds no {STEP_PREFIX}_<N> folder; name the MODEL_DIR of a training run"
        )
    if step is not None and step not in available:
        raise FileNotFoundError(f"{path} has no checkpoint of step {step}; it has {available}")
    return step_path(folder, available[-1] if step is None else step)


def load_params(
    path: str | pathlib.Path,
    subtree: str | None = None,
    step: int | None = None,
    *,
    ema: bool | None = None,
    shardings: Tree | None = None,
) -> tuple[Tree, Tree, int]:
    """Reads the parameters of a checkpoint written by this engine or by T5X.

    Args:
      path: a training directory, or one of its `checkpoint_<N>` folders.
      subtree: path of a part of the parameters, such as 'decoder/layers'; all by default.
      step: which checkpoint of a training directory; the newest by default.
      ema: True for the moving average of the parameters, False for the parameters themselves; by
        default the average where the run kept one (of frozen parameters it keeps none: they stay).
      shardings: tree of `jax.sharding.Sharding` like the parameters read: they come back as
        `jax.Array`. By default they come back as numpy arrays on the host.

    Returns:
      (params, mutables, step): nested dicts; `mutables` is {collection: tree}, empty for a model
      without mutable collections (always numpy).

    Raises:
      FileNotFoundError: no checkpoint there.
      ValueError: it cannot be read, lacks the subtree, or keeps no average while `ema` is True.
    """
    folder = find(path, step)
    with readable(folder):
        verify(folder)
        flat = leaves(folder)
    prefix = tuple(subtree.split("/")) if subtree else ()
    keys = _params_keys(flat, folder, ema)
    keys = {name[len(prefix) :]: k for name, k in keys.items() if name[: len(prefix)] == prefix}
    if not keys:
        parts = sorted({k[1] for k in flat if k[0] == "target"})
        raise ValueError(f"{folder} has no parameters under {subtree!r}; it has {', '.join(parts)}")
    mutables = {k: v for k, v in flat.items() if k[0] == "flax_mutables"}
    counter = {k: v for k, v in flat.items() if k == ("state", "step")}
    flat_shardings = traverse_util.flatten_dict(shardings) if shardings else {}
    shardings_by_key = {key: flat_shardings.get(name) for name, key in keys.items()}
    wanted = {key: flat[key] for key in keys.values()} | mutables | counter
    restore_args = {k: _restore_args(leaf, shardings_by_key.get(k)) for k, leaf in wanted.items()}
    with readable(folder):
        got = _restore(folder, wanted, restore_args)
    params = traverse_util.unflatten_dict({name: got[key] for name, key in keys.items()})
    others = traverse_util.unflatten_dict({k[1:]: got[k] for k in mutables})
    return params, others, int(got[("state", "step")])


class Store:
    """The checkpoints of one training directory: saved in the background, the chosen ones kept."""

    def __init__(
        self, directory: str | pathlib.Path, policy: retention.Retention | None = None
    ) -> None:
        """Opens a directory, made if it is missing; all checkpoints stay without a policy."""
        self.directory = pathlib.Path(directory).absolute()
        self._unchecked: set[int] = set()
        options = ocp.CheckpointManagerOptions(
            step_prefix=STEP_PREFIX,
            preservation_policy=policy or retention.Retention(),
            best_fn=lambda metrics: 0.0,  # Orbax keeps metrics if there is one, and asks only us.
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._finish),
        )
        handlers = {STATE_ITEM: ocp.PyTreeCheckpointHandler(), DATASET_ITEM: _FolderHandler()}
        with quiet():
            self._manager = ocp.CheckpointManager(
                self.directory, options=options, item_handlers=handlers
            )

    def save(
        self,
        step: int,
        tree: Tree,
        position: pathlib.Path,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to save a state tree, the files of a data position, and validation metrics.

        The arrays are copied before this returns, so they may be donated to the next step.
        """
        self._unchecked.add(step)
        items = {STATE_ITEM: ocp.args.PyTreeSave(tree), DATASET_ITEM: _FolderArgs(position)}
        with quiet():
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)

    def delete_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, the newest first."""
        self.wait()
        with quiet():
            for later in reversed([other for other in steps(self.directory) if other > step]):
                self._manager.delete(later)

    def wait(self) -> None:
        """Returns when everything saved is complete on disk."""
        with quiet():
            self._manager.wait_until_finished()
            self._finish()

    def close(self) -> None:
        """Waits and lets go of the directory."""
        self.wait()
        self._manager.close()

    def restore(self, want: Tree) -> tuple[Tree, int, pathlib.Path] | None:
        """Reads the newest checkpoint that is whole; says so if it is not the newest of all.

        Damaged ones are renamed to `damaged-checkpoint_<N>`, once a whole one is found.

        Args:
          want: the state tree as `jax.ShapeDtypeStruct`s with shardings.

        Returns:
          (tree, step, folder of the data position), or None if there is no checkpoint.

        Raises:
          ValueError: the checkpoint is of another model or optimizer, or none is whole.
        """
        damaged: list[int] = []
        for step in reversed(steps(self.directory)):
            folder = step_path(self.directory, step)
            try:
                with _readable_by_all(folder):
                    verify(folder, processes.index(), processes.count())
                    found = leaves(folder)
                _check_same(found, traverse_util.flatten_dict(want), folder)
                with readable(folder):
                    tree = _restore_tree(folder, want)
            except DamagedError as error:
                processes.log(f"[train] {folder.name} is damaged ({error.reason})")
                damaged.append(step)
                continue
            self._put_aside(damaged)
            if damaged:
                processes.log(f"[train] going on from {folder.name} instead")
            return tree, step, folder / DATASET_ITEM
        if damaged:
            raise ValueError(
                f"no checkpoint in {self.directory} can be read; --overwrite trains from the start"
            )
        return None

    def _put_aside(self, damaged: Sequence[int]) -> None:
        """Renames damaged checkpoints, once for all processes."""
        if not damaged:
            return
        if processes.is_first():
            for step in damaged:
                path = step_path(self.directory, step)
                path.rename(path.with_name(f"damaged-{path.name}"))
        processes.wait_for_all("damaged checkpoints are put aside")
        with quiet():
            self._manager.reload()

    def _finish(self) -> None:
        """Adds checksums to the checkpoints that have become complete."""
        if not processes.is_first():
            return
        for step in sorted(self._unchecked & set(steps(self.directory))):
            # One may be deleted meanwhile, when newer ones take its place.
            with contextlib.suppress(FileNotFoundError):
                write_checksums(step_path(self.directory, step))
            self._unchecked.discard(step)


def fingerprint(params: Mapping[str, Any], config: str) -> str:
    """Returns the sha256, in hex, of parameters and the text of the model's configuration."""
    digest = hashlib.sha256(config.encode("utf-8"))
    for key, value in sorted(traverse_util.flatten_dict(dict(params), sep="/").items()):
        array = np.ascontiguousarray(value)
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_checksums(folder: pathlib.Path) -> None:
    """Notes size and crc32 of each file of a complete checkpoint, for `verify`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    sums = {str(path.relative_to(folder)): [path.stat().st_size, _crc32(path)] for path in files}
    temporary = folder / f"{CHECKSUMS}.tmp"
    temporary.write_text(json.dumps(sums, indent=1), encoding="utf-8")
    temporary.rename(folder / CHECKSUMS)


def verify(folder: pathlib.Path, part: int = 0, num_parts: int = 1) -> None:
    """Compares a checkpoint's files with their checksums; one of T5X has none and passes.

    Args:
      folder: the checkpoint.
      part: which share of the files to read, of `num_parts`.
      num_parts: into how many shares they are divided.

    Raises:
      ValueError: a file is missing, or its size or content has changed.
    """
    if not (folder / CHECKSUMS).is_file():
        return
    sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    for name, (size, crc32) in sorted(sums.items())[part::num_parts]:
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        if path.stat().st_size != size:
            raise ValueError(f"{name} has {path.stat().st_size} bytes, not {size}")
        if _crc32(path) != crc32:
            raise ValueError(f"the content of {name} has changed")


def leaves(folder: pathlib.Path) -> dict[tuple[str, ...], Any]:
    """Returns {path: metadata with `shape` and `dtype`} of the leaves of a checkpoint."""
    with _checkpointer(together=False) as checkpointer:
        metadata = checkpointer.metadata(folder / STATE_ITEM)
    if metadata is None or metadata.item_metadata is None:
        raise ValueError(f"{STATE_ITEM}/_METADATA is missing or damaged")
    return traverse_util.flatten_dict(metadata.item_metadata.tree)


@contextlib.contextmanager
def readable(folder: pathlib.Path) -> Iterator[None]:
    """Turns the many ways of failing to read a checkpoint into one error.

    Raises:
      DamagedError: what stands inside the block failed; the message is one line.
      Exception: memory or permission is lacking, which says nothing about the checkpoint.
    """
    try:
        with quiet():
            yield
    except Exception as error:
        refused = isinstance(error, MemoryError | PermissionError)
        if refused or any(status in str(error) for status in _NOT_DAMAGE):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DamagedError(folder, reason) from error


@contextlib.contextmanager
def _readable_by_all(folder: pathlib.Path) -> Iterator[None]:
    """`readable` in every process, or in none.

    Raises:
      DamagedError: the block failed here or in another process.
    """
    failure = None
    try:
        with readable(folder):
            yield
    except DamagedError as error:
        failure = error
    if not processes.all_agree(failure is None):
        raise failure or DamagedError(folder, "another process found it so")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences Orbax's log below errors: it reports every step of every save."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _crc32(path: pathlib.Path) -> int:
    crc32 = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            crc32 = zlib.crc32(block, crc32)
    return crc32


def _params_keys(
    flat: dict[tuple[str, ...], Any], folder: pathlib.Path, ema: bool | None
) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Returns {path of a parameter: path in the checkpoint}, of its average where there is one.

    Frozen parameters have none.
    """
    keys = {k[1:]: k for k in flat if k[0] == "target"}
    roots = {k[: k.index(EMA_KEY) + 1] for k in flat if k[0] == "state" and EMA_KEY in k}
    if ema and not roots:
        raise ValueError(f"{folder} keeps no moving average; train with EMA_DECAY above 0")
    if roots and ema is not False:
        root = min(roots, key=len)
        keys |= {k[len(root) :]: k for k in flat if k[: len(root)] == root}
    return keys


def _restore_args(leaf: Any, sharding: jax.sharding.Sharding | None) -> ocp.RestoreArgs:
    if sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def _restore(
    folder: pathlib.Path, item: dict[tuple[str, ...], Any], restore_args: dict[tuple[str, ...], Any]
) -> dict[tuple[str, ...], Any]:
    together = any(isinstance(args, ocp.ArrayRestoreArgs) for args in restore_args.values())
    with _checkpointer(together) as checkpointer:
        tree = checkpointer.restore(
            folder / STATE_ITEM,
            args=ocp.args.PyTreeRestore(
                item=traverse_util.unflatten_dict(item),
                restore_args=traverse_util.unflatten_dict(restore_args),
                partial_restore=True,
            ),
        )
    return traverse_util.flatten_dict(tree)


def _restore_tree(folder: pathlib.Path, want: Tree) -> Tree:
    with _checkpointer(together=True) as checkpointer:
        restore_args = ocp.checkpoint_utils.construct_restore_args(want)
        return checkpointer.restore(
            folder / STATE_ITEM,
            args=ocp.args.PyTreeRestore(item=want, restore_args=restore_args),
        )


def _checkpointer(together: bool) -> ocp.Checkpointer:
    """Returns a reader for all processes together, or for this one alone."""
    if together:
        return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    alone = ocp.options.MultiprocessingOptions(
        primary_host=processes.index(),
        active_processes={processes.index()},
        barrier_sync_key_prefix=f"process{processes.index()}",
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _check_same(
    found: dict[tuple[str, ...], Any], want: dict[tuple[str, ...], Any], folder: pathlib.Path
) -> None:
    """Compares the leaves of a checkpoint with those of this experiment.

    Raises:
      ValueError: names the first leaf that differs.
    """
    for key in sorted(set(found) | set(want), key=lambda key: (key[0] != "target", key)):
        old, new = (_describe(tree.get(key)) for tree in (found, want))
        if old != new:
            raise ValueError(
                f"{folder} is of another model or optimizer: {'/'.join(key)} is {old} there and "
                f"{new} in this experiment; choose another MODEL_DIR, or --overwrite this one"
            )


def _describe(leaf: Any) -> str:
    if leaf is None:
        return "absent"
    return f"{np.dtype(leaf.dtype)}[{', '.join(map(str, leaf.shape))}]"


class _FolderHandler(ocp.CheckpointHandler):
    """Orbax item: the files of a folder, copied by the first process."""

    def save(self, directory: Any, args: "_FolderArgs") -> None:
        if not processes.is_first():
            return
        for path in sorted(args.folder.iterdir()):
            shutil.copy(path, pathlib.Path(directory) / path.name)

    def restore(self, directory: Any, args: Any = None) -> pathlib.Path:
        return pathlib.Path(directory)


@ocp.args.register_with_handler(_FolderHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _FolderArgs(ocp.args.CheckpointArgs):
    folder: pathlib.Path
