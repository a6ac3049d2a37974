# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti evaluate`: how well generations agree with their prompts, and how well the models draw.

The first for prompts that carry their `scene`, see `scene_alignment`; the second with reference
pairs and models, see `reconstructions`. Intervals are 95%, by bootstrap.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from parti.data.images import images
from parti.data.scenes import probe as scene_probe
from parti.data.storage import records
from parti.engine.hardware import accelerators
from parti.engine.inference import layouts
from parti.pipelines import generate
from parti.pipelines.beam import options, sharded_writers
from parti.pipelines.evaluation import reconstructions, scene_alignment
from parti.pipelines.evaluation import report as evaluation_report
from parti.pipelines.html import gallery
from parti.stages import files, flag_parser, manifests, progress_line, publishing

METRICS_FILE = "metrics.json"
ALIGNMENTS_FILE = "alignments.jsonl"
_FOUND = ".alignments.json"  # what the job collects
_INPUTS = ("generations", "reference", "model")
_MIN_SIDE = 32  # pixels that the scene probe needs
_NUM_NAMED = 3  # pictures that a message names
_NUM_REFERENCE = 512  # images, by default, when generations are measured too


def _read_samples(group: list[records.Generation], directory: str) -> dict[str, Any]:
    """Returns what the images of a prompt (in rank order) score, and what the best one shows.

    If some of them cannot be read, only "problems", a text for each.
    """
    scene = scene_alignment.scene_of(group[0])
    assert scene, "groups without a scene are not read"
    views, sides, problems = [], [], []
    for item in group:
        try:
            image = images.decode_image(files.read_bytes(files.join(directory, item.image)))
            if image.shape[0] != image.shape[1]:
                raise ValueError(f"{image.shape[1]} x {image.shape[0]} px, it must be square")
            views.append(scene_probe.read_scene(image))
            sides.append(len(image))
        except (files.StoreError, files.AccessError):
            raise  # the pictures may be whole
        except (ValueError, OSError) as error:
            problems.append(f"{item.image}, prompt {item.prompt_id!r}: {_said(error)}")
    options.tick(len(group))
    if problems:
        return {"prompt_id": group[0].prompt_id, "problems": problems}
    return {
        "prompt_id": group[0].prompt_id,
        "alignments": [scene_probe.compare(view, scene) for view in views],
        "sides": sides,
        "best": dataclasses.asdict(views[0]),
    }


def _said(error: ValueError | OSError) -> str:
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)


def build(
    root: beam.Pipeline,
    groups: Sequence[list[records.Generation]],  # of each prompt with a scene, in rank order
    generations_dir: str,  # of their paths; every worker must reach it
    directory: str,  # where the results are collected
) -> beam.PCollection:
    """Adds the reading of generated images to a pipeline; see `_read_samples`."""
    found = (
        root
        | "Prompts" >> beam.Create(list(groups))
        | "Read images" >> beam.Map(_read_samples, generations_dir)
    )
    found | "Alignments" >> sharded_writers.CollectJson(files.join(directory, _FOUND))
    return found


def make_parser() -> flag_parser.Parser:
    """Returns the command's flags."""
    parser = options.make_parser(
        "parti evaluate",
        "Measures generations against the scenes of their prompts, and models against images.",
        "parti evaluate --generations images --output evaluation --reference pairs --model bundle\n"
        "  parti evaluate --reconstructions --reference pairs --model tokenizer --output report",
    )
    add = parser.add_argument
    add("--generations", metavar="DIR", help="the output of `parti generate`")
    add("--reconstructions", action="store_true", help="measure the models alone")
    add("--output", required=True, metavar="DIR", help="the folder to write")
    add("--reference", metavar="DIR", help="pairs to reconstruct; needs --model")
    add("--model", metavar="DIR", help="a bundle, or the training of a tokenizer")
    add("--split", choices=records.SPLITS, help="of the pairs: validation, if there is one")
    help_text = f"reconstruct about N images; {_NUM_REFERENCE}, or with --reconstructions all"
    add("--num_reference", type=int, metavar="N", help=help_text)
    layouts.add_data_parallel(parser)
    return parser


