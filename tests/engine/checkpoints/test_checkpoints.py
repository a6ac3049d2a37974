# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: layout, reading parts, damage, what is no damage, and another model's."""

import errno
import json
import pathlib
import shutil
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_training import make, run

from parti.engine.checkpoints import (
    checkpoint_manager,
    checkpoints,
    checksums,
    read_errors,
    retention,
)
from parti.engine.distributed import multihost
from parti.engine.loop import run_directory

SHARDING = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def tree(step: int, width: int = 3) -> checkpoints.Tree:
    params = {"encoder": {"kernel": jnp.full((2, width), float(step))}, "scale": jnp.ones(2)}
    average = jax.tree.map(lambda x: x + 100, params)
    return {
        "target": params,
        "state": {
            "step": jnp.int32(step),
            "param_states": {"inner": {"mu": params}, "averaged_params": average},
        },
        "flax_mutables": {"stats": {"usage": jnp.arange(4.0)}},
    }


def want(width: int = 3) -> checkpoints.Tree:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=SHARDING), tree(0, width)
    )


def position(folder: pathlib.Path, text: str) -> pathlib.Path:
    """Makes a folder that stands for a data position."""
    folder.mkdir()
    (folder / "position.json").write_text(text)
    return folder


@pytest.fixture
def saved(tmp_path: pathlib.Path) -> pathlib.Path:
    manager = checkpoint_manager.CheckpointManager(tmp_path / "run", retention.Retention(keep=2))
    for step in (1, 2, 3):
        manager.save(step, tree(step), position(tmp_path / str(step), str(step)))
    manager.close()
    return tmp_path / "run"


def test_layout_and_number_kept(saved: pathlib.Path) -> None:
    assert checkpoints.steps(saved) == [2, 3]
    folder = pathlib.Path(checkpoints.step_path(saved, 3))
    assert folder.name == "checkpoint_3"
    assert (folder / "state" / "_METADATA").is_file(), "where T5X looks"
    assert (folder / "dataset" / "position.json").read_text() == "3"
    assert {k for k in checkpoints.leaves(folder) if k[0] == "target"} == {
        ("target", "encoder", "kernel"),
        ("target", "scale"),
    }


def test_load_params(saved: pathlib.Path) -> None:
    params, mutables, step = checkpoints.load_params(saved, ema=False)
    assert step == 3
    assert isinstance(params["scale"], np.ndarray)
    np.testing.assert_array_equal(params["encoder"]["kernel"], np.full((2, 3), 3.0))
    np.testing.assert_array_equal(mutables["stats"]["usage"], np.arange(4.0))
    older, _, step = checkpoints.load_params(checkpoints.find(saved, 2), ema=False)
    assert (list(older["encoder"]), step) == (["kernel"], 2)
    np.testing.assert_array_equal(older["encoder"]["kernel"], np.full((2, 3), 2.0))
    one = checkpoints.load_params(saved / "checkpoint_2", ema=False)
    assert one[2] == 2


def test_load_params_takes_the_average_where_there_is_one(saved: pathlib.Path) -> None:
    params, _, _ = checkpoints.load_params(saved)
    np.testing.assert_array_equal(params["encoder"]["kernel"], np.full((2, 3), 103.0))


