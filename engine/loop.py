# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training loop: it sequences steps, logs, evaluations and checkpoints, and computes nothing.

Steps are dispatched without waiting for their results, two in flight; metrics are fetched when they
are logged. Batches are read ahead in a thread (`datasets.Prefetcher`).
"""

import itertools
import pathlib
import signal
import tempfile
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from parti.engine import (
    checkpoints,
    datasets,
    evaluate,
    experiments,
    metrics_log,
    not_finite,
    processes,
    profiling,
    progress,
    run_directory,
    samples,
    summaries,
    telemetry,
    watchdog,
)
from parti.engine import program as programs
from parti.engine import train_state as train_states

TrainState: TypeAlias = train_states.TrainState


class Loop:
    """The sequence of steps, logs, evaluations and checkpoints of one run."""

    def __init__(
        self,
        experiment: experiments.Experiment,
        program: programs.Program,
        store: checkpoints.Store,
        open_split: Callable[[str], datasets.Batches],
        record: not_finite.Record,
    ) -> None:
        """Takes what `train` has prepared."""
        self.experiment, self.program, self.store = experiment, program, store
        self._open_split = open_split
        self._pending: list[dict[str, Any]] = []
        self._last_values: dict[str, float] = {}
        self._evaluated: tuple[int, dict[str, float]] = (0, {})
        self._sampler = None
        if drawn := experiment.samples:
            self._sampler = samples.Sampler(
                drawn, experiment.model, experiment.config, program.mesh
            )
        if experiment.best_metric:
            evaluate.check_metric(experiment.best_metric, program)
        self._bad_steps = record
        self._profiler = profiling.Profiler(experiment.model_dir, experiment.profile_steps)
        self._watch = not_finite.Watch(experiment, store, record)

    def run(self, state: TrainState, start: int, batches: datasets.Batches) -> int:
        """Runs from step `start` to the end; returns the exit code.

        Raises:
          not_finite.NotFiniteError, not_finite.RollBack: see NAN_POLICY.
        """
        experiment = self.experiment
        self._open_log(start)
        self._writers = summaries.Writer(experiment.model_dir, experiment.tensorboard)
        self._report = progress.Progress(
            "train",
            experiment.train_steps,
            "steps",
            rate_unit="examples",
            rate_scale=experiment.batch_size,
            silent=not processes.is_first(),
        )
        if experiment.nan_policy == not_finite.ROLL_BACK and start == 0:
            self._save_start(state, batches)
        self._watchdog = watchdog.Watchdog(experiment.watchdog_seconds, experiment.watchdog_abort)
        prefetcher = datasets.Prefetcher(
            batches, self.program.place, start, experiment.train_steps, self._saves_at
        )
        try:
            with processes.stop_request() as request, self._profiler.listening():
                self._announce(state)
                state, step = self._take_steps(state, start, prefetcher, request)
                with self._watchdog.stage(watchdog.SAVING):
                    if request.signal_number and step < experiment.train_steps:
                        return self._stop(step, state, prefetcher, request.signal_number)
                    self.store.wait()
        except not_finite.RollBack:
            raise
        except BaseException as error:
            self._report.failed(type(error).__name__)
            raise
        finally:
            self._watchdog.close()
            prefetcher.close()
            self._writers.close()
        return self._end(state)

    def _take_steps(
        self,
        state: TrainState,
        step: int,
        prefetcher: datasets.Prefetcher,
        request: processes.StopRequest,
    ) -> tuple[TrainState, int]:
        """Takes the steps after `step`, to the end or until asked to stop."""
        rng, start = programs.initial_rngs(self.experiment.random_seed)[1], step
        self._report.update(start)
        while (batch := self._next(prefetcher)) is not None:
            self._profiler.before(step + 1, state)
            state, metrics = self.program.step(state, batch, rng)
            self._profiler.after(step + 1, state)
            step += 1
            self._pending.append(metrics)
            self._pace(first=step == start + 1)
            self._report.update(step)
            self._after_step(step, state, prefetcher)
            self._watchdog.finished(step)
            if request.at(step):
                prefetcher.finish_after(step)
        return state, step

    def _open_log(self, start: int) -> None:
        """Opens metrics.jsonl in the first process; the clock goes on where the log stands."""
        experiment, productive = self.experiment, 0.0
        if processes.is_first():
            self._log = metrics_log.MetricsLog(experiment.model_dir, start)
            productive = self._log.last(telemetry.PRODUCTIVE)
        self._telemetry = telemetry.Telemetry(
            experiment.model_dir,
            experiment.batch_size,
            telemetry.model_flops(experiment.model, self.program.element_spec),
            self.program.mesh.devices,
            getattr(getattr(experiment.model, "config", None), "dtype", "float32"),
            productive,
        )

    def _save_start(self, state: TrainState, batches: datasets.Batches) -> None:
        """Saves step 0, so that there is always a checkpoint to go back to."""
        if 0 not in checkpoints.steps(self.experiment.model_dir):
            with tempfile.TemporaryDirectory(prefix="parti-position-") as folder:
                batches.save(pathlib.Path(folder))
                self.store.save(0, train_states.to_tree(state), pathlib.Path(folder))

    def _next(self, prefetcher: datasets.Prefetcher) -> Any:
        """Returns the next batch, or None at the end; notes how long it was waited for."""
        with self._watchdog.stage(watchdog.READING), self._telemetry.waiting():
            return next(prefetcher, None)

    def _announce(self, state: TrainState) -> None:
        devices = self.program.mesh.devices
        hosts = f" of {processes.count()} processes" if processes.count() > 1 else ""
        processes.log(
            f"[train] {train_states.num_params(state.params):,} parameters on {devices.size} "
            f"{devices.flat[0].platform} device(s){hosts}; compiling"
        )
        for note in self.experiment.model.notes:
            processes.log(f"[train] {note}")

    def _pace(self, first: bool) -> None:
        """Keeps two steps in flight; leaves the first one, which compiles, out of the timing."""
        if first:
            self._wait_for(self._pending[-1]["loss"])
            self._report.count += 1
            self._report.restart_clock()
            self._telemetry.restart()
            return
        self._telemetry.step()
        if len(self._pending) > 2:
            self._wait_for(self._pending[-3]["loss"])

    def _wait_for(self, value: jax.Array) -> None:
        with self._watchdog.stage(watchdog.DEVICE):
            jax.block_until_ready(value)

    def _saves_at(self, step: int) -> bool:
        period, last = self.experiment.checkpoint_period, self.experiment.train_steps
        return step == last or step % period == 0

    def _after_step(self, step: int, state: TrainState, prefetcher: datasets.Prefetcher) -> None:
        experiment = self.experiment
        last = step == experiment.train_steps
        evaluates = experiment.eval_period and (step % experiment.eval_period == 0 or last)
        draws = self._draws_at(step)
        if step % experiment.log_period == 0 or self._saves_at(step) or evaluates or draws:
            self._write_log(step)
        if evaluates:
            with self._watchdog.stage(watchdog.EVALUATING):
                self._evaluate(step, state)
        if draws and self._sampler:
            with self._watchdog.stage(watchdog.SAMPLING):
                self._sampler.show(step, state.params, self._writers)
        if self._saves_at(step):
            with self._watchdog.stage(watchdog.SAVING):
                self._save(step, state, prefetcher)
        if evaluates or draws or self._saves_at(step):
            self._telemetry.restart()

    def _draws_at(self, step: int) -> bool:
        if not self.experiment.samples:
            return False
        period = self.experiment.samples.period or self.experiment.eval_period
        return step == self.experiment.train_steps or step % period == 0

    def _save(self, step: int, state: TrainState, prefetcher: datasets.Prefetcher) -> None:
        """Starts to save a checkpoint, with the validation metrics of this very step."""
        evaluated, values = self._evaluated
        metrics = values if evaluated == step else None
        self.store.save(step, train_states.to_tree(state), prefetcher.position(step), metrics)

    def _write_log(self, step: int) -> None:
        """Fetches the metrics since the last log, checks and writes them."""
        with self._watchdog.stage(watchdog.DEVICE):
            results = jax.device_get(self._pending)
        taken = self._watch.taken(step - len(results) + 1, results)
        values = evaluate.merge(taken) if taken else {}
        if self.experiment.nan_policy == not_finite.SKIP:
            values[not_finite.SKIPPED] = float(len(results) - len(taken))
        if self.experiment.nan_policy == not_finite.ROLL_BACK:
            values[not_finite.ROLLBACKS] = float(self._bad_steps.num_rollbacks)
        rate = self.experiment.learning_rate
        if rate is not None:
            # The optimizer counts the steps that it took.
            count = max(step - 1 - self._bad_steps.num_skipped, 0)
            values["learning_rate"] = float(rate(count) if callable(rate) else rate)
        values |= self._telemetry.values(len(taken) / len(results))
        self._pending = []
        self._record(step, datasets.TRAIN, values)
        metrics_log.warn(self.experiment.model_dir, step, values)
        if taken:
            self._report.update(step, loss=values["loss"])

    def _evaluate(self, step: int, state: TrainState) -> None:
        """Evaluates, and shows the model on the first batch, at each evaluation the same."""
        split, count, program = datasets.VALIDATION, self.experiment.eval_steps, self.program
        batches = iter(self._open_split(split))
        head = list(itertools.islice(batches, 1))
        values = evaluate.evaluate(
            program.eval, state, itertools.chain(head, batches), count, program.place
        )
        # As many rows as training holds gradients of at a time.
        rows = self.experiment.batch_size // self.experiment.num_microbatches
        first = {name: x[:rows] for name, x in head[0].items()}
        shown = jax.device_get(program.summarize(state, program.place(first)))
        values |= {name: float(value) for name, value in shown.scalars.items()}
        self._record(step, split, values)
        self._evaluated = (step, values)
        if processes.is_first():
            self._writers.show(step, split, shown)
        if "loss" in values:
            self._report.update(step, validation_loss=values["loss"])

    def _record(self, step: int, split: str, values: dict[str, float]) -> None:
        self._last_values |= {f"{split}/{name}": value for name, value in values.items()}
        if processes.is_first():
            self._log.write(step, split, values)
            self._writers.write(step, split, values)

    def _stop(
        self, step: int, state: TrainState, prefetcher: datasets.Prefetcher, signal_number: int
    ) -> int:
        """Saves after a signal; returns the exit code."""
        if self._pending:
            self._write_log(step)
        self.store.wait()
        if not self._saves_at(step):
            self._save(step, state, prefetcher)
        self.store.wait()
        name = signal.Signals(signal_number).name
        self._report.failed(f"{name}: saved at step {step}; the same command goes on from there")
        return 128 + signal_number

    def _end(self, state: TrainState) -> int:
        """Writes the manifest, once the last checkpoint is complete."""
        self.store.wait()
        counts = {
            "parameters": train_states.num_params(state.params),
            "examples": self.experiment.train_steps * self.experiment.batch_size,
        }
        if processes.is_first():
            run_directory.finish(self.experiment, counts, self._last_values)
        processes.wait_for_all("finished")
        self._report.done(f"wrote {self.experiment.model_dir}")
        return 0
