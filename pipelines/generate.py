# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti generate`: prompts to images, sampled, reranked and upsampled (docs/generate.md).

A prompt's part, its manifest lines and tokens, is written after its images; a resumed run goes on
with the prompts that have none. Batches are always sampled whole, so the bytes stay the same.

Workers draw different prompts, each with a generator of its own. Processes that join one another
draw with one generator on all their devices, without Beam, and the first one writes.
"""

import argparse
import contextlib
import dataclasses
import math
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import jax
import numpy as np
from apache_beam.options import pipeline_options

from parti.data.images import encoding
from parti.data.storage import record_offsets, records, shard_names, tfrecords
from parti.data.text import captions, prompt_files, prompt_settings
from parti.engine.distributed import multihost
from parti.engine.hardware import accelerators
from parti.engine.inference import bundles, layouts, rendering, text_to_image
from parti.models.super_resolution import tiling
from parti.models.text_to_image import decode_order, sampling
from parti.pipelines.beam import beam_internals, model_handlers, options, runners
from parti.pipelines.html import gallery, generation_card
from parti.stages import files, flag_parser, manifests, progress_line, publishing

MANIFEST_LINES = "manifest.jsonl"
REJECTED_ROWS = "rejected.jsonl"
DEFAULT_BUNDLE = "runs/demo/bundle"
DEFAULT_RANKING = rendering.CONTRAST  # as the paper
# Folder of the parts, two files for each finished prompt, until all is published.
_PARTS = f"{publishing.SCRATCH}/parts"
_LINES, _TOKENS = ".jsonl", ".tfrecord"
_TOKENS_PER_SHARD = 16_384
# Settings that a manifest names only where they are not the default.
_SAID_IF_CHANGED = ("weights", "queue", "guidance_schedule", "guidance_over", "negative_prompt")


@dataclasses.dataclass(frozen=True)
class GenerateSettings:
    """What decides the images, apart from models and prompts; see `sampling.SamplingSettings`."""

    num_samples: int = 16  # images of each prompt
    guidance_scale: float = 1.2
    guidance_schedule: str = prompt_settings.CONSTANT
    guidance_over: str = prompt_settings.ROWS
    negative_prompt: str = ""  # in place of the null caption
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    num_upsampled: int = 16  # best images of each prompt; the others stay small
    # One of `rendering.RANKINGS`; None if there is no reranker
    rerank_by: str | None = rendering.CONTRAST
    decode_order: str = decode_order.RASTER
    queue: int = 1
    format: str = encoding.PNG  # of the images, one of `encoding.FORMATS`
    quality: int | None = None  # of WebP and JPEG; None is `encoding.LOSSY_QUALITY`
    weights: str | None = None  # `layouts.INT8`; None is the generator's compute dtype

    def __post_init__(self) -> None:
        if not 1 <= self.num_samples <= 1000:
            raise ValueError(f"--num_samples={self.num_samples}: give 1 to 1000")
        if not 0 <= self.num_upsampled <= self.num_samples:
            most = f"--num_samples={self.num_samples}"
            raise ValueError(f"--keep={self.num_upsampled}: give 0 to {most}")
        try:
            encoding.check_quality(self.format, self.quality)
            _ = self.sampling
        except ValueError as error:  # it begins with the name, which is the flag's
            raise ValueError(f"--{error}") from error
        if self.negative_prompt and not self.sampling.program.is_guided:
            raise ValueError(
                f"--negative_prompt={self.negative_prompt!r}: without guidance nothing is guided "
                "away from it; leave it out, or give a --guidance_scale other than 1"
            )

    def of(self, prompt: prompt_files.Prompt) -> "GenerateSettings":
        """Returns these with a prompt's own; ValueError: they do not go together."""
        try:
            return dataclasses.replace(self, **prompt.settings)
        except ValueError as error:
            raise ValueError(f"prompt {prompt.id!r}: {error}") from error

    def request(self, prompt: prompt_files.Prompt) -> text_to_image.Request:
        """Returns what to draw for a prompt."""
        own = self.of(prompt)
        return text_to_image.Request(prompt.text, own.sampling, own.seed, own.negative_prompt)

    @property
    def sampling(self) -> sampling.SamplingSettings:
        """How tokens are sampled."""
        return sampling.SamplingSettings(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            guidance_scale=self.guidance_scale,
            guidance_schedule=self.guidance_schedule,
            guidance_over=self.guidance_over,
            decode_order=self.decode_order,
            queue=self.queue,
        )


