# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Estimates the memory of a device by kind, and advises what to change if it is too much."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from parti.engine.distributed import partitioning
from parti.engine.experiment import experiments
from parti.engine.step import train_state, train_step
from parti.models.layers import pipeline

PARAMETERS, OPTIMIZER, OTHER_STATE = "parameters", "optimizer", "other state"
CONSTANTS, BATCH = "constants", "batch"
PADDING = "padding of these"
GRADIENTS, ACTIVATIONS = "gradients", "activations, temporaries"
OUTPUT, CODE = "output", "program"
# In memory during the whole training; known from shapes and shardings alone.
STATE = (PARAMETERS, OPTIMIZER, OTHER_STATE, CONSTANTS, BATCH)

Kinds = Mapping[str, int]  # kind -> bytes on one device


@dataclasses.dataclass(frozen=True)
class Advice:
    """What would make a program use less memory.

    Attributes:
      text: what it does.
      flags: what to add to the command for it; none if that is the reader's choice.
      forecast: bytes of a device with it, a guess from what was compiled; None without one.
      compiled: bytes of a device that the compiler then asked for; None if it was not compiled.
      fits: whether that fits; None if it was not compiled.
    """

    text: str
    flags: Sequence[str] = ()
    forecast: int | None = None
    compiled: int | None = None
    fits: bool | None = None

    def __str__(self) -> str:
        flags = " ".join(re.sub(r"=(.*['\" ].*)", r'="\1"', flag) for flag in self.flags)
        text = f"{flags}: {self.text}" if flags else self.text
        if self.compiled is not None:
            verdict = "it fits" if self.fits else "it does not fit"
            return f"{text}; compiled: {format_bytes(self.compiled)}, {verdict}"
        if self.forecast is not None:
            text += f"; forecast: about {format_bytes(self.forecast)}"
        return f"{text}; not compiled" if flags else text


MORE_DEVICES = Advice("more devices, or more of them on the last axis of MESH_SHAPE")


def per_device(tree: Any, shardings: Any) -> int:
    """Returns the bytes of a tree of arrays, or of shapes, on one device; see `placed`."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(train_state.placed(tree, shardings))
    )


def _whole(tree: Any) -> int:
    """Returns the bytes of a tree that is not divided."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def state(program: train_step.Program) -> dict[str, int]:
    """Returns {kind of `STATE`: bytes on one device} of a training; nothing is compiled."""
    abstract, shardings = program.abstract, program.shardings
    others = (abstract.step, abstract.mutables), (shardings.step, shardings.mutables)
    return {
        PARAMETERS: per_device(abstract.params, shardings.params),
        OPTIMIZER: per_device(abstract.opt_state, shardings.opt_state),
        OTHER_STATE: per_device(*others),
        CONSTANTS: _whole(program.step.args[0]),
        BATCH: per_device(program.element_spec, program.batch_sharding),
    }


def with_gradients(kinds: Kinds) -> dict[str, int]:
    """Takes the gradients out of what the compiler tells in one number.

    They take what the parameters take; a compiler may have fewer of them in memory at once.
    """
    gradients = min(kinds[PARAMETERS], kinds[ACTIVATIONS])
    before = {kind: kinds[kind] for kind in (*STATE, PADDING) if kind in kinds}
    return {**before, GRADIENTS: gradients, **kinds, ACTIVATIONS: kinds[ACTIVATIONS] - gradients}


def estimate(program: train_step.Program) -> str:
    """Returns what `parti train --dry_run` says of memory."""
    kinds = state(program)
    parts = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in kinds.items() if size)
    return (
        f"memory of a device: {format_bytes(sum(kinds.values()))} ({parts}) besides gradients and "
        "activations, which `parti compile` tells"
    )


