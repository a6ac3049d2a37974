# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads checkpoints in T5X's layout: `<dir>/checkpoint_<N>/state`.

The tree is `{'target': params, 'state': {'step', 'param_states'}[, 'flax_mutables': collections]}`,
where `param_states` is the state dict of the optimizer. The folder `dataset` beside `state` holds
the position in the training data after step N. `checkpoint_manager` writes checkpoints.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from parti.engine.checkpoints import checksums, orbax_paths, read_errors
from parti.stages import files

STEP_PREFIX = "checkpoint"
DAMAGED_PREFIX = "damaged-"  # before the name of a corrupt checkpoint
STATE_ITEM, DATASET_ITEM = "state", "dataset"
# State of `optimizers.with_ema`, wherever it stands among the optimizer's state.
EMA_KEY = "averaged_params"

_STEP_FOLDER = re.compile(rf"{STEP_PREFIX}_(\d+)")

Tree = dict[str, Any]
Key = tuple[str, ...]
Leaves = Mapping[Key, Any]  # path -> metadata with `shape` and `dtype`


def steps(directory: files.Path) -> list[int]:
    """Returns the steps that have a complete checkpoint folder, oldest first."""
    if files.is_remote(directory):
        pattern = files.join(directory, f"{STEP_PREFIX}_*", orbax_paths.COMMITTED)
        whole = files.match(pattern, files.join(directory, ""))
        names = [files.name(files.parent(entry.path)) for entry in whole]
    else:
        names = [
            name
            for name in files.list_names(directory)
            if files.is_dir(files.join(directory, name))
        ]
    return sorted(int(match.group(1)) for match in map(_STEP_FOLDER.fullmatch, names) if match)


def unfinished(directory: files.Path) -> list[str]:
    """Returns the folders on an object store of checkpoints that a save began and did not end."""
    whole = {f"{STEP_PREFIX}_{step}" for step in steps(directory)}
    found = files.match(files.join(directory, f"{STEP_PREFIX}_*", "**"), files.join(directory, ""))
    start = len(files.absolute(directory)) + 1
    names = {entry.path[start:].split("/")[0] for entry in found}
    return [
        files.join(directory, name)
        for name in sorted(names - whole)
        if _STEP_FOLDER.fullmatch(name)
    ]


def step_path(directory: files.Path, step: int) -> str:
    """Returns the folder of the checkpoint at a step."""
    return files.join(directory, f"{STEP_PREFIX}_{step}")


def find(path: files.Path, step: int | None = None) -> str:
    """Returns a `checkpoint_<N>` folder: the path, or in a training's that of a step or the newest.

    Raises:
      FileNotFoundError: there is no such checkpoint.
    """
    folder = files.absolute(path)
    if is_checkpoint(folder):
        return folder
    if not files.is_dir(folder):
        raise FileNotFoundError(f"no training directory at {path}; train first (parti train)")
    available = steps(folder)
    if not available:
        raise FileNotFoundError(
            f"{path} holds no {STEP_PREFIX}_<N> folder; name the MODEL_DIR of a training run"
        )
    if step is not None and step not in available:
        raise FileNotFoundError(f"{path} has no checkpoint of step {step}; it has {available}")
    return step_path(folder, available[-1] if step is None else step)


def is_checkpoint(path: files.Path) -> bool:
    """Returns whether a path is a whole `checkpoint_<N>` folder, not a training directory."""
    if files.is_remote(path):
        committed = (files.join(path, *item, orbax_paths.COMMITTED) for item in ((STATE_ITEM,), ()))
        return all(map(files.exists, committed))
    return files.is_dir(files.join(path, STATE_ITEM))