def generation_settings(bundle: bundles.Bundle, settings: GenerateSettings) -> dict[str, Any]:
    """Returns what a line of the manifest says about how its image was made.

    The settings of a prompt of its own stand in their place there.
    """
    said = dataclasses.asdict(settings)
    for field in dataclasses.fields(settings):
        if field.name in _SAID_IF_CHANGED and said[field.name] == field.default:
            del said[field.name]
    if settings.format == encoding.PNG:
        del said["quality"]
    else:
        said["quality"] = encoding.check_quality(settings.format, settings.quality)
    return {**said, "fingerprints": bundle.fingerprints}


def make_parser() -> flag_parser.Parser:
    """Returns the command's flags."""
    parser = options.make_parser(
        "parti generate",
        "Draws images for prompts, ranks the samples of each, and upsamples them.",
        "parti generate --prompts 'a red circle' --model runs/demo/bundle --output images\n"
        "  parti generate --prompts PartiPrompts.tsv --model bundle --output images --seed=1",
    )
    default = GenerateSettings()
    add = parser.add_argument
    help_text = "a text, or a .txt, .tsv, .csv, .parquet, .jsonl or .json file"
    add("--prompts", required=True, help=help_text)
    add("--output", required=True, metavar="DIR", help="the folder to write")
    add("--model", default=DEFAULT_BUNDLE, metavar="BUNDLE", help="from `parti export`")
    add("--num_samples", type=int, default=default.num_samples, help="images of each prompt")
    add("--guidance_scale", type=float, default=default.guidance_scale, help="1: no guidance")
    schedule_help = "constant, linear, cosine, or interval:BEGIN:END in fractions of the image"
    add("--guidance_schedule", default=default.guidance_schedule, help=schedule_help)
    over = prompt_settings.ROWS, prompt_settings.TOKENS
    over_help = "what the fractions of the schedule count"
    add("--guidance_over", choices=over, default=default.guidance_over, help=over_help)
    negative_help = "a text to guide away from, in place of the empty caption"
    add("--negative_prompt", default=default.negative_prompt, metavar="TEXT", help=negative_help)
    add("--temperature", type=float, default=default.temperature, help="0: greedy")
    add("--top_k", type=int, default=default.top_k, help="0: all tokens")
    add("--top_p", type=float, default=default.top_p, help="1: all tokens")
    order_help = "several rows of tokens in a step: fewer steps, of a generator with SHIFT = 'row'"
    add(
        "--decode_order", choices=decode_order.ORDERS, default=default.decode_order, help=order_help
    )
    queue_help = "of a wavefront: samples of a prompt drawn one after another in the same rows"
    add("--queue", type=int, default=default.queue, metavar="N", help=queue_help)
    add("--seed", type=int, default=default.seed, help="another seed, other images")
    help_text = f"what ranks them (default: {DEFAULT_RANKING})"
    add("--rerank_by", choices=rendering.RANKINGS, help=help_text)
    add("--format", choices=encoding.FORMATS, default=default.format, help="of the images")
    help_text = f"of webp and jpeg, 1 to 100 (default: {encoding.LOSSY_QUALITY})"
    add("--quality", type=int, metavar="Q", help=help_text)
    add("--keep", type=int, help="best images of each prompt to upsample (default: all)")
    add("--upsample_tile", type=int, default=0, help="upsample in windows this wide (0: whole)")
    per_batch = text_to_image.PROMPTS_PER_BATCH
    add("--prompts_per_batch", type=int, default=per_batch, help="prompts sampled in one call")
    add("--num_prompts", type=int, metavar="N", help="take only the first N prompts")
    add("--strict", action="store_true", help="refuse a prompt file that has a bad row")
    layouts.add_flags(parser)
    multihost.add_flags(parser)
    return parser


