# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The paper's second phase: encoder and codebook stay bitwise, tokens fit, the decoder learns."""

import pathlib
import shutil
from typing import Any

import fake_training
import jax
import numpy as np
import pytest
import tiny_models
from flax import traverse_util
from toy_training import assert_same

from parti.data.text import vocabularies
from parti.engine import train
from parti.engine.checkpoints import checkpoints
from parti.engine.config import gin_config
from parti.engine.experiment import experiments, warm_start
from parti.engine.inference import bundles, loaded_models
from parti.engine.loop import setup
from parti.engine.step import train_step
from parti.models.image_tokenizer import network
from parti.stages import manifests

pytestmark = pytest.mark.usefixtures("compiled_quickly")

FIRST = f"""{tiny_models.config("tokenizer")}
import fake_training
from parti.engine.experiment import warm_start
from parti.engine.step import optimizers
from parti.models.image_tokenizer import losses
image_tokenizer_network.ImageTokenizerConfig.scan_layers = False
image_tokenizer_network.ImageTokenizerConfig.output = 'logit_laplace'
image_tokenizer_model.ImageTokenizerModel.loss_weights = @losses.LossWeights()
losses.LossWeights.logit_laplace = 0.1
DATA_SOURCE = @fake_training.pictures()
OPTIMIZER = @optimizers.adamw()
optimizers.adamw:
  learning_rate = 0.01
  weight_decay = 0.1
  clip_norm = 0.5
TRAIN_STEPS = 6
BATCH_SIZE = 8
EMA_DECAY = 0.9
EVAL_PERIOD = 0
TENSORBOARD = False
"""
SECOND = """
image_tokenizer_model.ImageTokenizerModel.freeze_encoder = True
image_tokenizer_network.ImageTokenizerConfig.output = 'rgb'
losses.LossWeights.logit_laplace = 0.0
image_tokenizer_network.ImageTokenizerConfig.decoder_emb_dim = 32
image_tokenizer_network.ImageTokenizerConfig.num_decoder_layers = 2
INITIAL = @warm_start.WarmStart()
warm_start.WarmStart.branches = ('encoder', 'codebook')
"""
RGB = """
image_tokenizer_network.ImageTokenizerConfig.decoder_emb_dim = None
image_tokenizer_network.ImageTokenizerConfig.num_decoder_layers = 1
warm_start.WarmStart.branches = ('encoder', 'codebook', 'decoder')
"""
FROZEN = ("encoder", "codebook")
Flat = dict[tuple[str, ...], np.ndarray]


def load(text: str, directory: pathlib.Path, *bindings: str) -> experiments.Experiment:
    path = directory.parent / f"{directory.name}.gin"
    path.write_text(text)
    return experiments.load_experiment([str(path)], [f"MODEL_DIR='{directory}'", *bindings])


def source(path: pathlib.Path) -> str:
    return f"warm_start.WarmStart.path='{path}'"


def exported(directory: pathlib.Path, ema: bool | None = None) -> tuple[Flat, Flat]:
    """Returns the leaves of encoder and codebook, of all collections, and those of the decoder."""
    params, mutables, _ = checkpoints.load_params(directory, ema=ema)
    flat = traverse_util.flatten_dict({"params": params, **mutables})
    encoder = {key: leaf for key, leaf in flat.items() if key[1] in FROZEN}
    return encoder, {key: leaf for key, leaf in flat.items() if key[1] == "decoder"}


