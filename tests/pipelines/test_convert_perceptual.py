# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti perceptual`: published weights in, our file out, hashes checked."""

import hashlib
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from parti import cli
from parti.models.perceptual import network, weights


def vgg() -> dict[str, np.ndarray]:
    """Kernels of zeros under torchvision's names, and an array of the classifier, not used."""
    indices = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    layers = [layer for name, layer in network.shapes().items() if name.startswith("conv")]
    tensors = {"classifier.6.bias": np.zeros(1000, np.float32)}
    for index, layer in zip(indices, layers, strict=True):
        height, width, channels, depth = layer["kernel"]
        shape = (depth, channels, height, width)
        tensors[f"features.{index}.weight"] = np.zeros(shape, np.float16)
        tensors[f"features.{index}.bias"] = np.full(depth, index, np.float16)
    return tensors


def heads() -> dict[str, np.ndarray]:
    widths = [width for width, _ in network.BLOCKS]
    return {
        f"lin{i}.model.1.weight": np.full((1, width, 1, 1), i, np.float32)
        for i, width in enumerate(widths)
    }


@pytest.fixture
def inputs(tmp_path: pathlib.Path) -> list[str]:
    safetensors.numpy.save_file(vgg(), tmp_path / "vgg.safetensors")
    np.savez(tmp_path / "heads.npz", **heads())
    return [str(tmp_path / "vgg.safetensors"), str(tmp_path / "heads.npz")]


def sha256(path: str | pathlib.Path) -> str:
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def test_two_files_become_one(
    inputs: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out.safetensors"
    digests = [sha256(path) for path in inputs]
    flags = ["--input", *inputs, "--sha256", *digests, "--output", str(output)]
    assert cli.main(["perceptual", *flags]) == 0
    printed = capsys.readouterr().out
    assert all(digest in printed for digest in [*digests, sha256(output)])
    assert "VGG16 with LPIPS heads" in printed
    got = weights.read(output)
    assert got.has_heads and got.sha256 == sha256(output)
    np.testing.assert_array_equal(got.layers["conv5_3"]["bias"], np.full(512, 28, np.float32))
    np.testing.assert_array_equal(got.layers["head3"]["weight"], np.full(256, 2, np.float32))


def test_vgg_alone_is_enough(
    inputs: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out.npz"
    assert cli.main(["perceptual", "--input", inputs[0], "--output", str(output)]) == 0
    assert "VGG16 without heads" in capsys.readouterr().out
    assert not weights.read(output).has_heads


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sha256", "0" * 64], r"--sha256 has 1 values for 2 inputs"),
        (["--sha256", "0" * 64, "12"], "--sha256 12: give all 64 hexadecimal digits"),
        (["--sha256", "0" * 64, "0" * 64], "has the sha256 "),
        (["--output", "out.pth"], "ends with .safetensors or .npz"),
        (["--output", "{folder}/vgg.safetensors"], "--overwrite replaces it"),
        (["--input", "missing.npz"], "missing.npz: No such file"),
        (["--input", "vgg.pth"], "vgg.pth is a PyTorch file; convert it with: python -c "),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    inputs: list[str],
    tmp_path: pathlib.Path,
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture,
) -> None:
    before = sorted(tmp_path.iterdir())
    given = [flag.format(folder=tmp_path) for flag in flags]
    arguments = ["--input", *inputs, "--output", str(tmp_path / "new.npz"), *given]
    assert cli.main(["perceptual", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_overwrite(inputs: list[str], tmp_path: pathlib.Path) -> None:
    output = tmp_path / "out.npz"
    output.write_bytes(b"old")
    flags = ["--input", *inputs, "--output", str(output), "--overwrite"]
    assert cli.main(["perceptual", *flags]) == 0
    assert weights.read(output).has_heads