def check_flags(flags: argparse.Namespace) -> GenerateSettings:
    """Returns the settings; raises ValueError for a value out of range."""
    for name, least in {"prompts_per_batch": 1, "num_prompts": 1, "upsample_tile": 0}.items():
        value = getattr(flags, name)
        if value is not None and value < least:
            raise ValueError(f"--{name}={value}: give at least {least}")
    layouts.read(flags.layout, flags.mesh_shape, flags.weights)
    fields = [field.name for field in dataclasses.fields(GenerateSettings)]
    given = {name: getattr(flags, name) for name in fields if hasattr(flags, name)}
    values = {name: value for name, value in given.items() if name != "rerank_by"}
    try:
        flags.negative_prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"--negative_prompt is not UTF-8 at character {error.start + 1}; set the terminal to it"
        ) from error
    values["negative_prompt"] = flags.negative_prompt.strip()
    keep = flags.num_samples if flags.keep is None else flags.keep
    return GenerateSettings(**values, num_upsampled=keep)


# The prompts of a file, and its rows that are none.
_Given = tuple[Sequence[prompt_files.Prompt], Sequence[prompt_files.Rejected]]


@dataclasses.dataclass(frozen=True)
class _Generation:
    """What is to be drawn, checked; nothing is loaded yet."""

    prompts: Sequence[prompt_files.Prompt]
    bundle: bundles.Bundle
    settings: GenerateSettings
    stage: publishing.OutputDirectory
    prompts_per_batch: int
    upsample_tile: int
    layout: layouts.Layout | None
    truncated: Collection[str]  # ids of prompts
    rejected: Sequence[prompt_files.Rejected]  # rows of the prompt file
    command: str  # that makes it again

    @property
    def steps(self) -> tuple[Any, ...]:
        """What `build` takes after the batches."""
        sizes = self.prompts_per_batch, self.upsample_tile
        return self.bundle, self.settings, self.stage.address, *sizes, self.layout, self.truncated

    def batches(self) -> list[tuple[prompt_files.Prompt, ...]]:
        """Returns the prompts that are sampled together, which one compiled program can."""
        groups: dict[Hashable, list[prompt_files.Prompt]] = {}
        for prompt in self.prompts:
            groups.setdefault(self.settings.request(prompt).program, []).append(prompt)
        size = self.prompts_per_batch
        return [
            tuple(group[start : start + size])
            for group in groups.values()
            for start in range(0, len(group), size)
        ]

    def publish(self) -> str:
        """Publishes what is drawn, and returns what the user should know."""
        num_prompts, stage = len(self.prompts), self.stage
        settings = generation_settings(self.bundle, self.settings)
        finish(stage.address, self.prompts, settings, stage.inputs)
        num_images = num_prompts * self.settings.num_samples
        counts = {"prompts": num_prompts, "images": num_images}
        rejected_rows = files.join(stage.address, REJECTED_ROWS)
        files.remove(rejected_rows)  # of an attempt that was killed
        if self.rejected:
            counts["rejected"] = len(self.rejected)
            lines = "".join(f"{row.to_json()}\n" for row in self.rejected)
            files.write_bytes(rejected_rows, lines.encode())
        generation_card.write(stage.address, self.command, counts, settings)
        content = manifests.hash_files(stage.address)
        del content[generation_card.FILE_NAME]  # it names places, which are no part of what is made
        stage.publish(
            counts=counts,
            content=content,
            extra={"fingerprints": self.bundle.fingerprints},
        )
        page = files.join(stage.output, gallery.FILE_NAME)
        return f"{num_images} images of {num_prompts} prompts in {stage.output}; open {page}"


