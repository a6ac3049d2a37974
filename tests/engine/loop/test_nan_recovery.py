# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""NAN_POLICY: a bad step changes nothing, is counted, and too many in a row end the training."""

import functools
import pathlib
from typing import Any

import fake_training
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_training import assert_same, log, make, run

from parti.engine.checkpoints import checkpoints
from parti.engine.experiment import nan_policies
from parti.engine.loop import nan_recovery
from parti.engine.step import optimizers, train_state, train_step

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def bad_source(*batches: int) -> Any:
    """Rows of which those of some batches of the first epoch (of 8 rows each) have one bad one."""
    source = fake_training.source()
    first_epoch = np.random.default_rng((0, 0)).permutation(40)
    for batch in batches:
        source.train["y"][first_epoch[batch * 8]] = np.nan
    return source


def skipping(directory: pathlib.Path, *bad: int, **changes: Any) -> Any:
    changes = {"nan_policy": "skip", "data_source": bad_source(*bad), **changes}
    return make(directory, **{"train_steps": 5, "eval_period": 0, **changes})


class Rooted(fake_training.Regressor):
    """Where all x are 0 the gradient, not the loss, is not a number: that of a root at 0."""

    def loss_fn(self, params: Any, batch: Any, dropout_rng: Any, flax_mutables: Any) -> Any:
        loss, aux = super().loss_fn(params, batch, dropout_rng, flax_mutables)
        size = jnp.mean(jnp.abs(batch["x"]))
        return loss + jnp.sqrt(size * jnp.sum(params["dense"]["kernel"] ** 2)), aux


@pytest.mark.parametrize("num_microbatches", [1, 2])
@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_a_skipped_step_changes_its_number_alone(part: str, num_microbatches: int) -> None:
    model = Rooted()
    optimizer = optimizers.with_ema(optimizers.adamw(0.1), 0.9)
    rows = {name: array[:8].copy() for name, array in fake_training.source().train.items()}
    spec = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in rows.items()}
    state = train_state.create(model, optimizer, jax.random.PRNGKey(0), spec)
    step = jax.jit(
        functools.partial(
            train_step.train_step, model, optimizer, num_microbatches, nan_policy=nan_policies.SKIP
        )
    )
    good, metrics = step({}, state, rows, jax.random.PRNGKey(1))
    assert float(metrics["skipped_steps"].compute()) == 0
    assert not np.array_equal(good.params["dense"]["kernel"], state.params["dense"]["kernel"])
    if part == "loss":
        rows["y"][7] = np.nan
    else:
        rows["x"][:] = 0
    bad, metrics = step({}, good, rows, jax.random.PRNGKey(1))
    assert np.isfinite(float(metrics["loss"].compute())) == (part == "gradient")
    assert not np.isfinite(float(metrics["grad_norm"].compute()))
    assert float(metrics["skipped_steps"].compute()) == 1
    assert int(bad.step) == 2
    before, after = good.replace(step=0), bad.replace(step=0)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_skipped_steps_are_counted_and_warned_about(tmp_path: pathlib.Path, capsys) -> None:
    assert run(skipping(tmp_path / "run", 1, 3, log_period=3)) == 0
    text = capsys.readouterr().err
    for step in (2, 4):
        assert (
            f"step {step} is not finite (loss nan, grad_norm nan, update_norm nan): skipped" in text
        )
    records = log(tmp_path / "run")
    assert [(r["step"], r["skipped_steps"]) for r in records] == [(3, 1.0), (4, 1.0), (5, 0.0)]
    assert all(np.isfinite(r["loss"]) for r in records if r["step"] != 4)
    assert "loss" not in records[1], "none of its steps was taken"
    params, mutables, step = checkpoints.load_params(tmp_path / "run")
    assert step == 5 and int(mutables["stats"]["steps_seen"]) == 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_the_advice_at_a_stop_gets_past_the_bad_step(tmp_path: pathlib.Path, policy: str) -> None:
    """Another DATA_SEED would not: the position in the data holds their order."""
    source = fake_training.source(num_train=240)
    source.train["y"][np.random.default_rng((0, 0)).permutation(240)[4 * 8]] = np.nan
    settings = {"data_source": source, "checkpoint_period": 2, "log_period": 1}
    with pytest.raises(nan_recovery.NotFiniteError) as caught:
        run(skipping(tmp_path / "run", nan_policy="stop", **settings))
    assert "checkpoint_4 is the last good one" in str(caught.value)
    assert "Set NAN_POLICY = 'skip' or 'rollback' to get past these data" in str(caught.value)
    assert "DATA_SEED" not in str(caught.value)
    assert run(skipping(tmp_path / "run", nan_policy=policy, **settings)) == 0


