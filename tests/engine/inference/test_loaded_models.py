# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Loaded models: padded batches, fingerprints, and finished training directories."""

import json
import pathlib
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from parti.engine.config import gin_config, provenance
from parti.engine.inference import loaded_models


class Doubler:
    """Adds up the shapes it was traced with."""

    training_only = ()

    def __init__(self) -> None:
        self.traced: list[tuple[int, ...]] = []

    def scale(self, variables: Any, x: jax.Array, times: int = 2) -> dict[str, jax.Array]:
        self.traced.append(x.shape)
        return {"y": times * x * variables["params"]["w"], "mean": jnp.mean(x, axis=1)}


@pytest.fixture
def doubler() -> loaded_models.LoadedModel:
    return loaded_models.LoadedModel(Doubler(), {"params": {"w": np.float32(3.0)}}, name="doubler")


def test_rows_come_back_in_order_and_one_shape_is_compiled(
    doubler: loaded_models.LoadedModel,
) -> None:
    x = np.arange(14, dtype=np.float32).reshape(7, 2)
    for rows in (7, 3, 1):
        result = doubler.call("scale", x[:rows], batch_size=3)
        np.testing.assert_array_equal(result["y"], 6 * x[:rows])
        np.testing.assert_array_equal(result["mean"], x[:rows].mean(axis=1))
    assert doubler.model.traced == [(3, 2)]
    assert doubler.call("scale", x, batch_size=3, times=1)["y"][6, 1] == 39.0
    assert doubler.model.traced == [(3, 2)] * 2


def test_bad_calls(doubler: loaded_models.LoadedModel) -> None:
    for arrays in ([np.zeros((0, 2))], [np.zeros((2, 2)), np.zeros((3, 2))], []):
        with pytest.raises(ValueError, match="doubler.scale: arrays of"):
            doubler.call("scale", *arrays, batch_size=1)


def test_pad_rows_repeats_the_last() -> None:
    np.testing.assert_array_equal(
        loaded_models.pad_rows(np.array([[1], [2]]), 4), [[1], [2], [2], [2]]
    )


def test_the_fingerprint_is_of_names_values_and_configuration() -> None:
    def fingerprint(variables: Any, config: str = "a") -> str:
        return loaded_models.LoadedModel(Doubler(), variables, config=config).fingerprint

    weights = np.arange(4, dtype=np.float32)
    base = fingerprint({"params": {"w": weights, "v": weights}})
    assert base == fingerprint({"params": {"v": jnp.array(weights), "w": weights}})
    assert len({
        base,
        fingerprint({"params": {"w": weights, "v": weights + 1e-6}}),
        fingerprint({"params": {"w": weights, "u": weights}}),
        fingerprint({"params": {"w": weights.reshape(2, 2), "v": weights}}),
        fingerprint({"params": {"w": weights, "v": weights}}, "b"),
        fingerprint({"params": {"w": weights}, "stats": {"v": weights}}),
    }) == 6  # fmt: skip


@pytest.fixture(scope="module")
def train_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished training of the tiny tokenizer, as `parti train` leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "tokenizer"
    return tiny_models.write_train_dir(folder, tiny_models.part("tokenizer"))


def test_a_training_directory_is_loaded(train_dir: pathlib.Path) -> None:
    loaded = loaded_models.LoadedModel.from_train_dir(train_dir)
    part = tiny_models.part("tokenizer")
    assert loaded.fingerprint == part.fingerprint and loaded.name == "tokenizer"
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
    tokens = loaded.call("encode", images, batch_size=2)
    assert tokens.shape == (3, 16) and tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, part.call("encode", images, batch_size=2))
    assert loaded.call("decode", tokens, batch_size=2).shape == (3, 16, 16, 3)


def test_an_unfinished_training_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder; `parti train` makes it"):
        loaded_models.LoadedModel.from_train_dir(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no manifest.json here; `parti train`"):
        loaded_models.LoadedModel.from_train_dir(tmp_path)
    (tmp_path / "config.gin").touch()
    with pytest.raises(FileNotFoundError, match="`parti train` has not finished; run it again"):
        loaded_models.LoadedModel.from_train_dir(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": "tokens"}')
    with pytest.raises(ValueError, match="holds tokens, not training"):
        loaded_models.LoadedModel.from_train_dir(tmp_path)


@pytest.mark.parametrize("layout", ["TOKENS_DIR = {}", "TOKENS_DIR = \\\n    {}"])
def test_what_a_training_read_is_known(tmp_path: pathlib.Path, layout: str) -> None:
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    (tokens / "manifest.json").write_text('{"tokenizer_fingerprint": "abc"}')
    vocabulary = tiny_models.write_vocabulary(tmp_path / "v.model")
    config = layout.format(repr(str(tokens))) + f"\nVOCABULARY = {str(vocabulary)!r}\n"
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.gin").write_text(config)
    (run / "model.gin").write_text("")
    (run / "manifest.json").write_text('{"kind": "training", "schema_version": 1}')
    known = provenance.trained_on(run)
    assert set(known) == {"tokenizer_fingerprint", "vocabulary_fingerprint"}
    assert known["tokenizer_fingerprint"] == "abc" and len(known["vocabulary_fingerprint"]) == 64
    # What the training recorded itself is believed before what lies there now.
    manifest = {
        "kind": "training",
        "schema_version": 1,
        "trained_on": {"tokenizer_fingerprint": "old"},
    }
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert provenance.trained_on(run)["tokenizer_fingerprint"] == "old"


def test_a_path_that_gin_wraps_over_lines_is_read(tmp_path: pathlib.Path) -> None:
    """gin breaks a text at its spaces."""
    folder = tmp_path / " ".join(f"word{i}" for i in range(30))
    (folder / "reconstructions").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"fingerprint": "f"}')
    with gin_config.empty():
        gin.parse_config(f"PAIRS_DIR = {str(folder)!r}\nTOKENS_DIR = %gin.REQUIRED\n")
        gin.parse_config(f"RECONSTRUCTIONS_DIR = {str(folder / 'reconstructions')!r}\n")
        config = gin.config_str()
    assert str(folder) not in config, "it is wrapped"
    expected = {"pairs_fingerprint": "f", "reconstructions_fingerprint": "f"}
    assert provenance.data_fingerprints(config) == expected
