# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trainings in an emulated bucket: what they write there, and what they survive."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any

import emulated_bucket
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import train_process
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.util import tensor_util
from toy_training import GIN, assert_same, make, run

from parti.engine import train
from parti.engine.checkpoints import (
    checkpoint_manager,
    checkpoints,
    ownership,
    read_errors,
    retention,
)
from parti.engine.experiment import warm_start
from parti.engine.loop import nan_recovery, training_loop
from parti.engine.monitoring import metrics_log, profiling, summary_writer
from parti.models import base
from parti.stages import files

HERE = pathlib.Path(__file__).parent
CLOCKED = ("examples_per_second", "step_seconds", "data_wait_share", "productive_seconds")
CLOCKED += ("goodput", "model_tflops_per_second")


def log(directory: files.Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl without times."""
    rows = map(json.loads, files.read_bytes(files.join(directory, "metrics.jsonl")).splitlines())
    return [{name: v for name, v in row.items() if name not in CLOCKED} for row in rows]


def content(directory: str) -> dict[str, bytes]:
    """Returns the bytes of each file below a folder."""
    start = len(directory) + 1
    return {entry.path[start:]: files.read_bytes(entry.path) for entry in files.walk(directory)}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished training on this machine."""
    directory = tmp_path_factory.mktemp("straight") / "run"
    assert run(make(directory)) == 0
    return directory


@pytest.fixture
def place(bucket: emulated_bucket.Bucket, request: pytest.FixtureRequest) -> str:
    """An empty folder of the bucket."""
    return f"{bucket.address}/{re.sub(r'[^a-z_]', '-', request.node.name)}/run"


def assert_as_on_disk(directory: str, straight: pathlib.Path) -> None:
    assert_same(directory, straight)
    assert log(directory) == log(straight)
    manifests = [json.loads(files.read_bytes(f"{d}/manifest.json")) for d in (directory, straight)]
    assert manifests[0]["fingerprint"] == manifests[1]["fingerprint"]
    assert checkpoints.steps(directory) == checkpoints.steps(straight) == [8, 10]
    assert not checkpoints.unfinished(directory)


def test_a_training_is_the_same_as_on_disk(place: str, straight: pathlib.Path) -> None:
    """In two parts, so that it is read again; what is finished is left alone."""
    assert run(make(place, train_steps=5)) == 0
    assert checkpoints.steps(place) == [4, 5]
    assert run(make(place)) == 0
    files.remove_tree(f"{place}/checkpoint_5")  # A training of 10 steps has none.
    assert checkpoints.steps(place) == [8, 10]
    assert_same(place, straight)
    names = {entry.path[len(place) + 1 :].split("/")[0] for entry in files.walk(place)}
    assert names == {path.name for path in straight.iterdir()} | {ownership.MARK}
    before = content(place)
    assert run(make(place)) == 0
    assert content(place) == before
    initial = warm_start.WarmStart(place, ("dense",))
    wanted = initial.load({"params": checkpoints.load_params(straight)[0]})
    jax.tree.map(
        np.testing.assert_array_equal, wanted, {"params": checkpoints.load_params(straight)[0]}
    )


def test_a_store_that_fails_for_seconds_is_waited_for(
    bucket: emulated_bucket.Bucket, place: str, straight: pathlib.Path
) -> None:
    """At the first request for the second checkpoint, when everything writes."""
    outages = []

    def watch(method: str, path: str) -> None:
        if method == "POST" and "checkpoint_8" in path and not outages:
            outages.append(bucket.answering(503, seconds=3.0))
            outages[0].__enter__()

    bucket.watch = watch
    try:
        assert run(make(place)) == 0
    finally:
        bucket.watch = lambda method, path: None
        bucket.until = 0.0
    assert outages and bucket.refused > 0
    assert_as_on_disk(place, straight)


TREE = {"target": {"scale": jnp.arange(4.0)}, "state": {"step": jnp.asarray(1)}}


def want() -> dict[str, Any]:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), TREE)


