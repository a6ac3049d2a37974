# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints stay: the last, every n-th, the best; also over a restart."""

import json
import math
import pathlib
from typing import Any

import fake_training
import jax.numpy as jnp
import pytest
from toy_training import log, make, run

from parti.engine.checkpoints import checkpoints, retention


def survivors(policy: retention.Retention, losses: dict[int, float | None]) -> list[int]:
    """Returns the steps left after saving one after another, deleting after each."""
    saved: dict[int, Any] = {}
    for step, loss in losses.items():
        saved[step] = None if loss is None else {"loss": loss}
        saved = {step: saved[step] for step in sorted(policy.kept(saved))}
    return list(saved)


HUNDREDS = {step: float(abs(step - 300)) for step in range(100, 1000, 100)}  # Best at 300.


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({"keep": None}, list(HUNDREDS)),
        ({"keep": 1}, [900]),
        ({"keep": 2}, [800, 900]),
        ({"keep": 2, "keep_period": 400}, [400, 800, 900]),
        ({"keep": 2, "best_metric": "loss"}, [300, 800, 900]),
        ({"keep": 1, "best_metric": "loss", "best_mode": "max"}, [900]),
        ({"keep": 1, "best_metric": "loss", "keep_period": 500}, [300, 500, 900]),
        ({"keep": 1, "best_metric": "accuracy"}, [900]),
    ],
)
def test_what_stays(settings: dict[str, Any], want: list[int]) -> None:
    assert survivors(retention.Retention(period=100, **settings), HUNDREDS) == want


def test_a_checkpoint_of_a_signal_pushes_out_no_regular_one() -> None:
    policy = retention.Retention(keep=2, period=100)
    assert survivors(policy, {100: None, 200: None, 230: None}) == [200, 230]
    assert survivors(policy, {100: None, 200: None, 230: None, 270: None}) == [200, 270]
    assert survivors(policy, {100: None, 200: None, 230: None, 300: None}) == [200, 300]


def test_not_a_number_is_never_the_best_and_the_first_of_equals_stays() -> None:
    policy = retention.Retention(keep=1, best_metric="loss")
    assert survivors(policy, {1: math.nan, 2: 0.5, 3: 0.5, 4: -math.inf, 5: None}) == [2, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best_mode": "least"}, "BEST_MODE must be 'min' or 'max', got 'least'"),
        ({"best_metric": None}, "BEST_METRIC must be the name of a validation metric"),
        ({"keep_checkpoint_period": 6}, "6 is no multiple of CHECKPOINT_PERIOD 4"),
        ({"keep_checkpoint_period": -1}, "KEEP_CHECKPOINT_PERIOD must be a whole number"),
        ({"best_metric": "loss"}, "CHECKPOINT_PERIOD 4 is no multiple of EVAL_PERIOD 5"),
        ({"best_metric": "loss", "eval_period": 0}, "BEST_METRIC needs EVAL_PERIOD"),
    ],
)
def test_contradictions_are_refused(
    tmp_path: pathlib.Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **changes)


class Worsening(fake_training.Regressor):
    """Its validation loss is that of `best_at` examples of the step counter, and grows after."""

    def eval_fn(self, params: Any, batch: Any, flax_mutables: Any) -> Any:
        loss, metrics = super().eval_fn(params, batch, flax_mutables)
        distance = jnp.abs(flax_mutables["stats"]["steps_seen"] - 4).astype(jnp.float32)
        return loss, {**metrics, "distance": type(metrics["loss"]).from_model_output(distance)}


def test_the_best_stays_also_after_a_restart(tmp_path: pathlib.Path) -> None:
    settings = {
        "model": Worsening(),
        "checkpoint_period": 2,
        "eval_period": 2,
        "checkpoints_to_keep": 1,
        "best_metric": "distance",
    }
    assert run(make(tmp_path / "run", train_steps=5, **settings)) == 0
    assert checkpoints.steps(tmp_path / "run") == [4, 5]
    values = json.loads((tmp_path / "run" / "checkpoint_4" / "metrics" / "metrics").read_text())
    assert values == {
        k: v for k, v in log(tmp_path / "run", "validation")[1].items() if k in values
    }
    assert values["distance"] == 0.0
    assert run(make(tmp_path / "run", train_steps=10, **settings)) == 0
    assert checkpoints.steps(tmp_path / "run") == [4, 10]


def test_an_unknown_metric_is_refused_before_the_first_step(tmp_path: pathlib.Path) -> None:
    experiment = make(
        tmp_path / "run", best_metric="acuracy", eval_period=2, checkpoint_period=4, train_steps=2
    )
    with pytest.raises(ValueError, match="BEST_METRIC 'acuracy' is no validation metric"):
        run(experiment)
    assert not checkpoints.steps(tmp_path / "run")
