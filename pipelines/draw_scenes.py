# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti scenes`: the built-in data set, as webdataset tars in img2dataset layout.

A scene depends on seed, split and number alone: whoever draws a shard writes the same bytes.
`prompts-validation.jsonl` has captions of validation scenes, with the scenes to measure against.
"""

import argparse
import collections
import dataclasses
import io
import itertools
import json
import math
import tarfile
from collections.abc import Iterator, Sequence

import apache_beam as beam

from parti.data.images import images
from parti.data.scenes import scenes
from parti.data.storage import records, shard_names
from parti.data.text import prompt_files
from parti.pipelines.beam import options
from parti.stages import files, flag_parser, progress_line, publishing

PROMPTS = "prompts-validation.jsonl"
_SCENES_PER_SHARD = 5000
# Prompts are chosen among the first validation scenes, up to this number.
_PROMPT_CANDIDATES = 4000


@dataclasses.dataclass(frozen=True)
class SceneSettings:
    """What decides the bytes of the data set."""

    world: str = "full"  # a key of `scenes.WORLDS`
    num: int = 10_000  # scenes in both splits together
    size: int = 64  # height and width of the images in pixels
    seed: int = 0
    validation_fraction: float = 0.1  # share of the validation split, in [0, 1)
    shards: int = 0  # tars of the train split; 0 for one per 5,000 scenes
    num_prompts: int = 200

    def __post_init__(self) -> None:
        if self.world not in scenes.WORLDS:
            raise ValueError(f"--world={self.world}: choose from {', '.join(scenes.WORLDS)}")
        for name, least in (("num", 1), ("size", 16), ("shards", 0), ("num_prompts", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name}={getattr(self, name)}: give at least {least}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"--validation_fraction={self.validation_fraction}: give at least 0, less than 1"
            )
        if self.shards > self.counts["train"]:
            raise ValueError(f"--shards={self.shards}: more than the {self.counts['train']} scenes")

    @property
    def counts(self) -> dict[str, int]:
        """Scenes of each split; train has at least one."""
        validation = min(round(self.num * self.validation_fraction), self.num - 1)
        return {"train": self.num - validation, "validation": validation}


@dataclasses.dataclass(frozen=True)
class SceneShard:
    """One tar: scenes `start` to `start + num` of a split."""

    split: str
    name: str
    start: int
    num: int


def plan_shards(settings: SceneSettings) -> list[SceneShard]:
    """Returns the tars; those of a split differ by one scene at most."""
    shards, counts = [], settings.counts
    num_train = settings.shards or math.ceil(counts["train"] / _SCENES_PER_SHARD)
    for split, count in counts.items():
        share = count / counts["train"]
        num_shards = min(count, max(1, round(num_train * share))) if count else 0
        bounds = [count * index // max(num_shards, 1) for index in range(num_shards + 1)]
        for index, (start, end) in enumerate(zip(bounds, bounds[1:])):
            name = shard_names.shard_name(split, index, num_shards, ".tar")
            shards.append(SceneShard(split, name, start, end - start))
    return shards


def members(shard: SceneShard, settings: SceneSettings) -> Iterator[tuple[str, bytes]]:
    """Draws the scenes of a shard and yields (file name, content), sorted by name."""
    drawn = scenes.generate(
        shard.split, shard.num, settings.seed, settings.size, settings.world, shard.start
    )
    for key, scene, image, captions in drawn:
        metadata = {
            "width": settings.size,
            "height": settings.size,
            "split": shard.split,
            "challenge": scenes.CHALLENGES[scene.challenge],
            records.CAPTIONS: captions,
            "scene": scene.to_dict(),
        }
        yield f"{key}.json", json.dumps(metadata, sort_keys=True).encode()
        yield f"{key}.png", images.encode_png(image)
        yield f"{key}.txt", captions[0].encode()


def write_tar(path: str, content: Iterator[tuple[str, bytes]]) -> None:
    """Writes a tar that depends on names and contents only, and appears whole."""
    with (
        files.replacing(path) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, data in content:
            member = tarfile.TarInfo(name)  # its defaults: no owner, no time
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _draw_shard(shard: SceneShard, directory: str, settings: SceneSettings) -> tuple[str, int]:
    def counted() -> Iterator[tuple[str, bytes]]:
        for name, content in members(shard, settings):
            yield name, content
            if name.endswith(".txt"):  # the last of a scene
                options.tick()

    write_tar(files.join(directory, shard.name), counted())
    return shard.name, shard.num


def build(root: beam.Pipeline, settings: SceneSettings, directory: str) -> beam.PCollection:
    """Adds the job: draws every shard into `directory`, and yields (name, number of scenes)."""
    return (
        root
        | "Shards" >> beam.Create(plan_shards(settings), reshuffle=True)
        | "Draw" >> beam.Map(_draw_shard, directory, settings)
    )


def choose_prompts(settings: SceneSettings) -> list[prompt_files.Prompt]:
    """Returns different captions of validation scenes, as evenly over the challenges as may be."""
    world = scenes.find_world(settings.world)
    groups: dict[str, dict[str, prompt_files.Prompt]] = collections.defaultdict(dict)
    for index in range(min(settings.counts["validation"], _PROMPT_CANDIDATES)):
        if groups and len(groups) == len(world.challenges):
            least = min(len(group) for group in groups.values())
            if least * len(groups) >= settings.num_prompts:
                break
        scene = scenes.draw_scene("validation", index, settings.seed, world)
        text = scenes.captions(scene)[0]
        challenge = scenes.CHALLENGES[scene.challenge]
        key, metadata = scenes.scene_key("validation", index), {"scene": scene.to_dict()}
        prompt = prompt_files.Prompt(key, text, "Scenes", challenge, metadata)
        groups[challenge].setdefault(text, prompt)
    ordered = [list(groups[name].values()) for name in sorted(groups)]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*ordered))
    return [prompt for prompt in turns if prompt][: settings.num_prompts]


def make_parser() -> flag_parser.Parser:
    """Returns the command's flags."""
    parser = options.make_parser(
        "parti scenes",
        "Draws the built-in data set: small pictures with exact captions, in two splits.",
        "parti scenes --output scenes --num=20000 --size=64",
    )
    default, add = SceneSettings(), parser.add_argument
    add("--output", required=True, metavar="DIR", help="the folder to write")
    add("--num", type=int, default=default.num, help="scenes in both splits together")
    add("--size", type=int, default=default.size, help="side of the pictures in pixels")
    add("--seed", type=int, default=default.seed, help="another seed, another data set")
    add("--world", default=default.world, help=f"what is drawn: {', '.join(scenes.WORLDS)}")
    add("--validation_fraction", type=float, default=default.validation_fraction, help="in [0, 1)")
    add("--shards", type=int, default=default.shards, help="train tars; 0: one per 5,000 scenes")
    add("--num_prompts", type=int, default=default.num_prompts, help=f"lines of {PROMPTS}")
    return parser


