# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti infer`: a score or prediction of each example of a split, in files.

`inferences.jsonl` has a line for each example, in the order of the data: `index`, `key` and `text`
of its record if it is one, `set` if there are several data sets, and `score` or `prediction`. What
a text-to-image model predicts, image tokens, is also written as shards of `TokenizedPair`, as
`parti tokenize` does: `parti detokenize` makes pictures of them. Pictures of prompts, guided,
ranked and reproducible whatever the batch, are `parti generate`'s.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from parti.data.storage import record_offsets, records, shard_names
from parti.engine import train
from parti.engine.config import provenance
from parti.engine.distributed import multihost
from parti.engine.experiment import checkpoint_use, experiments
from parti.engine.input import datasets
from parti.engine.loop import setup
from parti.engine.step import split_batches, train_state
from parti.models import base
from parti.stages import files, publishing

LINES = "inferences.jsonl"
USAGE = """\
usage: parti infer --gin_file=FILE [--gin_file=FILE ...] --gin.CHECKPOINT_PATH="'DIR'"
                   --gin.INFER_OUTPUT_DIR="'DIR'" [--gin.NAME=VALUE ...] [--overwrite]

Scores the examples of a split with a checkpoint, or predicts, and writes inferences.jsonl.

  --gin_file=FILE       the experiment; t5x_configs/... resolves from any folder
  CHECKPOINT_PATH       a training, a checkpoint_<N> of either engine, or a bundle's part
  INFER_MODE            'score' (default) or 'predict', which draws with RANDOM_SEED
  SPLIT, NUM_EXAMPLES   'validation' and None, which is all of it, by default
  --overwrite           replaces an earlier output

example: parti infer --gin_file=t5x_configs/experiments/text_to_image_tiny.gin \\
             --gin.CHECKPOINT_PATH="'runs/generator'" --gin.INFER_OUTPUT_DIR="'runs/scores'" \\
             --gin.TOKENS_DIR="'runs/tokens'" --gin.VOCABULARY="'runs/vocabulary/vocabulary.model'"
"""

Results = Iterable[tuple[str, Iterable[np.ndarray]]]  # (data set's name, a result per example)


def main(argv: Sequence[str]) -> int:
    """Runs `parti infer`; raises ValueError if a flag or a value is wrong."""

    def run(experiment: experiments.Experiment, flags: argparse.Namespace) -> int:
        infer(experiment, overwrite=flags.overwrite)
        return 0

    return train.run_command(argv, USAGE, run, ("--overwrite",), checkpoint_use.INFER_RUN_FILE)


