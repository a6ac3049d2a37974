# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti tokenize`: pairs to image tokens, shard by shard, and reconstructions if wanted.

A shard in is a shard out, with the same name and order. Batches are cut from a shard in order, so
the bytes do not depend on workers or runner, and the last, smaller batch of a shard is kept. Shards
that an interrupted run had finished are not made again.

With `--augment N` a train shard is read N times, and each time gives one random crop of each
picture: a row of its own, under a key of its own (`crop_key`). So the crops of a picture lie a
whole shard apart, and memory holds a batch, as without. docs/tokens.md says more.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from parti.data import crops, file_names, files, images, records, tfrecords
from parti.engine import flags as flags_lib
from parti.engine import manifests
from parti.engine import progress as progress_lib
from parti.pipelines import model_handlers, options, shard_pieces, staging

RECONSTRUCTIONS = "reconstructions"
REJECTED_FILE = "rejected.jsonl"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class TokenizeSettings:
    """What the job does.

    Attributes:
      model: the tokenizer's training directory, or a bundle.
      image_size: of the tokenizer, in pixels; pictures of another size are resized by area.
      batch_size: images a call of the model.
      write_reconstructions: also write each picture with its reconstruction.
      augment: random crops of each train picture; 0 takes the middle square, once.
      seed: another one gives other random crops.
    """

    model: str
    image_size: int
    batch_size: int = 64
    write_reconstructions: bool = False
    augment: int = 0
    seed: int = 0

    def passes(self, split: str) -> range:
        """Returns the numbers of the rows that each picture of a split becomes."""
        return range(max(1, self.augment) if split == "train" else 1)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Pairs that one call of the model takes; the key of a RunInference example.

    Attributes:
      shard: file name of the shard.
      index: place of the batch in its shard.
      pairs: in the order of the shard.
    """

    shard: str
    index: int
    pairs: tuple[records.ImageTextPair, ...]


class ReadBatches(beam.DoFn):
    """Path of a shard -> (Batch, images [batch, size, size, 3] uint8), and `rejected` rows."""

    def __init__(self, settings: TokenizeSettings, limit: int | None = None) -> None:
        """Sets how to cut; `limit` is how many records of a shard are read."""
        self._settings, self._limit = settings, limit

    def process(self, path: str) -> Iterator[Any]:
        """Yields the batches of a shard in order."""
        shard = pathlib.Path(path).name
        split = _split(shard)
        pairs: list[records.ImageTextPair] = []
        pictures: list[np.ndarray] = []
        index = 0
        for number in self._settings.passes(split):
            for serialized in itertools.islice(tfrecords.read(path), self._limit):
                pair = records.ImageTextPair.from_example(serialized)
                try:
                    pair, picture = self._crop(pair, split, number)
                except ValueError as error:
                    if number == 0:
                        # For the displays of remote runners; `run` counts what was written.
                        beam.metrics.Metrics.counter("parti.tokenize", "rejected").inc()
                        row = {"key": pair.key, "reason": str(error)}
                        yield beam.pvalue.TaggedOutput("rejected", (shard, row))
                    continue
                pairs.append(pair)
                pictures.append(picture)
                if len(pairs) == self._settings.batch_size:
                    yield Batch(shard, index, tuple(pairs)), np.stack(pictures)
                    pairs, pictures, index = [], [], index + 1
        if pairs:
            yield Batch(shard, index, tuple(pairs)), np.stack(pictures)

    def _crop(
        self, pair: records.ImageTextPair, split: str, number: int
    ) -> tuple[records.ImageTextPair, np.ndarray]:
        """Returns the pair as it is written, and its picture at the tokenizer's size.

        Raises:
          ValueError: the picture cannot be read.
        """
        settings = self._settings
        decoded = images.decode_image(pair.image)
        if not (settings.augment and split == "train"):
            return pair, images.resize(images.square_crop(decoded), settings.image_size)
        key = crop_key(pair.key, number)
        short_side = min(decoded.shape[:2])
        crop = crops.RandomCrop.draw(short_side, settings.image_size, key, settings.seed)
        changes: dict[str, Any] = {"key": key}
        if settings.write_reconstructions:
            changes["image"] = images.encode_png(crop.cut_in_full(decoded))
        return dataclasses.replace(pair, **changes), crop.cut(decoded)


def crop_key(key: str, number: int) -> str:
    """Returns the key of a random crop of a pair, `<key>#crop<number>`.

    Different pairs and numbers give different keys; seed and key decide the crop.
    """
    return f"{key}#crop{number}"


def _split(shard: str) -> str:
    """Returns the split of a shard: `train` of `train-00000-of-00004.tfrecord`."""
    return shard.split("-")[0]


class _WriteBatch(beam.DoFn):
    """Writes a piece of a shard; gives (shard, (index, count))."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory

    def process(
        self, element: tuple[Batch, model_handlers.Encoded]
    ) -> Iterator[tuple[str, tuple[int, int]]]:
        batch, encoded = element
        tokens = [
            records.TokenizedPair(pair.key, pair.text, row, pair.metadata).to_example()
            for pair, row in zip(batch.pairs, encoded.image_tokens, strict=True)
        ]
        tfrecords.write(self._piece("", batch), tokens)
        if encoded.reconstructions is not None:
            rows = zip(batch.pairs, encoded.reconstructions, strict=True)
            written = [_reconstructed(pair, picture).to_example() for pair, picture in rows]
            tfrecords.write(self._piece(RECONSTRUCTIONS, batch), written)
        options.tick(len(batch.pairs))
        yield batch.shard, (batch.index, len(batch.pairs))

    def _piece(self, folder: str, batch: Batch) -> pathlib.Path:
        path = shard_pieces.piece_path(self._directory, folder, batch.shard, batch.index)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _reconstructed(
    pair: records.ImageTextPair, reconstruction: np.ndarray
) -> records.ReconstructedPair:
    """Returns the pair's picture, at its stored size, beside its reconstruction, both PNG."""
    original = pair.image
    picture = images.decode_image(original)
    cropped = images.square_crop(picture)
    if not original.startswith(_PNG_MAGIC) or cropped.shape != picture.shape:
        original = images.encode_png(cropped)
    return records.ReconstructedPair(
        pair.key, pair.text, original, images.encode_png(reconstruction)
    )


