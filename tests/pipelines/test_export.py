# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti export`: finished trainings become a bundle; what does not fit is refused."""

import json
import pathlib
import shutil

import pytest
import tiny_models

from parti.engine.inference import bundles
from parti.pipelines import export
from parti.stages import manifests


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory, vocabulary: pathlib.Path) -> pathlib.Path:
    """A folder as the workflow leaves it, without an upsampler."""
    folder = tmp_path_factory.mktemp("workdir")
    tokenizer = tiny_models.part("tokenizer").encoder_fingerprint
    facts = {"generator": {"tokenizer_fingerprint": tokenizer}}
    for name in ("tokenizer", "generator", "reranker"):
        part = tiny_models.part(name)
        tiny_models.write_train_dir(folder / name, part, **facts.get(name, {}))
    (folder / "vocabulary").mkdir()
    shutil.copy(vocabulary, folder / "vocabulary" / "vocabulary.model")
    return folder


def run(workdir: pathlib.Path, output: pathlib.Path, *flags: str) -> pathlib.Path:
    assert export.run([f"--workdir={workdir}", f"--output={output}", *flags]) == 0
    return output


def test_finished_trainings_become_a_bundle(
    workdir: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = run(workdir, tmp_path / "bundle")
    bundle = bundles.Bundle.open(output)
    assert bundle.parts == ("tokenizer", "generator", "reranker")
    for name in bundle.parts:
        assert bundle.load(name).fingerprint == tiny_models.part(name).fingerprint
    manifest = manifests.read(output, "bundle")
    assert set(manifest["counts"]) == set(bundle.parts)
    printed = capsys.readouterr().out
    assert "upsampler" in printed and "none" in printed and "could not be checked" not in printed
    with pytest.raises(ValueError, match="already finished"):
        run(workdir, output)


def test_parts_can_be_named(workdir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    upsampler = tiny_models.write_train_dir(tmp_path / "up", tiny_models.part("upsampler"))
    output = run(workdir, tmp_path / "bundle", f"--upsampler={upsampler}")
    assert bundles.Bundle.open(output).parts == tuple(bundles.PARTS)


def test_a_part_can_be_left_out(workdir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    output = run(workdir, tmp_path / "bundle", "--parts", "tokenizer", "generator")
    assert bundles.Bundle.open(output).parts == ("tokenizer", "generator")
    with pytest.raises(ValueError, match="--parts tokenizer: a bundle needs generator"):
        run(workdir, tmp_path / "other", "--parts", "tokenizer")


def test_what_is_missing_is_named(workdir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    output = tmp_path / "bundle"
    with pytest.raises(FileNotFoundError, match="no tokenizer at .*--tokenizer DIR"):
        run(tmp_path, output, f"--vocabulary={workdir / 'vocabulary'}")
    with pytest.raises(FileNotFoundError, match="parti vocab"):
        run(tmp_path, output)
    with pytest.raises(FileNotFoundError, match="no upsampler at"):
        run(workdir, output, f"--upsampler={tmp_path / 'nothing'}")
    assert not output.exists()


def test_a_generator_of_another_tokenizer_is_refused(
    workdir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = tiny_models.write_train_dir(tmp_path / "t", tiny_models.part("tokenizer", seed=1))
    with pytest.raises(ValueError, match="tokenize again with this tokenizer"):
        run(workdir, tmp_path / "bundle", f"--tokenizer={other}")
    assert not (tmp_path / "bundle").exists() and not (tmp_path / "bundle.unfinished").exists()


def test_a_checkpoint_can_be_named_while_its_training_runs(
    workdir: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_models.part("generator", seed=1)
    training = tiny_models.write_train_dir(tmp_path / "running", other)
    (training / "checkpoint_7").rename(training / "checkpoint_3")
    shutil.copytree(workdir / "generator" / "checkpoint_7", training / "checkpoint_7")
    (training / "manifest.json").unlink()

    def begin(tokenizer: str) -> None:
        (training / "data.json").write_text(json.dumps({"tokenizer_fingerprint": tokenizer}))

    begin(tiny_models.part("tokenizer").encoder_fingerprint)
    output = run(workdir, tmp_path / "bundle", f"--generator={training / 'checkpoint_3'}")
    assert bundles.Bundle.open(output).load("generator").fingerprint == other.fingerprint
    assert "could not be checked" not in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="has not finished"):
        run(workdir, tmp_path / "newest", f"--generator={training}")
    begin("another")
    with pytest.raises(ValueError, match="another"):
        run(workdir, tmp_path / "misfit", f"--generator={training / 'checkpoint_3'}")
