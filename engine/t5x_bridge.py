# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Hands an experiment to T5X, an optional second engine; only this module imports it.

T5X calls our models as they are. This module adds what else it needs: an optimizer, a mesh, the
first state, metrics of a step. `t5x_configs/runs/t5x/train.gin` binds it all; docs/t5x.md says
how to install and launch T5X, and what it does otherwise than the embedded engine.
"""

import concurrent.futures
import dataclasses
import functools
import importlib.resources
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import clu.metrics
import jax
import jax.numpy as jnp
import numpy as np
import optax
import seqio
from absl import logging
from clu.data import dataset_iterator
from etils import epath
from flax import serialization, traverse_util
from flax.core import freeze, unfreeze
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from t5x import gin_utils, optimizers, partitioning, train_state, trainer, utils
from t5x.train_state import InferenceState

from parti.engine import eval as evaluation
from parti.engine import infer as inference
from parti.engine.checkpoints import checkpoints
from parti.engine.config import gin_errors, gin_text, provenance
from parti.engine.distributed import partitioning as meshes
from parti.engine.experiment import checkpoint_use, experiments, settings, warm_start
from parti.engine.inference import bundles
from parti.engine.input import datasets
from parti.engine.loop import nan_recovery, run_directory, setup, validation
from parti.engine.step import train_state as train_states
from parti.engine.step import train_step
from parti.tasks import mixtures


def check(experiment: experiments.Experiment) -> None:
    """Checks that T5X can train an experiment as it is meant.

    Raises:
      ValueError: nothing uses a macro; T5X has nothing for a setting, or lacks one that it needs;
        the data are not a seqio task's; or MODEL_DIR is not a training's.
    """
    run_files = importlib.resources.files("parti.t5x_configs.runs").joinpath("embedded")
    standard = {name.upper() for name in settings.of(experiment)}
    for name in ("train.gin", "eval.gin", "infer.gin"):
        standard |= gin_text.macros(run_files.joinpath(name).read_text(encoding="utf-8")).keys()
    gin_errors.check_macros(gin_utils.get_gin_config_str(), standard)
    experiments.check_fields_unbound(gin_text.bindings(gin_utils.get_gin_config_str()))
    for name, setting in settings.of(experiment).items():
        value = getattr(experiment, name)
        if not setting.t5x and value != setting.default:
            raise ValueError(
                f"{name.upper()} = {value!r}: T5X has nothing for it; leave it at "
                f"{setting.default!r}, or train with `parti train`"
            )
    if experiment.learning_rate is None:
        raise ValueError(
            "LEARNING_RATE is None, but T5X always logs it: name the schedule (or number) that "
            "OPTIMIZER uses"
        )
    if not isinstance(experiment.data_source, datasets.SeqioSource):
        raise ValueError(
            f"DATA_SOURCE is {type(experiment.data_source).__name__}; T5X reads seqio tasks alone: "
            "name one in MIXTURE_OR_TASK_NAME, or train with `parti train`"
        )
    experiment.data_source.check_vocabulary(experiment.model)
    run_directory.check_ours(experiment)


class Model:
    """The model of an experiment as T5X calls it (t5x: t5x/trainer.py)."""

    def __init__(self, experiment: experiments.Experiment) -> None:
        """Takes an experiment; raises ValueError, see `check`."""
        check(experiment)
        self.experiment, self._model = experiment, experiment.model
        self.FEATURE_CONVERTER_CLS = experiment.model.FEATURE_CONVERTER_CLS

    @functools.cached_property
    def optimizer_def(self) -> "Optimizer":
        """OPTIMIZER, with the moving average, and off the frozen parameters."""
        return Optimizer(train_step.make_optimizer(self.experiment))

    def get_initial_variables(
        self, rng: jax.Array, input_shapes: Mapping[str, Any], input_types: Any = None
    ) -> dict[str, Any]:
        """Returns the variables and their axes; see `base.Model`."""
        return self._model.get_initial_variables(rng, input_shapes, input_types)

    def loss_fn(self, params: Any, batch: Any, dropout_rng: Any, *mutables: Any) -> tuple[Any, Any]:
        """Returns what T5X differentiates, and the metrics, with `loss` among them.

        T5X adds up the gradients of the microbatches and does not divide: a mean loss is divided
        here, so that the gradient is that of the whole batch.
        """
        loss, aux = self._model.loss_fn(unfreeze(params), batch, dropout_rng, *mutables)
        metrics, *new = aux if mutables else (aux,)
        metrics = {"loss": clu.metrics.Average.from_model_output(loss), **metrics}
        parts = self.experiment.num_microbatches if self._model.loss_is_mean else 1
        return loss / parts, (metrics, *new) if mutables else metrics

    def eval_fn(self, params: Any, batch: Any, *mutables: Any) -> tuple[Any, Any]:
        """Returns the loss and the metrics, without dropout."""
        loss, metrics = self._model.eval_fn(unfreeze(params), batch, *mutables)
        return loss, dict(metrics)

    def predict_batch(
        self, params: Any, batch: Any, rng: Any = None, flax_mutables: Any = None
    ) -> Any:
        """Returns the model's outputs for a batch."""
        return self._model.predict_batch(unfreeze(params), batch, rng, flax_mutables or None)

    def predict_batch_with_aux(
        self, params: Any, batch: Any, rng: Any = None, flax_mutables: Any = None
    ) -> Any:
        """Returns the model's outputs, and auxiliary ones."""
        mutables = flax_mutables or None
        return self._model.predict_batch_with_aux(unfreeze(params), batch, rng, mutables)

    def score_batch(self, params: Any, batch: Any, flax_mutables: Any = None) -> Any:
        """Returns a score for each example."""
        return self._model.score_batch(unfreeze(params), batch, flax_mutables or None)


