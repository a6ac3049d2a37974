# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""gin files in, one `Experiment` out.

The order is: the engine's run file, experiment files, `--gin.NAME=VALUE` bindings; later ones win.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gin

from parti.engine.checkpoints import retention
from parti.engine.config import gin_config, gin_errors, gin_text
from parti.engine.experiment import checks, nan_policies, sample_settings, settings, warm_start
from parti.engine.input import datasets

RUN_FILE = "t5x_configs/runs/embedded/train.gin"

_PATH = settings.Allowed("a path in quotes", lambda value: isinstance(value, str) and value != "")
_FROM_0, _FROM_1 = settings.whole_number(0), settings.whole_number(1)
_BELOW_1 = settings.Allowed("in [0, 1)", lambda value: 0 <= value < 1)
_SEED = settings.Allowed("a whole number", lambda value: isinstance(value, int))
_NOT_NEGATIVE = settings.Allowed("0 or more", lambda value: value >= 0)
_FIRST_AND_LAST = settings.Allowed(
    "None or (first, last), steps from 1 on",
    lambda steps: (
        steps is None
        or (
            all(isinstance(n, int) for n in steps) and len(steps) == 2 and 1 <= steps[0] <= steps[1]
        )
    ),
)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What to train, on what, for how long: a field for each engine setting; macros fill it.

    `nan_policy`: see `nan_policies`; `checkpoints_to_keep` to `best_mode`: see `retention`.
    `config` and `model_config` are gin texts: everything, and what MODEL alone needs.
    """

    model: Any = settings.field("the model; a file of models/ sets it", t5x=True)
    data_source: datasets.Source = settings.field("runs/ makes it a seqio task's", t5x=True)
    optimizer: Any = settings.field("an optax transformation", t5x=True)
    model_dir: str = settings.field(
        "where the training is kept", allowed=_PATH, immaterial=True, t5x=True
    )
    train_steps: int = settings.field("of the whole run", allowed=_FROM_1, t5x=True)
    batch_size: int = settings.field("examples a step, over all devices", allowed=_FROM_1, t5x=True)
    learning_rate: float | Callable[[int], Any] | None = settings.field(
        "the schedule OPTIMIZER uses, named again so that it is logged", None, t5x=True
    )
    random_seed: int = settings.field("of initialization and dropout", 0, allowed=_SEED, t5x=True)
    data_seed: int = settings.field("of shuffling", 0, allowed=_SEED, t5x=True)
    num_microbatches: int = settings.field(
        "parts of a batch over which gradients are averaged", 1, allowed=_FROM_1, t5x=True
    )
    ema_decay: float = settings.field(
        "moving average of the parameters; 0: none", 0.0, allowed=_BELOW_1, t5x=True
    )
    mesh_shape: Sequence[int] | None = settings.field(
        "devices along each axis, -1: what is left; None: all on the first", None, t5x=True
    )
    mesh_axes: Sequence[str] = settings.field(
        "these three are a layout; t5x_configs/layouts/ has named ones", ("data", "model"), t5x=True
    )
    logical_axis_rules: Sequence[tuple[str, Any]] | None = settings.field(
        "in order of precedence; None: those of engine/distributed/partitioning.py", None, t5x=True
    )
    checkpoint_period: int = settings.field(
        "steps; there is always one at the end", 1000, allowed=_FROM_1, immaterial=True, t5x=True
    )
    checkpoints_to_keep: int | None = settings.field(
        "the newest and those before it; None: all",
        2,
        allowed=settings.whole_number(1, or_none=True),
        immaterial=True,
        t5x=True,
    )
    eval_period: int = settings.field(
        "steps; 0: never", 1000, allowed=_FROM_0, immaterial=True, t5x=True
    )
    eval_steps: int = settings.field("batches", 10, allowed=_FROM_1, immaterial=True, t5x=True)
    log_period: int = settings.field("steps", 50, allowed=_FROM_1, immaterial=True, t5x=True)
    initial: warm_start.WarmStart | None = settings.field(
        "@warm_start.WarmStart(): branches that a finished training gives",
        None,
        allowed=settings.none_or(
            warm_start.WarmStart, "name the training with warm_start.WarmStart.path"
        ),
        t5x=True,
    )
    keep_checkpoint_period: int = settings.field(
        "those at multiples of it stay for good; 0: none does", 0, allowed=_FROM_0, immaterial=True
    )
    best_metric: str = settings.field(
        "the checkpoint with its best validation value stays; '': none", "", immaterial=True
    )
    best_mode: str = settings.field(
        "whether the best is the 'min' or the 'max'", "min", immaterial=True
    )
    tensorboard: bool = settings.field("also writes TensorBoard files", True, immaterial=True)
    samples: sample_settings.SampleSettings | None = settings.field(
        "@sample_settings.SampleSettings(): pictures of fixed prompts at evaluations",
        None,
        allowed=settings.none_or(
            sample_settings.SampleSettings,
            "give the captions with sample_settings.SampleSettings.prompts",
        ),
        immaterial=True,
    )
    nan_policy: str = settings.field(
        "at a loss or gradient that is not finite; or 'skip', 'rollback'",
        nan_policies.STOP,
        allowed=settings.one_of(nan_policies.POLICIES),
    )
    max_skipped_steps: int = settings.field(
        "'skip': more of them in a row stop the training", 10, allowed=_FROM_0, immaterial=True
    )
    rollback_steps: int = settings.field(
        "'rollback': go back at least this many steps, past the data since",
        1,
        allowed=_FROM_1,
        immaterial=True,
    )
    max_rollbacks: int = settings.field(
        "'rollback': one more in the whole run stops it", 10, allowed=_FROM_1, immaterial=True
    )
    watchdog_seconds: float = settings.field(
        "longer without progress: the log says which host hangs where; 0: never",
        1800.0,
        allowed=_NOT_NEGATIVE,
        immaterial=True,
    )
    watchdog_abort: bool = settings.field(
        "and the process ends with exit code 75", False, immaterial=True
    )
    profile_steps: Sequence[int] | None = settings.field(
        "(first, last): a trace of these steps; SIGUSR1: of the next 5",
        None,
        allowed=_FIRST_AND_LAST,
        immaterial=True,
    )
    config: str = ""
    model_config: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a value that is not allowed; see `checks`."""
        checks.check(self)

    @property
    def retention(self) -> retention.Retention:
        """Which checkpoints stay."""
        kept = self.checkpoints_to_keep, self.checkpoint_period, self.keep_checkpoint_period
        return retention.Retention(*kept, self.best_metric, self.best_mode)


