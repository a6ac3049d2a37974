# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Adversarial training in one loss: who gets which gradient, when, and what is kept."""

import dataclasses
import functools

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from quick_jit import once

from parti.models.adversarial import adversary as adversarial
from parti.models.adversarial import discriminator
from parti.models.adversarial import losses as adversarial_losses
from parti.models.image_tokenizer import losses, network
from parti.models.image_tokenizer import model as image_tokenizer

SIZES = network.ImageTokenizerConfig(
    image_size=8,
    patch_size=4,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    codebook_size=16,
    codebook_dim=4,
    scan_layers=False,
)
DISCRIMINATOR = discriminator.DiscriminatorConfig(channel_multiplier=1 / 256, max_channels=8)
WEIGHTS = losses.LossWeights(adversarial=0.5)


def images_of(num: int, seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (num, 8, 8, 3)), jnp.float32)


def draw(tree, scale=0.5):
    """Returns random arrays, and zero for scalars; compiling the initialisers takes far longer."""
    rng = np.random.default_rng(0)

    def value(leaf):
        array = scale * rng.normal(size=leaf.shape) if leaf.ndim else 0
        return jnp.asarray(array, leaf.dtype)

    return jax.tree.map(value, flax.core.meta.unbox(tree))


def make_model(**config) -> image_tokenizer.ImageTokenizerModel:
    return image_tokenizer.ImageTokenizerModel(
        SIZES,
        WEIGHTS,
        discriminator_config=DISCRIMINATOR,
        adversarial_config=adversarial.AdversarialConfig(**config),
    )


def variables_of(model: image_tokenizer.ImageTokenizerModel, num: int = 4) -> dict:
    initial = functools.partial(
        model.get_initial_variables, input_shapes={"images": (num, 8, 8, 3)}
    )
    shapes = jax.eval_shape(initial, jax.random.PRNGKey(0))
    variables = draw({"params": shapes["params"], "stats": shapes["stats"]})
    variables["stats"]["discriminator"] = adversarial.initial_stats()
    return variables


@dataclasses.dataclass
class Game:
    """A discriminator with random parameters, real images and reconstructions."""

    params: dict
    reals: jax.Array
    fakes: jax.Array

    def play(self, params, fakes, step=0, training=True, strength=1.0, **config):
        config = adversarial.AdversarialConfig(**config)
        adversary = adversarial.Adversary(config, DISCRIMINATOR, 0.5, 8)
        stats = adversarial.initial_stats()
        stats |= {"steps": jnp.asarray(step), "r1_penalty": jnp.asarray(7.0)}
        stats |= {"strength": jnp.asarray(strength)}
        return adversary(params, stats, fakes, self.reals, training)


@pytest.fixture(scope="module")
def game() -> Game:
    reals = images_of(4, 0)
    model = discriminator.Discriminator(DISCRIMINATOR)
    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), reals)["params"]
    return Game(draw(shapes, scale=1.0), reals, images_of(4, 1))


def largest(tree) -> float:
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def grads_of(game: Game, term, **config):
    """Returns the gradients of a term to the discriminator and to the reconstructions."""
    play = lambda *args: term(game.play(*args, **config))  # noqa: E731
    return once(jax.grad(play, argnums=(0, 1)))(game.params, game.fakes)


def test_the_generator_loss_moves_no_weight_of_the_discriminator(game):
    params, fakes = grads_of(game, lambda played: played.metrics["generator_loss"])
    assert largest(params) == 0.0
    assert largest(fakes) > 1e-4


def test_the_discriminator_loss_moves_no_reconstruction(game):
    params, fakes = grads_of(game, lambda played: played.metrics["discriminator_loss"])
    assert largest(fakes) == 0.0
    assert all(largest(layer) > 1e-5 for layer in params.values())


