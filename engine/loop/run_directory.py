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

import fnmatch
import json
from collections.abc import Mapping
from typing import Any

from parti.engine.checkpoints import checkpoints
from parti.engine.config import gin_text, provenance
from parti.engine.experiment import experiments, settings
from parti.engine.loop import data_lineage, nan_recovery
from parti.engine.monitoring import metrics_log, profiling, summary_writer, telemetry
from parti.models import base
from parti.stages import files, manifests
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
    f"{CONFIG}.*{files.PARTIAL_SUFFIX}",
    f"{checkpoints.STEP_PREFIX}_*",
    f"{checkpoints.DAMAGED_PREFIX}{checkpoints.STEP_PREFIX}_*",
)
# What is drawn while a training runs does not change it.
_IMMATERIAL_FUNCTION = "sample_settings.SampleSettings"


def check_ours(experiment: experiments.Experiment) -> None:
    """Raises ValueError unless the directory is new, empty or a training's."""
    folder = experiment.model_dir
    if files.exists(folder) and not files.is_dir(folder):
        raise ValueError(f"MODEL_DIR {folder} is a file; name a folder")
    _read_manifest(folder)
    if files.exists(files.join(folder, CONFIG)):
        return
    foreign = [
        name
        for name in files.list_names(folder)
        if not name.startswith(".") and not any(fnmatch.fnmatchcase(name, p) for p in _LEFTOVERS)
    ]
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
    folder = experiment.model_dir
    taken = max(checkpoints.steps(folder), default=0)
    if taken > experiment.train_steps:
        raise ValueError(
            f"{folder} is at step {taken}, beyond TRAIN_STEPS {experiment.train_steps}; raise "
            "TRAIN_STEPS, choose another MODEL_DIR, or --overwrite to train from the start"
        )
    manifest = _read_manifest(folder)
    if manifest is None or manifest["counts"]["steps"] < experiment.train_steps:
        return False
    names = gin_text.bindings(_config(experiment) or "")
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
    if (config := _config(experiment)) is None:
        return ""
    before, now = _material(config), _material(experiment.config)
    for name in (*before, *now):
        old, new = (f"{name} = {b[name]!r}" if name in b else f"no {name}" for b in (before, now))
        if old != new:
            return f"{old}, now {new}"
    return ""


def _config(experiment: experiments.Experiment) -> str | None:
    """Returns the configuration that the directory was made with, if it is there."""
    path = files.join(experiment.model_dir, CONFIG)
    return files.read_bytes(path).decode("utf-8") if files.exists(path) else None


def start(experiment: experiments.Experiment, step: int = 0) -> None:
    """Makes the directory unfinished; writes the configuration and, at step 0, the data."""
    folder = experiment.model_dir
    files.make_dirs(folder)
    files.remove(files.join(folder, MANIFEST))
    for name, text in ((CONFIG, experiment.config), (MODEL_CONFIG, experiment.model_config)):
        files.write_bytes(files.join(folder, name), text.encode("utf-8"))
    if step == 0:
        data_lineage.write(experiment)


def clear(experiment: experiments.Experiment) -> None:
    """Deletes what an earlier training wrote, and nothing else; see `check_ours`."""
    folder = experiment.model_dir
    check_ours(experiment)
    manifest, *others = _OWN
    saved = [files.name(checkpoints.step_path(folder, n)) for n in checkpoints.steps(folder)]
    damaged = f"{checkpoints.DAMAGED_PREFIX}{checkpoints.STEP_PREFIX}_*"
    saved += fnmatch.filter(files.list_names(folder), damaged)
    for path in (files.join(folder, name) for name in (manifest, *saved, *others)):
        if files.is_dir(path):
            files.remove_tree(path)
        else:
            files.remove(path)


def finish(experiment: experiments.Experiment, counts: Mapping[str, int], metrics: Any) -> None:
    """Writes the manifest, last; its fingerprint is that of the exported parameters."""
    folder = experiment.model_dir
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
    manifests.write_json(files.join(folder, MANIFEST), record)


def _read_manifest(folder: str) -> dict[str, Any] | None:
    path = files.join(folder, MANIFEST)
    if not files.exists(path):
        return None
    try:
        manifest = json.loads(files.read_bytes(path))
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
