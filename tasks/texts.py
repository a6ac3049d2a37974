# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts alone, from where people have them: files, a TFDS data set, the captions of pairs.

A file of text has a text in each line (`.txt`), a JSON object in each (`.jsonl`, `.json`), either
also with `.gz`, or is a table (`.parquet`). What is read is a function of file and place in it, so
positions are exact.
"""

import functools
import json
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from parti.data.storage import records
from parti.stages import files
from parti.tasks import preprocessors, sources
from parti.tasks.preprocessors import Context, Features, Step

Address = str | os.PathLike[str]
Patterns = str | Sequence[str]

_LINES, _JSON, _PARQUET = "lines", "json", "parquet"
_KINDS = {".txt": _LINES, ".jsonl": _JSON, ".json": _JSON, ".parquet": _PARQUET}
_GZIP = ".gz"


class Texts(NamedTuple):
    """Texts that are there: a source, and the steps that make `text`, [texts] string, of it."""

    source: seqio.DataSource
    shards: dict[str, list[str]]  # of each split
    steps: tuple[Step, ...]


def of_pairs(pairs_dir: Address, caption_weights: Sequence[float] | None = None) -> Texts:
    """Returns the captions of pairs: in training one of each pair's, otherwise the first.

    `caption_weights` are as of `preprocessors.choose_caption`.

    Raises:
      FileNotFoundError: no train shards.
      ValueError: a weight is out of range, or TensorFlow cannot read the system of the folder.
    """
    sources.check_scheme(pairs_dir)
    shards = sources.split_files(pairs_dir, records.ImageTextPair)
    parse = preprocessors.parse_records(records.ImageTextPair, records.TEXT)
    steps = (parse, preprocessors.choose_caption(caption_weights))
    return Texts(sources.RecordSource(shards), shards, steps)


def of_files(train: Patterns, validation: Patterns | None, field: str) -> Texts:
    """Returns the texts of files; without files for validation there is no such split.

    Addresses are those of `files.resolve`; a folder stands for all files of text below it. `field`
    is the key of a JSON object, or the column of a table, that is the text.

    Raises:
      FileNotFoundError: an address names no file of text.
      ValueError: files of several kinds, or where TensorFlow cannot read them; all are empty, or
        the first one has no such field.
    """
    named = {"TEXTS": train, "VALIDATION_TEXTS": validation}
    found = {macro: _find(macro, given) for macro, given in named.items() if given}
    kinds = {kind for paths in found.values() for kind in map(_kind, paths)}
    if len(kinds) > 1:
        raise ValueError(
            f"TEXTS and VALIDATION_TEXTS name files of several kinds, {_words(kinds)}; give one"
        )
    kind, is_gzip = kinds.pop()
    for macro, paths in found.items():
        _check_first(macro, paths[0], kind, field)
        if not any(map(files.size, paths)):
            raise ValueError(f"{macro}: {paths[0]!r} and all other files are empty")
    shards = dict(zip(records.SPLITS, found.values(), strict=False))
    if kind == _PARQUET:
        shards = {split: _row_groups(paths) for split, paths in shards.items()}
        # Row groups are in memory as a whole.
        source = sources.RecordSource(shards, functools.partial(_read_rows, field), cycle_length=2)
        return Texts(source, shards, (_rename,))
    compression = "GZIP" if is_gzip else ""
    read = functools.partial(tf.data.TextLineDataset, compression_type=compression)
    step = _rename if kind == _LINES else _read_json(field)
    return Texts(sources.RecordSource(shards, read), shards, (step,))


def of_tfds(name: str, data_dir: Address, field: str) -> Texts:
    """Returns a text feature of a data set of TFDS that is there, such as `c4/en:3.1.0`.

    Nothing is downloaded, and no code of the data set is needed.

    Raises:
      FileNotFoundError: it is not in `data_dir`.
      ValueError: it has no train split, no such feature, or files of another format than TFRecord.
    """
    absent = (
        f"TEXTS is {name!r}, but TFDS_DATA_DIR {os.fspath(data_dir)!r} holds no such data set; "
        f"prepare it there (`tfds build {name} --data_dir=...`), or set TFDS_DATA_DIR = None "
        "if TEXTS names files"
    )
    info, shards = sources.find_tfds(name, data_dir, absent)
    specs = info.features.get_tensor_spec()
    if specs.get(field) != tf.TensorSpec([], tf.string):
        names = ", ".join(sorted(specs))
        raise ValueError(
            f"TEXT_FIELD is {field!r}, which is no text in {name!r}; its features are {names}"
        )
    if "train" not in shards:
        raise ValueError(f"{name!r} has no split 'train'; it has {', '.join(info.splits)}")

    def parse(features: Features, context: Context) -> Features:
        del context
        spec = {field: tf.io.FixedLenFeature([], tf.string)}
        return {records.TEXT: tf.io.parse_example(features[sources.EXAMPLE], spec)[field]}

    return Texts(sources.RecordSource(shards), shards, (parse,))


def _find(macro: str, given: Patterns) -> list[str]:
    """Returns the files of text that addresses name, sorted in each."""
    paths = []
    for address in [given] if isinstance(given, str) else given:
        for named in files.resolve(address):
            found = [e.path for e in files.entries_of(named) if _kind_or_none(e.path)]
            if not found:
                raise FileNotFoundError(
                    f"{macro}: {named.text!r} names no file of text; files end in "
                    f"{', '.join(_KINDS)}, the first three also in {_GZIP}"
                )
            paths += found
    for path in paths:
        if not files.is_utf8(path):
            raise ValueError(f"{macro}: {path!r} is no UTF-8, which TensorFlow needs; rename it")
        if _kind(path)[0] != _PARQUET:
            sources.check_scheme(path, "; or give the texts as .parquet")
    return paths


def _kind_or_none(path: str) -> tuple[str, bool] | None:
    """Returns the kind of a file by its name, and whether it is compressed."""
    name = path.removesuffix(_GZIP)
    kind = _KINDS.get(os.path.splitext(name)[1])
    is_gzip = name != path
    return None if kind is None or (is_gzip and kind == _PARQUET) else (kind, is_gzip)


def _kind(path: str) -> tuple[str, bool]:
    found = _kind_or_none(path)
    assert found is not None, path
    return found


def _words(kinds: set[tuple[str, bool]]) -> str:
    return " and ".join(sorted(kind + _GZIP * is_gzip for kind, is_gzip in kinds))


def _check_first(macro: str, path: str, kind: str, field: str) -> None:
    """Raises ValueError unless the first text of a file can be read."""
    if kind == _PARQUET:
        import pyarrow as pa
        from pyarrow import parquet

        with files.open(path) as file:
            schema = parquet.ParquetFile(file).schema_arrow
        if field not in schema.names:
            raise ValueError(
                f"{macro}: {path!r} has no column {field!r}; set TEXT_FIELD to one of "
                f"{', '.join(schema.names)}"
            )
        of = schema.field(field).type
        of = of.value_type if pa.types.is_dictionary(of) else of
        if not (pa.types.is_string(of) or pa.types.is_large_string(of)):
            raise ValueError(
                f"{macro}: the column {field!r} of {path!r} is of {of}, not text; set TEXT_FIELD "
                f"to one of {', '.join(schema.names)}"
            )
    elif kind == _JSON:
        compression = "GZIP" if path.endswith(_GZIP) else ""
        first = next(iter(tf.data.TextLineDataset(path, compression).take(1)), None)
        if first is not None:
            try:
                _text_of(first.numpy(), field)
            except ValueError as error:
                raise ValueError(f"{macro}: {path!r}: {error}") from error


def _rename(features: Features, context: Context) -> Features:
    del context
    return {records.TEXT: features[sources.EXAMPLE]}


def _read_json(field: str) -> Step:
    """Returns the step that takes a field out of lines of JSON."""

    def read(lines: np.ndarray) -> np.ndarray:
        return np.array([_text_of(line, field) for line in lines], object)

    def step(features: Features, context: Context) -> Features:
        del context
        lines = features[sources.EXAMPLE]
        # Without state, so that a position can be saved.
        found = tf.numpy_function(read, [lines], tf.string, stateful=False)
        return {records.TEXT: tf.ensure_shape(found, [None])}

    return step


def _text_of(line: bytes, field: str) -> bytes:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"a line is no JSON ({error}): {line[:80]!r}") from error
    text = found.get(field) if isinstance(found, dict) else None
    if not isinstance(text, str):
        names = f"an object of {', '.join(found)}" if isinstance(found, dict) else "no object"
        raise ValueError(
            f"a line has no text {field!r}; set TEXT_FIELD to its key. It is {names}: {line[:80]!r}"
        )
    return text.encode("utf-8", "replace")


def _row_groups(paths: Sequence[str]) -> list[str]:
    """Returns the shards of Parquet files, `<number of the row group> <path>`."""
    from pyarrow import parquet

    shards = []
    for path in paths:
        with files.open(path) as file:
            count = parquet.ParquetFile(file).num_row_groups
        shards += [f"{group} {path}" for group in range(count)]
    return shards


def _read_rows(field: str, shard: tf.Tensor) -> tf.data.Dataset:
    """Returns the texts of a row group; a null is an empty text."""

    def read(shard: bytes) -> np.ndarray:
        from pyarrow import parquet

        group, _, path = shard.decode("utf-8").partition(" ")
        with files.open(path) as file:
            column = parquet.ParquetFile(file).read_row_group(int(group), columns=[field]).column(0)
        return np.array([(text or "").encode("utf-8") for text in column.to_pylist()], object)

    texts = tf.numpy_function(read, [shard], tf.string, stateful=False)
    return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(texts, [None]))