@pytest.fixture(scope="module")
def saved_once(bucket: emulated_bucket.Bucket, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Checkpoints of the steps 1, 2 and 3, of which 2 and 3 stay, and a picture."""
    place, position = f"{bucket.address}/saved/run", tmp_path_factory.mktemp("position")
    (position / "position.json").write_text("{}")
    manager = checkpoint_manager.CheckpointManager(place, retention.Retention(keep=2))
    files.write_bytes(f"{place}/pictures/samples.txt", b"a circle")
    for step in (1, 2, 3):
        manager.save(step, TREE, position)
    manager.close()
    assert checkpoints.steps(place) == [2, 3]
    return place


@pytest.fixture
def saved(saved_once: str, place: str) -> str:
    """A copy of it."""
    files.copy_tree(saved_once, place)
    return place


def restored_step(directory: str) -> int:
    manager = checkpoint_manager.CheckpointManager(directory)
    found = manager.restore(want())
    manager.close()
    assert found is not None
    tree, step, position = found
    np.testing.assert_array_equal(tree["target"]["scale"], np.arange(4.0))
    with files.local_folder(position) as folder:
        assert pathlib.Path(folder, "position.json").read_text() == "{}"
    return step


def test_damage_is_found_and_put_aside(bucket: emulated_bucket.Bucket, saved: str) -> None:
    data = max(files.walk(f"{saved}/checkpoint_3/state"), key=lambda entry: entry.num_bytes)
    bucket.flip(data.path)
    with pytest.raises(read_errors.CorruptCheckpointError, match="has changed"):
        checkpoints.load_params(saved)
    assert restored_step(saved) == 2
    assert checkpoints.steps(saved) == [2]
    aside = data.path.replace("checkpoint_3", "damaged-checkpoint_3")
    assert files.size(aside) == data.num_bytes
    assert restored_step(saved) == 2, "and it is no checkpoint any more"


def test_a_missing_file_is_damage(saved: str) -> None:
    files.remove(f"{saved}/checkpoint_3/dataset/position.json")
    assert restored_step(saved) == 2


@pytest.mark.parametrize("last", ["commit_success.txt", "state/manifest.ocdbt"])
def test_an_unfinished_save_is_deleted_and_nothing_else(saved: str, last: str) -> None:
    """The commit is the last file; a kill may come long before."""
    files.remove(f"{saved}/checkpoint_3/commit_success.txt", f"{saved}/checkpoint_3/{last}")
    assert checkpoints.steps(saved) == [2]
    with pytest.raises(FileNotFoundError, match="checkpoint_<N> folder"):
        checkpoints.load_params(f"{saved}/checkpoint_3")
    assert restored_step(saved) == 2
    assert not files.is_dir(f"{saved}/checkpoint_3")
    assert files.read_bytes(f"{saved}/pictures/samples.txt") == b"a circle"


def test_a_store_that_does_not_let_us_in_is_no_damage(
    bucket: emulated_bucket.Bucket, saved: str
) -> None:
    manager = checkpoint_manager.CheckpointManager(saved)
    with (
        bucket.answering(403),
        pytest.raises(read_errors.UnavailableCheckpointError, match="nothing was renamed"),
    ):
        manager.restore(want())
    assert checkpoints.steps(saved) == [2, 3]
    assert manager.restore(want())[1] == 3  # type: ignore[index]
    manager.close()


def test_of_two_trainings_the_first_one_stops(
    place: str, straight: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After step 6 another one begins; the first writes nothing more, the other's files stay."""
    seen: list[dict[str, bytes]] = []
    after_step = training_loop.Loop._after_step

    def begin_another(loop: training_loop.Loop, step: int, *args: Any) -> None:
        after_step(loop, step, *args)
        if step == 6:
            loop._manager.wait()
            ownership.Ownership(place)
            seen.append(content(place))

    with monkeypatch.context() as patch:
        patch.setattr(training_loop.Loop, "_after_step", begin_another)
        with pytest.raises(ownership.LostError, match=r"another training has begun in gs://"):
            run(make(place, eval_period=0))
    assert checkpoints.steps(place) == [4]
    after = content(place)
    for name in ("metrics.jsonl", ownership.MARK):
        assert after[name] == seen[0][name]
    assert "manifest.json" not in after and not any("checkpoint_8" in name for name in after)
    assert run(make(place)) == 0
    assert_as_on_disk(place, straight)


def test_a_training_that_lost_its_directory_deletes_nothing(saved: str) -> None:
    manager = checkpoint_manager.CheckpointManager(saved)
    ownership.Ownership(saved)
    with pytest.raises(ownership.LostError):
        manager.delete_after(2)
    assert checkpoints.steps(saved) == [2, 3]


def test_the_log_is_whole_at_each_flush(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = metrics_log.MetricsLog(place, 0)
    for step in (1, 2, 3):
        written.write(step, "train", {"loss": float(step)})
    assert not written.is_due() and not files.exists(f"{place}/metrics.jsonl")
    written.flush()
    written.write(4, "train", {"loss": 4.0})
    assert [row["step"] for row in log(place)] == [1, 2, 3]
    monkeypatch.setattr(metrics_log, "_FLUSH_SECONDS", 0.0)
    assert written.is_due()
    again = metrics_log.MetricsLog(place, 2)  # It was killed, after a checkpoint of step 2.
    assert [row["step"] for row in log(place)] == [1, 2]
    assert again.has(2, "train") and not again.has(3, "train") and not again.is_due()
    again.write(3, "train", {"loss": 5.0})
    again.flush()
    assert [(row["step"], row["loss"]) for row in log(place)] == [(1, 1.0), (2, 2.0), (3, 5.0)]


def test_bad_steps_are_noted(place: str) -> None:
    record = nan_recovery.Record(place, 0)
    for step in (2, 3, 9):
        record.add_skip(step)
    assert nan_recovery.Record(place, 4).num_skipped == 2
    lines = files.read_bytes(f"{place}/not_finite.jsonl").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 3]


def test_tensorboard_files_are_uploaded_in_pieces(
    place: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that was cut off after step 3, two files; its next start drops step 4."""
    monkeypatch.setattr(summary_writer, "_EVENT_BYTES", 150)
    for start, value in ((0, 1.0), (3, 2.0)):
        writer = summary_writer.Writer(place, tensorboard=True, start=start)
        for step in range(start + 1, start + 5):
            writer.write(step, "train", {"loss": value})
            if step % 2 == 0:
                writer.flush()
                time.sleep(
                    1.1
                )  # TensorBoard reads files in the order of the seconds in their names
        writer.flush()
        writer.close()
    assert len(files.walk(f"{place}/train")) > 3
    files.copy_tree(f"{place}/train", tmp_path / "train")
    events = plugin_event_accumulator.EventAccumulator(str(tmp_path / "train")).Reload()
    shown = [
        (e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in events.Tensors("loss")
    ]
    assert shown == [*((s, 1.0) for s in (1, 2, 3)), *((s, 2.0) for s in (4, 5, 6, 7))]


def test_pictures_and_profiles_are_uploaded(place: str) -> None:
    writer = summary_writer.Writer(place, tensorboard=False)
    shown = base.Summaries(pictures={"captions": jnp.zeros((1, 1, 8, 8, 3))})
    writer.show(7, "validation", shown, {"captions": {"model": ["a"]}})
    assert {*content(f"{place}/pictures")} == {"captions-00000007.png", "captions-00000007.txt"}
    profiler = profiling.Profiler(place, (1, 1))
    profiler.before(1, jnp.zeros(3))
    profiler.after(1, jnp.ones(3) + 1)
    assert any(name.endswith(".xplane.pb") for name in content(f"{place}/profile"))


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["state%2Fd", "commit_success.txt"])
def test_kill_in_the_midst_of_a_save_and_the_rest_equals_one_run(
    bucket: emulated_bucket.Bucket,
    place: str,
    straight: pathlib.Path,
    tmp_path: pathlib.Path,
    asked: str,
) -> None:
    """kill -9 as it begins to write step 8, and just before that would have been whole."""
    (tmp_path / "toy.gin").write_text(GIN)
    command = (
        "import os, sys; os.environ['XLA_FLAGS'] = ''\n"
        "from parti.engine import train; sys.exit(train.main(sys.argv[1:]))"
    )
    flags = [f"--gin_file={tmp_path / 'toy.gin'}", f"--gin.MODEL_DIR='{place}'"]
    path = os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])
    process = subprocess.Popen(
        [sys.executable, "-c", command, *flags], env=os.environ | {"PYTHONPATH": path}, cwd=HERE
    )
    requests: list[str] = []

    def watch(method: str, path: str) -> None:
        last = "checkpoint_8%2F" + asked
        if method in ("POST", "PUT") and (last in path or last.replace("%2F", "/") in path):
            requests.append(path)
            process.kill()

    bucket.watch = watch
    try:
        assert process.wait(300) == -signal.SIGKILL
    finally:
        bucket.watch = lambda method, path: None
    assert requests
    assert checkpoints.steps(place) == [4]
    assert checkpoints.unfinished(place) == [f"{place}/checkpoint_8"]
    assert not files.exists(f"{place}/manifest.json")
    assert train.train(make(place), devices=jax.devices()[:1]) == 0
    assert_as_on_disk(place, straight)


@pytest.fixture(scope="module")
def pairs(bucket: emulated_bucket.Bucket) -> str:
    """Pairs, and a vocabulary, in the bucket."""
    train_process.write_pairs(f"{bucket.address}/pairs")
    return f"{bucket.address}/pairs"


@pytest.mark.slow
def test_two_processes_then_four_then_one_in_a_bucket_are_as_one(
    bucket: emulated_bucket.Bucket, place: str, pairs: str, tmp_path: pathlib.Path
) -> None:
    """Of two one is killed in a save, of four one gets SIGTERM in a save; the data are there, too.

    All have four devices.
    """
    reference = train_process.Settings(str(tmp_path / "run"), train_steps=16, pairs=pairs)
    assert train_process.run_one(reference, devices=jax.devices()[:4]) == 0
    settings = dataclasses.replace(reference, directory=place)

    def stopped(count: int, asked: str, number: int, signal_number: int) -> list[int]:
        """Returns the exit codes if a process gets a signal at the first such request."""
        started, seen = train_process.start(settings, count), []

        def watch(method: str, path: str) -> None:
            if method in ("POST", "PUT") and re.search(asked, path) and not seen:
                seen.append(path)
                started[number].send_signal(signal_number)

        bucket.watch = watch
        try:
            codes, printed = train_process.wait(started, 300)
        finally:
            bucket.watch = lambda method, path: None
        assert seen, printed
        return codes

    codes = stopped(2, "checkpoint_8.*process_1", 1, signal.SIGKILL)
    assert codes[1] == -signal.SIGKILL and codes[0] != 0
    assert checkpoints.steps(place) == [4]
    assert stopped(4, "checkpoint_8.*process_2", 3, signal.SIGTERM) == [143] * 4
    *saved, last = checkpoints.steps(place)
    assert saved in ([4, 8], [4, 8, 12]) and 8 < last < 16
    assert train_process.run_one(settings, devices=jax.devices()[:4]) == 0
    assert_same(place, tmp_path / "run")
    left_out = {("validation", 12)}  # after a signal nothing is evaluated any more
    rows, wanted = ({(r["split"], r["step"]): r for r in log(d)} for d in (place, tmp_path / "run"))
    assert len(wanted) == 16 + 3 and "text_to_image_recall_at_1" in wanted["validation", 16]
    assert wanted.keys() - rows.keys() <= left_out
    assert {key: wanted[key] for key in rows} == rows
