# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Peak rates: the whole name of a device counts, and `parti compile` has the same table."""

import pathlib
import subprocess
from typing import Any

import jax
import pytest

from parti import cli
from parti.engine.hardware import accelerators


@pytest.mark.parametrize(
    ("kind", "dtype", "want"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "float32", 378e12),
        ("NVIDIA H100 NVL", "bfloat16", 835e12),
        ("NVIDIA H200", "bfloat16", 989e12),
        ("NVIDIA H200 NVL", "bfloat16", 835e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 156e12),
        ("TPU v5 lite", "bfloat16", 197e12),
        ("TPU v5", "bfloat16", 459e12),
        ("TPU v5p", "float32", 459e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("NVIDIA L40", "bfloat16", 181e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA L400", "bfloat16", None),
        ("NVIDIA H100 80GB HBM3", "float64", None),
        ("cpu", "float32", None),
    ],
)
def test_peaks(kind: str, dtype: str, want: float | None) -> None:
    assert accelerators.peak_flops(kind, dtype) == want


def test_the_gpu_to_compile_for_has_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        device_kind = "NVIDIA H200"

        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": 100}

    def devices(backend: str) -> list[Any]:
        assert backend == "gpu"
        return [Device()]

    monkeypatch.setattr(jax, "devices", devices)
    target = accelerators.target("gpu")
    assert (target.memory, target.peak_flops) == (100, 989e12)


@pytest.mark.parametrize("name", ["nonsense", "cuda,nonsense"])
@pytest.mark.parametrize("command", ["train", "tokenize", "generate", "evaluate", "export"])
def test_a_platform_that_is_not_there_is_one_line_before_anything_is_begun(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    command: str,
) -> None:
    ended = subprocess.CompletedProcess([], 1, "", f"Traceback\nRuntimeError: no '{name}'\n")

    def refuse() -> None:
        raise RuntimeError(f"no '{name}' (set JAX_PLATFORMS='' to choose)")

    monkeypatch.setattr(jax, "devices", refuse)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: ended)
    monkeypatch.setenv("JAX_PLATFORMS", name)
    output = ["--output", str(tmp_path / "out")]
    arguments = {
        "train": ["--gin_file=t5x_configs/experiments/tokenizer_tiny.gin"],
        "tokenize": ["--input=x", "--model=x", *output],
        "generate": ["--prompts=a star", *output],
        "evaluate": ["--reconstructions", "--reference=x", "--model=x", *output],
        "export": ["--workdir=x", *output],
    }
    assert cli.main([command, *arguments[command]]) == 2
    line = f"parti {command}: JAX_PLATFORMS={name}: JAX finds no such device here (no '{name}');"
    assert capsys.readouterr().err.startswith(line)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("printed", "number"), [("devices: 8\n", 8), ("of a plugin: 3\ndevices: 2\nbye 7\n", 2)]
)
def test_devices_are_counted_on_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, printed: str, number: int
) -> None:
    ended = subprocess.CompletedProcess([], 0, printed, "a warning")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: ended)
    assert accelerators.num_devices() == number


def test_a_count_of_devices_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words of JAX, not of the process that asked it."""
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    with pytest.raises(ValueError) as raised:
        accelerators.num_devices()
    said = str(raised.value)
    assert said.startswith("JAX cannot count the devices of this machine (") and "\n" not in said
    assert "nonsense" in said and "set JAX_PLATFORMS to what works" in said


@pytest.mark.parametrize("command", ["train", "compile", "generate"])
def test_a_flag_that_xla_does_not_know_is_bad_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_nonsense=1")
    gin = "--gin_file=t5x_configs/experiments/tokenizer_tiny.gin"
    arguments = {
        "train": [gin],
        "compile": [gin, "--topology=cpu-8"],
        "generate": ["--prompts=a star", "--output=x"],
    }
    assert cli.main([command, *arguments[command]]) == 2
    assert capsys.readouterr().err == (
        f"parti {command}: XLA_FLAGS=--xla_nonsense=1: Unknown flag in XLA_FLAGS: "
        "--xla_nonsense=1; mend or unset XLA_FLAGS\n"
    )


def test_compiling_for_a_gpu_checks_the_platform_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("no 'nonsense'")

    monkeypatch.setattr(jax, "devices", refuse)
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    with pytest.raises(ValueError, match="JAX_PLATFORMS=nonsense: JAX finds no such device here"):
        accelerators.target("gpu")