def format_bytes(size: int) -> str:
    """Returns a number of bytes with its unit."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= 0.1 * unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} bytes"


def table(kinds: Kinds, available: int | None) -> list[str]:
    """Returns a line for each kind and for their sum."""
    width = max(len(kind) for kind in kinds)
    lines = [f"  {kind:<{width}}  {format_bytes(size):>11}" for kind, size in kinds.items() if size]
    limit = f" of {format_bytes(available)}" if available else ""
    return [*lines, f"  {'total':<{width}}  {format_bytes(sum(kinds.values())):>11}{limit}"]


def advice(
    kinds: Kinds, available: int, experiment: experiments.Experiment, program: train_step.Program
) -> list[Advice]:
    """Returns what would make a train step that does not fit use less, the cheapest first."""
    kept = sum(kinds[kind] for kind in STATE)
    found: list[Advice] = []
    if kept < available:
        found += _fewer_activations(kinds, kept, available, experiment, program)
    sharded = kinds[PARAMETERS] * program.mesh.size
    whole = _whole(program.abstract.params)
    if program.mesh.size > 1 and sharded > 1.5 * whole and kept > available / 4:
        part = (kinds[PARAMETERS] + kinds[OPTIMIZER]) * whole // sharded
        text = (
            "after the experiment: parameters and optimizer state over all "
            f"{program.mesh.size} devices, about {format_bytes(part)} on each"
        )
        found.append(Advice(text, ("--gin_file=t5x_configs/layouts/fully_sharded.gin",)))
    return [*found, MORE_DEVICES]


def _fewer_activations(
    kinds: Kinds,
    kept: int,
    available: int,
    experiment: experiments.Experiment,
    program: train_step.Program,
) -> Sequence[Advice]:
    found, model = [], experiment.model
    batch_size = experiment.batch_size // experiment.num_microbatches
    if model.remat not in (None, "full"):
        text = f"a layer's activations are computed again, not kept (it is {model.remat!r})"
        found.append(Advice(text, ("--gin.REMAT='full'",)))
    if model.pipeline_stages > 1:
        now, stages = model.pipeline_microbatches, model.pipeline_stages
        for parts in range(now + stages, batch_size + 1, stages):
            if _divides(program, batch_size, stages, parts):
                flags = (f"--gin.PIPELINE_MICROBATCHES={parts}",)
                found.append(Advice(f"they are {now}", flags))
                break
    if model.loss_parts or not model.compares_examples:
        found += _smaller_parts(kinds, kept, available, experiment, program)
    return found


def _smaller_parts(
    kinds: Kinds,
    kept: int,
    available: int,
    experiment: experiments.Experiment,
    program: train_step.Program,
) -> Sequence[Advice]:
    """Returns how many microbatches should leave enough room, if any number should.

    The forecast lets activations shrink with the rows, as not all of them do, and leaves 15% of the
    room for that.
    """
    shards = partitioning.num_shards(program.mesh, program.batch_sharding.spec[0])
    rows, parts_of_loss = experiment.batch_size // shards, experiment.model.loss_parts
    name = "CONTRASTIVE_MICROBATCHES" if parts_of_loss else "NUM_MICROBATCHES"
    now = parts_of_loss or experiment.num_microbatches
    pipeline_shape = experiment.model.pipeline_stages, experiment.model.pipeline_microbatches
    for parts in range(now + 1, rows + 1):
        # Gradients are added up beside those of a part.
        needed = kinds[ACTIVATIONS] * now // parts + 2 * kinds[GRADIENTS]
        part = experiment.batch_size // parts
        fits = rows % parts == 0 and needed < 0.85 * (available - kept)
        if fits and _divides(program, part, *pipeline_shape):
            text = f"{rows // parts} rows of a device at a time"
            return [Advice(text, (f"--gin.{name}={parts}",), forecast=kept + needed)]
    return []


def _divides(
    program: train_step.Program, batch_size: int, num_stages: int, num_microbatches: int
) -> bool:
    """Returns whether a pipeline of the model, if it has one, takes a batch of this size."""
    if num_stages == 1:
        return True
    try:
        with program.context():
            pipeline.check_devices(batch_size, num_stages, num_microbatches)
    except ValueError:
        return False
    return True
