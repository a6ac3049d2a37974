# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti train`: an experiment, trained to TRAIN_STEPS, whatever interrupts it.

The same command goes on from where an interrupted run stood, bit for bit: parameters, optimizer,
mutable collections, data position and random numbers. `program.train_step` is one step, `loop.Loop`
their sequence.
"""

import argparse
import difflib
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from parti.engine import (
    checkpoints,
    datasets,
    experiments,
    hbm,
    not_finite,
    processes,
    run_directory,
)
from parti.engine import initial as initials
from parti.engine import loop as loops
from parti.engine import program as programs
from parti.engine import train_state as train_states

CACHE_VARIABLE = "PARTI_COMPILATION_CACHE"
USAGE = """\
usage: parti train --gin_file=FILE [--gin_file=FILE ...] [--gin.NAME=VALUE ...] [flags]

Trains the model of an experiment file; run it again to go on after an interruption.

  --gin_file=FILE     an experiment; t5x_configs/... resolves from any folder
  --gin.NAME=VALUE    overrides a macro or parameter; a text needs quotes of its own
  --dry_run           prints the configuration, parameters and memory, trains nothing
  --overwrite         deletes an earlier training in MODEL_DIR first

In many processes, one per host, all with the same command and file system:
  --distributed       joins the others, as JAX finds them (Cloud TPU, Slurm, Kubernetes)
  --coordinator_address=HOST:PORT --num_processes=N --process_id=I
                      joins them where JAX knows no cluster

example: parti train --gin_file=t5x_configs/experiments/tokenizer_tiny.gin \\
             --gin.MODEL_DIR="'runs/tokenizer'" --gin.TRAIN_STEPS=500