def assert_bitwise(one: Flat, other: Flat) -> None:
    assert one.keys() == other.keys() and len(one) > 10
    assert [k for k in one if one[k].tobytes() != other[k].tobytes()] == []


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny_models.write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "v.model")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished first phase."""
    directory = tmp_path_factory.mktemp("phases") / "first"
    assert train.train(load(FIRST, directory), devices=jax.devices()[:1]) == 0
    return directory


@pytest.fixture(scope="module")
def second(first: pathlib.Path) -> pathlib.Path:
    """A finished second phase, with weight decay, clipping and a moving average, on 8 devices."""
    directory = first.parent / "second"
    experiment = load(FIRST + SECOND, directory, source(first), "MESH_SHAPE=(4, 2)")
    assert train.train(experiment) == 0
    return directory


def test_encoder_and_codebook_stay_bitwise(first: pathlib.Path, second: pathlib.Path) -> None:
    before, _ = exported(first)
    assert {key[:2] for key in before} == {
        *(("params", "encoder"), ("params", "codebook"), ("stats", "codebook"))
    }
    for ema in (None, True, False):
        assert_bitwise(exported(second, ema)[0], before)
    averaged, raw = exported(second)[1], exported(second, ema=False)[1]
    start = train_step.make_program(
        experiment := load(FIRST + SECOND, first.parent / "x", source(first)), spec_of(experiment)
    ).init(train_step.initial_rngs(0)[0], {})
    decoder = {("params", *k): v for k, v in traverse_util.flatten_dict(start.params).items()}
    for key in raw:
        assert not np.array_equal(raw[key], decoder[key]), f"{key} has not learned"
        assert not np.array_equal(raw[key], averaged[key]), f"{key} has no average"
    state = [k for k in checkpoints.leaves(checkpoints.find(second)) if k[0] == "state"]
    assert any("decoder" in key for key in state)
    assert not [key for key in state if set(FROZEN) & set(key)], "state of frozen parameters"


def spec_of(experiment: experiments.Experiment) -> Any:
    return experiment.data_source.open("train", 8, 0, experiment.model).element_spec


def test_tokens_are_equal_and_fit(
    first: pathlib.Path, second: pathlib.Path, tmp_path: pathlib.Path, vocabulary: pathlib.Path
) -> None:
    pictures = fake_training.pictures().train["images"]
    small, large = (loaded_models.LoadedModel.from_train_dir(d) for d in (first, second))
    tokens = [m.call("encode", pictures, batch_size=8) for m in (small, large)]
    np.testing.assert_array_equal(*tokens)
    assert len(np.unique(tokens[0])) > 1
    assert small.encoder_fingerprint == large.encoder_fingerprint
    assert small.fingerprint != large.fingerprint
    generator = tiny_models.part("generator")
    generator = loaded_models.LoadedModel(
        generator.model,
        generator.variables,
        config=generator.config,
        trained_on={"tokenizer_fingerprint": small.encoder_fingerprint},
    )
    parts = {"tokenizer": large, "generator": generator}
    bundles.write_bundle(tmp_path / "bundle", parts, vocabulary)
    loaded = bundles.Bundle.open(tmp_path / "bundle").load("tokenizer")
    assert loaded.encoder_fingerprint == small.encoder_fingerprint
    other = tiny_models.part("tokenizer")
    with pytest.raises(ValueError, match="was trained on tokens of the encoder"):
        bundles.write_bundle(tmp_path / "no", parts | {"tokenizer": other}, vocabulary)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"num_decoder_layers": 2}, True),
        ({"codebook_decay": 0.5}, True),
        ({"dtype": "'bfloat16'"}, False),
    ],
)
def test_encoder_fingerprint_is_of_what_encodes(changes: dict[str, Any], same: bool) -> None:
    one, other = tiny_models.part("tokenizer"), tiny_models.config("tokenizer", **changes)
    model = gin_config.model_from_config(other)
    changed = loaded_models.LoadedModel(model, one.variables, config=other)
    assert (changed.encoder_fingerprint == one.encoder_fingerprint) == same
    params = one.variables["params"]
    for branch, equal in (("encoder", False), ("codebook", False), ("decoder", True)):
        moved = {**params, branch: jax.tree.map(lambda x: x + 1, params[branch])}
        moved_model = loaded_models.LoadedModel(one.model, {**one.variables, "params": moved})
        assert (moved_model.encoder_fingerprint == one.encoder_fingerprint) == equal


def test_going_on_is_exact_and_needs_no_source(
    first: pathlib.Path, second: pathlib.Path, tmp_path: pathlib.Path, capsys
) -> None:
    shutil.copytree(first, tmp_path / "source")
    text, given = FIRST + SECOND, source(tmp_path / "source")
    short = load(text, tmp_path / "run", given, "MESH_SHAPE=(4, 2)", "TRAIN_STEPS=3")
    assert train.train(short) == 0
    log = capsys.readouterr().err
    assert f"initial: from {tmp_path / 'source'} (fingerprint " in log
    assert "initial: codebook <- codebook: 4 arrays, 289 values" in log
    shutil.rmtree(tmp_path / "source")
    assert train.train(load(text, tmp_path / "run", given, "MESH_SHAPE=(4, 2)")) == 0
    assert_same(tmp_path / "run", second)


def test_the_manifest_records_the_source(first: pathlib.Path, second: pathlib.Path) -> None:
    made, given = (manifests.read(d, "training") for d in (second, first))
    assert made["trained_on"] == {"initial_fingerprint": given["fingerprint"]}
    experiment = load(FIRST + SECOND, second, source(first), "MESH_SHAPE=(4, 2)")
    assert train.train(experiment) == 0, "already finished"
    path = first / "manifest.json"
    text = path.read_text()
    try:
        path.write_text(text.replace(given["fingerprint"], "f" * 64))
        with pytest.raises(ValueError, match="of the initial was .*, now it is ffffffffffff"):
            train.train(experiment)
    finally:
        path.write_text(text)


def test_decoder_goes_on_as_pixels(first: pathlib.Path, tmp_path: pathlib.Path, capsys) -> None:
    """The sigmoid goes; every leaf of the decoder, and its average, starts from the first phase."""
    converters = "{'decoder/head_pixels/kernel': @image_tokenizer_network.pixel_head}"
    changes = f"warm_start.WarmStart.converters = {converters}\n"
    experiment = load(FIRST + SECOND + RGB + changes, tmp_path / "run", source(first))
    program = train_step.make_program(experiment, spec_of(experiment))
    given = setup.load_initial(experiment, program)
    assert "decoder/head_pixels/kernel is converted by pixel_head" in capsys.readouterr().err
    state = program.init(train_step.initial_rngs(0)[0], program.place_variables(given))
    averaged = state.opt_state.inner_states["trained"].inner_state.averaged_params
    kernel = ("params", "decoder", "head_pixels", "kernel")
    for params in (state.params, averaged):
        found = {("params", *k): v for k, v in traverse_util.flatten_dict(params).items()}
        for key, leaf in exported(first)[1].items():
            if key != kernel:
                np.testing.assert_array_equal(found[key], leaf)
    old = exported(first)[1][kernel].reshape(32, 4, 4, 6)[..., :3] / np.log(9)
    np.testing.assert_allclose(found[kernel], old.reshape(32, 48), rtol=1e-6)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    assert shardings == program.shardings.params
    # What the two decoders show differs by what the sigmoid does between -1, 0 and 1.
    tokenizer = loaded_models.LoadedModel.from_train_dir(first)
    pixels = loaded_models.LoadedModel(
        experiment.model, {"params": state.params, "stats": state.mutables["stats"]}
    )
    tokens = tokenizer.call("encode", fake_training.pictures().train["images"], batch_size=8)
    shown = [m.call("decode", tokens, batch_size=8) for m in (tokenizer, pixels)]
    assert np.abs(shown[0] - shown[1]).max() < 0.15 < np.abs(shown[0]).max()


def test_pixel_head_meets_the_sigmoid_at_black_grey_and_white() -> None:
    means = np.log(9) * np.array([-1.0, 0.0, 1.0])
    kernel = np.concatenate([means, np.full(3, 7.0)])[None]  # One pixel: mu, then ln b.
    np.testing.assert_allclose(network.pixel_head(kernel), [[-1.0, 0.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(2.5 / (1 + np.exp(-means)) - 1.25, [-1.0, 0.0, 1.0], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("INITIAL = None", "encoder is frozen, but params/encoder/.* would start at random"),
        (
            "warm_start.WarmStart.branches = ('encoder',)",
            "codebook is frozen, but params/codebook/embed",
        ),
        (
            "warm_start.WarmStart.fresh = ('encoder/positions',)",
            "encoder is frozen, but .*positions",
        ),
        (
            "warm_start.WarmStart.branches = ('encodr',)",
            "encodr names nothing here; encodr names nothing",
        ),
        (
            "warm_start.WarmStart.branches = {'encoder': 'text'}",
            "text names nothing there. There: codebook, decoder, encoder; here: codebook",
        ),
        (
            "warm_start.WarmStart.branches = ('encoder', 'codebook', 'decoder')",
            r"params/decoder/codebook_projection/kernel is float32\[4, 32\] here and "
            r"float32\[4, 16\] there; .*; and \d+ more",
        ),
        (
            "warm_start.WarmStart.branches = ('decoder/stack',)\n"
            "image_tokenizer_network.ImageTokenizerConfig.decoder_emb_dim = None",
            "params/decoder/stack/layers_1/.* here and absent there",
        ),
        (
            "warm_start.WarmStart.branches = {'encoder': 'decoder'}",
            "params/encoder/head_hidden/kernel is absent here and float32",
        ),
        (
            "warm_start.WarmStart.fresh = ('encoder/nose',)",
            "encoder/nose of fresh names no branch here",
        ),
        (
            "warm_start.WarmStart.converters = "
            "{'encoder/stack': @image_tokenizer_network.pixel_head}",
            "encoder/stack of converters names no leaf here",
        ),
        (
            "warm_start.WarmStart.path = '/nowhere'",
            "/nowhere: no such folder; `parti train` makes it",
        ),
    ],
)
def test_misfits_are_refused_before_training(
    first: pathlib.Path, tmp_path: pathlib.Path, changes: str, message: str
) -> None:
    path = f"warm_start.WarmStart.path = '{first}'\n"
    experiment = load(FIRST + SECOND + path + changes + "\n", tmp_path / "run")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train.train(experiment)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "", "branches": ("a",)}, "path must be a path in quotes, got ''"),
        ({"branches": "encoder"}, "are lists of paths .*; branches = 'all' is a whole model"),
        ({"branches": ()}, "are lists of paths"),
        ({"branches": ("a", "a/b")}, "names 'a/b' and 'a', which holds it"),
        ({"branches": ("a",), "fresh": ("b/c",)}, "fresh names 'b/c', which is in none"),
        ({"branches": ("a",), "converters": {"b": abs}}, "converters names 'b', which is in"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        warm_start.WarmStart(**{"path": "p", **arguments})


def test_initial_must_be_one(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="INITIAL must be None or @warm_start.WarmStart"):
        load(FIRST, tmp_path / "run", "INITIAL='runs/tokenizer'")


def test_sources_and_renamed_branches(tmp_path: pathlib.Path, vocabulary: pathlib.Path) -> None:
    """A training, its checkpoint (as T5X leaves one) and a bundle's part give the same."""
    part = tiny_models.part("generator")
    folder = tiny_models.write_train_dir(tmp_path / "generator", part)
    bundles.write_bundle(tmp_path / "b", tiny_models.parts("tokenizer", "generator"), vocabulary)
    want = {"params": {"text": jax.eval_shape(lambda: part.variables["params"]["encoder"])}}
    paths = (folder, folder / "checkpoint_7", tmp_path / "b" / "generator")
    for path in paths:
        start = warm_start.WarmStart(str(path), {"text": "encoder"})
        given = start.load(want)
        assert set(given["params"]) == {"text"}
        jax.tree.map(
            np.testing.assert_array_equal,
            given["params"]["text"],
            part.variables["params"]["encoder"],
        )
        assert len(start.fingerprint()) == 64
        assert "initial: text <- encoder: " in start.describe(given)[1]
    assert warm_start.WarmStart(str(paths[0]), ("a",)).fingerprint() == part.fingerprint
    assert warm_start.WarmStart(str(paths[2]), ("a",)).fingerprint() == part.fingerprint
    assert warm_start.WarmStart(str(tmp_path / "gone"), ("a",)).fingerprint() == ""
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="`parti train` has not finished"):
        warm_start.WarmStart(str(folder), ("encoder",)).load(want)