def run(argv: Sequence[str]) -> int:
    """Runs `parti generate`."""
    flags, beam_options = options.parse(make_parser(), argv)
    settings = check_flags(flags)
    layout = layouts.read(flags.layout, flags.mesh_shape, flags.weights)
    num_devices = None
    if multihost.asked(flags):
        _check_runner(beam_options)
    else:
        accelerators.check_platforms()
        num_devices = None if layout is None else _num_devices(layout, beam_options)
    prompt_place = [flags.prompts] if prompt_files.is_address(flags.prompts) else []
    options.check_places(beam_options, [*prompt_place, flags.model], [flags.output])
    notes: list[str] = []
    rejected: list[prompt_files.Rejected] = []
    prompts = prompt_files.read_prompts(flags.prompts, notes, None if flags.strict else rejected)
    given = prompts[: flags.num_prompts], rejected
    if multihost.asked(flags):
        multihost.join(flags)
        _run_together(flags, settings, layout or layouts.Layout(), given, notes)
        return 0
    generation = _open(flags, settings, layout, given, notes, num_devices)
    with generation.stage as stage:
        done = finished(stage.address)
        batches = [b for b in generation.batches() if not done.issuperset(p.id for p in b)]
        progress = _start(generation, done, notes)
        if batches:
            steps = generation.steps
            options.run_pipeline(lambda root: build(root, batches, *steps), beam_options, progress)
        text = generation.publish()
        progress.done()
    print(text)
    return 0


def _run_together(
    flags: argparse.Namespace,
    settings: GenerateSettings,
    layout: layouts.Layout,
    given: _Given,
    notes: list[str],
) -> None:
    """Runs the command in processes that have joined; the first one alone has an output."""
    is_first = multihost.is_first()
    with contextlib.ExitStack() as stack:
        with multihost.failing_together():
            accelerators.check_platforms(in_this_process=True)
            generation = _open(flags, settings, layout, given, notes, jax.device_count())
        recorded = generation.stage.settings, generation.stage.inputs
        multihost.check_equal("the prompts, bundle or settings", manifests.digest(recorded))
        done: set[str] = set()
        with multihost.failing_together():
            if is_first:
                stack.enter_context(generation.stage)
                done = finished(generation.stage.address)
        batches = generation.batches()
        is_left = multihost.of_first(
            lambda: [not done.issuperset(prompt.id for prompt in batch) for batch in batches]
        )
        batches = [batch for batch, left in zip(batches, is_left) if left]
        progress = _start(generation, done, notes) if is_first else None
        with multihost.ending_if_one_fails("generate", "generation"):
            _draw_together(batches, generation, progress)
            with multihost.failing_together():
                if progress:
                    text = generation.publish()
                    progress.done()
                    print(text)


