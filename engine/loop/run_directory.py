# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A training directory as a stage: what it holds, whether it is finished, its metrics.

```
checkpoint_<N>/   state and data position (parti.engine.checkpoints.checkpoints)
config.gin        the whole configuration          model.gin   what MODEL alone needs
data.json         the data that the first step read, and their order (`data_lineage`)
pictures/         what models show at evaluations, and samples
profile/          traces of steps (parti.engine.monitoring.profiling)
started.json      when the run was first started
metrics.jsonl     a line per log                   train/, validation/   TensorBoard
not_finite.jsonl  a line per step that was not finite and that the training survived
manifest.json     written last: without it the training is unfinished
```
"""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from parti.engine.checkpoints import checkpoints
from parti.engine.config import gin_text, provenance
from parti.engine.experiment import experiments, settings
from parti.engine.loop import data_lineage, nan_recovery
from parti.engine.monitoring import metrics_log, profiling, summary_writer, telemetry
from parti.models import base
from parti.stages import manifests
from parti.stages.version import VERSION

KIND = "training"
SCHEMA_VERSION = 1
MANIFEST, CONFIG, MODEL_CONFIG = manifests.FILE_NAME, provenance.CONFIG, provenance.MODEL_CONFIG
# In the order in which `clear` deletes: without a manifest a training is not finished, without a
# configuration a folder is not ours.
_OWN = (
    MANIFEST,
    MODEL_CONFIG,
    metrics_log.METRICS,
    nan_recovery.RECORD,
    telemetry.STARTED,
    provenance.DATA,
    profiling.FOLDER,
    summary_writer.PICTURES,
    "train",
    "validation",
    CONFIG,
)
# What a training may leave without a configuration: it was stopped, or T5X's was copied in part.
_LEFTOVERS = (
    MANIFEST,
    f"{CONFIG}.tmp",
    f"{checkpoints.STEP_PREFIX}_*",
    f"{checkpoints.DAMAGED_PREFIX}{checkpoints.STEP_PREFIX}_*",
)
# What is drawn while a training runs does not change it.
_IMMATERIAL_FUNCTION = "sample_settings.SampleSettings"


def check_ours(experiment: experiments.Experiment) -> None:
    """Raises ValueError unless the directory is new, empty or a training's."""
    folder = pathlib.Path(experiment.model_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"MODEL_DIR {folder} is a file; name a folder")
    _read_manifest(folder)
    if not folder.exists() or (folder / CONFIG).is_file():
        return
    foreign = sorted(
        path.name
        for path in folder.iterdir()
        if not path.name.startswith(".") and not any(path.match(p) for p in _LEFTOVERS)
    )
    if foreign:
        raise ValueError(
            f"MODEL_DIR {folder} is no training: it holds {foreign[0]!r} and no {CONFIG}; choose "
            "a new or empty folder, or move those files away"
        )


def is_finished(experiment: experiments.Experiment) -> bool:
    """Returns whether the directory already holds what the experiment would make.

    Raises:
      ValueError: it holds something else: another stage's output, more steps, or the same number of
        steps of another configuration or of other data.
    """
    folder = pathlib.Path(experiment.model_dir)
    taken = max(checkpoints.steps(folder), default=0)
    if taken > experiment.train_steps:
        raise ValueError(
            f"{folder} is at step {taken}, beyond TRAIN_STEPS {experiment.train_steps}; raise "
            "TRAIN_STEPS, choose another MODEL_DIR, or --overwrite to train from the start"
        )
    manifest = _read_manifest(folder)
    if manifest is None or manifest["counts"]["steps"] < experiment.train_steps:
        return False
    path = folder / CONFIG
    names = gin_text.bindings(path.read_text(encoding="utf-8")) if path.is_file() else {}
    # It sets fields of `Experiment` by name, as it no longer can.
    if any(name.startswith("experiments.Experiment.") for name in names):
        raise ValueError(
            f"{folder} holds a finished training of an earlier version of Parti: it can be used "
            "and exported, but not gone on from; choose another MODEL_DIR"
        )
    difference = config_difference(experiment)
    if difference:
        raise ValueError(
            f"{folder} holds a finished training of another configuration ({difference}); choose "
            "another MODEL_DIR, or --overwrite to train again"
        )
    # The data of a finished training may be gone, but not have changed.
    if made_again := [row for row in data_lineage.differing(experiment) if row[2]]:
        what, before, after = made_again[0]
        raise ValueError(
            f"{folder} holds a training finished on other data: the fingerprint of the {what} was "
            f"{before[:12]}, now it is {after[:12]}; --overwrite to train again, or choose another "
            "MODEL_DIR"
        )
    return True


