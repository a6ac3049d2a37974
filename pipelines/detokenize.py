# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti detokenize`: image tokens back to images, to see what a text-to-image model sees.

It reads what `parti tokenize` or `parti generate` wrote. A resumed run skips the shards that are
finished, and the bytes do not depend on workers or runner.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from parti.data.images import images
from parti.data.storage import records, shard_names, tfrecords
from parti.engine.hardware import accelerators
from parti.engine.inference import bundles, layouts, loaded_models, rendering
from parti.pipelines.beam import model_handlers, options
from parti.pipelines.html import contact_sheet
from parti.pipelines.tokens import batches as token_batches
from parti.pipelines.tokens import resumable_shards
from parti.stages import files, flag_parser, manifests, progress_line, publishing

IMAGES = "images"
MANIFEST_LINES = "manifest.jsonl"
# Kind of a folder with token shards -> what their names begin with.
_PREFIXES = {"tokens": records.SPLITS, "generations": ("tokens",)}
_LINES = f"{publishing.SCRATCH}/lines"  # the lines of each shard, until all is published
_MAX_NAME = 80  # characters of a key in a file name


@dataclasses.dataclass(frozen=True)
class TokenShard:
    """A token shard to read."""

    path: str  # of the TFRecord file of `TokenizedPair`
    num_rows: int | None = None  # that are read; None reads all

    @property
    def name(self) -> str:
        """The file's name."""
        return files.name(self.path)


def _read_tokens(
    shard: TokenShard, num_tokens: int, codebook_size: int
) -> Iterator[tuple[token_batches.Batch, np.ndarray]]:
    """Yields (Batch, image tokens [batch, length] int32) of a shard, in order.

    Raises:
      ValueError: a row that the tokenizer cannot have made.
    """
    rows = itertools.islice(tfrecords.read(shard.path), shard.num_rows)
    every = map(records.TokenizedPair.from_example, rows)
    for index in itertools.count():
        pairs = tuple(itertools.islice(every, rendering.IMAGE_BATCH))
        if not pairs:
            return
        for pair in pairs:
            tokens = pair.image_tokens
            if len(tokens) != num_tokens or tokens.max() >= codebook_size:
                raise ValueError(
                    f"{shard.path}: {pair.key!r} has {len(tokens)} tokens up to "
                    f"{max(tokens, default=0)}; the tokenizer makes {num_tokens} under "
                    f"{codebook_size}; write the shard again"
                )
        tokens = np.stack([pair.image_tokens for pair in pairs])
        yield token_batches.Batch(shard.name, index, pairs), tokens


def _write_images(
    element: tuple[token_batches.Batch, np.ndarray], directory: str
) -> tuple[str, tuple[int, int]]:
    """Writes the images of a batch and their lines; returns (shard, (index, count))."""
    batch, pixels = element
    lines = []
    first = batch.index * rendering.IMAGE_BATCH
    files.make_dirs(files.join(directory, _image_folder(batch.shard)))
    for row, (pair, image) in enumerate(zip(batch.pairs, pixels, strict=True), start=first):
        path = image_path(batch.shard, row, pair.key)
        files.write_bytes(files.join(directory, path), images.encode_png(image))
        line = {"key": pair.key, "text": pair.text, "image": path}
        lines.append(f"{json.dumps(line, ensure_ascii=False)}\n".encode())
    resumable_shards.write_piece(directory, _LINES, batch.shard, batch.index, lines)
    options.tick(len(lines))
    return batch.shard, (batch.index, len(lines))


