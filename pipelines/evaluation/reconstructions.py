# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reference images through a tokenizer and back: the models, the Beam job, and its numbers.

The job writes a row for each image (`reconstruction_metrics`) as JSON lines, a file for each shard
of pairs. A resumed run skips the shards that are finished.
"""

import dataclasses
import heapq
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np

from parti.data.images import crops, images
from parti.data.storage import records, shard_names, tfrecords
from parti.engine.inference import bundles, layouts, loaded_models, rendering
from parti.pipelines.beam import model_handlers, options, sharded_writers
from parti.pipelines.evaluation import reconstruction_metrics
from parti.pipelines.tokens import batches as token_batches
from parti.pipelines.tokens import resumable_shards
from parti.stages import files, manifests, progress_line, publishing

CODES_FILE = "codes.json"
_ROWS = "reconstructions"  # folder of the rows
# Folder of the tokens, int32 without a header, until all is published.
_TOKENS = f"{publishing.SCRATCH}/tokens"
_TOKEN_TYPE = np.dtype("<i4")
_BATCH_SIZE = 64
NUM_EACH = 12  # images of a group that the report shows
AMPLIFIED = 4  # what the difference of two images is multiplied with to be seen


@dataclasses.dataclass(frozen=True)
class Reference:
    """Pairs to reconstruct, and the models to do it with."""

    shards: tuple[str, ...]  # TFRecord files of `ImageTextPair`
    split: str
    num_images: int | None  # about how many are measured, as many of each shard; None for all
    expected: int  # how many that will be, as far as is known
    model: str  # a bundle, or the training of a tokenizer; every worker must reach it
    is_bundle: bool
    image_size: int  # of the tokenizer, in pixels
    grid_size: int  # tokens along a side
    codebook_size: int
    fingerprints: dict[str, str]  # of the pairs, the tokenizer and, if there is one, the upsampler
    data_parallel: bool = False  # over the devices of a worker

    @classmethod
    def open(
        cls,
        pairs: str,
        model: str,
        split: str | None,
        num_images: int | None,
        data_parallel: bool = False,
    ) -> "Reference":
        """Opens pairs, of `parti clean`, and models, and checks that they can be measured.

        Without a split it is validation, or train if there is no other.

        Raises:
          FileNotFoundError: no finished pairs, or no model there.
          ValueError: the split is empty, or the tokenizer's images are too small to measure.
        """
        manifest = manifests.read(pairs, "pairs")
        counts = manifest["counts"]
        split = split or ("validation" if counts.get("validation") else "train")
        if not counts.get(split):
            raise ValueError(f"{pairs}: the split {split} is empty; choose another --split")
        tokenizer = bundles.load_part(model, "tokenizer")
        size = tokenizer.model.image_size
        if size < images.SSIM_WINDOW:
            raise ValueError(
                f"{model}: the tokenizer's pictures have {size} px; SSIM, which is measured too, "
                f"needs {images.SSIM_WINDOW}"
            )
        fingerprints = {"pairs": manifest["fingerprint"], "tokenizer": tokenizer.fingerprint}
        if is_bundle := files.exists(files.join(model, bundles.BUNDLE_FILE)):
            parts = bundles.Bundle.open(model).fingerprints
            fingerprints |= {name: parts[name] for name in parts if name == "upsampler"}
        if not (shards := shard_names.list_shards(pairs, split)):
            raise FileNotFoundError(f"{pairs}: no {split}-*.tfrecord, which its manifest has")
        return cls(
            shards=tuple(shards),
            split=split,
            num_images=num_images,
            expected=min(counts[split], num_images or counts[split]),
            model=files.absolute(model),
            is_bundle=is_bundle,
            image_size=size,
            grid_size=tokenizer.model.grid_size,
            codebook_size=tokenizer.model.codebook_size,
            fingerprints=fingerprints,
            data_parallel=data_parallel,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the bytes of the report, for the manifest."""
        return {
            "split": self.split,
            "num_reference": self.num_images,
            "reference_fingerprints": self.fingerprints,
        }


class Reconstructed(NamedTuple):
    """Images as tokens and back."""

    image_tokens: np.ndarray  # [batch, length] int32
    images: np.ndarray  # [batch, size, size, 3] uint8, what the tokens decode to
    tokens_again: np.ndarray  # [batch, length] int32, what those images encode to


def reconstruct(tokenizer: loaded_models.LoadedModel, originals: np.ndarray) -> Reconstructed:
    """Encodes images [batch, size, size, 3] uint8, decodes them, and encodes them again."""
    tokens = tokenizer.call("encode", images.to_float(originals), batch_size=_BATCH_SIZE)
    decoded = images.to_uint8(tokenizer.call("decode", tokens, batch_size=_BATCH_SIZE))
    again = tokenizer.call("encode", images.to_float(decoded), batch_size=_BATCH_SIZE)
    return Reconstructed(tokens, decoded, again)


