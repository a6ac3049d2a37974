# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The program of a training: the pure `train_step`, and its jitted form on a mesh.

Random numbers are T5X's: the key of RANDOM_SEED is split in two, for the initial parameters and for
the steps; each step folds its number into the second.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import clu.metrics
import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from parti.engine.distributed import partitioning
from parti.engine.experiment import experiments, nan_policies
from parti.engine.input import datasets
from parti.engine.step import eval_step, optimizers, train_state
from parti.models import base

TrainState: TypeAlias = train_state.TrainState


def initial_rngs(seed: int) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of the initial parameters and of the steps, as T5X makes them."""
    init_rng, step_rng = jax.random.split(jax.random.PRNGKey(seed), 2)
    return init_rng, step_rng


def train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    num_microbatches: int,
    constants: Any,
    state: TrainState,
    batch: Any,
    rng: jax.Array,
    *,
    nan_policy: str = nan_policies.STOP,
) -> tuple[TrainState, dict[str, Any]]:
    """Takes one step.

    Args:
      model: its loss is a mean over the batch; `constants` are its own.
      num_microbatches: parts of the batch whose gradients are averaged one after another.
      batch: arrays [batch, ...].
      rng: PRNG key of the run; the step's number is folded in.
      nan_policy: with 'skip' only the step's number changes where loss or gradients are not finite.

    Returns:
      The state after the step, and the metrics: the model's, `grad_norm` and `update_norm` (global
      norms), and `loss`, which is always there; `skipped_steps` with 'skip'.
    """
    model = model.with_constants(constants)
    dropout_rng = jax.random.fold_in(rng, state.step)
    loss, grads, metrics, mutables = gradients(model, num_microbatches, state, batch, dropout_rng)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    norms = optax.tree.norm(grads), optax.tree.norm(updates)
    average = clu.metrics.Average.from_model_output
    metrics = {"loss": average(loss), **metrics}
    metrics |= {"grad_norm": average(norms[0]), "update_norm": average(norms[1])}
    params = optax.apply_updates(state.params, updates)
    new = TrainState(state.step + 1, params, opt_state, mutables)
    if nan_policy == nan_policies.SKIP:
        finite = nan_policies.is_finite(loss, *norms)
        new = nan_policies.keep_if(finite, new, dataclasses.replace(state, step=new.step))
        metrics[nan_policies.SKIPPED] = nan_policies.skipped(finite)
    return new, metrics


def gradients(
    model: Any, num_microbatches: int, state: TrainState, batch: Any, dropout_rng: jax.Array
) -> tuple[jax.Array, Any, dict[str, Any], Any]:
    """Returns (mean loss, mean gradients, metrics, mutables) of a batch.

    With more than one microbatch the batch is taken in equal parts, one after another, and the
    means are over the parts.
    """

    def one(part: Any, rng: jax.Array, mutables: Any) -> tuple[jax.Array, Any, dict[str, Any], Any]:
        frozen = (flax.core.freeze(mutables),) if mutables else ()
        value_and_grad = jax.value_and_grad(model.loss_fn, has_aux=True)
        (loss, aux), grads = value_and_grad(state.params, part, rng, *frozen)
        metrics, mutables = (aux[0], flax.core.unfreeze(aux[1])) if frozen else (aux, mutables)
        return loss, grads, dict(metrics), mutables

    if num_microbatches == 1:
        return one(batch, dropout_rng, state.mutables)

    def part(index: Any) -> Any:
        def rows(x: jax.Array) -> jax.Array:
            size = x.shape[0] // num_microbatches
            x = jax.lax.dynamic_slice_in_dim(x, index * size, size)
            return nn.with_logical_constraint(x, ("batch",) + (None,) * (x.ndim - 1))

        return jax.tree.map(rows, batch)

    def body(carry: Any, index: Any) -> tuple[Any, None]:
        rng, loss, grads, metrics, mutables = carry
        rng, part_rng = jax.random.split(rng)
        new_loss, new_grads, new_metrics, mutables = one(part(index), part_rng, mutables)
        grads = jax.tree.map(jnp.add, grads, new_grads)
        metrics = {name: metrics[name].merge(new_metrics[name]) for name in metrics}
        return (rng, loss + new_loss, grads, metrics, mutables), None

    rng, part_rng = jax.random.split(dropout_rng)
    carry = (rng, *one(part(0), part_rng, state.mutables))
    carry, _ = jax.lax.scan(body, carry, jnp.arange(1, num_microbatches))
    _, loss, grads, metrics, mutables = carry
    mean = functools.partial(jnp.multiply, 1 / num_microbatches)
    return mean(loss), jax.tree.map(mean, grads), metrics, mutables


@dataclasses.dataclass
class Program:
    """An experiment ready to run: mesh, shardings, functions that compile at their first call."""

    mesh: jax.sharding.Mesh
    rules: partitioning.Rules
    optimizer: optax.GradientTransformation
    element_spec: Mapping[str, jax.ShapeDtypeStruct]
    abstract: TrainState
    specs: TrainState
    shardings: TrainState
    init: Callable[[jax.Array, Mapping[str, Any]], TrainState]
    step: functools.partial[tuple[TrainState, dict[str, Any]]]  # (state, batch, rng), jitted
    eval: Callable[[TrainState, Any], Mapping[str, Any]]
    summarize: Callable[[TrainState, Any], base.Summaries]
    check_batch: Callable[[datasets.Batch], None]

    @contextmanager
    def context(self) -> Iterator[None]:
        """Makes the mesh and the axis rules known to the code that is traced inside."""
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(self.rules):
            yield

    @functools.cached_property
    def batch_sharding(self) -> NamedSharding:
        """How a batch is divided."""
        return partitioning.batch_sharding(self.mesh, self.rules)

    @property
    def batch_size(self) -> int:
        """How many rows a batch has."""
        return next(iter(self.element_spec.values())).shape[0]

    def rows(self, size: int | None = None) -> np.ndarray:
        """Returns which rows [k] of a batch, by default of `batch_size`, this process reads."""
        return partitioning.process_rows(self.batch_sharding, size or self.batch_size)

    def place(self, batch: datasets.Batch, size: int | None = None) -> dict[str, jax.Array]:
        """Puts the `rows` of a batch on the devices of this process.

        Raises:
          ValueError: a token id is out of the model's range.
        """
        self.check_batch(batch)
        size, sharding = size or self.batch_size, self.batch_sharding
        return {k: partitioning.place_rows(x, size, sharding) for k, x in batch.items()}

    def place_whole(self, batch: datasets.Batch) -> dict[str, jax.Array]:
        """Puts this process's rows of a batch that every process has as a whole; see `place`."""
        size = len(next(iter(batch.values())))
        rows = self.rows(size)
        return self.place({name: x[rows] for name, x in batch.items()}, size)

    def trace_step(self) -> jax.stages.Traced:
        """Traces the train step, from shapes and shardings alone, to be lowered and compiled."""
        state = train_state.placed(self.abstract, self.shardings)
        batch = train_state.placed(self.element_spec, self.batch_sharding)
        jitted: Any = self.step.func
        with self.context():
            return jitted.trace(*self.step.args, state, batch, _abstract_rng())

    def place_variables(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Puts a part of the variables, {collection: part of its tree}, where the state has it."""
        shardings = {"params": self.shardings.params, **self.shardings.mutables}
        flat = traverse_util.flatten_dict(shardings)
        leaves = traverse_util.flatten_dict(dict(given))
        placed = {key: jax.device_put(leaf, flat[key]) for key, leaf in leaves.items()}
        return traverse_util.unflatten_dict(placed)


def make_program(
    experiment: experiments.Experiment,
    element_spec: Mapping[str, jax.ShapeDtypeStruct],
    devices: Sequence[jax.Device] | None = None,
    *,
    described: bool = False,
) -> Program:
    """Checks an experiment against the devices and builds its program; computes nothing yet.

    The model's constants are read, and put on the devices.

    By default it is for all devices. Those `described` are only descriptions, for which programs
    can be compiled but not run (see `compile_step`); the constants stay shapes.

    Raises:
      ValueError: batch, mesh, rules or parameter sizes do not fit one another, or the model's loss
        is a sum.
    """
    model = experiment.model
    if not model.loss_is_mean:
        raise ValueError(
            f"the loss of {type(model).__name__} is a sum over the batch (loss_is_mean is False); "
            "this engine averages gradients: make the loss a mean, or train with T5X"
        )
    mesh = partitioning.make_mesh(experiment.mesh_shape, experiment.mesh_axes, devices)
    rules = partitioning.axis_rules(experiment.logical_axis_rules, mesh)
    parts = experiment.num_microbatches * (model.loss_parts or 1)
    microbatch = (experiment.batch_size // parts,)
    spec = partitioning.batch_sharding(mesh, rules).spec
    partitioning.check_divisible("a batch (or microbatch)", microbatch, spec, mesh)
    optimizer = make_optimizer(experiment)

    def init(rng: jax.Array, given: Mapping[str, Any]) -> TrainState:
        return train_state.create(model, optimizer, rng, element_spec, given)

    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        abstract = jax.eval_shape(init, _abstract_rng(), {})
    specs = train_state.partition(model, abstract, element_spec, rules)
    train_state.check_divisible(abstract, specs, mesh)
    shardings = train_state.shardings(specs, mesh)
    replicated = NamedSharding(mesh, PartitionSpec())  # Each process can read it.
    put: Callable[..., Any] = train_state.placed if described else jax.device_put
    constants = put(model.constants, replicated)

    def jit(function: Callable, out_shardings: Any, **options: Any) -> functools.partial:
        jitted = jax.jit(function, out_shardings=out_shardings, **options)
        return functools.partial(jitted, constants)

    parts, policy = experiment.num_microbatches, experiment.nan_policy
    step = functools.partial(train_step, model, optimizer, parts, nan_policy=policy)
    program = Program(
        mesh=mesh,
        rules=rules,
        optimizer=optimizer,
        element_spec=element_spec,
        abstract=abstract,
        specs=specs,
        shardings=shardings,
        init=jax.jit(init, donate_argnums=1, out_shardings=shardings),
        step=jit(step, (shardings, replicated), donate_argnums=1),
        eval=jit(functools.partial(eval_step.eval_step, model), replicated),
        summarize=jit(functools.partial(eval_step.summarize, model), replicated),
        check_batch=model.check_batch,
    )
    program.trace_step()  # What does not fit fails here; jit keeps the trace.
    return program


def make_optimizer(experiment: experiments.Experiment) -> optax.GradientTransformation:
    """Returns OPTIMIZER with the average of EMA_DECAY; it leaves frozen parameters unchanged."""
    optimizer = experiment.optimizer
    if experiment.ema_decay:
        optimizer = optimizers.with_ema(optimizer, experiment.ema_decay)
    return optimizers.freeze(optimizer, experiment.model.frozen)


def _abstract_rng() -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda: jax.random.PRNGKey(0))
