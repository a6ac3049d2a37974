# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run shows: grids as files, everything in TensorBoard, alarms in the log."""

import importlib.util
import json
import os
import pathlib
from typing import Any

import clu.metrics
import fake_training
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorflow as tf
from clu import metric_writers
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
from tensorboard.util import tensor_util
from toy_training import make, run

from parti.data.images import images
from parti.engine import train
from parti.engine.experiment import experiments
from parti.engine.loop import setup
from parti.engine.monitoring import metrics_log, summary_writer
from parti.models import base


class Showing(fake_training.PlainRegressor):
    """Shows a grid, a histogram and a scalar of its first validation batch; rings an alarm."""

    def loss_fn(self, params: Any, batch: Any, dropout_rng: Any) -> Any:  # type: ignore[override]
        loss, metrics = super().loss_fn(params, batch, dropout_rng)
        alarm = clu.metrics.Average.from_model_output(jnp.asarray(0.5))
        return loss, {**metrics, "bell_alarm": alarm}

    def summaries(self, params: Any, batch: Any, *flax_mutables: Any) -> base.Summaries:
        shade = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3, 1, 1, 1) * jnp.ones((1, 1, 4, 5, 3))
        return base.Summaries(
            {"first": batch["x"][0, 0]}, {"weights": params["dense"]["bias"]}, {"shades": shade}
        )


def test_grid_by_hand() -> None:
    shades = np.linspace(-1.0, 1.0, 6).reshape(2, 3, 1, 1, 1) * np.ones((1, 1, 4, 5, 3))
    page = summary_writer.grid(shades)
    assert page.shape == (2 * 6 + 2, 3 * 7 + 2, 3)
    assert (page[:2] == 255).all() and (page[:, :2] == 255).all() and (page[6:8] == 255).all()
    assert (page[2:6, 2:7] == 0).all() and (page[8:12, 16:21] == 255).all()
    assert (page[8:12, 2:7] == 153).all()  # 127.5 * 1.2


def test_texts_are_printed_beside_the_rows() -> None:
    dark = -np.ones((2, 1, 4, 5, 3))
    texts = ["model: a red circle\ndata: a ring", "model: i\ndata: i"]
    page = summary_writer.beside(dark, texts)
    # A row is as high as two lines of text; below and right of the picture it is white.
    assert page.shape[0] == 2 * (24 + 2) + 2 and page.shape[1] > 60
    assert (page[2:6, 2:7] == 0).all() and (page[6:28, :9] == 255).all()
    assert (page[28:32, 2:7] == 0).all()
    upper, lower = page[:27, 9:], page[27:, 9:]
    for row in (upper, lower):
        first, second = row[:13], row[13:]
        assert (first < 128).any() and (second < 128).any(), "a line each"
    assert (upper < 128).sum() > 2 * (lower < 128).sum(), "longer words, more ink"
    assert (page[:, -2:] == 255).all(), "nothing is cut"


def test_what_a_model_says_of_pictures_is_written(tmp_path: pathlib.Path) -> None:
    writer = summary_writer.Writer(str(tmp_path), tensorboard=False)
    shown = base.Summaries(pictures={"captions": jnp.zeros((2, 1, 8, 8, 3))})
    texts = {"captions": {"model": ["ein Kreis ○", "b"], "data": ["c", "d"]}}
    writer.show(7, "validation", shown, texts)
    stem = tmp_path / "pictures" / "captions-00000007"
    written = stem.with_suffix(".txt").read_text(encoding="utf-8")
    assert written == "model: ein Kreis ○\ndata: c\n\nmodel: b\ndata: d\n\n"
    page = images.decode_image(stem.with_suffix(".png").read_bytes())
    assert page.shape[1] > 8 + 4, "there is text beside the pictures"


def test_a_training_writes_pictures_histograms_and_scalars(
    tmp_path: pathlib.Path, capsys: Any
) -> None:
    experiment = experiments.Experiment(
        model=Showing(),
        data_source=fake_training.source(),
        optimizer=optax.sgd(0.1),
        model_dir=str(tmp_path),
        train_steps=4,
        batch_size=8,
        eval_period=2,
        eval_steps=1,
        log_period=2,
    )
    assert train.train(experiment) == 0
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == ["shades-00000002.png", "shades-00000004.png"]
    page = images.decode_image((tmp_path / "pictures" / pictures[0]).read_bytes())
    assert page.shape == (14, 23, 3)
    events = event_accumulator.EventAccumulator(
        str(tmp_path / "validation"), size_guidance={"tensors": 0}
    )
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {"first", "weights", "shades", "loss"} <= tags
    assert [event.step for event in events.Tensors("shades")] == [2, 4]
    assert "bell_alarm at 50% of the steps up to 2" in capsys.readouterr().err


def test_private_apis_of_clu_and_tensorflow(tmp_path: pathlib.Path) -> None:
    """clu's `SummaryWriter._summary_writer`, TensorFlow's `_ResourceSummaryWriter._resource`."""
    writer = metric_writers.SummaryWriter(str(tmp_path))
    resource = summary_writer.event_resource(writer)
    assert resource.dtype == tf.resource
    event = tf.compat.v1.Event(step=7, file_version="ours")
    tf.raw_ops.ImportEvent(writer=resource, event=event.SerializeToString())
    writer.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    read = [tf.compat.v1.Event.FromString(x.numpy()) for x in tf.data.TFRecordDataset(str(path))]
    assert (7, "ours") in [(found.step, found.file_version) for found in read]


def test_tensorboard_without_tensorflow_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name)
    )
    with pytest.raises(ValueError, match="pip install tensorflow .* or set TENSORBOARD = False"):
        run(make(tmp_path / "run", tensorboard=True))
    assert not (tmp_path / "run").exists()
    setup.open_training(make(tmp_path / "run", tensorboard=False))


def test_what_a_run_lost_is_dropped(tmp_path: pathlib.Path) -> None:
    """Steps 4 and 5 of a run that was cut off after a checkpoint of step 3."""
    for start, value in ((0, 1.0), (3, 2.0)):
        log = metrics_log.MetricsLog(tmp_path, start)
        writer = summary_writer.Writer(str(tmp_path), tensorboard=True, start=start)
        for step in range(start + 1, 6 if start == 0 else 5):
            log.write(step, "train", {"loss": value})
            writer.write(step, "train", {"loss": value})
        writer.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    want = [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]
    assert [(row["step"], row["loss"]) for row in rows] == want
    events = plugin_event_accumulator.EventAccumulator(str(tmp_path / "train")).Reload()
    shown = [
        (e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in events.Tensors("loss")
    ]
    assert shown == want


def test_the_log_is_never_half_there(tmp_path: pathlib.Path) -> None:
    """Cut while it is read, or killed meanwhile: whoever holds the old file has the whole of it."""
    log = metrics_log.MetricsLog(tmp_path, 0)
    for step in (1, 2):
        log.write(step, "train", {"loss": 1.0})
    os.link(tmp_path / "metrics.jsonl", tmp_path / "old")
    before = (tmp_path / "old").read_text()
    again = metrics_log.MetricsLog(tmp_path, 1)
    assert (tmp_path / "old").read_text() == before
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert again.has(1, "train") and not again.has(2, "train")
    assert again.last == {"train/loss": 1.0}
