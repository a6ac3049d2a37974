# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A training directory as a stage: what it holds, whether it is finished, its metrics.

```
checkpoint_<N>/   state and data position (parti.engine.checkpoints)
config.gin        the whole configuration          model.gin   what MODEL alone needs
metrics.jsonl     a line per log                   train/, validation/   TensorBoard
manifest.json     written last: without it the training is unfinished
```
"""

import difflib
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from parti import __version__
from parti.engine import checkpoints, experiments, predict, progress

KIND = "training"
SCHEMA_VERSION = 1
MANIFEST, CONFIG, MODEL_CONFIG = predict.MANIFEST, predict.FULL_CONFIG, predict.MODEL_CONFIG
METRICS = "metrics.jsonl"
_OWN = (MANIFEST, CONFIG, MODEL_CONFIG, METRICS, "train", "validation")
# A finished training stays finished whatever these say.
_IMMATERIAL = (
    "MODEL_DIR",
    "CHECKPOINT_PERIOD",
    "CHECKPOINTS_TO_KEEP",
    "EVAL_PERIOD",
    "EVAL_STEPS",
    "LOG_PERIOD",
    "TENSORBOARD",
)


def is_finished(experiment: experiments.Experiment) -> bool:
    """Returns whether the directory already holds what the experiment would make.

    Raises:
      ValueError: it holds something else: another stage's output, more steps, or the same number of
        steps of another configuration.
    """
    folder = pathlib.Path(experiment.model_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"MODEL_DIR {folder} is a file; name a folder")
    taken = max(checkpoints.steps(folder), default=0)
    if taken > experiment.train_steps:
        raise ValueError(
            f"{folder} is at step {taken}, beyond TRAIN_STEPS {experiment.train_steps}; raise "
            "TRAIN_STEPS, choose another MODEL_DIR, or --overwrite to train from the start"
        )
    manifest = _read_manifest(folder)
    if manifest is None or manifest["counts"]["steps"] < experiment.train_steps:
        return False
    difference = config_difference(experiment)
    if difference:
        raise ValueError(
            f"{folder} holds a finished training of another configuration ({difference}); choose "
            "another MODEL_DIR, or --overwrite to train again"
        )
    return True


def config_difference(experiment: experiments.Experiment) -> str:
    """Returns the first setting that differs from those the directory was made with, or ''."""
    path = pathlib.Path(experiment.model_dir) / CONFIG
    if not path.is_file():
        return ""
    old, new = (_settings(t) for t in (path.read_text(encoding="utf-8"), experiment.config))
    changed = [line for line in difflib.ndiff(old, new) if line[:2] in ("- ", "+ ")]
    if not changed:
        return ""
    name = changed[0][2:].split(" = ")[0]
    before = next((line for line in old if line.split(" = ")[0] == name), f"no {name}")
    after = next((line for line in new if line.split(" = ")[0] == name), f"no {name}")
    return f"{before}, now {after}"


def start(experiment: experiments.Experiment) -> None:
    """Makes the directory unfinished and writes the configuration."""
    folder = pathlib.Path(experiment.model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name, text in ((CONFIG, experiment.config), (MODEL_CONFIG, experiment.model_config)):
        temporary = folder / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.rename(folder / name)


def clear(experiment: experiments.Experiment) -> None:
    """Deletes what an earlier training wrote, and nothing else.

    Raises:
      ValueError: the directory holds the output of another stage.
    """
    folder = pathlib.Path(experiment.model_dir)
    _read_manifest(folder)
    # The manifest first: a half-deleted training must not look finished.
    own = [folder / name for name in _OWN]
    own += [checkpoints.step_path(folder, step) for step in checkpoints.steps(folder)]
    own += sorted(folder.glob(f"damaged-{checkpoints.STEP_PREFIX}_*"))
    for path in own:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def finish(experiment: experiments.Experiment, counts: Mapping[str, int], metrics: Any) -> None:
    """Writes the manifest, last; its fingerprint is that of the exported parameters."""
    folder = pathlib.Path(experiment.model_dir)
    params, mutables, step = checkpoints.load_params(folder)
    record = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "code_version": __version__,
        "created_by": "parti train",
        "counts": {"steps": step, **counts},
        "settings": {
            "batch_size": experiment.batch_size,
            "random_seed": experiment.random_seed,
            "data_seed": experiment.data_seed,
            "ema_decay": experiment.ema_decay,
        },
        "fingerprint": checkpoints.fingerprint(
            {"params": params, **mutables}, experiment.model_config
        ),
        "metrics": metrics,
        # Noted now, for the data may be gone when the model is used.
        "trained_on": predict.data_fingerprints(experiment.config),
    }
    progress.write_json(str(folder / MANIFEST), record)


class MetricsLog:
    """metrics.jsonl: a JSON object per line, `step` and `split` first."""

    def __init__(self, directory: str | pathlib.Path, step: int) -> None:
        """Opens the log; lines of steps after `step`, of a run that was cut off, are dropped."""
        self._path = pathlib.Path(directory) / METRICS
        kept = []
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
        self._path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends a line."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")


def _read_manifest(folder: pathlib.Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("kind") != KIND:
        raise ValueError(
            f"{folder} holds {manifest.get('kind', 'something else')}, not a training; choose "
            "another MODEL_DIR"
        )
    return manifest


def _settings(config: str) -> list[str]:
    """Returns the statements of a gin text that decide what is trained, one a line."""
    joined = config.replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in joined.splitlines()]
    return [
        line
        for line in lines
        if line and not line.startswith("#") and line.split(" = ")[0] not in _IMMATERIAL
    ]


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # Half a line: the process was killed while it wrote.
