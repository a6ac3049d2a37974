# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""How the settings of an `experiments.Experiment` fit together, before anything uses a device."""

import os
import re
from typing import Any

from parti.engine.checkpoints import orbax_paths
from parti.engine.experiment import nan_policies, settings
from parti.stages import files


def check(experiment: Any) -> None:
    """Raises ValueError, with the macro, unless settings are allowed by themselves and together."""
    settings.check(experiment)
    check_folder("MODEL_DIR", experiment.model_dir)
    if experiment.samples and not (experiment.samples.period or experiment.eval_period):
        raise ValueError(
            "SAMPLES are drawn at evaluations, and EVAL_PERIOD is 0; set "
            "sample_settings.SampleSettings.period"
        )
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
            "in parts it would be another loss. Set it to 1; CONTRASTIVE_MICROBATCHES (if the "
            "model has it), remat or more devices save memory"
        )
    parts = experiment.model.loss_parts or 1
    if experiment.batch_size // experiment.num_microbatches % parts:
        raise ValueError(
            f"BATCH_SIZE {experiment.batch_size} does not divide into CONTRASTIVE_MICROBATCHES "
            f"{parts} equal parts"
        )


def check_folder(name: str, folder: files.Path) -> None:
    """Raises ValueError for a folder that checkpoints cannot be written to.

    TensorStore takes UTF-8 only, and a backslash for a slash: it would write to another folder.
    """
    address = os.fspath(folder)
    if "://" in address and not address.startswith(orbax_paths.SCHEME):
        raise ValueError(
            f"{name} {address!r}: checkpoints are written to local folders and to "
            f"{orbax_paths.SCHEME}; name one of these, such as a bucket mounted as a folder"
        )
    path = files.absolute(folder)
    if not files.is_utf8(path) or re.search(r"[\x00-\x1f\x7f\\]", path):
        raise ValueError(
            f"{name} {path!r}: checkpoints cannot be written to a folder whose name holds a "
            "backslash, a control character or bytes that are not UTF-8; name another"
        )
    if not files.is_remote(path):
        return
    if "/" not in path.removeprefix(orbax_paths.SCHEME):
        raise ValueError(f"{name} {path!r} is a whole bucket; name a folder in it, {path}/run")
    if re.search(r"[*?#\[\]]|//|/\.{1,2}(/|$)", path.removeprefix(orbax_paths.SCHEME)):
        raise ValueError(
            f"{name} {path!r}: Orbax takes * ? # [ ] // and /./ in an address for something else; "
            "name another folder"
        )


def _check_best(experiment: Any) -> None:
    """Raises ValueError if checkpoints are not evaluated, so that none is the best."""
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
