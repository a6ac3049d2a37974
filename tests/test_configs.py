# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every experiment file parses, finds its data, and makes a model of the size in its name."""

import dataclasses
import math
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
import tiny_glue

from parti.data.images import images
from parti.data.storage import records, shard_names, tfrecords
from parti.data.text import vocabularies
from parti.engine import train
from parti.engine.experiment import experiments
from parti.engine.input import datasets
from parti.tasks import glue
from parti.workflow import config_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted((ROOT / "t5x_configs" / "experiments").glob("*.gin"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("t5x_configs/*.md")])
WORKFLOWS = sorted((ROOT / "workflow" / "config").glob("*.yaml"))
# Millions of parameters of a model that is called tiny.
TINY = 10
# Millions of parameters of each branch, those below 0.01 left out. tests/models/ holds them against
# the papers' counts.
IMAGE_TOWER = {"image_encoder": 85.59, "image_pooler": 2.36, "image_projection": 0.39}
TOKENIZER_SMALL = {"encoder": 25.33, "codebook": 0.26, "decoder": 27.07, "discriminator": 28.86}
SIZES = {
    "coca_base": {
        "image_encoder": 85.74,
        "caption_pooler": 2.56,
        "image_pooler": 2.36,
        "image_projection": 0.39,
        "text_decoder": 97.36,
        "multimodal_decoder": 125.59,
        "text_projection": 0.39,
    },
    "coca_tiny": {"image_encoder": 0.42, "image_pooler": 0.07, "text_decoder": 0.33},
    **{f"glue_{task}": {"encoder": 637.11} for task in glue.TASKS},
    "parti_20b": {"encoder": 3287.56, "decoder": 17249.87},
    "parti_20b_pipeline": {"encoder": 3287.56, "decoder": 17249.87},
    "parti_350m": {"encoder": 167.56, "decoder": 218.51},
    "parti_3b": {"encoder": 637.11, "decoder": 2450.58},
    "parti_750m": {"encoder": 167.56, "decoder": 621.31},
    "text_encoder_20b": {
        "encoder": 3287.56,
        "bert_head": 16.80,
        "image_encoder": 302.91,
        "image_pooler": 4.20,
        "image_projection": 0.52,
        "text_projection": 2.10,
    },
    "text_encoder_350m": IMAGE_TOWER
    | {"encoder": 167.56, "bert_head": 1.07, "text_projection": 0.52},
    "text_encoder_3b": IMAGE_TOWER
    | {"encoder": 637.11, "bert_head": 4.21, "text_projection": 1.05},
    "text_encoder_tiny": {
        "encoder": 0.46,
        "bert_head": 0.02,
        "image_encoder": 0.42,
        "image_pooler": 0.07,
    },
    "text_to_image_tiny": {"encoder": 0.46, "decoder": 1.15},
    "tokenizer_64": {"encoder": 0.28, "codebook": 0.02, "decoder": 0.31},
    "tokenizer_base": TOKENIZER_SMALL | {"encoder": 85.19, "decoder": 88.59},
    "tokenizer_large": TOKENIZER_SMALL | {"encoder": 587.74, "decoder": 596.01},
    "tokenizer_small": TOKENIZER_SMALL,
    "tokenizer_small_large": TOKENIZER_SMALL | {"decoder": 595.03},
    "tokenizer_small_rgb": TOKENIZER_SMALL | {"decoder": 26.67},
    "tokenizer_tiny": {"encoder": 0.27, "decoder": 0.31},
    "tokenizer_tiny_large": {"encoder": 0.27, "decoder": 2.26},
    "wdsr_tiny": {"stage_0": 0.08},
    "wdsr_x2": {"stage_0": 14.19, "discriminator": 28.98},
    "wdsr_x4": {"stage_0": 14.19, "stage_1": 14.19, "discriminator": 29.01},
}
TOKENS = {"tiny": 8 * 8, "paper": 32 * 32}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the stages before a training make, with one example each."""
    root = tmp_path_factory.mktemp("stages")
    picture = images.encode_png(np.zeros((8, 8, 3), np.uint8))
    rows = {
        "PAIRS_DIR": records.ImageTextPair("a", picture, "a red circle"),
        **{
            f"TOKENS_DIR {size}": records.TokenizedPair("a", "a", np.zeros(count, np.int32))
            for size, count in TOKENS.items()
        },
        "RECONSTRUCTIONS_DIR": records.ReconstructedPair("a", "a red circle", picture, picture),
    }
    made = {
        "MODEL_DIR": str(root / "model"),
        "TOKENIZER_DIR": str(root / "tokenizer"),
        "TEXT_ENCODER": str(root / "text_encoder"),
    }
    for macro, row in rows.items():
        folder = root / macro.lower()
        folder.mkdir()
        for split in records.SPLITS:
            name = shard_names.shard_name(split, 0, 1)
            tfrecords.write(folder / name, [row.to_example()])
        made[macro] = str(folder)
    made["GLUE_DIR"] = str(root / "tfds")
    for task in glue.TASKS:
        tiny_glue.write(root / "tfds", task)
    made["VOCABULARY"] = str(root / "vocabulary.model")
    sentences = iter(["a red circle", "a blue square", "a green star left of a red circle"] * 20)
    settings = vocabularies.SentencePieceSettings(vocab_size=300)
    vocabularies.train_sentencepiece(sentences, made["VOCABULARY"], settings)
    return made


def load(name: str, stages: dict[str, str], overrides: Sequence[str] = ()) -> Any:
    """Loads an experiment with the outputs of earlier stages that its header asks for."""
    text = (ROOT / name).read_text(encoding="utf-8")
    asked = re.findall(r"[A-Z_]{4,}", text.partition("Must be set:")[2].partition(".")[0])
    size = "tiny" if "tiny" in name else "paper"
    given = {macro.removesuffix(f" {size}"): path for macro, path in stages.items()}
    bindings = [f"{macro}='{path}'" for macro, path in given.items() if macro in asked]
    return experiments.load_experiment([name], [*bindings, *overrides])


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment(path: pathlib.Path, stages: dict[str, str]) -> None:
    experiment = load(f"t5x_configs/experiments/{path.name}", stages)
    spec = experiment.data_source.open(datasets.TRAIN, 1, 0, experiment.model).element_spec
    shapes = {name: tuple(leaf.shape) for name, leaf in spec.items()}
    millions = experiment.model.num_params(shapes) / 1e6
    branches = branch_sizes(experiment.model, shapes)
    assert sum(branches.values()) == pytest.approx(millions)
    seen = {branch: size for branch, size in branches.items() if size >= 0.01}
    assert seen == pytest.approx(SIZES[path.stem], abs=0.0051)
    if "tiny" in path.stem:
        assert millions < TINY
    elif path.stem.startswith("text_encoder"):
        # Parti's Table 1 by the blocks alone (tests/models/test_text_encoder.py); here its encoder.
        generator = SIZES[path.stem.replace("text_encoder", "parti")]
        assert branches["encoder"] == pytest.approx(generator["encoder"], abs=0.0051)
    elif named := re.search(r"_(\d+)([mb])$", path.stem):
        expected = float(named.group(1)) * (1000 if named.group(2) == "b" else 1)
        # The paper's names leave out the embeddings, a tenth of the smallest model.
        assert millions == pytest.approx(expected, rel=0.12)
    elif named := re.search(r"wdsr_x(\d)$", path.stem):
        assert experiment.model.config.scale**experiment.model.config.num_stages == int(named[1])
    elif named := re.search(r"tokenizer_(\d+)$", path.stem):
        assert experiment.model.config.image_size == int(named[1])


def branch_sizes(model: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, float]:
    """Returns {top-level branch: millions of parameters}."""
    params = jax.eval_shape(
        lambda: model.get_initial_variables(jax.random.PRNGKey(0), shapes)["params"]
    )
    return {
        branch: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) / 1e6
        for branch, tree in params.items()
    }


@pytest.mark.parametrize(
    ("size", "millions"), [("tiny", 0.46), ("350m", 167.56), ("3b", 637.11), ("20b", 3287.56)]
)
def test_another_size_is_fine_tuned_on_glue(
    size: str, millions: float, stages: dict[str, str]
) -> None:
    """Its encoder is that of the generator of this size."""
    files = [
        "t5x_configs/experiments/glue_rte.gin",
        f"t5x_configs/models/text_classifier_{size}.gin",
    ]
    given = [f"{macro}='{stages[macro]}'" for macro in ("MODEL_DIR", "GLUE_DIR", "VOCABULARY")]
    experiment, lengths = experiments.load_without_data(files, given)
    shapes = {"text_tokens": (1, lengths["inputs"]), "labels": (1, lengths["targets"])}
    found = branch_sizes(experiment.model, shapes)
    assert found["encoder"] == pytest.approx(millions, abs=0.0051)
    assert found.keys() == {"encoder", "classes"}


def test_each_experiment_has_a_size() -> None:
    assert SIZES.keys() == {path.stem for path in EXPERIMENTS}


def test_tokens_of_an_image_follow_from_the_grid(stages: dict[str, str]) -> None:
    name = "t5x_configs/experiments/text_to_image_tiny.gin"
    given = [f"{macro}='{stages[macro]}'" for macro in ("MODEL_DIR", "VOCABULARY")]
    given.append("TOKENS_DIR='none'")
    for grid, tokens in ((8, 64), (16, 256)):
        changed = [*given, f"GRID_SIZE={grid}"]
        experiment, lengths = experiments.load_without_data([name], changed)
        assert lengths == {"inputs": 24, "targets": tokens}
        assert experiment.model.config.grid_size == grid


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_header_says_how_to_run_it(path: pathlib.Path) -> None:
    header = "".join(re.findall(r"^#.*\n", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert "Must be set: MODEL_DIR" in header
    asked = re.findall(r"[A-Z_]{4,}", header.partition("Must be set:")[2].partition(".")[0])
    command = header.partition("#   parti train ")[2].partition("# Run: ")[0]
    assert command.startswith(f"--gin_file=t5x_configs/experiments/{path.name} ")
    assert re.findall(r"--gin\.([A-Z_]+)=\"'", command) == asked
    assert "# Run: " in header, "hardware, time and result, or that there was no run"


def test_the_trainings_of_the_pages_are_accepted() -> None:
    """Flags and macros of each `parti train` that leaves nothing out (`...`, `X.gin`)."""
    checked = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command in re.findall(r"^parti train (.*)$", text, re.MULTILINE):
            if "..." in command or "/X.gin" in command:
                continue
            flags = train._parse_flags(shlex.split(command, comments=True), ("--dry_run",))
            try:
                experiments.check_experiment(flags.gin_file, flags.gin_bindings)
            except ValueError as error:
                raise AssertionError(f"{page.name}: {command}") from error
            checked.add(page.name)
    assert {"README.md", "training.md", "upsampler.md"} <= checked


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_file(path: pathlib.Path, stages: dict[str, str], tmp_path: pathlib.Path) -> None:
    """The parts of one workflow fit each other: sizes, grid, codebook, vocabulary."""
    (tmp_path / "a.tar").touch()
    mine = [f"input={tmp_path}/a.tar"] if "pairs" in path.stem else []
    config = config_files.load(path.stem, mine)
    parts = {}
    trained = [part for part in config_files.TRAINED if config[f"train_{part}"]]
    for part in trained:
        section = config[f"train_{part}"]
        overrides = config_files.train_command(config, part)[2:]
        # What the workflow makes is not there.
        changes = [word.removeprefix("--gin.") for word in overrides if "='@/" not in word]
        experiment = load(section["experiment"], stages, changes)
        parts[part] = dataclasses.asdict(experiment.model.config)
    tokenizer, generator = parts["tokenizer"], parts["generator"]
    assert generator["codebook_size"] == tokenizer["codebook_size"]
    assert generator["grid_size"] * tokenizer["patch_size"] == tokenizer["image_size"]
    assert config["vocab"]["vocab_size"] <= generator["text_vocab_size"]
    assert config["vocab"]["vocab_size"] <= parts["reranker"]["text_vocab_size"]
    assert ("text_encoder" in parts) == (not path.stem.endswith("tiny"))
    if encoder := parts.get("text_encoder"):
        shared = [name for name in encoder if name in generator and name != "remat"]
        assert {name: encoder[name] for name in shared} == {n: generator[n] for n in shared}
        assert {"emb_dim", "num_encoder_layers", "text_length", "scan_layers"} <= set(shared)
    assert parts["upsampler"]["image_size"] == tokenizer["image_size"]
    large = parts["upsampler"]["scale"] ** parts["upsampler"]["num_stages"]
    assert config["clean"]["image_size"] == large * tokenizer["image_size"]
