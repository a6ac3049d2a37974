# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import fake_training
import jax
import jax.numpy as jnp
import optax
import pytest
import quick_jit

from parti.engine import compile as compile_command
from parti.engine import train
from parti.engine.experiment import experiments
from parti.engine.hardware import accelerators
from parti.engine.pod_estimates import compile_step, device_memory
from parti.engine.step import train_step

TINY = [f"--gin_file={pathlib.Path(__file__).parents[2] / 'tiny_generator.gin'}"]
DRAWS = ["--topology=cpu-2", "--program=generate"]
ROOT = pathlib.Path(__file__).resolve().parents[3]
EXPERIMENTS = sorted((ROOT / "t5x_configs" / "experiments").glob("*.gin"))
FULLY_SHARDED = {
    "mesh_axes": ("data",),
    "logical_axis_rules": [("batch", "data"), ("mlp", "data")],
}


def regressor(**changes: object) -> experiments.Experiment:
    """Returns a training of 4 x 256 weights and 256 biases with Adam, on 8 devices."""
    settings = {
        "model": fake_training.Regressor(outputs=256),
        "data_source": None,
        "optimizer": optax.adam(1e-3),
        "model_dir": "unused",
        "train_steps": 1,
        "batch_size": 64,
        "eval_period": 0,
    }
    return experiments.Experiment(**{**settings, **changes})


def spec(batch_size: int = 64) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        "x": jax.ShapeDtypeStruct((batch_size, 4), jnp.float32),
        "y": jax.ShapeDtypeStruct((batch_size, 256), jnp.float32),
    }


@pytest.mark.parametrize("layout", [{}, FULLY_SHARDED], ids=["whole", "sharded"])
def test_what_a_device_keeps_is_what_arrays_on_it_take(layout: dict[str, object]) -> None:
    program = train_step.make_program(regressor(**layout), spec())
    kinds = device_memory.state(program)
    with program.context():
        state = program.init(jax.random.PRNGKey(0), {})

    def on_first_device(tree: object) -> int:
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    assert kinds[device_memory.PARAMETERS] == on_first_device(state.params)
    assert kinds[device_memory.OPTIMIZER] == on_first_device(state.opt_state)
    assert kinds[device_memory.OTHER_STATE] == on_first_device((state.step, state.mutables))
    assert kinds[device_memory.BATCH] == 64 * (4 + 256) * 4 // 8
    assert kinds[device_memory.PARAMETERS] == 5 * 256 * 4 // (8 if layout else 1)


def test_a_train_step() -> None:
    report = compile_step.compile_train_step(regressor(), spec(), accelerators.target("cpu-8"))
    assert report.mesh == {"data": 8, "model": 1}
    assert report.num_params == 5 * 256
    # The product and that of its gradient: of the rows there is none.
    assert report.model_flops == report.program_flops == 2 * 2 * 64 * 4 * 256
    # Gradients are added up over the devices; the compiler may do it in one or in several.
    assert report.collectives is not None
    assert report.collectives["all-reduce"].num_bytes >= 5 * 256 * 4
    assert report.memory[device_memory.PADDING] <= 8  # the key of the random numbers
    assert report.fits is None


def test_microbatches_do_the_same_work() -> None:
    target = accelerators.target("cpu-4")
    whole = compile_step.compile_train_step(regressor(), spec(), target)
    parts = compile_step.compile_train_step(regressor(num_microbatches=4), spec(), target)
    assert parts.program_flops == whole.program_flops
    assert parts.num_microbatches == 4


def advice(memory: int, **changes: object) -> list[str]:
    """Returns what is said of a training whose activations take 800 bytes, in `memory` bytes."""
    experiment = regressor(**changes)
    program = train_step.make_program(experiment, spec())
    kinds = device_memory.with_gradients(
        {**device_memory.state(program), device_memory.ACTIVATIONS: 1_000_000}
    )
    return [str(one) for one in device_memory.advice(kinds, memory, experiment, program)]


