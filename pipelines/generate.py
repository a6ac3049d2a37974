# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti generate`: prompts to images, drawn, reranked and upsampled.

A prompt is the unit of work: its images are written, then, by a rename, its part file. A run that
was interrupted goes on with the prompts that have no part file. Prompts are put into batches in the
order of the file and a batch is always drawn whole, so the result has the same bytes, however often
the run was interrupted. The driver makes manifest, token shards and gallery of the parts.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from parti.data.images import images
from parti.data.storage import records, shard_names, tfrecords
from parti.data.text import captions, prompt_files
from parti.engine.inference import bundles
from parti.models.super_resolution import tiling
from parti.models.text_to_image import sampling
from parti.pipelines.beam import model_handlers, options
from parti.pipelines.html import gallery
from parti.stages import files, flag_parser, manifests, output_directory, progress_line

MANIFEST_LINES = "manifest.jsonl"
DEFAULT_BUNDLE = "runs/demo/bundle"
# One line a sample for each finished prompt; hidden, and removed once all is published.
_PARTS = ".parts"
_TOKENS_PER_SHARD = 16_384


@dataclasses.dataclass(frozen=True)
class GenerateSettings:
    """What decides the images, besides models and prompts.

    Attributes:
      num_samples: images of each prompt.
      guidance_scale: l = l_u + guidance_scale * (l_c - l_u); 1 is no guidance.
      temperature: divides the logits; 0 takes the most likely token.
      top_k: keep so many tokens; 0 keeps all.
      top_p: keep the fewest tokens with this much probability; 1 keeps all.
      seed: another seed, other images.
      num_upsampled: best images of each prompt that are upsampled; the others stay small.
    """

    num_samples: int = 16
    guidance_scale: float = 1.2
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    num_upsampled: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.num_samples <= 1000:
            raise ValueError(f"--num_samples={self.num_samples}: give 1 to 1000")
        if not 0 <= self.num_upsampled <= self.num_samples:
            raise ValueError(
                f"--keep={self.num_upsampled}: give 0 to --num_samples={self.num_samples}"
            )
        try:
            _ = self.sampling
        except ValueError as error:  # it begins with the name, which is the flag's
            raise ValueError(f"--{error}") from error

    @property
    def sampling(self) -> sampling.SamplingSettings:
        """How a token is chosen."""
        return sampling.SamplingSettings(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            guidance_scale=self.guidance_scale,
        )


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What is known so far about the samples of a prompt; the key of RunInference examples.

    Attributes:
      prompt: the prompt.
      image_tokens: [samples, length] int32.
      pictures: one [height, width, 3] uint8 for each sample.
      scores: [samples] float64, or None without a reranker.
    """

    prompt: prompt_files.Prompt
    image_tokens: np.ndarray
    pictures: tuple[np.ndarray, ...] = ()
    scores: np.ndarray | None = None

    @property
    def order(self) -> list[int]:
        """Sample indices, best first; equal scores in sample order."""
        if self.scores is None:
            return list(range(len(self.image_tokens)))
        return [int(index) for index in np.argsort(-self.scores, kind="stable")]


class _WritePrompt(beam.DoFn):
    """Writes the images of a prompt and then its part file; gives the prompt's id."""

    def __init__(self, directory: pathlib.Path, common: Mapping[str, Any], seed: int) -> None:
        self._directory, self._common, self._seed = directory, dict(common), seed

    def process(self, drawn: Drawn) -> Iterator[str]:
        prompt = drawn.prompt
        folder = self._directory / "images" / prompt.id
        folder.mkdir(parents=True, exist_ok=True)
        ranks = {index: rank for rank, index in enumerate(drawn.order)}
        named = {"category": prompt.category, "challenge": prompt.challenge}
        metadata = prompt.metadata | {name: text for name, text in named.items() if text}
        lines = []
        for index, picture in enumerate(drawn.pictures):
            path = folder / f"{index:03d}.png"
            files.write_bytes(path, images.encode_png(picture))
            generation = records.Generation(
                prompt_id=prompt.id,
                prompt=prompt.text,
                sample_index=index,
                rank=ranks[index],
                score=None if drawn.scores is None else float(drawn.scores[index]),
                seed=self._seed,
                image=path.relative_to(self._directory).as_posix(),
                settings=self._common,
                metadata=metadata,
            )
            tokens = drawn.image_tokens[index].tolist()
            lines.append(json.dumps([generation.to_json(), tokens]))
        part = part_path(self._directory, prompt.id)
        files.write_bytes(part, "\n".join(lines).encode("utf-8"))
        options.tick(len(lines))
        yield prompt.id