def config_difference(experiment: experiments.Experiment) -> str:
    """Returns the first setting that differs from those the directory was made with, or ''."""
    path = pathlib.Path(experiment.model_dir) / CONFIG
    if not path.is_file():
        return ""
    before, now = _material(path.read_text(encoding="utf-8")), _material(experiment.config)
    for name in (*before, *now):
        old, new = (f"{name} = {b[name]!r}" if name in b else f"no {name}" for b in (before, now))
        if old != new:
            return f"{old}, now {new}"
    return ""


def start(experiment: experiments.Experiment, step: int = 0) -> None:
    """Makes the directory unfinished; writes the configuration and, at step 0, the data."""
    folder = pathlib.Path(experiment.model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name, text in ((CONFIG, experiment.config), (MODEL_CONFIG, experiment.model_config)):
        temporary = folder / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.rename(folder / name)
    if step == 0:
        data_lineage.write(experiment)


def clear(experiment: experiments.Experiment) -> None:
    """Deletes what an earlier training wrote, and nothing else; see `check_ours`."""
    folder = pathlib.Path(experiment.model_dir)
    check_ours(experiment)
    manifest, *others = (folder / name for name in _OWN)
    saved = [checkpoints.step_path(folder, step) for step in checkpoints.steps(folder)]
    saved += sorted(folder.glob(f"{checkpoints.DAMAGED_PREFIX}{checkpoints.STEP_PREFIX}_*"))
    for path in (manifest, *saved, *others):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def finish(experiment: experiments.Experiment, counts: Mapping[str, int], metrics: Any) -> None:
    """Writes the manifest, last; its fingerprint is that of the exported parameters."""
    folder = pathlib.Path(experiment.model_dir)
    # This run has just written it, or compared it with its checksums when it began.
    params, mutables, step = checkpoints.load_params(folder, verify=False)
    record = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "code_version": VERSION,
        "created_by": "parti train",
        "counts": {"steps": step, **counts},
        "settings": {
            name: getattr(experiment, name)
            for name in ("batch_size", "random_seed", "data_seed", "ema_decay")
        },
        "fingerprint": checkpoints.fingerprint(
            base.without_branches(
                base.join_variables(params, mutables), experiment.model.training_only
            ),
            experiment.model_config,
        ),
        "metrics": metrics,
        "notes": list(experiment.model.notes),
        # Noted when it began: by now the data may have been made again.
        "trained_on": data_lineage.trained_on(experiment),
    }
    manifests.write_json(folder / MANIFEST, record)


def _read_manifest(folder: pathlib.Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); choose another MODEL_DIR") from error
    kind = manifest.get("kind", "something else") if isinstance(manifest, dict) else "no record"
    if kind != KIND:
        raise ValueError(f"{folder} holds {kind}, not a training; choose another MODEL_DIR")
    counts = manifest.get("counts")
    if not isinstance(counts, dict) or not isinstance(counts.get("steps"), int):
        raise ValueError(
            f"{path} does not say how many steps were taken (counts.steps), so this code did not "
            "write it; choose another MODEL_DIR, or delete that file to go on from the checkpoints"
        )
    return manifest


def _material(config: str) -> dict[str, Any]:
    """Returns the bindings of a gin text that decide what is trained."""
    stated = settings.of(experiments.Experiment)
    immaterial = {name.upper() for name, setting in stated.items() if setting.immaterial}
    return {
        name: value
        for name, value in gin_text.bindings(config).items()
        if name not in immaterial
        and name.rpartition("/")[2].rpartition(".")[0] != _IMMATERIAL_FUNCTION
    }