def test_advice_names_the_number_of_microbatches_that_fits() -> None:
    # The state takes 24 kB, so two parts of 500 kB, and gradients of 5 kB, are too many for 500.
    program = train_step.make_program(regressor(), spec())
    split = device_memory.with_gradients(
        {**device_memory.state(program), device_memory.ACTIVATIONS: 9_000}
    )
    assert split == device_memory.state(program) | {
        device_memory.GRADIENTS: 5 * 256 * 4,
        device_memory.ACTIVATIONS: 9_000 - 5 * 256 * 4,
    }
    assert any("NUM_MICROBATCHES=4:" in line for line in advice(500_000))
    assert any("NUM_MICROBATCHES=2:" in line for line in advice(650_000))


def test_no_part_of_a_batch_is_advised_where_examples_are_compared() -> None:
    assert any("MICROBATCHES" in line for line in advice(500_000))
    model = fake_training.Regressor(outputs=256)
    model.compares_examples = True
    assert advice(500_000, model=model) == [str(device_memory.MORE_DEVICES)]
    model.loss_parts = 2  # It can compute its loss in parts.
    lines = advice(700_000, model=model)
    assert any("CONTRASTIVE_MICROBATCHES=4:" in line for line in lines)


def test_advice_shards_what_is_whole_on_each_device() -> None:
    assert any("fully_sharded" in line for line in advice(10_000))
    assert not any("MICROBATCHES" in line for line in advice(10_000))
    assert advice(1_000, **FULLY_SHARDED) == [str(device_memory.MORE_DEVICES)]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_each_experiment_tells_its_batches_without_data(path: pathlib.Path) -> None:
    bindings = ["MODEL_DIR='.'", "INITIAL=None"]
    experiment, lengths = experiments.load_without_data([str(path)], bindings)
    found = compile_step.element_spec(experiment, lengths)
    assert set(found) == set(experiment.model.feature_types)
    assert {leaf.shape[0] for leaf in found.values()} == {experiment.batch_size}
    assert experiment.model.num_params({k: v.shape for k, v in found.items()}) > 0


