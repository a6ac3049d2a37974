# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""data.json: the data that the first step of a training read, and their order.

A position in the data means nothing in other data, or in the same ones in another order. So a
training that goes on has the same, and a finished one keeps what its data were.
"""

import json
from typing import Any

import jax

from parti.engine.checkpoints import checkpoints
from parti.engine.config import gin_text, provenance
from parti.engine.experiment import experiments
from parti.stages import files, manifests
from parti.stages.version import VERSION

_FINGERPRINT = "_fingerprint"
_SOURCES = ("MIXTURE_OR_TASK_NAME", "DATA_SOURCE")


def write(experiment: experiments.Experiment) -> None:
    """Notes what the first step reads."""
    record = fingerprints(experiment) | {"order": _order(experiment)}
    manifests.write_json(files.join(experiment.model_dir, provenance.DATA), record)


def trained_on(experiment: experiments.Experiment) -> dict[str, str]:
    """Returns the fingerprints of what the first step read: by now there may be other data."""
    recorded = _read(experiment)
    if not recorded:
        return fingerprints(experiment)  # Begun by code that did not note it.
    return {name: value for name, value in recorded.items() if name.endswith(_FINGERPRINT)}


def differing(experiment: experiments.Experiment) -> list[tuple[str, str, str]]:
    """Returns (what, fingerprint at the first step, fingerprint now or '') of data that differ."""
    recorded = _read(experiment)
    now = fingerprints(experiment) if recorded else {}
    return [
        (name.removesuffix(_FINGERPRINT), before, now.get(name, ""))
        for name, before in sorted(recorded.items())
        if name.endswith(_FINGERPRINT) and now.get(name) != before
    ]


def check(experiment: experiments.Experiment) -> None:
    """Raises ValueError if a checkpoint is there, and data or order are not the first step's."""
    folder = experiment.model_dir
    if not checkpoints.steps(folder):
        return
    # What the first step started from is not read again.
    for what, before, after in (row for row in differing(experiment) if row[0] != "initial"):
        raise ValueError(
            f"{folder} was trained on other data: the fingerprint of the {what} was "
            f"{before[:12]}, now it is {after[:12] or 'unknown'}; --overwrite to train again, "
            "choose another MODEL_DIR, or put the old data back"
        )
    now, recorded = _order(experiment), _read(experiment).get("order", {})
    for name in sorted(now.keys() & recorded.keys()):
        if now[name] != recorded[name]:
            raise ValueError(
                f"{name} was {recorded[name]} when {folder} was begun, now it is {now[name]}, and "
                "the position in the data would be another one; set it back, or choose another "
                "MODEL_DIR with INITIAL to start from these parameters"
            )


def inputs(experiment: experiments.Experiment) -> dict[str, str]:
    """Returns {what: text} of what all processes of a training share, with the configuration."""
    started = bool(checkpoints.steps(experiment.model_dir))
    data = {
        "fingerprints": fingerprints(experiment, with_initial=not started),
        "files": provenance.data_files(experiment.config),
    }
    return {
        "the version of parti or jax": f"{VERSION} {jax.__version__}",
        "the data (fingerprints, or names and sizes of files)": json.dumps(data, sort_keys=True),
    }


def fingerprints(experiment: experiments.Experiment, with_initial: bool = True) -> dict[str, str]:
    """Returns those of the data, of the model's constants and of what INITIAL names; if there."""
    found = provenance.data_fingerprints(experiment.config)
    if constants := experiment.model.constants:
        found["constants_fingerprint"] = checkpoints.fingerprint(constants, "")
    if with_initial and experiment.initial and (initial := experiment.initial.fingerprint()):
        found["initial_fingerprint"] = initial
    return found


def _order(experiment: experiments.Experiment) -> dict[str, Any]:
    """Returns the settings that the order of the data depends on."""
    order: dict[str, Any] = {"BATCH_SIZE": experiment.batch_size, "DATA_SEED": experiment.data_seed}
    macros = gin_text.macros(experiment.config)
    order |= {name: repr(macros[name]) for name in _SOURCES if name in macros}
    return order | provenance.mixing_rates(experiment.config)


def _read(experiment: experiments.Experiment) -> dict[str, Any]:
    path = files.join(experiment.model_dir, provenance.DATA)
    return json.loads(files.read_bytes(path)) if files.exists(path) else {}