"""


def train(
    experiment: experiments.Experiment,
    *,
    overwrite: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> int:
    """Trains to TRAIN_STEPS, from the last checkpoint if there is one.

    Returns:
      0, or 128 + the signal's number after SIGTERM or SIGINT (the state is then saved).

    Raises:
      ValueError: the experiment, its data or its directory do not fit; nothing was trained.
      not_finite.NotFiniteError: see NAN_POLICY there.
    """
    processes.check_equal("the configuration", experiment.config)
    run_directory.check_ours(experiment)
    if overwrite and processes.is_first():
        run_directory.clear(experiment)
    processes.wait_for_all("directory is ours")
    if run_directory.is_finished(experiment):
        processes.log(
            f"[train] already finished: {experiment.model_dir} is at step {experiment.train_steps}"
        )
        return 0
    run_directory.check_data(experiment)
    open_split = functools.partial(
        experiment.data_source.open,
        batch_size=experiment.batch_size,
        seed=experiment.data_seed,
        model=experiment.model,
    )
    batches = open_split(datasets.TRAIN)
    if experiment.eval_period:
        open_split(datasets.VALIDATION)  # Fails now if there is none, not at the first evaluation.
    program = programs.prepare(experiment, batches.element_spec, devices)
    given = {} if checkpoints.steps(experiment.model_dir) else initial_values(experiment, program)
    store = checkpoints.Store(experiment.model_dir, experiment.retention)
    try:
        with program.context(), processes.ending_if_one_is_lost():
            while True:
                try:
                    return _go_on(experiment, program, store, open_split, batches, given)
                except not_finite.RollBack:
                    given = {}  # There is a checkpoint to go on from.
    finally:
        store.close()


def _go_on(
    experiment: experiments.Experiment,
    program: programs.Program,
    store: checkpoints.Store,
    open_split: Callable[[str], datasets.Batches],
    batches: datasets.Batches,
    given: Mapping[str, Any],
) -> int:
    """Trains from the last checkpoint, or from the start; returns the exit code.

    Raises:
      not_finite.RollBack: it has to be called again.
    """
    state, start = restore_or_init(experiment, program, store, batches, given)
    if start and (difference := run_directory.config_difference(experiment)):
        processes.log(f"[train] configuration changed: {difference}")
    processes.wait_for_all("directory is read")
    if processes.is_first():
        run_directory.start(experiment, start)
    record = not_finite.Record(experiment.model_dir, start)
    for _ in range(record.batches_past(start)):
        next(batches)
    return loops.Loop(experiment, program, store, open_split, record).run(state, start, batches)


def initial_values(experiment: experiments.Experiment, program: programs.Program) -> dict[str, Any]:
    """Returns what INITIAL gives the first step, on the host; says so in the log.

    Raises:
      ValueError: it does not fit, or leaves a frozen branch at its random start.
      FileNotFoundError: there is no such training, or it has not finished.
    """
    wanted = {"params": program.abstract.params, **program.abstract.mutables}
    given = experiment.initial.load(wanted) if experiment.initial else {}
    initials.check_frozen(experiment.model.frozen, wanted, given)
    for line in experiment.initial.describe(given) if experiment.initial else ():
        processes.log(f"[train] {line}")
    return given


def restore_or_init(
    experiment: experiments.Experiment,
    program: programs.Program,
    store: checkpoints.Store,
    batches: datasets.Batches,
    given: Mapping[str, Any],
) -> tuple[train_states.TrainState, int]:
    """Returns the state to start from and its step; moves the data to the same place.

    `given` is what step 0 starts from, as far as it is not the model's own start.
    """
    trees = (train_states.to_tree(state) for state in (program.abstract, program.shardings))
    restored = store.restore(train_states.placed(*trees))
    if restored is None:
        init_rng, _ = programs.initial_rngs(experiment.random_seed)
        return program.init(init_rng, program.place_variables(given)), 0
    tree, step, position = restored
    if not position.is_dir():
        raise ValueError(
            f"{position.parent} keeps no data position, so training cannot go on exactly from it "
            "(T5X writes one with save_dataset = True); choose another MODEL_DIR"
        )
    batches.restore(position)
    processes.log(f"[train] going on from step {step} of {experiment.model_dir}")
    return train_states.from_tree(tree, program.abstract), step


def main(argv: Sequence[str]) -> int:
    """Runs `parti train`.

    Raises:
      ValueError: a flag or a value is wrong.
    """
    if not argv or set(argv) & {"-h", "--help"}:
        print(USAGE, end="", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    flags = _parse_flags(argv)
    addressed = (flags.coordinator_address, flags.num_processes, flags.process_id)
    if flags.distributed or any(flag is not None for flag in addressed):
        processes.connect(*addressed)
    if cache := os.environ.get(CACHE_VARIABLE):
        jax.config.update("jax_compilation_cache_dir", cache)
    experiment = experiments.load_experiment(flags.gin_file, flags.gin_bindings)
    return dry_run(experiment) if flags.dry_run else train(experiment, overwrite=flags.overwrite)


def dry_run(experiment: experiments.Experiment) -> int:
    """Prints the configuration, the parameters with their sharding, and the memory they take."""
    batches = experiment.data_source.open(
        datasets.TRAIN, experiment.batch_size, experiment.data_seed, experiment.model
    )
    program = programs.prepare(experiment, batches.element_spec)
    initial_values(experiment, program)
    spec = program.element_spec
    print(experiment.config)
    for name, leaf in spec.items():
        print(f"batch {name}: {leaf.dtype}[{', '.join(map(str, leaf.shape))}]")
    print(f"mesh: {dict(program.mesh.shape)}\n")
    print(train_states.table(experiment.model, program.abstract, program.specs, spec))
    print(hbm.estimate(program))
    return 0


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--gin_file", action="append", default=[])
    parser.add_argument("--gin_bindings", action="append", default=[])
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--distributed", action="store_true")
    parser.add_argument("--coordinator_address")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    known = ["--gin.NAME", *(f"--{name}" for name in vars(parser.parse_args([])))]
    prefix = "--gin."
    argv = [f"--gin_bindings={a[len(prefix) :]}" if a.startswith(prefix) else a for a in argv]
    flags, unknown = parser.parse_known_args(argv)
    if unknown:
        close = difflib.get_close_matches(unknown[0].split("=")[0], known, 1)
        hint = f"did you mean {close[0]}?" if close else f"flags are {', '.join(known)}"
        raise ValueError(f"unknown argument {unknown[0]!r}; {hint}")
    if not flags.gin_file:
        raise ValueError("no experiment; give --gin_file=t5x_configs/experiments/NAME.gin")
    return flags


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ValueError(message)
