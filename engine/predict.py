# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A trained model that is ready to be called: its methods, jitted, on batches of one fixed size."""

import ast
import functools
import json
import pathlib
import re
import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import numpy as np

from parti.data import vocabularies
from parti.engine import checkpoints

MODEL_CONFIG = "model.gin"
FULL_CONFIG = "config.gin"
MANIFEST = "manifest.json"


class LoadedModel:
    """A model with its variables on the device.

    Attributes:
      model: the object whose methods are called, each as `method(variables, *arrays)`.
      variables: `{'params': ..., **mutable collections}`, on the device.
      config: gin text that `experiments.model_from_config` builds `model` from.
      fingerprint: sha256 of the variables and `config`, in hex.
      name: what to call it in messages.
      trained_on: what the training recorded about its data, e.g. `tokenizer_fingerprint`.
    """

    def __init__(
        self,
        model: Any,
        variables: Mapping[str, Any],
        *,
        config: str = "",
        fingerprint: str = "",
        name: str = "model",
        trained_on: Mapping[str, Any] | None = None,
    ) -> None:
        """Puts the variables on the device; computes the fingerprint unless it is given."""
        self.model = model
        self.config = config
        self.name = name
        self.fingerprint = fingerprint or checkpoints.fingerprint(variables, config)
        self.trained_on = dict(trained_on or {})
        self.variables = jax.device_put(dict(variables))
        self._jitted: dict[Hashable, Callable[..., Any]] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_train_dir(cls, directory: str | pathlib.Path, name: str = "") -> "LoadedModel":
        """Loads the last checkpoint of a finished training (the moving average if it kept one).

        Raises:
          FileNotFoundError: no such training, or it has not finished.
          ValueError: its configuration or checkpoint cannot be read.
        """
        from parti.engine import experiments

        folder = pathlib.Path(directory)
        training_manifest(folder)
        config = (folder / MODEL_CONFIG).read_text(encoding="utf-8")
        params, mutables, _ = checkpoints.load_params(folder)
        return cls(
            experiments.model_from_config(config),
            {"params": params, **mutables},
            config=config,
            name=name or folder.name,
            trained_on=trained_on(folder),
        )

    @classmethod
    def from_bundle(cls, directory: str | pathlib.Path, part: str) -> "LoadedModel":
        """Loads one part ("tokenizer", "generator", ...) of a bundle; see `bundles.Bundle`."""
        from parti.engine import bundles

        return bundles.Bundle.open(directory).load(part)

    def call(self, method: str, *arrays: np.ndarray, batch_size: int, **static: Hashable) -> Any:
        """Calls a method on rows in batches of one size, so that it compiles once.

        The last batch is filled up with copies of its last row; their results are cut off.

        Args:
          method: name of a method of `model` taking `(variables, *arrays, **static)`.
          *arrays: [rows, ...] each, of one number of rows; at least one row.
          batch_size: rows a call.
          **static: hashable settings, compiled into the program.

        Returns:
          The method's result as numpy arrays, [rows, ...] each.

        Raises:
          ValueError: no rows, or numbers of rows that differ.
        """
        rows = {len(array) for array in arrays}
        if len(rows) != 1 or 0 in rows or batch_size < 1:
            raise ValueError(
                f"{self.name}.{method}: arrays of {sorted(rows)} rows in batches of {batch_size}; "
                "give arrays of one number of rows, at least 1"
            )
        (num_rows,) = rows
        function = self._function(method, static)
        results = []
        for start in range(0, num_rows, batch_size):
            batch = [pad_rows(a[start : start + batch_size], batch_size) for a in arrays]
            kept = min(batch_size, num_rows - start)
            result = jax.device_get(function(*batch))
            results.append(jax.tree.map(lambda leaf, kept=kept: leaf[:kept], result))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)

    def _function(self, method: str, static: Mapping[str, Hashable]) -> Callable[..., Any]:
        """Returns the jitted method, the same object for the same settings."""
        key = (method, *sorted(static.items()))
        with self._lock:
            if key not in self._jitted:
                bound = functools.partial(getattr(self.model, method), **static)
                self._jitted[key] = functools.partial(jax.jit(bound), self.variables)
            return self._jitted[key]


