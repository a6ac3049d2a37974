# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""INITIAL: a warm start; step 0 takes branches of its variables from a finished training.

A branch is a path below the collections: 'codebook' is `params/codebook` and `stats/codebook`,
'decoder/stack' a part of the decoder. It is taken whole or not at all: a leaf that only one side
has, or has in another shape or dtype, is an error, so that nothing starts at random unnoticed. So
is a table of text tokens from a training with another vocabulary. Only step 0 reads the source; a
training that goes on does not need it.

```
INITIAL = @warm_start.WarmStart()
warm_start.WarmStart:
  path = 'runs/tokenizer'
  branches = ('encoder', 'codebook')  # or {branch here: branch there}; 'all': a whole model
```
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from parti.engine.checkpoints import checkpoints
from parti.engine.config import provenance
from parti.engine.inference import bundles, loaded_models
from parti.stages import files, manifests

ALL = "all"  # every top-level branch of the new model

Key = tuple[str, ...]  # collection, then a path in it
Leaves = dict[Key, Any]

_NUM_PROBLEMS = 5  # that an error message names
_VOCABULARY = "vocabulary_fingerprint"
_TOKEN_TABLE = "token_embedding"  # in the path of a table of tokens


class MisfitError(ValueError):
    """Branches that do not fit; `details` says in what."""

    def __init__(self, path: str, details: str) -> None:
        super().__init__(
            f"INITIAL cannot start from {path}: {details}. Change branches or fresh of "
            "warm_start.WarmStart, or the model"
        )
        self.details = details


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Where the first step's variables come from.

    `path`: a finished training directory (its moving average, if it kept one), a part's folder in a
    bundle such as `bundle/tokenizer`, or a `checkpoint_<N>` folder, also one of T5X; local or on
    `gs://`.
    """

    path: str
    # The same here and there, or {here: there}; or ALL
    branches: Sequence[str] | Mapping[str, str] | str = ALL
    fresh: Sequence[str] = ()  # paths inside those (here) that start as the model starts them
    # {path of a leaf in those branches (here): function of the array there}
    converters: Mapping[str, Callable[[Any], Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError without a path or branches, and for branches that overlap."""
        if not isinstance(self.path, str) or not self.path:
            raise ValueError(
                f"warm_start.WarmStart.path must be a path in quotes, got {self.path!r}"
            )
        is_list = self.branches == ALL or (self.branches and not isinstance(self.branches, str))
        if not is_list or isinstance(self.fresh, str):
            raise ValueError(
                "warm_start.WarmStart.branches and .fresh are lists of paths such as ('encoder', "
                f"'codebook'), got {self.branches!r} and {self.fresh!r}; branches = 'all' is a "
                "whole model"
            )
        if self.branches == ALL:
            return
        for branch in self.branches:
            if above := [b for b in self.branches if b != branch and _is_below(branch, b)]:
                raise ValueError(
                    f"warm_start.WarmStart.branches names {branch!r} and {above[0]!r}, which holds "
                    "it"
                )
        for name, paths in (("fresh", self.fresh), ("converters", self.converters)):
            for path in paths:
                if not any(path != b and _is_below(path, b) for b in self.branches):
                    raise ValueError(
                        f"warm_start.WarmStart.{name} names {path!r}, which is in none of the "
                        f"branches {', '.join(self.branches)}"
                    )

    def fingerprint(self) -> str:
        """Returns the source's fingerprint; '' if it is not there (any more)."""
        try:
            if _is_bundle_part(self.path):
                bundle = bundles.Bundle.open(files.parent(self.path))
                return bundle.fingerprints[files.name(self.path)]
            if checkpoints.is_checkpoint(self.path):
                return checkpoints.fingerprint(_read(self.path), "")
            return manifests.read(self.path, "training").get("fingerprint", "")
        except FileNotFoundError:
            return ""

    def trained_on(self) -> dict[str, str]:
        """Returns the fingerprints of what the source was trained on, as far as it says."""
        folder = files.absolute(self.path)
        if _is_bundle_part(folder):
            bundle = bundles.Bundle.open(files.parent(folder))
            described = bundle.content["parts"][files.name(folder)]["trained_on"]
            return {**described, _VOCABULARY: bundle.fingerprints["vocabulary"]}
        try:
            is_checkpoint = checkpoints.is_checkpoint(folder)
            return provenance.trained_on(files.parent(folder) if is_checkpoint else folder)
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def load(
        self, wanted: Mapping[str, Any], trained_on: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Reads the branches, {collection: tree of numpy arrays}.

        `wanted` is {collection: tree with shapes and dtypes} of all variables of the new model,
        `trained_on` the fingerprints of what it will be trained on.

        Raises:
          MisfitError: the branches do not fit.
          FileNotFoundError: there is no such source, or it has not finished.
        """
        want, found = _flatten(wanted), _flatten(_read(self.path))
        taken: Leaves = {}
        problems: list[str] = []
        for here, there in self._pairs(want):
            problems += self._take(_below(want, here), _below(found, there), here, there, taken)
        for path in self.fresh:
            if not _below(want, path):
                problems.append(f"{path} of fresh names no branch here")
        for path in self.converters:
            if not any(len(key) == 1 for key in _below(want, path)):
                problems.append(f"{path} of converters names no leaf here")
        if problems:
            more = len(problems) - _NUM_PROBLEMS
            text = "; ".join(problems[:_NUM_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
            there, here = (", ".join(sorted({k[1] for k in leaves})) for leaves in (found, want))
            raise MisfitError(self.path, f"{text}. There: {there}; here: {here}")
        self._check_vocabulary(taken, trained_on or {})
        return traverse_util.unflatten_dict(taken)

    def describe(self, taken: Mapping[str, Any]) -> list[str]:
        """Returns lines that say what `load` took from where."""
        leaves = _flatten(taken)
        lines = [f"initial: from {self.path} (fingerprint {self.fingerprint()[:12]})"]
        for here, there in self._pairs(leaves):
            arrays = _below(leaves, here).values()
            values = sum(array.size for array in arrays)
            lines.append(f"initial: {here} <- {there}: {len(arrays)} arrays, {values:,} values")
        lines += [f"initial: {path} starts fresh" for path in self.fresh]
        for path, function in self.converters.items():
            lines.append(f"initial: {path} is converted by {function.__name__}")
        return lines

    def _check_vocabulary(self, taken: Leaves, trained_on: Mapping[str, str]) -> None:
        """Raises ValueError for tables of tokens, if ids mean other texts there than here."""
        ours = trained_on.get(_VOCABULARY)
        if not ours or not any(_TOKEN_TABLE in key for key in taken):
            return
        theirs = self.trained_on().get(_VOCABULARY)
        if theirs and theirs != ours:
            raise ValueError(
                f"INITIAL cannot start from {self.path}: it was trained with another vocabulary "
                f"(fingerprint {theirs[:12]}, VOCABULARY has {ours[:12]}), so its token ids mean "
                "other texts. Set VOCABULARY to the one it was trained with, or train it anew"
            )

    def _pairs(self, leaves: Leaves) -> list[tuple[str, str]]:
        """Returns (branch here, branch there); `leaves` are of the new model."""
        if self.branches == ALL:
            return [(branch, branch) for branch in sorted({key[1] for key in leaves})]
        if isinstance(self.branches, Mapping):
            return list(self.branches.items())
        return [(branch, branch) for branch in self.branches]

    def _take(self, want: Leaves, found: Leaves, here: str, there: str, taken: Leaves) -> list[str]:
        """Adds a branch to `taken`; returns what does not fit. Keys are relative to the branch."""
        missing = [
            f"{path} names nothing {side}"
            for path, leaves, side in ((here, want, "here"), (there, found, "there"))
            if not leaves
        ]
        if missing:
            return missing
        problems = []
        for key in sorted(want.keys() | found.keys()):
            name = "/".join((*here.split("/"), *key[1:]))
            if any(_is_below(name, path) for path in self.fresh):
                continue
            leaf = found.get(key)
            if leaf is not None and name in self.converters:
                leaf = np.asarray(self.converters[name](leaf))
            ours, theirs = checkpoints.describe(want.get(key)), checkpoints.describe(leaf)
            if ours != theirs:
                problems.append(f"{key[0]}/{name} is {ours} here and {theirs} there")
            else:
                taken[(key[0], *name.split("/"))] = leaf
        return problems


def if_given(path: str | None, branches: Sequence[str] | Mapping[str, str]) -> WarmStart | None:
    """Returns a `WarmStart` from a path; None, so no warm start, for None."""
    return None if path is None else WarmStart(path, branches)


def load(
    initial: WarmStart | None,
    frozen: Sequence[str],
    wanted: Mapping[str, Any],
    log: Callable[[str], Any],
    trained_on: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns the variables that INITIAL gives the first step, on the host; logs them.

    `frozen` is `Model.frozen`; see `WarmStart.load`.

    Raises:
      ValueError: INITIAL does not fit, or leaves a frozen branch, or a part, at a random start.
      FileNotFoundError: there is no such training, or it has not finished.
    """
    taken = initial.load(wanted, trained_on) if initial else {}
    given = _flatten(taken)
    for branch in frozen:
        random = [key for key in _flatten(wanted) if key[1] == branch and key not in given]
        if random:
            raise ValueError(
                f"{branch} is frozen, but {'/'.join(random[0])} would start at random and stay so: "
                f"set INITIAL = @warm_start.WarmStart(), its path to a finished training, and "
                f"{branch} among its branches"
            )
    for line in initial.describe(taken) if initial else ():
        log(line)
    return taken


def _read(folder: str) -> dict[str, Any]:
    """Returns {collection: tree of arrays} of a source."""
    if _is_bundle_part(folder):
        bundle = bundles.Bundle.open(files.parent(folder))
        return jax.device_get(bundle.load(files.name(folder)).variables)
    return loaded_models.read_variables(folder)


def _is_bundle_part(folder: str) -> bool:
    return files.exists(files.join(folder, bundles.PARAMS_FILE))


def _flatten(variables: Mapping[str, Any]) -> Leaves:
    return traverse_util.flatten_dict(dict(variables))


def _below(leaves: Leaves, path: str) -> Leaves:
    """Returns {(collection, *path below `path`): leaf}, of every collection."""
    names = tuple(path.split("/"))
    end = 1 + len(names)
    return {(k[0], *k[end:]): leaf for k, leaf in leaves.items() if k[1:end] == names}


def _is_below(path: str, other: str) -> bool:
    return f"{path}/".startswith(f"{other}/")