def part_path(directory: pathlib.Path, prompt_id: str) -> pathlib.Path:
    """Returns the file whose presence says that a prompt is finished."""
    return directory / _PARTS / f"{prompt_id}.jsonl"


def batch_prompts(
    chosen: Sequence[prompt_files.Prompt], size: int, directory: pathlib.Path
) -> list[tuple[prompt_files.Prompt, ...]]:
    """Returns batches in the order of the file that hold a prompt without a part file."""
    batches = [tuple(chosen[start : start + size]) for start in range(0, len(chosen), size)]
    return [
        batch
        for batch in batches
        if not all(part_path(directory, prompt.id).exists() for prompt in batch)
    ]


def build(
    root: beam.Pipeline,
    batches: Sequence[tuple[prompt_files.Prompt, ...]],
    bundle: bundles.Bundle,
    settings: GenerateSettings,
    directory: pathlib.Path,
    prompts_per_batch: int = 4,
    upsample_tile: int = 0,
) -> beam.PCollection:
    """Adds the job to a pipeline.

    Args:
      root: the pipeline.
      batches: prompts that are drawn together, at most `prompts_per_batch` each.
      bundle: the models; every worker must reach it.
      settings: how to draw.
      directory: existing folder to write images and parts into; every worker must reach it.
      prompts_per_batch: to how many prompts a smaller batch is filled up.
      upsample_tile: side of the windows in which images are upsampled, in pixels; 0 is whole.

    Returns:
      The ids of the prompts that were written.
    """
    source = str(bundle.path.resolve())
    (directory / _PARTS).mkdir(exist_ok=True)
    sampler = model_handlers.Sampler(
        source, settings.sampling, settings.num_samples, prompts_per_batch, settings.seed
    )
    drawn = (
        root
        | "Prompts" >> beam.Create(list(batches))
        | "Texts" >> beam.Map(lambda batch: (batch, tuple(prompt.text for prompt in batch)))
        | model_handlers.infer("Sample", sampler)
        | "Unbatch" >> beam.FlatMap(_unbatch, directory)
        | model_handlers.infer("Decode", model_handlers.Decoder(source))
        | "Pictures"
        >> beam.MapTuple(lambda drawn, p: dataclasses.replace(drawn, pictures=tuple(p)))
    )
    if "reranker" in bundle.parts:
        drawn = (
            drawn
            | "To score" >> beam.Map(lambda d: (d, (d.prompt.text, np.stack(d.pictures))))
            | model_handlers.infer("Score", model_handlers.Scorer(source))
            | "Scores" >> beam.MapTuple(lambda drawn, s: dataclasses.replace(drawn, scores=s))
        )
    if "upsampler" in bundle.parts and settings.num_upsampled:
        drawn = (
            drawn
            | "Best" >> beam.Map(_best, settings.num_upsampled)
            | model_handlers.infer("Upsample", model_handlers.Upsampler(source, upsample_tile))
            | "Upsampled" >> beam.MapTuple(_with_upsampled)
        )
    common = generation_settings(bundle, settings)
    return drawn | "Write" >> beam.ParDo(_WritePrompt(directory, common, settings.seed))


def _unbatch(
    element: tuple[tuple[prompt_files.Prompt, ...], np.ndarray], directory: pathlib.Path
) -> Iterator[tuple[Drawn, np.ndarray]]:
    """Yields (prompt with tokens, tokens to decode) for prompts that are not finished."""
    batch, image_tokens = element
    for prompt, tokens in zip(batch, image_tokens, strict=True):
        if not part_path(directory, prompt.id).exists():
            yield Drawn(prompt, tokens), tokens


def _best(drawn: Drawn, count: int) -> tuple[Drawn, np.ndarray]:
    return drawn, np.stack([drawn.pictures[index] for index in drawn.order[:count]])


def _with_upsampled(drawn: Drawn, upsampled: np.ndarray) -> Drawn:
    pictures = list(drawn.pictures)
    for index, picture in zip(drawn.order, upsampled):  # noqa: B905 - only the best were upsampled
        pictures[index] = picture
    return dataclasses.replace(drawn, pictures=tuple(pictures))