def pad_rows(array: np.ndarray, num_rows: int) -> np.ndarray:
    """Returns `array` ([rows, ...]) with copies of its last row up to `num_rows` rows."""
    missing = num_rows - len(array)
    if missing <= 0:
        return np.asarray(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


def training_manifest(directory: str | pathlib.Path) -> dict[str, Any]:
    """Returns the manifest of a finished training.

    Raises:
      FileNotFoundError: no such training, or it has not finished.
      ValueError: the folder holds something else.
    """
    folder = pathlib.Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"no training directory at {folder}; train first (parti train)")
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {MANIFEST}: it is no training directory, or its training has not "
            "finished; run the same `parti train` command again"
        )
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("kind") != "training" or not (folder / MODEL_CONFIG).is_file():
        raise ValueError(
            f"{folder} holds {manifest.get('kind', 'something else')}, not a finished training"
        )
    return manifest


def trained_on(directory: str | pathlib.Path) -> dict[str, str]:
    """Returns the fingerprints of what a training read, as far as they can still be known.

    They are taken from the manifest of the training; where that says nothing, from what its
    configuration names, if it is still there.

    Returns:
      What `data_fingerprints` gives.
    """
    folder = pathlib.Path(directory)
    recorded = training_manifest(folder).get("trained_on")
    if recorded is not None:
        return dict(recorded)
    return data_fingerprints((folder / FULL_CONFIG).read_text(encoding="utf-8"))


def data_fingerprints(config: str) -> dict[str, str]:
    """Returns the fingerprints of the data that a configuration names.

    Args:
      config: gin text of a whole training.

    Returns:
      `tokenizer_fingerprint`, `tokens_fingerprint`, `pairs_fingerprint`,
      `reconstructions_fingerprint` and `vocabulary_fingerprint`, each only if it is there.
    """
    tokens = _data_manifest(config, "TOKENS_DIR")
    manifests = {
        "tokens": tokens,
        "pairs": _data_manifest(config, "PAIRS_DIR"),
        # A subfolder of what `parti tokenize` writes.
        "reconstructions": _data_manifest(config, "RECONSTRUCTIONS_DIR", or_above=True),
    }
    found = {f"{name}_fingerprint": m.get("fingerprint") for name, m in manifests.items()}
    found["tokenizer_fingerprint"] = tokens.get("tokenizer_fingerprint")
    vocabulary = _text_macro(config, "VOCABULARY")
    if vocabulary and pathlib.Path(vocabulary).exists():
        found["vocabulary_fingerprint"] = vocabularies.TextTokenizer(vocabulary).fingerprint
    return {name: value for name, value in found.items() if value}


def _data_manifest(config: str, macro: str, or_above: bool = False) -> dict[str, Any]:
    """Returns the manifest of the folder that a macro names; empty if there is none."""
    folder = _text_macro(config, macro)
    if not folder:
        return {}
    for place in [pathlib.Path(folder), *([pathlib.Path(folder).parent] if or_above else [])]:
        if (place / MANIFEST).is_file():
            manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
            return manifest if isinstance(manifest, dict) else {}
    return {}


def _text_macro(config: str, name: str) -> str | None:
    """Returns the text that a gin configuration gives to a macro, or None.

    gin itself would import everything that the configuration names, TensorFlow with it.
    """
    # gin puts a long value on a line of its own, and a longer one in parentheses over several.
    statement = rf"^{name} =[ \t]*(?:\\\n[ \t]*)?(.*(?:\n[ \t]+\S.*)*)"
    match = re.search(statement, config, re.MULTILINE)
    if not match:
        return None
    try:
        value = ast.literal_eval(match.group(1).strip())
    except (ValueError, SyntaxError):  # A reference, such as %gin.REQUIRED.
        return None
    return value if isinstance(value, str) else None
