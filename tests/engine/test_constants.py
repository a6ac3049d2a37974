# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Constants of a model: arguments of the jitted step, on every device, in no checkpoint."""

from typing import Any

import fake_training
import jax
import numpy as np
import optax
import pytest

from parti.engine import train
from parti.engine.checkpoints import checkpoints
from parti.engine.experiment import experiments
from parti.engine.step import train_step

BATCH = 8


class Shifted(fake_training.PlainRegressor):
    """Predicts y moved by a constant vector."""

    notes = ("a constant of 8 values",)

    def load_constants(self) -> dict[str, Any]:
        return {"shift": np.linspace(1.0, 2.0, 8, dtype=np.float32)}

    def loss_fn(self, params: Any, batch: Any, dropout_rng: Any) -> Any:  # type: ignore[override]
        moved = {"x": batch["x"], "y": batch["y"] + self.constants["shift"]}
        return super().loss_fn(params, moved, dropout_rng)


def make(directory: Any, model: Any, train_steps: int = 300) -> experiments.Experiment:
    return experiments.Experiment(
        model=model,
        data_source=fake_training.source(),
        optimizer=optax.sgd(0.1),
        model_dir=str(directory),
        train_steps=train_steps,
        batch_size=BATCH,
        checkpoint_period=train_steps,
        eval_period=0,
        tensorboard=False,
    )


def test_constants_are_arguments_of_the_step_and_lie_on_every_device(tmp_path) -> None:
    model = Shifted(dropout_rate=0.0)
    spec = {
        "x": jax.ShapeDtypeStruct((BATCH, 4), "float32"),
        "y": jax.ShapeDtypeStruct((BATCH, 8), "float32"),
    }
    program = train_step.make_program(make(tmp_path, model), spec)
    constants = program.step.args[0]
    assert constants["shift"].sharding.is_fully_replicated
    assert len(constants["shift"].sharding.device_set) == len(jax.devices()) == 8
    rng = jax.eval_shape(jax.random.PRNGKey, 0)
    with program.context():
        text = program.step.func.lower(constants, program.abstract, spec, rng).as_text()
    assert "1.14285" not in text, "a value of the constant is compiled into the program"
    assert "1.14285" in f"{model.constants['shift']}"


def test_the_loss_reads_them_and_a_checkpoint_does_not_hold_them(tmp_path, capsys) -> None:
    assert train.train(make(tmp_path, Shifted(dropout_rate=0.0))) == 0
    assert "[train] a constant of 8 values" in capsys.readouterr().err
    params, _, _ = checkpoints.load_params(tmp_path)
    assert set(params) == {"dense"}
    # The bias has learned the constant: y itself has none.
    np.testing.assert_allclose(params["dense"]["bias"], np.linspace(1, 2, 8), atol=0.02)


def test_going_on_with_other_constants_is_refused(tmp_path) -> None:
    """As when the file of a perceptual network has been replaced between two runs."""

    class Doubled(Shifted):
        def load_constants(self) -> dict[str, Any]:
            return jax.tree.map(lambda x: 2 * x, super().load_constants())

    assert train.train(make(tmp_path, Shifted(dropout_rate=0.0), train_steps=2)) == 0
    with pytest.raises(ValueError, match="trained on other data: the fingerprint of the constants"):
        train.train(make(tmp_path, Doubled(dropout_rate=0.0), train_steps=3))
    assert train.train(make(tmp_path, Shifted(dropout_rate=0.0), train_steps=3)) == 0
