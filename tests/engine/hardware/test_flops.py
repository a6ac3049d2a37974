# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from parti.engine.hardware import flops
from parti.models.super_resolution import model as upsampler
from parti.models.super_resolution import network as upsampler_network
from parti.models.text_to_image import model as generator
from parti.models.text_to_image import network

BATCH = 4
CONFIG = network.TextToImageConfig(
    text_vocab_size=256,
    text_length=16,
    codebook_size=127,
    grid_size=4,
    emb_dim=128,
    num_heads=4,
    head_dim=32,
    mlp_dim=512,
    num_encoder_layers=2,
    num_decoder_layers=3,
    local_window=3,
    dtype="float32",
    scan_layers=False,
)


def generator_spec() -> dict[str, jax.ShapeDtypeStruct]:
    image = (BATCH, CONFIG.image_length)
    return {
        "encoder_input_tokens": jax.ShapeDtypeStruct((BATCH, CONFIG.text_length), jnp.int32),
        "decoder_input_tokens": jax.ShapeDtypeStruct(image, jnp.int32),
        "decoder_target_tokens": jax.ShapeDtypeStruct(image, jnp.int32),
        "decoder_loss_weights": jax.ShapeDtypeStruct(image, jnp.float32),
    }


def upsampler_spec() -> dict[str, jax.ShapeDtypeStruct]:
    return {
        "images": jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32),
        "low_resolution_images": jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32),
    }


def gradients(model: Any, spec: Any) -> tuple[Any, Any]:
    """Returns the gradient function of a model without mutable collections, and its arguments."""
    shapes = {name: leaf.shape for name, leaf in spec.items()}
    init = lambda rng: model.get_initial_variables(rng, shapes)["params"]  # noqa: E731
    params = jax.eval_shape(init, jax.random.PRNGKey(0))
    rng = jax.ShapeDtypeStruct((2,), jnp.uint32)
    return jax.value_and_grad(model.loss_fn, has_aux=True), (params, spec, rng)


def xla_flops(function: Any, args: Any) -> float:
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def test_the_generator_by_hand() -> None:
    width, hidden = CONFIG.emb_dim, CONFIG.mlp_dim
    text, image = CONFIG.text_length, CONFIG.image_length
    # Multiply-adds of a layer: projections (query, key, value, out), the MLP, and attention's two
    # products of length x length x width; those of cross-attention are with the text.
    encoder = text * (4 * width**2 + 2 * width * hidden) + 2 * text * text * width
    decoder = (
        image * (4 * width**2 + 2 * width * hidden)
        + 2 * image * image * width
        + (2 * image + 2 * text) * width**2
        + 2 * image * text * width
    )
    softmax = image * width * CONFIG.image_vocab_size
    forward = 2 * BATCH * (2 * encoder + 3 * decoder + softmax)
    assert flops.train_step(generator.TextToImageModel(CONFIG), generator_spec()) == 3 * forward


@pytest.mark.parametrize("family", ["generator", "upsampler"])
def test_xla_counts_as_many_but_for_what_is_elementwise(family: str) -> None:
    if family == "generator":
        model, spec = generator.TextToImageModel(CONFIG), generator_spec()
    else:
        config = upsampler_network.SuperResolutionConfig(
            image_size=16, num_channels=16, num_blocks=1
        )
        model, spec = upsampler.SuperResolutionModel(config), upsampler_spec()
    ours = flops.train_step(model, spec)
    theirs = xla_flops(*gradients(model, spec))
    assert ours == pytest.approx(theirs, rel=0.04)
    assert ours <= theirs


def test_a_scanned_layer_counts_as_often_as_it_runs() -> None:
    scanned = dataclasses.replace(CONFIG, scan_layers=True)
    counts = {
        flops.train_step(generator.TextToImageModel(config), generator_spec())
        for config in (CONFIG, scanned)
    }
    assert len(counts) == 1


@pytest.mark.parametrize("scan_layers", [False, True])
def test_what_is_computed_twice_counts_once_of_the_model_and_twice_of_the_program(
    scan_layers: bool,
) -> None:
    plain = dataclasses.replace(CONFIG, scan_layers=scan_layers)
    model = generator.TextToImageModel(dataclasses.replace(plain, remat="full"))
    function, args = gradients(model, generator_spec())
    of_model = flops.train_step(model, generator_spec())
    assert of_model == flops.train_step(generator.TextToImageModel(plain), generator_spec())
    # The forward pass of the layers is a third of the step, but what gives only a layer's result
    # (the last product of the MLP) is not needed again.
    assert 1.15 * of_model < flops.of(function, *args) < 4 / 3 * of_model


def test_a_pipeline_that_idles_is_no_more_work_for_the_model() -> None:
    plain = dataclasses.replace(CONFIG, scan_layers=True, num_decoder_layers=4)
    pipelined = dataclasses.replace(plain, num_stages=2, pipeline_microbatches=2, remat="full")
    of_model = flops.train_step(generator.TextToImageModel(plain), generator_spec())
    model = generator.TextToImageModel(pipelined)
    assert flops.train_step(model, generator_spec()) == of_model
    function, args = gradients(model, generator_spec())
    # Stages idle in one of 1 x 2 + 1 iterations of the encoder, of 2 x 2 + 1 of the decoder.
    assert flops.of(function, *args) > 1.25 * of_model


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (1, 1), "padding": "SAME"},
        {"window_strides": (2, 1), "padding": [(2, 0), (1, 3)]},
        {"window_strides": (1, 1), "padding": [(1, 2), (0, 0)], "lhs_dilation": (2, 3)},
        {"window_strides": (1, 2), "padding": "SAME", "rhs_dilation": (2, 2)},
    ],
)
def test_a_convolution_skips_padding_and_holes(options: dict[str, Any]) -> None:
    def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(images, kernel, dimension_numbers=numbers, **options)

    args = (jnp.zeros((2, 9, 8, 4)), jnp.zeros((3, 3, 4, 5)))
    assert flops.of(convolve, *args) == xla_flops(convolve, args)


def test_a_conditional_counts_as_its_dearest_branch() -> None:
    branches = [lambda x: x @ x, lambda x: x @ x @ x]
    counted = flops.of(lambda i, x: lax.switch(i, branches, x), jnp.int32(0), jnp.zeros((4, 4)))
    assert counted == 2 * 2 * 4**3


def test_a_loop_of_unknown_length_is_refused() -> None:
    def loop(x: jax.Array) -> jax.Array:
        return lax.while_loop(lambda y: jnp.sum(y) < 9, lambda y: y @ y, x)

    with pytest.raises(ValueError, match="fixed bounds"):
        flops.of(loop, jnp.ones((2, 2)))


def test_private_api_of_jax() -> None:
    """`jax.interpreters.partial_eval.dce_jaxpr`."""

    def function(x: jax.Array) -> jax.Array:
        _ = x @ x  # dead
        return x + 1.0

    jaxpr = jax.make_jaxpr(function)(jnp.ones((3, 3))).jaxpr
    kept = flops.without_dead_code(jaxpr)
    assert [str(equation.primitive) for equation in jaxpr.eqns] == ["dot_general", "add"]
    assert [str(equation.primitive) for equation in kept.eqns] == ["add"]
    assert len(kept.invars) == 1 and len(kept.outvars) == 1
