# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""gin files to experiments: order, export, and one-line errors."""

import os
import pathlib

import fake_training
import pytest

from parti.engine.config import gin_config
from parti.engine.experiment import experiments

TEXT = """
from __gin__ import dynamic_registration
import fake_training
import optax
MODEL = @fake_training.Regressor()
fake_training.Regressor.dropout_rate = %DROPOUT_RATE
DATA_SOURCE = @fake_training.source()
TRAIN_STEPS = 6
BATCH_SIZE = 8
OPTIMIZER = @optax.adamw()
optax.adamw.learning_rate = 0.01
"""
MODEL_DIR = "MODEL_DIR='runs/a'"


@pytest.fixture
def write(tmp_path: pathlib.Path):
    def write(more: str = "") -> str:
        path = tmp_path / "experiment.gin"
        path.write_text(TEXT + more)
        return str(path)

    return write


def test_later_values_win(write) -> None:
    experiment = experiments.load_experiment(
        [write()], [MODEL_DIR, "BATCH_SIZE = 4", "EVAL_STEPS=3"]
    )
    assert (experiment.batch_size, experiment.eval_steps, experiment.train_steps) == (4, 3, 6)
    assert experiment.mesh_axes == ("data", "model")
    assert experiment.model_dir == "runs/a"
    assert isinstance(experiment.model, fake_training.Regressor)


def test_full_config_reads_back(write, tmp_path: pathlib.Path) -> None:
    experiment = experiments.load_experiment([write()], [MODEL_DIR, "DROPOUT_RATE=0.3"])
    (tmp_path / "full.gin").write_text(experiment.config)
    again = experiments.load_experiment([str(tmp_path / "full.gin")])
    assert again.config == experiment.config
    assert again.model.dropout_rate == 0.3


def test_model_config_is_minimal(write, tmp_path: pathlib.Path) -> None:
    experiment = experiments.load_experiment([write()], [MODEL_DIR, "DROPOUT_RATE=0.3"])
    text = experiment.model_config
    assert "optax" not in text
    assert "datasets" not in text
    assert "outputs = 8" in text, "defaults are written down too"
    assert gin_config.model_from_config(text).dropout_rate == 0.3
    path = tmp_path / "model.gin"
    path.write_text(text)
    assert gin_config.model_from_config(path).outputs == 8
    assert gin_config.model_from_config(str(path)).outputs == 8


