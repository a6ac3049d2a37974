# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/text_encoder_probes.py, its logistic regression; tables of trainings over seeds."""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import tiny_models

from parti.data.scenes import scenes
from parti.data.text import vocabularies
from parti.engine import train
from parti.engine.experiment import experiments
from parti.tasks import glue

BENCHMARKS = pathlib.Path(__file__).resolve().parents[1] / "benchmarks"


def load(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def probes() -> types.ModuleType:
    return load("text_encoder_probes")


def scene(relation: str) -> scenes.Scene:
    a = scenes.SceneObject("circle", "red", "", 0.4, 0.25, 0.25)
    b = scenes.SceneObject("square", "blue", "", 0.4, 0.75, 0.75)
    return scenes.Scene("white", (a, b), relation, challenge="relation")


@pytest.mark.parametrize(
    ("relation", "caption", "answers"),
    [
        ("left_of", "a red circle to the left of a blue square", ("circle", "red", "left_of")),
        ("left_of", "a blue square to the right of a red circle", ("circle", "red", "right_of")),
        ("right_of", "a red circle to the right of a blue square", ("square", "blue", "right_of")),
        ("below", "a blue square above a red circle", ("square", "blue", "above")),
    ],
)
def test_the_answer_is_in_the_scene(
    probes: types.ModuleType, relation: str, caption: str, answers: tuple[str, ...]
) -> None:
    assert caption in " ".join(scenes.captions(scene(relation)))
    found = tuple(probes.answer(p, scene(relation), caption) for p in probes.PROBES[:3])
    assert found == answers


def test_what_is_drawn(probes: types.ModuleType) -> None:
    world = scenes.find_world("full")
    for probe in probes.PROBES:
        rows = probes.draw(probe, "train", 60, 0, world)
        assert rows == probes.draw(probe, "train", 60, 0, world)
        assert len(rows) == 60 and len({truth for _, truth in rows}) >= 4
        assert rows != probes.draw(probe, "validation", 60, 0, world)
    assert {truth for _, truth in rows} == {"2", "3", "4", "5"}, "count, the last"
    assert any(" and " in caption for caption, _ in rows), "of two kinds, which must be added"


def test_the_gradient_is_that_of_the_objective(probes: types.ModuleType) -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(12, 3)), rng.integers(0, 4, 12)
    weights = rng.normal(size=4 * 4)
    arguments = (features, labels, 4, 0.3)
    # Plain numpy, an example at a time
    matrix, losses = weights.reshape(4, 4), []
    for row, label in zip(features, labels):
        logits = row @ matrix[:3] + matrix[3]
        losses.append(np.log(np.exp(logits).sum()) - logits[label])
    want = np.mean(losses) + 0.15 * (matrix[:3] ** 2).sum()
    assert probes.objective(weights, *arguments)[0] == pytest.approx(want)
    error = scipy.optimize.check_grad(
        lambda w: probes.objective(w, *arguments)[0],
        lambda w: probes.objective(w, *arguments)[1],
        weights,
    )
    assert error < 1e-6


def test_a_probe_reads_what_is_linear_and_no_more(probes: types.ModuleType) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(900, 6)) * 10 + 3
    linear = (features @ rng.normal(size=(6, 3))).argmax(1)
    product = ((features[:, 0] > 3) ^ (features[:, 1] > 3)).astype(int)
    for labels, low, high in ((linear, 0.95, 1.0), (product, 0.3, 0.65)):
        sets = {"fit": slice(600), "seen": slice(600, 800), "unseen": slice(800, None)}
        found = probes.probe_hits(
            *({k: x[rows] for k, rows in sets.items()} for x in (features, labels))
        )
        assert {k: len(hits) for k, hits in found.items()} == {"seen": 200, "unseen": 100}
        assert all(low <= hits.mean() <= high for hits in found.values())


def test_a_probe_is_blind_to_the_coordinates_of_the_states(probes: types.ModuleType) -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(900, 6))
    labels = (features @ rng.normal(size=(6, 3))).argmax(1)
    # All that the labels need in directions of a thousandth of the scale
    hidden = np.concatenate([features / 1000, rng.normal(size=(900, 4))], axis=1)
    hidden = hidden @ np.linalg.qr(rng.normal(size=(10, 10)))[0]
    sets = {"fit": slice(600), "seen": slice(600, 900)}
    found = probes.probe_hits(*({k: x[rows] for k, rows in sets.items()} for x in (hidden, labels)))
    assert found["seen"].mean() > 0.95


def test_words_are_counted(probes: types.ModuleType) -> None:
    found = probes.counts(5, np.array([[3, 1, 3, 0], [2, 4, 1, 1]]))
    np.testing.assert_array_equal(found["words"], [[1, 1, 0, 2, 0], [0, 2, 1, 0, 1]])


def test_an_estimate_is_over_captions(probes: types.ModuleType) -> None:
    rows = [np.array([1.0, 0.0, 1.0, 1.0]), np.array([1.0, 0.0, 0.0, 1.0])]
    found = probes.estimate(rows)
    assert (found["mean"], found["count"], found["seeds"]) == (0.625, 4, [0.75, 0.5])
    assert found["low"] < 0.625 < found["high"]
    assert probes.chance([("", "a"), ("", "b"), ("", "a")]) == pytest.approx(2 / 3, abs=1e-4)