def build(
    root: beam.Pipeline,
    shards: Sequence[str],
    settings: TokenizeSettings,
    directory: pathlib.Path,
) -> beam.PCollection:
    """Adds the job to a pipeline.

    Args:
      root: the pipeline.
      shards: paths of TFRecord files of `ImageTextPair`, with different names.
      settings: what to do.
      directory: existing folder to write the shards into; every worker must reach it.

    Returns:
      {"name", "count", "rejected": {key: reason}} of each shard written.
    """
    handler = model_handlers.Encoder(
        settings.model, settings.batch_size, settings.write_reconstructions
    )
    read = (
        root
        | "Shards" >> beam.Create(list(shards))
        | "Read" >> beam.ParDo(ReadBatches(settings)).with_outputs("rejected", main="batches")
    )
    pieces = (
        read.batches
        | model_handlers.infer("Encode", handler)
        | "Write" >> beam.ParDo(_WriteBatch(directory))
    )
    names = [pathlib.Path(path).name for path in shards]
    folders = ("", RECONSTRUCTIONS) if settings.write_reconstructions else ("",)
    return shard_pieces.gather(root, directory, names, (pieces, read.rejected), folders)


def make_parser() -> flags_lib.Parser:
    """Returns the command's flags."""
    parser = options.make_parser(
        "parti tokenize",
        "Turns the images of cleaned pairs into the tokens of a trained image tokenizer.",
        "parti tokenize --input pairs --model tokenizer --output tokens --write_reconstructions",
    )
    add = parser.add_argument
    add("--input", required=True, metavar="DIR", help="pairs, the output of `parti clean`")
    add("--model", required=True, metavar="DIR", help="the tokenizer's training, or a bundle")
    add("--output", required=True, metavar="DIR", help="the folder to write")
    add("--batch_size", type=int, default=64, help="images a call of the model")
    add(
        "--write_reconstructions",
        action="store_true",
        help=f"also write {RECONSTRUCTIONS}/, which the upsampler trains on",
    )
    add(
        "--augment",
        type=int,
        default=0,
        metavar="N",
        help="random crops of each train picture, a row each (default: the middle square, once)",
    )
    add("--seed", type=int, help="another seed, other random crops (default: 0)")
    return parser


def check_flags(flags: argparse.Namespace) -> None:
    """Checks the values.

    Raises:
      ValueError: a value out of range.
    """
    if flags.batch_size < 1:
        raise ValueError(f"--batch_size={flags.batch_size}: give at least 1")
    if flags.augment < 0:
        raise ValueError(f"--augment={flags.augment}: give a number of crops, or 0 for none")
    if flags.seed is not None and not flags.augment:
        raise ValueError(f"--seed={flags.seed}: nothing is random without --augment")


