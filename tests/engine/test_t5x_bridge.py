# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The experiments under real T5X, beside the embedded engine; skipped where T5X is not installed.

docs/t5x.md says how to install it.
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin
import jax
import numpy as np
import pytest
import tiny_glue
from flax.core import unfreeze

from parti.data.images import images
from parti.data.storage import records, shard_names, tfrecords
from parti.data.text import vocabularies
from parti.engine import eval as evaluation
from parti.engine import infer as inference
from parti.engine import train as training
from parti.engine.checkpoints import checkpoints
from parti.engine.config import gin_config, gin_text
from parti.engine.experiment import checkpoint_use, experiments, settings
from parti.engine.input import datasets
from parti.engine.loop import nan_recovery
from parti.engine.step import train_step
from parti.tasks import glue

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN_FILE = "t5x_configs/runs/t5x/train.gin"
EXPERIMENTS = sorted((ROOT / "t5x_configs" / "experiments").glob("*.gin"))
SHORT = (
    "TRAIN_STEPS = 3",
    "WARMUP_STEPS = 1",
    "BATCH_SIZE = 16",
    "CHECKPOINT_PERIOD = 2",
    "EVAL_PERIOD = 3",
    "EVAL_STEPS = 2",
    "LOG_PERIOD = 1",
)
# What is tried: an experiment with fewer layers, and what else is tried with it.
ADAFACTOR = """
from parti.models.text_to_image import network
network.TextToImageConfig.num_encoder_layers = 1
network.TextToImageConfig.num_decoder_layers = 1
OPTIMIZER = @optimizers.adafactor()
optimizers.adafactor.learning_rate = %LEARNING_RATE
EMA_DECAY = 0.9
MESH_SHAPE = (4, 2)
NUM_MICROBATCHES = 2
"""
PIPELINE = """
from parti.models.text_to_image import network
network.TextToImageConfig.num_decoder_layers = 2
network.TextToImageConfig.scan_layers = True
include 't5x_configs/layouts/pipeline.gin'
MESH_SHAPE = (4, 2, 1)
NUM_STAGES = 2
PIPELINE_MICROBATCHES = 2
REMAT = 'full'
"""
MUON = """
from parti.models.text_to_image import network
network.TextToImageConfig.num_encoder_layers = 1
network.TextToImageConfig.num_decoder_layers = 2
network.TextToImageConfig.scan_layers = True
include 't5x_configs/optimizers/muon.gin'
include 't5x_configs/layouts/two_dimensional.gin'
WEIGHT_DECAY = 0.1
MESH_SHAPE = (4, 2)
"""
COCA = """
from parti.models.coca import network
network.CocaConfig.num_image_layers = 1
network.CocaConfig.num_text_layers = 1
NUM_MULTIMODAL_LAYERS = 1
CONTRASTIVE_MICROBATCHES = 2
"""
SEEDS = "DATA_SEED = 3\nRANDOM_SEED = 5\n"
TOKENIZER = """
from parti.models.image_tokenizer import network
network.ImageTokenizerConfig.num_encoder_layers = 1
network.ImageTokenizerConfig.num_decoder_layers = 1
CHECKPOINTS_TO_KEEP = 1
"""
TEXT_ENCODER = """
from parti.models.text_encoder import network
network.TextEncoderConfig.num_encoder_layers = 1
network.ImageTowerConfig.num_layers = 1
BERT_RATE = 0.5
DROPOUT_RATE = 0.1
"""
BERT = """
from parti.models.text_encoder import network
network.TextEncoderConfig.num_encoder_layers = 1
CONTRASTIVE_WEIGHT = 0.0
TEXT_LENGTH = 8
NUM_MICROBATCHES = 2
"""
TRIED = {
    "text_to_image": ("text_to_image_tiny", ADAFACTOR),
    "pipeline": ("text_to_image_tiny", PIPELINE),
    "muon": ("text_to_image_tiny", MUON),
    "coca": ("coca_tiny", COCA),
    "glue": ("glue_mrpc", "include 't5x_configs/models/text_classifier_tiny.gin'\n"),
    "text_encoder": ("text_encoder_tiny", TEXT_ENCODER),
    "bert": ("text_encoder_tiny", BERT),
    "tokenizer": ("tokenizer_tiny", TOKENIZER),
    "upsampler": ("wdsr_tiny", SEEDS),
}