def test_captions_that_would_be_cut_are_refused(
    probes: types.ModuleType, tmp_path: pathlib.Path
) -> None:
    path = tiny_models.write_vocabulary(tmp_path / "v.model")
    tokenizer = vocabularies.TextTokenizer(path)
    rows = [("a red circle", "red"), ("blue square that is blue", "blue")]
    longest = int(np.sum(tokenizer.encode(rows[1][0], 40) != 0))
    ids = probes.encode(tokenizer, rows, longest)
    np.testing.assert_array_equal(ids[0], tokenizer.encode("a red circle", longest))
    with pytest.raises(ValueError, match=f"more than the encoder's {longest - 1} tokens"):
        probes.encode(tokenizer, rows, longest - 1)


def test_the_table_of_glue(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    benchmark = load("glue")
    commands = []

    def train(command: list[str], **options: Any) -> None:
        assert options["check"]
        commands.append(command)
        given = dict(word.removeprefix("--gin.").split("=", 1) for word in command if "=" in word)
        folder = pathlib.Path(given["MODEL_DIR"].strip("'"))
        folder.mkdir(parents=True)
        value = 0.25 + 0.5 * int(given["RANDOM_SEED"]) + 0.1 * ("TEXT_ENCODER" in given)
        rows = [
            {"step": 1, "split": "validation", "f1": 0.0, "matthews_correlation": 0.0},
            {"step": 2, "split": "validation", "f1": value, "matthews_correlation": -value},
            {"step": 2, "split": "train", "loss": 1.0},
        ]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))

    monkeypatch.setattr(subprocess, "run", train)
    flags = ["--glue_dir=d", "--vocabulary=v", f"--output={tmp_path}", "--model=text_classifier_3b"]
    flags += ["--encoder=mine=runs/a", "--encoder=random=", "--task=mrpc", "--task=cola"]
    monkeypatch.setattr(sys, "argv", ["glue.py", *flags, "--seeds=2", "--set=BATCH_SIZE=8"])
    assert benchmark.main() == 0
    table = json.loads(capsys.readouterr().out)["table"]
    assert table["mrpc"]["metric"] == "f1"
    assert table["mrpc"]["paper"]["BERT"] == 87.6
    assert table["mrpc"]["mine"] == {"mean": 60.0, "standard_error": 25.0, "seeds": [35.0, 85.0]}
    assert table["cola"]["random"]["mean"] == -50.0
    assert len(commands) == 8
    assert {"--gin.TEXT_ENCODER='runs/a'", "--gin.BATCH_SIZE=8"} <= set(commands[0])
    assert "--gin_file=t5x_configs/experiments/glue_mrpc.gin" in commands[0]
    assert "--gin_file=t5x_configs/models/text_classifier_3b.gin" in commands[0]


def test_the_tasks_of_the_table_are_those_there_are() -> None:
    benchmark = load("glue")
    assert benchmark.METRICS.keys() == glue.TASKS.keys()
    assert {len(row) for row in benchmark.PAPER.values()} == {len(glue.TASKS)}


def test_the_mean_over_seeds() -> None:
    # The standard error is 1 / sqrt(3), the quantile of two degrees of freedom 4.3027
    want = {"mean": 2.0, "interval": 2.4841, "seeds": [1.0, 2.0, 3.0]}
    assert load("trainings").estimate_mean([1.0, 2.0, 3.0]) == want


def test_a_training_that_a_signal_ended_ends_the_benchmark(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(experiments, "load_experiment", lambda *inputs: given.append(inputs))
    monkeypatch.setattr(train, "train", lambda experiment: 143)
    with pytest.raises(SystemExit, match="143"):
        load("trainings").run(["x.gin"], tmp_path, 7, 3, {"CLIP_NORM": 0.5})
    ((files, bindings),) = given
    assert files == ["x.gin"]
    assert {"TRAIN_STEPS = 7", "EVAL_PERIOD = 7", "DATA_SEED = 3", "CLIP_NORM = 0.5"} <= {*bindings}


def test_an_optimizer_is_compared_at_its_best_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark, order = load("optimizers"), []

    def run(name: str, rate: float, seed: int, flags: argparse.Namespace) -> tuple[float, float]:
        order.append((name, seed))
        return abs(rate - 4e-3) + seed, {"adamw": 1.0, "adafactor": 2.0, "muon": 3.0}[name]

    monkeypatch.setattr(benchmark, "run", run)
    found = benchmark.measure(argparse.Namespace(seeds=3))
    assert order == [(name, seed) for seed in (0, 0, 0, 1, 2) for name in benchmark.RATES]
    assert {row["learning_rate"] for row in found.values()} == {4e-3}
    assert found["muon"]["validation_loss"]["seeds"] == [0.0, 1.0, 2.0]
    assert found["muon"]["losses_of_rates"] == {"0.002": 0.002, "0.004": 0.0, "0.008": 0.004}
    assert found["muon"]["step_seconds"] == [3.0, 3.0, 3.0]
