# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training loop: it sequences steps, logs, evaluations and checkpoints, and computes nothing.

Steps are dispatched without waiting for their results, two in flight; metrics are fetched when they
are logged. Batches are read ahead in a thread (`prefetch.Prefetcher`).
"""

import pathlib
import signal
import tempfile
from typing import Any, TypeAlias

import jax

from parti.engine.checkpoints import checkpoint_manager, checkpoints
from parti.engine.distributed import multihost, preemption
from parti.engine.experiment import nan_policies
from parti.engine.input import datasets, prefetch
from parti.engine.loop import nan_recovery, run_directory, setup, validation
from parti.engine.monitoring import metrics_log, profiling, telemetry, watchdog
from parti.engine.step import eval_step, train_state, train_step
from parti.stages import progress_line

TrainState: TypeAlias = train_state.TrainState


class Loop:
    """The sequence of steps, logs, evaluations and checkpoints from one start on."""

    def __init__(
        self,
        training: setup.Training,
        store: checkpoint_manager.Store,
        record: nan_recovery.Record,
        request: preemption.StopRequest,
        dog: watchdog.Watchdog,
    ) -> None:
        """Takes what `train` has prepared."""
        self.training, self.store = training, store
        self.experiment, self.program = training.experiment, training.program
        self._request, self._watchdog = request, dog
        self._pending: list[dict[str, Any]] = []
        self._bad_steps = record
        self._profiler = profiling.Profiler(
            self.experiment.model_dir, self.experiment.profile_steps
        )
        self._watch = nan_recovery.Watch(self.experiment, store, record)

    def run(self, state: TrainState, start: int, batches: datasets.Batches) -> int:
        """Runs from step `start` to the end; returns the exit code.

        Raises:
          nan_recovery.NotFiniteError, nan_recovery.RollBack: see NAN_POLICY.
        """
        self._open(start)
        if self.experiment.nan_policy == nan_policies.ROLL_BACK and start == 0:
            with self._watchdog.stage(watchdog.SAVING):
                self._save_start(state, batches)
        prefetcher = prefetch.Prefetcher(
            batches, self.program.place, start, self.experiment.train_steps, self._saves_at
        )
        try:
            with self._profiler.listening():
                self._announce(state)
                state, step = self._take_steps(state, start, prefetcher)
                with self._watchdog.stage(watchdog.SAVING):
                    if self._request.signal_number:
                        return self._stop(step, start, state, prefetcher)
                    self.store.wait()
        except nan_recovery.RollBack as back:
            if not self._request.signal_number:
                raise
            return self._stopped(back.checkpoint)
        except BaseException as error:
            self._report.failed(type(error).__name__)
            raise
        finally:
            prefetcher.close()
            self._log.close()
        with self._watchdog.stage(watchdog.FINISHING):
            return self._end(state)

    def _open(self, start: int) -> None:
        """Opens the logs; the clock goes on where they stand."""
        experiment = self.experiment
        self._log = metrics_log.RunLog(experiment, start)
        self._validation = validation.Validation(self.training, self._log, self._watchdog)
        with self._watchdog.stage(watchdog.PREPARING):
            step_flops = self.training.step_flops
        self._telemetry = telemetry.Telemetry(
            experiment.model_dir,
            experiment.batch_size,
            step_flops,
            self.program.mesh.devices,
            experiment.model.dtype,
            self._log.last.get(f"{datasets.TRAIN}/{telemetry.PRODUCTIVE}", 0.0),
        )
        self._report = progress_line.Progress(
            "train",
            experiment.train_steps,
            "steps",
            rate_unit="examples",
            rate_scale=experiment.batch_size,
            silent=not multihost.is_first(),
        )

    def _take_steps(
        self, state: TrainState, step: int, prefetcher: prefetch.Prefetcher
    ) -> tuple[TrainState, int]:
        """Takes the steps after `step`, to the end or until asked to stop."""
        rng, start = train_step.initial_rngs(self.experiment.random_seed)[1], step
        self._report.update(start)
        if self._request.stops():
            return state, step
        self._catch_up(start, state)
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
            if self._request.stops():
                prefetcher.finish_after(step)
        return state, step

    def _catch_up(self, start: int, state: TrainState) -> None:
        """Does what a signal left out after the step that the run goes on from."""
        if start and self._validation.is_missing(start):
            self._evaluate(start, state)
        if start and self._validation.are_samples_missing(start):
            self._validation.draw(start, state)

    def _save_start(self, state: TrainState, batches: datasets.Batches) -> None:
        """Saves step 0, so that there is always a checkpoint to go back to."""
        if 0 not in checkpoints.steps(self.experiment.model_dir):
            with tempfile.TemporaryDirectory(prefix="parti-position-") as folder:
                batches.save(pathlib.Path(folder))
                self.store.save(0, train_state.to_tree(state), pathlib.Path(folder))

    def _next(self, prefetcher: prefetch.Prefetcher) -> Any:
        """Returns the next batch, or None at the end; notes how long it was waited for."""
        with self._watchdog.stage(watchdog.READING), self._telemetry.waiting():
            return next(prefetcher, None)

    def _announce(self, state: TrainState) -> None:
        devices = self.program.mesh.devices
        hosts = f" of {multihost.count()} processes" if multihost.count() > 1 else ""
        multihost.log(
            f"[train] {train_state.num_params(state.params):,} parameters on {devices.size} "
            f"{devices.flat[0].platform} device(s){hosts}; compiling"
        )
        for note in self.experiment.model.notes:
            multihost.log(f"[train] {note}")

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

    def _after_step(self, step: int, state: TrainState, prefetcher: prefetch.Prefetcher) -> None:
        saves = self._saves_at(step)
        evaluates, draws = self._validation.is_due(step), self._validation.draws_at(step)
        if self._request.signal_number:
            # The next start does it. But a checkpoint that is to be compared needs its value now.
            evaluates, draws = evaluates and saves and bool(self.experiment.best_metric), False
        if step % self.experiment.log_period == 0 or saves or evaluates or draws:
            self._write_log(step)
        if evaluates:
            self._evaluate(step, state)
        if draws:
            self._validation.draw(step, state)
        if saves:
            with self._watchdog.stage(watchdog.SAVING):
                self._save(step, state, prefetcher)
        if evaluates or draws or saves:
            self._telemetry.restart()

    def _save(self, step: int, state: TrainState, prefetcher: prefetch.Prefetcher) -> None:
        """Starts to save a checkpoint, with the validation metrics of this very step."""
        metrics = self._validation.metrics_at(step)
        self.store.save(step, train_state.to_tree(state), prefetcher.position(step), metrics)

    def _evaluate(self, step: int, state: TrainState) -> None:
        values = self._validation.evaluate(step, state)
        if "loss" in values:
            self._report.update(step, validation_loss=values["loss"])

    def _write_log(self, step: int) -> None:
        """Fetches the metrics since the last log, checks and writes them."""
        self.store.check()  # A full disk ends the run now, not at the next checkpoint.
        with self._watchdog.stage(watchdog.DEVICE):
            results = jax.device_get(self._pending)
        taken = self._watch.taken(step - len(results) + 1, results)
        values = eval_step.merge(taken) if taken else {}
        if self.experiment.nan_policy == nan_policies.SKIP:
            values[nan_policies.SKIPPED] = float(len(results) - len(taken))
        if self.experiment.nan_policy == nan_policies.ROLL_BACK:
            values[nan_policies.ROLLBACKS] = float(self._bad_steps.num_rollbacks)
        rate = self.experiment.learning_rate
        if rate is not None:
            # The optimizer counts the steps that it took.
            count = max(step - 1 - self._bad_steps.num_skipped, 0)
            values["learning_rate"] = float(rate(count) if callable(rate) else rate)
        values |= self._telemetry.values(len(taken) / len(results))
        self._pending = []
        self._log.write(step, datasets.TRAIN, values)
        metrics_log.warn(self.experiment.model_dir, step, values)
        if taken:
            self._report.update(step, loss=values["loss"])

    def _stop(
        self, step: int, start: int, state: TrainState, prefetcher: prefetch.Prefetcher
    ) -> int:
        """Saves after a signal, if there is something new; returns the exit code."""
        if self._pending:
            self._write_log(step)
        self.store.wait()
        if step > start and not self._saves_at(step):
            self._save(step, state, prefetcher)
        self.store.wait()
        return self._stopped(step)

    def _stopped(self, step: int) -> int:
        number = self._request.signal_number
        saved = f"saved at step {step}; the same command goes on from there"
        where = saved if step else "before the first step; the same command begins again"
        self._report.stopped(f"{signal.Signals(number).name}: {where}")
        return 128 + number

    def _end(self, state: TrainState) -> int:
        """Writes the manifest, once the last checkpoint is complete."""
        self.store.wait()
        counts = {
            "parameters": train_state.num_params(state.params),
            "examples": self.experiment.train_steps * self.experiment.batch_size,
        }
        if multihost.is_first():
            run_directory.finish(self.experiment, counts, self._log.last)
        multihost.wait_for_all("finished")
        self._report.done(f"wrote {self.experiment.model_dir}")
        return 0
