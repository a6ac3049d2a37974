# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Samples of a training: the pictures that generation would draw, and losses as without."""

import dataclasses
import pathlib
from typing import Any

import fake_drawing
import fake_training
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from fake_drawing import PROMPTS, Drawing, drawn
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec
from toy_training import GIN, log, make

from parti.data.images import images
from parti.engine import train
from parti.engine.checkpoints import checkpoints
from parti.engine.distributed import partitioning
from parti.engine.experiment import experiments, sample_settings
from parti.engine.inference import bundles
from parti.engine.loop import sample_grids
from parti.engine.monitoring import summary_writer
from parti.models.text_to_image import sampling

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return fake_drawing.write_bundle(tmp_path_factory.mktemp("samples"))


def training(directory: pathlib.Path, **changes: Any) -> Any:
    settings = {"model": Drawing(), "eval_period": 2, "train_steps": 4, "ema_decay": 0.0}
    return make(directory, **{**settings, **changes})


def test_grids_at_evaluations_and_losses_as_without(
    bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    assert train.train(training(tmp_path / "with", samples=drawn(bundle))) == 0
    assert train.train(training(tmp_path / "without")) == 0
    for split in ("train", "validation"):
        logs = [log(tmp_path / name, split) for name in ("with", "without")]
        assert [r["loss"] for r in logs[0]] == [r["loss"] for r in logs[1]]
    folder = tmp_path / "with" / "pictures"
    assert sorted(path.name for path in folder.iterdir()) == [
        "samples-00000002.png",
        "samples-00000004.png",
        "samples.txt",
    ]
    assert (folder / "samples.txt").read_text() == "a red circle\na blue star\n"
    params, _, _ = checkpoints.load_params(tmp_path / "with")
    vocabulary = bundles.Bundle.open(bundle).vocabulary()
    text = np.stack([vocabulary.encode(prompt, tiny_models.TEXT_LENGTH) for prompt in PROMPTS])
    keys = sampling.image_keys(0, PROMPTS, 3)
    tokens = Drawing().sample({"params": params}, jnp.asarray(text), jnp.asarray(keys), None)
    tokenizer = tiny_models.part("tokenizer")
    pictures = tokenizer.model.decode(tokenizer.variables, tokens.reshape(6, -1))
    want = summary_writer.grid(np.asarray(pictures).reshape(2, 3, *pictures.shape[1:])).astype(int)
    got = images.decode_image((folder / "samples-00000004.png").read_bytes())
    np.testing.assert_allclose(got, want, atol=1)
    before = images.decode_image((folder / "samples-00000002.png").read_bytes())
    assert not np.array_equal(before, got), "the parameters have changed since"


def test_a_period_of_their_own(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    experiment = training(tmp_path / "run", samples=drawn(bundle, period=3), eval_period=0)
    assert train.train(experiment) == 0
    pictures = sorted(path.name for path in (tmp_path / "run" / "pictures").glob("*.png"))
    assert pictures == ["samples-00000003.png", "samples-00000004.png"]


def test_divided_parameters_draw_what_generation_draws(bundle: pathlib.Path) -> None:
    part = tiny_models.part("generator")
    mesh = partitioning.make_mesh((4, 2))

    def divided(leaf: Any) -> Any:
        axis = "model" if leaf.ndim and leaf.shape[-1] % 2 == 0 else None
        spec = PartitionSpec(*[None] * (leaf.ndim - 1), axis) if leaf.ndim else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    sampler = sample_grids.Sampler(drawn(bundle, num_samples=1), part.model, "", mesh)
    rules = partitioning.axis_rules(None, mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        got = sampler.draw(jax.tree.map(divided, jax.device_get(part.variables["params"])))
    generator = bundles.load_part(bundle, "generator")
    vocabulary = bundles.Bundle.open(bundle).vocabulary()
    text = np.stack([vocabulary.encode(prompt, tiny_models.TEXT_LENGTH) for prompt in PROMPTS])
    keys = sampling.image_keys(0, PROMPTS, 1)
    settings = sampling.SamplingSettings()
    tokens = generator.call("sample", text, keys, batch_size=2, settings=settings)
    tokenizer = bundles.load_part(bundle, "tokenizer")
    want = tokenizer.call("decode", tokens.reshape(2, -1), batch_size=2)
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-4)


def test_a_few_at_a_time_are_the_same(bundle: pathlib.Path, monkeypatch: Any) -> None:
    params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.linspace(0, 1, 8)}}
    mesh = partitioning.make_mesh()
    prompts = dataclasses.replace(drawn(bundle, num_samples=2), prompts=("a", "b", "c"))
    sampler = sample_grids.Sampler(prompts, Drawing(), "", mesh)
    counted: list[int] = []
    with jax.set_mesh(mesh):
        whole = sampler.draw(params, lambda: counted.append(1))
        assert len(counted) == 1
        monkeypatch.setattr(sample_grids, "_AT_ONCE", 4)  # Two prompts, then one.
        parts = sampler.draw(params, lambda: counted.append(1))
    assert len(counted) == 1 + 2
    assert whole is not None and whole.shape == (3, 2, 16, 16, 3)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_what_does_not_fit_is_refused(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    mesh = partitioning.make_mesh()

    def refused(model: Any, message: str, config: str = "") -> None:
        with pytest.raises(ValueError, match=message):
            sample_grids.Sampler(drawn(bundle), model, config, mesh)

    class Small(Drawing):
        codebook_size = 16

    class Wordless(Drawing):
        text_vocab_size = 100

    refused(Small(), "has codebook_size 32, the model has 16")
    refused(Wordless(), "write sample_settings.SampleSettings.vocabulary = %VOCABULARY")
    refused(fake_training.Regressor(), "Regressor is none; set SAMPLES = None")
    (tmp_path / "manifest.json").write_text('{"tokenizer_fingerprint": "abcdef"}')
    refused(Drawing(), "the tokens are of the encoder abcdef", f"TOKENS_DIR = {str(tmp_path)!r}\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": "yes"}, "SAMPLES must be None or @sample_settings.SampleSettings"),
        (
            {"samples": sample_settings.SampleSettings(PROMPTS, "a", "b"), "eval_period": 0},
            "EVAL_PERIOD is 0",
        ),
    ],
)
def test_settings_that_mean_nothing(tmp_path: pathlib.Path, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **changes)
    with pytest.raises(ValueError, match="num_samples must be a whole number of at least 1"):
        sample_settings.SampleSettings(PROMPTS, "a", "b", num_samples=0)
    with pytest.raises(ValueError, match="prompts is empty"):
        sample_settings.SampleSettings((), "a", "b")