@pytest.fixture(scope="module")
def t5x_train() -> Any:
    """The module `t5x.train`."""
    pytest.importorskip("t5x", reason="T5X is not installed (docs/t5x.md)")
    import t5x.train

    return t5x.train


@pytest.fixture(scope="module")
def bridge(t5x_train: Any) -> Any:
    from parti.engine import t5x_bridge

    return t5x_bridge


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the stages before a training make, with a few examples each."""
    root = tmp_path_factory.mktemp("stages")
    rng = np.random.default_rng(0)
    captions = ("a red circle", "a blue square", "a green star left of a red circle")

    def picture(size: int) -> bytes:
        return images.encode_png(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))

    def rows(macro: str) -> Iterator[Any]:
        for i in range(32):
            key, text = str(i), captions[i % 3]
            if macro == "PAIRS_DIR":
                yield records.ImageTextPair(key, picture(32), text)
            elif macro == "TOKENS_DIR":
                yield records.TokenizedPair(key, text, rng.integers(0, 256, 64).astype(np.int32))
            elif macro == "WIDE_TOKENS_DIR":
                yield records.TokenizedPair(key, text, np.zeros(1024, np.int32))
            else:
                yield records.ReconstructedPair(key, text, picture(64), picture(32))

    made = {}
    for macro in ("PAIRS_DIR", "TOKENS_DIR", "WIDE_TOKENS_DIR", "RECONSTRUCTIONS_DIR"):
        made[macro] = str(root / macro.lower())
        (root / macro.lower()).mkdir()
        for split in records.SPLITS:
            path = root / macro.lower() / shard_names.shard_name(split, 0, 1)
            tfrecords.write(path, [row.to_example() for row in rows(macro)])
    made["GLUE_DIR"] = str(root / "tfds")
    for task in glue.TASKS:
        tiny_glue.write(root / "tfds", task)
    made["VOCABULARY"] = str(root / "vocabulary.model")
    settings = vocabularies.SentencePieceSettings(vocab_size=300)
    vocabularies.train_sentencepiece(iter(captions * 20), made["VOCABULARY"], settings)
    return made


def bindings(name: str, stages: Mapping[str, str], model_dir: pathlib.Path) -> list[str]:
    """Returns bindings for what the header of an experiment says must be set."""
    text = (ROOT / f"t5x_configs/experiments/{name}.gin").read_text(encoding="utf-8")
    asked = re.findall(r"[A-Z_]{4,}", text.partition("Must be set:")[2].partition(".")[0])
    given = {"TOKENIZER_DIR": "nowhere", "TEXT_ENCODER": "nowhere", **stages}
    given["MODEL_DIR"] = str(model_dir)
    if not name.endswith("tiny"):
        given["TOKENS_DIR"] = given["WIDE_TOKENS_DIR"]
    return [f"{macro} = {given[macro]!r}" for macro in asked]


def train(**arguments: Any) -> dict[str, Any]:
    """Stands in for the function of `python -m t5x.train`: returns what the gin files give it."""
    return arguments


def evaluate(**arguments: Any) -> dict[str, Any]:
    """Stands in for that of `python -m t5x.eval`."""
    return arguments


def infer(**arguments: Any) -> dict[str, Any]:
    """Stands in for that of `python -m t5x.infer`."""
    return arguments


Run = Callable[..., Any]


@pytest.fixture
def run(t5x_train: Any, bridge: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a function that does what `python -m t5x.train` does with gin files and bindings.

    Another function than that of T5X can be given, which takes the same arguments, and another
    script's stand-in, with its run file.
    """
    from t5x import gin_utils

    def run(
        files: str | Sequence[str],
        overrides: Sequence[str],
        function: Any = t5x_train.train,
        script: Any = train,
        run_file: str = RUN_FILE,
    ) -> Any:
        monkeypatch.setattr(sys.modules["__main__"], script.__name__, script, raising=False)
        with gin_config.empty():
            gin.register(script, "__main__")
            with gin.unlock_config():
                files = [run_file, *([files] if isinstance(files, str) else files)]
                gin_utils.parse_gin_flags([str(ROOT)], files, overrides, finalize_config=False)
                return function(**gin.get_configurable(script)())

    return run


