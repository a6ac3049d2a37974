# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training in 2 and 4 processes that talk over the loopback: as in one, however often stopped."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import fake_drawing
import jax
import numpy as np
import pytest
import train_process
from train_process import Settings, start, wait

from parti.engine import train
from parti.engine.checkpoints import checkpoints, checksums
from parti.engine.distributed import multihost
from parti.engine.loop import data_lineage

TIMEOUT = 150.0


def wait_for_step(settings: Settings, step: int) -> None:
    """Returns once the first process has taken a number of steps."""
    path, end = pathlib.Path(f"{settings.directory}.progress"), time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        if path.is_file() and json.loads(path.read_text())["done"] >= step:
            return
        time.sleep(0.05)
    raise TimeoutError(f"no step {step}")


def assert_same(
    directory: pathlib.Path, reference: pathlib.Path, left_out: tuple[str, int] = ("", 0)
) -> None:
    """Compares the last checkpoint and every log line, but one that may be left out."""
    got, want = (checkpoints.load_params(path, ema=False) for path in (directory, reference))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    averaged, expected = (checkpoints.load_params(path) for path in (directory, reference))
    jax.tree.map(np.testing.assert_array_equal, averaged, expected)
    rows, wanted = (
        {(r["split"], r["step"]): r["loss"] for r in map(json.loads, lines)}
        for lines in ((path / "metrics.jsonl").open() for path in (directory, reference))
    )
    # The end of a training of fewer steps was evaluated, too.
    assert wanted.items() - rows.items() <= {(left_out, wanted.get(left_out))}
    assert len(wanted) == 12 + 2


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The training in one process, with 4 devices."""
    directory = tmp_path_factory.mktemp("one") / "run"
    experiment = train_process.experiment(Settings(str(directory)))
    assert train.train(experiment, devices=jax.devices()[:4]) == 0
    return directory


def test_two_processes_then_four_are_as_one(reference, tmp_path) -> None:
    bundle = fake_drawing.write_bundle(tmp_path)
    settings = Settings(str(tmp_path / "run"), train_steps=8)
    codes, printed = wait(start(dataclasses.replace(settings, bundle=str(bundle)), 2))
    assert codes == [0, 0], printed
    assert "on 4 cpu device(s) of 2 processes" in printed[0]
    assert "[train]" not in printed[1], "the first process speaks for all"
    pictures = sorted(path.name for path in (tmp_path / "run" / "pictures").glob("*.png"))
    assert pictures == ["samples-00000006.png", "samples-00000008.png"]
    codes, printed = wait(start(dataclasses.replace(settings, train_steps=12), 4))
    assert codes == [0] * 4, printed
    assert "going on from step 8" in printed[0]
    assert_same(tmp_path / "run", reference)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["counts"]["steps"] == 12


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_process_saves_and_loses_no_step(reference, tmp_path, number) -> None:
    settings = Settings(str(tmp_path / "run"), batch_seconds=1.0, checkpoint_period=100)
    started = start(settings, 2)
    wait_for_step(settings, 1)
    started[1].send_signal(number)
    codes, printed = wait(started)
    assert codes == [143, 128 + number], printed
    (step,) = checkpoints.steps(tmp_path / "run")
    assert 1 < step < 12
    again = train_process.experiment(Settings(str(tmp_path / "run")))
    assert train.train(again, devices=jax.devices()[:4]) == 0
    # After a signal nothing is evaluated any more.
    assert_same(tmp_path / "run", reference, left_out=("validation", 6))


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


@pytest.mark.parametrize(
    ("process", "step"), [(1, 4), *(pytest.param(i, 12, marks=pytest.mark.slow) for i in (0, 1))]
)
def test_a_save_that_fails_in_one_process_ends_the_others(tmp_path, process, step) -> None:
    """Not after the 20 minutes that Orbax lets them wait: at step 12 nothing else is to be done."""
    settings = Settings(str(tmp_path / "run"), failing_save=step if process == 0 else None)
    began = time.monotonic()
    others = {"failing_save": step if process == 1 else None}
    codes, printed = wait(start(settings, 2, others))
    assert time.monotonic() - began < 90
    assert 0 not in codes
    assert re.search(
        rf"^.train. process {process}: StoreError: .* 503 backend error$", printed[process], re.M
    )
    assert step not in checkpoints.steps(tmp_path / "run")


def test_what_fails_in_one_process_fails_in_all(tmp_path) -> None:
    """Whatever it is; the others do not wait for it, and can go on together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    code = f"""
import pathlib, sys
from parti.engine.distributed import multihost
me, said = int(sys.argv[1]), []
multihost.connect({address!r}, 2, me)
for failing, failure in ((1, KeyError("a")), (0, OSError("b")), (None, None)):
    try:
        with multihost.failing_together():
            if me == failing:
                raise failure
        said.append("fine")
    except Exception as error:
        said.append(type(error).__name__ + " " + str(error))
pathlib.Path(sys.argv[2]).write_text("|".join(said))
"""
    paths = [tmp_path / "0", tmp_path / "1"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, path.name, str(path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for path in paths
    ]
    codes, printed = wait(started)
    assert codes == [0, 0], printed
    other = "ValueError process {} has failed; its own line says why"
    first, second = (path.read_text().split("|") for path in paths)
    assert first == [other.format(1), "OSError b", "fine"]
    assert second == ["KeyError 'a'", other.format(0), "fine"]


@pytest.mark.slow
def test_evaluations_divide_over_processes(tmp_path: pathlib.Path) -> None:
    """Two have the metrics of one, seqio's too, and each reads half of the records."""
    (tmp_path / "pairs").mkdir()
    train_process.write_pairs(str(tmp_path / "pairs"))
    found, read = [], []
    for count in (1, 2):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        settings = Settings(
            str(folder / "run"), train_steps=6, pairs=str(tmp_path / "pairs"), reads=str(folder)
        )
        if count == 1:
            assert train_process.run_one(settings, devices=jax.devices()[:4]) == 0
        else:
            codes, printed = wait(start(settings, count))
            assert codes == [0] * count, printed
        rows = map(json.loads, (folder / "run" / "metrics.jsonl").open())
        found.append([row for row in rows if row["split"] == "validation"])
        read.append([json.loads((folder / f"{i}.json").read_text()) for i in range(count)])
    assert found[0] == found[1] and "image_to_text_recall_at_5" in found[0][0]
    # 13 pairs are two batches of 8. Each first looks whether there are any, in one row of each
    # batch; then the batches are read for the losses and for seqio's metrics.
    assert [of["validation"] for of in read[0]] == [2 + 2 * 16]
    assert [of["validation"] for of in read[1]] == [2 + 2 * 8] * 2


def test_processes_roll_back_together(tmp_path) -> None:
    """The second comes late, when the first may already have deleted what they go back over."""
    settings = Settings(str(tmp_path / "run"), bad_batch=9)
    codes, printed = wait(start(settings, 2, {"late_seconds": 1.0}))
    assert codes == [0, 0], printed
    assert "back to checkpoint_4, past the data up to here" in printed[0]
    one = train_process.experiment(dataclasses.replace(settings, directory=str(tmp_path / "one")))
    assert train.train(one, devices=jax.devices()[:4]) == 0
    assert_same(tmp_path / "run", tmp_path / "one")
    records = [(tmp_path / name / "not_finite.jsonl").read_text() for name in ("run", "one")]
    assert records[0] == records[1] != ""
    folder = pathlib.Path(checkpoints.find(tmp_path / "run"))
    checksums.verify(folder)
    assert list(folder.rglob("checksums.json")) == [folder / "checksums.json"]
    sums = json.loads((folder / "checksums.json").read_text())
    for i in (0, 1):
        assert f"state/ocdbt.process_{i}/manifest.ocdbt" in sums, "each process writes its parts"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"config": "A = 2\n"}, "the configuration differs between process 0 and process 1"),
        ({"directory": "elsewhere"}, "process 1 does not see what process 0 writes into"),
    ],
)
def test_processes_that_have_not_the_same_are_refused(tmp_path, other, message) -> None:
    settings = Settings(str(tmp_path / "run"))
    if "directory" in other:
        other = {"directory": str(tmp_path / "elsewhere")}
    codes, printed = wait(start(settings, 2, other))
    assert 0 not in codes
    for text in printed:
        assert message in text
    assert not list((tmp_path / "run").glob("*"))


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("UNKNOWN: Gloo all-reduce failed: [gloo/pair.cc:538] Read error: Connection reset", True),
        ("UNAVAILABLE: Failed to send RPC to coordination service", True),
        ("DEADLINE_EXCEEDED: Barrier timed out", True),
        ("INTERNAL: NCCL operation ncclAllReduce failed: remote process exited", True),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes", False),
        ("INVALID_ARGUMENT: Executable expected parameter 0 of size 4", False),
        ("INTERNAL: CustomCall failed", False),
    ],
)
def test_only_a_broken_connection_hints_at_a_dead_process(
    message, lost, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(multihost, "count", lambda: 2)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit, match="1"), multihost.ending_if_one_is_lost():
        raise jax.errors.JaxRuntimeError(message)
    text = capsys.readouterr().err
    assert message in text
    assert ("another process of this training has died" in text) == lost
    assert ("Traceback" in text) == (not lost)


def test_data_are_compared_by_their_files(tmp_path) -> None:
    (tmp_path / "train-0").write_bytes(b"12345")
    config = f"TOKENS_DIR = {str(tmp_path)!r}\n"
    experiment = train_process.experiment(Settings(str(tmp_path / "run"), config=config))
    before = data_lineage.inputs(experiment)
    assert data_lineage.inputs(experiment) == before
    (tmp_path / "train-0").write_bytes(b"1234")
    after = data_lineage.inputs(experiment)
    assert [what for what in before if before[what] != after[what]] == [
        "the data (fingerprints, or names and sizes of files)"
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", 2, None), "give all of --coordinator_address, --num_processes"),
        (("host:1", 2, 2), "--process_id 2 of --num_processes 2: count from 0 to 1"),
    ],
)
def test_incomplete_addresses_are_refused(given, message) -> None:
    with pytest.raises(ValueError, match=message):
        multihost.connect(*given)
