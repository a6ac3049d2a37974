# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The built wheel holds the tree, and works from another folder without it."""

import os
import pathlib
import subprocess
import sys
import zipfile

import packages
import pytest
import tiny_models

import parti
from parti.engine.inference import bundles

NOT_PACKAGED = (".pyc", ".bak", ".orig", ".tmp")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    source = packages.copy_tree(tmp_path_factory.mktemp("source"))
    return packages.build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def run(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory):
    """Returns a function that runs Python with the wheel, from a folder that is not the clone."""
    place = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(*arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(place)}
        ended = subprocess.run(
            [sys.executable, "-P", *arguments],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        assert str(packages.ROOT) not in ended.stdout
        return ended.stdout

    return run


def test_the_wheel_holds_the_tree(wheel: pathlib.Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = set()
    for folder in packages.FOLDERS:
        inside = "parti" if folder == "parti" else f"parti/{folder}"
        for path in (packages.ROOT / folder).rglob("*"):
            if not path.is_file() or "__pycache__" in path.parts or path.suffix in NOT_PACKAGED:
                continue
            expected.add(f"{inside}/{path.relative_to(packages.ROOT / folder).as_posix()}")
    assert packed == expected


def test_version_and_commands(wheel: pathlib.Path, run) -> None:
    assert parti.__version__ in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert b"parti = parti.cli:main" in archive.read(entry_points)
    assert run("-m", "parti", "--version") == f"parti {parti.__version__}\n"
    assert "generate" in run("-m", "parti", "--help")
    places = run("-c", "import parti, parti.models; print(parti.__path__, parti.models.__path__)")
    assert places.count("installed") == 2


def test_configurations_are_found_from_anywhere(run) -> None:
    code = """
from parti.engine.config import gin_config
path = "t5x_configs/models/parti_tiny.gin"
print(type(gin_config.model_from_config(f"include '{path}'")).__name__)
from parti.workflow import config_files
print(config_files.load("scenes-tiny")["source"], (config_files.folder() / "Snakefile").is_file())
"""
    assert run("-c", code).split() == ["TextToImageModel", "scenes", "True"]


def test_the_workflow_is_planned_from_anywhere(run) -> None:
    plan = run("-m", "parti", "demo", "--workdir", "demo", "--dry_run")
    assert "stages would run" in plan and "train_generator" in plan


def test_images_are_generated_from_anywhere(run, tmp_path: pathlib.Path) -> None:
    vocabulary = tiny_models.write_vocabulary(tmp_path / "vocabulary.model")
    bundle = tmp_path / "bundle"
    bundles.write_bundle(bundle, tiny_models.parts("tokenizer", "generator"), vocabulary)
    output = tmp_path / "generations"
    run(
        *("-m", "parti", "generate", "--prompts", "a red circle", "--num_samples=1"),
        *("--model", str(bundle), "--output", str(output)),
    )
    assert (output / "manifest.json").is_file() and list((output / "images").rglob("*.png"))