def embedded(files: str | Sequence[str], overrides: Sequence[str]) -> None:
    """Trains an experiment with the embedded engine."""
    files = [files] if isinstance(files, str) else files
    assert training.train(experiments.load_experiment(files, overrides)) == 0


def experiment_file(name: str) -> str:
    return f"t5x_configs/experiments/{name}.gin"


def tried_file(folder: pathlib.Path, name: str, settings: str) -> str:
    """Writes a gin file with an experiment and more settings."""
    path = folder / f"{name}.gin"
    path.write_text(f"""
from __gin__ import dynamic_registration
from parti.engine.step import optimizers
include '{experiment_file(name)}'
{settings}""")
    return str(path)


def embedded_values(folder: pathlib.Path, split: str, name: str) -> dict[int, float]:
    """Returns {step: value} of a metric of the embedded engine."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[name] for row in rows if row["split"] == split}


def t5x_values(folder: pathlib.Path, name: str) -> dict[int, float]:
    """Returns {step: value} of a metric that T5X wrote for TensorBoard."""
    import tensorflow as tf

    found = {}
    for path in sorted(folder.glob("events.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == name:
                    found[event.step] = float(tf.make_ndarray(value.tensor))
    return found


def assert_equal_checkpoints(one: pathlib.Path, other: pathlib.Path, step: int) -> None:
    """Compares all leaves, optimizer state too; rounding apart."""
    restored = []
    for folder in (one, other):
        path = checkpoints.step_path(folder, step)
        restored.append(checkpoints.read_leaves(path, checkpoints.leaves(path)))
    assert restored[0].keys() == restored[1].keys()
    for key, leaf in restored[0].items():
        assert leaf.dtype == restored[1][key].dtype, key
        np.testing.assert_allclose(leaf, restored[1][key], rtol=1e-5, atol=1e-6, err_msg=str(key))


@pytest.mark.parametrize("name", ["train", "eval", "infer"])
def test_run_file_uses_macros_of_the_embedded_engine(name: str) -> None:
    def text(path: str) -> str:
        return (ROOT / "t5x_configs/runs" / path).read_text(encoding="utf-8")

    own = "" if name == "train" else text(f"embedded/{name}.gin")
    embedded = gin_text.macros(text("settings.gin") + text("embedded/train.gin") + own)
    assert gin_text.used_macros(text(f"t5x/{name}.gin")) <= embedded.keys()


def test_only_the_bridge_and_its_run_files_import_t5x() -> None:
    imports = re.compile(r"^\s*(?:from|import) t5x\b", re.MULTILINE)
    folders = ("data", "tasks", "models", "engine", "pipelines", "parti", "t5x_configs")
    files = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    sources = (path for path in files if path.suffix in (".py", ".gin"))
    found = {path for path in sources if imports.search(path.read_text(encoding="utf-8"))}
    run_files = {ROOT / f"t5x_configs/runs/t5x/{name}.gin" for name in ("train", "eval", "infer")}
    assert found == {ROOT / "engine/t5x_bridge.py", *run_files}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_builds(
    path: pathlib.Path, run: Run, stages: dict[str, str], tmp_path: pathlib.Path
) -> None:
    """T5X makes the state that the embedded engine makes, divided in the same way."""
    given = bindings(path.stem, stages, tmp_path / "model")
    if "pipeline" in path.stem:
        given.append("MESH_SHAPE = (1, 8, 1)")
    arguments = run(experiment_file(path.stem), given, dict)
    model, partitioner = arguments["model"], arguments["partitioner"]
    experiment = model.experiment
    source = experiment.data_source.open(datasets.TRAIN, experiment.batch_size, 0, experiment.model)
    spec = source.element_spec
    built = arguments["train_state_initializer_cls"](
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={name: leaf.shape for name, leaf in spec.items()},
        input_types={name: leaf.dtype for name, leaf in spec.items()},
        partitioner=partitioner,
    )
    program = train_step.make_program(experiment, spec)
    pairs = (
        (program.abstract, built.global_train_state_shape),
        (program.specs, built.train_state_axes),
    )
    for ours, theirs in pairs:
        assert described(ours.params) == described(unfreeze(theirs.params))
        assert described(ours.mutables) == described(unfreeze(theirs.flax_mutables))
        assert described(ours.opt_state) == described(theirs.param_states)


def described(tree: Any) -> dict[str, str]:
    """Returns {path: shape and dtype, or `PartitionSpec`} of the leaves of a tree."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): str(leaf) for path, leaf in leaves}