def test_going_on_equals_one_run(tmp_path: pathlib.Path) -> None:
    assert run(skipping(tmp_path / "straight", 1, 2)) == 0
    assert run(skipping(tmp_path / "parts", 1, 2, train_steps=2)) == 0
    assert run(skipping(tmp_path / "parts", 1, 2)) == 0
    assert_same(tmp_path / "parts", tmp_path / "straight")


def test_the_count_in_a_row_goes_on_after_a_restart(tmp_path: pathlib.Path) -> None:
    settings = {"max_skipped_steps": 2, "log_period": 1, "checkpoint_period": 2}
    assert run(skipping(tmp_path / "run", 2, 3, 4, train_steps=4, **settings)) == 0
    with pytest.raises(nan_recovery.NotFiniteError, match="3 steps in a row .* up to step 5"):
        run(skipping(tmp_path / "run", 2, 3, 4, **settings))


def test_the_learning_rate_logged_is_the_optimizers(tmp_path: pathlib.Path) -> None:
    """Of the steps 1 to 5 two are skipped: step 5 is the optimizer's third, count 2."""
    schedule = {"learning_rate": lambda count: 0.1 * count, "log_period": 1}
    assert run(skipping(tmp_path / "run", 1, 3, train_steps=3, **schedule)) == 0
    assert run(skipping(tmp_path / "run", 1, 3, **schedule)) == 0
    rates = [record["learning_rate"] for record in log(tmp_path / "run")]
    np.testing.assert_allclose(rates, [0.0, 0.0, 0.1, 0.1, 0.2], atol=1e-6)


def test_an_update_that_is_not_finite_is_skipped(tmp_path: pathlib.Path) -> None:
    """With a loss and gradients that are; the skipped step 2 does not advance the schedule."""
    rate = optax.sgd(lambda count: jnp.where(count == 1, jnp.inf, 0.1))
    assert run(skipping(tmp_path / "run", optimizer=rate, train_steps=3)) == 0
    assert run(skipping(tmp_path / "one", optimizer=optax.sgd(0.1), train_steps=1)) == 0
    weights = [checkpoints.load_params(tmp_path / name)[0] for name in ("run", "one")]
    jax.tree.map(np.testing.assert_array_equal, *weights)


def test_too_many_in_a_row_stop(tmp_path: pathlib.Path) -> None:
    experiment = skipping(
        tmp_path / "run", 0, 2, 3, 4, max_skipped_steps=2, checkpoint_period=2, log_period=1
    )
    with pytest.raises(nan_recovery.NotFiniteError) as caught:
        run(experiment)
    assert "3 steps in a row were not finite and skipped, up to step 5" in str(caught.value)
    assert "checkpoint_4 is the last good one" in str(caught.value)
    assert run(skipping(tmp_path / "more", 0, 2, 3, 4, max_skipped_steps=3)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nan_policy": "ignore"}, "NAN_POLICY must be 'stop', 'skip' or 'rollback', got 'ignore'"),
        ({"nan_policy": None}, "NAN_POLICY must be 'stop', 'skip' or 'rollback', got None"),
        ({"max_skipped_steps": -1}, "MAX_SKIPPED_STEPS must be a whole number of at least 0"),
    ],
)
def test_other_values_are_refused(tmp_path: pathlib.Path, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **changes)