def _measure_batch(
    element: tuple[Any, np.ndarray | None], directory: str
) -> tuple[str, tuple[int, int]]:
    """Writes the rows and tokens of ((batch, originals, reconstructed), upsampled or None).

    Returns (shard, (index of the batch, images)).
    """
    (batch, originals, made), upsampled = element
    lines = []
    for index, (pair, original) in enumerate(zip(batch.pairs, originals, strict=True)):
        decoded = made.images[index]
        row = reconstruction_metrics.image_row(
            pair.key, original, decoded, made.image_tokens[index], made.tokens_again[index]
        )
        if upsampled is not None:
            full = images.square_crop(images.decode_image(pair.image))
            compared = reconstruction_metrics.upsampled_row(full, decoded, upsampled[index])
            row |= {"upsampled": compared} if compared else {}
        lines.append(json.dumps(row, sort_keys=True) + "\n")
        options.tick()
    shard, tokens = _rows_name(batch.shard), made.image_tokens.astype(_TOKEN_TYPE).tobytes()
    for folder, data in ((_ROWS, "".join(lines).encode()), (_TOKENS, tokens)):
        resumable_shards.write_piece(directory, folder, shard, batch.index, [data])
    return shard, (batch.index, len(lines))


def _rows_name(shard: str) -> str:
    return files.name(shard).removesuffix(".tfrecord") + ".jsonl"