def check_flags(flags: argparse.Namespace) -> None:
    """Raises ValueError for a value out of range, or half of what belongs together."""
    if bool(flags.reference) != bool(flags.model):
        given, missing = ("--reference", "--model")[:: -1 if flags.model else 1]
        others = "" if flags.reconstructions else f", or leave out {given}"
        raise ValueError(f"{given} needs {missing}: give it too{others}")
    if flags.data_parallel and not flags.model:
        raise ValueError("--data_parallel is of the models; give --reference and --model too")
    if flags.num_reference is not None and flags.num_reference < 1:
        raise ValueError(f"--num_reference={flags.num_reference}: give at least 1")


def run(argv: Sequence[str]) -> int:
    """Runs `parti evaluate`."""
    flags, beam_options = options.parse(make_parser(), argv)
    check_flags(flags)
    if bool(flags.generations) == flags.reconstructions:
        raise ValueError("give --generations DIR or --reconstructions, one of them")
    if flags.reconstructions and not flags.reference:
        raise ValueError("--reconstructions needs --reference (pairs) and --model")
    if not flags.reference and (flags.split or flags.num_reference):
        raise ValueError("--split and --num_reference are of --reference, which is not given")
    inputs = [flags.generations, flags.reference, flags.model]
    if flags.model:
        accelerators.check_platforms()
    options.check_places(beam_options, [*filter(None, inputs)], [flags.output])
    settings: dict[str, Any] = {}
    if flags.generations:
        made = manifests.read(flags.generations, "generations")
        settings["generations_fingerprint"] = made["fingerprint"]
        groups = gallery.group_by_prompt(generate.read_generations(flags.generations))
    if flags.reference:
        default = None if flags.reconstructions else _NUM_REFERENCE
        number = flags.num_reference or default
        reference = reconstructions.Reference.open(
            flags.reference, flags.model, flags.split, number, flags.data_parallel
        )
        settings |= reference.settings
    metrics: dict[str, Any] = {"notes": []}
    names = ("reference", "model") if flags.reconstructions else _INPUTS
    with publishing.OutputDirectory(
        flags.output,
        "reconstructions" if flags.reconstructions else "evaluation",
        settings=settings,
        inputs={
            **{name: getattr(flags, name) for name in names},
            **({"data_parallel": True} if flags.data_parallel else {}),
        },
        overwrite=flags.overwrite,
        resume=flags.reconstructions,
    ) as stage:
        if flags.generations:
            generations_dir = files.absolute(flags.generations)
            metrics, best = measure_generations(
                groups, generations_dir, stage.address, beam_options
            )
        if flags.reference:
            found = measure_reconstructions(reference, stage.address, beam_options)
            metrics = {**metrics, **found, "notes": metrics["notes"] + found["notes"]}
        if flags.generations:
            page = evaluation_report.FILE_NAME
            counts = {"prompts": metrics["num_prompts"], "images": metrics["num_images"]}
            evaluation_report.write(stage.address, metrics, best, generations_dir)
        else:
            page, about = evaluation_report.RECONSTRUCTIONS_FILE, metrics["reference"]
            counts = {"images": about["num_images"], "rejected": about["num_rejected"]}
        text = json.dumps(metrics, indent=2, sort_keys=True) + "\n"
        files.write_bytes(files.join(stage.address, METRICS_FILE), text.encode())
        stage.publish(counts)
    print(evaluation_report.table(metrics))
    print(f"\nwritten to {stage.output}: {METRICS_FILE}, {page}")
    return 0