def _open(
    flags: argparse.Namespace,
    settings: GenerateSettings,
    layout: layouts.Layout | None,
    given: _Given,
    notes: list[str],
    num_devices: int | None,
) -> _Generation:
    """Checks flags and bundle, and adds notes for the user; raises ValueError, changes nothing."""
    prompts, rejected = given
    bundle = bundles.Bundle.open(flags.model)
    settings = dataclasses.replace(settings, rerank_by=check_ranking(bundle, flags.rerank_by))
    size = min(flags.prompts_per_batch, len(prompts))
    generator = bundle.model("generator")
    generator.num_steps(settings.sampling, settings.num_samples)  # raises
    _check_settings(settings, prompts, generator.grid_size)
    inputs = {
        name: getattr(flags, name)
        for name in ("prompts", "model", "prompts_per_batch", "upsample_tile")
    }
    if layout is not None and num_devices is not None:
        at_once = size * settings.num_samples // settings.queue
        layout.check(generator, at_once, num_devices)
        inputs["layout"] = layout.describe(generator, num_devices)
    stage = publishing.OutputDirectory(
        flags.output,
        kind="generations",
        settings={
            **generation_settings(bundle, settings),
            "prompts_digest": manifests.digest([dataclasses.asdict(prompt) for prompt in prompts]),
        },
        # Another size of batches or windows, or mesh, may round differently; it is refused too.
        inputs=inputs,
        overwrite=flags.overwrite,
        resume=True,
        refuse_other=True,
    )
    truncated = find_truncated(bundle, prompts)
    notes += check(bundle, prompts, truncated, settings.negative_prompt)
    if rejected:
        notes.append(
            f"{len(rejected)} bad rows of the prompt file are left out, see {REJECTED_ROWS} in the "
            f"output; the first is {rejected[0].where}: {rejected[0].reason}"
        )
    if flags.upsample_tile:
        check_tile(bundle, settings, flags.upsample_tile)
    sizes = size, flags.upsample_tile
    command = generation_card.command(make_parser(), flags)
    return _Generation(
        prompts, bundle, settings, stage, *sizes, layout, truncated, rejected, command
    )


def _check_settings(
    settings: GenerateSettings, prompts: Sequence[prompt_files.Prompt], grid_size: int
) -> None:
    """Raises ValueError for a prompt with which an image of this grid cannot be drawn."""
    for prompt in prompts:
        request = settings.request(prompt)
        try:
            sampling.PromptSettings.of([request.settings], grid_size)
        except ValueError as error:
            raise ValueError(f"prompt {prompt.id!r}: {error}") from error


def _start(
    generation: _Generation, done: Collection[str], notes: Sequence[str]
) -> progress_line.Progress:
    """Prints the notes and starts the progress line; `done` are ids of finished prompts."""
    prompts = generation.prompts
    if done:
        notes = [*notes, f"going on: {len(done)} of {len(prompts)} prompts are finished"]
    for note in notes:
        print(note, flush=True)
    left = (len(prompts) - len(done)) * generation.settings.num_samples
    return progress_line.Progress("generate", left, "images")


def _num_devices(layout: layouts.Layout, beam_options: pipeline_options.PipelineOptions) -> int:
    """Returns the devices of a worker, which on other machines the mesh must tell."""
    if runners.is_local(beam_options):
        return accelerators.num_devices()
    if layout.mesh_shape is None or -1 in layout.mesh_shape:
        raise ValueError(
            "--mesh_shape: of workers on other machines the devices are not known here; give the "
            "size of each axis, whose product are the devices of a worker"
        )
    return math.prod(layout.mesh_shape)


def _check_runner(beam_options: pipeline_options.PipelineOptions) -> None:
    """Raises ValueError if processes that join are to be workers too."""
    given = beam_internals.given_flags(beam_options)
    if given:
        raise ValueError(
            f"{given[0]}: processes that join one another draw without Beam; leave the flag out, "
            "or --coordinator_address, --num_processes, --process_id and --distributed"
        )


def find_truncated(
    bundle: bundles.Bundle, prompts: Sequence[prompt_files.Prompt]
) -> frozenset[str]:
    """Returns the ids of the prompts that are longer than what the generator reads."""
    is_truncated = _are_truncated(bundle, [prompt.text for prompt in prompts])
    return frozenset(prompt.id for prompt, is_cut in zip(prompts, is_truncated) if is_cut)


def _num_truncated_negatives(
    bundle: bundles.Bundle, prompts: Sequence[prompt_files.Prompt], negative_prompt: str
) -> int:
    texts = (prompt.settings.get("negative_prompt", negative_prompt) for prompt in prompts)
    given = [text for text in texts if text]
    return sum(_are_truncated(bundle, given)) if given else 0