def load_params(
    path: files.Path, *, ema: bool | None = None, verify: bool = True
) -> tuple[Tree, Tree, int]:
    """Reads the parameters of a checkpoint, as `find` finds it, written by this engine or by T5X.

    Args:
      ema: True for the moving average of the parameters, False for the parameters themselves; by
        default the average where the run kept one (of frozen parameters it keeps none: they stay).
      verify: whether to compare all files of the state with their checksums first.

    Returns:
      (params, mutables, step): nested dicts of numpy arrays; `mutables` is {collection: tree},
      empty for a model without mutable collections.

    Raises:
      FileNotFoundError: no checkpoint there.
      ValueError: it is corrupt, or keeps no average while `ema` is True.
      read_errors.UnavailableCheckpointError: it cannot be read at the moment.
    """
    folder = find(path)
    with read_errors.readable(folder):
        if verify:
            checksums.verify(folder, below=STATE_ITEM)
        found = leaves(folder)
    keys = _params_keys(found, folder, ema)
    mutables = {key[1:]: key for key in found if key[0] == "flax_mutables"}
    step = ("state", "step")
    with read_errors.readable(folder):
        got = read_leaves(folder, [*keys.values(), *mutables.values(), step])
    params, others = (
        traverse_util.unflatten_dict({name: got[key] for name, key in named.items()})
        for named in (keys, mutables)
    )
    return params, others, int(got[step])


def fingerprint(params: Mapping[str, Any], config: str) -> str:
    """Returns the sha256, in hex, of parameters and the text of the model's configuration."""
    digest = Fingerprint(config)
    for key, value in sorted(traverse_util.flatten_dict(dict(params), sep="/").items()):
        array = np.ascontiguousarray(value)
        digest.begin(key, array.dtype, array.shape)
        digest.add(array)
    return digest.hexdigest()


class Fingerprint:
    """The `fingerprint` of parameters that come one after another, by path, in parts or whole."""

    def __init__(self, config: str) -> None:
        self._digest = hashlib.sha256(config.encode("utf-8"))

    def begin(self, key: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        """Goes on to the parameter of a path such as 'encoder/kernel'."""
        self._digest.update(f"{key} {dtype} {shape}".encode())

    def add(self, block: np.ndarray) -> None:
        """Takes the next values of a parameter, in C order."""
        self._digest.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)

    def hexdigest(self) -> str:
        """Returns the sha256 of all, in hex."""
        return self._digest.hexdigest()


def leaves(folder: files.Path) -> Leaves:
    """Returns {path: metadata with `shape` and `dtype`} of the leaves of a checkpoint."""
    with _reader() as reader:
        return traverse_util.flatten_dict(reader.metadata(orbax_paths.of(folder) / STATE_ITEM).tree)


def describe(leaf: Any) -> str:
    """Returns dtype and shape of an array, such as 'float32[2, 3]'; 'absent' of None."""
    if leaf is None:
        return "absent"
    return f"{np.dtype(leaf.dtype)}[{', '.join(map(str, leaf.shape))}]"


def read_tree(folder: files.Path, want: Tree) -> Tree:
    """Reads all of a checkpoint; `want` is its tree as `jax.ShapeDtypeStruct`s with shardings."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(want)
    with _reader() as reader:
        args = ocp.args.PyTreeRestore(item=want, restore_args=restore_args)
        return reader.restore(orbax_paths.of(folder) / STATE_ITEM, args=args)


def read_leaves(folder: files.Path, paths: Iterable[Key]) -> dict[Key, np.ndarray]:
    """Reads some leaves of a checkpoint, {path: array}."""
    want = traverse_util.unflatten_dict(
        dict.fromkeys(paths, ocp.RestoreArgs(restore_type=np.ndarray))
    )
    args = ocp.args.PyTreeRestore(item=want, restore_args=want, partial_restore=True)
    with _reader() as reader:
        return traverse_util.flatten_dict(
            reader.restore(orbax_paths.of(folder) / STATE_ITEM, args=args)
        )


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


def _params_keys(found: Leaves, folder: files.Path, ema: bool | None) -> dict[Key, Key]:
    """Returns {path of a parameter: path in the checkpoint}, of its average where there is one.

    Frozen parameters have none.
    """
    keys = {key[1:]: key for key in found if key[0] == "target"}
    roots = {key[: key.index(EMA_KEY) + 1] for key in found if key[0] == "state" and EMA_KEY in key}
    if ema and not roots:
        raise ValueError(f"{folder} keeps no moving average; train with EMA_DECAY above 0")
    if roots and ema is not False:
        root = min(roots, key=len)
        keys |= {key[len(root) :]: key for key in found if key[: len(root)] == root}
    return keys


@contextlib.contextmanager
def _reader() -> Iterator[ocp.PyTreeCheckpointHandler]:
    """Gives Orbax's reader of trees, which unlike its `Checkpointer` waits for no other process."""
    with quiet(), contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        yield reader