@pytest.mark.parametrize("tried", TRIED)
def test_experiment_trains(
    tried: str, run: Run, stages: dict[str, str], tmp_path: pathlib.Path
) -> None:
    """From one seed and one data set both engines have the same losses, and end alike."""
    ours, theirs = tmp_path / "embedded", tmp_path / "t5x"
    name, settings = TRIED[tried]
    file = tried_file(tmp_path, name, settings)
    run(file, [*SHORT, *bindings(name, stages, theirs)])
    embedded(file, [*SHORT, *bindings(name, stages, ours)])
    for metric in ("loss", "grad_norm", "learning_rate"):
        values = embedded_values(ours, "train", metric)
        assert list(values) == [1, 2, 3]
        assert t5x_values(theirs / "train", metric) == pytest.approx(values, rel=1e-5)
    (task,) = (theirs / "training_eval").iterdir()
    values = embedded_values(ours, "validation", "loss")
    assert t5x_values(task, "loss") == pytest.approx(values, rel=1e-5)
    assert_equal_checkpoints(ours, theirs, 3)
    params, _, step = checkpoints.load_params(theirs)
    assert step == 3
    assert params.keys() == checkpoints.load_params(ours)[0].keys()


def test_each_engine_goes_on_from_the_other(
    run: Run, stages: dict[str, str], tmp_path: pathlib.Path
) -> None:
    """Steps 3 and 4 are the same, whichever engine took steps 1 and 2: data, optimizer and all."""
    name = "text_to_image_tiny"
    file = tried_file(tmp_path, name, ADAFACTOR)
    folders = {key: tmp_path / key for key in ("t5x", "embedded", "t5x_then", "embedded_then")}
    settings = [*SHORT, "TRAIN_STEPS = 4", "CHECKPOINTS_TO_KEEP = None"]
    given = {key: [*settings, *bindings(name, stages, path)] for key, path in folders.items()}
    run(file, given["t5x"])
    embedded(file, given["embedded"])
    assert checkpoints.steps(folders["t5x"]) == [0, 2, 4]
    for key, source in (("t5x_then", "t5x"), ("embedded_then", "embedded")):
        shutil.copytree(folders[source] / "checkpoint_2", folders[key] / "checkpoint_2")
    run(file, given["embedded_then"])
    embedded(file, given["t5x_then"])
    losses = embedded_values(folders["embedded"], "train", "loss")
    last = {step: loss for step, loss in losses.items() if step > 2}
    assert t5x_values(folders["embedded_then"] / "train", "loss") == pytest.approx(last, rel=1e-5)
    assert embedded_values(folders["t5x_then"], "train", "loss") == pytest.approx(last, rel=1e-5)
    for key in ("t5x", "t5x_then", "embedded_then"):
        assert_equal_checkpoints(folders["embedded"], folders[key], 4)