def _are_truncated(bundle: bundles.Bundle, texts: Sequence[str]) -> list[bool]:
    """Returns which texts are longer than what the generator reads; reads the vocabulary."""
    text_length, vocabulary = bundle.model("generator").text_length, bundle.vocabulary()
    normal = map(captions.normalize_caption, texts)
    return [bool(vocabulary.encode(text, text_length + 1)[-1]) for text in normal]


def check(
    bundle: bundles.Bundle,
    prompts: Sequence[prompt_files.Prompt],
    truncated: Collection[str],
    negative_prompt: str = "",
) -> list[str]:
    """Returns notes for the user before the work starts; loads no parameters.

    The negative prompt is that of prompts without one of their own, `truncated` as
    `find_truncated` returns it.
    """
    notes = []
    if "reranker" not in bundle.parts:
        notes.append("no reranker in the bundle: samples are not scored, rank is sample order")
    if "upsampler" not in bundle.parts:
        notes.append("no upsampler in the bundle: images stay at the tokenizer's size")
    texts = [captions.normalize_caption(prompt.text) for prompt in prompts]
    if empty := texts.count(""):
        notes.append(f"{empty} prompts hold only markup or invisible characters: nothing to draw")
    if equal := prompt_files.count_equal(prompts):
        notes.append(f"{equal} prompts are equal to an earlier one, and so will be their images")
    cut = {
        "prompts": len(truncated),
        "negative prompts": _num_truncated_negatives(bundle, prompts, negative_prompt),
    }
    for what, number in cut.items():
        if number:
            text_length = bundle.model("generator").text_length
            notes.append(f"{number} {what} are longer than {text_length} tokens and are cut")
    return notes


def check_ranking(bundle: bundles.Bundle, rerank_by: str | None) -> str | None:
    """Returns what the samples are ranked by, None without a reranker; loads no parameters.

    Raises:
      ValueError: the bundle cannot rank by what was asked for.
    """
    if "reranker" not in bundle.parts:
        if rerank_by:
            raise ValueError(
                f"--rerank_by={rerank_by}: the bundle has no reranker; leave the flag out"
            )
        return None
    possible = rendering.rankings(bundle.model("reranker"))
    if rerank_by and rerank_by not in possible:
        raise ValueError(
            f"--rerank_by={rerank_by}: the bundle's reranker writes no captions "
            f"(NUM_MULTIMODAL_LAYERS is 0); give --rerank_by={rendering.CONTRAST}"
        )
    return rerank_by or DEFAULT_RANKING


def check_tile(bundle: bundles.Bundle, settings: GenerateSettings, upsample_tile: int) -> None:
    """Raises ValueError unless images can be upsampled in windows; loads no parameters."""
    has_upsampler = "upsampler" in bundle.parts
    if not has_upsampler or not settings.num_upsampled:
        why = "--keep is 0" if has_upsampler else "the bundle has no upsampler"
        raise ValueError(f"--upsample_tile={upsample_tile}: {why}; leave the flag out")
    config, side = bundle.model("upsampler").config, bundle.model("tokenizer").image_size
    try:
        tiling.check_window(config, upsample_tile, side)
    except ValueError as error:
        raise ValueError(f"--upsample_tile={upsample_tile}: {error}") from error


def part_path(directory: str, prompt: prompt_files.Prompt, suffix: str) -> str:
    """Returns a file of a prompt's part: its manifest lines, or its tokens."""
    return files.join(directory, _PARTS, f"{prompt.id}{suffix}")


def finished(directory: str) -> set[str]:
    """Returns the ids of the prompts of which all is written; their tokens are the last."""
    entries = files.list_folder(files.join(directory, _PARTS))
    found = (files.name(entry.path) for entry in entries)
    return {name.removesuffix(_TOKENS) for name in found if name.endswith(_TOKENS)}


