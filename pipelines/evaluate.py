# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti evaluate`: how well generations agree with their prompts, and how well the models draw.

For prompts that carry their true `scene`, every picture is read by `data/scene_probe`, and the best
of N is held against any sample, against the scenes of other prompts (chance), and against the best
there was. With reference pairs and a bundle, tokenizer and upsampler are measured too
(`reconstructions`), or with --reconstructions they alone. Intervals are 95%, by bootstrap over
prompts or images.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from parti.data.images import images
from parti.data.scenes import probe as scene_probe
from parti.data.scenes import scenes
from parti.data.storage import records
from parti.pipelines import generate
from parti.pipelines.beam import options, sharded_writers
from parti.pipelines.evaluation import reconstruction_report, reconstructions, scene_alignment
from parti.pipelines.evaluation import report as evaluation_report
from parti.pipelines.html import gallery
from parti.stages import flag_parser, manifests, output_directory, progress_line

ALIGNMENTS_FILE = "alignments.jsonl"
_ALIGNMENTS = ".alignments.json"
_MIN_SIDE = 32  # pixels that the scene probe needs
_NUM_REFERENCE = 512  # pictures beside generations


class _ReadSamples(beam.DoFn):
    """Images of a prompt (in rank order) -> what they score, and what the best one shows."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory

    def process(self, group: list[records.Generation]) -> Any:
        scene = scenes.Scene.from_dict(group[0].metadata[scene_alignment.SCENE])
        paths = [self._directory / item.image for item in group]
        views = [scene_probe.read_scene(images.decode_image(path.read_bytes())) for path in paths]
        options.tick(len(group))
        yield {
            "prompt_id": group[0].prompt_id,
            "alignments": [scene_probe.compare(view, scene) for view in views],
            "best": dataclasses.asdict(views[0]),
        }


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
    found | "Alignments" >> sharded_writers.CollectJson(directory / _ALIGNMENTS)
    return found


def make_parser() -> flag_parser.Parser:
    """Returns the command's flags."""
    parser = options.make_parser(
        "parti evaluate",
        "Measures generations against the scenes of their prompts, and models against pictures.",
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
    add(
        "--num_reference",
        type=int,
        metavar="N",
        help=f"reconstruct about so many; {_NUM_REFERENCE}, or with --reconstructions all",
    )
    return parser


def check_flags(flags: argparse.Namespace) -> None:
    """Checks the values.

    Raises:
      ValueError: a value out of range, or half of what belongs together.
    """
    if bool(flags.reference) != bool(flags.model):
        given, missing = "--reference", "--model"
        if flags.model:
            given, missing = missing, given
        others = "" if flags.reconstructions else f", or leave out {given}"
        raise ValueError(f"{given} needs {missing}: give it too{others}")
    if flags.num_reference is not None and flags.num_reference < 1:
        raise ValueError(f"--num_reference={flags.num_reference}: give at least 1")


def _check_mode(flags: argparse.Namespace) -> None:
    """Raises ValueError unless the flags name something to measure, and all are of use."""
    if bool(flags.generations) == flags.reconstructions:
        raise ValueError("give --generations DIR or --reconstructions, one of them")
    if flags.reconstructions and not flags.reference:
        raise ValueError("--reconstructions needs --reference (pairs) and --model")
    if not flags.reference and (flags.split or flags.num_reference):
        raise ValueError("--split and --num_reference are of --reference, which is not given")


def run(argv: Sequence[str]) -> int:
    """Runs `parti evaluate`; see `make_parser` for its flags.

    Raises:
      ValueError, FileNotFoundError: bad flags or input.
      options.PipelineError: the job failed.
    """
    flags, beam_options = options.parse(make_parser(), argv)
    check_flags(flags)
    _check_mode(flags)
    number = flags.num_reference or (None if flags.reconstructions else _NUM_REFERENCE)
    if flags.reconstructions:
        reference = reconstructions.Reference.open(
            flags.reference, flags.model, flags.split, number
        )
        stage, metrics = reconstructions.run(reference, flags, beam_options)
        page = reconstruction_report.FILE_NAME
    else:
        stage, metrics = _run_generations(flags, number, beam_options)
        page = evaluation_report.FILE_NAME
    print(evaluation_report.table(metrics))
    print(f"\nwritten to {stage.output}: {reconstructions.METRICS_FILE}, {page}")
    return 0


def _run_generations(
    flags: argparse.Namespace, num_reference: int | None, beam_options: Any
) -> tuple[output_directory.OutputDirectory, dict[str, Any]]:
    """Measures generations, and reconstructions if asked for; returns the stage and the metrics."""
    made = manifests.read(flags.generations, "generations")
    generations_dir = pathlib.Path(flags.generations).resolve()
    groups = gallery.group_by_prompt(generate.read_generations(flags.generations))
    measured, notes = scene_groups(groups, generations_dir)
    reference = None
    if flags.reference:
        reference = reconstructions.Reference.open(
            flags.reference, flags.model, flags.split, num_reference
        )
    inputs = {name: getattr(flags, name) for name in ("generations", "reference", "model")}
    settings = {
        "generations_fingerprint": made["fingerprint"],
        **(reference.settings if reference else {}),
    }
    stage = output_directory.OutputDirectory(
        flags.output, "evaluation", settings=settings, inputs=inputs, overwrite=flags.overwrite
    )
    with stage:
        metrics: dict[str, Any] = {
            "num_prompts": len(groups),
            "num_images": sum(len(group) for group in groups),
            "num_prompts_with_scene": len(measured),
        }
        if measured:
            metrics |= measure(measured, generations_dir, stage.path, beam_options)
        notes += _notes(groups, metrics)
        if reference:
            models = reconstructions.measure(reference, stage.path, beam_options)
            notes += models.pop("notes")
            metrics |= models
        metrics["notes"] = notes
        text = json.dumps(metrics, indent=2, sort_keys=True)
        (stage.path / reconstructions.METRICS_FILE).write_text(text + "\n", encoding="utf-8")
        overall = _best_overall(stage.path) if measured else {}
        evaluation_report.write(stage.path, metrics, measured, generations_dir, overall)
        stage.publish({"prompts": len(groups), "images": metrics["num_images"]})
    return stage, metrics


def measure(
    groups: Sequence[list[records.Generation]],
    generations_dir: pathlib.Path,
    directory: pathlib.Path,
    beam_options: Any,
) -> dict[str, Any]:
    """Runs the Beam job over generations, writes what each scores, and returns the metrics.

    Raises:
      options.PipelineError: the job failed.
    """
    progress = progress_line.Progress("evaluate", sum(len(group) for group in groups), "images")
    options.run_pipeline(
        lambda root: build(root, groups, generations_dir, directory), beam_options, progress
    )
    found = sharded_writers.read_collected(directory / _ALIGNMENTS)
    lines = [json.dumps(line, sort_keys=True) + "\n" for line in _alignment_lines(groups, found)]
    (directory / ALIGNMENTS_FILE).write_text("".join(lines), encoding="utf-8")
    progress.done()
    return scene_alignment.alignment_metrics(groups, found)


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
        row["image"]: row["alignment"][scene_alignment.OVERALL] for row in rows if row["rank"] == 0
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
        scenes.Scene.from_dict(item.metadata[scene_alignment.SCENE])
    except (KeyError, ValueError):
        return False
    return True


def _notes(groups: Sequence[list[records.Generation]], metrics: dict[str, Any]) -> list[str]:
    """Returns what a reader of the numbers must know."""
    if "alignment" in metrics and any(item.score is None for group in groups for item in group):
        return ["no reranker scored these pictures: best is sample 0"]
    return []
