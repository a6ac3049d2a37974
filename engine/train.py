# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti train`: an experiment, trained to TRAIN_STEPS, whatever interrupts it.

The same command goes on from where an interrupted run stood, bit for bit: parameters, optimizer,
mutable collections, data position and random numbers. `train_step` is one step,
`training_loop.Loop` their sequence.
"""

import argparse
import contextlib
import difflib
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from parti.engine.checkpoints import checkpoint_manager, checkpoints
from parti.engine.distributed import multihost, preemption
from parti.engine.experiment import experiments
from parti.engine.hardware import accelerators
from parti.engine.input import datasets
from parti.engine.loop import data_lineage, nan_recovery, run_directory, setup, training_loop
from parti.engine.monitoring import watchdog
from parti.engine.pod_estimates import device_memory
from parti.engine.step import train_state, train_step
from parti.stages import files

CACHE_VARIABLE = "PARTI_COMPILATION_CACHE"
USAGE = """\
usage: parti train --gin_file=FILE [--gin_file=FILE ...] [--gin.NAME=VALUE ...] [flags]

Trains the model of an experiment file; run it again to go on after an interruption.

  --gin_file=FILE     an experiment; t5x_configs/... resolves from any folder
  --gin.NAME=VALUE    overrides a macro or parameter; a text needs quotes of its own
  --dry_run           prints the configuration, parameters and memory, trains nothing
  --overwrite         deletes an earlier training in MODEL_DIR first

In many processes, one per host, all with the same command and file system:
  --distributed       joins the others, as JAX finds them (Cloud TPU, Slurm)
  --coordinator_address=HOST:PORT --num_processes=N --process_id=I
                      joins them where JAX knows no cluster (Kubernetes: docs/clusters.md)

example: parti train --gin_file=t5x_configs/experiments/tokenizer_tiny.gin \\
             --gin.MODEL_DIR="'runs/tokenizer'" --gin.TRAIN_STEPS=500
"""


class TrainingFailedError(RuntimeError):
    """A file or a value was bad while training ran: no mistake of the command."""


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
      ValueError, OSError: experiment, data or directory do not fit; nothing was changed.
      TrainingFailedError: such an error after the training had begun.
      nan_recovery.NotFiniteError: see NAN_POLICY there.
    """
    with (
        multihost.ending_if_one_is_lost(),
        # SIGUSR1 would end the process; the loop listens for it.
        preemption.handled(signal.SIGUSR1, signal.SIG_IGN),
        contextlib.closing(
            watchdog.Watchdog(experiment.watchdog_seconds, experiment.watchdog_abort)
        ) as monitor,
    ):
        if not _needs_training(experiment, overwrite):
            return 0
        training = setup.open_training(experiment, devices, monitor)
        initial: Mapping[str, Any] = {}
        if overwrite or not checkpoints.steps(experiment.model_dir):
            with monitor.stage(watchdog.INITIAL):
                initial = setup.load_initial(experiment, training.program)
        multihost.wait_for_all("nothing is refused")
        if overwrite and multihost.is_first():
            run_directory.clear(experiment)
        multihost.wait_for_all("directory is ours")
        manager = checkpoint_manager.CheckpointManager(experiment.model_dir, experiment.retention)
        try:
            with (
                training.program.context(),
                preemption.stop_request() as request,
                multihost.ending_if_one_is_lost(),  # Before the manager waits for the others.
            ):
                code = _train_to_the_end(training, manager, request, monitor, initial)
        except BaseException:
            with contextlib.suppress(Exception):  # What failed first is what is told.
                manager.close()
            raise
        manager.close()
        return code


def _needs_training(experiment: experiments.Experiment, overwrite: bool) -> bool:
    """Checks directory, data and the other processes; returns whether there is a step to take."""
    multihost.check_equal("the configuration", experiment.config)
    run_directory.check_ours(experiment)
    multihost.check_shared(experiment.model_dir)
    if multihost.count() > 1:
        for what, text in data_lineage.inputs(experiment).items():
            multihost.check_equal(what, text)
    if overwrite:
        return True
    if run_directory.is_finished(experiment):
        multihost.log(
            f"[train] already finished: {experiment.model_dir} is at step {experiment.train_steps}"
        )
        return False
    data_lineage.check(experiment)
    return True


def _train_to_the_end(
    training: setup.Training,
    manager: checkpoint_manager.CheckpointManager,
    request: preemption.StopRequest,
    monitor: watchdog.Watchdog,
    initial: Mapping[str, Any],
) -> int:
    """Trains from the last checkpoint or the start, with rollbacks; returns the exit code."""
    experiment = training.experiment
    state, start, record = _restore(training, manager, monitor, initial)
    if start and (difference := run_directory.config_difference(experiment)):
        multihost.log(f"[train] configuration changed: {difference}")
    multihost.wait_for_all("directory is read")
    try:
        if multihost.is_first():
            run_directory.start(experiment, start)
        while True:
            loop = training_loop.Loop(training, manager, record, request, monitor, start)
            try:
                return loop.run(state, training.batches)
            except nan_recovery.RollBack:
                pass  # Restore below, where nothing holds the old state any more.
            state, start, record = _restore(training, manager, monitor, {})
    except (OSError, ValueError) as error:
        with contextlib.suppress(Exception):
            manager.wait()  # The newest checkpoint may not have its name yet.
        where = "goes on from the newest checkpoint of"
        with contextlib.suppress(OSError, ValueError):  # They may be of the same store.
            steps = checkpoints.steps(experiment.model_dir)
            where = f"goes on from checkpoint_{steps[-1]} of" if steps else "begins again in"
        raise TrainingFailedError(
            f"{error}. The same command, once that is mended, {where} {experiment.model_dir}"
        ) from error


