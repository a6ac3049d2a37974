# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training end to end on a toy: steps, exact resume, meshes, refusals, the command line."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import Any

import fake_training
import jax
import numpy as np
import optax
import pytest
from toy_training import GIN, assert_same, log, make, run

from parti import cli
from parti.engine import train
from parti.engine.checkpoints import checkpoints
from parti.engine.config import gin_config
from parti.engine.experiment import sample_settings
from parti.engine.input import datasets
from parti.engine.loop import data_lineage, nan_recovery, run_directory
from parti.engine.step import optimizers, train_state, train_step

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of 10 steps that nothing interrupts."""
    directory = tmp_path_factory.mktemp("straight") / "run"
    assert run(make(directory)) == 0
    return directory


def test_run_writes_what_it_promises(straight: pathlib.Path) -> None:
    assert checkpoints.steps(straight) == [8, 10]
    records = log(straight)
    assert [r["step"] for r in records] == [2, 4, 5, 6, 8, 10]
    assert records[-1]["loss"] < records[0]["loss"]
    assert {"grad_norm", "step_seconds", "data_wait_share", "examples_per_second"} <= set(
        records[2]
    )
    assert [r["step"] for r in log(straight, "validation")] == [5, 10]
    manifest = json.loads((straight / "manifest.json").read_text())
    assert manifest["kind"] == "training"
    assert manifest["counts"] == {"steps": 10, "parameters": 40, "examples": 80}
    params, mutables, step = checkpoints.load_params(straight)
    assert step == 10
    assert int(mutables["stats"]["steps_seen"]) == 10
    variables = {"params": params, **mutables}
    assert manifest["fingerprint"] == checkpoints.fingerprint(variables, "")
    raw, _, _ = checkpoints.load_params(straight, ema=False)
    assert not np.array_equal(raw["dense"]["kernel"], params["dense"]["kernel"])


def test_finished_run_is_left_alone(straight: pathlib.Path, capsys) -> None:
    before = (straight / "manifest.json").stat().st_mtime_ns
    assert run(make(straight)) == 0
    assert "already finished" in capsys.readouterr().err
    for scope in ("", "often/"):
        drawn = f"{scope}sample_settings.SampleSettings.period = 2\n"
        assert run(make(straight, config=drawn)) == 0, "what is drawn does not change a training"
    assert (straight / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="is at step 10, beyond TRAIN_STEPS 6"):
        run(make(straight, train_steps=6))
    with pytest.raises(ValueError, match="another configuration .*no LEARNING_RATE, now LEARNING"):
        run(make(straight, config="LEARNING_RATE = 3\n"))


def test_raising_train_steps_equals_one_run(straight: pathlib.Path, tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "run"
    assert run(make(directory, train_steps=5)) == 0
    assert run(make(directory)) == 0
    assert_same(directory, straight)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_the_rest_equals_one_run(
    straight: pathlib.Path, tmp_path: pathlib.Path, number: int
) -> None:
    directory = tmp_path / "run"
    experiment = make(directory, data_source=fake_training.signalling_source(number, at=5))
    assert run(dataclasses.replace(experiment, train_steps=1000)) == 128 + number
    (step,) = (s for s in checkpoints.steps(directory) if s > 4)
    assert step <= 9, "only what was read ahead"
    assert not (directory / "manifest.json").exists()
    assert run(make(directory)) == 0
    assert_same(directory, straight)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_kill_and_the_rest_equals_one_run(
    straight: pathlib.Path, tmp_path: pathlib.Path, capsys
) -> None:
    directory = tmp_path / "run"
    source = "DATA_SOURCE = @fake_training.signalling_source()\n"
    source += "fake_training.signalling_source.number = 9\nfake_training.signalling_source.at = 9\n"
    (tmp_path / "killed.gin").write_text(GIN + source)
    command = (
        "import os, sys; os.environ['XLA_FLAGS'] = ''\n"
        "from parti.engine import train; sys.exit(train.main(sys.argv[1:]))"
    )
    flags = [f"--gin_file={tmp_path / 'killed.gin'}", f"--gin.MODEL_DIR='{directory}'"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])
    }
    killed = subprocess.run(
        [sys.executable, "-c", command, *flags], env=environment, cwd=HERE, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert max(checkpoints.steps(directory), default=0) in (0, 4, 8)
    assert not (directory / "manifest.json").exists()
    assert run(make(directory)) == 0
    assert_same(directory, straight)
    assert [r["step"] for r in log(directory)] == [r["step"] for r in log(straight)]
    assert [r["loss"] for r in log(directory)] == [r["loss"] for r in log(straight)]


def test_damaged_newest_is_passed_over(straight: pathlib.Path, tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "run"
    run(make(directory, train_steps=8))
    for path in (directory / "checkpoint_8" / "state" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:-5])
    assert run(make(directory)) == 0
    assert_same(directory, straight)


def test_other_model_is_refused_and_overwrite_trains_again(
    straight: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    directory = tmp_path / "run"
    run(make(directory, train_steps=4))
    (directory / "mine.txt").write_text("stays")
    wide = {"model": fake_training.Regressor(9), "data_source": fake_training.source(9)}
    with pytest.raises(ValueError, match="target/dense/kernel is .*4, 8.* there and .*9, 8"):
        run(make(directory, **wide))
    assert (directory / "manifest.json").exists(), "the refused command changed nothing"
    assert run(make(directory), overwrite=True) == 0
    assert_same(directory, straight)
    assert (directory / "mine.txt").read_text() == "stays"
    assert len(log(directory)) == len(log(straight))


def test_a_finished_run_of_an_earlier_version_is_named_so(
    straight: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(straight, tmp_path / "run")
    old = "AN_OLD_MACRO = 1\nexperiments.Experiment.batch_size = %BATCH_SIZE\n"
    (tmp_path / "run" / "config.gin").write_text(old)
    with pytest.raises(ValueError, match="of an earlier version of Parti"):
        run(make(tmp_path / "run"))


def test_another_stages_output_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "manifest.json").write_text('{"kind": "pairs"}')
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="holds pairs, not a training"):
            run(make(tmp_path), overwrite=overwrite)
    assert (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("notes.txt", "mine", "holds 'notes.txt' and no config.gin; choose a new or empty folder"),
        ("train", "mine", "holds 'train' and no config.gin"),
        ("manifest.json", '{"kind": "training"}', "does not say how many steps were taken"),
        ("manifest.json", "{", "is not JSON"),
        ("manifest.json", "[]", "holds no record, not a training"),
    ],
)
def test_a_foreign_folder_is_refused_and_kept(
    tmp_path: pathlib.Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=message):
            run(make(tmp_path), overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_going_on_with_data_made_again_is_refused(tmp_path: pathlib.Path) -> None:
    tokens, directory = tmp_path / "tokens", tmp_path / "run"
    tokens.mkdir()

    def manifest(**fingerprints: str) -> None:
        (tokens / "manifest.json").write_text(json.dumps(fingerprints))

    config = f"TOKENS_DIR = {str(tokens)!r}\n"
    first = {"fingerprint": "a" * 64, "tokenizer_fingerprint": "b" * 64}
    manifest(**first)
    assert run(make(directory, config=config, train_steps=2)) == 0
    manifest(**first | {"tokenizer_fingerprint": "c" * 64})
    longer = make(directory, config=config, train_steps=3)
    with pytest.raises(ValueError, match="tokenizer was bbbbbbbbbbbb, now it is cccccccccccc"):
        run(longer)
    manifest(**first)
    assert run(longer) == 0
    recorded = json.loads((directory / "manifest.json").read_text())["trained_on"]
    assert recorded == {"tokens_fingerprint": "a" * 64, "tokenizer_fingerprint": "b" * 64}
    manifest(fingerprint="d" * 64)
    with pytest.raises(ValueError, match="finished on other data: .* tokens was aaaaaaaaaaaa"):
        run(longer)
    (tokens / "manifest.json").unlink()
    assert run(longer) == 0, "data may be deleted once a training has finished"
    manifest(fingerprint="d" * 64)
    assert run(longer, overwrite=True) == 0
    recorded = json.loads((directory / "manifest.json").read_text())["trained_on"]
    assert recorded == {"tokens_fingerprint": "d" * 64}


def test_finish_certifies_the_data_of_the_first_step(tmp_path: pathlib.Path) -> None:
    """Data made again while the training runs are not what it read."""
    (tmp_path / "manifest.json").write_text('{"fingerprint": "new"}')
    experiment = make(tmp_path / "run", config=f"PAIRS_DIR = {str(tmp_path)!r}\n")
    run_directory.start(experiment)
    assert data_lineage.trained_on(experiment) == {"pairs_fingerprint": "new"}
    (tmp_path / "manifest.json").write_text('{"fingerprint": "newer"}')
    run_directory.start(experiment, step=3)
    assert data_lineage.trained_on(experiment) == {"pairs_fingerprint": "new"}


def test_a_loss_that_is_a_sum_is_refused(tmp_path: pathlib.Path) -> None:
    class Sum(fake_training.Regressor):
        loss_is_mean = False

    with pytest.raises(ValueError, match="loss of Sum is a sum over the batch"):
        run(make(tmp_path / "run", model=Sum()))


def files(directory: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def without_validation(directory: pathlib.Path) -> Any:
    """Returns a source that has no validation split."""
    plain = fake_training.source()

    class Source:
        def open(self, split: str, batch_size: int, seed: int, model: Any) -> datasets.Batches:
            if split == datasets.VALIDATION:
                raise ValueError("no validation split")
            return plain.open(split, batch_size, seed, model)

    return Source()


def empty_validation(directory: pathlib.Path) -> Any:
    """Returns a source whose validation split has no batch."""
    plain = fake_training.source()

    class Empty(datasets.ArrayDataset):
        def __next__(self) -> datasets.Batch:
            raise StopIteration

    class Source:
        def open(self, split: str, batch_size: int, seed: int, model: Any) -> datasets.Batches:
            if split == datasets.TRAIN:
                return plain.open(split, batch_size, seed, model)
            return Empty(plain.validation, batch_size)

    return Source()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best_metric": "lss", "checkpoint_period": 5}, "BEST_METRIC 'lss' is no validation"),
        (
            {"samples": sample_settings.SampleSettings(("a star",), "tokenizer", "v.model")},
            "Regressor is none",
        ),
        ({"data_source": without_validation}, "no validation split"),
        ({"data_source": empty_validation}, "the validation split is empty; .*EVAL_PERIOD = 0"),
        ({"mesh_shape": (3, 1)}, "asks for 3 devices"),
    ],
)
def test_a_refused_command_changes_nothing(
    straight: pathlib.Path, tmp_path: pathlib.Path, changes: Any, message: str, overwrite: bool
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(straight, directory)
    before = files(directory)
    if callable(source := changes.get("data_source")):
        changes = {"data_source": source(directory)}
    experiment = make(directory, train_steps=20, **changes)
    with pytest.raises(ValueError, match=message):
        run(experiment, overwrite=overwrite)
    assert files(directory) == before
    with pytest.raises(ValueError, match=message):
        train.dry_run(experiment)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 16}, "BATCH_SIZE was 8 when .* now it is 16, .* set it back, or choose"),
        ({"data_seed": 1}, "DATA_SEED was 0 when"),
        (
            {"config": "MIXTURE_OR_TASK_NAME = 'b'\n"},
            "MIXTURE_OR_TASK_NAME was 'a' when .* now it is 'b'",
        ),
    ],
)
def test_another_order_of_the_data_is_refused(
    tmp_path: pathlib.Path, changes: Any, message: str
) -> None:
    first = make(tmp_path / "run", train_steps=2, config="MIXTURE_OR_TASK_NAME = 'a'\n")
    assert run(first) == 0
    before = files(tmp_path / "run")
    longer = dataclasses.replace(first, train_steps=4)
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(longer, **changes))
    assert files(tmp_path / "run") == before
    assert run(longer) == 0


def test_a_file_that_fails_in_the_midst_is_no_bad_usage(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(self: Any) -> Any:
        if self._taken == 6:
            raise OSError(5, "Input/output error", "train-00003")
        return plain(self)

    (tmp_path / "toy.gin").write_text(GIN)
    flags = [f"--gin_file={tmp_path / 'toy.gin'}", f"--gin.MODEL_DIR='{tmp_path / 'run'}'"]
    plain = datasets.ArrayDataset.__next__
    monkeypatch.setattr(datasets.ArrayDataset, "__next__", fail)
    assert cli.main(["train", *flags]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "TrainingFailedError: [Errno 5] Input/output error: 'train-00003'. The same" in last
    assert "goes on from checkpoint_4 of" in last
    assert cli.main(["train", *flags, "--gin.BATCH_SIZE=16"]) == 2


def test_what_a_signal_leaves_out_is_done_at_the_next_start(
    straight: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"
    source = fake_training.signalling_source(signal.SIGTERM, at=9)
    assert run(make(directory, data_source=source)) == 128 + signal.SIGTERM
    assert checkpoints.steps(directory)[-1] == 10
    assert [r["step"] for r in log(directory, "validation")] == [5]
    assert run(make(directory)) == 0
    for split in ("train", "validation"):
        pairs = zip(log(directory, split), log(straight, split), strict=True)
        assert all(one["loss"] == other["loss"] for one, other in pairs)
    metrics = [
        json.loads((d / "manifest.json").read_text())["metrics"] for d in (directory, straight)
    ]
    assert metrics[0]["validation/loss"] == metrics[1]["validation/loss"]
    assert metrics[0]["train/loss"] == metrics[1]["train/loss"]


def test_mesh_does_not_change_the_losses(straight: pathlib.Path, tmp_path: pathlib.Path) -> None:
    experiment = make(tmp_path / "run", mesh_shape=(4, 2))
    assert train.train(experiment) == 0
    for split in ("train", "validation"):
        losses = [[r["loss"] for r in log(d, split)] for d in (straight, tmp_path / "run")]
        np.testing.assert_allclose(*losses, rtol=1e-5)
    spec = experiment.data_source.open("train", 8, 0, experiment.model).element_spec
    program = train_step.make_program(experiment, spec)
    kernel = program.shardings.params["dense"]["kernel"]
    assert kernel.shard_shape((4, 8)) == (4, 4)
    adam = program.shardings.opt_state.inner[0].mu["dense"]["kernel"]
    assert adam.spec == kernel.spec


def test_checkpoint_moves_to_another_mesh(straight: pathlib.Path, tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "run"
    run(make(directory, train_steps=4))
    assert train.train(make(directory, mesh_shape=(2, 4))) == 0
    losses = [[r["loss"] for r in log(d)] for d in (straight, directory)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def step_once(model: Any, num_microbatches: int) -> tuple[train_state.TrainState, dict[str, Any]]:
    arrays = fake_training.source().train
    batch = {name: jax.numpy.asarray(array[:8]) for name, array in arrays.items()}
    spec = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
    optimizer = optax.sgd(0.1)
    state = train_state.create(model, optimizer, jax.random.PRNGKey(0), spec)
    rng = jax.random.PRNGKey(1)
    step = functools.partial(train_step.train_step, model, optimizer, num_microbatches)
    return jax.jit(step)(model.constants, state, batch, rng)


@pytest.mark.parametrize("kind", [fake_training.Regressor, fake_training.PlainRegressor])
def test_microbatches_average(kind: Any) -> None:
    model = kind(dropout_rate=0.0)
    whole, whole_metrics = step_once(model, 1)
    parts, parts_metrics = step_once(model, 4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole.params, parts.params
    )
    for name in ("loss", "grad_norm"):
        values = [float(m[name].compute()) for m in (whole_metrics, parts_metrics)]
        np.testing.assert_allclose(*values, rtol=1e-5)
    if model.has_mutables:
        assert int(parts.mutables["stats"]["steps_seen"]) == 4


def test_step_is_the_written_formula() -> None:
    """One step of gradient descent on a linear regression, in numpy."""
    state, metrics = step_once(fake_training.PlainRegressor(dropout_rate=0.0), 1)
    rows = {name: array[:8] for name, array in fake_training.source().train.items()}
    kernel = 0.1 * np.asarray(jax.random.normal(jax.random.PRNGKey(0), (4, 8)))
    error = rows["x"] @ kernel - rows["y"]
    np.testing.assert_allclose(float(metrics["loss"].compute()), (error**2).mean(), rtol=1e-5)
    want = kernel - 0.1 * 2 * rows["x"].T @ error / error.size
    np.testing.assert_allclose(state.params["dense"]["kernel"], want, rtol=1e-4, atol=1e-6)
    assert int(state.step) == 1


def test_not_a_number_stops_with_the_last_good_checkpoint(tmp_path: pathlib.Path) -> None:
    first_epoch = np.random.default_rng((0, 0)).permutation(40)
    bad = fake_training.source(bad_row=int(first_epoch[2 * 8]))  # In the third batch of 8.
    with pytest.raises(nan_recovery.NotFiniteError) as caught:
        run(make(tmp_path / "run", data_source=bad, checkpoint_period=2, log_period=100))
    assert "step 3 is not finite (loss nan, grad_norm nan" in str(caught.value)
    assert "checkpoint_2 is the last good one" in str(caught.value)
    assert checkpoints.steps(tmp_path / "run") == [2]


def test_learning_rate_is_logged(tmp_path: pathlib.Path) -> None:
    schedule = optimizers.warmup_cosine(0.1, 4, 10)
    run(make(tmp_path / "run", learning_rate=schedule, train_steps=4, eval_period=0))
    rates = [r["learning_rate"] for r in log(tmp_path / "run")]
    np.testing.assert_allclose(rates, [0.1 * 1 / 4, 0.1 * 3 / 4], rtol=1e-6)


def test_too_little_validation_data(tmp_path: pathlib.Path) -> None:
    source = fake_training.source()
    small = {name: array[:8] for name, array in source.validation.items()}
    experiment = make(tmp_path / "run", data_source=datasets.ArraySource(source.train, small))
    run(dataclasses.replace(experiment, train_steps=1, eval_steps=3))
    assert len(log(tmp_path / "run", "validation")) == 1, "all there is"


def test_checkpoint_without_data_position(tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "run"
    run(make(directory, train_steps=1))
    shutil.rmtree(directory / "checkpoint_1" / "dataset")
    (directory / "checkpoint_1" / "checksums.json").unlink()
    with pytest.raises(ValueError, match="checkpoint_1 keeps no data position"):
        run(make(directory))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh_shape": (3, 1)}, "asks for 3 devices"),
        ({"batch_size": 4, "mesh_shape": (8, 1)}, "4 does not divide by 8"),
        ({"num_microbatches": 2, "mesh_shape": (8, 1)}, "4 does not divide by 8"),
        ({"logical_axis_rules": [("batch", "rows")]}, "puts 'batch' on 'rows'"),
        ({"model_dir": "s3://bucket/run"}, "written to local folders and to gs://"),
        ({"model_dir": "gs://bucket"}, "is a whole bucket; name a folder in it"),
        ({"model_dir": "gs://bucket/run#1"}, "Orbax takes .* for something else"),
    ],
)
def test_misfits_are_refused_first(tmp_path: pathlib.Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train.train(dataclasses.replace(make(tmp_path / "run"), **changes))
    assert not (tmp_path / "run").exists()


def test_tensorboard_files(tmp_path: pathlib.Path) -> None:
    run(make(tmp_path / "run", tensorboard=True, train_steps=2))
    for split in ("train", "validation"):
        assert list((tmp_path / "run" / split).glob("events.out.tfevents.*"))


@pytest.fixture
def gin_file(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "toy.gin"
    path.write_text(GIN)
    return f"--gin_file={path}"


def test_command_line(gin_file: str, tmp_path: pathlib.Path, capsys) -> None:
    flags = [gin_file, f"--gin.MODEL_DIR='{tmp_path / 'run'}'"]
    assert train.main([*flags, "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert "BATCH_SIZE = 8" in text
    assert "total: 40 parameters" in text
    assert "mesh: {'data': 8, 'model': 1}" in text
    assert not (tmp_path / "run").exists()
    assert train.main([*flags, "--gin.TRAIN_STEPS=2"]) == 0
    model = gin_config.model_from_config(tmp_path / "run" / "model.gin")
    assert model.outputs == 8
    assert "TRAIN_STEPS = 2" in (tmp_path / "run" / "config.gin").read_text()
    assert train.main([*flags, "--gin.TRAIN_STEPS=2", "--gin.LOG_PERIOD=1"]) == 0
    assert "already finished" in capsys.readouterr().err
    with pytest.raises(ValueError, match="BATCH_SIZE = 8, now BATCH_SIZE = 16"):
        train.main([*flags, "--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=16"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gin_fle=x"], "unknown argument '--gin_fle=x'; did you mean --gin_file?"),
        (["--overwrite"], "no experiment; give --gin_file="),
        (["--gin_file"], "expected one argument"),
    ],
)
def test_flag_mistakes(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        train.main(flags)


def test_help(capsys) -> None:
    assert train.main(["--help"]) == 0
    assert "example: parti train --gin_file=" in capsys.readouterr().out
    assert train.main([]) == 2


def test_imports_without_tensorflow_and_beam() -> None:
    code = (
        "import sys\n"
        "import parti.engine.train, parti.engine.checkpoints.checkpoints\n"
        "import parti.stages.progress_line\n"
        "heavy = {'tensorflow', 'seqio', 'apache_beam', 'tensorboard'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE.parents[1])
