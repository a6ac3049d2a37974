# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training loop: it sequences steps, logs, evaluations and checkpoints, and computes nothing.

Steps are dispatched without waiting for their results (`step_metrics.StepMetrics`). Batches are
read ahead in a thread (`prefetch.Prefetcher`).
"""

import contextlib
import pathlib
import signal
import tempfile
from typing import TypeAlias

from parti.engine.checkpoints import checkpoint_manager, checkpoints
from parti.engine.distributed import multihost, preemption
from parti.engine.experiment import nan_policies
from parti.engine.input import datasets, prefetch
from parti.engine.loop import nan_recovery, run_directory, setup, step_metrics, validation
from parti.engine.monitoring import metrics_log, profiling, watchdog
from parti.engine.step import train_state, train_step

TrainState: TypeAlias = train_state.TrainState


class Loop:
    """The sequence of steps, logs, evaluations and checkpoints from one start on."""

    def __init__(
        self,
        training: setup.Training,
        manager: checkpoint_manager.CheckpointManager,
        record: nan_recovery.Record,
        request: preemption.StopRequest,
        monitor: watchdog.Watchdog,
        start: int,
    ) -> None:
        """Opens the logs of a run that goes on from step `start`."""
        self._experiment, self._program = training.experiment, training.program
        self._manager, self._request, self._monitor = manager, request, monitor
        self._start = start
        directory = self._experiment.model_dir
        self._profiler = profiling.Profiler(directory, self._experiment.profile_steps)
        tensorboard = self._experiment.tensorboard
        self._log = metrics_log.MetricsLog(directory, start, tensorboard)
        self._validation = validation.Validation(training, self._log, monitor)
        self._metrics = step_metrics.StepMetrics(training, manager, record, self._log, monitor)
        self._report = self._metrics.report

    def run(self, state: TrainState, batches: datasets.Batches) -> int:
        """Runs to the end, or until asked to stop; returns the exit code."""
        if self._experiment.nan_policy == nan_policies.ROLL_BACK and self._start == 0:
            self._save_start(state, batches)
        place, stop = self._program.place, self._experiment.train_steps
        prefetcher = prefetch.Prefetcher(batches, place, self._start, stop, self._saves_at)
        try:
            with self._profiler.listening():
                self._announce(state)
                state, step = self._take_steps(state, prefetcher)
                with self._monitor.stage(watchdog.SAVING):
                    if self._request.signal_number:
                        return self._stop(step, state, prefetcher)
                    self._manager.wait()
        except nan_recovery.RollBack as back:
            if not self._request.signal_number:
                raise
            return self._stopped(back.checkpoint)
        except BaseException as error:
            self._report.failed(type(error).__name__)
            raise
        finally:
            prefetcher.close()
            self._close_log()
        with self._monitor.stage(watchdog.FINISHING):
            return self._finish(state)

    def _take_steps(
        self, state: TrainState, prefetcher: prefetch.Prefetcher
    ) -> tuple[TrainState, int]:
        """Takes the steps after the start, to the end or until asked to stop."""
        rng, step = train_step.initial_rngs(self._experiment.random_seed)[1], self._start
        self._report.update(step)
        if self._request.stops():
            return state, step
        self._catch_up(state)
        while True:
            with self._monitor.stage(watchdog.READING), self._metrics.waiting():
                batch = next(prefetcher, None)
            if batch is None:
                return state, step
            step += 1
            self._profiler.before(step, state)
            state, metrics = self._program.step(state, batch, rng)
            self._profiler.after(step, state)
            self._metrics.add(step, metrics)
            self._after_step(step, state, prefetcher)
            self._monitor.finished(step)
            if self._request.stops():
                prefetcher.finish_after(step)

    def _catch_up(self, state: TrainState) -> None:
        """Does what a signal left out after the step that the run goes on from."""
        evaluates, draws = self._validation.left_out(self._start)
        if evaluates:
            self._evaluate(self._start, state)
        if draws:
            self._validation.draw(self._start, state)

    def _after_step(self, step: int, state: TrainState, prefetcher: prefetch.Prefetcher) -> None:
        """Logs, evaluates, draws and saves what is due after a step."""
        saves = self._saves_at(step)
        evaluates, draws = self._validation.is_due(step), self._validation.draws_at(step)
        if self._request.signal_number:
            # The next start does it. But a checkpoint that is to be compared needs its value now.
            evaluates, draws = evaluates and saves and bool(self._experiment.best_metric), False
        if step % self._experiment.log_period == 0 or saves or evaluates or draws:
            self._metrics.write(step)
            if self._log.is_due():
                self._flush_log()
        if evaluates:
            self._evaluate(step, state)
        if draws:
            self._validation.draw(step, state)
        if saves:
            with self._monitor.stage(watchdog.SAVING):
                self._save(step, state, prefetcher)
        if evaluates or draws or saves:
            self._metrics.restart_clock()

    def _evaluate(self, step: int, state: TrainState) -> None:
        values = self._validation.evaluate(step, state)
        if "loss" in values:
            self._report.update(step, validation_loss=values["loss"])

    def _saves_at(self, step: int) -> bool:
        period, last = self._experiment.checkpoint_period, self._experiment.train_steps
        return step == last or step % period == 0

    def _save(self, step: int, state: TrainState, prefetcher: prefetch.Prefetcher) -> None:
        """Starts to save a checkpoint, with the validation metrics of this very step."""
        self._flush_log()
        metrics = self._validation.metrics_at(step)
        self._manager.save(step, train_state.to_tree(state), prefetcher.position(step), metrics)

    def _flush_log(self) -> None:
        """Writes what the log holds back, unless the directory is another training's by now."""
        if self._manager.ownership.is_held():
            self._log.flush()

    def _close_log(self) -> None:
        """Writes what is left of the log, as far as that can be: a later start needs none of it."""
        with contextlib.suppress(OSError, ValueError):
            self._flush_log()
        self._log.writer.close()

    def _save_start(self, state: TrainState, batches: datasets.Batches) -> None:
        """Saves step 0, so that there is always a checkpoint to go back to."""
        if 0 in checkpoints.steps(self._experiment.model_dir):
            return
        with (
            self._monitor.stage(watchdog.SAVING),
            tempfile.TemporaryDirectory(prefix="parti-position-") as folder,
        ):
            batches.save(pathlib.Path(folder))
            self._manager.save(0, train_state.to_tree(state), pathlib.Path(folder))

    def _announce(self, state: TrainState) -> None:
        devices = self._program.mesh.devices
        hosts = f" of {multihost.count()} processes" if multihost.count() > 1 else ""
        multihost.log(
            f"[train] {train_state.num_params(state.params):,} parameters on {devices.size} "
            f"{devices.flat[0].platform} device(s){hosts}; compiling"
        )
        for note in self._experiment.model.notes:
            multihost.log(f"[train] {note}")

    def _stop(self, step: int, state: TrainState, prefetcher: prefetch.Prefetcher) -> int:
        """Saves after a signal, if there is something new; returns the exit code."""
        self._metrics.write(step)
        self._manager.wait()
        if step > self._start and not self._saves_at(step):
            self._save(step, state, prefetcher)
        self._manager.wait()
        return self._stopped(step)

    def _stopped(self, step: int) -> int:
        number = self._request.signal_number
        saved = f"saved at step {step}; the same command goes on from there"
        where = saved if step else "before the first step; the same command begins again"
        self._report.stopped(f"{signal.Signals(number).name}: {where}")
        return 128 + number

    def _finish(self, state: TrainState) -> int:
        """Writes the manifest, once the last checkpoint is complete."""
        self._manager.wait()
        self._manager.ownership.check()
        counts = {
            "parameters": train_state.num_params(state.params),
            "examples": self._experiment.train_steps * self._experiment.batch_size,
        }
        if multihost.is_first():
            run_directory.finish(self._experiment, counts, self._log.last)
        multihost.wait_for_all("finished")
        self._report.done(f"wrote {self._experiment.model_dir}")
        return 0
