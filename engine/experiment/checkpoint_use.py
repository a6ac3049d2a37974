# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What `parti eval` and `parti infer` do with a checkpoint: the macros of their run files."""

import dataclasses

from parti.engine.config import gin_text, provenance
from parti.engine.experiment import experiments, settings, warm_start
from parti.engine.input import datasets

EVAL_RUN_FILE = "t5x_configs/runs/embedded/eval.gin"
INFER_RUN_FILE = "t5x_configs/runs/embedded/infer.gin"
# {INFER_MODE: the model's method, as T5X names them}
MODES = {"score": "score_batch", "predict": "predict_batch"}

_MOST = 2**40  # examples: all
_COMPARED = ("tokenizer", "vocabulary")  # what data and checkpoint must share
_PATH = settings.Allowed("a path in quotes", lambda value: isinstance(value, str) and value != "")


@dataclasses.dataclass(frozen=True)
class CheckpointUse:
    """Which checkpoint is used on which data, and where the results go; as the macros say."""

    path: str  # CHECKPOINT_PATH; see `warm_start.WarmStart`
    output: str  # EVAL_OUTPUT_DIR or INFER_OUTPUT_DIR
    split: str  # SPLIT
    num_examples: int | None  # NUM_EXAMPLES of each data set; None is all
    mode: str = ""  # INFER_MODE

    def limit(self, experiment: experiments.Experiment) -> experiments.Experiment:
        """Returns an experiment that evaluates on these examples alone."""
        steps = -(-(self.num_examples or _MOST) // experiment.batch_size)
        return dataclasses.replace(experiment, eval_steps=steps, eval_period=1)


def of(experiment: experiments.Experiment) -> CheckpointUse:
    """Returns what an experiment that was loaded with one of the two run files asks for.

    Raises:
      ValueError: a macro is not set or not allowed, or the checkpoint was trained with another
        image tokenizer or vocabulary than that of the data.
    """
    macros = gin_text.macros(experiment.config)
    infers = "INFER_OUTPUT_DIR" in macros
    output = "INFER_OUTPUT_DIR" if infers else "EVAL_OUTPUT_DIR"
    for macro in ("CHECKPOINT_PATH", output, "SPLIT"):
        if macros.get(macro) == gin_text.UNSET:
            raise ValueError(f"{macro} is not set; set it with --gin.{macro}=\"'...'\"")
        _PATH.check(macro, macros.get(macro))
    settings.whole_number(1, or_none=True).check("NUM_EXAMPLES", macros.get("NUM_EXAMPLES"))
    if infers:
        settings.one_of(tuple(MODES)).check("INFER_MODE", macros["INFER_MODE"])
        if macros["SPLIT"] == datasets.TRAIN:
            raise ValueError(
                "SPLIT is 'train', whose captions are drawn and dropped at random; infer on "
                "'validation', or name the data in a split of that name"
            )
    use = CheckpointUse(
        macros["CHECKPOINT_PATH"],
        macros[output],
        macros["SPLIT"],
        macros.get("NUM_EXAMPLES"),
        macros.get("INFER_MODE", ""),
    )
    _check_data(use.path, experiment.config)
    return use


def _check_data(path: str, config: str) -> None:
    """Raises ValueError if a checkpoint was trained with another tokenizer or vocabulary."""
    before = warm_start.WarmStart(path).trained_on()
    now = provenance.data_fingerprints(config)
    for what in _COMPARED:
        theirs, ours = (prints.get(f"{what}_fingerprint") for prints in (before, now))
        if theirs and ours and theirs != ours:
            raise ValueError(
                f"{path} was trained with the {what} {theirs[:12]}, and the data are of "
                f"{ours[:12]}; give data (TOKENS_DIR, VOCABULARY) made with its own"
            )


def fingerprint(use: CheckpointUse) -> str:
    """Returns the checkpoint's fingerprint."""
    return warm_start.WarmStart(use.path).fingerprint()