def generation_settings(bundle: bundles.Bundle, settings: GenerateSettings) -> dict[str, Any]:
    """Returns what every line of the manifest says about how its image was made."""
    return {**dataclasses.asdict(settings), "fingerprints": bundle.fingerprints}


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
    add("--prompts", required=True, help="a text, or a file: .txt, .tsv (PartiPrompts), .jsonl")
    add("--output", required=True, metavar="DIR", help="the folder to write")
    add("--model", default=DEFAULT_BUNDLE, metavar="BUNDLE", help="from `parti export`")
    add("--num_samples", type=int, default=default.num_samples, help="images of each prompt")
    add("--guidance_scale", type=float, default=default.guidance_scale, help="1: no guidance")
    add("--temperature", type=float, default=default.temperature, help="0: greedy")
    add("--top_k", type=int, default=default.top_k, help="0: all tokens")
    add("--top_p", type=float, default=default.top_p, help="1: all tokens")
    add("--seed", type=int, default=default.seed, help="another seed, other images")
    add("--keep", type=int, help="best images of each prompt to upsample (default: all)")
    add("--upsample_tile", type=int, default=0, help="upsample in windows this wide (0: whole)")
    add("--prompts_per_batch", type=int, default=4, help="prompts drawn in one call")
    add("--num_prompts", type=int, help="take only the first so many prompts")
    return parser


def check_flags(flags: argparse.Namespace) -> GenerateSettings:
    """Returns the settings.

    Raises:
      ValueError: a value out of range.
    """
    for name in ("prompts_per_batch", "num_prompts"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}={value}: give at least 1")
    if flags.upsample_tile < 0:
        raise ValueError(f"--upsample_tile={flags.upsample_tile}: give at least 0")
    fields = [field.name for field in dataclasses.fields(GenerateSettings)]
    values = {name: getattr(flags, name) for name in fields if hasattr(flags, name)}
    keep = flags.num_samples if flags.keep is None else flags.keep
    return GenerateSettings(**values, num_upsampled=keep)


def run(argv: Sequence[str]) -> int:
    """Runs `parti generate`; see `make_parser` for its flags.

    Raises:
      ValueError, FileNotFoundError: bad flags, prompts or bundle.
      options.PipelineError: the job failed; run it again and it goes on.
    """
    flags, beam_options = options.parse(make_parser(), argv)
    settings = check_flags(flags)
    bundle = bundles.Bundle.open(flags.model)
    chosen = prompt_files.read_prompts(flags.prompts)[: flags.num_prompts]
    stage = output_directory.Staging(
        flags.output,
        kind="generations",
        settings={
            **generation_settings(bundle, settings),
            "prompts_digest": manifests.digest([dataclasses.asdict(prompt) for prompt in chosen]),
        },
        # A batch or window of another size may round differently: half a run is not finished by it.
        inputs={
            "prompts": flags.prompts,
            "model": flags.model,
            "prompts_per_batch": flags.prompts_per_batch,
            "upsample_tile": flags.upsample_tile,
        },
        overwrite=flags.overwrite,
        resume=True,
    )
    notes = check(bundle, chosen)
    if flags.upsample_tile:
        check_tile(bundle, settings, flags.upsample_tile)
    with stage:
        prompts_per_batch = min(flags.prompts_per_batch, len(chosen))
        batches = batch_prompts(chosen, prompts_per_batch, stage.path)
        left = sum(not part_path(stage.path, prompt.id).exists() for prompt in chosen)
        if left < len(chosen):
            notes.append(f"going on: {len(chosen) - left} of {len(chosen)} prompts are finished")
        for note in notes:
            print(note, flush=True)
        progress = progress_line.Progress("generate", left * settings.num_samples, "images")
        if batches:
            options.run_pipeline(
                lambda root: build(
                    root,
                    batches,
                    bundle,
                    settings,
                    stage.path,
                    prompts_per_batch,
                    flags.upsample_tile,
                ),
                beam_options,
                progress,
            )
        finish(stage.path, chosen, generation_settings(bundle, settings))
        num_images = len(chosen) * settings.num_samples
        stage.publish(
            counts={"prompts": len(chosen), "images": num_images},
            extra={"fingerprints": bundle.fingerprints},
        )
        progress.done()
    shutil.rmtree(stage.output / _PARTS, ignore_errors=True)
    print(
        f"{num_images} images of {len(chosen)} prompts in {stage.output}; "
        f"open {stage.output / gallery.FILE_NAME}"
    )
    return 0


