# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Advice where memory does not suffice, for models without the choices of a Transformer."""

import jax
import jax.numpy as jnp
import optax

from parti.engine.experiment import experiments
from parti.engine.pod_estimates import device_memory
from parti.engine.step import train_step
from parti.models.super_resolution import model as super_resolution
from parti.models.super_resolution import network


def test_stages_of_an_upsampler_are_no_pipeline() -> None:
    config = network.SuperResolutionConfig(
        image_size=4, num_channels=4, num_blocks=1, widening=2, num_stages=2
    )
    experiment = experiments.Experiment(
        model=super_resolution.SuperResolutionModel(config),
        data_source=None,
        optimizer=optax.adam(1e-3),
        model_dir="unused",
        train_steps=1,
        batch_size=64,
    )
    spec = {
        "images": jax.ShapeDtypeStruct((64, 16, 16, 3), jnp.float32),
        "low_resolution_images": jax.ShapeDtypeStruct((64, 4, 4, 3), jnp.float32),
    }
    program = train_step.make_program(experiment, spec)
    kinds = device_memory.with_gradients(
        {**device_memory.state(program), device_memory.ACTIVATIONS: 10**9}
    )
    (parts, more) = device_memory.advice(kinds, 6 * 10**8, experiment, program)
    assert [flag.split("=")[0] for flag in parts.flags] == ["--gin.NUM_MICROBATCHES"]
    assert more == device_memory.MORE_DEVICES