def test_the_command_reads_no_data(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "report.json"
    argv = [*TINY, "--topology=cpu-4", "--gin.MESH_SHAPE=(2, 2)", f"--json={path}"]
    assert compile_command.main(argv) == 0
    shown = capsys.readouterr().out
    assert "data 2 x model 2" in shown and "all-reduce" in shown
    report = json.loads(path.read_text())
    assert report["mesh"] == {"data": 2, "model": 2}
    assert report["batch"] == 16
    assert report["memory"][device_memory.PARAMETERS] < 4 * report["num_params"]
    assert report["bindings"][-1] == "MESH_SHAPE=(2, 2)"
    # Two decoder layers in a scan: an all-reduce in its body counts twice.
    assert report["collectives"]["all-reduce"]["count"] > 10 and report["is_exact"]


@pytest.mark.slow
def test_what_is_advised_is_compiled_and_fits(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "report.json"
    command = [f"--gin_file={ROOT / 't5x_configs' / 'experiments' / 'wdsr_tiny.gin'}"]
    command += ["--topology=cpu-2", f"--json={path}"]

    def total() -> int:
        return sum(json.loads(path.read_text())["memory"].values())

    with quick_jit.everywhere():
        assert compile_command.main(command) == 0
        command.append(f"--memory={0.7 * total() / accelerators.GIB}")
        assert compile_command.main(command) == 1
        shown = capsys.readouterr().out.splitlines()
        (advised, *others) = json.loads(path.read_text())["advice"]
        assert advised["fits"] and advised["compiled"] != advised["forecast"]
        size = device_memory.format_bytes(advised["compiled"])
        line = shown[shown.index("what would help:") + 1]
        assert line.startswith(f"  - {advised['flags'][0]}: ")
        assert line.endswith(f"; compiled: {size}, it fits")
        assert shown[-1] == f"  - {device_memory.MORE_DEVICES}" and not others[-1]["flags"]
        assert compile_command.main([*command, *advised["flags"]]) == 0
    assert total() == advised["compiled"]


def test_what_does_not_fit_is_advised_further_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler asks for more than the forecast; a mesh of the command refuses a layout."""
    whole = compile_step.compile_train_step(regressor(), spec(), accelerators.target("cpu-2"))
    target = dataclasses.replace(accelerators.target("cpu-2"), memory=1_000_000)

    def compiled(num_bytes: int, *advice: device_memory.Advice) -> compile_step.Report:
        advice = (*advice, device_memory.MORE_DEVICES)
        memory = {device_memory.ACTIVATIONS: num_bytes}
        return dataclasses.replace(whole, memory=memory, fits=num_bytes <= 1e6, advice=advice)

    def parts(number: int) -> device_memory.Advice:
        return device_memory.Advice("rows", (f"--gin.NUM_MICROBATCHES={number}",), 900_000)

    remat = device_memory.Advice("again", ("--gin.REMAT='full'",))
    layout = device_memory.Advice("divided", ("--gin_file=layout.gin",))
    answers = {
        (): compiled(8_000_000, remat, parts(16), layout),
        ("--gin.REMAT='full'",): compiled(4_000_000, layout, parts(8)),
        ("--gin.REMAT='full'", "--gin_file=layout.gin"): None,
        ("--gin.REMAT='full'", "--gin.NUM_MICROBATCHES=8"): compiled(1_000_001, parts(16)),
        ("--gin.REMAT='full'", "--gin.NUM_MICROBATCHES=16"): compiled(600_000),
    }

    def answer(flags, target, bindings, more=()) -> compile_step.Report:
        report = answers[tuple(more)]
        if report is None:
            raise ValueError("the mesh has two axes")
        return report

    monkeypatch.setattr(compile_command, "_compile", answer)
    tried = compile_command._try(None, target, [], answers[()])
    assert [str(one) for one in tried] == [
        "--gin.REMAT=\"'full'\" --gin.NUM_MICROBATCHES=16: rows; compiled: 0.57 MiB, it fits",
        "--gin.REMAT=\"'full'\": again; compiled: 3.81 MiB, it does not fit",
        "--gin.REMAT=\"'full'\" --gin_file=layout.gin: divided; refused: the mesh has two axes; "
        "not compiled",
        "--gin.REMAT=\"'full'\" --gin.NUM_MICROBATCHES=8: rows; compiled: 0.95 MiB, "
        "it does not fit",
        "--gin.NUM_MICROBATCHES=16: rows; forecast: about 0.86 MiB; not compiled",
        "--gin_file=layout.gin: divided; not compiled",
        str(device_memory.MORE_DEVICES),
    ]
    monkeypatch.setattr(compile_command, "MOST_TRIES", 2)
    assert not any(one.fits for one in compile_command._try(None, target, [], answers[()]))


def test_generation_and_a_limit(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "report.json"
    argv = [*TINY, *DRAWS, "--num_samples=2", f"--json={path}"]
    assert compile_command.main([*argv, "--memory=0.001"]) == 1
    shown = capsys.readouterr().out
    assert "drawing 4 images in 64 steps" in shown  # a prompt on each device
    assert "does not fit" in shown and "--num_samples" in shown
    sent = json.loads(path.read_text())["collectives"]
    steps = 8 * 8
    assert sum(each["count"] for each in sent.values()) < steps / 2, "none in the loop"


def test_generation_as_a_wavefront(capsys: pytest.CaptureFixture) -> None:
    """On 8 x 8 tokens with windows of 11 a row follows 5 behind: 8 + 15 x 5 steps for two."""
    argv = [*TINY, *DRAWS, "--num_samples=2", "--gin.SHIFT='row'", "--decode_order=wavefront"]
    assert compile_command.main([*argv, "--queue=2"]) == 0
    assert "drawing 4 images in 83 steps" in capsys.readouterr().out


def test_generation_with_its_kernels_divided(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "report.json"
    argv = [*TINY, *DRAWS, "--num_samples=2", "--num_prompts=1", f"--json={path}"]
    assert compile_command.main([*argv, "--mesh_shape=(1, 2)", "--weights=int8"]) == 0
    assert "on cpu-2 as data 1 x model 2" in capsys.readouterr().out
    report = json.loads(path.read_text())
    assert report["memory"][device_memory.PARAMETERS] < 2 * report["num_params"]
    # A position, a step: two sums of attention and one of the MLP in each of two layers, one of the
    # embedding; the logits are gathered, [rows, vocab] float32, and not their kernel.
    assert report["collectives"]["all-reduce"]["count"] >= 64 * 7
    assert "all-to-all" not in report["collectives"], "heads stay where they are"
    gathered = report["collectives"]["all-gather"]
    assert gathered["num_bytes"] < 64 * 4 * 1024 * 4 and 64 <= gathered["count"] < 128


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v4:4x4"], "v4:4x4x4"),
        (["--topology=v9:4x4x4"], "none of"),
        (["--topology=cpu-9"], "start another process"),
        (["--topology=gpu"], "no GPU here"),
        (["--topology=cpu-2", "--memory=0"], "more than 0"),
        (["--topology=cpu-2", "--num_prompts=2"], "--program generate"),
        (["--topology=cpu-2", "--mesh_shape=(2, 1)"], "--mesh_shape is for --program generate"),
        ([*DRAWS, "--mesh_shape=(3, 1)"], "asks for 3 devices, but there are 2"),
        ([*DRAWS, "--layout=pipeline", "--mesh_shape=(1, 2, 1)"], "divides 'layers'"),
        ([*DRAWS, "--mesh_shape=(2, 1)", "--num_samples=3", "--num_prompts=1"], "3 images at a"),
        (["--topology=cpu-3"], "does not divide by 3"),
    ],
)
def test_bad_flags_are_refused(flags: list[str], message: str) -> None:
    assert len(jax.devices()) == 8, "jax has started, as one of the messages says"
    with pytest.raises((ValueError, OSError), match=message):
        compile_command.main([*TINY, *flags])


def test_a_model_that_draws_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="draws no images"):
        compile_step.compile_generation(regressor(), accelerators.target("cpu-8"), 8, 1)


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


def run_command(*flags: str) -> subprocess.CompletedProcess[str]:
    """Runs `parti compile` in a process of its own: a process loads libtpu once."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    command = [sys.executable, "-m", "parti", "compile", *TINY, *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@needs_libtpu
def test_a_tpu_pod(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "report.json"
    run = run_command("--topology=v4:2x2x1", "--gin.MESH_SHAPE=(2, 2)", f"--json={path}")
    assert run.returncode == 0, run.stderr
    assert "it fits" in run.stdout and "30.75 GiB" in run.stdout
    report = json.loads(path.read_text())
    assert report["is_exact"] and report["collectives"]["all-reduce"]["count"] > 10


@needs_libtpu
def test_what_does_not_fit_a_tpu() -> None:
    run = run_command("--topology=v5e:1x1", "--gin.TEXT_VOCAB_SIZE=100_000_000")
    assert run.returncode == 1, run.stderr
    assert "does not fit" in run.stdout and "15.75 GiB" in run.stdout


def test_a_dry_run_tells_the_memory_of_the_state(capsys: pytest.CaptureFixture) -> None:
    source = fake_training.source(outputs=256, num_train=64)
    experiment = regressor(data_source=source, **FULLY_SHARDED)
    assert train.dry_run(experiment) == 0
    # 5 x 256 float32 over 8 devices; Adam keeps two more of each, and a count.
    assert "parameters 0.62 KiB, optimizer 1.25 KiB" in capsys.readouterr().out
