# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""gin files in, one `Experiment` out.

The order is: the engine's run file, experiment files, `--gin.NAME=VALUE` bindings; later ones win.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import gin

from parti.engine.checkpoints import retention
from parti.engine.config import gin_config, gin_errors
from parti.engine.experiment import checks as experiment_checks
from parti.engine.experiment import nan_policies, sample_settings, warm_start
from parti.engine.input import datasets

RUN_FILE = "t5x_configs/runs/embedded/train.gin"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What to train, on what, for how long; macros of the gin files fill it.

    `learning_rate` (a number or a schedule) is only logged: the optimizer has its own. `initial` is
    what the first step starts from instead of the model's own start. `nan_policy`: see
    `nan_policies`; `checkpoints_to_keep` to `best_mode`: see `retention`.
    `config` and `model_config` are gin texts: everything, and what MODEL alone needs.
    """

    model: Any
    data_source: datasets.Source
    optimizer: Any
    model_dir: str
    train_steps: int
    batch_size: int
    learning_rate: float | Callable[[int], Any] | None = None
    random_seed: int = 0
    data_seed: int = 0
    num_microbatches: int = 1
    ema_decay: float = 0.0
    mesh_shape: Sequence[int] | None = None
    mesh_axes: Sequence[str] = ("data", "model")
    logical_axis_rules: Sequence[tuple[str, Any]] | None = None
    checkpoint_period: int = 1000
    checkpoints_to_keep: int | None = 2
    keep_checkpoint_period: int = 0
    best_metric: str = ""
    best_mode: str = "min"
    eval_period: int = 0
    eval_steps: int = 1
    log_period: int = 50
    tensorboard: bool = True
    initial: warm_start.WarmStart | None = None
    samples: sample_settings.SampleSettings | None = None
    nan_policy: str = nan_policies.STOP
    max_skipped_steps: int = 10
    rollback_steps: int = 1
    max_rollbacks: int = 10
    watchdog_seconds: float = 1800.0
    watchdog_abort: bool = False
    profile_steps: Sequence[int] | None = None
    config: str = ""
    model_config: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a value that is not allowed; see `experiment_checks`."""
        experiment_checks.check(self)

    @property
    def retention(self) -> retention.Retention:
        """Which checkpoints stay."""
        return retention.Retention(
            keep=self.checkpoints_to_keep,
            period=self.checkpoint_period,
            keep_period=self.keep_checkpoint_period,
            best_metric=self.best_metric,
            best_mode=self.best_mode,
        )


def load_experiment(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> Experiment:
    """Reads an experiment.

    Args:
      gin_files: experiment files, in order. A path beginning with `t5x_configs/` resolves from
        any working directory.
      bindings: `NAME=VALUE` with VALUE in gin's syntax, such as "MODEL_DIR='runs/a'".

    Raises:
      ValueError: a name or value is wrong; the message is one line that says what to do.
      FileNotFoundError: a file is missing.
    """
    with gin_config.empty(), gin_errors.one_line():
        gin_config.parse([RUN_FILE, *gin_files], bindings)
        config = gin.config_str()
        model = gin_config.evaluate_macro("MODEL")
        model_config = gin_config.without_unused_imports(gin.operative_config_str())
        with gin_config.no_unset_macros():
            experiment = gin.get_configurable(Experiment)(model=model)
        return dataclasses.replace(experiment, config=config, model_config=model_config)


def check_experiment(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> None:
    """Checks what `load_experiment` would read, but for its data, which need not be there yet.

    Raises:
      ValueError, FileNotFoundError: see `load_experiment`.
    """
    with gin_config.empty(), gin_errors.one_line():
        _read_without_data(gin_files, bindings)


def load_without_data(
    gin_files: Sequence[str], bindings: Sequence[str] = ()
) -> tuple[Experiment, dict[str, int]]:
    """Reads an experiment but for its data, which need not be there.

    Returns:
      The experiment, with None as its data source, and TASK_FEATURE_LENGTHS.

    Raises:
      ValueError, FileNotFoundError: see `load_experiment`.
    """
    with gin_config.empty(), gin_errors.one_line():
        experiment = _read_without_data(gin_files, bindings)
        return experiment, dict(gin_config.evaluate_macro("TASK_FEATURE_LENGTHS"))


def _read_without_data(gin_files: Sequence[str], bindings: Sequence[str]) -> Experiment:
    gin_config.parse([RUN_FILE, *gin_files], bindings)
    model = gin_config.evaluate_macro("MODEL")
    with gin_config.no_unset_macros():
        # gin evaluates what it knows of arguments given by name, but not by position.
        return gin.get_configurable(Experiment)(model, None)
