# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti tokenize`: pairs to image tokens, shard by shard, and reconstructions (docs/tokens.md).

A shard in is a shard out, with the same name and order, and the bytes do not depend on workers or
runner. A resumed run skips the shards that are finished.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from parti.data.images import images
from parti.data.storage import record_offsets, records, shard_names, tfrecords
from parti.engine.hardware import accelerators
from parti.engine.inference import bundles, layouts
from parti.pipelines.beam import model_handlers, options
from parti.pipelines.tokens import batches as token_batches
from parti.pipelines.tokens import known_tokens, resumable_shards
from parti.stages import files, flag_parser, manifests, progress_line, publishing

RECONSTRUCTIONS = "reconstructions"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class TokenizeSettings:
    """What the job does."""

    model: str  # the tokenizer's training directory, or a bundle
    batches: token_batches.BatchSettings
    write_reconstructions: bool = False
    known: known_tokens.KnownTokens | None = None  # of an earlier run
    data_parallel: bool = False  # over the devices of a worker


class _WriteBatch(beam.DoFn):
    """Writes a piece of a shard; gives (shard, (index, count))."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def process(
        self, element: tuple[token_batches.Batch, model_handlers.Encoded]
    ) -> Iterator[tuple[str, tuple[int, int]]]:
        batch, encoded = element
        new = iter(encoded.image_tokens)
        num_rows, known = len(batch.pairs), batch.known
        tokens = [known[i] if i in known else next(new) for i in range(num_rows)]
        rows: dict[str, Sequence[records.Record]] = {
            "": [
                records.TokenizedPair(pair.key, pair.text, row, pair.metadata)
                for pair, row in zip(batch.pairs, tokens, strict=True)
            ]
        }
        if encoded.reconstructions is not None:
            pairs = zip(batch.pairs, encoded.reconstructions, strict=True)
            rows[RECONSTRUCTIONS] = [_reconstructed(*pair) for pair in pairs]
        for folder, some in rows.items():
            framed = (tfrecords.frame(row.to_example()) for row in some)
            resumable_shards.write_piece(self._directory, folder, batch.shard, batch.index, framed)
        options.tick(len(batch.pairs))
        yield batch.shard, (batch.index, len(batch.pairs))


def _reconstructed(
    pair: records.ImageTextPair, reconstruction: np.ndarray
) -> records.ReconstructedPair:
    """Returns the pair's image, at its stored size, and its reconstruction, both as PNG."""
    original, image = pair.image, images.decode_image(pair.image)
    cropped = images.square_crop(image)
    if not original.startswith(_PNG_MAGIC) or cropped.shape != image.shape:
        original = images.encode_png(cropped)
    made = images.encode_png(reconstruction)
    return records.ReconstructedPair(pair.key, pair.text, original, made)


def build(
    root: beam.Pipeline, shards: Sequence[str], settings: TokenizeSettings, directory: str
) -> beam.PCollection:
    """Adds the job for shards of pairs with different names; see `resumable_shards.gather`.

    `directory` is an existing folder to write the shards into; every worker must reach it.
    """
    handler = model_handlers.encode_handler(
        settings.model,
        settings.batches.batch_size,
        settings.write_reconstructions,
        layouts.Layout() if settings.data_parallel else None,
    )
    read = (
        root
        | "Shards" >> beam.Create([os.fsencode(path) for path in shards])
        | "Read"
        >> beam.ParDo(
            token_batches.ReadBatches(settings.batches, known=settings.known)
        ).with_outputs("known", "rejected", main="batches")
    )
    nothing = model_handlers.Encoded(np.zeros((0, 0), np.int32), None)
    # Apart: a runner may keep what is flattened until all of it is there.
    pieces = (
        read.batches
        | model_handlers.infer("Encode", handler)
        | "Write" >> beam.ParDo(_WriteBatch(directory)),
        read.known
        | "Nothing to encode" >> beam.Map(lambda batch: (batch, nothing))
        | "Write known" >> beam.ParDo(_WriteBatch(directory)),
        read.rejected,
    )
    names = [files.name(path) for path in shards]
    folders = ("", RECONSTRUCTIONS) if settings.write_reconstructions else ("",)
    join = record_offsets.join
    return resumable_shards.gather(root, directory, names, pieces, folders, join)


def make_parser() -> flag_parser.Parser:
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
    help_text = f"also write {RECONSTRUCTIONS}/, which the upsampler trains on"
    add("--write_reconstructions", action="store_true", help=help_text)
    help_text = "random crops of each train picture, a row each (default: the middle square, once)"
    add("--augment", type=int, default=0, metavar="N", help=help_text)
    help_text = "tokens of the pairs that these were added to; only new pictures are encoded"
    add("--extend", metavar="DIR", help=help_text)
    add("--seed", type=int, help="another seed, other random crops (default: 0)")
    layouts.add_data_parallel(parser)
    return parser


def check_flags(flags: argparse.Namespace) -> None:
    """Raises ValueError for a value out of range."""
    if flags.batch_size < 1:
        raise ValueError(f"--batch_size={flags.batch_size}: give at least 1")
    if flags.augment < 0:
        raise ValueError(f"--augment={flags.augment}: give a number of crops, or 0 for none")
    if flags.extend and flags.write_reconstructions:
        raise ValueError("--extend: reconstructions are of all pictures; leave it out for them")
    if flags.seed is not None and not flags.augment:
        raise ValueError(f"--seed={flags.seed}: nothing is random without --augment")


