# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti vocab`: the captions of the training pairs to a SentencePiece model.

A Beam job counts equal captions of the train split (`text`, and `captions` in the metadata) and
draws a bounded sample by hash, which does not depend on workers or order (`vocabulary.sampling`).
SentencePiece then learns from that sample on this machine. It does not learn from the captions of
the validation split; the report says how well the vocabulary fits them.
"""

import argparse
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

from parti.data.storage import shard_names
from parti.data.text import vocabularies
from parti.pipelines import readers
from parti.pipelines.beam import options, sharded_writers
from parti.pipelines.vocabulary import report as vocabulary_report
from parti.pipelines.vocabulary import sampling as caption_sampling
from parti.pipelines.vocabulary import statistics as vocabulary_statistics
from parti.stages import files, flag_parser, manifests, progress_line, publishing

MODEL_NAME = "vocabulary.model"
TEXT_LENGTH = 128  # tokens of a caption that the text encoder sees
_TRAIN, _HELD_OUT = "train", "held-out"
_COUNTS = "counts.json"
_MAX_HELD_OUT = 20_000
_ROWS_PER_SHARD = 100_000
# Below this the likeliest language of a caption is often the wrong one.
_MIN_LANGUAGE_CONFIDENCE = 0.5


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the bytes of the output."""

    sentencepiece: vocabularies.SentencePieceSettings
    max_captions: int = 2_000_000  # distinct ones, at most
    frequency_power: float = 0.5  # a caption that occurs n times counts n ** frequency_power
    frequency_cap: int = 0  # occurrences that count at most; 0 for all

    def __post_init__(self) -> None:
        if self.max_captions < 1:
            raise ValueError(f"max_captions={self.max_captions}: give a positive number.")
        if not 0 <= self.frequency_power <= 1:
            raise ValueError(f"frequency_power={self.frequency_power}: give a value from 0 to 1.")
        if self.frequency_cap < 0:
            raise ValueError(f"frequency_cap={self.frequency_cap}: give 0 (none) or more.")

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as one flat JSON object."""
        values = dataclasses.asdict(self)
        return {**values.pop("sentencepiece"), **values}


def find_sources(patterns: Sequence[str]) -> tuple[list[readers.Source], list[readers.Source]]:
    """Returns the files to learn from, and those of a validation split.

    Raises:
      FileNotFoundError: no such files, or an unfinished folder.
      ValueError: unknown format, or a table.
    """
    for pattern in patterns:
        unfinished = files.is_dir(pattern.rstrip("/") + manifests.UNFINISHED_SUFFIX)
        if files.exists(files.join(pattern, manifests.FILE_NAME)) or (
            unfinished and not files.is_dir(pattern)
        ):
            manifests.read(pattern, "pairs")
    train: list[readers.Source] = []
    held_out: list[readers.Source] = []
    for source in readers.find_sources(patterns):
        if readers.FORMATS[source.format].is_table:
            raise ValueError(
                f"{source.paths[0]}: a table, whose pictures may have to be fetched; make pairs of "
                "it first, with `parti clean`"
            )
        (held_out if source.name.startswith("validation-") else train).append(source)
    return train, held_out


def build(
    root: beam.Pipeline,
    train: Sequence[readers.Source],
    held_out: Sequence[readers.Source],
    settings: Settings,
    directory: str,
) -> None:
    """Adds the job: writes samples of both kinds of captions, and how many there are to learn from.

    Every worker must reach `directory`.
    """
    sample = caption_sampling.SampleCaptions(
        settings.max_captions, settings.frequency_power, settings.frequency_cap
    )
    texts, written = _write_sample(root, train, sample, _TRAIN, directory)
    if held_out:
        sample = caption_sampling.SampleCaptions(_MAX_HELD_OUT, power=1.0)
        _write_sample(root, held_out, sample, _HELD_OUT, directory)
    counts = (
        texts
        | "Count captions" >> beam.combiners.Count.Globally()
        | "Captions" >> beam.Map(lambda count: ["captions", count]),
        written
        | "Count lines" >> beam.Map(lambda file: file["count"])
        | "Sum" >> beam.CombineGlobally(sum)
        | "Used" >> beam.Map(lambda count: ["used", count]),
    )
    counts | beam.Flatten() | sharded_writers.CollectJson(files.join(directory, _COUNTS))


def _write_sample(
    root: beam.Pipeline,
    sources: Sequence[readers.Source],
    sample: caption_sampling.SampleCaptions,
    prefix: str,
    directory: str,
) -> tuple[beam.PCollection, beam.PCollection]:
    """Writes the sample of some sources; returns all captions, and the files written."""
    texts = (root | f"Read {prefix}" >> readers.ReadPairs(sources)).pairs | (
        f"Captions of {prefix}" >> beam.FlatMap(caption_sampling.pair_captions)
    )
    num_shards = -(-sample.max_rows // _ROWS_PER_SHARD)
    written = (
        texts
        | f"Sample {prefix}" >> sample
        | f"Languages of {prefix}" >> beam.Map(_with_language)
        | f"Lines of {prefix}" >> beam.Map(lambda row: (row.random_key(), row.to_json()))
        | f"Write {prefix}" >> sharded_writers.WriteLines(directory, prefix, num_shards)
    )
    return texts, written


def _with_language(row: caption_sampling.Row) -> caption_sampling.Row:
    from parti.data.text import languages  # loads its model

    code, confidence = languages.identify(row.text)
    is_clear = confidence >= _MIN_LANGUAGE_CONFIDENCE and code != languages.UNKNOWN
    return row._replace(language=code if is_clear else "")


def read_sample(directory: str, prefix: str = _TRAIN) -> Iterator[caption_sampling.Row]:
    """Yields the rows that the job wrote, always in the same random order."""
    for path in shard_names.list_shards(directory, prefix, ".jsonl"):
        with files.open(path, "r") as file:
            for line in file:
                yield caption_sampling.Row.from_json(line)


def learn(directory: str, model_path: str, settings: Settings) -> tuple[int, str, dict[str, Any]]:
    """Trains on the sample that `build` wrote to a folder; measures how well the vocabulary fits.

    Returns (how many pieces there are, the model's fingerprint, the content of report.json).

    Raises:
      ValueError: the vocabulary is too small for its symbols and characters.
    """
    import sentencepiece

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, MODEL_NAME)
        size = vocabularies.train_sentencepiece(
            ((row.text, row.times) for row in read_sample(directory)), path, settings.sentencepiece
        )
        files.write_bytes(model_path, path.read_bytes())
        fingerprint = vocabularies.TextTokenizer(path).fingerprint
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    num_symbols = len(settings.sentencepiece.all_symbols)
    samples = read_sample(directory), read_sample(directory, _HELD_OUT)
    measured = vocabulary_statistics.report(model, num_symbols, *samples, TEXT_LENGTH)
    return size, fingerprint, measured


def make_parser() -> flag_parser.Parser:
    """Returns the command's flags."""
    parser = options.make_parser(
        "parti vocab",
        "Trains a SentencePiece vocabulary on the captions of the training pairs.",
        "parti vocab --input pairs --output vocabulary --vocab_size=16000",
    )
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="PATTERN", help="pairs: folders or files")
    add("--output", required=True, metavar="DIR", help="the folder to write")
    add("--vocab_size", type=int, default=16_000, help="pieces at most")
    add("--model_type", default="bpe", metavar="TYPE", help="bpe or unigram")
    help_text = "share of the characters that get a piece, in (0, 1]"
    add("--character_coverage", type=float, default=0.9995, metavar="SHARE", help=help_text)
    help_text = "a character without a piece is unknown, instead of spelled in bytes"
    add("--no_byte_fallback", action="store_true", help=help_text)
    help_text = "pieces for training objectives besides <mask>: '<sep>' ..."
    add("--symbols", nargs="*", metavar="SYMBOL", help=help_text)
    add("--num_sentinels", type=int, default=0, help="symbols <extra_id_0> ... for span corruption")
    add("--max_captions", type=int, default=2_000_000, help="distinct captions to learn from")
    help_text = "a caption that occurs n times counts n ** POWER: 0 once, 1 every time"
    add("--frequency_power", type=float, default=0.5, metavar="POWER", help=help_text)
    add("--frequency_cap", type=int, default=0, help="occurrences that count at most; 0 for all")
    return parser


