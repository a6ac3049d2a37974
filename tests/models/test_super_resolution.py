# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The upsampler: sizes, weight norm and pixel shuffle by hand, losses, and training."""

import dataclasses
import functools
import json

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from quick_jit import everywhere, once

from parti.engine import train
from parti.engine.checkpoints import checkpoints
from parti.engine.config import gin_config
from parti.engine.experiment import experiments
from parti.engine.inference import bundles, loaded_models
from parti.engine.input import datasets
from parti.models.adversarial import adversary, discriminator
from parti.models.super_resolution import losses, network
from parti.models.super_resolution import model as super_resolution

TINY = network.SuperResolutionConfig(image_size=8, num_channels=8, num_blocks=2, widening=2)
WEIGHTS = losses.LossWeights(perceptual=0.1, adversarial=0.1)
CRITIC = discriminator.DiscriminatorConfig(channel_multiplier=1 / 256, max_channels=8)
NETWORK = """
from __gin__ import dynamic_registration
from parti.models.adversarial import discriminator
from parti.models.super_resolution import losses
from parti.models.super_resolution import model
from parti.models.super_resolution import network
MODEL = @model.SuperResolutionModel()
model.SuperResolutionModel.config = @network.SuperResolutionConfig()
network.SuperResolutionConfig:
  image_size = 8
  num_channels = 4
  num_blocks = 1
  widening = 2
"""
ALL_LOSSES = """
model.SuperResolutionModel:
  loss_weights = @losses.LossWeights()
  discriminator_config = @discriminator.DiscriminatorConfig()
losses.LossWeights:
  perceptual = 0.1
  adversarial = 0.1
discriminator.DiscriminatorConfig:
  channel_multiplier = 0.00390625
  max_channels = 8
"""


def new_batch(scale: int = 2, num: int = 4) -> dict[str, jax.Array]:
    """Returns random smooth images and their nearest-neighbour reduction."""
    coarse = jax.random.uniform(jax.random.key(5), (num, 4, 4, 3), minval=-1.0, maxval=1.0)
    images = jax.image.resize(coarse, (num, 8 * scale, 8 * scale, 3), "bicubic").clip(-1, 1)
    return {"images": images, "low_resolution_images": images[:, ::scale, ::scale]}


def start(model: super_resolution.SuperResolutionModel, batch: dict) -> dict:
    shapes = {name: value.shape for name, value in batch.items()}
    return model.get_initial_variables(jax.random.PRNGKey(0), shapes)


@functools.cache
def initial_params() -> dict:
    """Returns what a training of `TINY` starts from."""
    model = super_resolution.SuperResolutionModel(TINY)
    return once(functools.partial(start, model))(new_batch())["params"]


@pytest.mark.parametrize(("num_stages", "millions"), [(1, 14.2), (2, 28.4)])
def test_parameter_counts_of_the_paper(num_stages, millions):
    config = network.SuperResolutionConfig(num_stages=num_stages)
    model = super_resolution.SuperResolutionModel(config)
    side = 8 * config.total_scale
    shapes = {"images": (1, side, side, 3), "low_resolution_images": (1, 8, 8, 3)}
    assert config.total_scale == 2**num_stages
    assert round(model.num_params(shapes) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("name", "side", "channels", "critic"),
    # 29,012,513 is what StyleGAN2's own code prints for its discriminator of 1024 px images.
    [("x2", 512, 64, 28_982_849), ("x4", 1024, 32, 29_012_513)],
)
def test_experiments_of_the_paper(name, side, channels, critic):
    config = f"include 't5x_configs/experiments/wdsr_{name}.gin'\n"
    model = gin_config.model_from_config(config)
    assert model.loss_weights == WEIGHTS
    shapes = {"images": (1, side, side, 3), "low_resolution_images": (1, 256, 256, 3)}
    initial = functools.partial(model.get_initial_variables, input_shapes=shapes)
    params = jax.eval_shape(initial, jax.random.PRNGKey(0))["params"]
    counts = {k: sum(leaf.size for leaf in jax.tree.leaves(v)) for k, v in params.items()}
    assert counts.pop("discriminator") == critic
    assert set(counts.values()) == {14_189_620}
    assert len(counts) == model.config.num_stages == side // 512
    assert params["discriminator"]["stem"]["kernel"].shape == (1, 1, 3, channels)


def test_the_demonstration_has_l2_alone():
    config = "include 't5x_configs/experiments/wdsr_tiny.gin'\n"
    model = gin_config.model_from_config(config)
    assert model.loss_weights == losses.LossWeights()
    assert model.adversary is None and model.perceptual is None and not model.has_mutables


