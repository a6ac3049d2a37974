# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: layout, reading parts, damage, and another model's."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parti.engine import checkpoints, retention

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


@pytest.fixture
def saved(tmp_path: pathlib.Path) -> pathlib.Path:
    store = checkpoints.Store(tmp_path / "run", retention.Retention(keep=2))
    for step in (1, 2, 3):
        position = tmp_path / str(step)
        position.mkdir()
        (position / "position.json").write_text(str(step))
        store.save(step, tree(step), position)
    store.close()
    return tmp_path / "run"


def test_layout_and_number_kept(saved: pathlib.Path) -> None:
    assert checkpoints.steps(saved) == [2, 3]
    folder = checkpoints.step_path(saved, 3)
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
    part, _, step = checkpoints.load_params(saved, "encoder", step=2, ema=False)
    assert (list(part), step) == (["kernel"], 2)
    np.testing.assert_array_equal(part["kernel"], np.full((2, 3), 2.0))
    one = checkpoints.load_params(saved / "checkpoint_2", ema=False)
    assert one[2] == 2


def test_load_params_takes_the_average_where_there_is_one(saved: pathlib.Path) -> None:
    params, _, _ = checkpoints.load_params(saved, "encoder")
    np.testing.assert_array_equal(params["kernel"], np.full((2, 3), 103.0))
    shardings = {"kernel": SHARDING}
    placed, _, _ = checkpoints.load_params(saved, "encoder", ema=True, shardings=shardings)
    assert placed["kernel"].sharding == SHARDING


def test_load_params_mistakes(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="no training directory"):
        checkpoints.load_params(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint_<N> folder"):
        checkpoints.load_params(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 7; it has \[2, 3\]"):
        checkpoints.load_params(saved, step=7)
    with pytest.raises(ValueError, match="under 'decoder'; it has encoder, scale"):
        checkpoints.load_params(saved, "decoder", ema=False)


def biggest_file(folder: pathlib.Path) -> pathlib.Path:
    return max((folder / "state" / "d").iterdir(), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_damaged_newest_is_passed_over(saved: pathlib.Path, capsys, damage: str) -> None:
    path = biggest_file(saved / "checkpoint_3")
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[:-10])
    elif damage == "flip":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.unlink()
    with pytest.raises(ValueError, match="checkpoint_3 is incomplete or damaged"):
        checkpoints.load_params(saved)
    store = checkpoints.Store(saved)
    state, step, position = store.restore(want())
    assert (step, position.parent.name) == (2, "checkpoint_2")
    np.testing.assert_array_equal(state["target"]["encoder"]["kernel"], np.full((2, 3), 2.0))
    assert "going on from checkpoint_2 instead" in capsys.readouterr().err
    assert checkpoints.steps(saved) == [2]
    assert (saved / "damaged-checkpoint_3").is_dir()
    (saved / "position.json").write_text("3")
    position = saved.parent / "3"
    store.save(3, tree(3), position)
    store.close()
    assert checkpoints.load_params(saved, ema=False)[2] == 3


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        PermissionError("params"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        ValueError("PERMISSION_DENIED: Error opening params"),
    ],
)
def test_lacking_memory_or_permission_is_no_damage(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, checkpoints.readable(pathlib.Path("checkpoint_1")):
        raise error
    assert caught.value is error


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
    store = checkpoints.Store(saved, retention.Retention(keep=2))
    state, step, _ = store.restore(want())
    assert step == 3
    np.testing.assert_array_equal(state["target"]["encoder"]["kernel"], np.full((2, 3), 3.0))
    assert "checkpoint_4 is damaged" in capsys.readouterr().err
    store.save(4, tree(4), tmp_path / "3")
    store.close()
    assert checkpoints.steps(saved) == [3, 4]
    assert checkpoints.load_params(saved, ema=False)[2] == 4


def test_no_whole_checkpoint(saved: pathlib.Path) -> None:
    for step in (2, 3):
        biggest_file(saved / f"checkpoint_{step}").unlink()
    store = checkpoints.Store(saved)
    with pytest.raises(ValueError, match="no checkpoint in .* can be read; --overwrite"):
        store.restore(want())
    store.close()
    assert checkpoints.steps(saved) == [2, 3], "nothing is renamed"


def test_other_model_names_the_first_leaf(saved: pathlib.Path) -> None:
    store = checkpoints.Store(saved)
    message = r"target/encoder/kernel is float32\[2, 3\] there and float32\[2, 5\] in this"
    with pytest.raises(ValueError, match=message):
        store.restore(want(width=5))
    other = want()
    del other["state"]["param_states"]["inner"]
    with pytest.raises(ValueError, match="inner/mu/encoder/kernel is .* there and absent"):
        store.restore(other)
    store.close()


def test_empty_directory(tmp_path: pathlib.Path) -> None:
    store = checkpoints.Store(tmp_path / "new")
    assert store.restore(want()) is None
    store.close()


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