@pytest.fixture(scope="module")
def several(stages: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The stages with two sets of tokens, as TOKENS_DIR of `--gin` has them."""
    few = tmp_path_factory.mktemp("several") / "few"
    few.mkdir()
    rng = np.random.default_rng(1)
    for split in records.SPLITS:
        rows = (
            records.TokenizedPair(f"f{i}", "a blue star", rng.integers(0, 256, 64).astype(np.int32))
            for i in range(16)
        )
        path = few / shard_names.shard_name(split, 0, 1)
        tfrecords.write(path, [row.to_example() for row in rows])
    return {**stages, "TOKENS_DIR": {stages["TOKENS_DIR"]: 2, str(few): 1}}  # type: ignore[dict-item]


ONE_LAYER = """
from parti.models.text_to_image import network
network.TextToImageConfig.num_encoder_layers = 1
network.TextToImageConfig.num_decoder_layers = 1
"""


def test_several_data_sets(run: Run, several: dict[str, str], tmp_path: pathlib.Path) -> None:
    """The same examples under both engines, also after a resume, and metrics of each set."""
    name = "text_to_image_tiny"
    file = tried_file(tmp_path, name, ONE_LAYER)
    folders = {key: tmp_path / key for key in ("t5x", "embedded", "then")}
    settings = [*SHORT, "TRAIN_STEPS = 4", "CHECKPOINTS_TO_KEEP = None", "EVAL_PERIOD = 4"]
    settings.append("EVAL_STEPS = 1")
    given = {key: [*settings, *bindings(name, several, path)] for key, path in folders.items()}
    run(file, given["t5x"])
    embedded(file, given["embedded"])
    losses = embedded_values(folders["embedded"], "train", "loss")
    assert t5x_values(folders["t5x"] / "train", "loss") == pytest.approx(losses, rel=1e-5)
    shutil.copytree(folders["t5x"] / "checkpoint_2", folders["then"] / "checkpoint_2")
    embedded(file, given["then"])
    last = {step: loss for step, loss in losses.items() if step > 2}
    assert embedded_values(folders["then"], "train", "loss") == pytest.approx(last, rel=1e-5)
    # T5X also makes a folder for the mixture.
    tasks = sorted((folders["t5x"] / "training_eval").glob("parti_text_to_image.*"))
    assert len(tasks) == 2
    for task, label in zip(tasks, ("few", "tokens_dir"), strict=True):
        assert f".{label}_" in task.name
        values = embedded_values(folders["embedded"], "validation", f"{label}/loss")
        assert t5x_values(task, "loss") == pytest.approx(values, rel=1e-5)


@pytest.fixture(scope="module")
def trained(
    several: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, pathlib.Path, list[str]]:
    """A gin file, a training of the embedded engine, and bindings of data, devices, checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    name = "text_to_image_tiny"
    file, source = tried_file(folder, name, ONE_LAYER), folder / "source"
    given = bindings(name, several, source)
    embedded(file, [*SHORT, "EMA_DECAY = 0.5", *given])
    data = [line for line in given if "MODEL_DIR" not in line]
    return file, source, [*data, "BATCH_SIZE = 16", "MESH_SHAPE = (8, 1)"]


Trained = tuple[str, pathlib.Path, list[str]]


def test_evaluation_of_a_checkpoint(run: Run, trained: Trained, tmp_path: pathlib.Path) -> None:
    import t5x.eval

    file, source, given = trained
    given = [*given, f"CHECKPOINT_PATH = '{source}'"]
    theirs, ours = ([*given, f"EVAL_OUTPUT_DIR = '{tmp_path / k}'"] for k in ("t5x", "embedded"))
    run(file, theirs, t5x.eval.evaluate, evaluate, "t5x_configs/runs/t5x/eval.gin")
    experiment = experiments.load_experiment([file], ours, checkpoint_use.EVAL_RUN_FILE)
    want = evaluation.evaluate(experiment)
    found, same = (
        json.loads((tmp_path / key / "metrics.json").read_text()) for key in ("t5x", "embedded")
    )
    assert found["metrics"] == pytest.approx(want, rel=1e-5)
    assert {"loss", "few/loss", "tokens_dir/loss"} <= want.keys()
    assert (found["split"], found["data"]) == (same["split"], same["data"])


@pytest.mark.parametrize("mode", ["score", "predict"])
def test_inference_from_a_checkpoint(
    mode: str, run: Run, trained: Trained, tmp_path: pathlib.Path
) -> None:
    import t5x.infer

    file, source, given = trained
    given = [*given, f"CHECKPOINT_PATH = '{source}'", f"INFER_MODE = '{mode}'"]
    theirs, ours = ([*given, f"INFER_OUTPUT_DIR = '{tmp_path / k}'"] for k in ("t5x", "embedded"))
    run(file, theirs, t5x.infer.infer, infer, "t5x_configs/runs/t5x/infer.gin")
    inference.infer(experiments.load_experiment([file], ours, checkpoint_use.INFER_RUN_FILE))
    want = rows_of(tmp_path / "embedded")
    parts = [tmp_path / "t5x" / f"inferences_{name}" for name in ("few", "tokens_dir")]
    found = [row for part in parts for row in rows_of(part)]
    assert len(found) == 48
    if mode == "score":
        scores, want_scores = ([row.pop("score") for row in rows] for rows in (found, want))
        np.testing.assert_allclose(scores, want_scores, rtol=1e-5)
    else:
        assert all(len(row.pop("prediction")) == 64 for row in (*found, *want))
        (shard,) = parts[0].glob("*.tfrecord")
        assert len(list(tfrecords.read(shard))) == 16
    assert found == want


def test_finetuning_from_a_checkpoint(run: Run, trained: Trained, tmp_path: pathlib.Path) -> None:
    file, source, given = trained
    given = [*given, f"INITIAL_CHECKPOINT_PATH = '{source}'", *SHORT, "LEARNING_RATE_PEAK = 1e-3"]
    run([file, "t5x_configs/runs/t5x/finetune.gin"], [*given, f"MODEL_DIR = '{tmp_path / 't5x'}'"])
    ours = [file, "t5x_configs/runs/embedded/finetune.gin"]
    embedded(ours, [*given, f"MODEL_DIR = '{tmp_path / 'embedded'}'"])
    for metric in ("loss", "learning_rate"):
        values = embedded_values(tmp_path / "embedded", "train", metric)
        assert t5x_values(tmp_path / "t5x" / "train", metric) == pytest.approx(values, rel=1e-5)
    assert list(values.values()) == pytest.approx([0.0, 1e-3, 1e-3])


def rows_of(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "inferences.jsonl").read_text().splitlines()]