def load_experiment(
    gin_files: Sequence[str], bindings: Sequence[str] = (), run_file: str = RUN_FILE
) -> Experiment:
    """Reads an experiment: gin files, in order, then bindings such as "MODEL_DIR='runs/a'".

    The run file comes first. A path beginning with `t5x_configs/` resolves from any working
    directory.

    Raises:
      ValueError: a name or value is wrong; the message is one line that says what to do.
      FileNotFoundError: a file is missing.
    """
    with gin_config.empty(), gin_errors.one_line():
        _parse(gin_files, bindings, run_file)
        config = gin.config_str()
        model = gin_config.evaluate_macro("MODEL")
        model_config = gin_text.without_unused_imports(gin.operative_config_str())
        return from_macros(model=model, config=config, model_config=model_config)


def from_macros(**given: Any) -> Experiment:
    """Returns what gin's present configuration describes; fields `given` are not asked of macros.

    Raises:
      ValueError: a macro is not set, or its value is not allowed.
    """
    names = {name.upper(): name for name in settings.of(Experiment) if name not in given}
    values = gin_config.evaluate_macros(names)
    return Experiment(**given, **{names[macro]: value for macro, value in values.items()})


def check_experiment(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> None:
    """Checks, and raises, as `load_experiment` does; the data need not be there yet."""
    with gin_config.empty(), gin_errors.one_line():
        _parse(gin_files, bindings)
        from_macros(data_source=None)


def load_without_data(
    gin_files: Sequence[str], bindings: Sequence[str] = ()
) -> tuple[Experiment, dict[str, int]]:
    """Returns what `load_experiment` does, without a data source, and TASK_FEATURE_LENGTHS."""
    with gin_config.empty(), gin_errors.one_line():
        _parse(gin_files, bindings)
        experiment = from_macros(data_source=None)
        return experiment, dict(gin_config.evaluate_macro("TASK_FEATURE_LENGTHS"))


def _parse(gin_files: Sequence[str], bindings: Sequence[str], run_file: str = RUN_FILE) -> None:
    """Reads the run file, experiment files and bindings; only macros may set a field."""
    check_fields_unbound(binding.partition("=")[0].strip() for binding in bindings)
    gin_config.parse([run_file, *gin_files], bindings)
    check_fields_unbound(gin_text.bindings(gin.config_str()))


def check_fields_unbound(names: Iterable[str]) -> None:
    """Raises ValueError if a parameter of `Experiment` is among names: gin does not build it."""
    for name in names:
        if (found := name.rpartition("."))[0].endswith("experiments.Experiment"):
            raise ValueError(f"{name} has no effect; set the macro {found[2].upper()} instead")


def macros_text() -> str:
    """Returns `t5x_configs/runs/settings.gin`."""
    return settings.gin_text(Experiment)