def test_a_bundle_from_before_there_were_other_losses():
    old = NETWORK + "model.SuperResolutionModel.reconstruction_loss = 'l1'\n"
    model = gin_config.model_from_config(old)
    assert model.loss_weights == losses.LossWeights(l2=0.0, l1=1.0)
    assert model.config == dataclasses.replace(TINY, num_channels=4, num_blocks=1)


def test_pixel_shuffle_by_hand():
    x = jnp.arange(8.0).reshape(1, 1, 2, 4)
    expected = [[0, 1, 4, 5], [2, 3, 6, 7]]
    np.testing.assert_array_equal(network.pixel_shuffle(x, 2)[0, :, :, 0], expected)


def test_weight_norm_equals_plain_numpy():
    conv = network.WeightNormConv(num_channels=5, kernel_size=1, axes=(None, None), gain=2.0)
    x = jax.random.normal(jax.random.key(1), (2, 3, 3, 4))
    variables = jax.tree.map(lambda x: x, conv.init(jax.random.key(0), x))
    direction = np.asarray(variables["params"]["direction"].unbox()[0, 0])
    kernel = 2.0 * direction / np.linalg.norm(direction, axis=0)
    np.testing.assert_allclose(conv.apply(variables, x), np.asarray(x) @ kernel, rtol=1e-4)


@pytest.mark.parametrize("num_stages", [1, 2])
def test_untrained_it_is_nearest_neighbour(num_stages):
    config = network.SuperResolutionConfig(num_channels=4, num_blocks=1, num_stages=num_stages)
    model = super_resolution.SuperResolutionModel(config)
    batch = new_batch(config.total_scale, num=2)
    variables = once(functools.partial(start, model))(batch)
    upsampled = once(model.upsample)(variables, batch["low_resolution_images"])
    nearest = jax.image.resize(batch["low_resolution_images"], upsampled.shape, "nearest")
    np.testing.assert_allclose(upsampled, nearest, atol=1e-5)


@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_training_beats_interpolation(loss):
    model = super_resolution.SuperResolutionModel(TINY, reconstruction_loss=loss)
    batch = new_batch()
    optimizer = optax.adam(3e-3)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            grads, metrics = jax.grad(model.loss_fn, has_aux=True)(params, batch, None)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), metrics

        (params, _), history = jax.lax.scan(step, (params, optimizer.init(params)), length=100)
        return params, jax.tree.map(lambda values: values[-1], history)

    params, metrics = train(initial_params())
    # Measured with five seeds: 6.6 to 8.6 dB better.
    values = values_of(metrics)
    assert values["psnr"] > max(values["psnr_nearest"], values["psnr_bicubic"]) + 1.0
    upsampled = once(model.upsample)({"params": params}, batch["low_resolution_images"])
    assert upsampled.shape == batch["images"].shape
    assert np.abs(upsampled).max() <= 1.0
    scores, (_, metrics) = once(lambda *a: (model.score_batch(*a), model.eval_fn(*a)))(
        params, batch
    )
    np.testing.assert_allclose(np.mean(scores), metrics["psnr"].compute())


def make_model(weights=WEIGHTS, **config) -> super_resolution.SuperResolutionModel:
    return super_resolution.SuperResolutionModel(
        TINY,
        weights,
        discriminator_config=CRITIC,
        adversarial_config=adversary.AdversarialConfig(**config),
    )


@functools.cache
def drawn() -> tuple[dict, dict]:
    """Returns random params with a discriminator, and mutables at step 0."""
    model, batch = make_model(), new_batch()
    shapes = jax.eval_shape(functools.partial(start, model), batch)
    assert set(shapes) == {"params", "params_axes", "stats", "stats_axes"}
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes["params"]
    )
    return params, {"stats": {"discriminator": adversary.initial_stats()}}


def values_of(metrics: dict) -> dict[str, float]:
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def largest(tree) -> float:
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


@functools.cache
def grads_with(**weights: float) -> tuple[dict, dict[str, float]]:
    """Returns gradients and metrics with these weights of losses."""
    model = make_model(losses.LossWeights(**weights))
    params, mutables = drawn()
    if model.has_mutables:
        grad_fn = jax.grad(model.loss_fn, has_aux=True)
        grads, (metrics, _) = once(grad_fn)(params, new_batch(), jax.random.PRNGKey(1), mutables)
    else:
        grads, metrics = once(jax.grad(model.loss_fn, has_aux=True))(params, new_batch(), None)
    return grads, values_of(metrics)


def test_each_loss_moves_the_upsampler_and_none_of_them_the_discriminator():
    plain, _ = grads_with()
    assert largest(plain["discriminator"]) == 0.0
    for weights in ({"l1": 0.3}, {"perceptual": 0.3}, {"adversarial": 0.3}):
        grads, _ = grads_with(**weights)
        assert largest(jax.tree.map(jnp.subtract, grads, plain)["stage_0"]) > 1e-4, weights
        if "adversarial" not in weights:
            assert largest(grads["discriminator"]) == 0.0
    # The discriminator learns from its own terms: its gradient does not know the others' weights.
    one, _ = grads_with(adversarial=0.3)
    other, _ = grads_with(adversarial=0.6, perceptual=0.5, l2=2.0)
    assert largest(one["discriminator"]) > 1e-3
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        one["discriminator"],
        other["discriminator"],
    )


