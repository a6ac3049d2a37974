# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""gin files in, one `Experiment` out; the only module of the engine that reads gin.

gin's configuration is global, so each function here takes a lock and clears it first. The order is:
the engine's run file, experiment files, `--gin.NAME=VALUE` bindings; later values win.
"""

# gin 0.5 uses importlib.util without importing it.
import importlib.util  # noqa: F401  isort: skip

import copy
import dataclasses
import logging
import pathlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gin

from parti.engine import datasets, experiment_checks, gin_errors, not_finite, retention
from parti.engine import initial as initials
from parti.engine import samples as drawn_samples

RUN_FILE = "t5x_configs/runs/embedded/train.gin"

_lock = threading.RLock()
_UNSET_LINE = re.compile(r"^(\w+) = %gin\.REQUIRED$", re.MULTILINE)
_IMPORT_LINE = re.compile(r"^(?:from [\w.]+ )?import ([\w.]+)(?: as (\w+))?$")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What to train, on what, for how long; macros of the gin files fill it.

    `learning_rate` (a number or a schedule) is only logged: the optimizer has its own. `initial` is
    what the first step starts from, and not the model's own start. `nan_policy`: see `not_finite`;
    `checkpoints_to_keep` to `best_mode`: see `retention`.
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
    initial: initials.Initial | None = None
    samples: drawn_samples.Samples | None = None
    nan_policy: str = not_finite.STOP
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
    with _gin(), gin_errors.one_line():
        _parse([RUN_FILE, *gin_files], bindings)
        config = gin.config_str()
        model = _evaluate_macro("MODEL")
        model_config = _without_unused_imports(gin.operative_config_str())
        with _no_unset_macros():
            experiment = gin.get_configurable(Experiment)(model=model)
        return dataclasses.replace(experiment, config=config, model_config=model_config)


def check_experiment(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> None:
    """Checks what `load_experiment` would read, but for its data, which need not be there yet.

    Raises:
      ValueError, FileNotFoundError: see `load_experiment`.
    """
    with _gin(), gin_errors.one_line():
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
    with _gin(), gin_errors.one_line():
        experiment = _read_without_data(gin_files, bindings)
        return experiment, dict(_evaluate_macro("TASK_FEATURE_LENGTHS"))


def model_from_config(config: str | pathlib.Path) -> Any:
    """Builds MODEL, and nothing else, from an exported configuration.

    Args:
      config: gin text, or the path of a gin file such as `<train dir>/model.gin`.

    Raises:
      ValueError: the text does not define a model.
      FileNotFoundError: the file is missing.
    """
    text = _read(config)
    with _gin(), gin_errors.one_line():
        gin.parse_config(text)
        return _evaluate_macro("MODEL")


def _read_without_data(gin_files: Sequence[str], bindings: Sequence[str]) -> Experiment:
    _parse([RUN_FILE, *gin_files], bindings)
    model = _evaluate_macro("MODEL")
    with _no_unset_macros():
        # gin evaluates what it knows of arguments given by name, but not by position.
        return gin.get_configurable(Experiment)(model, None)


@contextmanager
def _gin() -> Iterator[None]:
    """Holds gin's global configuration, empty at entry and exit."""
    with _lock:
        gin.clear_config()
        root = str(_config_root())
        if root not in gin.config._LOCATION_PREFIXES:  # gin has no public way to ask.
            gin.add_config_file_search_path(root)
        try:
            yield
        finally:
            gin.clear_config()


def _config_root() -> pathlib.Path:
    """Returns the folder that holds `t5x_configs/`."""
    spec = importlib.util.find_spec("parti.t5x_configs")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("the package parti.t5x_configs is not installed; run `pip install -e .`")
    return pathlib.Path(next(iter(spec.submodule_search_locations))).parent


def _parse(gin_files: Sequence[str], bindings: Sequence[str]) -> None:
    standard: set[str] | None = None
    for path in gin_files:
        _check_file(path)
        logging.disable(logging.ERROR)  # gin logs each place where it looks for an include.
        try:
            gin.parse_config_file(path)
        finally:
            logging.disable(logging.NOTSET)
        if standard is None:  # Those of the run file, some of which a model may not have.
            standard = set(gin_errors.MACRO_LINE.findall(gin.config_str()))
    known = set(gin_errors.MACRO_LINE.findall(gin.config_str()))
    gin_errors.check_macros(gin.config_str(), standard or set())
    for binding in bindings:
        name, equals, value = (part.strip() for part in binding.partition("="))
        if not equals or not name:
            raise ValueError(f"--gin.{binding}: write --gin.NAME=VALUE")
        if name.isidentifier() and name not in known:
            hint = gin_errors.suggest(name, known)
            raise ValueError(f"--gin.{name}: no gin file sets a macro of that name{hint}")
        try:
            gin.parse_config(f"{name} = {value}")
        except SyntaxError as error:
            quoted = f"; a text needs quotes of its own: --gin.{name}=\"'{value}'\""
            raise ValueError(
                f"--gin.{name}={value} is not a Python literal or gin reference{quoted}"
            ) from error


def _check_file(path: str) -> None:
    candidates = [pathlib.Path(path)]
    if not candidates[0].is_absolute():
        candidates.append(_config_root() / path)
    if any(candidate.is_file() for candidate in candidates):
        return
    folders = [candidate.parent for candidate in candidates]
    names = {p.name for folder in folders if folder.is_dir() for p in folder.glob("*.gin")}
    hint = gin_errors.suggest(pathlib.Path(path).name, names)
    raise FileNotFoundError(f"no gin file {path}{hint}")


def _evaluate_macro(name: str) -> Any:
    with _no_unset_macros():
        # Copying a reference evaluates it; that is how gin itself does it.
        return copy.deepcopy(gin.config.parse_value(f"%{name}"))


@contextmanager
def _no_unset_macros() -> Iterator[None]:
    """Refuses macros still `%gin.REQUIRED` among those that the block evaluates."""
    failure: Exception | None = None
    try:
        yield
    except TypeError as error:
        if match := re.search(r"^macro\(\) missing 1.*in scope '(\w+)'", str(error), re.DOTALL):
            raise ValueError(_unset(match.group(1))) from error
        failure = error
    except Exception as error:
        failure = error
    if unset := _UNSET_LINE.findall(gin.operative_config_str()):
        raise ValueError(_unset(unset[0])) from failure
    if failure is not None:
        raise failure


def _unset(name: str) -> str:
    return f"{name} is not set; set it in the experiment file or with --gin.{name}=VALUE"


def _read(config: str | pathlib.Path) -> str:
    is_path = isinstance(config, pathlib.Path) or ("\n" not in config and config.endswith(".gin"))
    return pathlib.Path(config).read_text(encoding="utf-8") if is_path else str(config)


def _without_unused_imports(text: str) -> str:
    """Drops the imports that nothing in a configuration names, such as those of data tasks."""
    lines = text.splitlines()
    body = "\n".join(line for line in lines if not _IMPORT_LINE.match(line))

    def used(line: str) -> bool:
        match = _IMPORT_LINE.match(line)
        if not match or line.startswith("from __gin__"):
            return True
        return (
            re.search(rf"(?<![\w.]){re.escape(match.group(2) or match.group(1))}\.", body)
            is not None
        )

    return "\n".join(line for line in lines if used(line)).strip() + "\n"