def test_prompts_may_be_a_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "p.txt").write_text("a red circle\na blue star\n")
    assert sample_settings.SampleSettings(str(tmp_path / "p.txt"), "a", "b").texts() == list(
        PROMPTS
    )
    (tmp_path / "p.txt").write_text("# two\na red circle\na blue star\n")
    notes: list[str] = []
    settings = sample_settings.SampleSettings(str(tmp_path / "p.txt"), "a", "b")
    assert settings.texts(notes) == list(PROMPTS) and notes[0].endswith("left out 1 comment")


def test_half_an_emoji_ends_no_training() -> None:
    assert sample_settings.SampleSettings(["a \ud83d"], "a", "b").texts() == ["a \ufffd"]


def test_the_command_line_names_them(tmp_path: pathlib.Path) -> None:
    (tmp_path / "toy.gin").write_text(GIN)
    bindings = [
        "MODEL_DIR='runs/a'",
        "SAMPLES=@sample_settings.SampleSettings()",
        "sample_settings.SampleSettings.prompts=('a red circle',)",
        "sample_settings.SampleSettings.tokenizer='runs/tokenizer'",
        "sample_settings.SampleSettings.vocabulary='runs/v.model'",
    ]
    experiment = experiments.load_experiment([str(tmp_path / "toy.gin")], bindings)
    want = sample_settings.SampleSettings(("a red circle",), "runs/tokenizer", "runs/v.model", 4)
    assert experiment.samples == want