def get_dataset(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Any,
    num_epochs: int | None = None,
    continue_from_last_checkpoint: bool = False,
) -> Any:
    """Returns T5X's share of the training batches, read as the embedded engine reads them.

    Where the rows of a task can be read each by itself it is a `RowIterator`, whose position holds
    for any number of shards, and in the embedded engine; else a `tf.data.Dataset` of a part of the
    files.

    Raises:
      ValueError: `cfg` asks for another way to read them, or the batch does not divide.
    """
    del num_epochs, continue_from_last_checkpoint  # T5X's `train` gives neither.
    only = {"split": datasets.TRAIN, "shuffle": True, "use_cached": False, "module": None}
    only |= {"pack": False, "use_custom_packing_ops": False}
    for name, value in only.items():
        if (given := getattr(cfg, name)) != value:
            raise ValueError(
                f"utils.DatasetConfig.{name} = {given!r}: either engine goes on from the other's "
                f"position in the data, so both read them alike; leave it at {value!r}"
            )
    if cfg.seed is None:
        raise ValueError(
            "utils.DatasetConfig.seed is None, which may differ between hosts; set DATA_SEED"
        )
    if cfg.batch_size % num_shards:
        raise ValueError(
            f"BATCH_SIZE {cfg.batch_size} does not divide over the {num_shards} parts in which "
            "the hosts read the data; set a multiple"
        )
    source = datasets.SeqioSource(cfg.mixture_or_task_name, cfg.task_feature_lengths)
    given = cfg.split, cfg.batch_size, cfg.seed, feature_converter_cls
    size = cfg.batch_size // num_shards
    if batches := source.open_rows(*given):
        batches.keep_rows(np.arange(shard_id * size, (shard_id + 1) * size))
        return RowIterator(batches)
    return source.dataset(given[0], size, *given[2:], (shard_id, num_shards))


class RowIterator(dataset_iterator.DatasetIterator):
    """The rows of a shard, with the embedded engine's position in the data."""

    def __init__(self, batches: datasets.RowDataset) -> None:
        self._batches = batches

    @property
    def element_spec(self) -> dict[str, dataset_iterator.ArraySpec]:
        """Dtype and shape of each feature; T5X takes the size of a batch from its settings."""
        spec = self._batches.element_spec
        return {k: dataset_iterator.ArraySpec(x.dtype, x.shape) for k, x in spec.items()}

    def __next__(self) -> datasets.Batch:
        return next(self._batches)

    def save(self, filename: Any) -> None:
        """Writes the number of batches taken."""
        path = epath.Path(filename)
        datasets.write_position(path, self._batches.taken)

    def restore(self, filename: Any) -> None:
        """Goes to the number of batches taken that is beside `filename`, whoever wrote it."""
        folder = epath.Path(filename).parent
        self._batches.restore(folder.parent if folder.name.startswith("process_") else folder)