def check_flags(flags: argparse.Namespace) -> SceneSettings:
    """Returns the settings; ValueError: a value out of range."""
    names = [field.name for field in dataclasses.fields(SceneSettings)]
    return SceneSettings(**{name: getattr(flags, name) for name in names})


def run(argv: Sequence[str]) -> int:
    """Runs `parti scenes`; returns the exit code."""
    flags, beam_options = options.parse(make_parser(), argv)
    settings = check_flags(flags)
    options.check_places(beam_options, [], [flags.output])
    with publishing.OutputDirectory(
        flags.output, "scenes", settings=dataclasses.asdict(settings), overwrite=flags.overwrite
    ) as stage:
        progress = progress_line.Progress("scenes", settings.num, "scenes")
        options.run_pipeline(
            lambda root: build(root, settings, stage.address), beam_options, progress
        )
        chosen = choose_prompts(settings)
        if chosen:
            prompt_files.write_prompts(files.join(stage.address, PROMPTS), chosen)
        stage.publish(counts={**settings.counts, "prompts": len(chosen)})
        progress.done()
    counts = settings.counts
    print(
        f"drew {counts['train']:,} train and {counts['validation']:,} validation scenes of the "
        f"{settings.world} world at {settings.size} pixels\n"
        f"wrote {len(plan_shards(settings))} tars and {len(chosen)} prompts to {flags.output}"
    )
    return 0
