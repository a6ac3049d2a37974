# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti evaluate`: how well generations agree with their prompts, and how well the models draw.

For prompts that carry their true `scene`, every picture is read by `data/scene_probe`, and the best
of N is held against any sample, against the scenes of other prompts (chance), and against the best
there was. With reference pairs and a bundle, tokenizer and upsampler are measured too. Intervals
are 95%, by bootstrap over prompts or images.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from parti.data import file_names, images, records, scene_probe, scenes
from parti.engine import bundles, manifests
from parti.engine import flags as flags_lib
from parti.engine import progress as progress_lib
from parti.pipelines import (
    evaluation_metrics,
    evaluation_report,
    gallery,
    generate,
    model_handlers,
    options,
    picture_batches,
    staging,
    writers,
)

METRICS_FILE = "metrics.json"
ALIGNMENTS_FILE = "alignments.jsonl"
_ALIGNMENTS, _RECONSTRUCTIONS = ".alignments.json", ".reconstructions.json"
_BATCH_SIZE = 16
_MIN_SIDE = 32  # pixels that the scene probe needs
_MAX_PSNR = 100.0  # dB; of equal pictures, whose PSNR is infinite


class _ReadSamples(beam.DoFn):
    """Images of a prompt (in rank order) -> what they score, and what the best one shows."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory

    def process(self, group: list[records.Generation]) -> Any:
        scene = scenes.Scene.from_dict(group[0].metadata[evaluation_metrics.SCENE])
        paths = [self._directory / item.image for item in group]
        views = [scene_probe.read_scene(images.decode_image(path.read_bytes())) for path in paths]
        options.tick(len(group))
        yield {
            "prompt_id": group[0].prompt_id,
            "alignments": [scene_probe.compare(view, scene) for view in views],
            "best": dataclasses.asdict(views[0]),
        }


class _Measure(beam.DoFn):
    """(batch, encoded) -> (originals, reconstructions) for the upsampler, and PSNR rows."""

    def __init__(self, image_size: int) -> None:
        self._image_size = image_size

    def process(self, element: tuple[picture_batches.Batch, model_handlers.Encoded]) -> Any:
        batch, encoded = element
        originals = [images.square_crop(images.decode_image(pair.image)) for pair in batch.pairs]
        for pair, original, picture in zip(batch.pairs, originals, encoded.reconstructions):  # type: ignore[arg-type]
            target = images.resize(original, self._image_size)
            row = {"key": pair.key, "tokenizer": _psnr(picture, target)}
            yield beam.pvalue.TaggedOutput("rows", row)
        options.tick(len(originals))
        yield (batch, tuple(originals), encoded.reconstructions), encoded.reconstructions


def _upsampling_rows(element: tuple[Any, np.ndarray]) -> list[dict[str, Any]]:
    """Returns the PSNR of upsampled pictures and of plain interpolation, against the originals."""
    (batch, originals, lows), upsampled = element
    rows = []
    for pair, original, low, larger in zip(batch.pairs, originals, lows, upsampled, strict=True):
        side = len(larger)
        if len(original) < side:
            continue  # Nothing to compare with: the original has less detail.
        target = images.resize(original, side)
        nearest = low.repeat(side // len(low), axis=0).repeat(side // len(low), axis=1)
        rows.append(
            {
                "key": pair.key,
                "upsampler": _psnr(larger, target),
                "nearest": _psnr(nearest, target),
                "bicubic": _psnr(images.resize(low, side), target),
            }
        )
    return rows


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return min(images.psnr(a, b), _MAX_PSNR)


def build(
    root: beam.Pipeline,
    groups: Sequence[list[records.Generation]],
    generations_dir: pathlib.Path,
    directory: pathlib.Path,
) -> beam.PCollection:
    """Adds the reading of generated pictures to a pipeline.

    Args:
      root: the pipeline.
      groups: the images of each prompt with a scene, in rank order.
      generations_dir: what their paths are relative to; every worker must reach it.
      directory: where the results are collected.

    Returns:
      A dict for each prompt: "prompt_id", "alignments" in rank order, and the "best" view.
    """
    found = (
        root
        | "Prompts" >> beam.Create(list(groups))
        | "Read pictures" >> beam.ParDo(_ReadSamples(generations_dir))
    )
    found | "Alignments" >> writers.CollectJson(directory / _ALIGNMENTS)
    return found


def build_reference(
    root: beam.Pipeline,
    shards: Sequence[str],
    bundle: bundles.Bundle,
    num_images: int,
    directory: pathlib.Path,
) -> beam.PCollection:
    """Adds the measuring of tokenizer and upsampler to a pipeline.

    Args:
      root: the pipeline.
      shards: TFRecord files of `ImageTextPair`.
      bundle: the models; every worker must reach it.
      num_images: about so many images are measured, the same share of each shard.
      directory: where the results are collected.

    Returns:
      A dict for each measurement: "key" and PSNR in dB by name.
    """
    source = str(bundle.path.resolve())
    size = bundle.model("tokenizer").image_size
    settings = picture_batches.BatchSettings(size, _BATCH_SIZE)
    per_shard = -(-num_images // len(shards))
    batches = (
        root
        | "Shards" >> beam.Create(list(shards))
        | "Read"
        >> beam.ParDo(picture_batches.ReadBatches(settings, limit=per_shard)).with_outputs(
            "rejected", main="batches"
        )
    )
    measured = (
        batches.batches
        | model_handlers.infer(
            "Reconstruct", model_handlers.Encoder(source, _BATCH_SIZE, reconstruct=True)
        )
        | "Measure" >> beam.ParDo(_Measure(size)).with_outputs("rows", main="pictures")
    )
    rows = [measured.rows]
    if "upsampler" in bundle.parts:
        rows.append(
            measured.pictures
            | model_handlers.infer("Upsample", model_handlers.Upsampler(source))
            | "Compare" >> beam.FlatMap(_upsampling_rows)
        )
    merged = tuple(rows) | beam.Flatten()
    merged | "Rows" >> writers.CollectJson(directory / _RECONSTRUCTIONS)
    return merged


def make_parser() -> flags_lib.Parser:
    """Returns the command's flags."""
    parser = options.make_parser(
        "parti evaluate",
        "Measures generations against the scenes of their prompts, and models against pictures.",
        "parti evaluate --generations images --output evaluation --reference pairs --model bundle",
    )
    add = parser.add_argument
    add("--generations", required=True, metavar="DIR", help="the output of `parti generate`")
    add("--output", required=True, metavar="DIR", help="the folder to write")
    add("--reference", metavar="DIR", help="pairs to reconstruct; needs --model")
    add("--model", metavar="BUNDLE", help="whose tokenizer and upsampler to measure")
    add("--num_reference", type=int, default=512, help="about so many pictures are reconstructed")
    return parser