def build(
    root: beam.Pipeline, reference: Reference, shards: Sequence[str], directory: str
) -> beam.PCollection:
    """Adds the job for shards that are not measured yet; see `resumable_shards.gather`.

    `directory` is an existing folder for the rows; every worker must reach it.
    """
    settings = token_batches.BatchSettings(reference.image_size, _BATCH_SIZE)
    limit = reference.num_images and -(-reference.num_images // len(reference.shards))
    read = (
        root
        | "Shards" >> beam.Create([os.fsencode(path) for path in shards])
        | "Read"
        >> beam.ParDo(token_batches.ReadBatches(settings, limit)).with_outputs(
            "rejected", main="batches"
        )
    )
    layout = layouts.Layout() if reference.data_parallel else None
    tokenizer = model_handlers.part_handler(
        reference.model, "tokenizer", reconstruct, layout=layout
    )
    measured = (
        read.batches
        | "Keep originals" >> beam.Map(lambda item: (item, item[1]))
        | model_handlers.infer("Reconstruct", tokenizer)
        | "Keep reconstructions" >> beam.Map(lambda item: (*item[0], item[1]))
    )
    if "upsampler" in reference.fingerprints:
        upsample = model_handlers.part_handler(
            reference.model, "upsampler", rendering.upsample, layout=layout
        )
        measured = (
            measured
            | "To upsample" >> beam.Map(lambda item: (item, item[2].images))
            | model_handlers.infer("Upsample", upsample)
        )
    else:
        measured = measured | "Not upsampled" >> beam.Map(lambda item: (item, None))
    written = measured | "Measure" >> beam.Map(_measure_batch, directory)
    rejected = read.rejected | "Rename" >> beam.MapTuple(lambda name, row: (_rows_name(name), row))
    names = [_rows_name(shard) for shard in shards]
    return resumable_shards.gather(root, directory, names, (written, rejected), (_ROWS, _TOKENS))


@dataclasses.dataclass(frozen=True)
class Rows:
    """Iterates over the rows of measured shards, each with the path of its shard; reads anew."""

    directory: str
    shards: Sequence[str]

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for shard in self.shards:
            with files.open(files.join(self.directory, _ROWS, _rows_name(shard)), "r") as file:
                for line in file:
                    yield shard, json.loads(line)


def measure(
    reference: Reference, directory: str, beam_options: Any
) -> tuple[dict[str, Any], reconstruction_metrics.CodeCounts]:
    """Runs the Beam job and writes rows, counts of codes, and which images could not be read.

    Shards that are finished in `directory` are not measured again. Of the metrics, "reference" is
    what was measured; "tokenizer" and "upsampler" are of `reconstruction_metrics.summarise`.
    """
    done = {report["name"]: report["count"] for report in resumable_shards.reports(directory)}
    todo = [shard for shard in reference.shards if _rows_name(shard) not in done]
    total = max(reference.expected - sum(done.values()), 0)
    progress = progress_line.Progress("reconstruct", total, "images")
    if todo:
        options.run_pipeline(
            lambda root: build(root, reference, todo, directory), beam_options, progress
        )
    progress.done()
    rejected = [
        json.dumps({"key": key, "reason": reason}, sort_keys=True) + "\n"
        for report in resumable_shards.reports(directory)
        for key, reason in sorted(report["rejected"].items())
    ]
    if rejected:
        path = files.join(directory, resumable_shards.REJECTED_FILE)
        files.write_bytes(path, "".join(rejected).encode())
    codes = _count_codes(reference, directory)
    text = json.dumps(codes.to_dict()) + "\n"
    files.write_bytes(files.join(directory, CODES_FILE), text.encode())
    rows = Rows(directory, reference.shards)
    metrics = reconstruction_metrics.summarise(row for _, row in rows)
    metrics["codebook"] = reconstruction_metrics.codebook_metrics(codes)
    metrics["reference"] = {
        "split": reference.split,
        "image_size": reference.image_size,
        "grid_size": reference.grid_size,
        "num_images": codes.num_images,
        "num_rejected": len(rejected),
    }
    return metrics | {"notes": _notes(reference, metrics)}, codes


def _count_codes(reference: Reference, directory: str) -> reconstruction_metrics.CodeCounts:
    counts = reconstruction_metrics.CodeCounts(reference.codebook_size)
    length = reference.grid_size**2
    for shard in reference.shards:
        with files.open(files.join(directory, _TOKENS, _rows_name(shard))) as file:
            while data := file.read(_BATCH_SIZE * length * _TOKEN_TYPE.itemsize):
                counts.add(np.frombuffer(data, _TOKEN_TYPE).reshape(-1, length))
    return counts


def _notes(reference: Reference, metrics: dict[str, Any]) -> list[str]:
    notes = []
    if rejected := metrics["reference"]["num_rejected"]:
        total = rejected + metrics["reference"]["num_images"]
        file = resumable_shards.REJECTED_FILE
        notes.append(f"{rejected} of {total} pictures could not be read, see {file}")
    if reference.split == "train":
        notes.append("the pictures are of the train split: a tokenizer may have learnt from them")
    if reference.is_bundle and "upsampler" not in metrics:
        is_there = "upsampler" in reference.fingerprints
        small = "the reference pictures are smaller than what it makes"
        why = small if is_there else "the bundle has none"
        notes.append(f"the upsampler was not measured: {why}")
    return notes


# Path of a shard, and the row of an image of it.
Row = tuple[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """An image of the report, its caption, and what was measured."""

    row: Mapping[str, Any]
    text: str
    original: np.ndarray  # [size, size, 3] uint8, as the tokenizer saw it
    reconstruction: np.ndarray  # of the same shape

    @property
    def difference(self) -> np.ndarray:
        """Their absolute difference, `AMPLIFIED` and clipped, [size, size, 3] uint8."""
        apart = np.abs(self.original.astype(np.int16) - self.reconstruction)
        return np.minimum(apart * AMPLIFIED, 255).astype(np.uint8)


def choose(rows: Iterable[Row], num_images: int) -> dict[str, list[Row]]:
    """Returns the rows of the images to show; iterates over all rows more than once, holds none.

    "worst" and "best" are by PSNR, "random" by the hash of the key, `NUM_EACH` or fewer: of
    `num_images`, if they are few, only a third is called worst, or best.
    """
    number = min(NUM_EACH, -(-num_images // 3))

    def quality(item: Row) -> tuple[float, str]:
        return item[1]["psnr"], item[1]["key"]

    def chance(item: Row) -> float:
        return sharded_writers.hash_fraction(item[1]["key"], "reconstructions")

    return {
        "worst": heapq.nsmallest(number, rows, key=quality),
        "best": heapq.nlargest(number, rows, key=quality),
        "random": heapq.nsmallest(number, rows, key=chance),
    }


def show(groups: Mapping[str, Sequence[Row]], reference: Reference) -> dict[str, list[Shown]]:
    """Reads the images of the rows again, and reconstructs them again."""
    wanted = {(shard, row["key"]) for group in groups.values() for shard, row in group}
    pairs = (
        (shard, records.ImageTextPair.from_example(row))
        for shard in dict.fromkeys(shard for group in groups.values() for shard, _ in group)
        for row in tfrecords.read(shard)
    )
    found = {(shard, pair.key): pair for shard, pair in pairs if (shard, pair.key) in wanted}
    decoded = (images.decode_image(pair.image) for pair in found.values())
    originals = np.stack([crops.fit(image, reference.image_size) for image in decoded])
    tokenizer = bundles.load_part(reference.model, "tokenizer")
    made = reconstruct(tokenizer, originals).images
    index = {item: number for number, item in enumerate(found)}

    def shown(shard: str, row: dict[str, Any]) -> Shown:
        item = shard, row["key"]
        return Shown(row, found[item].text, originals[index[item]], made[index[item]])

    return {name: [shown(*item) for item in group] for name, group in groups.items()}
