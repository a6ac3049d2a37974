# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a training was made of: the fingerprints of the data that its configuration names."""

from typing import Any

from parti.data.storage import data_sets, record_offsets
from parti.data.text import vocabularies
from parti.engine.config import gin_text
from parti.stages import files, manifests

CONFIG = "config.gin"  # all of a training's configuration
MODEL_CONFIG = "model.gin"  # what its MODEL alone needs
DATA = "data.json"  # what its data were when it began (`data_lineage`)
_REMEDY = "remove it: it is then taken from the data"

# {macro: what its folders hold}
_FOLDERS = {"TOKENS_DIR": "tokens", "PAIRS_DIR": "pairs", "RECONSTRUCTIONS_DIR": "reconstructions"}


def trained_on(directory: files.Path) -> dict[str, str]:
    """Returns the fingerprints of what a training read, as far as they can still be known.

    As `data_fingerprints` gives them: from the manifest of the training; of one that has not
    finished from what it noted when it began; where neither says anything, from what its
    configuration names, if it is still there.
    """
    if files.exists(files.join(directory, manifests.FILE_NAME)):
        recorded = manifests.read(directory, "training").get("trained_on")
        if recorded is not None:
            return dict(recorded)
    elif begun := manifests.read_json(files.join(directory, DATA), _REMEDY):
        return {name: value for name, value in begun.items() if name.endswith("_fingerprint")}
    config = files.join(directory, CONFIG)
    if not files.exists(config):  # Remote systems would say it in words of their own.
        raise FileNotFoundError(f"{config} is not there")
    return data_fingerprints(files.read_bytes(config).decode("utf-8"))


def data_fingerprints(config: str) -> dict[str, str]:
    """Returns the fingerprints of the data that a configuration, gin text, names.

    `tokenizer_fingerprint`, `tokens_fingerprint`, `pairs_fingerprint`,
    `reconstructions_fingerprint`, `vocabulary_fingerprint`, `texts_fingerprint` and
    `glue_fingerprint` (of the names and sizes of the files), each only if it is there. Of several
    data sets that a macro mixes, each has its own: `tokens/laion_fingerprint`.
    """
    macros = gin_text.macros(config)
    found: dict[str, Any] = {}
    for macro, what in _FOLDERS.items():
        for name, (folder, _) in _data_sets(macros, macro).items():
            # Reconstructions are a subfolder of what `parti tokenize` writes.
            manifest = _manifest(folder, or_above=what == "reconstructions")
            found[f"{_joined(what, name)}_fingerprint"] = manifest.get("fingerprint")
            if what == "tokens" and (tokenizer := manifest.get("tokenizer_fingerprint")):
                found["tokenizer_fingerprint"] = tokenizer  # The task refuses several.
    vocabulary = macros.get("VOCABULARY")
    if isinstance(vocabulary, str) and files.exists(vocabulary):
        found["vocabulary_fingerprint"] = vocabularies.TextTokenizer(vocabulary).fingerprint
    for what, entries in (("texts", _text_files(macros)), ("glue", _glue_files(macros))):
        if entries:
            sizes = [(files.name(path), num_bytes) for path, num_bytes in entries]
            found[f"{what}_fingerprint"] = manifests.digest(sizes)
    return {name: value for name, value in found.items() if value}


def _text_files(macros: dict[str, Any]) -> list[files.Entry]:
    """Returns the files that TEXTS names: addresses, or a data set of TFDS."""
    texts, folder = macros.get("TEXTS"), macros.get("TFDS_DATA_DIR")
    if isinstance(texts, str) and isinstance(folder, str):
        return _tfds_files(texts, folder)
    addresses = texts if isinstance(texts, list | tuple) else [texts] if texts else []
    named = (named for address in addresses for named in files.resolve(address))
    return [entry for one in named for entry in files.entries_of(one)]


def _glue_files(macros: dict[str, Any]) -> list[files.Entry]:
    """Returns the files of GLUE_TASK."""
    task, folder, version = (macros.get(f"GLUE_{name}") for name in ("TASK", "DIR", "VERSION"))
    if not (isinstance(task, str) and isinstance(folder, str) and isinstance(version, str)):
        return []
    return _tfds_files(f"glue/{task}:{version}", folder)


def _tfds_files(name: str, data_dir: str) -> list[files.Entry]:
    """Returns the files of a data set of TFDS; of a name that leaves versions open, of all."""
    parts = [part for part in name.split(":") if "*" not in part]
    return _data_below(files.join(data_dir, *parts))


def data_files(config: str) -> dict[str, list[tuple[str, int]]]:
    """Returns {macro: (name below its folder, bytes) of each file} of the data that are there."""
    macros, found = gin_text.macros(config), {}
    for macro in _FOLDERS:
        for name, (folder, _) in _data_sets(macros, macro).items():
            root = files.absolute(folder)
            below = [(path[len(root) + 1 :], size) for path, size in _data_below(root)]
            found[_joined(macro, name)] = below
    return found


def _data_below(folder: str) -> list[files.Entry]:
    """Returns the files below a folder, except those that a training may have added to it."""
    return [entry for entry in files.walk(folder) if not record_offsets.is_offsets(entry.path)]


def mixing_rates(config: str) -> dict[str, list[list[Any]]]:
    """Returns {macro: [name, rate] of each data set, in order} of the macros that mix several."""
    macros = gin_text.macros(config)
    sets = {macro: _data_sets(macros, macro) for macro in _FOLDERS}
    return {
        macro: [[name, of.rate] for name, of in several.items()]
        for macro, several in sets.items()
        if len(several) > 1
    }


def _data_sets(macros: dict[str, Any], macro: str) -> dict[str, data_sets.DataSet]:
    """Returns the data sets that a macro names; none if it is not set."""
    value = macros.get(macro)
    return data_sets.named(value, macro) if value and isinstance(value, str | dict) else {}


def _joined(what: str, name: str) -> str:
    return f"{what}/{name}" if name else what


def _manifest(folder: str, or_above: bool) -> dict[str, Any]:
    """Returns the manifest of a folder, or of the one above; empty if there is none."""
    for candidate in [folder, *([files.parent(folder)] if or_above else [])]:
        path = files.join(candidate, manifests.FILE_NAME)
        if found := manifests.read_json(path, "make the output again"):
            return found
    return {}