def test_r1_reaches_the_discriminator_and_nothing_else(game):
    """Its share of the gradient is that of the penalty, and a finite difference agrees."""
    with_r1 = grads_of(game, lambda played: sum(played.losses.values()))
    without = grads_of(game, lambda played: sum(played.losses.values()), r1_gamma=0.0)
    np.testing.assert_array_equal(with_r1[1], without[1])
    r1 = jax.tree.map(lambda a, b: a - b, with_r1[0], without[0])

    @once
    def penalty(params):
        played = game.play(params, game.fakes)
        return 0.5 * 10.0 * 16 * played.metrics["r1_penalty"]

    for name in ("stem", "block_0", "hidden", "logits"):
        kernel = jax.tree.leaves(r1[name])[-1]
        assert largest(kernel) > 1e-3, name
    size = np.sqrt(sum(float(jnp.sum(jnp.square(x))) for x in jax.tree.leaves(r1)))
    ahead, behind = (
        jax.tree.map(lambda p, g, s=sign: p + s * 1e-3 * g / size, game.params, r1)
        for sign in (1, -1)
    )
    slope = (penalty(ahead) - penalty(behind)) / 2e-3
    assert float(slope) == pytest.approx(size, rel=0.02)
    # What summaries show is the mean over the 16 steps.
    adversary = adversarial.Adversary(adversarial.AdversarialConfig(), DISCRIMINATOR, 0.5, 8)
    shown = once(adversary.r1_gradient_norm)(game.params, game.reals)
    assert float(shown) == pytest.approx(size / 16, rel=1e-3)


def test_r1_is_lazy(game):
    play = once(lambda step: game.play(game.params, game.fakes, step, r1_interval=4))
    plain = play(1).metrics
    base_loss = plain["adversarial_weight"] * plain["generator_loss"] + plain["discriminator_loss"]
    for step in (0, 1, 3, 4):
        played = play(step)
        assert int(played.stats["steps"]) == step + 1
        if step % 4:
            assert float(played.stats["r1_penalty"]) == 7.0, "the last one"
            assert float(sum(played.losses.values())) == pytest.approx(float(base_loss), rel=1e-6)
        else:
            penalty = float(played.stats["r1_penalty"])
            assert penalty != 7.0
            expected = float(base_loss) + 0.5 * 10.0 * 4 * penalty
            assert float(sum(played.losses.values())) == pytest.approx(expected, rel=1e-5)


def test_schedules_by_hand():
    config = adversarial.AdversarialConfig(adversarial_start=10, adversarial_ramp=4)
    ramp = [float(config.ramp(jnp.asarray(step))) for step in (0, 9, 10, 11, 13, 14, 1000)]
    assert ramp == [0.0, 0.0, 0.25, 0.5, 1.0, 1.0, 1.0]
    at_once = adversarial.AdversarialConfig(adversarial_start=2)
    assert [float(at_once.ramp(jnp.asarray(step))) for step in (1, 2, 3)] == [0.0, 1.0, 1.0]
    assert float(adversarial.AdversarialConfig().ramp(jnp.asarray(0))) == 1.0
    weights = [float(config.r1_weight(jnp.asarray(step))) for step in (0, 1, 15, 16)]
    assert weights == [80.0, 0.0, 0.0, 80.0]


def test_before_the_start_only_the_discriminator_learns(game):
    config = {"adversarial_start": 5}
    params, fakes = grads_of(game, lambda played: sum(played.losses.values()), **config)
    assert largest(fakes) == 0.0
    assert largest(params) > 0.0
    play = once(lambda step: game.play(game.params, game.fakes, step, **config))
    assert [float(play(s).metrics["adversarial_weight"]) for s in (4, 5)] == [0.0, 0.5]