def build(
    root: beam.Pipeline,
    batches: Sequence[tuple[prompt_files.Prompt, ...]],  # that are sampled together
    bundle: bundles.Bundle,  # every worker must reach it, and `directory`
    settings: GenerateSettings,
    directory: str,  # exists; images and parts are written into it
    prompts_per_batch: int = text_to_image.PROMPTS_PER_BATCH,  # a smaller batch is padded
    upsample_tile: int = 0,  # side in pixels of the windows that are upsampled; 0 is whole
    layout: layouts.Layout | None = None,  # of the devices of a worker; None takes one of them
    truncated: Collection[str] = (),  # as `find_truncated` returns them
) -> beam.PCollection:
    """Adds the job to a pipeline; gives the ids of the prompts that were written."""
    requests = [(batch, [settings.request(prompt) for prompt in batch]) for batch in batches]
    files.make_dirs(files.join(directory, _PARTS))
    sample, render = _handlers(bundle, settings, prompts_per_batch, upsample_tile, layout)
    write = _WritePrompt(directory, generation_settings(bundle, settings), truncated)
    return (
        root
        | "Batches" >> beam.Create(requests)
        | model_handlers.infer("Sample", sample)
        | "Unbatch" >> beam.FlatMap(_unfinished, directory)
        | model_handlers.infer("Render", render)
        | "Write" >> beam.ParDo(write)
    )


def _handlers(
    bundle: bundles.Bundle,
    settings: GenerateSettings,
    prompts_per_batch: int,
    upsample_tile: int,
    layout: layouts.Layout | None,
) -> tuple[model_handlers.Handler, model_handlers.Handler]:
    """Returns what samples a batch of prompts, and what renders the samples of one; see `build`."""
    source = files.absolute(bundle.path)
    rerank_by = settings.rerank_by or rendering.CONTRAST
    rendered = settings.num_upsampled, upsample_tile, rerank_by
    return (
        model_handlers.sample_handler(source, settings.num_samples, prompts_per_batch, layout),
        model_handlers.render_handler(source, *rendered, layout),
    )


def _draw_together(
    batches: Sequence[tuple[prompt_files.Prompt, ...]],
    generation: _Generation,
    progress: progress_line.Progress | None,
) -> None:
    """Draws batches with one generator on the devices of all processes.

    The first process, which has a progress line, also renders, on its own devices, and writes.
    """
    bundle, settings, directory = generation.bundle, generation.settings, generation.stage.address
    sizes = generation.prompts_per_batch, generation.upsample_tile
    sample, render = _handlers(bundle, settings, *sizes, generation.layout)
    if not batches:
        return
    generator = sample.load_model()
    renderer = None
    if progress:
        renderer = render.load_model()
        files.make_dirs(files.join(directory, _PARTS))
    made_with = generation_settings(bundle, settings)
    write = _WritePrompt(directory, made_with, generation.truncated)
    for batch in batches:
        tokens = sample.predict([settings.request(prompt) for prompt in batch], generator)
        if progress is None:
            continue
        for prompt, example in _unfinished((batch, tokens), directory):
            list(write.process((prompt, render.predict(example, renderer))))
            progress.update(progress.count + settings.num_samples)


def _unfinished(
    element: tuple[tuple[prompt_files.Prompt, ...], np.ndarray], directory: str
) -> Iterator[tuple[prompt_files.Prompt, tuple[str, np.ndarray]]]:
    """Yields (prompt, what to render of it) for the unfinished prompts of a batch."""
    for prompt, tokens in zip(*element, strict=True):
        if not files.exists(part_path(directory, prompt, _TOKENS)):
            yield prompt, (prompt.text, tokens)


