# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti tokenize`: pairs to image tokens, shard by shard, and reconstructions if wanted.

A shard in is a shard out, with the same name and order. Batches are cut from a shard in order, so
the bytes do not depend on workers or runner, and the last, smaller batch of a shard is kept. Shards
that an interrupted run had finished are not made again.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from parti.data import file_names, files, images, records, tfrecords
from parti.engine import flags as flags_lib
from parti.engine import manifests
from parti.engine import progress as progress_lib
from parti.pipelines import model_handlers, options, staging

RECONSTRUCTIONS = "reconstructions"
REJECTED_FILE = "rejected.jsonl"
# Hidden while the job runs: TFRecord pieces of shards, and a JSON line about each finished shard.
_PIECES, _FINISHED = ".pieces", ".finished"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class TokenizeSettings:
    """What the job does.

    Attributes:
      model: the tokenizer's training directory, or a bundle.
      image_size: of the tokenizer, in pixels; pictures of another size are resized by area.
      batch_size: images a call of the model.
      write_reconstructions: also write each picture with its reconstruction.
    """

    model: str
    image_size: int
    batch_size: int = 64
    write_reconstructions: bool = False


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
        self._size, self._batch_size = settings.image_size, settings.batch_size
        self._limit = limit

    def process(self, path: str) -> Iterator[Any]:
        """Yields the batches of a shard in order."""
        shard = pathlib.Path(path).name
        pairs: list[records.ImageTextPair] = []
        pictures: list[np.ndarray] = []
        index = 0
        for serialized in itertools.islice(tfrecords.read(path), self._limit):
            pair = records.ImageTextPair.from_example(serialized)
            try:
                picture = images.square_crop(images.decode_image(pair.image))
            except ValueError as error:
                # For the displays of remote runners; `run` counts what was written.
                beam.metrics.Metrics.counter("parti.tokenize", "rejected").inc()
                row = {"key": pair.key, "reason": str(error)}
                yield beam.pvalue.TaggedOutput("rejected", (shard, row))
                continue
            pairs.append(pair)
            pictures.append(images.resize(picture, self._size))
            if len(pairs) == self._batch_size:
                yield Batch(shard, index, tuple(pairs)), np.stack(pictures)
                pairs, pictures, index = [], [], index + 1
        if pairs:
            yield Batch(shard, index, tuple(pairs)), np.stack(pictures)


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
        path = piece_path(self._directory, folder, batch.shard, batch.index)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class _JoinShard(beam.DoFn):
    """Joins the pieces of a shard in order, and notes that it is finished."""

    def __init__(self, directory: pathlib.Path, reconstructions: bool) -> None:
        self._directory = directory
        self._folders = ("", RECONSTRUCTIONS) if reconstructions else ("",)

    def process(
        self, element: tuple[str, Iterable[tuple[int, int] | dict[str, str] | None]]
    ) -> Iterator[dict[str, Any]]:
        shard, items = element
        items = list(items)
        # A runner may have made a batch twice; its piece is the same file then.
        counts = dict(item for item in items if isinstance(item, tuple))
        rejected = {item["key"]: item["reason"] for item in items if isinstance(item, dict)}
        for folder in self._folders:
            pieces = [piece_path(self._directory, folder, shard, i) for i in range(len(counts))]
            _join(pieces, self._directory / folder / shard)
        report = {"name": shard, "count": sum(counts.values()), "rejected": rejected}
        files.write_bytes(
            self._directory / _FINISHED / f"{shard}.json", json.dumps(report).encode()
        )
        for folder in self._folders:
            pieces_folder = piece_path(self._directory, folder, shard, 0).parent
            shutil.rmtree(pieces_folder, ignore_errors=True)
        yield report


def piece_path(directory: pathlib.Path, folder: str, shard: str, index: int) -> pathlib.Path:
    """Returns where a batch of a shard is kept until its shard is joined."""
    return directory / _PIECES / (folder or "tokens") / shard / f"{index:06d}.tfrecord"


def _join(pieces: Sequence[pathlib.Path], target: pathlib.Path) -> None:
    """Concatenates TFRecord files, which is a TFRecord file, and shows it when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    with open(partial, "wb") as file:
        for piece in pieces:
            with open(piece, "rb") as source:
                shutil.copyfileobj(source, file)
    partial.replace(target)


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
    (directory / _FINISHED).mkdir(exist_ok=True)
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
    # A shard without pairs is written too.
    names = root | "Names" >> beam.Create([(pathlib.Path(path).name, None) for path in shards])
    return (
        (pieces, read.rejected, names)
        | beam.Flatten()
        | "Gather" >> beam.GroupByKey()
        | "Join" >> beam.ParDo(_JoinShard(directory, settings.write_reconstructions))
    )


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
    return parser


def check_flags(flags: argparse.Namespace) -> None:
    """Checks the values.

    Raises:
      ValueError: a value out of range.
    """
    if flags.batch_size < 1:
        raise ValueError(f"--batch_size={flags.batch_size}: give at least 1")


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
        flags.model, model.image_size, flags.batch_size, flags.write_reconstructions
    )
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
    finished = stage.path / _FINISHED
    todo = [path for path in shards if not (finished / f"{pathlib.Path(path).name}.json").exists()]
    total = sum(expected.get(split, 0) for split in records.SPLITS)
    done = sum(report["count"] for report in _reports(finished))
    progress = progress_lib.Progress("tokenize", total - done, "images")
    if todo:
        options.run_pipeline(
            lambda root: build(root, todo, settings, stage.path), beam_options, progress
        )
    reports = _reports(finished)
    counts = {split: 0 for split in records.SPLITS}
    for report in reports:
        counts[report["name"].split("-")[0]] += report["count"]
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
    for folder in (_PIECES, _FINISHED):
        shutil.rmtree(stage.path / folder, ignore_errors=True)
    progress.done(f"{sum(counts[split] for split in records.SPLITS)} images")
    return counts


def _reports(finished: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the reports of the finished shards."""
    return [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(finished.glob("*.json"))
    ]


def find_shards(directory: str) -> list[str]:
    """Returns the shards of both splits of a folder of pairs.

    Raises:
      FileNotFoundError: there are none.
    """
    shards = file_names.expand_pattern(directory, "image-text pairs")
    return [path for path in shards if pathlib.Path(path).name.split("-")[0] in records.SPLITS]


def summary(stage: staging.Staging, counts: dict[str, int]) -> str:
    """Returns what the user reads at the end."""
    manifest = stage.manifest or {}
    line = (
        f"{stage.output}: {counts['train']} train and {counts['validation']} validation images as "
        f"{manifest['grid_size']} x {manifest['grid_size']} tokens of {manifest['codebook_size']}"
    )
    if counts["rejected"]:
        line += f"; {counts['rejected']} could not be read, see {REJECTED_FILE}"
    return line