def test_the_loss_is_weakened_while_reconstructions_are_bad_and_regains_its_weight():
    config = adversarial.AdversarialConfig(max_psnr_drop=3.0)
    adversary = adversarial.Adversary(config, DISCRIMINATOR, 0.5, 8)
    back_off = jax.jit(adversary._back_off)

    def after(stats, error, num):
        for _ in range(num):
            stats = back_off(stats, jnp.asarray(error))
            stats = {**stats, "steps": stats["steps"] + 1}
        return stats

    good = after(adversarial.initial_stats(), 0.01, 150)
    assert float(good["strength"]) == 1.0
    assert float(good["best_error"]) == pytest.approx(0.01, rel=1e-5)
    bearable = after(good, 0.019, 600)  # 2.8 dB worse
    assert float(bearable["strength"]) == 1.0
    bad = after(good, 0.04, 200)  # 6 dB worse
    # The average crosses 0.02 after ln(2 / 3) / ln 0.99 = 40 steps; then it halves every 50.
    assert float(bad["strength"]) == pytest.approx(0.5 ** (160 / 50), rel=0.03)
    assert float(bad["error"]) == pytest.approx(0.04 - 0.03 * 0.99**200, rel=1e-3)
    lowest = after(bad, 0.01, 100)
    assert float(lowest["error"]) == pytest.approx(0.02, rel=0.05), "the alarm has just ended"
    recovering = after(lowest, 0.01, 500)
    assert float(recovering["strength"]) == pytest.approx(2 * float(lowest["strength"]), rel=0.1)
    assert float(after(recovering, 0.01, 2500)["strength"]) == 1.0
    never = adversarial.AdversarialConfig(max_psnr_drop=0.0)
    assert not never.is_alarming(jnp.asarray(1.0), jnp.asarray(1e-6))


def test_a_weakened_loss_has_its_share_of_the_gradient(game):
    play = once(lambda strength: game.play(game.params, game.fakes, strength=strength).metrics)
    full, half = play(1.0), play(0.5)
    assert [float(m["adversarial_weight"]) for m in (full, half)] == [0.5, 0.25]
    assert float(full["adversarial_alarm"]) == 0.0


def test_a_discriminator_only_where_the_loss_has_a_weight():
    plain, model = image_tokenizer.ImageTokenizerModel(SIZES), make_model()
    shapes, key = {"images": (4, 8, 8, 3)}, jax.random.PRNGKey(0)
    without, with_it = (
        jax.eval_shape(functools.partial(m.get_initial_variables, input_shapes=shapes), key)
        for m in (plain, model)
    )
    assert set(without["params"]) == {"encoder", "codebook", "decoder"}
    assert set(with_it["params"]) == {*without["params"], "discriminator"}
    assert set(with_it["params_axes"]) == set(with_it["params"])
    assert set(with_it["stats"]) == {"codebook", "discriminator"}
    # The tokenizer starts as it does without.
    first, second = (
        once(lambda key, m=m: m.get_initial_variables(key, shapes)["params"]["codebook"])(key)
        for m in (plain, model)
    )
    np.testing.assert_array_equal(first["embedding"], second["embedding"])


def test_one_step_of_the_model():
    model = make_model()
    variables = variables_of(model)
    mutables = flax.core.freeze({"stats": variables["stats"]})
    batch, rng = {"images": images_of(4, 2)}, jax.random.PRNGKey(1)
    value_and_grad = once(jax.value_and_grad(model.loss_fn, has_aux=True))
    (loss, (metrics, new)), grads = value_and_grad(variables["params"], batch, rng, mutables)
    values = {name: float(metric.compute()) for name, metric in metrics.items()}
    terms = {n: values[n] for n in ("l2_loss", "codebook_loss", "commitment_loss")}
    expected = sum(WEIGHTS.weigh(terms).values()) + 0.5 * values["generator_loss"]
    expected += values["discriminator_loss"] + 80.0 * values["r1_penalty"]
    assert values["loss"] == float(loss) == pytest.approx(expected, rel=1e-5)
    for name in ("discriminator_fake_accuracy", "discriminator_real_accuracy"):
        assert values[name] in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert all(largest(branch) > 0.0 for branch in grads.values())
    assert isinstance(new, flax.core.FrozenDict), "T5X wants back what it gave"
    assert int(new["stats"]["discriminator"]["steps"]) == 1
    assert int(new["stats"]["codebook"]["steps"]) == 1
    # The penalty's gradient to the tokenizer is zero: without it the rest is the same, bit for bit.
    quiet = make_model(r1_gamma=0.0)
    (_, _), without = once(jax.value_and_grad(quiet.loss_fn, has_aux=True))(
        variables["params"], batch, rng, mutables
    )
    for part in ("encoder", "codebook", "decoder"):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
            grads[part],
            without[part],
        )
    assert largest(jax.tree.map(jnp.subtract, grads, without)["discriminator"]) > 1e-3


