# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Compiles an experiment ahead of time, for devices that need not be there, and reports on it.

Shapes go in, a report comes out: memory of a device by kind, FLOPs, collectives, seconds. It reads
neither data nor vocabulary and computes nothing.
"""

import dataclasses
import functools
import importlib.metadata
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from parti.engine.experiment import experiments
from parti.engine.hardware import accelerators, flops
from parti.engine.inference import layouts
from parti.engine.pod_estimates import collectives, device_memory
from parti.engine.step import train_state, train_step
from parti.models import base
from parti.models.text_to_image import sampling

TRAIN, GENERATE = "train", "generate"

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# What libtpu says of a program that is too large, at an early and at a late stage of compiling it.
_TOO_LARGE = re.compile(r"(?:HLO temporaries \(|Used )([\d.]+)([KMGT]?)\b")


@dataclasses.dataclass(frozen=True)
class Report:
    """The report of a compiled program."""

    program: str  # 'train' or 'generate'
    topology: str
    mesh: Mapping[str, int]  # axis -> devices
    batch: int  # examples of a step, or images drawn at once
    num_microbatches: int
    num_steps: int  # one after another: 1 of training, those that draw the images of a call
    num_params: int
    memory: Mapping[str, int]  # kind -> bytes on one device (see `device_memory`)
    available: int | None  # bytes of a device that a program may use, None without a known limit
    fits: bool | None  # None without a known limit
    advice: Sequence[device_memory.Advice]  # what to change if it does not fit
    model_flops: int  # of the whole mesh, without what is computed again to save memory
    program_flops: int  # with that, and with what a pipeline computes idly
    peak_flops: float | None  # of a device, a second; None if not known
    # Kind -> count and bytes on one device; None if the program was too large.
    collectives: Mapping[str, collectives.Traffic] | None
    is_exact: bool  # whether all collectives are counted as often as they run
    # To 'lower' and to 'compile'; 'compile_cpu' of all cores, whatever else the machine does.
    seconds: Mapping[str, float]
    versions: Mapping[str, str]  # of jax and, for a TPU, of libtpu


def element_spec(
    experiment: experiments.Experiment, task_feature_lengths: Mapping[str, int]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shape and dtype of each feature of a global batch, without any data."""
    model = experiment.model
    converter = model.FEATURE_CONVERTER_CLS(pack=False)
    shapes = converter.get_batch_shapes(task_feature_lengths, experiment.batch_size)
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.dtype(model.feature_types[name]))
        for name, shape in shapes.items()
    }


def compile_train_step(
    experiment: experiments.Experiment, spec: train_state.ElementSpec, target: accelerators.Target
) -> Report:
    """Compiles a train step and reports on it; the data source is not read.

    Raises:
      ValueError: the experiment does not fit the devices (their number, not their memory).
    """
    program = train_step.make_program(experiment, spec, target.devices, described=target.described)
    kinds = device_memory.state(program)
    num_params = train_state.num_params(program.abstract.params)
    given = num_params, program.trace_step, kinds, target, experiment.batch_size
    report = _report(TRAIN, program, *given)
    memory, advice = device_memory.with_gradients(report.memory), report.advice
    if report.available and report.fits is False:
        advice = device_memory.advice(memory, report.available, experiment, program)
    return dataclasses.replace(
        report,
        num_microbatches=experiment.num_microbatches,
        memory=memory,
        advice=advice,
        model_flops=flops.train_step(experiment.model, spec),
    )