def infer(
    experiment: experiments.Experiment,
    *,
    overwrite: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> None:
    """Infers with the checkpoint of an experiment, and writes the output.

    Raises:
      ValueError, FileNotFoundError: as `checkpoint_use.of` and `setup.open_checkpoint`; the output
        is there; or the model has no such mode, or predicts neither numbers nor tokens.
    """
    use = checkpoint_use.of(experiment)
    stage = output_directory(use, overwrite) if multihost.is_first() else None
    training, state = setup.open_checkpoint(use.limit(experiment), use.path, devices)
    sources = datasets.validation_sources(experiment.data_source)
    with training.program.context():
        results = (
            (name, _infer(training, state, source, use, number))
            for number, (name, source) in enumerate(sources.items())
        )
        try:
            if stage is None:
                for _, rows in results:
                    for _ in rows:
                        pass  # The first process writes.
                return
            with stage:
                write(stage, experiment, use, results, sources)
        except NotImplementedError as error:
            raise ValueError(f"INFER_MODE is {use.mode!r}: {error}; set the other one") from error


def _infer(
    training: setup.Training,
    state: train_state.TrainState,
    source: Any,
    use: checkpoint_use.CheckpointUse,
    number: int,
) -> Iterator[np.ndarray]:
    """Yields the result of each example of a data set, the `number`th, in order."""
    experiment, program = training.experiment, training.program
    everywhere = jax.sharding.NamedSharding(program.mesh, jax.P())
    method, is_random = checkpoint_use.MODES[use.mode], use.mode == "predict"

    def call(constants: Any, state: train_state.TrainState, batch: Any, rng: jax.Array) -> Any:
        model = experiment.model.with_constants(constants)
        given = {"flax_mutables": state.mutables} if state.mutables else {}
        given |= {"rng": rng} if is_random else {}
        return getattr(model, method)(state.params, batch, **given)

    jitted = jax.jit(call, out_shardings=everywhere)
    key = jax.random.fold_in(jax.random.PRNGKey(experiment.random_seed), number)
    converter, seed = experiment.model.FEATURE_CONVERTER_CLS, experiment.data_seed
    batches = split_batches.each_once(program, source, seed, converter, use.num_examples)
    for index, (count, batch) in enumerate(batches):
        rng = jax.random.fold_in(key, index)
        found = jitted(*program.step.args, state, batch, rng)
        yield from np.asarray(jax.device_get(found))[:count]


def output_directory(
    use: checkpoint_use.CheckpointUse, overwrite: bool
) -> publishing.OutputDirectory:
    """Returns the output; raises ValueError if it is there and is not to be replaced."""
    settings = {"mode": use.mode, "split": use.split, "num_examples": use.num_examples}
    return publishing.OutputDirectory(
        use.output,
        kind="tokens" if use.mode == "predict" else "scores",
        settings=settings | {"checkpoint": checkpoint_use.fingerprint(use)},
        inputs={"checkpoint": use.path},
        overwrite=overwrite,
    )


def write(
    stage: publishing.OutputDirectory,
    experiment: experiments.Experiment,
    use: checkpoint_use.CheckpointUse,
    results: Results,
    sources: Mapping[str, Any],
) -> None:
    """Writes the lines and, of image tokens, the shards; publishes the output.

    `sources` are the data sets, {name: source}, that the results are of.

    Raises:
      ValueError: what the model predicts is neither numbers nor tokens.
    """
    draws = use.mode == "predict" and isinstance(experiment.model, base.Generator)
    name, count = {"score": "score", "predict": "prediction"}[use.mode], 0
    with files.open(files.join(stage.address, LINES), "w") as lines:
        for number, (of, rows) in enumerate(results):
            described = _lines(sources[of], of)

            def pairs(
                rows: Iterable[np.ndarray] = rows,
                described: Iterator[dict[str, Any]] = described,
            ) -> Iterator[bytes]:
                for row, line in zip(rows, described):
                    lines.write(_line(line | {name: _plain(row)}))
                    key, text = line.get("key", str(line["index"])), line.get("text", "")
                    yield records.TokenizedPair(key, text, row).to_example() if draws else b""

            if draws:
                shard = shard_names.shard_name(use.split, number, len(sources))
                count += record_offsets.write_shard(files.join(stage.address, shard), pairs())
            else:
                count += sum(1 for _ in pairs())
    prints = provenance.data_fingerprints(experiment.config)
    extra = {"tokenizer_fingerprint": prints.get("tokenizer_fingerprint", "")} if draws else {}
    stage.publish({use.split: count}, extra=extra)
    print(f"wrote {count} {name}s to {stage.output}", file=sys.stderr)


def _lines(source: Any, of: str) -> Iterator[dict[str, Any]]:
    """Yields what is known of each example: index, data set, and its record's key and text."""
    rest = {"set": of} if of else {}
    captions = source.captions()
    if captions is None:
        yield from ({"index": i, **rest} for i in range(2**63))
        return
    for index, (key, text) in enumerate(captions):
        yield {"index": index, **rest, "key": key, "text": text}


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _plain(row: np.ndarray) -> Any:
    """Returns a result as JSON; raises ValueError for one that is no number and no tokens."""
    if row.ndim > 1:
        raise ValueError(
            f"the model predicts arrays of shape {row.shape}, pictures perhaps, which are no "
            "lines of text; `parti detokenize` and `parti generate` write pictures"
        )
    return row.tolist()
