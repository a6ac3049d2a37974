# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders with token shards, of `parti tokenize` or `parti generate`, and whose tokens they are."""

import dataclasses
import itertools
import pathlib
from typing import Any

from parti.data.storage import records, shard_names, tfrecords
from parti.engine.inference import loaded_models
from parti.stages import files, manifests

# Kind of a folder with token shards -> what their names begin with.
_PREFIXES = {"tokens": records.SPLITS, "generations": ("tokens",)}


@dataclasses.dataclass(frozen=True)
class TokenShard:
    """A token shard to read."""

    path: str  # of the TFRecord file of `TokenizedPair`
    num_rows: int | None = None  # that are read; None reads all

    @property
    def name(self) -> str:
        """The file's name."""
        return pathlib.Path(self.path).name


def read_manifest(directory: str) -> dict[str, Any]:
    """Returns the manifest of a folder with token shards; raises as `manifests.read`."""
    path, remedy = files.join(directory, manifests.FILE_NAME), "make the output again"
    found = manifests.read_json(path, remedy).get("kind")
    return manifests.read(directory, found if found in _PREFIXES else "tokens")


def find_shards(
    directory: str, kind: str, split: str | None, limit: int | None
) -> list[TokenShard]:
    """Returns what is to be read of a folder of "tokens" or "generations", in order.

    `limit` is the number of rows of each split; None is all.

    Raises:
      FileNotFoundError: there are no shards.
      ValueError: a split of generations, which have none, or nothing to read.
    """
    prefixes = _PREFIXES[kind]
    if split and split not in prefixes:
        raise ValueError(f"--split={split}: {directory} holds {kind}, which have no splits")
    paths = shard_names.expand_pattern(directory, "token shards")
    shards: list[TokenShard] = []
    for prefix in (split,) if split else prefixes:
        left = limit
        for path in paths:
            if not pathlib.Path(path).name.startswith(f"{prefix}-"):
                continue
            if left is None:
                shards.append(TokenShard(path))
            elif left:
                count = sum(1 for _ in itertools.islice(tfrecords.read(path), left))
                shards.append(TokenShard(path, count))
                left -= count
    if not shards:
        raise FileNotFoundError(f"{directory}: no token shards of {split or ' or '.join(prefixes)}")
    return shards


def model_of(directory: str, tokens: dict[str, Any]) -> str:
    """Returns the tokenizer that a manifest of tokens names; FileNotFoundError if it is gone."""
    source = tokens["inputs"].get("model", "")
    if not pathlib.Path(source or "-").is_dir():
        raise FileNotFoundError(
            f"{directory}: made with {source or 'an unnamed model'}, which is not there; "
            "give the tokenizer with --model"
        )
    return source


def check_tokenizer(
    directory: str, tokens: dict[str, Any], source: str, tokenizer: loaded_models.LoadedModel
) -> None:
    """Raises ValueError unless tokens are of a tokenizer's encoder and codebook."""
    if tokens["kind"] == "tokens":
        theirs = tokens["tokenizer_fingerprint"]
    else:
        prints = tokens["fingerprints"]
        theirs = prints.get("encoder", prints["tokenizer"])
    if not tokenizer.made_tokens_of(theirs):
        raise ValueError(
            f"{directory}: tokens of the encoder {theirs[:12]}, but {source} has "
            f"{tokenizer.encoder_fingerprint[:12]}; give their own tokenizer with --model"
        )