def check_flags(flags: argparse.Namespace) -> Settings:
    """Returns the settings; raises ValueError for a value out of range."""
    own = {field.name for field in dataclasses.fields(Settings)} - {"sentencepiece"}
    model = {field.name for field in dataclasses.fields(vocabularies.SentencePieceSettings)}
    symbols = tuple(flags.symbols or ())
    values = vars(flags) | {"symbols": symbols, "byte_fallback": not flags.no_byte_fallback}
    try:
        return Settings(
            vocabularies.SentencePieceSettings(**{name: values[name] for name in model}),
            **{name: values[name] for name in own},
        )
    except ValueError as error:
        raise ValueError(f"--{error}") from error


def run(argv: Sequence[str]) -> int:
    """Runs `parti vocab`."""
    flags, beam_options = options.parse(make_parser(), argv)
    settings = check_flags(flags)
    options.check_places(beam_options, flags.input, [flags.output])
    train, held_out = find_sources(flags.input)
    with publishing.OutputDirectory(
        flags.output,
        "vocabulary",
        settings=settings.to_dict(),
        inputs={"input": list(flags.input)},
        overwrite=flags.overwrite,
    ) as stage:
        files.make_dirs(stage.scratch)
        progress = progress_line.Progress("vocab", unit="pairs")
        options.run_pipeline(
            lambda root: build(root, train, held_out, settings, stage.scratch),
            beam_options,
            progress,
            total_weight=sum(source.num_bytes for source in train + held_out),
        )
        counts = dict(sharded_writers.read_collected(files.join(stage.scratch, _COUNTS)))
        total, used = counts["captions"], counts["used"]
        if not used:
            where = " ".join(flags.input)
            raise ValueError(f"no captions in {where}; `parti clean` makes pairs with captions")
        progress.done(f"{used:,} different captions of {total:,}; learning the vocabulary")
        model_path = files.join(stage.address, MODEL_NAME)
        size, fingerprint, report = learn(stage.scratch, model_path, settings)
        report = {"captions": total, "used_captions": used, "settings": settings.to_dict()} | report
        vocabulary_report.write(stage.address, report)
        stage.publish(
            counts={"captions": total, "used": used, "pieces": size},
            extra={"vocabulary_fingerprint": fingerprint},
        )
    print(vocabulary_report.summary(report))
    print(f"wrote {files.join(flags.output, MODEL_NAME)} and report.html")
    return 0