def measure_generations(
    groups: Sequence[list[records.Generation]],
    generations_dir: str,
    directory: str,
    beam_options: Any,
) -> tuple[dict[str, Any], list[tuple[records.Generation, float]]]:
    """Runs the Beam job over generations, and writes what each image scores.

    Returns the metrics, and the best image of each prompt with a scene with its overall agreement.
    """
    measured, notes = _find_scenes(groups, generations_dir)
    metrics: dict[str, Any] = {
        "num_prompts": len(groups),
        "num_images": sum(map(len, groups)),
        "num_prompts_with_scene": len(measured),
        "notes": notes,
    }
    if not measured:
        return metrics, []
    progress = progress_line.Progress("evaluate", sum(map(len, measured)), "images")
    options.run_pipeline(
        lambda root: build(root, measured, generations_dir, directory), beam_options, progress
    )
    by_id = {
        row["prompt_id"]: row
        for row in sharded_writers.read_collected(files.join(directory, _FOUND))
    }
    found = [by_id[group[0].prompt_id] for group in measured]
    if problems := [problem for row in found for problem in row.get("problems", ())]:
        progress.failed()
        raise ValueError(
            f"{generations_dir}: {len(problems)} of {sum(map(len, measured))} pictures cannot be "
            f"measured; {'; '.join(problems[:_NUM_NAMED])}; put back what `parti generate` wrote"
        )
    notes += _size_notes(measured, [row["sides"] for row in found])
    rows = [
        {"image": item.image, "rank": item.rank, "score": item.score, "alignment": alignment}
        for group, row in zip(measured, found)
        for item, alignment in zip(group, row["alignments"], strict=True)
    ]
    lines = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    files.write_bytes(files.join(directory, ALIGNMENTS_FILE), lines.encode())
    progress.done()
    if any(item.score is None for group in groups for item in group):
        notes.append("no reranker scored these pictures: best is sample 0")
    best = [
        (group[0], row["alignments"][0][scene_alignment.OVERALL])
        for group, row in zip(measured, found)
    ]
    return metrics | scene_alignment.alignment_metrics(measured, found), best


def _find_scenes(
    groups: Sequence[list[records.Generation]], generations_dir: str
) -> tuple[list[list[records.Generation]], list[str]]:
    """Returns the prompts whose images can be held against a scene, and notes on the others."""
    chosen = [group for group in groups if scene_alignment.scene_of(group[0])]
    given = [group for group in groups if scene_alignment.has_scene(group[0])]
    notes = []
    if foreign := len(given) - len(chosen):
        first = next(g[0].prompt_id for g in given if not scene_alignment.scene_of(g[0]))
        notes.append(
            f"{foreign} of {len(groups)} prompts have a `scene` that is not one of `parti scenes` "
            f"(first: {first!r}) and are left out"
        )
    if given and (missing := len(groups) - len(given)):
        notes.append(f"{missing} of {len(groups)} prompts have no `scene`")
    if not chosen:
        what = "no prompt has a `scene` in its metadata" if not given else "no prompt is left"
        return [], [*notes, f"{what}: alignment was not measured"]
    side = 0
    with contextlib.suppress(ValueError, OSError):  # it is named with the others
        first_image = files.join(generations_dir, chosen[0][0].image)
        side = len(images.decode_image(files.read_bytes(first_image)))
    if 0 < side < _MIN_SIDE:
        return [], [
            f"the pictures are {side} px wide, the scene probe reads {_MIN_SIDE} px or more: "
            "alignment was not measured"
        ]
    return chosen, notes


def _size_notes(
    groups: Sequence[Sequence[records.Generation]], sides: Sequence[Sequence[int]]
) -> list[str]:
    """Returns notes on images of another size than the others, upsampled or not, or too small."""
    sizes: dict[bool, list[tuple[int, str]]] = {True: [], False: []}
    for group, row in zip(groups, sides, strict=True):
        for item, side in zip(group, row, strict=True):
            is_small = item.rank >= item.settings.get("num_upsampled", len(group))
            sizes[is_small].append((side, item.image))
    notes = []
    for found in filter(None, sizes.values()):
        [(usual, _)] = collections.Counter(side for side, _ in found).most_common(1)
        if odd := [(side, image) for side, image in found if side != usual]:
            notes.append(
                f"{len(odd)} of {len(found)} pictures are not {usual} px wide as the others, "
                f"first {odd[0][1]}: {odd[0][0]} px; were they changed?"
            )
    every = [side for found in sizes.values() for side, _ in found]
    if small := sum(side < _MIN_SIDE for side in every):
        notes.append(
            f"{small} of {len(every)} pictures are under {_MIN_SIDE} px wide, which the scene "
            "probe hardly reads"
        )
    return notes


def measure_reconstructions(
    reference: reconstructions.Reference, directory: str, beam_options: Any
) -> dict[str, Any]:
    """Runs the Beam job over reference images, writes their page, and returns the metrics."""
    metrics, codes = reconstructions.measure(reference, directory, beam_options)
    rows = reconstructions.Rows(directory, reference.shards)
    groups = reconstructions.choose(rows, codes.num_images)
    shown = reconstructions.show(groups, reference)
    psnr = np.array([row["psnr"] for _, row in rows])
    evaluation_report.write_reconstructions(directory, metrics, codes.tokens, psnr, shown)
    return metrics