def check_size(pairs: dict[str, Any], settings: token_batches.BatchSettings) -> None:
    """Raises ValueError unless random crops of the pairs of this manifest can differ."""
    side, size = pairs["settings"].get("image_size"), settings.image_size
    if settings.augment and side is not None and side <= size:
        raise ValueError(
            f"--augment={settings.augment}: the pairs are {side} x {side} px and the tokenizer "
            f"takes {size}, so every crop is the same; clean with --image_size="
            f"{round(size * 9 / 8)} or more, or leave --augment out"
        )


def run(argv: Sequence[str]) -> int:
    """Runs `parti tokenize`."""
    flags, beam_options = options.parse(make_parser(), argv)
    check_flags(flags)
    given = filter(None, [flags.input, flags.model, flags.extend])
    options.check_places(beam_options, [*given], [flags.output])
    accelerators.check_platforms()
    pairs = manifests.read(flags.input, "pairs")
    paths = shard_names.expand_pattern(flags.input, "image-text pairs")
    shards = [p for p in paths if token_batches.split_of(files.name(p)) in records.SPLITS]
    tokenizer = bundles.load_part(flags.model, "tokenizer")
    model = tokenizer.model
    batches = token_batches.BatchSettings(
        *(model.image_size, flags.batch_size, flags.augment, flags.seed or 0),
        crop_pairs=flags.write_reconstructions,
    )
    check_size(pairs, batches)
    facts = {
        "tokenizer_fingerprint": tokenizer.encoder_fingerprint,
        "codebook_size": model.codebook_size,
        "grid_size": model.grid_size,
    }
    made = {
        **facts,
        "image_size": batches.image_size,
        "write_reconstructions": flags.write_reconstructions,
        "decoder": tokenizer.fingerprint if flags.write_reconstructions else "",
        "augment": batches.augment,
        "seed": batches.seed,
        "pairs_fingerprint": pairs["fingerprint"],
    }
    known = None
    if flags.extend:
        known = known_tokens.KnownTokens.open(flags.extend, flags.input, made)
    stage = publishing.OutputDirectory(
        flags.output,
        kind="tokens",
        settings=made,
        # Calls of another size may round differently, so half a run is not finished by them.
        inputs={
            "pairs": flags.input,
            "model": flags.model,
            "batch_size": batches.batch_size,
            **({"extend": flags.extend} if flags.extend else {}),
            **({"data_parallel": True} if flags.data_parallel else {}),
        },
        overwrite=flags.overwrite,
        resume=True,
    )
    del tokenizer  # The workers load their own.
    settings = TokenizeSettings(
        flags.model, batches, flags.write_reconstructions, known, flags.data_parallel
    )
    with stage:
        counts = _run_shards(shards, settings, stage, beam_options, pairs["counts"])
        stage.publish(counts, extra=facts)
    print(summary(stage, counts))
    return 0


def _run_shards(
    shards: Sequence[str],
    settings: TokenizeSettings,
    stage: publishing.OutputDirectory,
    beam_options: Any,
    expected: dict[str, Any],
) -> dict[str, int]:
    """Makes the shards that are not there yet; returns the counts of all."""
    done = {report["name"]: report["count"] for report in resumable_shards.reports(stage.address)}
    todo = [path for path in shards if files.name(path) not in done]
    passes = settings.batches.num_passes
    total = sum(expected.get(split, 0) * passes(split) for split in records.SPLITS)
    progress = progress_line.Progress("tokenize", total - sum(done.values()), "images")
    if todo:
        options.run_pipeline(
            lambda root: build(root, todo, settings, stage.address), beam_options, progress
        )
    reports = resumable_shards.reports(stage.address)
    counts = dict.fromkeys(records.SPLITS, 0)
    for report in reports:
        counts[token_batches.split_of(report["name"])] += report["count"]
    rejected = [
        json.dumps({"key": key, "reason": reason}, sort_keys=True, ensure_ascii=False) + "\n"
        for report in reports
        for key, reason in report["rejected"].items()
    ]
    counts["rejected"] = len(rejected)
    if not counts["train"]:
        raise ValueError(f"no image of the train split could be read: {''.join(rejected[:1])}")
    if rejected:
        path = files.join(stage.address, resumable_shards.REJECTED_FILE)
        files.write_bytes(path, "".join(rejected).encode())
    progress.done(f"{sum(counts[split] for split in records.SPLITS)} images")
    return counts


def summary(stage: publishing.OutputDirectory, counts: dict[str, int]) -> str:
    """Returns what the user reads at the end."""
    manifest = stage.manifest or {}
    train, validation = counts["train"], counts["validation"]
    what = f"{train} train and {validation} validation images"
    if augment := manifest["settings"]["augment"]:
        of_each = f"{augment} crops of each of {train // augment} train images"
        what = f"{of_each}, and {validation} validation images,"
    size = manifest["grid_size"]
    line = f"{stage.output}: {what} as {size} x {size} tokens of {manifest['codebook_size']}"
    if counts["rejected"]:
        line += f"; {counts['rejected']} could not be read, see {resumable_shards.REJECTED_FILE}"
    return line