def test_run_file_resolves_from_any_folder(
    write, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    monkeypatch.chdir(tmp_path)
    assert not os.path.exists("t5x_configs")
    files = ["t5x_configs/runs/embedded/train.gin", "experiment.gin"]
    assert experiments.load_experiment(files, [MODEL_DIR]).batch_size == 8


@pytest.mark.parametrize(
    ("more", "bindings", "message"),
    [
        ("optax.adamw.leaning_rate = 1", [MODEL_DIR], "leaning_rate'; did you mean learning_rate?"),
        ("TRAIN_STPES = 3", [MODEL_DIR], "nothing uses the macro TRAIN_STPES; did you mean TRAIN_"),
        (
            "fake_training.Regressor.featurse = 3",
            [MODEL_DIR],
            "a parameter named 'featurse'; did you mean features?",
        ),
        ("optax.adamv.b1 = 1", [MODEL_DIR], "no attribute adamv; did you mean adam"),
        ("nets.Net.b1 = 1", [MODEL_DIR], "'nets' was not provided by an import statement; add"),
        ("TRAIN_STEPS = %STEPS", [MODEL_DIR], "STEPS is not set; set it in the experiment file"),
        ("TRAIN_STEPS = 3 4", [MODEL_DIR], "Expected newline: TRAIN_STEPS = 3 4 ("),
        ("include 'no.gin'", [MODEL_DIR], "Unable to open file: no.gin"),
        ("import not_there", [MODEL_DIR], "No module named 'not_there' ("),
        ("fake_training.source.features = 'a'", [MODEL_DIR], "(in source)"),
        ("RANDOM_SEED = None", [MODEL_DIR], "RANDOM_SEED must be a whole number, got None"),
        ("DATA_SEED = None", [MODEL_DIR], "DATA_SEED must be a whole number, got None"),
        ("TRAIN_STEPS = 0", [MODEL_DIR], "TRAIN_STEPS must be a whole number of at least 1, got 0"),
        ("", [], "MODEL_DIR is not set; set it in the experiment file or with --gin.MODEL_DIR="),
        ("", ["MODEL_DIR=/a/b"], "a text needs quotes of its own: --gin.MODEL_DIR=\"'/a/b'\""),
        (
            "",
            [MODEL_DIR, "BTCH_SIZE=1"],
            "--gin.BTCH_SIZE: no gin file sets a macro of that name; ",
        ),
        ("A = (", [MODEL_DIR], "EOF in multi-line statement (line "),
        ("", [MODEL_DIR, "BATCH_SIZE=("], "--gin.BATCH_SIZE=( is not a Python literal"),
        ("", [MODEL_DIR, "BATCH_SIZE"], "write --gin.NAME=VALUE"),
        ("", [MODEL_DIR, "adamx.b1=1"], "No configurable matching 'adamx'; there is"),
        ("", [MODEL_DIR, "NUM_MICROBATCHES=3"], "8 does not divide into NUM_MICROBATCHES 3"),
    ],
)
def test_mistakes_are_one_line(write, more: str, bindings: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        experiments.load_experiment([write(more + "\n")], bindings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_macro_whose_use_was_replaced(write, tmp_path: pathlib.Path) -> None:
    """An included file sets and uses FEATURES; nothing is misspelt."""
    included = write("FEATURES = 4\nfake_training.Regressor.features = %FEATURES\n")
    own = tmp_path / "own.gin"
    own.write_text(
        "from __gin__ import dynamic_registration\nimport fake_training\n"
        f"include '{included}'\nfake_training.Regressor.features = 3\n"
    )
    experiments.load_experiment([included], [MODEL_DIR])
    key = "fake_training.Regressor.features"
    with pytest.raises(ValueError) as caught:
        experiments.load_experiment([str(own)], [MODEL_DIR])
    assert str(caught.value) == (
        f"nothing uses the macro FEATURES: {key} = %FEATURES was replaced; "
        f"set FEATURES instead of {key}"
    )


@pytest.fixture
def fresh(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with two models, which no other test has shown to gin."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"models_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "import fake_training\n"
        "class One(fake_training.Regressor):\n    pass\n"
        "class Two(fake_training.Regressor):\n    pass\n"
    )
    return name


@pytest.mark.parametrize("earlier", ["", "{} as other", "{}"])
def test_bindings_do_not_depend_on_what_was_read_before(write, fresh: str, earlier: str) -> None:
    """gin's registry keeps what the process has read, by the names that it was first read by."""
    if earlier:
        head = f"from __gin__ import dynamic_registration\nimport {earlier.format(fresh)}\n"
        called = "other" if "other" in earlier else fresh
        made = f"MODEL = @{called}.One()\n{called}.One.features = 5\n{called}.Two.features = 5\n"
        assert gin_config.model_from_config(head + made).features == 5
    path = pathlib.Path(write(f"MODEL = @{fresh}.One()\n"))
    path.write_text(path.read_text().replace("import optax", f"import {fresh}\nimport optax"))

    def load(*bindings: str) -> experiments.Experiment:
        return experiments.load_experiment([str(path)], [MODEL_DIR, "DROPOUT_RATE = 0", *bindings])

    for name in (f"{fresh}.One", "One"):
        found = load(f"{name}.features = 3")
        assert found.model.features == 3
        assert f"{fresh}.One.features = 3" in found.model_config
        assert f"import {fresh}\n" in found.model_config
    assert load("MODEL = @One()", "One.outputs = 2").model.outputs == 2
    for binding in (f"{fresh}.Two.features = 3", f"MODEL = @{fresh}.Two()"):
        with pytest.raises(ValueError, match=f"No configurable matching '{fresh}.Two'"):
            load(binding)
    with pytest.raises(ValueError, match="a parameter named 'featurse'; did you mean features"):
        load("One.featurse = 3")


def test_missing_file_names_the_nearest() -> None:
    with pytest.raises(FileNotFoundError, match="did you mean train.gin?"):
        experiments.load_experiment(["t5x_configs/runs/embedded/trian.gin"], [MODEL_DIR])


def test_config_without_model() -> None:
    with pytest.raises(ValueError, match="MODEL is not set"):
        gin_config.model_from_config("from __gin__ import dynamic_registration\nA = 1\n")


@pytest.mark.parametrize("value", ["None", "'x'", "1.0"])
def test_a_value_of_another_kind_is_a_users_mistake(value: str) -> None:
    with pytest.raises(ValueError, match=r"EMA_DECAY must be in \[0, 1\)"):
        experiments.check_experiment(
            ["t5x_configs/experiments/tokenizer_tiny.gin"],
            ["MODEL_DIR='unused'", "PAIRS_DIR='unused'", f"EMA_DECAY={value}"],
        )


def test_a_field_of_the_experiment_is_set_by_its_macro_alone(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="set the macro TRAIN_STEPS instead"):
        experiments.check_experiment(
            ["t5x_configs/experiments/tokenizer_tiny.gin"],
            ["MODEL_DIR='unused'", "experiments.Experiment.train_steps=7"],
        )
    own = tmp_path / "own.gin"
    own.write_text(
        "from __gin__ import dynamic_registration\n"
        "from parti.engine.experiment import experiments\n"
        "include 't5x_configs/experiments/tokenizer_tiny.gin'\n"
        "experiments.Experiment.ema_decay = 0.5\n"
    )
    with pytest.raises(ValueError, match="set the macro EMA_DECAY instead"):
        experiments.check_experiment([str(own)], ["MODEL_DIR='unused'", "PAIRS_DIR='unused'"])