def check(bundle: bundles.Bundle, chosen: Sequence[prompt_files.Prompt]) -> list[str]:
    """Returns what the user should know before the work starts; loads no parameters.

    Raises:
      ValueError: the bundle's vocabulary or generator configuration is damaged.
    """
    notes = []
    if "reranker" not in bundle.parts:
        notes.append("no reranker in the bundle: samples are not scored, rank is sample order")
    if "upsampler" not in bundle.parts:
        notes.append("no upsampler in the bundle: images stay at the tokenizer's size")
    text_length = bundle.model("generator").text_length
    vocabulary = bundle.vocabulary()
    texts = [captions.normalize_caption(prompt.text) for prompt in chosen]
    cut = sum(vocabulary.encode(text, text_length + 1)[-1] != 0 for text in texts)
    if cut:
        notes.append(f"{cut} prompts are longer than {text_length} tokens and are cut")
    return notes


def check_tile(bundle: bundles.Bundle, settings: GenerateSettings, upsample_tile: int) -> None:
    """Checks that images can be upsampled in windows of this size; loads no parameters.

    Raises:
      ValueError: nothing is upsampled, or the windows are too small.
    """
    if "upsampler" not in bundle.parts or not settings.num_upsampled:
        why = "--keep is 0" if "upsampler" in bundle.parts else "the bundle has no upsampler"
        raise ValueError(f"--upsample_tile={upsample_tile}: {why}; leave the flag out")
    config, side = bundle.model("upsampler").config, bundle.model("tokenizer").image_size
    try:
        tiling.check_window(config, upsample_tile, side)
    except ValueError as error:
        raise ValueError(f"--upsample_tile={upsample_tile}: {error}") from error


def finish(
    directory: pathlib.Path, chosen: Sequence[prompt_files.Prompt], settings: Mapping[str, Any]
) -> None:
    """Makes manifest, token shards and gallery of the parts, in the order of the prompts."""
    generations = []
    with open(directory / MANIFEST_LINES, "w", encoding="utf-8") as file:
        for generation, _ in _read_parts(directory, chosen):
            file.write(generation.to_json() + "\n")
            generations.append(generation)
    per_image = collections.Counter(generation.prompt_id for generation in generations)
    samples = max(per_image.values())
    prompts_per_shard = max(_TOKENS_PER_SHARD // samples, 1)
    starts = range(0, len(chosen), prompts_per_shard)
    for index, start in enumerate(starts):
        shard = chosen[start : start + prompts_per_shard]
        name = shard_names.shard_name("tokens", index, len(starts))
        tfrecords.write(directory / name, _token_records(directory, shard))
    gallery.write_gallery(directory, generations, settings=settings)


def _token_records(
    directory: pathlib.Path, chosen: Sequence[prompt_files.Prompt]
) -> Iterator[bytes]:
    for generation, tokens in _read_parts(directory, chosen):
        key = f"{generation.prompt_id}/{generation.sample_index:03d}"
        yield records.TokenizedPair(key, generation.prompt, tokens).to_example()


def _read_parts(
    directory: pathlib.Path, chosen: Sequence[prompt_files.Prompt]
) -> Iterator[tuple[records.Generation, np.ndarray]]:
    """Yields every sample of every prompt, from the part files."""
    for prompt in chosen:
        text = part_path(directory, prompt.id).read_text(encoding="utf-8")
        for line in text.split("\n"):
            generation, tokens = json.loads(line)
            yield records.Generation.from_json(generation), np.array(tokens, np.int32)


def read_generations(directory: str | pathlib.Path) -> list[records.Generation]:
    """Returns the lines of a finished folder of generations.

    Raises:
      FileNotFoundError: no such folder, or it was not finished.
      ValueError: it holds something else.
    """
    manifests.read(directory, "generations")
    path = pathlib.Path(directory, MANIFEST_LINES)
    with open(path, encoding="utf-8") as file:
        return [records.Generation.from_json(line) for line in file]
