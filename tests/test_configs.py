# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every experiment file parses, finds its data, and makes a model of the size in its name."""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from parti.data.images import images
from parti.data.storage import records, shard_names, tfrecords
from parti.data.text import vocabularies
from parti.engine.experiment import experiments
from parti.engine.input import datasets
from parti.workflow import config_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted((ROOT / "t5x_configs" / "experiments").glob("*.gin"))
WORKFLOWS = sorted((ROOT / "workflow" / "config").glob("*.yaml"))
# Parameters in millions of one side of a tokenizer or of an upsampler, or of a whole model.
TINY = 10
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
    made = {"MODEL_DIR": str(root / "model"), "TOKENIZER_DIR": str(root / "tokenizer")}
    for macro, row in rows.items():
        folder = root / macro.lower()
        folder.mkdir()
        for split in records.SPLITS:
            name = shard_names.shard_name(split, 0, 1)
            tfrecords.write(folder / name, [row.to_example()])
        made[macro] = str(folder)
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
    print(path.stem, f"{millions:.1f}M")
    if "tiny" in path.stem:
        assert millions < TINY
    elif named := re.search(r"_(\d+)([mb])$", path.stem):
        expected = float(named.group(1)) * (1000 if named.group(2) == "b" else 1)
        # The paper's names leave out the embeddings, a tenth of the smallest model.
        assert millions == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_header_says_how_to_run_it(path: pathlib.Path) -> None:
    header = "".join(re.findall(r"^#.*\n", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert "Must be set: MODEL_DIR" in header


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_file(path: pathlib.Path, stages: dict[str, str], tmp_path: pathlib.Path) -> None:
    """The parts of one workflow fit each other: sizes, grid, codebook, vocabulary."""
    (tmp_path / "a.tar").touch()
    mine = [f"input={tmp_path}/a.tar"] if "pairs" in path.stem else []
    config = config_files.load(path.stem, mine)
    parts = {}
    for part in config_files.PARTS:
        section = config[f"train_{part}"]
        overrides = config_files.train_command(part, section)[2:]
        # What the workflow makes is not there.
        changes = [word.removeprefix("--gin.") for word in overrides if "='@/" not in word]
        experiment = load(section["experiment"], stages, changes)
        parts[part] = dataclasses.asdict(experiment.model.config)
    tokenizer, generator = parts["tokenizer"], parts["generator"]
    assert generator["codebook_size"] == tokenizer["codebook_size"]
    assert generator["grid_size"] * tokenizer["patch_size"] == tokenizer["image_size"]
    assert config["vocab"]["vocab_size"] <= generator["text_vocab_size"]
    assert config["vocab"]["vocab_size"] <= parts["reranker"]["text_vocab_size"]
    assert parts["upsampler"]["image_size"] == tokenizer["image_size"]
    large = parts["upsampler"]["scale"] ** parts["upsampler"]["num_stages"]
    assert config["clean"]["image_size"] == large * tokenizer["image_size"]
