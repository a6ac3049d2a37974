# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a training was made of: the fingerprints of the data that its configuration names."""

import pathlib
from typing import Any

from parti.data.text import vocabularies
from parti.engine.config import gin_text
from parti.stages import files, manifests

CONFIG = "config.gin"  # all of a training's configuration
MODEL_CONFIG = "model.gin"  # what its MODEL alone needs
DATA = "data.json"  # what its data were when it began (`data_lineage`)

_FOLDERS = ("TOKENS_DIR", "PAIRS_DIR", "RECONSTRUCTIONS_DIR")


def trained_on(directory: str | pathlib.Path) -> dict[str, str]:
    """Returns the fingerprints of what a training read, as far as they can still be known.

    As `data_fingerprints` gives them: from the manifest of the training; of one that has not
    finished from what it noted when it began; where neither says anything, from what its
    configuration names, if it is still there.
    """
    folder = pathlib.Path(directory)
    if (folder / manifests.FILE_NAME).is_file():
        recorded = manifests.read(folder, "training").get("trained_on")
        if recorded is not None:
            return dict(recorded)
    elif begun := manifests.read_json(folder / DATA, "remove it: it is then taken from the data"):
        return {name: value for name, value in begun.items() if name.endswith("_fingerprint")}
    return data_fingerprints((folder / CONFIG).read_text(encoding="utf-8"))


def data_fingerprints(config: str) -> dict[str, str]:
    """Returns the fingerprints of the data that a configuration, gin text, names.

    `tokenizer_fingerprint`, `tokens_fingerprint`, `pairs_fingerprint`,
    `reconstructions_fingerprint`, `vocabulary_fingerprint` and `texts_fingerprint` (of the names
    and sizes of BERT's files), each only if it is there.
    """
    tokens = _data_manifest(config, "TOKENS_DIR")
    made = {
        "tokens": tokens,
        "pairs": _data_manifest(config, "PAIRS_DIR"),
        # A subfolder of what `parti tokenize` writes.
        "reconstructions": _data_manifest(config, "RECONSTRUCTIONS_DIR", or_above=True),
    }
    found = {f"{name}_fingerprint": m.get("fingerprint") for name, m in made.items()}
    found["tokenizer_fingerprint"] = tokens.get("tokenizer_fingerprint")
    vocabulary = _text_macro(config, "VOCABULARY")
    if vocabulary and pathlib.Path(vocabulary).exists():
        found["vocabulary_fingerprint"] = vocabularies.TextTokenizer(vocabulary).fingerprint
    if texts := _text_files(config):
        found["texts_fingerprint"] = manifests.digest(texts)
    return {name: value for name, value in found.items() if value}


def _text_files(config: str) -> list[tuple[str, int]]:
    """Returns (name, bytes) of each file that TEXTS names: addresses, or a data set of TFDS."""
    macros = gin_text.macros(config)
    texts, folder = macros.get("TEXTS"), macros.get("TFDS_DATA_DIR")
    if isinstance(texts, str) and isinstance(folder, str):
        entries = files.walk(files.join(folder, texts.partition(":")[0]))
    else:
        addresses = texts if isinstance(texts, list | tuple) else [texts] if texts else []
        named = [named for address in addresses for named in files.resolve(address)]
        found = (files.walk(n.folder) if n.entries is None else n.entries for n in named)
        entries = [entry for entries in found for entry in entries]
    return [(files.name(path), num_bytes) for path, num_bytes in entries]


def data_files(config: str) -> dict[str, list[tuple[str, int]]]:
    """Returns {macro: (name below its folder, bytes) of each file} of the data that are there."""
    found = {}
    for macro in _FOLDERS:
        if folder := _text_macro(config, macro):
            root = files.absolute(folder)
            found[macro] = [(path[len(root) + 1 :], size) for path, size in files.walk(root)]
    return found


def _data_manifest(config: str, macro: str, or_above: bool = False) -> dict[str, Any]:
    """Returns the manifest of the folder that a macro names; empty if there is none."""
    folder = _text_macro(config, macro)
    if not folder:
        return {}
    path = pathlib.Path(folder)
    for candidate in [path, *([path.parent] if or_above else [])]:
        if (candidate / manifests.FILE_NAME).is_file():
            return manifests.read_json(candidate / manifests.FILE_NAME, "make the output again")
    return {}


def _text_macro(config: str, name: str) -> str | None:
    """Returns the string that a gin text gives to a macro; None if it gives none."""
    value = gin_text.macros(config).get(name)
    return value if isinstance(value, str) else None