class Optimizer(optimizers.OptaxWrapper):
    """Any optax transformation; T5X's own wrapper knows the states of a few alone.

    The transformation sees plain dicts, as in the embedded engine, where T5X has frozen ones.
    """

    def init_state(self, params: Any) -> Any:
        """Returns the state at step 0."""
        return super().init_state(unfreeze(params))

    def apply_gradient(self, hyper_params: Any, params: Any, state: Any, grads: Any) -> Any:
        """Returns the parameters and the state after a step."""
        params, state = super().apply_gradient(
            hyper_params, unfreeze(params), state, unfreeze(grads)
        )
        return freeze(params), state

    def derive_logical_axes(self, optimizer: Any, param_logical_axes: Any) -> Any:
        """Returns the optimizer with each parameter replaced by its logical axes.

        Its state has none: see `MeshPartitioner.get_mesh_axes`.
        """
        tree = jax.tree.map(lambda _: PartitionSpec(), optimizer.state_dict())
        tree["target"] = unfreeze(param_logical_axes)
        return optimizer.restore_state(tree)


class MeshPartitioner(partitioning.PjitPartitioner):
    """Divides arrays over the mesh of MESH_SHAPE and so on, on any kind of device."""

    def __init__(self, mesh_shape: Any, mesh_axes: Any, logical_axis_rules: Any) -> None:
        self._experiment_mesh = meshes.make_mesh(mesh_shape, mesh_axes)
        rules = meshes.axis_rules(logical_axis_rules, self._experiment_mesh)
        super().__init__(num_partitions=1, logical_axis_rules=rules)

    @property
    def mesh(self) -> Mesh:
        """The mesh."""
        return self._experiment_mesh

    def partition(self, *args: Any, **options: Any) -> "InMesh":
        """Returns a jitted function; see `partitioning.PjitPartitioner.partition`."""
        return InMesh(super().partition(*args, **options), self.mesh)

    def get_mesh_axes(self, train_state: Any) -> Any:
        """Returns a train state with each leaf replaced by its `PartitionSpec`.

        The optimizer's state is divided as its parameters are, counters not at all, which T5X would
        otherwise restore as float32.
        """
        axes = super().get_mesh_axes(train_state)
        if isinstance(train_state, InferenceState):
            return axes
        specs = train_states.like_params(
            train_state.param_states, unfreeze(train_state.params), unfreeze(axes.params)
        )
        tree = axes.state_dict()
        tree["state"]["param_states"] = serialization.to_state_dict(specs)
        return axes.restore_state(tree)


class InMesh:
    """A jitted function of T5X that is traced under `jax.set_mesh`, as in the embedded engine.

    T5X enters the mesh in an older way, by which `jax.sharding.get_abstract_mesh` finds none.
    """

    def __init__(self, partitioned: Any, mesh: Mesh) -> None:
        self._partitioned, self._mesh = partitioned, mesh

    def __call__(self, *args: Any) -> Any:
        """Runs the function."""
        with jax.set_mesh(self._mesh):
            return self._partitioned(*args)

    def lower(self, *args: Any) -> Any:
        """Lowers it for arguments of these shapes."""
        with jax.set_mesh(self._mesh):
            return self._partitioned.lower(*args)


class TrainStateInitializer(utils.TrainStateInitializer):
    """Makes the first state, with what INITIAL gives; T5X restores checkpoints itself.

    T5X's own way to start from another checkpoint renames no parameters of Orbax checkpoints.
    """

    def __init__(
        self,
        optimizer_def: Any,
        init_fn: Callable[..., Any],
        input_shapes: Any,
        partitioner: Any,
        input_types: Any = None,
    ) -> None:
        """Takes what T5X gives; `init_fn` is a method of `Model`."""
        super().__init__(optimizer_def, init_fn, input_shapes, partitioner, input_types)
        self._experiment: experiments.Experiment = init_fn.__self__.experiment  # type: ignore[attr-defined]
        self._mesh = partitioner.mesh
        train_states.check_divisible(
            self.global_train_state_shape, self.train_state_axes, self._mesh
        )

        def create(rng: jax.Array, given: Mapping[str, Any]) -> Any:
            variables = init_fn(rng=rng, input_shapes=input_shapes, input_types=input_types)
            flat = traverse_util.flatten_dict(variables, keep_empty_nodes=True)
            flat |= traverse_util.flatten_dict(given)
            variables = freeze(traverse_util.unflatten_dict(flat))
            return train_state.FlaxOptimTrainState.create(optimizer_def, variables)

        self._create = create

    def from_scratch(self, init_rng: jax.Array) -> Any:
        """Returns the state at step 0; raises what `warm_start.load` does."""
        shapes, axes = self.global_train_state_shape, self.train_state_axes
        wanted = {"params": unfreeze(shapes.params), **unfreeze(shapes.flax_mutables)}
        specs = {"params": unfreeze(axes.params), **unfreeze(axes.flax_mutables)}
        initial, frozen = self._experiment.initial, self._experiment.model.frozen
        log = functools.partial(logging.info, "%s")
        trained_on = provenance.data_fingerprints(gin_utils.get_gin_config_str())
        given = warm_start.load(initial, frozen, wanted, log, trained_on)
        flat_specs = traverse_util.flatten_dict(specs)
        flat = {
            key: jax.device_put(leaf, NamedSharding(self._mesh, flat_specs[key]))
            for key, leaf in traverse_util.flatten_dict(given).items()
        }
        given_specs = traverse_util.unflatten_dict({key: flat_specs[key] for key in flat})
        create = self._partitioner.partition(
            self._create, in_axis_resources=(None, given_specs), out_axis_resources=axes
        )
        return create(init_rng, traverse_util.unflatten_dict(flat))


