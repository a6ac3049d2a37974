# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the settings of an `experiments.Experiment` may be, before anything touches a device."""

from typing import Any

from parti.engine.experiment import nan_policies, sample_settings, warm_start
from parti.engine.monitoring import profiling

# Setting -> the least whole number it may be.
_LEAST = {
    "train_steps": 1,
    "batch_size": 1,
    "num_microbatches": 1,
    "checkpoint_period": 1,
    "keep_checkpoint_period": 0,
    "log_period": 1,
    "eval_period": 0,
    "eval_steps": 1,
    "max_skipped_steps": 0,
    "rollback_steps": 1,
    "max_rollbacks": 1,
}


def check(experiment: Any) -> None:
    """Checks the settings of an experiment, each by itself and then together.

    Raises:
      ValueError: names the macro, its value, and what is allowed.
    """
    for name, least in _LEAST.items():
        _check_count(name, getattr(experiment, name), least)
    if experiment.checkpoints_to_keep is not None:
        _check_count("checkpoints_to_keep", experiment.checkpoints_to_keep, 1)
    profiling.check_steps(experiment.profile_steps)
    _check_values(experiment)
    _check_samples(experiment.samples, experiment.eval_period)
    _check_best(experiment)
    _check_rollback(experiment)
    if experiment.batch_size % experiment.num_microbatches:
        raise ValueError(
            f"BATCH_SIZE {experiment.batch_size} does not divide into NUM_MICROBATCHES "
            f"{experiment.num_microbatches} equal parts"
        )
    if experiment.num_microbatches > 1 and experiment.model.compares_examples:
        raise ValueError(
            f"NUM_MICROBATCHES is {experiment.num_microbatches}, but the loss of "
            f"{type(experiment.model).__name__} compares all examples of a batch with each other: "
            "in parts it would be another loss. Set it to 1; remat or more devices save memory"
        )


def _check_values(experiment: Any) -> None:
    if not isinstance(experiment.model_dir, str) or not experiment.model_dir:
        raise ValueError(f"MODEL_DIR must be a path in quotes, got {experiment.model_dir!r}")
    if "://" in experiment.model_dir:
        raise ValueError(
            f"MODEL_DIR {experiment.model_dir!r} is an address, and a training writes files: "
            "name a folder, of many hosts a shared one, such as a bucket mounted as a folder"
        )
    if experiment.nan_policy not in nan_policies.POLICIES:
        raise ValueError(
            f"NAN_POLICY must be one of {', '.join(nan_policies.POLICIES)}; got "
            f"{experiment.nan_policy!r}"
        )
    if experiment.initial is not None and not isinstance(experiment.initial, warm_start.WarmStart):
        raise ValueError(
            f"INITIAL must be None or @warm_start.WarmStart(), got {experiment.initial!r}; name "
            "the training with warm_start.WarmStart.path"
        )
    if not 0 <= experiment.ema_decay < 1:
        raise ValueError(f"EMA_DECAY must lie in [0, 1), got {experiment.ema_decay!r}")
    if experiment.watchdog_seconds < 0:
        raise ValueError(f"WATCHDOG_SECONDS must be 0 or more, got {experiment.watchdog_seconds!r}")


def _check_samples(samples: Any, eval_period: int) -> None:
    if samples is None:
        return
    if not isinstance(samples, sample_settings.SampleSettings):
        raise ValueError(
            f"SAMPLES must be None or @sample_settings.SampleSettings(), got {samples!r}; give the "
            "captions with sample_settings.SampleSettings.prompts"
        )
    if not samples.period and not eval_period:
        raise ValueError(
            "SAMPLES are drawn at evaluations, and EVAL_PERIOD is 0; set "
            "sample_settings.SampleSettings.period"
        )


def _check_best(experiment: Any) -> None:
    """Raises ValueError if the checkpoints to keep cannot be told."""
    if not experiment.retention.best_metric:
        return
    if not experiment.eval_period:
        raise ValueError("BEST_METRIC needs EVAL_PERIOD, which is 0: nothing is evaluated")
    if experiment.checkpoint_period % experiment.eval_period:
        raise ValueError(
            f"CHECKPOINT_PERIOD {experiment.checkpoint_period} is no multiple of EVAL_PERIOD "
            f"{experiment.eval_period}, but BEST_METRIC compares checkpoints that were evaluated; "
            "set it to a multiple"
        )


def _check_rollback(experiment: Any) -> None:
    """Raises ValueError if the checkpoint to go back to could be gone by then."""
    kept, period = experiment.checkpoints_to_keep, experiment.checkpoint_period
    if experiment.nan_policy != nan_policies.ROLL_BACK or kept is None:
        return
    # The newest may be a signal's; of the regular ones before it, kept - 1 are there.
    if kept < 2 or experiment.rollback_steps > (kept - 2) * period + 1:
        least = -((1 - experiment.rollback_steps) // period) + 2
        raise ValueError(
            f"NAN_POLICY 'rollback' with ROLLBACK_STEPS {experiment.rollback_steps} needs "
            f"CHECKPOINTS_TO_KEEP of at least {least} (CHECKPOINT_PERIOD is {period}), got {kept}"
        )


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{name.upper()} must be a whole number of at least {least}, got {value!r}"
        )
