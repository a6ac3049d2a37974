# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A trained model that is ready to be called: its methods, jitted, on batches of one fixed size."""

import contextlib
import functools
import pathlib
import re
import tempfile
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from parti.data.text import captions, vocabularies
from parti.engine.checkpoints import checkpoints
from parti.engine.config import gin_config, provenance
from parti.engine.inference import layouts
from parti.models import base
from parti.stages import files, manifests

_CHECKPOINT = re.compile(rf"/{checkpoints.STEP_PREFIX}_(\d+)/{checkpoints.STATE_ITEM}/")
# Files of a training that are read with a checkpoint of it.
_BESIDE = (manifests.FILE_NAME, provenance.MODEL_CONFIG, provenance.CONFIG, provenance.DATA)


class LoadedModel:
    """A model with its variables on the device; methods are called as `method(variables, *arrays)`.

    Attributes:
      variables: `{'params': ..., **mutable collections}`, without what only training reads.
      config: gin text that `gin_config.model_from_config` builds `model` from.
      fingerprint: sha256 of the variables and `config`, in hex.
      name: what to call it in messages.
      trained_on: what the training recorded about its data, e.g. `tokenizer_fingerprint`.
      vocabulary: of a bundle's parts that read captions; otherwise None.
    """

    def __init__(
        self,
        model: Any,
        variables: Mapping[str, Any],
        *,
        config: str = "",
        name: str = "model",
        trained_on: Mapping[str, Any] | None = None,
        vocabulary: vocabularies.TextTokenizer | None = None,
        placement: layouts.Placement | None = None,
        fingerprint: str = "",
    ) -> None:
        """Puts the variables on the device, or where `placement` says; computes the fingerprint.

        With a fingerprint they are there already, as for the placement, and it is theirs.
        """
        self.model, self.config, self.name = model, config, name
        self.trained_on, self.vocabulary = dict(trained_on or {}), vocabulary
        self._placement, self.fingerprint = placement, fingerprint
        self.variables = base.without_branches(variables, model.training_only)
        if not fingerprint:
            self.fingerprint = checkpoints.fingerprint(self.variables, config)
            put = placement.replicate if placement else jax.device_put
            self.variables = put(self.variables)
        self._jitted: dict[Hashable, Callable[..., Any]] = {}
        self._lock = threading.Lock()

    @property
    def is_on_one_device(self) -> bool:
        """Whether it was loaded without a placement."""
        return self._placement is None

    @functools.cached_property
    def encoder_fingerprint(self) -> str:
        """The sha256 of what a tokenizer's tokens depend on: encoder, codebook and their settings.

        Tokenizers that differ in the decoder alone have the same one: tokens of either fit both.
        """
        branches = {
            collection: {k: v for k, v in tree.items() if k in self.model.encoding_branches}
            for collection, tree in self.variables.items()
        }
        return checkpoints.fingerprint(branches, manifests.digest(self.model.encoding_settings))

    def made_tokens_of(self, fingerprint: str) -> bool:
        """Returns whether tokens that record this fingerprint are of this tokenizer.

        Tokens of version 0.1.0 record that of the whole tokenizer.
        """
        return fingerprint in (self.encoder_fingerprint, self.fingerprint)

    @classmethod
    def from_train_dir(
        cls, directory: files.Path, name: str = "", placement: layouts.Placement | None = None
    ) -> "LoadedModel":
        """Loads the last checkpoint of a finished training (the moving average if it kept one).

        The directory may also be one of its `checkpoint_<N>` folders, finished or not.

        Raises:
          FileNotFoundError: no such training, or it has not finished.
          ValueError: its configuration or checkpoint cannot be read.
        """
        with _local_training(directory) as folder:
            variables = read_variables(folder)
            training = folder.parent if checkpoints.is_checkpoint(folder) else folder
            config = (training / provenance.MODEL_CONFIG).read_text(encoding="utf-8")
            return cls(
                gin_config.model_from_config(config),
                variables,
                config=config,
                name=name or folder.name,
                trained_on=provenance.trained_on(training),
                placement=placement,
            )

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns [texts, text_length] int32 token ids, made as those of captions in training."""
        if self.vocabulary is None:
            raise ValueError(f"{self.name} has no text vocabulary; load it from a bundle")
        length = self.model.text_length
        return np.stack(
            [self.vocabulary.encode(captions.normalize_caption(text), length) for text in texts]
        )

    def call(self, method: str, *arrays: Any, batch_size: int, **static: Hashable) -> Any:
        """Calls `model.method(variables, *arrays, **static)` in batches of one size, compiled once.

        The last batch is filled up with copies of its last row; their results are cut off. Arrays,
        or trees of them, of one row at least, and those of the result, of numpy, are [rows, ...]
        each.
        """
        rows = {len(array) for array in jax.tree.leaves(arrays)}
        if len(rows) != 1 or 0 in rows or batch_size < 1:
            raise ValueError(
                f"{self.name}.{method}: arrays of {sorted(rows)} rows in batches of {batch_size}; "
                "give arrays of one number of rows, at least 1"
            )
        (num_rows,) = rows
        if self._placement is not None:
            batch_size = self._placement.batch_size(batch_size)
        function = self._function(method, static)
        results = []
        for start in range(0, num_rows, batch_size):
            end = start + batch_size
            batch = jax.tree.map(lambda a: pad_rows(a[start:end], batch_size), arrays)  # noqa: B023
            results.append(jax.device_get(function(*batch)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num_rows], *results)

    def _function(self, method: str, static: Mapping[str, Hashable]) -> Callable[..., Any]:
        """Returns the jitted method, the same object for the same settings."""
        key = (method, *sorted(static.items()))
        with self._lock:
            if key not in self._jitted:
                bound = functools.partial(getattr(self.model, method), **static)
                if place := self._placement:
                    function = functools.partial(place.call, place.jit(bound), self.variables)
                else:
                    function = functools.partial(jax.jit(bound), self.variables)
                self._jitted[key] = function
            return self._jitted[key]


@contextlib.contextmanager
def _local_training(directory: files.Path) -> Iterator[pathlib.Path]:
    """Yields a training, or one of its checkpoints, as a folder on this machine.

    Of a remote one it is a temporary copy of the checkpoint, a training's newest, and of the small
    files beside it: checksums are compared, and Orbax reads it, wherever it was.
    """
    if not files.is_remote(directory):
        yield pathlib.Path(directory).absolute()
        return
    checkpoint = training = files.absolute(directory)
    if is_checkpoint := files.is_dir(files.join(checkpoint, checkpoints.STATE_ITEM)):
        training = files.parent(checkpoint)
    else:
        manifests.read(training, "training")  # raises unless it has finished
        paths = (entry.path[len(training) :] for entry in files.walk(training))
        steps = [int(match[1]) for match in map(_CHECKPOINT.match, paths) if match]
        checkpoint = checkpoints.step_path(training, max(steps, default=0))
    with tempfile.TemporaryDirectory(prefix="parti-") as temporary:
        folder = pathlib.Path(temporary, files.name(training))
        copied = folder / files.name(checkpoint)
        copied.mkdir(parents=True)
        files.copy_tree(checkpoint, copied)
        for name in _BESIDE:
            if files.exists(path := files.join(training, name)):
                files.concatenate([path], folder / name)
        yield copied if is_checkpoint else folder


def read_variables(directory: files.Path) -> dict[str, Any]:
    """Returns {collection: tree of arrays} of a finished training, or of one of its checkpoints.

    Raises:
      FileNotFoundError: no such training, or it has not finished.
      ValueError: its checkpoint cannot be read.
    """
    if not checkpoints.is_checkpoint(directory):
        manifests.read(directory, "training")  # raises unless it has finished
    params, mutables, _ = checkpoints.load_params(directory)
    return {"params": params, **mutables}


def pad_rows(array: np.ndarray, num_rows: int) -> np.ndarray:
    """Returns `array` ([rows, ...]) with copies of its last row up to `num_rows` rows."""
    missing = max(num_rows - len(array), 0)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