def check_size(pairs: dict[str, Any], settings: TokenizeSettings) -> None:
    """Checks that random crops of these pairs can differ.

    Args:
      pairs: the manifest of the pairs.
      settings: what to do.

    Raises:
      ValueError: the pictures are squares no larger than the tokenizer's, so all crops are equal.
    """
    side, size = pairs["settings"].get("image_size"), settings.image_size
    if settings.augment and side is not None and side <= size:
        raise ValueError(
            f"--augment={settings.augment}: the pairs are {side} x {side} px and the tokenizer "
            f"takes {size}, so every crop is the same; clean with --image_size="
            f"{round(size * 9 / 8)} or more, or leave --augment out"
        )


def run(argv: Sequence[str]) -> int:
    """Runs `parti tokenize`; see `make_parser` for its flags.

    Raises:
      ValueError, FileNotFoundError: bad flags or input.
      options.PipelineError: the job failed.
    """
    flags, beam_options = options.parse(make_parser(), argv)
    check_flags(flags)
    pairs = manifests.read(flags.input, "pairs")
    shards = find_shards(flags.input)
    tokenizer = model_handlers.load_part(flags.model, "tokenizer")
    model = tokenizer.model
    settings = TokenizeSettings(
        flags.model,
        model.image_size,
        flags.batch_size,
        flags.write_reconstructions,
        flags.augment,
        flags.seed or 0,
    )
    check_size(pairs, settings)
    facts = {
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "codebook_size": model.codebook_size,
        "grid_size": model.grid_size,
    }
    stage = staging.Staging(
        flags.output,
        kind="tokens",
        settings={
            **facts,
            "image_size": settings.image_size,
            "write_reconstructions": settings.write_reconstructions,
            "augment": settings.augment,
            "seed": settings.seed,
            "pairs_fingerprint": pairs["fingerprint"],
        },
        # Calls of another size may round differently, so half a run is not finished by them.
        inputs={"pairs": flags.input, "model": flags.model, "batch_size": settings.batch_size},
        overwrite=flags.overwrite,
        resume=True,
    )
    del tokenizer  # The workers load their own.
    with stage:
        counts = _run_shards(shards, settings, stage, beam_options, pairs["counts"])
        stage.publish(counts, extra=facts)
    print(summary(stage, counts))
    return 0


def _run_shards(
    shards: Sequence[str],
    settings: TokenizeSettings,
    stage: staging.Staging,
    beam_options: Any,
    expected: dict[str, Any],
) -> dict[str, int]:
    """Makes the shards that are not there yet; returns the counts of all."""
    todo = [
        path for path in shards if not shard_pieces.is_finished(stage.path, pathlib.Path(path).name)
    ]
    total = sum(expected.get(split, 0) * len(settings.passes(split)) for split in records.SPLITS)
    done = sum(report["count"] for report in shard_pieces.reports(stage.path))
    progress = progress_lib.Progress("tokenize", total - done, "images")
    if todo:
        options.run_pipeline(
            lambda root: build(root, todo, settings, stage.path), beam_options, progress
        )
    reports = shard_pieces.reports(stage.path)
    counts = {split: 0 for split in records.SPLITS}
    for report in reports:
        counts[_split(report["name"])] += report["count"]
    rejected = [
        json.dumps({"key": key, "reason": reason}, sort_keys=True, ensure_ascii=False) + "\n"
        for report in reports
        for key, reason in report["rejected"].items()
    ]
    counts["rejected"] = len(rejected)
    if not counts["train"]:
        raise ValueError(f"no image of the train split could be read: {''.join(rejected[:1])}")
    if rejected:
        files.write_bytes(stage.path / REJECTED_FILE, "".join(rejected).encode())
    shard_pieces.clear(stage.path)
    progress.done(f"{sum(counts[split] for split in records.SPLITS)} images")
    return counts


def find_shards(directory: str) -> list[str]:
    """Returns the shards of both splits of a folder of pairs.

    Raises:
      FileNotFoundError: there are none.
    """
    shards = file_names.expand_pattern(directory, "image-text pairs")
    return [path for path in shards if _split(pathlib.Path(path).name) in records.SPLITS]


def summary(stage: staging.Staging, counts: dict[str, int]) -> str:
    """Returns what the user reads at the end."""
    manifest = stage.manifest or {}
    augment = manifest["settings"]["augment"]
    train = (
        f"{augment} crops of each of {counts['train'] // augment}" if augment else counts["train"]
    )
    line = (
        f"{stage.output}: {train} train and {counts['validation']} validation images as "
        f"{manifest['grid_size']} x {manifest['grid_size']} tokens of {manifest['codebook_size']}"
    )
    if counts["rejected"]:
        line += f"; {counts['rejected']} could not be read, see {REJECTED_FILE}"
    return line