def image_path(shard: str, row: int, key: str) -> str:
    """Returns the path of an image, relative to the output.

    The row makes it unique; of the key, which may hold anything, only plain characters are kept.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", key)[:_MAX_NAME].strip("-.")
    return f"{_image_folder(shard)}/{'-'.join(filter(None, (f'{row:06d}', name)))}.png"


def _image_folder(shard: str) -> str:
    return f"{IMAGES}/{shard.removesuffix('.tfrecord')}"


def build(
    root: beam.Pipeline,
    shards: Sequence[TokenShard],
    source: str,
    facts: dict[str, int],
    directory: str,
    data_parallel: bool = False,  # over the devices of a worker
) -> beam.PCollection:
    """Adds the job for shards with different names; see `resumable_shards.gather`.

    Every worker must reach `source`, the tokenizer's training or a bundle, and the directory.
    `facts` are `num_tokens` and `codebook_size` of the tokenizer.
    """
    layout = layouts.Layout() if data_parallel else None
    pieces = (
        root
        | "Shards" >> beam.Create(list(shards))
        | "Read" >> beam.FlatMap(_read_tokens, **facts)
        | model_handlers.infer("Decode", model_handlers.decode_handler(source, layout))
        | "Write" >> beam.Map(_write_images, directory)
    )
    names = [shard.name for shard in shards]
    return resumable_shards.gather(root, directory, names, (pieces,), (_LINES,))


def make_parser() -> flag_parser.Parser:
    """Returns the command's flags."""
    parser = options.make_parser(
        "parti detokenize",
        "Turns image tokens back into pictures, and shows them on a page.",
        "parti detokenize --input tokens --output pictures --split=validation --limit=100",
    )
    add = parser.add_argument
    add("--input", required=True, metavar="DIR", help="of `parti tokenize` or `parti generate`")
    add("--output", required=True, metavar="DIR", help="the folder to write")
    help_text = "the tokenizer's training, or a bundle (default: the one that made the tokens)"
    add("--model", metavar="DIR", help=help_text)
    add("--split", choices=records.SPLITS, help="one split of the tokens (default: both)")
    add("--limit", type=int, metavar="N", help="only the first N pictures of each split")
    layouts.add_data_parallel(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    """Runs `parti detokenize`."""
    flags, beam_options = options.parse(make_parser(), argv)
    if flags.limit is not None and flags.limit < 1:
        raise ValueError(f"--limit={flags.limit}: give at least 1, or leave it out for all")
    given = filter(None, [flags.input, flags.model])
    accelerators.check_platforms()
    options.check_places(beam_options, [*given], [flags.output])
    path = files.join(flags.input, manifests.FILE_NAME)
    found = manifests.read_json(path, "make the output again").get("kind")
    tokens = manifests.read(flags.input, found if found in _PREFIXES else "tokens")
    shards = _find_shards(flags.input, tokens["kind"], flags.split, flags.limit)
    source = flags.model or tokens["inputs"].get("model", "")
    if not flags.model and not (source and files.is_dir(source)):
        raise FileNotFoundError(
            f"{flags.input}: made with {source or 'an unnamed model'}, which is not there; "
            "give the tokenizer with --model"
        )
    tokenizer = bundles.load_part(source, "tokenizer")
    _check_tokenizer(flags.input, tokens, source, tokenizer)
    model = tokenizer.model
    facts = {"num_tokens": model.grid_size**2, "codebook_size": model.codebook_size}
    stage = publishing.OutputDirectory(
        flags.output,
        kind="pictures",
        settings={
            "tokens_fingerprint": tokens["fingerprint"],
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "split": flags.split or "",
            "limit": flags.limit or 0,
        },
        inputs={
            "tokens": flags.input,
            "model": source,
            **({"data_parallel": True} if flags.data_parallel else {}),
        },
        overwrite=flags.overwrite,
        resume=True,
    )
    del tokenizer  # The workers load their own.
    with stage:
        done = {report["name"] for report in resumable_shards.reports(stage.address)}
        todo = [shard for shard in shards if shard.name not in done]
        known = [shard.num_rows for shard in todo if shard.num_rows is not None]
        if len(known) == len(todo):
            left = sum(known)
        else:  # about
            total = sum(tokens["counts"].get(name, 0) for name in (*records.SPLITS, "images"))
            left = total * len(todo) // len(shards)
        progress = progress_line.Progress("detokenize", left, "images")
        if todo:
            options.run_pipeline(
                lambda root: build(root, todo, source, facts, stage.address, flags.data_parallel),
                beam_options,
                progress,
            )
        count = finish(stage.address, shards, flags.input)
        stage.publish({"images": count})
        progress.done()
    page = files.join(stage.output, contact_sheet.FILE_NAME)
    print(f"{count} pictures in {stage.output}; open {page}")
    return 0


def _find_shards(
    directory: str, kind: str, split: str | None, limit: int | None
) -> list[TokenShard]:
    """Returns what is to be read of a folder of "tokens" or "generations", in order.

    `limit` is the number of rows of each split; None is all.

    Raises:
      FileNotFoundError: there are no shards.
      ValueError: a split of generations, which have none.
    """
    prefixes = _PREFIXES[kind]
    if split and split not in prefixes:
        raise ValueError(f"--split={split}: {directory} holds {kind}, which have no splits")
    found = [TokenShard(path) for path in shard_names.expand_pattern(directory, "token shards")]
    shards: list[TokenShard] = []
    for prefix in (split,) if split else prefixes:
        left = limit
        for shard in (one for one in found if one.name.startswith(f"{prefix}-")):
            if left is None:
                shards.append(shard)
            elif left:
                count = sum(1 for _ in itertools.islice(tfrecords.read(shard.path), left))
                shards.append(TokenShard(shard.path, count))
                left -= count
    if not shards:
        raise FileNotFoundError(f"{directory}: no token shards of {split or ' or '.join(prefixes)}")
    return shards


def _check_tokenizer(
    directory: str, tokens: dict[str, Any], source: str, tokenizer: loaded_models.LoadedModel
) -> None:
    """Raises ValueError unless tokens are of a tokenizer's encoder and codebook."""
    if tokens["kind"] == "tokens":
        theirs = tokens["tokenizer_fingerprint"]
    else:
        prints = tokens["fingerprints"]
        theirs = prints.get("encoder", prints["tokenizer"])
    if not tokenizer.made_tokens_of(theirs):
        raise ValueError(
            f"{directory}: tokens of the encoder {theirs[:12]}, but {source} has "
            f"{tokenizer.encoder_fingerprint[:12]}; give their own tokenizer with --model"
        )


def finish(directory: str, shards: Sequence[TokenShard], source: str) -> int:
    """Writes the lines of all shards and the page; returns the number of images."""
    count = 0
    shown: dict[str, list[contact_sheet.Tile]] = {}
    paths = [files.join(directory, _LINES, shard.name) for shard in shards]
    files.concatenate(paths, files.join(directory, MANIFEST_LINES))
    for shard, path in zip(shards, paths, strict=True):
        section = shown.setdefault(shard.name.split("-")[0], [])
        with files.open(path, "r") as lines:
            for line in lines:
                count += 1
                if len(section) < contact_sheet.MAX_IMAGES:
                    section.append(contact_sheet.Tile(**json.loads(line)))
    if not count:
        raise ValueError(f"{source}: the token shards hold no rows")
    contact_sheet.write(directory, shown, count, "Pictures from image tokens")
    return count