def compile_generation(
    experiment: experiments.Experiment,
    target: accelerators.Target,
    num_prompts: int | None,
    num_samples: int,
    layout: layouts.Layout | None = None,
    settings: sampling.SamplingSettings | None = None,
) -> Report:
    """Compiles what `parti generate` draws all samples of some prompts with, and reports on it.

    Without `num_prompts` there is one for each part of the rows, without a layout that of the
    experiment. See `compile_train_step`.

    Raises:
      ValueError: the model draws no images, or does not fit the devices.
    """
    model = experiment.model
    if not isinstance(model, base.Generator):
        raise ValueError(
            f"--program generate: {type(model).__name__} draws no images; take --program train, or "
            "an experiment of a text-to-image model"
        )
    layout, settings = layout or layout_of(experiment), settings or sampling.SamplingSettings()
    placement = layout.placement(target.devices)
    num_prompts = num_prompts or placement.num_parts("batch")
    num_steps = model.num_steps(settings, num_samples)
    layout.check(model, num_prompts * num_samples // settings.queue, len(target.devices))
    model, leaves = model.unrolled, layouts.leaves(model, layout.int8)
    variables = layouts.placed(leaves, placement)
    batch = (
        jax.ShapeDtypeStruct((num_prompts, model.text_length), jnp.int32),
        jax.ShapeDtypeStruct((num_prompts, num_samples, 2), jnp.uint32),
        sampling.PromptSettings.of([settings] * num_prompts, model.grid_size),
    )
    kinds = {
        device_memory.PARAMETERS: device_memory.per_device(
            variables, jax.tree.map(lambda leaf: leaf.sharding, variables)
        ),
        device_memory.BATCH: device_memory.per_device(batch, placement.inputs),
    }
    draw = placement.jit(model.sample)
    trace = functools.partial(draw.trace, variables, *train_state.placed(batch, placement.inputs))
    num_params = sum(math.prod(leaf.shape) for leaf in leaves.values())
    num_images = num_prompts * num_samples
    report = _report(GENERATE, placement, num_params, trace, kinds, target, num_images)
    fewer = device_memory.Advice("fewer --num_prompts or --num_samples")
    advice = [fewer, device_memory.MORE_DEVICES]
    if not layout.int8:
        int8 = device_memory.Advice("kernels of a byte a parameter", (layouts.INT8_FLAG,))
        advice.insert(1, int8)
    return dataclasses.replace(
        report,
        num_steps=num_steps,
        advice=advice if report.fits is False else (),
    )


def layout_of(experiment: experiments.Experiment, int8: bool = False) -> layouts.Layout:
    """Returns the layout of an experiment, for a generator."""
    settings = experiment.mesh_shape, experiment.mesh_axes, experiment.logical_axis_rules
    return layouts.of(*settings, int8=int8)


def _report(
    name: str,
    place: train_step.Program | layouts.Placement,
    num_params: int,
    trace: Callable[[], jax.stages.Traced],
    kinds: Mapping[str, int],
    target: accelerators.Target,
    batch: int,
) -> Report:
    """Traces, lowers and compiles; `kinds` is the memory that shardings tell, the arguments'."""
    begin = time.perf_counter()
    with place.context():
        traced = trace()
        lowered = traced.lower()
    middle, middle_cpu = time.perf_counter(), time.process_time()
    compiled = _compile(lowered)
    end, end_cpu = time.perf_counter(), time.process_time()
    summary: collectives.Summary | None = None
    if isinstance(compiled, int):
        fits: bool | None = False
        memory = {**kinds, device_memory.ACTIVATIONS: compiled - sum(kinds.values())}
    else:
        summary = collectives.summarize(compiled.as_text() or "")
        memory = _memory(kinds, target, compiled)
        fits = None if target.memory is None else sum(memory.values()) <= target.memory
    program_flops = flops.of_jaxpr(traced.jaxpr)
    packages = ("jax", "libtpu") if target.described else ("jax",)
    return Report(
        program=name,
        topology=target.name,
        mesh=dict(place.mesh.shape),
        batch=batch,
        num_microbatches=1,
        num_steps=1,
        num_params=num_params,
        memory=memory,
        available=target.memory,
        fits=fits,
        advice=(),
        model_flops=program_flops,
        program_flops=program_flops,
        peak_flops=target.peak_flops,
        collectives=summary.kinds if summary else None,
        is_exact=summary is not None and summary.is_exact,
        seconds={
            "lower": round(middle - begin, 1),
            "compile": round(end - middle, 1),
            "compile_cpu": round(end_cpu - middle_cpu, 1),
        },
        versions={name: importlib.metadata.version(name) for name in packages},
    )


def _compile(lowered: jax.stages.Lowered) -> jax.stages.Compiled | int:
    """Returns a compiled program, or the bytes that it needs if that is more than a TPU has."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        match = _TOO_LARGE.search(str(error))
        if match is None or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return int(float(match.group(1)) * _UNITS[match.group(2)])


def _memory(
    kinds: Mapping[str, int], target: accelerators.Target, compiled: jax.stages.Compiled
) -> dict[str, int]:
    """Adds to the kinds of the arguments those that the compiler tells."""
    stats: Any = compiled.memory_analysis()
    output = stats.output_size_in_bytes - stats.alias_size_in_bytes
    temporaries = stats.temp_size_in_bytes
    if target.described:
        # libtpu holds the peak against the TPU's memory: the sizes of temporaries add up to more
        # than ever is in use. The other compilers' peak leaves temporaries out.
        temporaries = stats.peak_memory_in_bytes - stats.argument_size_in_bytes - output
    return {
        **kinds,
        device_memory.PADDING: max(0, stats.argument_size_in_bytes - sum(kinds.values())),
        device_memory.ACTIVATIONS: temporaries,
        device_memory.OUTPUT: output,
        device_memory.CODE: stats.generated_code_size_in_bytes,
    }