def test_a_whole_model_from_the_command_line(
    first: pathlib.Path, tmp_path: pathlib.Path, capsys
) -> None:
    """As t5x_configs/README.md says: the file knows nothing of warm starts."""
    plain = FIRST.replace("from parti.engine.experiment import warm_start\n", "")
    assert "warm_start" not in plain
    given = ["INITIAL=@warm_start.WarmStart()", source(first)]
    assert train.dry_run(load(plain, tmp_path / "run", *given)) == 0
    log = capsys.readouterr().err
    for branch in ("encoder", "codebook", "decoder"):
        assert f"initial: {branch} <- {branch}: " in log
    some = "warm_start.WarmStart.branches=('encoder', 'codebook')"
    assert train.dry_run(load(plain, tmp_path / "run", *given, some)) == 0
    assert "initial: decoder" not in capsys.readouterr().err
    with pytest.raises(ValueError, match="INITIAL cannot start from .* names nothing there"):
        wrong = [*given, "warm_start.WarmStart.branches=('encodr',)"]
        train.dry_run(load(plain, tmp_path / "run", *wrong))


def test_another_vocabulary_is_refused(tmp_path: pathlib.Path, vocabulary: pathlib.Path) -> None:
    part = tiny_models.part("generator")
    known = vocabularies.TextTokenizer(vocabulary).fingerprint
    trained_on = {"vocabulary_fingerprint": known}
    folder = tiny_models.write_train_dir(tmp_path / "generator", part, **trained_on)
    bundles.write_bundle(tmp_path / "b", tiny_models.parts("tokenizer", "generator"), vocabulary)
    shapes = jax.eval_shape(lambda: part.variables["params"]["encoder"])
    want = {"params": {"encoder": shapes}}
    for path in (folder, folder / "checkpoint_7", tmp_path / "b" / "generator"):
        start = warm_start.if_given(str(path), ("encoder",))
        start.load(want, trained_on)
        start.load(want)
        with pytest.raises(ValueError, match="trained with another vocabulary .*Set VOCABULARY"):
            start.load(want, {"vocabulary_fingerprint": "another"})
        stack = {"params": {"encoder": {"stack": shapes["stack"]}}}
        start = warm_start.WarmStart(str(path), ("encoder/stack",))
        start.load(stack, {"vocabulary_fingerprint": "another"})
    assert warm_start.if_given(None, ("encoder",)) is None


def test_dry_run_shows_it(first: pathlib.Path, tmp_path: pathlib.Path, capsys) -> None:
    assert train.dry_run(load(FIRST + SECOND, tmp_path / "run", source(first))) == 0
    assert "initial: encoder <- encoder: " in capsys.readouterr().err
    with pytest.raises(ValueError, match="codebook is frozen"):
        branches = "warm_start.WarmStart.branches=('encoder',)"
        train.dry_run(load(FIRST + SECOND, tmp_path / "run", source(first), branches))
    assert not (tmp_path / "run").exists()