def test_evaluation_leaves_the_counter_alone():
    model = make_model()
    variables = variables_of(model)
    mutables = {"stats": variables["stats"]}
    batch = {"images": images_of(4, 2)}
    _, (metrics, after) = once(
        lambda params, batch, mutables: model.loss_fn(params, batch, None, mutables)
    )(variables["params"], batch, mutables)
    jax.tree.map(np.testing.assert_array_equal, after, mutables)
    assert {"generator_loss", "discriminator_loss"} <= set(metrics)


def test_what_is_used_after_training_needs_no_discriminator():
    model = make_model()
    variables = variables_of(model)
    bare = {
        collection: {k: v for k, v in tree.items() if k not in model.training_only}
        for collection, tree in variables.items()
    }
    images = images_of(4, 3)
    encode, decode = once(model.encode), once(model.decode)
    tokens = encode(bare, images)
    np.testing.assert_array_equal(tokens, encode(variables, images))
    np.testing.assert_array_equal(decode(bare, tokens), decode(variables, tokens))
    with pytest.raises(ValueError, match="there is no discriminator in params"):
        model.loss_fn(bare["params"], {"images": images}, None, {"stats": bare["stats"]})


def test_eight_devices_agree_with_one():
    """Loss, gradients and state at a step with the R1 penalty; groups lie across devices."""
    model = make_model()
    variables = variables_of(model, 16)

    def loss_and_grads(params, stats, images):
        grad_fn = jax.value_and_grad(model.loss_fn, has_aux=True)
        rng = jax.random.PRNGKey(3)
        (loss, (_, new)), grads = grad_fn(params, {"images": images}, rng, {"stats": stats})
        return loss, grads, new["stats"]

    images = images_of(16, 2)
    alone = once(loss_and_grads)(variables["params"], variables["stats"], images)
    mesh = Mesh(jax.devices()[:8], ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    together = once(loss_and_grads)(
        jax.device_put(variables["params"], everywhere),
        jax.device_put(variables["stats"], everywhere),
        jax.device_put(images, NamedSharding(mesh, PartitionSpec("data"))),
    )
    assert float(alone[2]["discriminator"]["r1_penalty"]) > 0.0
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(compare, alone, together)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="adversarial_start is -1; give at least 0"):
        adversarial.AdversarialConfig(adversarial_start=-1)
    with pytest.raises(ValueError, match="r1_interval is 0"):
        adversarial.AdversarialConfig(r1_interval=0)
    sizes = dataclasses.replace(SIZES, image_size=24)
    with pytest.raises(ValueError, match="image_size is 24, give a power of two"):
        image_tokenizer.ImageTokenizerModel(sizes, WEIGHTS)


def test_adversarial_losses_equal_numpy():
    fake, real = np.asarray([-3.0, 0.5, 20.0]), np.asarray([2.0, -1.0, 0.0])
    softplus = lambda x: np.log1p(np.exp(x))  # noqa: E731
    generator = adversarial_losses.generator_loss(jnp.asarray(fake))
    assert float(generator) == pytest.approx(softplus(-fake).mean(), rel=1e-6)
    discriminator = adversarial_losses.discriminator_loss(jnp.asarray(fake), jnp.asarray(real))
    expected = 0.5 * (softplus(fake).mean() + softplus(-real).mean())
    assert float(discriminator) == pytest.approx(expected, rel=1e-6)
    guess = adversarial_losses.discriminator_loss(jnp.zeros(3), jnp.zeros(3))
    assert float(guess) == pytest.approx(np.log(2.0))


def test_r1_penalty_by_hand():
    """For D(x) = (w x)^2 / 2 the gradient is (w x) w, an image's penalty (w x)^2 |w|^2."""
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(2, 2, 3)), rng.normal(size=(5, 2, 2, 3))
    products = (x * w).sum((1, 2, 3))
    discriminate = lambda images: jnp.square(jnp.sum(images * w, (1, 2, 3))) / 2  # noqa: E731
    penalty = adversarial_losses.r1_penalty(discriminate, jnp.asarray(x, jnp.float32))
    assert float(penalty) == pytest.approx((products**2).mean() * (w**2).sum(), rel=1e-5)