class CheckpointReader:
    """Reads all variables of CHECKPOINT_PATH, whatever engine or export wrote them.

    It stands for T5X's manager of checkpoints, which would read neither a bundle nor the average of
    a run with EMA_DECAY, and checks no shapes.
    """

    def __init__(self, train_state: Any, partitioner: Any, **unused: Any) -> None:
        self._shapes, self._partitioner = train_state, partitioner

    def restore(self, path: str, **unused: Any) -> InferenceState:
        """Returns the state; raises what `setup.load_checkpoint` does."""
        axes = self._partitioner.get_mesh_axes(self._shapes)
        wanted = {"params": unfreeze(self._shapes.params), **unfreeze(self._shapes.flax_mutables)}
        specs = {"params": unfreeze(axes.params), **unfreeze(axes.flax_mutables)}
        flat_specs = traverse_util.flatten_dict(specs)
        given = setup.load_checkpoint(path, wanted)
        placed = traverse_util.unflatten_dict(
            {
                key: jax.device_put(leaf, NamedSharding(self._partitioner.mesh, flat_specs[key]))
                for key, leaf in traverse_util.flatten_dict(given).items()
            }
        )
        params = placed.pop("params")
        step = jnp.zeros((), jnp.int32)
        return self._shapes.replace(step=step, params=freeze(params), flax_mutables=freeze(placed))


def checkpoint_folder(path: str) -> str:
    """Returns the `checkpoint_<N>` that T5X evaluates: the path, or a training's newest.

    Raises:
      ValueError: it is a bundle's part, whose name T5X cannot note.
      FileNotFoundError: there is no checkpoint.
    """
    if epath.Path(path, bundles.PARAMS_FILE).exists():
        raise ValueError(
            f"CHECKPOINT_PATH {path} is a bundle's part, which has no step; T5X evaluates "
            "checkpoints: name one, or measure it with `parti eval`"
        )
    return str(checkpoints.find(path))


class Evaluator:
    """Measures a checkpoint as `parti eval` does, in the place of `seqio.Evaluator`.

    seqio's computes only what a task names in its metrics: no loss, and nothing at all of a task
    without any.
    """

    def __init__(self, experiment: experiments.Experiment, **unused: Any) -> None:
        """Takes the experiment of T5X's configuration."""
        self._experiment = _with_config(experiment)
        self._use = checkpoint_use.of(self._experiment)
        self._training = setup.open_without_optimizer(self._use.limit(self._experiment))
        self.eval_tasks = list(datasets.validation_sources(experiment.data_source))
        spec = self._training.program.element_spec
        self.model_feature_shapes = {name: leaf.shape[1:] for name, leaf in spec.items()}

    def evaluate(self, score_fn: functools.partial[Any], **unused: Any) -> Any:
        """Measures the state that T5X gives its scoring function; prints and writes the metrics."""
        given = score_fn.keywords["train_state"]
        mutables = unfreeze(given.flax_mutables)
        state = train_states.TrainState(given.step, unfreeze(given.params), (), mutables)
        state = dataclasses.replace(state, opt_state=optax.identity().init(state.params))
        with self._training.program.context():
            values, _ = validation.measure(self._training, state)
        evaluation.write(self._experiment, self._use, values)
        done: concurrent.futures.Future[dict[str, float]] = concurrent.futures.Future()
        done.set_result(values)
        return done, None

    def close(self) -> None:
        """Has nothing to close."""


def any_feature(mixture_or_task_name: str) -> str:
    """Returns the name of a feature: T5X looks one up, and we do not use its vocabulary."""
    return next(iter(seqio.get_mixture_or_task(mixture_or_task_name).output_features))