def test_the_loss_is_the_weighted_sum_of_its_metrics():
    _, values = grads_with(l1=0.3, perceptual=0.1, adversarial=0.2)
    expected = values["l2_loss"] + 0.3 * values["l1_loss"] + 0.1 * values["perceptual_loss"]
    expected += 0.2 * values["generator_loss"] + values["discriminator_loss"]
    expected += 0.5 * 10.0 * 16 * values["r1_penalty"]
    assert values["loss"] == pytest.approx(expected, rel=1e-5)
    _, plain = grads_with()
    assert set(plain) == {"loss", "l2_loss", "psnr", "psnr_nearest", "psnr_bicubic"}
    assert plain["loss"] == plain["l2_loss"]


def test_l2_and_l1_by_hand():
    params, _ = drawn()
    batch = new_batch()
    model = make_model(losses.LossWeights(l1=1.0))
    upsampled = model.network.apply({"params": params}, batch["low_resolution_images"])
    error = np.asarray(upsampled, np.float64) - np.asarray(batch["images"], np.float64)
    values = values_of(model.eval_fn(params, batch)[1])
    assert values["l2_loss"] == pytest.approx((error**2).mean(), rel=1e-5)
    assert values["l1_loss"] == pytest.approx(np.abs(error).mean(), rel=1e-5)


def test_statistics_change_in_training_only():
    model, (params, mutables), batch = make_model(), drawn(), new_batch()
    step = once(model.loss_fn)
    frozen = flax.core.freeze(mutables)
    _, (_, after) = step(params, batch, jax.random.PRNGKey(0), frozen)
    assert isinstance(after, flax.core.FrozenDict), "T5X wants back what it gave"
    assert int(after["stats"]["discriminator"]["steps"]) == 1
    _, (metrics, same) = model.loss_fn(params, batch, None, mutables)
    assert same is mutables
    assert values_of(model.eval_fn(params, batch, mutables)[1]) == values_of(metrics)


def test_mutables_only_with_a_discriminator():
    plain = make_model(losses.LossWeights(perceptual=0.1))
    assert not plain.has_mutables
    assert make_model().has_mutables
    assert set(jax.eval_shape(functools.partial(start, plain), new_batch())) == {
        *("params", "params_axes")
    }
    assert plain.notes and not super_resolution.SuperResolutionModel(TINY).notes
    # It starts as it does without a discriminator.
    first, second = (
        once(lambda m=m: start(m, new_batch())["params"]["stage_0"]["skip"]["direction"])()
        for m in (plain, make_model())
    )
    np.testing.assert_array_equal(first, second)


def test_what_is_used_after_training_needs_no_discriminator():
    model, (params, _), batch = make_model(), drawn(), new_batch()
    low = batch["low_resolution_images"]
    bare = {"params": {"stage_0": params["stage_0"]}}
    whole = model.upsample({"params": params}, low)
    np.testing.assert_array_equal(model.upsample(bare, low), whole)
    np.testing.assert_array_equal(model.predict_batch(params, batch), whole)
    assert model.score_batch(params, batch).shape == (4,)


def make_experiment(directory, **changes) -> experiments.Experiment:
    arrays = {name: np.asarray(value) for name, value in new_batch(num=32).items()}
    base = experiments.Experiment(
        model=gin_config.model_from_config(NETWORK + ALL_LOSSES),
        data_source=datasets.ArraySource(arrays, arrays),
        optimizer=optax.adam(2e-3),
        model_dir=str(directory),
        train_steps=40,
        batch_size=16,
        num_microbatches=2,
        checkpoint_period=20,
        eval_period=20,
        eval_steps=1,
        log_period=1,
        tensorboard=False,
        model_config=NETWORK + ALL_LOSSES,
    )
    return dataclasses.replace(base, **changes)


def leaves_of(directory) -> dict:
    params, mutables, _ = checkpoints.load_params(directory)
    return traverse_util.flatten_dict({"params": params, **mutables}, sep="/")


