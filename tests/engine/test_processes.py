# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training in 2 and 4 processes that talk over the loopback: as in one, however often stopped."""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import train_process
from train_process import Settings

from parti.engine import checkpoints, processes, train

WORKER = pathlib.Path(train_process.__file__)
TIMEOUT = 150.0


def start(settings: Settings, count: int, **changes: str) -> list[subprocess.Popen]:
    """Starts the processes of one training, on 4 devices together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // count}",
        "PARTI_PROGRESS_FILE": f"{settings.directory}.progress",
    }
    started = []
    for i in range(count):
        own = dataclasses.replace(
            settings,
            coordinator_address=f"127.0.0.1:{port}",
            num_processes=count,
            process_id=i,
            config=changes.get(f"config_{i}", ""),
        )
        command = [sys.executable, str(WORKER), json.dumps(dataclasses.asdict(own))]
        started.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        )
    return started


def wait(started: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    """Returns exit codes and what was printed."""
    printed = [process.communicate(timeout=TIMEOUT)[1] for process in started]
    return [process.returncode for process in started], printed


def wait_for_step(settings: Settings, step: int) -> None:
    """Returns once the first process has taken a number of steps."""
    path, end = pathlib.Path(f"{settings.directory}.progress"), time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        if path.is_file() and json.loads(path.read_text())["done"] >= step:
            return
        time.sleep(0.05)
    raise TimeoutError(f"no step {step}")


def assert_same(directory: pathlib.Path, reference: pathlib.Path) -> None:
    """Compares the last checkpoint and every log line."""
    got, want = (checkpoints.load_params(path, ema=False) for path in (directory, reference))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    averaged, expected = (checkpoints.load_params(path) for path in (directory, reference))
    jax.tree.map(np.testing.assert_array_equal, averaged, expected)
    rows, wanted = (
        {(r["split"], r["step"]): r["loss"] for r in map(json.loads, lines)}
        for lines in ((path / "metrics.jsonl").open() for path in (directory, reference))
    )
    # The end of a training of fewer steps was evaluated, too.
    assert wanted.items() <= rows.items()
    assert len(wanted) == 12 + 2


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The training in one process, with 4 devices."""
    directory = tmp_path_factory.mktemp("one") / "run"
    experiment = train_process.experiment(Settings(str(directory)))
    assert train.train(experiment, devices=jax.devices()[:4]) == 0
    return directory


def test_two_processes_then_four_are_as_one(reference, tmp_path) -> None:
    settings = Settings(str(tmp_path / "run"), train_steps=8)
    codes, printed = wait(start(settings, 2))
    assert codes == [0, 0], printed
    assert "on 4 cpu device(s) of 2 processes" in printed[0]
    assert "[train]" not in printed[1], "the first process speaks for all"
    codes, printed = wait(start(dataclasses.replace(settings, train_steps=12), 4))
    assert codes == [0] * 4, printed
    assert "going on from step 8" in printed[0]
    assert_same(tmp_path / "run", reference)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["counts"]["steps"] == 12


def test_sigterm_to_one_process_saves_and_loses_no_step(reference, tmp_path) -> None:
    settings = Settings(str(tmp_path / "run"), batch_seconds=1.0, checkpoint_period=100)
    started = start(settings, 2)
    wait_for_step(settings, 1)
    started[1].send_signal(signal.SIGTERM)
    codes, printed = wait(started)
    assert codes == [143, 143], printed
    (step,) = checkpoints.steps(tmp_path / "run")
    assert 1 < step < 12
    again = train_process.experiment(Settings(str(tmp_path / "run")))
    assert train.train(again, devices=jax.devices()[:4]) == 0
    assert_same(tmp_path / "run", reference)


def test_a_killed_process_ends_the_others_and_the_same_command_goes_on(reference, tmp_path) -> None:
    settings = Settings(str(tmp_path / "run"), batch_seconds=0.3)
    started = start(settings, 2)
    wait_for_step(settings, 6)
    killed = time.monotonic()
    started[1].kill()
    codes, printed = wait(started)
    assert time.monotonic() - killed < 60
    assert codes[0] not in (0, None)
    assert "another process of this training" in printed[0], printed[0]
    *_, saved = checkpoints.steps(tmp_path / "run")
    assert saved in (4, 8)
    codes, printed = wait(start(Settings(str(tmp_path / "run")), 2))
    assert codes == [0, 0], printed
    assert f"going on from step {saved}" in printed[0]
    assert_same(tmp_path / "run", reference)


def test_processes_with_different_settings_are_refused(tmp_path) -> None:
    settings = Settings(str(tmp_path / "run"))
    codes, printed = wait(start(settings, 2, config_0="A = 1\n", config_1="A = 2\n"))
    assert 0 not in codes
    for text in printed:
        assert "the configuration differs between process 0 and process 1" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", 2, None), "give all of --coordinator_address, --num_processes"),
        (("host:1", 2, 2), "--process_id 2 of --num_processes 2: count from 0 to 1"),
    ],
)
def test_incomplete_addresses_are_refused(given, message) -> None:
    with pytest.raises(ValueError, match=message):
        processes.connect(*given)