def write_rows(path: str, inferences: Any, *unused: Any) -> None:
    """Writes the results of a chunk, a JSON value a line; T5X's own needs texts to predict."""
    with epath.Path(path).open("w") as file:
        for row in inferences[0]:
            file.write(json.dumps(np.asarray(row).tolist()) + "\n")


class Merge:
    """Makes of the chunks of a task what `parti infer` writes, in a folder of the output."""

    def __init__(self, experiment: experiments.Experiment) -> None:
        """Takes the experiment of T5X's configuration; raises ValueError for NUM_EXAMPLES."""
        self._experiment = _with_config(experiment)
        self._use = checkpoint_use.of(self._experiment)
        if self._use.num_examples is not None:
            raise ValueError(
                f"NUM_EXAMPLES = {self._use.num_examples}: T5X infers on whole splits; leave it at "
                "None, or use `parti infer`"
            )

    def __call__(self, output_dir: str, output_fname: str, tmp_dir: str, step: Any) -> None:
        """Writes `inferences/`, or of several data sets `inferences_<name>/`."""
        del step
        task = output_fname.rpartition(f"-{self._use.mode}.")[0]
        given = self._experiment.data_source
        assert isinstance(given, datasets.SeqioSource), "`check` refuses others"
        source = dataclasses.replace(given, mixture_or_task_name=task)
        several = len(datasets.validation_sources(self._experiment.data_source)) > 1
        name = mixtures.set_name(task) if several else ""
        output = epath.Path(output_dir) / ("inferences" + (f"_{name}" if name else ""))
        use = dataclasses.replace(self._use, output=str(output))

        def rows() -> Iterator[np.ndarray]:
            for path in sorted(epath.Path(tmp_dir).glob(f"{output_fname}-chunk?????")):
                for line in path.read_text().splitlines():
                    yield np.asarray(json.loads(line))

        with inference.output_directory(use, overwrite=False) as stage:
            inference.write(stage, self._experiment, use, [(name, rows())], {name: source})


def _with_config(experiment: experiments.Experiment) -> experiments.Experiment:
    return dataclasses.replace(experiment, config=gin_utils.get_gin_config_str())


class Norms:
    """The metrics `grad_norm` and `update_norm` of a step, global norms."""

    def compute_metrics(self, gradients: Any, old: Any, new: Any) -> dict[str, clu.metrics.Metric]:
        """Returns the metrics of gradients, and of the train states before and after the step."""
        update = jax.tree.map(jnp.subtract, new.params, old.params)
        norms = {"grad_norm": optax.tree.norm(gradients), "update_norm": optax.tree.norm(update)}
        return {k: clu.metrics.Average.from_model_output(norm) for k, norm in norms.items()}


class StopAtNotFinite(trainer.BaseAction):
    """NAN_POLICY 'stop': ends the process before T5X saves a state that is not finite."""

    def run(self, train_state: Any, metrics_by_task: Mapping[str, Mapping[str, Any]]) -> bool:
        """Returns False, to go on; raises `nan_recovery.NotFiniteError` otherwise."""
        for metrics in metrics_by_task.values():
            values = {name: float(metrics[name].value) for name in ("loss", "grad_norm")}
            if not np.isfinite(list(values.values())).all():
                raise nan_recovery.NotFiniteError(
                    f"not finite at one of the steps up to {int(train_state.step)}: {values}; the "
                    "checkpoints in MODEL_DIR are good. Go on from the last one with `parti train` "
                    "and NAN_POLICY = 'skip' or 'rollback' to get past these data, or lower "
                    "LEARNING_RATE and run again"
                )
        return False


def learning_rate_fn(learning_rate: Any) -> Callable[[Any], Any]:
    """Returns the schedule that T5X logs; the optimizer has its own."""
    return learning_rate if callable(learning_rate) else lambda step: learning_rate


def common_period(checkpoint_period: int, eval_period: int) -> int:
    """Returns a `gc_period` that lets T5X have any two periods; 0 if it needs none.

    T5X's loop goes by the shortest of its periods, and refuses those that it does not divide.
    """
    period = math.gcd(checkpoint_period, eval_period)
    return 0 if period in (checkpoint_period, eval_period) else period


def begin(model_dir: str, summary_writer: Any, step: int, train_steps: int) -> None:
    """Writes `config.gin` before the first step; the training is no longer a finished one."""
    if step < train_steps:
        gin_utils.summarize_gin_config(model_dir, summary_writer, step)
        if jax.process_index() == 0:
            (epath.Path(model_dir) / run_directory.MANIFEST).unlink(missing_ok=True)