def test_what_t5x_cannot_evaluate_or_infer(
    run: Run, stages: dict[str, str], bridge: Any, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "generator").mkdir()
    (tmp_path / "generator" / "params.safetensors").write_text("")
    with pytest.raises(ValueError, match="is a bundle's part, .* `parti eval`"):
        bridge.checkpoint_folder(str(tmp_path / "generator"))
    name = "text_to_image_tiny"
    given = [line for line in bindings(name, stages, tmp_path) if "MODEL_DIR" not in line]
    given += [f"CHECKPOINT_PATH = '{tmp_path}'", f"INFER_OUTPUT_DIR = '{tmp_path / 'x'}'"]
    run_file = "t5x_configs/runs/t5x/infer.gin"
    with pytest.raises(ValueError, match="NUM_EXAMPLES = 3: T5X infers on whole splits"):
        run(experiment_file(name), [*given, "NUM_EXAMPLES = 3"], dict, infer, run_file)


def test_embedded_engine_finishes_a_training_of_t5x(
    run: Run, stages: dict[str, str], tmp_path: pathlib.Path
) -> None:
    """`parti train` then takes no step, but writes what an export needs; T5X unfinishes it."""
    name = experiment_file("wdsr_tiny")
    given = [*SHORT, *bindings("wdsr_tiny", stages, tmp_path)]
    run(name, given)
    before = checkpoints.load_params(tmp_path)[0]
    embedded(name, given)
    jax.tree.map(np.testing.assert_array_equal, before, checkpoints.load_params(tmp_path)[0])
    assert json.loads((tmp_path / "manifest.json").read_text())["counts"]["steps"] == 3
    run(name, given)
    assert (tmp_path / "manifest.json").is_file(), "there was no step to take"
    run(name, [*given, "TRAIN_STEPS = 4"])
    assert checkpoints.steps(tmp_path)[-1] == 4
    assert not (tmp_path / "manifest.json").exists()