def _restore(
    training: setup.Training,
    manager: checkpoint_manager.CheckpointManager,
    monitor: watchdog.Watchdog,
    initial: Mapping[str, Any],
) -> tuple[train_state.TrainState, int, nan_recovery.Record]:
    """Returns the state to go on from, its step and the bad steps before; moves the data there."""
    experiment = training.experiment
    with monitor.stage(watchdog.RESTORING):
        state, start = restore_or_init(
            experiment, training.program, manager, training.batches, initial
        )
    record = nan_recovery.Record(experiment.model_dir, start)
    with monitor.stage(watchdog.READING):
        for _ in range(record.batches_past(start)):
            next(training.batches)
            monitor.heartbeat()
    return state, start, record


def restore_or_init(
    experiment: experiments.Experiment,
    program: train_step.Program,
    manager: checkpoint_manager.CheckpointManager,
    batches: datasets.Batches,
    initial: Mapping[str, Any],
) -> tuple[train_state.TrainState, int]:
    """Returns the state to start from and its step; moves the data to that step.

    `initial` are the variables of INITIAL, which step 0 has instead of the model's own.
    """
    trees = (train_state.to_tree(state) for state in (program.abstract, program.shardings))
    restored = manager.restore(train_state.placed(*trees))
    if restored is None:
        init_rng, _ = train_step.initial_rngs(experiment.random_seed)
        return program.init(init_rng, program.place_variables(initial)), 0
    tree, step, position = restored
    if not files.is_dir(position):
        raise ValueError(
            f"{files.parent(position)} keeps no data position, so training cannot go on exactly "
            "from it (T5X writes one with save_dataset = True); choose another MODEL_DIR"
        )
    with files.local_folder(position) as folder:
        batches.restore(pathlib.Path(folder))
    multihost.log(f"[train] going on from step {step} of {experiment.model_dir}")
    return train_state.from_tree(tree, program.abstract), step


def main(argv: Sequence[str]) -> int:
    """Runs `parti train`; raises ValueError if a flag or a value is wrong."""

    def run(experiment: experiments.Experiment, flags: argparse.Namespace) -> int:
        if flags.dry_run:
            return dry_run(experiment)
        return train(experiment, overwrite=flags.overwrite)

    return run_command(argv, USAGE, run, ("--dry_run", "--overwrite"))


def run_command(
    argv: Sequence[str],
    usage: str,
    run: Callable[[experiments.Experiment, argparse.Namespace], int],
    switches: Sequence[str],
    run_file: str = experiments.RUN_FILE,
) -> int:
    """Runs a command on an experiment, or prints its usage; returns the exit code.

    Args:
      run: gets the experiment and the flags, and returns the exit code.
      switches: flags without a value, besides those that say how to join other processes.
      run_file: see `experiments.load_experiment`.

    Raises:
      ValueError: a flag or a value is wrong.
    """
    if not argv or set(argv) & {"-h", "--help"}:
        print(usage, end="", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    flags = _parse_flags(argv, switches)
    multihost.join(flags)
    accelerators.check_platforms(in_this_process=True)
    if cache := os.environ.get(CACHE_VARIABLE):
        jax.config.update("jax_compilation_cache_dir", cache)
    experiment = experiments.load_experiment(flags.gin_file, flags.gin_bindings, run_file)
    return run(experiment, flags)


def dry_run(experiment: experiments.Experiment) -> int:
    """Prints the configuration, the parameters with their sharding, and the memory they take."""
    program = setup.open_training(experiment).program
    setup.load_initial(experiment, program)
    spec = program.element_spec
    print(experiment.config)
    for name, leaf in spec.items():
        print(f"batch {name}: {checkpoints.describe(leaf)}")
    print(f"mesh: {dict(program.mesh.shape)}\n")
    print(train_state.table(experiment.model, program.abstract, program.specs, spec))
    print(device_memory.estimate(program))
    return 0


def _parse_flags(argv: Sequence[str], switches: Sequence[str]) -> argparse.Namespace:
    """Returns gin files and bindings, `switches`, and how to join other processes.

    Raises:
      ValueError: an unknown flag, or no experiment.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    for name in ("--gin_file", "--gin_bindings"):
        parser.add_argument(name, action="append", default=[])
    for name in switches:
        parser.add_argument(name, action="store_true")
    multihost.add_flags(parser)
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
