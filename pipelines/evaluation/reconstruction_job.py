# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The Beam job that measures reconstructions: each shard of pairs gives rows, and its tokens.

Rows are JSON lines in the order of the pairs, see `reconstruction_metrics`. Shards that an
interrupted run had finished are not measured again.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np

from parti.data.images import images
from parti.engine.inference import loaded_models
from parti.pipelines.beam import model_handlers, options
from parti.pipelines.evaluation import reconstruction_metrics
from parti.pipelines.tokens import batches as token_batches
from parti.pipelines.tokens import resumable_shards
from parti.stages import files

ROWS = "reconstructions"  # folder of the rows
_TOKENS = ".tokens"  # folder of the tokens: int32 without a header, until they are counted
_TOKEN_TYPE = np.dtype("<i4")
_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Models:
    """What reconstructs.

    Attributes:
      source: a bundle, or the tokenizer's training; every worker must reach it.
      image_size: of the tokenizer, in pixels.
      grid_size: tokens along a side.
      codebook_size: entries of the tokenizer's codebook.
      bundled: whether the source is a bundle.
      has_upsampler: whether it has an upsampler, which is measured too.
    """

    source: str
    image_size: int
    grid_size: int
    codebook_size: int
    bundled: bool
    has_upsampler: bool


class Reconstructed(NamedTuple):
    """Pictures as tokens and back.

    Attributes:
      image_tokens: [batch, length] int32.
      pictures: [batch, size, size, 3] uint8, what the tokens decode to.
      tokens_again: [batch, length] int32, what those pictures encode to.
    """

    image_tokens: np.ndarray
    pictures: np.ndarray
    tokens_again: np.ndarray


def reconstruct(pixels: np.ndarray, tokenizer: loaded_models.LoadedModel) -> Reconstructed:
    """Encodes pictures [batch, size, size, 3] uint8, decodes them, and encodes them again."""
    tokens = tokenizer.call("encode", images.to_float(pixels), batch_size=_BATCH_SIZE)
    pictures = images.to_uint8(tokenizer.call("decode", tokens, batch_size=_BATCH_SIZE))
    again = tokenizer.call("encode", images.to_float(pictures), batch_size=_BATCH_SIZE)
    return Reconstructed(tokens, pictures, again)


class _Reconstructor(model_handlers.PartHandler):
    """Images [batch, size, size, 3] uint8, at the tokenizer's size, to `Reconstructed`."""

    def predict(self, example: np.ndarray, model: loaded_models.LoadedModel) -> Reconstructed:
        return reconstruct(example, model)


class _Measure(beam.DoFn):
    """((batch, pixels, reconstructed), upsampled or None) to a piece of a shard's rows and tokens.

    Gives (shard, (index of the batch, pictures)).
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory

    def process(self, element: tuple[Any, np.ndarray | None]) -> Iterator[Any]:
        (batch, pixels, made), upsampled = element
        lines = []
        for place, (pair, original) in enumerate(zip(batch.pairs, pixels, strict=True)):
            picture = made.pictures[place]
            row = reconstruction_metrics.picture_row(
                pair.key, original, picture, made.image_tokens[place], made.tokens_again[place]
            )
            if upsampled is not None:
                full = images.square_crop(images.decode_image(pair.image))
                compared = reconstruction_metrics.upsampled_row(full, picture, upsampled[place])
                row |= {"upsampled": compared} if compared else {}
            lines.append(json.dumps(row, sort_keys=True) + "\n")
            options.tick()
        tokens = made.image_tokens.astype(_TOKEN_TYPE)
        for folder, data in ((ROWS, "".join(lines).encode()), (_TOKENS, tokens.tobytes())):
            name = rows_name(batch.shard)
            path = resumable_shards.piece_path(self._directory, folder, name, batch.index)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(path, data)
        yield rows_name(batch.shard), (batch.index, len(lines))


def rows_name(shard: str) -> str:
    """Returns the name of a shard's file of rows, given the shard's path or file name."""
    return pathlib.Path(shard).with_suffix(".jsonl").name


def build(
    root: beam.Pipeline,
    models: Models,
    shards: Sequence[str],
    directory: pathlib.Path,
    limit: int | None = None,
) -> beam.PCollection:
    """Adds the job to a pipeline.

    Args:
      root: the pipeline.
      models: what reconstructs.
      shards: paths of TFRecord files of `ImageTextPair`, with different names.
      directory: existing folder for the rows; every worker must reach it.
      limit: how many records of a shard are read; None for all.

    Returns:
      {"name", "count", "rejected": {key: reason}} of each shard measured.
    """
    settings = token_batches.BatchSettings(models.image_size, _BATCH_SIZE)
    read = (
        root
        | "Shards" >> beam.Create(list(shards))
        | "Read"
        >> beam.ParDo(token_batches.ReadBatches(settings, limit)).with_outputs(
            "rejected", main="batches"
        )
    )
    made = (
        read.batches
        | "Keep pixels" >> beam.Map(lambda item: (item, item[1]))
        | model_handlers.infer("Reconstruct", _Reconstructor(models.source, "tokenizer"))
        | "Keep reconstructions" >> beam.Map(lambda item: (*item[0], item[1]))
    )
    if models.has_upsampler:
        upsampled = (
            made
            | "To upsample" >> beam.Map(lambda item: (item, item[2].pictures))
            | model_handlers.infer("Upsample", model_handlers.UpsampleHandler(models.source))
        )
    else:
        upsampled = made | "Not upsampled" >> beam.Map(lambda item: (item, None))
    measured = upsampled | "Measure" >> beam.ParDo(_Measure(directory))
    rejected = read.rejected | "Rename" >> beam.MapTuple(lambda shard, row: (rows_name(shard), row))
    names = [rows_name(shard) for shard in shards]
    return resumable_shards.gather(root, directory, names, (measured, rejected), (ROWS, _TOKENS))


def count_codes(
    directory: pathlib.Path, shards: Sequence[str], models: Models
) -> reconstruction_metrics.CodeCounts:
    """Returns how often each code was chosen in the measured shards."""
    counts = reconstruction_metrics.CodeCounts(models.codebook_size)
    length = models.grid_size**2
    for shard in shards:
        with open(directory / _TOKENS / rows_name(shard), "rb") as file:
            while data := file.read(_BATCH_SIZE * length * _TOKEN_TYPE.itemsize):
                counts.add(np.frombuffer(data, _TOKEN_TYPE).reshape(-1, length))
    return counts


def clear(directory: pathlib.Path) -> None:
    """Removes what only an unfinished run needs."""
    resumable_shards.clear(directory)
    shutil.rmtree(directory / _TOKENS, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of measured shards, each with the path of its shard; every iteration reads anew.

    Attributes:
      directory: that of `build`.
      shards: paths of the shards.
    """

    directory: pathlib.Path
    shards: Sequence[str]

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for shard in self.shards:
            with open(self.directory / ROWS / rows_name(shard), encoding="utf-8") as file:
                for line in file:
                    yield shard, json.loads(line)