def test_initial_and_frozen_branches(
    run: Run, stages: dict[str, str], tmp_path: pathlib.Path
) -> None:
    """INITIAL reads a checkpoint of T5X; what is frozen stays bitwise; the losses are equal."""
    ours, theirs, source = (tmp_path / key for key in ("embedded", "t5x", "source"))
    file = experiment_file("tokenizer_tiny")
    run(file, [*SHORT, *bindings("tokenizer_tiny", stages, source)])
    made = {**stages, "TOKENIZER_DIR": str(source / "checkpoint_3")}
    name = "tokenizer_tiny_large"
    file = experiment_file(name)
    run(file, [*SHORT, *bindings(name, made, theirs)])
    embedded(file, [*SHORT, *bindings(name, made, ours)])
    values = embedded_values(ours, "train", "loss")
    assert t5x_values(theirs / "train", "loss") == pytest.approx(values, rel=1e-5)
    trained, _, _ = checkpoints.load_params(theirs)
    given, _, _ = checkpoints.load_params(source)
    for branch in ("encoder", "codebook"):
        jax.tree.map(np.testing.assert_array_equal, trained[branch], given[branch])


def test_a_generator_from_a_text_encoder(
    run: Run, stages: dict[str, str], tmp_path: pathlib.Path
) -> None:
    """Pretrained under T5X, taken by both engines with TEXT_ENCODER: the losses are equal."""
    ours, theirs, source = (tmp_path / key for key in ("embedded", "t5x", "source"))
    alone = [*SHORT, "CONTRASTIVE_WEIGHT = 0.0"]
    file = experiment_file("text_encoder_tiny")
    run(file, [*alone, *bindings("text_encoder_tiny", stages, source)])
    name = "text_to_image_tiny"
    file = experiment_file(name)
    short = [*SHORT, f"TEXT_ENCODER = '{source / 'checkpoint_3'}'", "CHECKPOINTS_TO_KEEP = None"]
    run(file, [*short, *bindings(name, stages, theirs)])
    embedded(file, [*short, *bindings(name, stages, ours)])
    values = embedded_values(ours, "train", "loss")
    assert t5x_values(theirs / "train", "loss") == pytest.approx(values, rel=1e-5)
    given, _, _ = checkpoints.load_params(source)
    first = checkpoints.load_params(checkpoints.step_path(theirs, 0))[0]
    jax.tree.map(np.testing.assert_array_equal, first["encoder"], given["encoder"])
    other = shutil.copytree(source, tmp_path / "other")
    (other / "data.json").write_text('{"vocabulary_fingerprint": "another"}')
    wrong = [*SHORT, f"TEXT_ENCODER = '{other / 'checkpoint_3'}'"]
    with pytest.raises(ValueError, match="trained with another vocabulary"):
        run(file, [*wrong, *bindings(name, stages, tmp_path / "none")])