class _WritePrompt(beam.DoFn):
    """Writes the images of a prompt and then its part; gives the prompt's id."""

    def __init__(
        self, directory: str, settings: Mapping[str, Any], truncated: Collection[str]
    ) -> None:
        self._directory, self._settings = directory, dict(settings)
        self._truncated = frozenset(truncated)

    def process(self, element: tuple[prompt_files.Prompt, rendering.Samples]) -> Iterator[str]:
        prompt, samples = element
        settings = self._settings | prompt.settings
        folder = f"images/{prompt.id}"
        files.make_dirs(files.join(self._directory, folder))
        ranks = {index: rank for rank, index in enumerate(samples.best_first())}
        named = {"category": prompt.category, "challenge": prompt.challenge}
        metadata = prompt.metadata | {name: text for name, text in named.items() if text}
        lines, tokens = [], []
        for index, image in enumerate(samples.images):
            path = f"{folder}/{index:03d}.{self._settings['format']}"
            generation = records.Generation(
                prompt_id=prompt.id,
                prompt=prompt.text,
                sample_index=index,
                rank=ranks[index],
                score=None if samples.scores is None else float(samples.scores[index]),
                seed=settings["seed"],
                image=path,
                settings=settings,
                metadata=metadata,
                is_truncated=prompt.id in self._truncated,
            )
            files.write_bytes(files.join(self._directory, path), _encode(image, generation))
            lines.append(f"{generation.to_json()}\n")
            row = f"{prompt.id}/{index:03d}", prompt.text, samples.image_tokens[index]
            tokens.append(records.TokenizedPair(*row).to_example())
        files.write_bytes(part_path(self._directory, prompt, _LINES), "".join(lines).encode())
        tfrecords.write(part_path(self._directory, prompt, _TOKENS), tokens)
        options.tick(len(lines))
        yield prompt.id


# Settings that say how many images a run makes, not how one is made: not in its metadata.
_OF_A_RUN = ("num_samples", "num_upsampled")


def _encode(image: np.ndarray, generation: records.Generation) -> bytes:
    """Returns the file of an image, [height, width, 3] uint8, which says how to draw it again."""
    names = ("prompt", "sample_index", "seed", "score")
    metadata = {name: getattr(generation, name) for name in names}
    settings = generation.settings
    made_with = {name: value for name, value in settings.items() if name not in _OF_A_RUN}
    metadata |= {"settings": made_with}
    return encoding.encode(image, settings["format"], settings.get("quality"), metadata)


def finish(
    directory: str,
    prompts: Sequence[prompt_files.Prompt],
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any],
) -> None:
    """Joins the parts to manifest and token shards, in the order of the prompts; adds the gallery.

    All prompts are finished; the settings are `generation_settings`, the inputs those of
    `manifest.json`.
    """
    lines = (part_path(directory, prompt, _LINES) for prompt in prompts)
    files.concatenate(lines, files.join(directory, MANIFEST_LINES))
    per_shard = max(_TOKENS_PER_SHARD // settings["num_samples"], 1)
    starts = range(0, len(prompts), per_shard)
    for index, start in enumerate(starts):
        shard = prompts[start : start + per_shard]
        name = shard_names.shard_name("tokens", index, len(starts))
        tokens = (part_path(directory, prompt, _TOKENS) for prompt in shard)
        record_offsets.join(tokens, files.join(directory, name))
    gallery.write_gallery(directory, _read_lines(directory), inputs=inputs)


def read_generations(directory: files.Path) -> list[records.Generation]:
    """Returns the lines of a finished folder of generations; raises as `manifests.read`.

    ValueError: also of a line that is not one, or lines that are missing.
    """
    counts = manifests.read(directory, "generations")["counts"]
    made = _read_lines(directory)
    if (num := counts.get("images", len(made))) != len(made):
        raise ValueError(
            f"{directory}: {MANIFEST_LINES} has {len(made)} lines, but {num} images were made; put "
            "back what `parti generate` wrote, or run it again with --overwrite"
        )
    return made


def _read_lines(directory: files.Path) -> list[records.Generation]:
    path, made = files.join(directory, MANIFEST_LINES), []
    lines = files.read_bytes(path).removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            made.append(records.Generation.from_json(line.decode()))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return made