def test_load_params_mistakes(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="no training directory"):
        checkpoints.load_params(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint_<N> folder"):
        checkpoints.load_params(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 7; it has \[2, 3\]"):
        checkpoints.find(saved, step=7)


def biggest_file(folder: pathlib.Path) -> pathlib.Path:
    return max((folder / "state" / "d").iterdir(), key=lambda path: path.stat().st_size)


def flip(path: pathlib.Path) -> None:
    """Changes a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_every_file_but_orbaxs_last_ones_has_a_checksum(saved: pathlib.Path) -> None:
    folder = saved / "checkpoint_3"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    sums = json.loads((folder / "checksums.json").read_text())
    assert files - sums.keys() == {"checksums.json", "_CHECKPOINT_METADATA", "commit_success.txt"}
    assert "dataset/position.json" in sums


def test_a_checkpoint_has_its_checksums_from_its_first_moment(tmp_path: pathlib.Path) -> None:
    """As `kill -9` leaves it that comes while the newest checkpoint gets its name."""
    manager = checkpoint_manager.CheckpointManager(tmp_path / "run")
    where = position(tmp_path / "position", "x")
    manager.save(1, tree(1), where)
    manager.save(2, tree(2), where)
    while 2 not in checkpoints.steps(tmp_path / "run"):
        time.sleep(0.001)
    shutil.copytree(tmp_path / "run", tmp_path / "killed")
    flip(tmp_path / "killed" / "checkpoint_2" / "dataset" / "position.json")
    again = checkpoint_manager.CheckpointManager(tmp_path / "killed")
    state, step, _ = again.restore(want())
    assert step == int(state["state"]["step"]) == 1
    assert (tmp_path / "killed" / "damaged-checkpoint_2").is_dir()
    manager.close()
    again.close()


@pytest.mark.parametrize("harm", ["truncate", "flip", "delete"])
def test_damaged_newest_is_passed_over(saved: pathlib.Path, capsys, harm: str) -> None:
    path = biggest_file(saved / "checkpoint_3")
    if harm == "truncate":
        path.write_bytes(path.read_bytes()[:-10])
    elif harm == "flip":
        flip(path)
    else:
        path.unlink()
    with pytest.raises(ValueError, match="checkpoint_3 is incomplete or damaged"):
        checkpoints.load_params(saved)
    manager = checkpoint_manager.CheckpointManager(saved)
    state, step, where = manager.restore(want())
    assert (step, pathlib.Path(where).parent.name) == (2, "checkpoint_2")
    np.testing.assert_array_equal(state["target"]["encoder"]["kernel"], np.full((2, 3), 2.0))
    assert "going on from checkpoint_2 instead" in capsys.readouterr().err
    assert checkpoints.steps(saved) == [2]
    assert (saved / "damaged-checkpoint_3").is_dir()
    manager.save(3, tree(3), saved.parent / "3")
    manager.close()
    assert checkpoints.load_params(saved, ema=False)[2] == 3


def test_the_same_step_may_be_damaged_again(saved: pathlib.Path) -> None:
    for _ in range(3):
        biggest_file(saved / "checkpoint_3").unlink()
        manager = checkpoint_manager.CheckpointManager(saved)
        restored = manager.restore(want())
        assert restored and restored[1] == 2
        manager.save(3, tree(3), saved.parent / "3")
        manager.close()
    names = {path.name for path in saved.glob("damaged-*")}
    assert names == {f"damaged-checkpoint_3{number}" for number in ("", "-2", "-3")}
    experiment = make(saved)
    run_directory.clear(experiment)  # Says ValueError of a file that is not a training's.
    assert not list(saved.iterdir())


@pytest.mark.parametrize("with_checksums", [True, False])
def test_what_cannot_be_read_now_is_no_damage(saved: pathlib.Path, with_checksums: bool) -> None:
    """The operating system refuses to open a file; without checksums TensorStore says so."""
    if not with_checksums:  # As in a checkpoint of T5X.
        (saved / "checkpoint_3" / "checksums.json").unlink()
    path = biggest_file(saved / "checkpoint_3")
    aside = path.rename(saved.parent / "aside")
    path.symlink_to(path)  # "Too many levels of symbolic links"
    manager = checkpoint_manager.CheckpointManager(saved)
    with pytest.raises(
        read_errors.UnavailableCheckpointError, match="Too many levels.*run the same"
    ):
        manager.restore(want())
    with pytest.raises(read_errors.UnavailableCheckpointError, match="Too many levels"):
        checkpoints.load_params(saved, ema=False)
    assert checkpoints.steps(saved) == [2, 3], "nothing is renamed"
    aside.rename(path)
    restored = manager.restore(want())
    assert restored and restored[1] == 3
    manager.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT])
def test_a_failing_file_server_is_no_damage(
    saved: pathlib.Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(path: pathlib.Path) -> Any:
        raise OSError(number, "no such luck", str(path))

    manager = checkpoint_manager.CheckpointManager(saved)
    with monkeypatch.context() as patched:
        patched.setattr(checksums, "_sum", fail)
        with pytest.raises(read_errors.UnavailableCheckpointError, match="no such luck"):
            manager.restore(want())
    restored = manager.restore(want())
    assert restored and restored[1] == 3
    manager.close()


def another_process(answers: list[bool]) -> Any:
    """Returns `multihost.all_agree` beside another process that says this, then agrees."""
    said = iter(answers)
    return lambda condition: next(said, True) and condition


# Of each block that all must come through, whether it was in reach, then whether it was whole.
FINE = [True, True]


@pytest.mark.parametrize("before", [[], FINE], ids=["checking", "reading"])
def test_processes_go_back_together(
    saved: pathlib.Path, monkeypatch: pytest.MonkeyPatch, before: list[bool]
) -> None:
    """Here checkpoint 3 is whole, but another process finds it damaged."""
    manager = checkpoint_manager.CheckpointManager(saved)
    monkeypatch.setattr(multihost, "all_agree", another_process([*before, True, False]))
    restored = manager.restore(want())
    assert restored and restored[1] == int(restored[0]["state"]["step"]) == 2
    manager.close()


@pytest.mark.parametrize("before", [[], FINE], ids=["checking", "reading"])
def test_processes_give_up_together(
    saved: pathlib.Path, monkeypatch: pytest.MonkeyPatch, before: list[bool]
) -> None:
    manager = checkpoint_manager.CheckpointManager(saved)
    monkeypatch.setattr(multihost, "all_agree", another_process([*before, False]))
    with pytest.raises(
        read_errors.UnavailableCheckpointError, match="checkpoint_3 could not be read"
    ):
        manager.restore(want())
    manager.close()
    assert checkpoints.steps(saved) == [2, 3]


def test_load_params_checks_what_it_reads(saved: pathlib.Path) -> None:
    flip(saved / "checkpoint_3" / "dataset" / "position.json")
    assert checkpoints.load_params(saved)[2] == 3
    flip(saved / "checkpoint_3" / "state" / "commit_success.txt")
    with pytest.raises(
        read_errors.CorruptCheckpointError, match="content of state/commit_success.txt has changed"
    ):
        checkpoints.load_params(saved)
    assert checkpoints.load_params(saved, verify=False)[2] == 3


def test_a_training_does_not_read_back_what_it_has_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise AssertionError(args)

    monkeypatch.setattr(checksums, "verify", fail)
    assert run(make(tmp_path / "run", train_steps=2, eval_period=0)) == 0


def test_half_written_is_not_seen(saved: pathlib.Path) -> None:
    (saved / "checkpoint_9.orbax-checkpoint-tmp-1").mkdir()
    assert checkpoints.steps(saved) == [2, 3]
    assert checkpoints.load_params(saved)[2] == 3


@pytest.mark.parametrize("left", ["nothing", "an empty state", "no metadata", "no data"])
def test_half_written_newest_is_passed_over(
    saved: pathlib.Path, tmp_path: pathlib.Path, capsys, left: str
) -> None:
    """A folder of the final name whose writing was cut off, as on a store without renames."""
    folder = saved / "checkpoint_4"
    if left in ("nothing", "an empty state"):
        (folder / "state").mkdir(parents=True)
        if left == "nothing":
            (folder / "state").rmdir()
    else:
        shutil.copytree(saved / "checkpoint_3", folder)
        (folder / "checksums.json").unlink()
        if left == "no metadata":
            (folder / "state" / "_METADATA").unlink()
        else:
            shutil.rmtree(folder / "state" / "d")
    manager = checkpoint_manager.CheckpointManager(saved, retention.Retention(keep=2))
    state, step, _ = manager.restore(want())
    assert step == 3
    np.testing.assert_array_equal(state["target"]["encoder"]["kernel"], np.full((2, 3), 3.0))
    assert "checkpoint_4 is damaged" in capsys.readouterr().err
    manager.save(4, tree(4), tmp_path / "3")
    manager.close()
    assert checkpoints.steps(saved) == [3, 4]
    assert checkpoints.load_params(saved, ema=False)[2] == 4


def test_no_whole_checkpoint(saved: pathlib.Path) -> None:
    for step in (2, 3):
        biggest_file(saved / f"checkpoint_{step}").unlink()
    manager = checkpoint_manager.CheckpointManager(saved)
    with pytest.raises(ValueError, match="no checkpoint in .* can be read; --overwrite"):
        manager.restore(want())
    manager.close()
    assert checkpoints.steps(saved) == [2, 3], "nothing is renamed"


def test_other_model_names_the_first_leaf(saved: pathlib.Path) -> None:
    manager = checkpoint_manager.CheckpointManager(saved)
    message = r"target/encoder/kernel is float32\[2, 3\] there and float32\[2, 5\] in this"
    with pytest.raises(ValueError, match=message):
        manager.restore(want(width=5))
    other = want()
    del other["state"]["param_states"]["inner"]
    with pytest.raises(ValueError, match="inner/mu/encoder/kernel is .* there and absent"):
        manager.restore(other)
    manager.close()


def test_empty_directory(tmp_path: pathlib.Path) -> None:
    manager = checkpoint_manager.CheckpointManager(tmp_path / "new")
    assert manager.restore(want()) is None
    manager.close()


def test_fingerprint_depends_on_values_names_and_config() -> None:
    params = {"a": {"b": np.ones(3, np.float32)}}
    base = checkpoints.fingerprint(params, "x")
    assert base == checkpoints.fingerprint({"a": {"b": jnp.ones(3)}}, "x")
    others = [
        checkpoints.fingerprint(params, "y"),
        checkpoints.fingerprint({"a": {"c": np.ones(3, np.float32)}}, "x"),
        checkpoints.fingerprint({"a": {"b": np.zeros(3, np.float32)}}, "x"),
    ]
    assert len({base, *others}) == 4


@pytest.mark.parametrize("name", ["run[1]", "wh?t*", "{a,b}", "it's", "a #%&é "])
def test_the_folder_of_a_training_is_what_it_is(tmp_path: pathlib.Path, name: str) -> None:
    for number, each in enumerate(("run1", "what", name)):  # siblings are not read or written
        manager = checkpoint_manager.CheckpointManager(tmp_path / each)
        manager.save(1, tree(number), position(tmp_path / f"position{number}", "p"))
        manager.close()
    reopened = checkpoint_manager.CheckpointManager(tmp_path / name)
    restored, step, folder = reopened.restore(want())
    reopened.close()
    assert step == 1 and pathlib.Path(folder).is_relative_to(tmp_path / name)
    np.testing.assert_array_equal(restored["target"]["encoder"]["kernel"], np.full((2, 3), 2.0))
