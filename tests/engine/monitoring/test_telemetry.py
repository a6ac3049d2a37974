# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Utilisation and goodput: figures by hand from a clock that the test turns."""

import json
import pathlib
import time
from typing import Any

import fake_training
import jax
import numpy as np
import pytest
from toy_training import log, make, run

from parti.engine.checkpoints import checkpoints
from parti.engine.hardware import flops
from parti.engine.monitoring import telemetry


class Device:
    """A device of the kind given, with the memory given."""

    process_index = 0

    def __init__(self, device_kind: str, memory: dict[str, int] | None = None) -> None:
        self.device_kind, self._memory = device_kind, memory

    def memory_stats(self) -> dict[str, int] | None:
        return self._memory


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    time = perf_counter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(telemetry, "time", clock)
    return clock


def watch(directory: pathlib.Path, kind: str = "NVIDIA H200", **options: Any) -> Any:
    devices = np.array(
        [Device(kind, {"peak_bytes_in_use": 2**30}), Device(kind, {"peak_bytes_in_use": 3 * 2**30})]
    )
    settings = {"step_flops": int(4e14), "dtype": "bfloat16", **options}
    return telemetry.Telemetry(directory, batch_size=16, devices=devices, **settings)


def test_figures_by_hand(tmp_path: pathlib.Path, clock: Clock) -> None:
    timed = watch(tmp_path)
    clock.now += 10  # It starts and compiles.
    timed.restart()
    for _ in range(4):
        with timed.waiting():
            clock.now += 0.5
        clock.now += 1.5
        timed.step()
    values = timed.values(share_taken=0.75)
    assert values["step_seconds"] == 2.0
    assert values["examples_per_second"] == 8.0
    assert values["data_wait_share"] == 0.25
    assert values["productive_seconds"] == (8 - 2) * 0.75
    assert values["goodput"] == 4.5 / 18
    # 4e14 operations on 2 devices in 2 s are 1e14 a second each, of 989e12.
    assert values["model_tflops_per_second"] == 100.0
    assert values["model_flops_utilization"] == pytest.approx(100 / 989)
    assert values["peak_memory_gib"] == 3.0
    assert timed.values() == {}, "no step since"
    clock.now += 82
    again = watch(tmp_path, productive_seconds=4.5)
    again.step()
    clock.now += 2  # Of the time since the first start.
    assert again.values()["goodput"] == pytest.approx(6.5 / 102), (
        "of the time since the first start"
    )


def test_a_device_that_is_not_known_has_no_utilisation(
    tmp_path: pathlib.Path, clock: Clock
) -> None:
    timed = watch(tmp_path, kind="cpu")
    timed.step()
    clock.now += 1
    values = timed.values()
    assert values["model_tflops_per_second"] == 200.0
    assert "model_flops_utilization" not in values
    timed = watch(tmp_path, step_flops=None)
    timed.step()
    clock.now += 1
    assert "model_tflops_per_second" not in timed.values()


def test_a_training_logs_them_over_restarts(tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "run"
    assert run(make(directory, train_steps=6, eval_period=0)) == 0
    first = log(directory)[-1]
    assert 0 < first["goodput"] < 1 and first["productive_seconds"] > 0
    model = fake_training.Regressor()
    spec = model_spec()
    rate = flops.train_step(model, spec) / first["step_seconds"] / 1e12
    assert first["model_tflops_per_second"] == pytest.approx(rate)
    # As if it had been started an hour ago; the steps after the checkpoint of 4 are lost.
    started = json.loads((directory / "started.json").read_text())["unix_seconds"]
    assert started <= time.time()
    (directory / "started.json").write_text(json.dumps({"unix_seconds": started - 3600}))
    kept = next(r["productive_seconds"] for r in log(directory) if r["step"] == 4)
    for path in pathlib.Path(checkpoints.step_path(directory, 6)).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert run(make(directory, train_steps=8, eval_period=0)) == 0
    records = {r["step"]: r for r in log(directory)}
    assert records[6]["productive_seconds"] > kept
    assert records[8]["productive_seconds"] > records[6]["productive_seconds"]
    ratio = records[8]["productive_seconds"] / records[8]["goodput"]
    assert 3600 < ratio < 3700


def test_a_model_whose_operations_cannot_be_counted_says_so(capsys: Any) -> None:
    class Looping(fake_training.PlainRegressor):
        def loss_fn(self, params: Any, batch: Any, dropout_rng: Any) -> Any:  # type: ignore[override]
            loss, metrics = super().loss_fn(params, batch, dropout_rng)
            product = lambda x: x @ params["dense"]["kernel"] @ params["dense"]["kernel"].T  # noqa: E731
            x = jax.lax.while_loop(lambda x: x.sum() > 1e9, product, batch["x"])
            return loss + jax.lax.stop_gradient(x).sum() * 0, metrics

    assert telemetry.model_flops(Looping(), model_spec()) is None
    assert "no model FLOPs: matrix products inside a `while_loop`" in capsys.readouterr().err


def model_spec() -> dict[str, jax.ShapeDtypeStruct]:
    arrays = fake_training.source().train
    return {k: jax.ShapeDtypeStruct((8, *v.shape[1:]), v.dtype) for k, v in arrays.items()}