def test_a_step_that_is_not_finite_stops_before_it_is_saved(
    run: Run, stages: dict[str, str], tmp_path: pathlib.Path
) -> None:
    given = [*SHORT, *bindings("wdsr_tiny", stages, tmp_path)]
    with pytest.raises(nan_recovery.NotFiniteError, match="`parti train` and NAN_POLICY = .skip"):
        run(
            experiment_file("wdsr_tiny"),
            [*given, "LEARNING_RATE_PEAK = 1e38", "TRAIN_STEPS = 8"],
        )
    params, _, _ = checkpoints.load_params(tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("NAN_POLICY = 'skip'", "NAN_POLICY = 'skip': T5X has nothing for it; leave it at 'stop'"),
        ("TRAIN_STPES = 4", "nothing uses the macro TRAIN_STPES"),
        ("TENSORBOARD = False", "TENSORBOARD = False"),
        ("LEARNING_RATE = None", "LEARNING_RATE is None"),
        ("MESH_SHAPE = (3, 1)", "MESH_SHAPE"),
        ("NUM_MICROBATCHES = 3", "does not divide"),
        ("TEXT_VOCAB_SIZE = 8", "has 300 pieces"),
    ],
)
def test_settings_that_t5x_cannot_follow(
    setting: str, message: str, run: Run, stages: dict[str, str], tmp_path: pathlib.Path
) -> None:
    name = "text_to_image_tiny"
    file = tried_file(tmp_path, name, f"optimizers.adamw.learning_rate = 1e-3\n{setting}\n")
    given = [*SHORT, *bindings(name, stages, tmp_path / "model")]
    with pytest.raises(ValueError, match=re.escape(message)):
        run(file, given, dict)


def test_every_setting_is_followed_or_refused() -> None:
    stated = settings.of(experiments.Experiment)
    followed = {name for name, setting in stated.items() if setting.t5x}
    text = (ROOT / RUN_FILE).read_text(encoding="utf-8")
    used = {name.lower() for name in gin_text.used_macros(text)}
    others = {"mixture_or_task_name", "task_feature_lengths"}
    # The bridge itself takes these from the experiment.
    inside = {"model", "data_source", "optimizer", "ema_decay", "initial"}
    assert (used - others) | inside == followed


def test_data_that_are_not_a_task(bridge: Any, stages: dict[str, str], tmp_path: Any) -> None:
    files = ["t5x_configs/experiments/wdsr_tiny.gin"]
    given = bindings("wdsr_tiny", stages, tmp_path / "model")
    experiment = experiments.load_experiment(files, given)
    bridge.check(experiment)
    arrays = dataclasses.replace(experiment, data_source=datasets.ArraySource({}, {}))
    with pytest.raises(ValueError, match="DATA_SOURCE is ArraySource"):
        bridge.check(arrays)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no training"):
        bridge.check(experiment)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shuffle": False}, "DatasetConfig.shuffle = False: .*; leave it at True"),
        ({"split": "train[:50%]"}, "DatasetConfig.split = 'train.:50%.': .*; leave it at 'train'"),
        ({"pack": True}, "DatasetConfig.pack = True"),
        ({"use_custom_packing_ops": True}, "DatasetConfig.use_custom_packing_ops = True"),
        ({"use_cached": True}, "DatasetConfig.use_cached = True"),
        ({"module": "own.tasks"}, "DatasetConfig.module = 'own.tasks'"),
        ({"seed": None}, "seed is None, .*; set DATA_SEED"),
        ({"batch_size": 15}, "BATCH_SIZE 15 does not divide over the 2 parts"),
    ],
)
def test_data_that_t5x_would_read_otherwise(
    changes: dict[str, Any], message: str, bridge: Any
) -> None:
    from t5x import utils

    given = {"mixture_or_task_name": "a", "task_feature_lengths": {"image": 8}, "split": "train"}
    given |= {"batch_size": 16, "shuffle": True, "seed": 0}
    with pytest.raises(ValueError, match=message):
        bridge.get_dataset(utils.DatasetConfig(**(given | changes)), 0, 2, None)


def test_periods(bridge: Any) -> None:
    assert bridge.common_period(500, 750) == 250
    assert bridge.common_period(500, 1000) == 0
    assert bridge.common_period(500, 0) == 0


@pytest.mark.slow
def test_the_command(bridge: Any, stages: dict[str, str], tmp_path: pathlib.Path) -> None:
    """`python -m t5x.train` itself, as docs/t5x.md has it."""
    given = [f"--gin.{line}" for line in (*bindings("wdsr_tiny", stages, tmp_path), *SHORT)]
    command = [sys.executable, "-m", "t5x.train", f"--gin_file={RUN_FILE}"]
    command += ["--gin_file=t5x_configs/experiments/wdsr_tiny.gin", *given]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert checkpoints.steps(tmp_path) == [2, 3]