@pytest.fixture
def compiled_once(tmp_path):
    """The three runs of a test are one program."""
    names = {
        "jax_compilation_cache_dir": str(tmp_path / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    with everywhere():
        yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_engine_trains_it_with_all_losses(tmp_path, capsys, compiled_once):
    """In microbatches on 8 devices; goes on exactly; and is exported without a discriminator."""
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    assert train.train(make_experiment(straight)) == 0
    assert "perceptual network: oriented filters" in capsys.readouterr().err
    assert train.train(make_experiment(halves, train_steps=20)) == 0
    assert train.train(make_experiment(halves)) == 0
    leaves = leaves_of(straight)
    jax.tree.map(np.testing.assert_array_equal, leaves, leaves_of(halves))
    assert int(leaves["stats/discriminator/steps"]) == 2 * 40, "each microbatch is a call"
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = (line for line in lines if line["split"] == "train")
    assert last["psnr"] > first["psnr"] + 0.5
    assert last["perceptual_loss"] < first["perceptual_loss"]
    assert any("generator_loss" in line for line in lines if line["split"] == "validation")
    # Exported: the fingerprint is that of the network alone, which is all that is there.
    loaded = loaded_models.LoadedModel.from_train_dir(straight)
    stage = traverse_util.unflatten_dict(leaves, sep="/")["params"]["stage_0"]
    alone = loaded_models.LoadedModel(
        loaded.model, {"params": {"stage_0": stage}}, config=loaded.config
    )
    assert loaded.fingerprint == alone.fingerprint
    vocabulary = tiny_models.write_vocabulary(tmp_path / "vocabulary.model")
    parts = tiny_models.parts("tokenizer", "generator") | {"upsampler": loaded}
    bundles.write_bundle(tmp_path / "bundle", parts, vocabulary)
    exported = bundles.Bundle.open(tmp_path / "bundle").load("upsampler")
    assert set(traverse_util.flatten_dict(exported.variables)) == set(
        traverse_util.flatten_dict({"params": {"stage_0": stage}})
    )
    low = np.asarray(new_batch()["low_resolution_images"])
    np.testing.assert_array_equal(
        *(m.call("upsample", low, batch_size=4) for m in (exported, loaded))
    )


def test_eight_devices_agree_with_one():
    """Loss, gradients and state at a step with the R1 penalty."""
    model, (params, mutables), batch = make_model(), drawn(), new_batch(num=16)

    def loss_and_grads(params, mutables, batch):
        grad_fn = jax.value_and_grad(model.loss_fn, has_aux=True)
        (loss, (_, new)), grads = grad_fn(params, batch, jax.random.PRNGKey(3), mutables)
        return loss, grads, new["stats"]

    alone = once(loss_and_grads)(params, mutables, batch)
    mesh = Mesh(jax.devices()[:8], ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    together = once(loss_and_grads)(
        jax.device_put(params, everywhere),
        jax.device_put(mutables, everywhere),
        jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data"))),
    )
    assert float(alone[2]["discriminator"]["r1_penalty"]) > 0.0
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), alone, together
    )


def test_mistakes_are_named():
    model = super_resolution.SuperResolutionModel(TINY)
    batch = new_batch()
    variables = {"params": initial_params()}
    with pytest.raises(ValueError, match="factor of 2"):
        model.loss_fn(variables["params"], {**batch, "images": batch["images"][:, :8]}, None)
    with pytest.raises(ValueError, match="uint8"):
        model.upsample(variables, jnp.zeros((1, 8, 8, 3), jnp.uint8))
    with pytest.raises(ValueError, match="height, width, 3"):
        model.upsample(variables, jnp.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="l2, l1"):
        super_resolution.SuperResolutionModel(TINY, reconstruction_loss="l3")
    with pytest.raises(ValueError, match="num_blocks is 0"):
        network.SuperResolutionConfig(num_blocks=0)
    both = losses.LossWeights(l1=1.0)
    with pytest.raises(ValueError, match="reconstruction_loss is 'l1' and there are LossWeights"):
        super_resolution.SuperResolutionModel(TINY, both, reconstruction_loss="l1")
    with pytest.raises(ValueError, match="the weight perceptual is -0.1; give at least 0"):
        losses.LossWeights(perceptual=-0.1)
    with pytest.raises(ValueError, match="l2 and l1 are both 0"):
        losses.LossWeights(l2=0.0, perceptual=1.0)
    three = dataclasses.replace(TINY, scale=3)
    with pytest.raises(ValueError, match="image_size is 24, give a power of two"):
        super_resolution.SuperResolutionModel(three, WEIGHTS)


def test_mistakes_about_the_discriminator_are_named():
    model, (params, mutables) = make_model(), drawn()
    wide = {name: jnp.tile(x, (1, 1, 2, 1)) for name, x in new_batch().items()}
    with pytest.raises(ValueError, match=r"low_resolution_images have .*\[batch, 8, 8, 3\]"):
        model.loss_fn(params, wide, None, mutables)
    bare = {"stage_0": params["stage_0"]}
    with pytest.raises(ValueError, match="there is no discriminator in params"):
        model.loss_fn(bare, new_batch(), None, mutables)
    with pytest.raises(ValueError, match="there is no discriminator in params .* and stats"):
        model.loss_fn(params, new_batch(), None)