def check_flags(flags: argparse.Namespace) -> None:
    """Checks the values.

    Raises:
      ValueError: a value out of range, or half of what belongs together.
    """
    if bool(flags.reference) != bool(flags.model):
        raise ValueError("--reference and --model go together: give both or neither")
    if flags.num_reference < 1:
        raise ValueError(f"--num_reference={flags.num_reference}: give at least 1")


def run(argv: Sequence[str]) -> int:
    """Runs `parti evaluate`; see `make_parser` for its flags.

    Raises:
      ValueError, FileNotFoundError: bad flags or input.
      options.PipelineError: the job failed.
    """
    flags, beam_options = options.parse(make_parser(), argv)
    check_flags(flags)
    made = manifests.read(flags.generations, "generations")
    generations_dir = pathlib.Path(flags.generations).resolve()
    groups = gallery.group_by_prompt(generate.read_generations(flags.generations))
    measured, notes = scene_groups(groups, generations_dir)
    bundle = bundles.Bundle.open(flags.model) if flags.model else None
    shards = reference_shards(flags.reference) if flags.reference else []
    inputs = {name: getattr(flags, name) for name in ("generations", "reference", "model")}
    settings = {
        "generations_fingerprint": made["fingerprint"],
        "fingerprints": bundle.fingerprints if bundle else {},
        "reference_fingerprint": (
            manifests.read(flags.reference, "pairs")["fingerprint"] if flags.reference else None
        ),
        "num_reference": flags.num_reference,
    }
    stage = staging.Staging(
        flags.output, "evaluation", settings=settings, inputs=inputs, overwrite=flags.overwrite
    )
    with stage:
        metrics: dict[str, Any] = {
            "num_prompts": len(groups),
            "num_images": sum(len(group) for group in groups),
            "num_prompts_with_scene": len(measured),
        }
        metrics |= measure(
            measured, generations_dir, bundle, shards, flags.num_reference, stage.path, beam_options
        )
        metrics["notes"] = notes + _notes(groups, metrics, bundle)
        text = json.dumps(metrics, indent=2, sort_keys=True)
        (stage.path / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
        overall = _best_overall(stage.path) if measured else {}
        evaluation_report.write(stage.path, metrics, measured, generations_dir, overall)
        stage.publish({"prompts": len(groups), "images": metrics["num_images"]})
    print(evaluation_report.table(metrics))
    print(f"\nwritten to {stage.output}: {METRICS_FILE}, {evaluation_report.FILE_NAME}")
    return 0


def measure(
    groups: Sequence[list[records.Generation]],
    generations_dir: pathlib.Path,
    bundle: bundles.Bundle | None,
    shards: Sequence[str],
    num_reference: int,
    directory: pathlib.Path,
    beam_options: Any,
) -> dict[str, Any]:
    """Runs the Beam job and returns the metrics of what there is to measure.

    Raises:
      ValueError: no reference picture could be read.
      options.PipelineError: the job failed.
    """
    metrics: dict[str, Any] = {}
    if not groups and bundle is None:
        return metrics

    def add_jobs(root: beam.Pipeline) -> None:
        if groups:
            build(root, groups, generations_dir, directory)
        if bundle is not None:
            build_reference(root, shards, bundle, num_reference, directory)

    total = sum(len(group) for group in groups)
    progress = progress_lib.Progress("evaluate", 0 if bundle else total, "images")
    options.run_pipeline(add_jobs, beam_options, progress)
    if groups:
        found = writers.read_collected(directory / _ALIGNMENTS)
        lines = [
            json.dumps(line, sort_keys=True) + "\n" for line in _alignment_lines(groups, found)
        ]
        (directory / ALIGNMENTS_FILE).write_text("".join(lines), encoding="utf-8")
        metrics |= evaluation_metrics.alignment_metrics(groups, found)
    if bundle is not None:
        rows = writers.read_collected(directory / _RECONSTRUCTIONS)
        metrics |= evaluation_metrics.reference_metrics(rows)
    progress.done()
    return metrics


def _alignment_lines(
    groups: Sequence[list[records.Generation]], found: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Returns a line for each picture: which it is, and what it scores."""
    by_id = {row["prompt_id"]: row["alignments"] for row in found}
    return [
        {"image": item.image, "rank": item.rank, "score": item.score, "alignment": alignment}
        for group in groups
        for item, alignment in zip(group, by_id[group[0].prompt_id], strict=True)
    ]


def _best_overall(directory: pathlib.Path) -> dict[str, float]:
    """Returns {path of the best picture: its overall agreement}."""
    lines = (directory / ALIGNMENTS_FILE).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {
        row["image"]: row["alignment"][evaluation_metrics.OVERALL]
        for row in rows
        if row["rank"] == 0
    }


def scene_groups(
    groups: Sequence[list[records.Generation]], generations_dir: pathlib.Path
) -> tuple[list[list[records.Generation]], list[str]]:
    """Returns the prompts whose pictures can be held against a scene, and notes on the others."""
    chosen = [group for group in groups if _has_scene(group[0])]
    if not chosen:
        return [], ["no prompt has a `scene` in its metadata: alignment was not measured"]
    side = len(images.decode_image((generations_dir / chosen[0][0].image).read_bytes()))
    if side < _MIN_SIDE:
        return [], [
            f"the pictures are {side} px wide, the scene probe reads {_MIN_SIDE} px or more: "
            "alignment was not measured"
        ]
    if len(chosen) < len(groups):
        return chosen, [f"{len(groups) - len(chosen)} of {len(groups)} prompts have no `scene`"]
    return chosen, []


def _has_scene(item: records.Generation) -> bool:
    """Returns whether a prompt carries a scene; a user's metadata may hold another `scene`."""
    try:
        scenes.Scene.from_dict(item.metadata[evaluation_metrics.SCENE])
    except (KeyError, ValueError):
        return False
    return True


def reference_shards(directory: str) -> list[str]:
    """Returns the validation shards of a folder of pairs, or the train shards if it has none.

    Raises:
      FileNotFoundError: no finished pairs there.
    """
    counts = manifests.read(directory, "pairs")["counts"]
    split = "validation" if counts.get("validation") else "train"
    pattern = str(pathlib.Path(directory, f"{split}-*.tfrecord"))
    return file_names.expand_pattern(pattern, "image-text pairs")


def _notes(
    groups: Sequence[list[records.Generation]],
    metrics: dict[str, Any],
    bundle: bundles.Bundle | None,
) -> list[str]:
    """Returns what a reader of the numbers must know."""
    notes = []
    if "alignment" in metrics and any(item.score is None for group in groups for item in group):
        notes.append("no reranker scored these pictures: best is sample 0")
    if bundle is not None and "upsampler" not in metrics:
        why = (
            "the reference pictures are smaller than what it makes"
            if "upsampler" in bundle.parts
            else "the bundle has none"
        )
        notes.append(f"the upsampler was not measured: {why}")
    return notes
