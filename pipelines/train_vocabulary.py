# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti vocab`: the captions of the training pairs to a SentencePiece model.

A Beam job gathers the captions of the train split (`text`, and `captions` in the metadata), draws a
bounded sample by hash, and writes it sorted, so the model does not depend on workers or order.
SentencePiece then learns from that sample on this machine.
"""

import argparse
import glob
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from parti.data import captions, records, vocabularies
from parti.engine import flags as flags_lib
from parti.engine import manifests
from parti.engine import progress as progress_lib
from parti.pipelines import options, readers, staging, writers

MODEL_NAME = "vocabulary.model"
TEXT_LENGTH = 128  # tokens of a caption that the text encoder sees
_PREFIX = ".captions"
_FACTS = ".facts.json"
_MEASURED = 20_000  # captions that the report measures
_NUM_EXAMPLES = 8
_PERCENTILES = (50, 90, 99, 100)


def find_sources(patterns: Sequence[str]) -> list[readers.Source]:
    """Returns the files to read: of a folder made by `parti clean`, the train split only.

    Raises:
      FileNotFoundError: no such files, or an unfinished folder.
      ValueError: unknown format.
    """
    sources = []
    for pattern in patterns:
        unfinished = os.path.isdir(pattern.rstrip("/") + manifests.UNFINISHED_SUFFIX)
        if os.path.exists(os.path.join(pattern, manifests.FILE_NAME)) or (
            unfinished and not os.path.exists(pattern)
        ):
            manifests.read(pattern, "pairs")
        sources += readers.find_sources([pattern])
    names = {s: os.path.basename(s.paths[0]) for s in sources}
    return sorted(
        {s for s in sources if not names[s].startswith("validation-")}, key=lambda s: s.paths
    )


def pair_captions(pair: records.ImageTextPair) -> Iterator[tuple[str, str]]:
    """Yields (key, caption) for the distinct non-empty captions of a pair, in normal form."""
    more = pair.metadata.get(records.CAPTIONS, [])
    texts = [pair.text, *(more if isinstance(more, list) else [])]
    normal = [captions.normalize_caption(t) for t in texts if isinstance(t, str)]
    for index, text in enumerate(dict.fromkeys(filter(None, normal))):
        yield f"{pair.key}#{index}", text


def build(
    root: beam.Pipeline,
    sources: Sequence[readers.Source],
    max_sentences: int,
    num_shards: int,
    directory: pathlib.Path,
) -> beam.PCollection:
    """Adds the job: writes a sample of captions (a JSON string a line) and their number.

    Returns:
      The sampled (key, caption).
    """
    found = (root | readers.ReadPairs(sources)).pairs | "Captions" >> beam.FlatMap(pair_captions)
    total = found | "Count" >> beam.combiners.Count.Globally()

    def chosen(item: tuple[str, str], count: int) -> bool:
        return writers.hash_fraction(item[0], "vocabulary") * count < max_sentences

    sample = found | "Sample" >> beam.Filter(chosen, beam.pvalue.AsSingleton(total))
    written = (
        sample
        | "Line" >> beam.Map(lambda item: (item[0], json.dumps(item[1]).encode()))
        | writers.WriteShards(directory, _PREFIX, num_shards, ".jsonl", unique=False)
    )
    counts = (
        total | "Total" >> beam.Map(lambda count: ["captions", count]),
        written.files | "File" >> beam.Map(lambda file: [file["name"], file["count"]]),
    )
    counts | beam.Flatten() | writers.CollectJson(directory / _FACTS)
    return sample


def read_sample(directory: pathlib.Path) -> Iterator[str]:
    """Yields the captions that the job wrote, in the same order always."""
    for path in sorted(directory.glob(f"{_PREFIX}-*.jsonl")):
        with open(path, encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def measure(model_path: pathlib.Path, sentences: Sequence[str], text_length: int) -> dict[str, Any]:
    """Returns how well a vocabulary fits captions.

    Args:
      model_path: a SentencePiece model.
      sentences: captions; at least one.
      text_length: tokens that the encoder sees, with the end mark.

    Returns:
      pieces_per_word, pieces_per_character, unknown_rate and byte_rate (shares of all pieces),
      length_percentiles ({"50": tokens with the end mark, ...}), over_length_rate (share of
      captions cut at `text_length`), examples.
    """
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(model_path))
    ids = [model.encode(text) for text in sentences]
    flat = np.concatenate([np.asarray(row, np.int64) for row in ids])
    size = model.get_piece_size()
    is_byte = np.array([model.is_byte(i) for i in range(size)])
    lengths = np.array([len(row) + 1 for row in ids])
    num_words = sum(len(text.split()) for text in sentences)
    points = np.percentile(lengths, _PERCENTILES, method="higher")
    step = max(1, len(sentences) // _NUM_EXAMPLES)
    return {
        "vocab_size": size,
        "measured_captions": len(sentences),
        "pieces_per_word": round(len(flat) / num_words, 4),
        "pieces_per_character": round(len(flat) / sum(map(len, sentences)), 4),
        "unknown_rate": round(float(np.mean(flat == model.unk_id())), 6),
        "byte_rate": round(float(np.mean(is_byte[flat])), 6),
        "text_length": text_length,
        "length_percentiles": {
            str(name): int(value) for name, value in zip(_PERCENTILES, points, strict=True)
        },
        "over_length_rate": round(float(np.mean(lengths > text_length)), 6),
        "examples": [
            {"text": text, "pieces": model.encode(text, out_type=str)}
            for text in sentences[::step][:_NUM_EXAMPLES]
        ],
    }


def make_parser() -> flags_lib.Parser:
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
    add("--max_sentences", type=int, default=2_000_000, help="captions to learn from at most")
    return parser


def check_flags(flags: argparse.Namespace) -> dict[str, int]:
    """Returns the settings.

    Raises:
      ValueError: a value out of range.
    """
    settings = {"vocab_size": flags.vocab_size, "max_sentences": flags.max_sentences}
    for name, value in settings.items():
        if value < 1:
            raise ValueError(f"--{name}={value}: give a positive number")
    return settings


def run(argv: Sequence[str]) -> int:
    """Runs `parti vocab`; returns the exit code."""
    flags, beam_options = options.parse(make_parser(), argv)
    settings = check_flags(flags)
    sources = find_sources(flags.input)
    where = " ".join(flags.input)
    num_bytes = sum(source.num_bytes for source in sources)
    with staging.Staging(
        flags.output,
        "vocabulary",
        settings=settings,
        inputs={"input": list(flags.input)},
        overwrite=flags.overwrite,
    ) as stage:
        progress = progress_lib.Progress("vocab", unit="pairs")
        num_shards = max(1, flags.max_sentences // 100_000)
        options.run_pipeline(
            lambda root: build(root, sources, flags.max_sentences, num_shards, stage.path),
            beam_options,
            progress,
            total_weight=num_bytes,
        )
        facts = dict(writers.read_collected(stage.path / _FACTS))
        total = facts.pop("captions")
        used = sum(facts.values())
        if not used:
            raise ValueError(f"no captions in {where}; `parti clean` makes pairs with captions")
        progress.done(f"{used:,} of {total:,} captions; learning the vocabulary")
        size = vocabularies.train_sentencepiece(
            read_sample(stage.path),
            stage.path / MODEL_NAME,
            flags.vocab_size,
            max_sentences=flags.max_sentences + 1,
        )
        report = _write_report(stage.path, total, used)
        for path in glob.glob(os.path.join(stage.path, f"{_PREFIX}-*")):
            os.unlink(path)
        fingerprint = vocabularies.TextTokenizer(stage.path / MODEL_NAME).fingerprint
        stage.publish(
            counts={"captions": total, "used": used, "pieces": size},
            extra={"vocabulary_fingerprint": fingerprint},
        )
    print(_summary(report, flags.output))
    return 0


def _write_report(directory: pathlib.Path, total: int, used: int) -> dict[str, Any]:
    """Writes and returns report.json."""
    step = max(1, used // _MEASURED)
    sentences = [text for i, text in enumerate(read_sample(directory)) if i % step == 0]
    report = measure(directory / MODEL_NAME, sentences[:_MEASURED], TEXT_LENGTH)
    report |= {"captions": total, "used_captions": used}
    text = json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False)
    (directory / "report.json").write_text(text + "\n", encoding="utf-8")
    return report


def _summary(report: dict[str, Any], output: str) -> str:
    lengths = report["length_percentiles"]
    return "\n".join(
        [
            f"{report['vocab_size']:,} pieces from {report['used_captions']:,} captions: "
            f"{report['pieces_per_word']:.2f} pieces a word, "
            f"{report['byte_rate']:.2%} spelled in bytes",
            f"a caption has {lengths['50']} tokens (median), {lengths['99']} (99 in 100), "
            f"{lengths['100']} at most; {report['over_length_rate']:.1%} are over {TEXT_LENGTH}",
            f"wrote {output}/{MODEL_NAME}",
        ]
    )
